-- SPDX-License-Identifier: BSD-3-Clause
-- Moves a graph of Lua values from one VM to another as a string: functions with their upvalues,
-- tables with identity and cycles, and by name whatever both VMs have (standard library, tideway.*).
--
-- This is how an NF instance that a script built in the control VM comes to run in an lcore's VM.
-- Objects that stand for something in C say how to be made again: a metatable field
-- `__transfer = function(self) return module, function_name, args end`.

local ffi = require "ffi"
local buffer = require "string.buffer"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local M = {}

local STANDARD = {}
for name in ("_G package string table math io os debug coroutine bit jit ffi jit.util string.buffer"):gmatch "%S+" do
   STANDARD[name] = true
end

--- value -> { module, field } for everything that another VM has under the same name.
---@param process? boolean of another process, which can read no files any more: NFs of the library move as a user's do
---@return table<any, string[]>
function M.names(process)
   local names = {}
   for module, value in pairs(package.loaded) do
      local ours = module == "tideway" or module:find "^tideway%." and not (process and module:find "^tideway%.nf%.")
      if STANDARD[module] or ours then
         names[value] = { module }
         if type(value) == "table" then
            for field, member in pairs(value) do
               local kind = type(member)
               if type(field) == "string" and not names[member] and
                  (kind == "function" or (ours and kind == "table")) then
                  names[member] = { module, field }
               end
            end
         end
      end
   end
   names[_G] = { "_G" }
   return names
end

-- Lua has no name for a C function: look in every loaded module.
local function find_c_function(fn)
   for module, value in pairs(package.loaded) do
      if type(value) == "table" then
         for field, member in pairs(value) do
            if member == fn and type(field) == "string" then return { module, field } end
         end
      end
   end
end

-- Names of the globals a function reads, from its bytecode (GGET A D: D is a string constant).
local function globals_of(fn, visit)
   local info = util.funcinfo(fn)
   for pc = 1, info.bytecodes - 1 do
      local ins = util.funcbc(fn, pc)
      if not ins then break end
      local op = bit.band(ins, 0xff) * 6
      if vmdef.bcnames:sub(op + 1, op + 6) == "GGET  " then
         visit(util.funck(fn, -bit.rshift(ins, 16) - 1))
      end
   end
end

-- Names of the upvalues that a function, or one inside it, assigns to.
local function assigned_upvalues(fn, names)
   for pc = 1, util.funcinfo(fn).bytecodes - 1 do
      local ins = util.funcbc(fn, pc)
      if not ins then break end
      local op = bit.band(ins, 0xff) * 6
      local name = vmdef.bcnames:sub(op + 1, op + 6)
      if name:find "^USET" then
         names[util.funcuvname(fn, bit.band(bit.rshift(ins, 8), 0xff)) or false] = true
      elseif name == "FNEW  " then
         assigned_upvalues(util.funck(fn, -bit.rshift(ins, 16) - 1), names)
      end
   end
   return names
end

local Packer = {}
Packer.__index = Packer

function Packer:refuse(what, advice)
   error(("%s: %s cannot move to %s; %s"):format(table.concat(self.path, " > "), what, self.place, advice), 0)
end

-- Modules whose objects are the engine's own: another process has nothing of them.
local HERE_ONLY = {
   ["tideway.table"] = "table", ["tideway.table.acl"] = "table", ["tideway.table.hook"] = "table",
   ["tideway.bpf.map"] = "table", ["tideway.hold"] = "queue", ["tideway.port"] = "port",
}

-- What stands for something in C, for another process.
function Packer:check_process(module, value)
   local what = HERE_ONLY[module]
   if not what then return end
   local name = rawget(value, "name")
   name = type(name) == "string" and ("the %s %q"):format(what, name) or "a " .. what
   self:refuse(name .. ", which is in the engine's own memory,",
      what == "table" and "what processes share is kept in a tw.store" or "functions of messages have none")
end

function Packer:push(step, value)
   self.path[#self.path + 1] = step
   local ref = self:value(value)
   self.path[#self.path] = nil
   return ref
end

function Packer:table(value, node)
   local mt = getmetatable(value)
   local transfer = type(mt) == "table" and rawget(mt, "__transfer")
   if transfer then
      local module, fn, args = transfer(value)
      if self.process then self:check_process(module, value) end
      node.kind, node.module, node.fn, node.args = "made", module, fn, self:push("(made again)", args)
      return
   end
   node.kind = "table"
   local list = {}
   for k, v in next, value do
      list[#list + 1] = self:push("[key]", k)
      list[#list + 1] = self:push("." .. tostring(k), v)
   end
   node.list = list
   if type(mt) == "table" then node.meta = self:push("(metatable)", mt) end
end

function Packer:fn(value, node)
   local info = debug.getinfo(value, "S")
   if info.what == "C" then
      local name = find_c_function(value)
      if not name then self:refuse("a C function without a name", "call it through its module") end
      node.kind, node.name = "named", name
      return
   end
   node.kind = "function"
   node.code = string.dump(value)
   node.up = {}
   local assigned = assigned_upvalues(value, {})
   local i = 1
   while true do
      local name, up = debug.getupvalue(value, i)
      if not name then break end
      local where = ("upvalue %q of the function at %s:%d"):format(name, info.short_src, info.linedefined)
      local id = debug.upvalueid(value, i)
      local shared = self.upvalues[id]
      if assigned[name] then self.variable[id] = true end
      if shared then
         node.up[i] = { join = shared }
      else
         self.upvalues[id] = { node.id, i }
         node.up[i] = { value = self:push(where, up) }
         self.cells[node.up[i]] = id
      end
      i = i + 1
   end
   globals_of(value, function(name)
      if type(name) == "string" and not self.globals[name] and rawget(_G, name) ~= nil and
         not self.base[name] then
         self.globals[name] = true
         self.global_refs[#self.global_refs + 1] = name
         self.global_refs[#self.global_refs + 1] = self:push("global " .. name, rawget(_G, name))
      end
   end)
end

function Packer:cdata(value, node)
   local ctype = tostring(value):match "^ctype<(.+)>$"
   if ctype then
      node.kind, node.ctype = "ctype", ctype
      return
   end
   ctype = tostring(ffi.typeof(value)):match "^ctype<(.+)>$"
   if not ctype or ctype:find "[%*&]" or ctype:find "%(" or ctype:find "%s%d+$" then
      self:refuse("a value of type " .. tostring(ffi.typeof(value)),
         "make it inside the function, or keep it in a table of tw.hash, tw.array, ...")
   end
   local size = ffi.sizeof(value)
   local copy = ffi.new("char[?]", size)
   if ffi.typeof(value) == ffi.typeof "int64_t" or ffi.typeof(value) == ffi.typeof "uint64_t" then
      ffi.cast("uint64_t *", copy)[0] = value
   else
      ffi.copy(copy, value, size)
   end
   node.kind, node.ctype, node.bytes = "cdata", ctype, ffi.string(copy, size)
end

function Packer:value(value)
   local kind = type(value)
   if kind == "number" or kind == "string" or kind == "boolean" then return value end
   if kind == "nil" then return { 0 } end
   if kind == "cdata" and ffi.istype("void *", value) and value == nil then return { 0 } end
   local known = kind ~= "cdata" and self.ids[value]
   if known then return { known } end
   local node = { id = #self.nodes + 1 }
   self.nodes[node.id] = node
   if kind ~= "cdata" then self.ids[value] = node.id end
   local name = kind ~= "cdata" and self.names[value]
   if name then
      node.kind, node.name = "named", name
   elseif kind == "table" then
      self:table(value, node)
   elseif kind == "function" then
      self:fn(value, node)
   elseif kind == "cdata" then
      self:cdata(value, node)
   else
      self:refuse("a " .. kind, "make it inside the NF's functions")
   end
   return { node.id }
end

local ffi_cdefs = {}

--- Remember what scripts declare with ffi.cdef, so that lcore VMs know the same types.
function M.record_cdefs()
   local cdef = ffi.cdef
   ffi.cdef = function(text, ...)
      cdef(text, ...)
      if select("#", ...) == 0 then ffi_cdefs[#ffi_cdefs + 1] = text end
   end
end

--- Names that every fresh VM has as globals.
local base_globals = {}
for name in pairs(_G) do base_globals[name] = true end

--- Pack a value.
---@param value any
---@param root string what the value is, for error messages
---@param process? boolean for another process: what is in this one's memory is refused
---@return string blob
function M.pack(value, root, process)
   local packer = setmetatable({
      nodes = {}, ids = {}, upvalues = {}, globals = {}, global_refs = {}, path = { root },
      cells = {}, variable = {}, process = process, place = process and "a worker process" or "an lcore",
      names = M.names(process), base = base_globals,
   }, Packer)
   local ref = packer:value(value)
   for up, id in pairs(packer.cells) do up.constant = not packer.variable[id] end
   return buffer.encode {
      root = ref, nodes = packer.nodes, globals = packer.global_refs, cdefs = ffi_cdefs, path = package.path,
   }
end

local function by_name(name)
   local module = name[1] == "_G" and _G or require(name[1])
   if name[2] == nil then return module end
   return module[name[2]]
end

-- An upvalue of this function is never assigned, which LuaJIT sees: it becomes a constant in machine code.
local function constant(value)
   return function() return value end
end

local Builder = {}
Builder.__index = Builder

function Builder:deref(ref)
   if type(ref) ~= "table" then return ref end
   local id = ref[1]
   if id == 0 then return nil end
   if self.built[id] == nil then self:build(id) end
   return self.built[id]
end

function Builder:build(id)
   local node = self.nodes[id]
   local kind = node.kind
   if kind == "named" then
      self.built[id] = by_name(node.name)
      if self.built[id] == nil then error("nothing is called " .. table.concat(node.name, ".") .. " here", 0) end
   elseif kind == "table" then
      local t = {}
      self.built[id] = t
      for i = 1, #node.list, 2 do rawset(t, self:deref(node.list[i]), self:deref(node.list[i + 1])) end
      if node.meta then setmetatable(t, self:deref(node.meta)) end
   elseif kind == "function" then
      local fn = assert(loadstring(node.code))
      self.built[id] = fn
      for i, up in ipairs(node.up) do
         if up.join then
            if self.built[up.join[1]] == nil then self:build(up.join[1]) end
            debug.upvaluejoin(fn, i, self.built[up.join[1]], up.join[2])
         elseif up.constant then
            debug.upvaluejoin(fn, i, constant(self:deref(up.value)), 1)
         else
            debug.setupvalue(fn, i, self:deref(up.value))
         end
      end
   elseif kind == "made" then
      self.built[id] = require(node.module)[node.fn](unpack(self:deref(node.args)))
   elseif kind == "ctype" then
      self.built[id] = ffi.typeof(node.ctype)
   elseif kind == "cdata" then
      local box = ffi.new(ffi.typeof("$[1]", ffi.typeof(node.ctype)))
      ffi.copy(box, node.bytes, #node.bytes)
      self.built[id] = ffi.new(ffi.typeof(node.ctype), box[0])
   end
end

--- Build the packed value in this VM.
---@param blob string
---@return any
function M.unpack(blob)
   local packed = buffer.decode(blob)
   package.path = packed.path
   for _, text in ipairs(packed.cdefs) do pcall(ffi.cdef, text) end
   local builder = setmetatable({ nodes = packed.nodes, built = {} }, Builder)
   local value = builder:deref(packed.root)
   for i = 1, #packed.globals, 2 do rawset(_G, packed.globals[i], builder:deref(packed.globals[i + 1])) end
   return value
end

return M
