-- SPDX-License-Identifier: BSD-3-Clause
-- Prints a program for an lcore as Lua source: one function that runs the whole chain over a burst, written so that
-- LuaJIT's traces of it are straight machine code. Blocks are labels, edges are gotos; LuaJIT records what it runs,
-- so their form costs nothing.
--
--    local chunk = assert(loadstring(luajit.emit(program, {}).source))
--    local run = chunk(burst)          -- struct tw_burst *
--    run(burst.count)

local ffi = require "ffi"
local alias = require "tideway.compiler.back.luajit.alias"
local compare = require "tideway.compiler.back.luajit.condition"
local expression = require "tideway.compiler.back.luajit.expression"
local flow = require "tideway.compiler.back.luajit.flow"
local ir = require "tideway.compiler.ir"
local target = require "tideway.compiler.target.lcore"
local abi = require "tideway.abi"

local M = {}

local VARIABLES = 180 -- of the 200 that a Lua function may have
local CONSTANTS = 28  -- of its 60 upvalues; the names of the prologue are others

local PROLOGUE = [[
local burst = ...
local ffi, bit, C = require "ffi", require "bit", require("tideway.abi").C
local cast, tonumber, floor, max = ffi.cast, tonumber, math.floor, math.max
local u32, i64, u64 = ffi.typeof "uint32_t", ffi.typeof "int64_t", ffi.typeof "uint64_t"
local band, bor, bxor, bnot, lshift, rshift = bit.band, bit.bor, bit.bxor, bit.bnot, bit.lshift, bit.rshift
local arshift, bswap, tobit, barrier = bit.arshift, bit.bswap, bit.tobit, require "tideway.packet.barrier"
local p8, p16, p32 = ffi.typeof "uint8_t *", ffi.typeof "uint16_t *", ffi.typeof "int32_t *"
local p64, s64, vp = ffi.typeof "uint64_t *", ffi.typeof "int64_t *", ffi.typeof "void *"
local anchor = ffi.new("uint64_t[?]", %d)
local pkts = require "tideway.compiler.back.luajit.packets" (burst)
]]

local Printer = {}
Printer.__index = Printer

function Printer:say(...) self.lines[#self.lines + 1] = select("#", ...) > 1 and string.format(...) or (...) end

-- ---- constants ----

local function address_of(value)
   if type(value) == "number" then return value end
   return tonumber(ffi.cast("uintptr_t", value))
end

-- Code of a pointer constant: addresses are the same in every VM of the process.
local function pointer_code(v)
   local object = v.object
   return ("cast(p8, 0x%x)"):format(address_of(object and (object.table or object.address) or v.value))
end

local CODE = {
   stack = function() return "cast(p8, anchor)" end,
   null = function() return "cast(p8, 0)" end,
   pointer = pointer_code,
   -- This lcore's row: known only where the chunk runs.
   row = function(v)
      local stride = ffi.new "uint32_t[1]"
      local base = abi.C.tw_counters_base(v.table.table, stride)
      return ("cast(p8, 0x%x) + burst.lcore * %d"):format(address_of(base), stride[0] * 8)
   end,
}

-- A name for a constant of the chunk, or its code when there are too many.
function Printer:constant(kind, v)
   local code = CODE[kind](v, self)
   local name = self.names[code]
   if name then return name end
   if #self.constants == CONSTANTS and kind ~= "stack" then return "(" .. code .. ")" end
   name = kind == "stack" and "stack" or ("%s%d"):format(kind, #self.constants + 1)
   self.names[code] = name
   self.constants[#self.constants + 1] = { name = name, code = code }
   return name
end

-- ---- statements ----

function Printer:assign(v, code)
   local slot = self.flow.slot[v]
   if slot then self:say("v%d = %s", slot, code) end
end

local EMIT = {}

function EMIT.store(self, v)
   local e, value = self.e, v.args[2]
   local code
   if v.bits < 64 then
      code = e:bits(value)
   elseif value.type == "num" then
      code = e:num(value)
   else
      code = e:wide(value, value.type)
   end
   self:say("%s = %s", e:place(v.args[1], v.off, v.bits, value.type ~= "u64"), code)
end

function EMIT.ctxstore(self, v)
   local f = target.fields[v.field]
   if not f or not f.write then error(("an lcore's packet has no field %s to write"):format(v.field), 0) end
   local value = v.args[1]
   local code
   if f.bits < 64 then
      code = self.e:bits(value)
   else
      code = self.e:wide(value, "u64")
   end
   self:say("%s.%s = %s", f.of, f.member, code)
end

local ATOMIC = { add = 0, ["or"] = 1, ["and"] = 2, xor = 3, xchg = 4, cmpxchg = 5 }

-- LuaJIT has no atomics: a function of the engine.
function EMIT.atomic(self, v)
   local e = self.e
   local function operand(a) return a and e:wide(a, "u64") or "0ULL" end
   local first, second = operand(v.args[2]), operand(v.args[3])
   local code = ("C.tw_atomic(%d, %d, %s, %s, %s)"):format(ATOMIC[v.kind], v.bits,
      e:pointer(v.args[1]) .. (v.off ~= 0 and (" + %d"):format(v.off) or ""), first, second)
   if not self.flow.slot[v] then return self:say("%s", code) end
   if v.type == "num" then
      code = v.bits == 32 and e:kind(v) ~= "n" and ("tobit(%s)"):format(code)
         or ("tonumber(cast(i64, %s))"):format(code)
   elseif v.type == "i64" then
      code = ("cast(i64, %s)"):format(code)
   end
   self:assign(v, code)
end

function Printer:call_argument(a, class)
   local e = self.e
   if a.type == "ptr" then
      if a.op == "const" and not a.object and a.value == 0 then return "nil" end
      return ("cast(vp, %s)"):format(e:pointer(a))
   end
   if a.type ~= "num" then return e:wide(a, a.type) end
   if class == "u64" and a.lo < 0 then return e:wide(a, "u64") end
   if (class == "u32" or class == "i32") and a.op ~= "const" and e:kind(a) == "b" then return e:bits(a) end
   return e:num(a)
end

-- Result of a C function as the value is held: template, given how it comes.
function Printer:result(v, code, class)
   local e = self.e
   if v.type == "ptr" then return ("cast(p8, %s)"):format(code) end
   if class == "bool" then return e:convert(("(%s and 1 or 0)"):format(code), "i", v) end
   if class == "i64" or class == "u64" then
      if v.type ~= "num" then return class == v.type and code or ("cast(%s, %s)"):format(v.type, code) end
      return e:kind(v) == "b" and ("tobit(%s)"):format(code) or ("tonumber(%s)"):format(code)
   end
   if v.type ~= "num" then return ("cast(%s, %s)"):format(v.type, code) end
   return e:kind(v) == "b" and ("tobit(%s)"):format(code) or code
end

function EMIT.call(self, v)
   if v.fn == "counters_row" then return self:assign(v, self:constant("row", v)) end
   local prototype = target.functions[v.fn] or error(("the engine has no function %s"):format(v.fn), 0)
   local args = { v.packet and "cast(vp, pkt)" }
   for _, a in ipairs(v.args) do args[#args + 1] = self:call_argument(a, prototype.params[#args + 1]) end
   local code = ("C.%s(%s)"):format(v.fn, table.concat(args, ", "))
   if not self.flow.slot[v] then return self:say("%s", code) end
   self:assign(v, self:result(v, code, prototype.result))
end

function Printer:instruction(v)
   if self.flow.dead[v] then return end
   if v.op == "pktdata" then return self.resizes and self:say "data = pkt.data" end
   if v.op == "pktend" or v.op == "pktlen" then
      if not self.resizes then return end
      self:say "len = pkt.len"
      return v.op == "pktlen" and self:assign(v, self.e:compute(v))
   end
   if self.barriers[v] then self:say "barrier()" end
   if self.flow.inline[v] then return end
   if EMIT[v.op] then return EMIT[v.op](self, v) end
   self:assign(v, self.e:compute(v))
end

-- ---- blocks ----

local function is_end(block) return block.term.op == "ret" and #block.insts == 0 end

local function label(block) return is_end(block) and "next" or "b" .. block.id end

-- The parameters of a target get their values all at once.
function Printer:copies(t)
   local left, right = {}, {}
   for i, p in ipairs(t.block.params) do
      local slot = self.flow.slot[p]
      local code = slot and self.e:argument(t.args[i], p)
      if slot and code ~= "v" .. slot then
         left[#left + 1], right[#right + 1] = "v" .. slot, code
      end
   end
   if #left == 0 then return nil end
   return ("%s = %s"):format(table.concat(left, ", "), table.concat(right, ", "))
end

function Printer:jump(t, next_block)
   local copies = self:copies(t)
   if copies then self:say("%s", copies) end
   if t.block ~= next_block then self:say("goto %s", label(t.block)) end
end

local function condition(self, term)
   if term.op == "br" then return compare(self.e, term.cc, term.args[1], term.args[2], term.w) end
   return ("%s <= %s"):format(self.e:offset(term.args[1], term.n), self.e:offset(term.args[2]))
end

local function negated(self, term)
   if term.op == "br" then return compare(self.e, ir.NEGATED[term.cc], term.args[1], term.args[2], term.w) end
   return ("%s > %s"):format(self.e:offset(term.args[1], term.n), self.e:offset(term.args[2]))
end

function Printer:terminator(block, next_block)
   local term = block.term
   if term.op == "ret" then return next_block and self:say "goto next" end
   local yes, no = term.targets[1], term.targets[2]
   if not no then return self:jump(yes, next_block) end
   local code
   if yes.block == next_block then
      yes, no, code = no, yes, negated(self, term)
   else
      code = condition(self, term)
   end
   local copies = self:copies(yes)
   self:say("if %s then%s goto %s end", code, copies and " " .. copies or "", label(yes.block))
   self:jump(no, next_block)
end

function Printer:block(block, next_block)
   self:say("::b%d::", block.id)
   local stale = {}
   for i, slot in ipairs(self.flow.stale[block]) do stale[i] = "v" .. slot end
   if #stale > 0 then self:say("%s = nil", table.concat(stale, ", ")) end
   for _, v in ipairs(block.insts) do self:instruction(v) end
   self:terminator(block, next_block)
end

-- ---- the whole ----

local function stack_of(program)
   local offsets, size = {}, 0
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "alloca" then
            local align = math.max(8, v.align or 8)
            size = math.ceil(size / align) * align
            offsets[v] = size
            size = size + v.size
         end
      end
   end
   return offsets, math.ceil(size / 8) * 8
end

-- Blocks in order, without those that only end: a jump to one of them is a jump to the end of the loop.
local function layout(order)
   local list = {}
   for i, block in ipairs(order) do
      if i == 1 or not is_end(block) then list[#list + 1] = block end
   end
   return list
end

local function loop_head(printer, options)
   printer:say "local function run(count)"
   if options.stage then printer:say("burst.stage = %d", options.stage) end
   printer:say "for i = 0, count - 1 do"
   printer:say "local pkt = pkts[i]"
   printer:say "local data, len = pkt.data, pkt.len"
   local names = {}
   for i = 1, printer.flow.slots do names[i] = "v" .. i end
   if #names > 0 then printer:say("local %s", table.concat(names, ", ")) end
   if options.guard then printer:say "if pkt.verdict ~= 0 then goto next end" end
end

local function whole(printer)
   local text = { PROLOGUE:format(math.max(1, printer.stack_size / 8)) }
   for _, c in ipairs(printer.constants) do text[#text + 1] = ("local %s = %s\n"):format(c.name, c.code) end
   text[#text + 1] = table.concat(printer.lines, "\n")
   return table.concat(text)
end

---@class tideway.luajit.options
---@field name? string of the chunk, for messages
---@field stage? integer of the first NF, for the fence: not the first segment of a chain
---@field guard? boolean packets that have a verdict are left out: not the first segment of a chain
---@field resume? integer the stage that comes after, noted in packets that go on

--- Print a program.
---@param program tideway.ir.program
---@param options? tideway.luajit.options
---@return { source: string, constants: table }? text of a chunk: given the burst, it returns function(count) and
---  memory that must live as long
---@return string? why not
function M.emit(program, options)
   options = options or {}
   local of_program = flow.of(program)
   local printer = setmetatable({
      lines = {}, constants = {}, names = {}, flow = of_program, barriers = alias.barriers(program),
      resizes = of_program.resizes,
   }, Printer)
   if printer.flow.slots > VARIABLES then
      return nil, ("too large for LuaJIT: %d values live at once, of %d"):format(printer.flow.slots, VARIABLES)
   end
   local stack
   stack, printer.stack_size = stack_of(program)
   printer.e = expression.new(printer.flow, function(kind, v) return printer:constant(kind, v) end, stack)
   loop_head(printer, options)
   local blocks = layout(printer.flow.graph.order)
   for i, block in ipairs(blocks) do printer:block(block, blocks[i + 1]) end
   printer:say "::next::"
   if options.resume then printer:say("if pkt.verdict == 0 then pkt.resume = %d end", options.resume) end
   printer:say "end\nend\nreturn run, anchor"
   local source = whole(printer)
   local ok, why = loadstring(source, "=" .. (options.name or program.name))
   if not ok then return nil, "too large for LuaJIT: " .. why end
   return { source = source, constants = {} }
end

return M
