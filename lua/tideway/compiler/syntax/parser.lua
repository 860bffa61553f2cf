-- SPDX-License-Identifier: BSD-3-Clause
-- Lua source to a syntax tree: what LuaJIT accepts, and nothing else. The nodes are listed in README.md.

local diagnostic = require "tideway.compiler.diagnostic"
local lexer = require "tideway.compiler.syntax.lexer"
local scope = require "tideway.compiler.syntax.scope"

local M = {}

local Parser = {}
Parser.__index = Parser

-- As many levels as LuaJIT's own parser allows.
local DEEPEST = 200

local UNARY = { ["-"] = true, ["not"] = true, ["#"] = true }
local UNARY_PRIORITY = 8

-- Left and right priority: right is lower for what associates to the right.
local BINARY = {
   ["or"] = { 1, 1 }, ["and"] = { 2, 2 },
   ["<"] = { 3, 3 }, [">"] = { 3, 3 }, ["<="] = { 3, 3 }, [">="] = { 3, 3 }, ["~="] = { 3, 3 }, ["=="] = { 3, 3 },
   [".."] = { 5, 4 }, ["+"] = { 6, 6 }, ["-"] = { 6, 6 },
   ["*"] = { 7, 7 }, ["/"] = { 7, 7 }, ["%"] = { 7, 7 }, ["^"] = { 10, 9 },
}

local BLOCK_ENDS = { ["else"] = true, ["elseif"] = true, ["end"] = true, ["until"] = true, eof = true }

local CONSTANTS = { ["nil"] = "Nil", ["true"] = "True", ["false"] = "False" }

-- A node of this tag at the position of a token or another node.
local function node(tag, at, fields)
   fields = fields or {}
   fields.tag, fields.line, fields.col = tag, at.line, at.col
   return fields
end

function Parser:fail(at, message, hint)
   diagnostic.raise({ file = self.name, line = at.line, col = at.col }, message, hint)
end

-- Take the current token.
function Parser:next()
   local token = self.token
   self.last_line = token.endline
   self.token = self.ahead or self.lexer:scan()
   self.ahead = nil
   return token
end

function Parser:peek()
   self.ahead = self.ahead or self.lexer:scan()
   return self.ahead.kind
end

-- Take the current token when it is of this kind.
function Parser:accept(kind) return self.token.kind == kind and self:next() or nil end

local function shown(token)
   if token.kind == "eof" then return "the end of the text" end
   if token.kind == "string" then return "a string" end
   return "'" .. tostring(token.text or token.value or token.kind) .. "'"
end

function Parser:unexpected(wanted)
   self:fail(self.token, ("%s expected, got %s"):format(wanted, shown(self.token)))
end

function Parser:expect(kind)
   if self.token.kind ~= kind then self:unexpected("'" .. kind .. "'") end
   return self:next()
end

-- Take what closes `opening`.
function Parser:close(kind, opening)
   if self.token.kind == kind then return self:next() end
   local where = opening.line ~= self.token.line
      and (" to close '%s' of line %d"):format(opening.kind, opening.line) or ""
   self:unexpected(("'%s'%s"):format(kind, where))
end

-- `goto` is a keyword only where a goto statement can be.
function Parser:at_name() return self.token.kind == "name" or self.token.kind == "goto" end

function Parser:take_name(what)
   if not self:at_name() then self:unexpected(what or "a name") end
   return self:next()
end

-- A name that is declared.
function Parser:declaration()
   local token = self:take_name()
   return { name = token.value, line = token.line, col = token.col }
end

function Parser:enter()
   self.level = self.level + 1
   if self.level > DEEPEST then self:fail(self.token, "this is nested too deeply") end
end

function Parser:leave() self.level = self.level - 1 end

-- Expressions

function Parser:expressions()
   local list = { self:expression() }
   while self:accept "," do
      list[#list + 1] = self:expression()
   end
   return list
end

function Parser:table()
   local opening = self:expect "{"
   local items = {}
   while self.token.kind ~= "}" do
      local item = { line = self.token.line, col = self.token.col }
      if self:accept "[" then
         item.key = self:expression()
         self:expect "]"
         self:expect "="
      elseif self:at_name() and self:peek() == "=" then
         item.name = self:next().value
         self:next()
      end
      item.value = self:expression()
      items[#items + 1] = item
      if not self:accept "," and not self:accept ";" then break end
   end
   self:close("}", opening)
   return node("Table", opening, { items = items })
end

-- Parameters and body of a function, from its "(" on. `at` is the word "function"; LuaJIT takes `line` for the line
-- the function is defined in.
function Parser:body(at, line, name, is_method)
   local fn = node("Function", at, {
      params = {}, vararg = false, linedefined = line, name = name, is_method = is_method or false, parent = self.func,
   })
   table.insert(self.functions, fn)
   if is_method then fn.params[1] = { name = "self", line = self.token.line, col = self.token.col } end
   self:expect "("
   if self.token.kind ~= ")" then
      repeat
         if self:accept "..." then
            fn.vararg = true
            break
         end
         fn.params[#fn.params + 1] = self:declaration()
      until not self:accept ","
   end
   self:expect ")"
   self.func = fn
   fn.body = self:block()
   self.func = fn.parent
   fn.endline, fn.endcol = self.token.line, self.token.col
   self:close("end", { kind = "function", line = at.line })
   return fn
end

function Parser:arguments()
   local token = self.token
   if token.kind == "string" then
      self:next()
      return { node("String", token, { value = token.value }) }
   elseif token.kind == "{" then
      return { self:table() }
   elseif token.kind ~= "(" then
      self:unexpected "arguments"
   end
   if token.line ~= self.last_line then
      self:fail(token, "this is a call of what stands before, or a new statement",
         "put '(' on the line of the function, or ';' in front of it")
   end
   self:next()
   local args = self.token.kind ~= ")" and self:expressions() or {}
   self:close(")", token)
   return args
end

-- A name or parenthesis with everything that is indexed and called on it.
function Parser:suffixed()
   local token = self.token
   local left
   if token.kind == "(" then
      self:next()
      left = node("Paren", token, { expr = self:expression() })
      self:close(")", token)
   elseif self:at_name() then
      left = node("Name", self:next(), { name = token.value })
   else
      self:unexpected "an expression"
   end
   while true do
      token = self.token
      local kind = token.kind
      if kind == "." then
         self:next()
         local key = self:take_name()
         left = node("Index", key, { object = left, key = node("String", key, { value = key.value }) })
      elseif kind == "[" then
         self:next()
         left = node("Index", token, { object = left, key = self:expression() })
         self:close("]", token)
      elseif kind == ":" then
         self:next()
         local name = self:take_name()
         left = node("Method", name, { object = left, name = name.value, args = self:arguments() })
      elseif kind == "(" or kind == "string" or kind == "{" then
         left = node("Call", left, { func = left, args = self:arguments() })
      else
         return left
      end
   end
end

function Parser:simple()
   local token = self.token
   local kind = token.kind
   if kind == "number" then
      self:next()
      return node("Number", token, { value = token.value, text = token.text })
   elseif kind == "string" then
      self:next()
      return node("String", token, { value = token.value })
   elseif CONSTANTS[kind] then
      self:next()
      return node(CONSTANTS[kind], token)
   elseif kind == "..." then
      if not self.func.vararg then self:fail(token, "'...' outside of a function with '...'") end
      self:next()
      return node("Vararg", token)
   elseif kind == "{" then
      return self:table()
   elseif kind == "function" then
      self:next()
      return self:body(token, self.token.line)
   end
   return self:suffixed()
end

-- An expression of operators that bind stronger than `limit`.
function Parser:expression(limit)
   limit = limit or 0
   self:enter()
   local left
   if UNARY[self.token.kind] then
      local operator = self:next()
      left = node("Unary", operator, { op = operator.kind, operand = self:expression(UNARY_PRIORITY) })
   else
      left = self:simple()
   end
   while true do
      local priority = BINARY[self.token.kind]
      if not priority or priority[1] <= limit then break end
      local operator = self:next()
      local kind = operator.kind
      local right = self:expression(priority[2])
      if kind == "and" or kind == "or" then
         left = node(kind == "and" and "And" or "Or", operator, { left = left, right = right })
      else
         left = node("Binary", operator, { op = kind, left = left, right = right })
      end
   end
   self:leave()
   return left
end

-- Statements

local STATEMENTS = {}

-- Name the functions that are assigned to names, for messages.
local function name_functions(names, exprs)
   for i, expr in ipairs(exprs) do
      if expr.tag == "Function" and names[i] then expr.name = expr.name or names[i].name end
   end
end

STATEMENTS["local"] = function(self, token)
   if self:accept "function" then
      local name = self:declaration()
      return node("LocalFunction", token, { name = name, func = self:body(token, self.token.line, name.name) })
   end
   local names = {}
   repeat
      names[#names + 1] = self:declaration()
   until not self:accept ","
   local exprs = self:accept "=" and self:expressions() or {}
   name_functions(names, exprs)
   return node("Local", token, { names = names, exprs = exprs })
end

STATEMENTS["function"] = function(self, token)
   local part = self:take_name()
   local target, name, is_method = node("Name", part, { name = part.value }), part.value, false
   while not is_method and (self.token.kind == "." or self.token.kind == ":") do
      is_method = self.token.kind == ":"
      name = name .. self:next().kind
      part = self:take_name()
      name = name .. part.value
      target = node("Index", part, { object = target, key = node("String", part, { value = part.value }) })
   end
   return node("Assign", token, { targets = { target }, exprs = { self:body(token, token.line, name, is_method) } })
end

STATEMENTS["do"] = function(self, token)
   local body = self:block()
   self:close("end", token)
   return node("Do", token, { body = body })
end

STATEMENTS["while"] = function(self, token)
   local cond = self:expression()
   self:expect "do"
   local body = self:block()
   self:close("end", token)
   return node("While", token, { cond = cond, body = body })
end

STATEMENTS["repeat"] = function(self, token)
   local body = self:block()
   self:close("until", token)
   return node("Repeat", token, { body = body, cond = self:expression() })
end

STATEMENTS["if"] = function(self, token)
   local clauses, orelse = {}, nil
   local at = token
   repeat
      local cond = self:expression()
      self:expect "then"
      clauses[#clauses + 1] = { cond = cond, body = self:block(), line = at.line, col = at.col }
      at = self:accept "elseif"
   until not at
   if self:accept "else" then orelse = self:block() end
   self:close("end", token)
   return node("If", token, { clauses = clauses, orelse = orelse })
end

STATEMENTS["for"] = function(self, token)
   local names = { self:declaration() }
   local loop
   if self:accept "=" then
      local start = self:expression()
      self:expect ","
      local stop = self:expression()
      local step = self:accept "," and self:expression() or nil
      loop = node("NumericFor", token, { var = names[1], start = start, stop = stop, step = step })
   else
      while self:accept "," do
         names[#names + 1] = self:declaration()
      end
      if self.token.kind ~= "in" then self:unexpected "'=' or 'in'" end
      self:next()
      loop = node("GenericFor", token, { names = names, exprs = self:expressions() })
   end
   self:expect "do"
   loop.body = self:block()
   self:close("end", token)
   return loop
end

STATEMENTS["return"] = function(self, token)
   local exprs = {}
   if not BLOCK_ENDS[self.token.kind] and self.token.kind ~= ";" then exprs = self:expressions() end
   return node("Return", token, { exprs = exprs }), true
end

STATEMENTS["break"] = function(_, token) return node("Break", token), true end

STATEMENTS["::"] = function(self)
   local name = self:take_name()
   self:expect "::"
   return node("Label", name, { label = name.value })
end

STATEMENTS["goto"] = function(self)
   local name = self:take_name()
   return node("Goto", name, { label = name.value })
end

-- A call or an assignment.
function Parser:expression_statement()
   local first = self:suffixed()
   if first.tag == "Call" or first.tag == "Method" then return node("CallStat", first, { call = first }) end
   local targets = {}
   while true do
      if first.tag ~= "Name" and first.tag ~= "Index" then
         self:fail(first, "this cannot be assigned to", "a statement is a call or an assignment")
      end
      targets[#targets + 1] = first
      if not self:accept "," then break end
      first = self:suffixed()
   end
   if self.token.kind ~= "=" then self:unexpected(#targets == 1 and "'=' or '('" or "'='") end
   self:next()
   local exprs = self:expressions()
   name_functions(targets, exprs)
   return node("Assign", targets[1], { targets = targets, exprs = exprs })
end

function Parser:statement()
   local token = self.token
   local parse = STATEMENTS[token.kind]
   if token.kind == "goto" and self:peek() ~= "name" then parse = nil end
   if not parse then return self:expression_statement() end
   self:next()
   return parse(self, token)
end

function Parser:block()
   self:enter()
   local block, is_last = {}, false
   while not is_last and not BLOCK_ENDS[self.token.kind] do
      block[#block + 1], is_last = self:statement()
      self:accept ";"
   end
   self:leave()
   return block
end

---@class tideway.compiler.chunk
---@field name string
---@field text string
---@field lines string[]
---@field body table[] statements
---@field main table the Function node of the chunk itself
---@field functions table[] all other Function nodes, in the order of their text, an outer one before its inner ones

--- Parse a source. Raises a diagnostic where it is not Lua.
---@param text string
---@param name string as it is to stand in messages
---@return tideway.compiler.chunk
function M.parse(text, name)
   local lines = lexer.lines(text)
   diagnostic.register(name, lines)
   local self = setmetatable({ name = name, level = 0, functions = {}, last_line = 1 }, Parser)
   self.lexer = lexer.new(text, name)
   self.func = node("Function", { line = 1, col = 1 }, {
      params = {}, vararg = true, linedefined = 0, endline = #lines, endcol = 1, name = "main chunk", is_method = false,
   })
   local main = self.func
   self.token = self.lexer:scan()
   main.body = self:block()
   if self.token.kind ~= "eof" then self:unexpected "a statement" end
   local chunk = {
      name = name, text = text, lines = lines, body = main.body, main = main, functions = self.functions,
   }
   scope.resolve(chunk)
   return chunk
end

return M
