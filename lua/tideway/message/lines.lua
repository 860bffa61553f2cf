-- SPDX-License-Identifier: BSD-3-Clause
-- tw.lines: lines that functions write, for a file or standard error. A function cannot open files, and must not wait
-- for one: it leaves its lines in shared memory (tideway.store), and the engine writes them out about once a second.
-- What is too much for that memory is lost and counted; the functions never wait.

local lfs = require "lfs"
local model = require "tideway.model"
local stores = require "tideway.store"

local M = {}

local LINE_MAX = 4000
local BYTES, PIECE = 2 ^ 25, 128
local SELDOM, SOON, MANY = 1, 0.05, 500 -- seconds between two looks; lines that were there
local COUNT = "n" -- key of the number of lines ever written; a line's key is its number

---@class tideway.Lines
---@field name string
---@field store tideway.Store
local Lines = {}
Lines.__index = Lines
Lines.__tostring = function(self) return "lines " .. self.name end
Lines.__transfer = function(self)
   return "tideway.message.lines", "attach", { { name = self.name, store = self.store } }
end

--- Write a line; control characters in it become "?", what is beyond 4000 bytes is cut off. Never waits.
---@param text string
---@return boolean written
function Lines:write(text)
   if #text > LINE_MAX then text = text:sub(1, LINE_MAX) end
   if text:find "[%z\1-\31\127]" then text = text:gsub("[%z\1-\31\127]", "?") end
   local store = self.store
   local n = store:incr(COUNT, 1, 0)
   return n ~= nil and store:set(n, text) == true
end

--- The object in another VM; called by the transfer of an NF.
---@param d { name: string, store: tideway.Store }
function M.attach(d) return setmetatable({ name = d.name, store = d.store }, Lines) end

-- ---- the engine's side ----

---@class tideway.lines.writer
---@field lines tideway.Lines
---@field to string
---@field file file*?
---@field read integer number of the last line that was written out
---@field lost integer
---@field err? string why the last ones could not be written
---@field missing integer[] numbers of lines that were not there yet

---@type table<string, tideway.lines.writer>
local writers = {}

-- A line has its number before it is there: what is missing may be on its way, and has until the next time.
local function collect(writer, out)
   local store, missing = writer.lines.store, {}
   local function take(n, again)
      local text = store:get(n)
      if text ~= nil then
         out[#out + 1] = text
         store:delete(n)
      elseif again then
         writer.lost = writer.lost + 1
      else
         missing[#missing + 1] = n
      end
   end
   for _, n in ipairs(writer.missing) do take(n, true) end
   writer.missing = missing
   local last = store:get(COUNT) or 0
   if last < writer.read then writer.read = 0 end -- the store was emptied
   for n = writer.read + 1, last do take(n, last - n > 256) end
   writer.read = last
end

-- The number of lines.
local function drain_one(writer)
   local out = {}
   writer.err = nil
   collect(writer, out)
   local n = #out
   if n == 0 then return 0 end
   out[n + 1] = ""
   local file = writer.file or io.stderr
   local ok, err = file:write(table.concat(out, "\n"))
   if ok then ok, err = file:flush() end
   if not ok then writer.lost, writer.err = writer.lost + n, err end
   return n
end

--- Write out what functions have written.
---@return integer n lines
function M.drain()
   local n = 0
   for _, writer in pairs(writers) do
      local lost = writer.lost
      n = n + drain_one(writer)
      if writer.lost > lost then
         require("tideway.loop").note(("<4>%s: %d lines are lost: %s"):format(writer.to, writer.lost - lost,
            writer.err or "they came faster than they are written; more bytes in tw.lines"))
      end
   end
   return n
end

-- Where many come they are fetched sooner, before there are more of them than there is room for.
local function again()
   local n = M.drain()
   require("tideway.loop").after(n > MANY and SOON or SELDOM, again)
end

--- Do that about once a second from now on, more often where many come. Returns at once when nothing declared lines.
function M.start()
   if next(writers) then require("tideway.loop").after(SELDOM, again) end
end

-- `check` makes no file; what it can see is whether there is a folder for it.
local function open(path)
   if not model.dry then return io.open(path, "a") end
   local folder = path:match "^(.*/)" or "."
   if lfs.attributes(folder, "mode") ~= "directory" then
      return nil, ("%s: there is no folder %s"):format(path, folder)
   end
   return nil
end

local OPTIONS = { to = "string", bytes = "number" }

--- Lines for a file (appended; opened now, with the rights of whoever starts the engine) or for "stderr". The same name
--- again is the same lines, and `to` the new place.
---@param name string
---@param o? { to: string?, bytes: integer? } default "stderr", 32 MB of memory for lines that wait
---@return tideway.Lines
function M.lines(name, o)
   o = o or {}
   if type(name) ~= "string" or not name:find "^[%w_.-]+$" then
      error(("tw.lines: a name is letters, digits, _ . and -, not %s"):format(tostring(name)), 2)
   end
   for key, value in pairs(o) do
      if type(value) ~= OPTIONS[key] then
         error(("tw.lines: %s is not an option, or no %s; there are: to, bytes"):format(tostring(key),
            OPTIONS[key] or "option"), 2)
      end
   end
   local to, file = o.to or "stderr", nil
   if to ~= "stderr" then
      local err
      file, err = open(to)
      if err then error(("tw.lines: %s"):format(err), 2) end
   end
   local store = stores.store { name = "lines." .. name, bytes = o.bytes or BYTES, piece = PIECE }
   local lines = M.attach { name = name, store = store }
   local before = writers[name]
   if before and before.file then before.file:close() end
   writers[name] = {
      lines = lines, to = to, file = file, read = before and before.read or store:get(COUNT) or 0, lost = 0,
      missing = {},
   }
   return lines
end

return M
