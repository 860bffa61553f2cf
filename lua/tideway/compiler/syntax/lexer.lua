-- SPDX-License-Identifier: BSD-3-Clause
-- Lua source to tokens, as LuaJIT reads it: Lua 5.1 and its extensions of numbers, escapes and goto.

local diagnostic = require "tideway.compiler.diagnostic"

local byte, find, sub, match = string.byte, string.find, string.sub, string.match

local M = {}

---@class tideway.compiler.token
---@field kind string "name", "string", "number", "eof", or the keyword or operator itself
---@field value any of a name, a string or a number
---@field text string? of a number: as it is written
---@field line integer
---@field col integer
---@field endline integer

---@class tideway.compiler.lexer
local Lexer = {}
Lexer.__index = Lexer

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
until while]]):gmatch "%a+" do
   KEYWORDS[word] = true
end

local ESCAPES = { a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v" }
for char in ("\\\"'"):gmatch "." do
   ESCAPES[char] = char
end

--- Lexer of a text. A byte order mark and a first line that begins with # are skipped.
---@param text string
---@param name string of the source, for messages
---@return tideway.compiler.lexer
function M.new(text, name)
   local self = setmetatable({ text = text, name = name, at = 1, line = 1, line_start = 1 }, Lexer)
   if sub(text, 1, 3) == "\239\187\191" then self.at = 4 end
   if sub(text, self.at, self.at) == "#" then self.at = find(text, "[\r\n]", self.at) or #text + 1 end
   return self
end

--- The lines of a text, by the lexer's idea of a line.
---@return string[]
function M.lines(text)
   local lines, at = {}, 1
   while true do
      local stop = find(text, "[\r\n]", at)
      lines[#lines + 1] = sub(text, at, (stop or #text + 1) - 1)
      if not stop then return lines end
      at = stop + (find(text, "^\r\n", stop) and 2 or find(text, "^\n\r", stop) and 2 or 1)
   end
end

-- Refuse what stands at byte `at` of the current line.
function Lexer:fail(at, message)
   diagnostic.raise({ file = self.name, line = self.line, col = at - self.line_start + 1 }, message)
end

-- Past a line end at `at`: \n, \r, \r\n or \n\r.
function Lexer:newline(at)
   local text = self.text
   local pair = find(text, "^\r\n", at) or find(text, "^\n\r", at)
   at = at + (pair and 2 or 1)
   self.line, self.line_start = self.line + 1, at
   return at
end

-- The content of [[...]], [=[...]=] at `at`, and the byte after it; nil when there is none.
function Lexer:long(at, what)
   local text = self.text
   local equals, start = match(text, "^%[(=*)%[()", at)
   if not equals then return nil end
   local stop, last = find(text, "]" .. equals .. "]", start, true)
   if not stop then
      self:fail(at, ("this long %s has no end; write ]%s] where it ends"):format(what, equals))
   end
   local from
   if find(text, "^[\r\n]", start) then start = self:newline(start) end
   local pieces, eol = {}, find(text, "[\r\n]", start)
   from = start
   while eol and eol < stop do
      pieces[#pieces + 1] = sub(text, from, eol - 1)
      from = self:newline(eol)
      eol = find(text, "[\r\n]", from)
   end
   pieces[#pieces + 1] = sub(text, from, stop - 1)
   return table.concat(pieces, "\n"), last + 1
end

local function utf8(code)
   local function tail(shift) return 0x80 + math.floor(code / 2 ^ shift) % 64 end
   if code < 0x80 then return string.char(code) end
   if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), tail(0)) end
   if code < 0x10000 then return string.char(0xE0 + math.floor(code / 4096), tail(6), tail(0)) end
   return string.char(0xF0 + math.floor(code / 2 ^ 18), tail(12), tail(6), tail(0))
end

-- What the escape sequence at `at` (its backslash) stands for, and the byte after it.
function Lexer:escape(at)
   local text = self.text
   local char = sub(text, at + 1, at + 1)
   if ESCAPES[char] then return ESCAPES[char], at + 2 end
   if char == "\n" or char == "\r" then return "\n", self:newline(at + 1) end
   if char == "z" then
      at = at + 2
      while find(text, "^%s", at) do
         at = find(text, "^[\r\n]", at) and self:newline(at) or at + 1
      end
      return "", at
   end
   local hex = match(text, "^x(%x%x)", at + 1)
   if hex then return string.char(tonumber(hex, 16)), at + 4 end
   local code, after = match(text, "^u{(%x+)}()", at + 1)
   if code then
      code = #code:gsub("^0+", "") <= 6 and tonumber(code, 16) or math.huge
      if code < 0xD800 or code > 0xDFFF and code < 0x110000 then return utf8(code), after end
   end
   local digits = match(text, "^%d%d?%d?", at + 1)
   if digits and tonumber(digits) < 256 then return string.char(tonumber(digits)), at + 1 + #digits end
   self:fail(at, "this escape sequence is not valid")
end

-- The value of a quoted string at `at`, and the byte after it.
function Lexer:quoted(at)
   local text, line, line_start = self.text, self.line, self.line_start
   local quote = sub(text, at, at)
   local stops = "[\\\r\n" .. quote .. "]"
   local pieces, from = {}, at + 1
   while true do
      local stop = find(text, stops, from)
      local char = stop and sub(text, stop, stop)
      if not stop or char == "\n" or char == "\r" then
         self.line, self.line_start = line, line_start
         self:fail(at, ("this string has no end; write %s where it ends"):format(quote))
      end
      pieces[#pieces + 1] = sub(text, from, stop - 1)
      if char == quote then return table.concat(pieces), stop + 1 end
      if stop == #text then self:fail(at, "this string has no end") end
      pieces[#pieces + 1], from = self:escape(stop)
   end
end

-- Number, 64-bit integer or imaginary number of a text; nil when it is none.
local function number_value(text)
   if find(text, "^%d+$") then return tonumber(text) end
   -- LuaJIT's own reading of a numeral: hexadecimal floats, LL, ULL and i with it.
   local chunk = loadstring("return " .. text)
   return chunk and chunk()
end

-- The end of a numeral at `at`. As LuaJIT, whatever looks like part of it is taken, then judged as a whole.
local function number_end(text, at)
   local exponent = find(text, "^0[xX]", at) and "[pP]" or "[eE]"
   local stop = at
   while true do
      stop = match(text, "^[%w_.\128-\255]*()", stop)
      if not (find(text, "^[+-]", stop) and find(sub(text, stop - 1, stop - 1), exponent)) then return stop end
      stop = stop + 1
   end
end

-- Past white space and comments: the next token's first byte.
function Lexer:skip()
   local text, at = self.text, self.at
   while true do
      at = find(text, "[^ \t\v\f]", at) or #text + 1
      local char = byte(text, at)
      if char == 10 or char == 13 then
         at = self:newline(at)
      elseif char == 45 and byte(text, at + 1) == 45 then
         local _, after = nil, nil
         if byte(text, at + 2) == 91 then _, after = self:long(at + 2, "comment") end
         at = after or find(text, "[\r\n]", at) or #text + 1
      else
         return at, char
      end
   end
end

-- Kind, value and end of the token at `at`.
function Lexer:token_at(at, char)
   local text = self.text
   if not char then return "eof", nil, at end
   local word, stop = match(text, "^([A-Za-z_\128-\255][%w_\128-\255]*)()", at)
   if word then return KEYWORDS[word] and word or "name", word, stop end
   if find(text, "^%.?%d", at) then
      stop = number_end(text, at)
      local numeral = sub(text, at, stop - 1)
      local value = number_value(numeral)
      if value == nil then self:fail(at, ("'%s' is not a number"):format(numeral)) end
      return "number", value, stop
   end
   if char == 34 or char == 39 then return "string", self:quoted(at) end
   if char == 91 then
      local value, after = self:long(at, "string")
      if value then return "string", value, after end
      if find(text, "^%[=", at) then self:fail(at, "a long string begins with [, any number of = and [") end
      return "[", nil, at + 1
   end
   local symbol = match(text, "^%.%.%.?", at) or match(text, "^::", at) or match(text, "^[=~<>]=", at)
      or match(text, "^[-+*/%%^#=<>(){}%];:,.]", at)
   if not symbol then
      local shown = match(text, "^%p", at)
      self:fail(at, shown and ("'%s' is no symbol of Lua"):format(shown)
         or ("byte %d is no symbol of Lua"):format(char))
   end
   return symbol, nil, at + #symbol
end

--- The next token.
---@return tideway.compiler.token
function Lexer:scan()
   local at, char = self:skip()
   local line, col = self.line, at - self.line_start + 1
   local kind, value, stop = self:token_at(at, char)
   self.at = stop
   return {
      kind = kind, value = value, line = line, col = col, endline = self.line,
      text = kind == "number" and sub(self.text, at, stop - 1) or nil,
   }
end

return M
