-- SPDX-License-Identifier: BSD-3-Clause
-- What the compiler refuses, and where: an error object that prints as position, source line, caret and hint.

local M = {}

---@class tideway.compiler.position
---@field file string as in error messages: a path, or [string "..."]
---@field line integer
---@field col integer? in bytes, from 1

---@class tideway.compiler.diagnostic
---@field pos tideway.compiler.position?
---@field message string
---@field hint string? what to write instead
---@field notes table[]? { pos, text }: how the program got there, the innermost first
local Diagnostic = {}
Diagnostic.__index = Diagnostic

local TAB, WIDEST = 8, 160

-- Source lines by file name: what was compiled, which may no longer be what the file says.
local registered = {}

--- Remember the lines of a source, for the messages about it.
---@param name string
---@param lines string[]
function M.register(name, lines) registered[name] = lines end

--- One line of a source: of a registered one, else of the file of this name.
---@return string?
function M.line_of(file, line)
   local lines = registered[file]
   if lines then return lines[line] end
   local handle = io.open(file, "r")
   if not handle then return nil end
   local count, found = 0, nil
   -- A directory opens but does not read.
   pcall(function()
      for text in handle:lines() do
         count = count + 1
         if count == line then
            found = text:gsub("\r$", "")
            break
         end
      end
   end)
   handle:close()
   return found
end

--- The position of a syntax tree's node.
---@param chunk table of parser.parse
---@param node table with line and col
---@return tideway.compiler.position
function M.at(chunk, node) return { file = chunk.name, line = node.line, col = node.col } end

-- The text as a terminal shows it from its first column on: tabs expanded, control characters replaced.
local function expanded(text)
   local out, column = {}, 0
   for piece, tab in text:gmatch "([^\t]*)(\t?)" do
      out[#out + 1] = (piece:gsub("%c", "?"))
      -- UTF-8 continuation bytes take no column.
      column = column + #piece:gsub("[\128-\191]", "")
      if tab ~= "" then
         local width = TAB - column % TAB
         out[#out + 1] = (" "):rep(width)
         column = column + width
      end
   end
   return table.concat(out), column
end

-- Source line and caret line, when the column is known. A line too wide is shown from around the caret on.
local function excerpt(pos)
   local text = pos.col and M.line_of(pos.file, pos.line)
   if not text then return nil end
   local col = math.max(1, math.min(pos.col, #text + 1))
   local first = 1
   if #text > WIDEST then first = math.max(1, col - WIDEST / 2) end
   local shown = expanded(text:sub(first, first + WIDEST - 1))
   local _, caret = expanded(text:sub(first, col - 1))
   return ("   " .. shown):gsub("%s+$", "") .. "\n" .. (" "):rep(3 + caret) .. "^"
end

local function place(pos)
   if pos.col then return ("%s:%d:%d"):format(pos.file, pos.line, pos.col) end
   return ("%s:%d"):format(pos.file, pos.line)
end

function Diagnostic:__tostring()
   local out = {}
   if self.pos then
      out[1] = place(self.pos) .. ": " .. self.message
      out[2] = excerpt(self.pos)
   else
      out[1] = self.message
   end
   if self.hint then out[#out + 1] = "   " .. self.hint end
   for _, note in ipairs(self.notes or {}) do
      out[#out + 1] = ("   %s %s"):format(note.text, place(note.pos))
   end
   return table.concat(out, "\n")
end

--- A diagnostic that is not raised.
---@param pos tideway.compiler.position? nil when there is no place to point to
---@param message string
---@param hint string?
---@return tideway.compiler.diagnostic
function M.new(pos, message, hint)
   return setmetatable({ pos = pos, message = message, hint = hint }, Diagnostic)
end

--- Raise a diagnostic as error object.
---@param pos tideway.compiler.position?
---@param message string
---@param hint string?
function M.raise(pos, message, hint) error(M.new(pos, message, hint), 0) end

--- Whether a caught error is a diagnostic.
---@return boolean
function M.is(object) return getmetatable(object) == Diagnostic end

--- Say how the program got to the place of a diagnostic: an inlined function's call.
---@param err tideway.compiler.diagnostic
---@param pos tideway.compiler.position
---@param text string? "called from" when absent
---@return tideway.compiler.diagnostic err
function M.note(err, pos, text)
   err.notes = err.notes or {}
   table.insert(err.notes, { pos = pos, text = text or "called from" })
   return err
end

--- A diagnostic of whatever was caught: of the text of `error` the position it starts with is taken.
---@return tideway.compiler.diagnostic
function M.of(caught)
   if M.is(caught) then return caught end
   local text = tostring(caught)
   local file, line, message = text:match "^(.-):(%d+): (.*)$"
   -- [string "a:1: b"]:2: message: the name ends at the bracket.
   if text:find('^%[string "') then file, line, message = text:match '^(%[string ".-"%]):(%d+): (.*)$' end
   if not file then return M.new(nil, text) end
   return M.new({ file = file, line = tonumber(line) }, message)
end

return M
