-- SPDX-License-Identifier: BSD-3-Clause
-- What an NF instance is made of, as a text: equal texts are the same code with the same configuration. Tables and hold
-- queues stand in it by their declaration and what the script wrote into them, so that their contents at run time do
-- not matter.

local bit = require "bit"
local buffer = require "string.buffer"
local ffi = require "ffi"
local util = require "jit.util"
local vmdef = require "jit.vmdef"
local nfs = require "tideway.nf"
local table_scope = require "tideway.table.scope"
local transfer = require "tideway.transfer"

local M = {}

---@class tideway.change.print
---@field text string
---@field code string the same, whether the constructor is pure or not
---@field tables table[] tables and hold queues in the order in which they are met
---@field shared table<any, true> what it can change and others may have too: plain tables, assigned upvalues

local Walker = {}
Walker.__index = Walker

-- What messages show and nothing depends on.
local IGNORED = { where = true, made_at = true }

local function rank(key)
   local kind = type(key)
   return kind == "number" and 1 or kind == "string" and 2 or kind == "boolean" and 3 or 4
end

local function before(a, b)
   local x, y = rank(a), rank(b)
   if x ~= y then return x < y end
   if x <= 2 then return a < b end
   return x == 3 and a and not b
end

-- Keys in an order that two equal tables have alike; keys that are objects come as they come.
local function keys_of(t)
   local list = {}
   for key in next, t do list[#list + 1] = key end
   table.sort(list, before)
   return list
end

function Walker:put(...)
   self.out:put(...)
   self.out:put "\0"
end

function Walker:table(t)
   local declared = table_scope.declaration(t)
   if declared then
      self.tables[#self.tables + 1] = t
      return self:put("T", declared)
   end
   local mt = getmetatable(t)
   local moves = type(mt) == "table" and rawget(mt, "__transfer")
   if moves then
      local module, fn, args = moves(t)
      self:put("M", module, ".", fn)
      return self:value(args)
   end
   local is_nf = nfs.is_instance(t)
   if not is_nf then self.shared[t] = true end
   self:put "{"
   for _, key in ipairs(keys_of(t)) do
      if not (is_nf and IGNORED[key]) then
         self:value(key)
         self:value(rawget(t, key))
      end
   end
   self:put "}"
   if mt and not is_nf then self:value(mt) end
end

-- Names of the upvalues that a function, or one inside it, assigns to.
local function assigned(fn, names)
   for pc = 1, util.funcinfo(fn).bytecodes - 1 do
      local ins = util.funcbc(fn, pc)
      local op = bit.band(ins, 0xff) * 6
      local name = vmdef.bcnames:sub(op + 1, op + 6)
      if name:find "^USET" then
         names[util.funcuvname(fn, bit.band(bit.rshift(ins, 8), 0xff)) or false] = true
      elseif name == "FNEW  " then
         assigned(util.funck(fn, -bit.rshift(ins, 16) - 1), names)
      end
   end
   return names
end

function Walker:fn(fn)
   local info = debug.getinfo(fn, "S")
   if info.what == "C" then return self:put("C", tostring(fn)) end
   self:put("F", string.dump(fn, true))
   local sets = assigned(fn, {})
   for i = 1, 255 do
      local name, value = debug.getupvalue(fn, i)
      if not name then break end
      local cell = tostring(debug.upvalueid(fn, i))
      if sets[name] then self.shared[cell] = true end
      local known = self.cells[cell]
      self:put("U", known or "")
      if not known then
         self.count = self.count + 1
         self.cells[cell] = tostring(self.count)
         self:value(value)
      end
   end
end

function Walker:cdata(value)
   local ctype = tostring(ffi.typeof(value))
   self:put("D", ctype)
   -- Structs and arrays by their bytes; numbers, pointers and types by what they say.
   local size = ctype:find "struct" and not ctype:find "[%*&%(]" and value ~= nil and ffi.sizeof(value)
      or ctype:find "%[%d*%]>$" and ffi.sizeof(value)
   self:put(size and tostring(value):find "^cdata" and ffi.string(value, size) or tostring(value))
end

function Walker:value(value)
   local kind = type(value)
   if kind == "string" then return self:put("s", value) end
   if kind == "number" then return self:put("n", ("%.17g"):format(value)) end
   if kind == "boolean" or kind == "nil" then return self:put(tostring(value)) end
   if kind == "cdata" then return self:cdata(value) end
   local known = self.ids[value]
   if known then return self:put("R", known) end
   self.count = self.count + 1
   self.ids[value] = tostring(self.count)
   local name = self.names[value]
   if name then return self:put("N", name[1], ".", name[2] or "") end
   if kind == "table" then return self:table(value) end
   if kind == "function" then return self:fn(value) end
   self:put(kind, tostring(value)) -- such as a file: itself only
end

local function walk(value)
   local walker = setmetatable({
      out = buffer.new(), ids = {}, cells = {}, count = 0, tables = {}, shared = {}, names = transfer.names(),
   }, Walker)
   walker:value(value)
   return walker
end

--- The fingerprint of an NF instance. Of one whose constructor is pure, that of the constructor and its configuration.
---@param instance tideway.nf.instance
---@return tideway.change.print
function M.of(instance)
   local walker, made = walk(instance), nfs.made(instance)
   local code = walker.out:tostring()
   local text = code
   if made and made.constructor.pure then
      text = walk { made.constructor.construct, made.config }.out:tostring()
   end
   return { text = text, code = code, tables = walker.tables, shared = walker.shared }
end

return M
