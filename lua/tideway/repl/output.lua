-- SPDX-License-Identifier: BSD-3-Clause
-- What the REPL prints: results as text or JSON, long ones through a pager, words in columns.

local json = require "tideway.json"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local render = require "tideway.live.render"
local text = require "tideway.text"

local M = {}

local function width() return posix.isatty(1) and select(2, posix.terminal_size(1)) or nil end

-- ---- the pager ----

local function installed(program)
   for dir in (os.getenv "PATH" or ""):gmatch "[^:]+" do
      if posix.slurp(dir .. "/" .. program) then return true end
   end
   return false
end

-- $PAGER, else less that leaves what fits on the screen there.
local function pager()
   local own = os.getenv "PAGER"
   if own and own ~= "" then return own end
   return installed "less" and "less -FRX" or installed "more" and "more" or nil
end

local function page(content)
   local command = pager()
   local from, to = process.pipe()
   if not command or not from then return false end
   local restore = process.ignore(process.SIGINT) -- it is the pager's
   local pid = process.spawn({ "sh", "-c", command }, { stdin = from })
   posix.close(from)
   if pid then process.write(to, content) end
   posix.close(to)
   if pid then process.ended(pid, true) end
   restore()
   return pid ~= nil
end

-- ---- results ----

--- Lines, through the pager when they are more than the terminal has.
---@param lines string[]
---@param paged? boolean
function M.lines(lines, paged)
   local content = table.concat(lines, "\n") .. "\n"
   io.stdout:flush()
   if paged and posix.isatty(1) and #lines > posix.terminal_size(1) - 1 and page(content) then return end
   io.stdout:write(content)
   io.stdout:flush()
end

--- The result of an evaluation.
---@param reply table { view or value }
---@param options { json: boolean?, paged: boolean? }
function M.result(reply, options)
   local view = reply.view
   local data = reply.value
   if view then data = view.data end
   if options.json then
      io.stdout:write(json.encode(data, true), "\n")
      io.stdout:flush()
      if view and view.more then
         M.complain(("%s more entries were left off; ask for a part of them"):format(text.count(view.more)))
      end
   elseif view then
      M.lines(render.lines(view, width()), options.paged)
   elseif data ~= nil then
      M.lines({ type(data) == "table" and json.encode(data) or tostring(data) }, options.paged)
   end
end

--- A sentence on standard error.
---@param message string
function M.complain(message)
   io.stdout:flush()
   io.stderr:write("tideway: ", message, "\n")
end

--- Words in as many columns as the terminal has room for.
---@param words string[]
---@return string
function M.columns(words)
   local MOST = 200
   local widest, list = 0, {}
   for i = 1, math.min(#words, MOST) do
      list[i] = words[i]
      widest = math.max(widest, #words[i] + 2)
   end
   local per_line = math.max(1, math.floor((width() or 80) / widest))
   local rows = math.ceil(#list / per_line)
   local lines = {}
   for row = 1, rows do
      local cells = {}
      for at = row, #list, rows do cells[#cells + 1] = list[at] .. (" "):rep(widest - #list[at]) end
      lines[row] = table.concat(cells):gsub("%s+$", "")
   end
   if #words > MOST then lines[#lines + 1] = ("... and %d more"):format(#words - MOST) end
   return table.concat(lines, "\n")
end

return M
