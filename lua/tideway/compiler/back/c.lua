-- SPDX-License-Identifier: BSD-3-Clause
-- Prints a program for an lcore as C: one function that runs the whole chain over a burst. The text stands alone; it
-- brings the engine's declarations with it and wants no header but the compiler's own.

local ffi = require "ffi"
local abi = require "tideway.abi"
local bulks = require "tideway.compiler.back.c.bulk"
local core = require "tideway.core"
local graphs = require "tideway.compiler.ir.graph"
local hash = require "tideway.compiler.back.c.hash"
local mbufs = require "tideway.compiler.back.c.mbufs"
local operands = require "tideway.compiler.back.c.operand"
local target = require "tideway.compiler.target.lcore"

local M = {}

-- Frames ahead whose first bytes are fetched while this one is worked on.
local AHEAD = 4

local PRELUDE = [[
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
]] .. core.cdef .. [[

#define ACCESS(bits) \
	static inline uint##bits##_t load##bits(const uint8_t *p) \
	{ uint##bits##_t x; __builtin_memcpy(&x, p, sizeof(x)); return x; } \
	static inline void store##bits(uint8_t *p, uint##bits##_t x) \
	{ __builtin_memcpy(p, &x, sizeof(x)); }
ACCESS(8)
ACCESS(16)
ACCESS(32)
ACCESS(64)

#define ATOMIC(bits) \
	typedef uint##bits##_t __attribute__((may_alias)) cell##bits; \
	static inline uint##bits##_t cmpxchg##bits(uint8_t *p, uint##bits##_t old, uint##bits##_t new) \
	{ __atomic_compare_exchange_n((cell##bits *)p, &old, new, false, 5, 5); return old; }
ATOMIC(32)
ATOMIC(64)
]]

local Printer = {}
Printer.__index = Printer

function Printer:say(...) self.lines[#self.lines + 1] = select("#", ...) > 1 and string.format(...) or (...) end

local TYPES, operand, address, address_of = operands.TYPES, operands.operand, operands.address, operands.address_of

local function fits_u32(v) return v.lo ~= nil and v.lo >= 0 and v.hi <= 2 ^ 32 - 1 end

-- ---- operations ----

local OPS = {}

-- num is exact, so it may be computed signed; the 64-bit types wrap, so they are computed unsigned.
local function wrapping(sign)
   return function(v)
      local a, b = operand(v.args[1]), operand(v.args[2])
      if v.w == 32 then return ("(uint32_t)((uint32_t)%s %s (uint32_t)%s)"):format(a, sign, b) end
      if v.type == "num" then return ("%s %s %s"):format(a, sign, b) end
      return ("(uint64_t)%s %s (uint64_t)%s"):format(a, sign, b)
   end
end

OPS.add, OPS.sub, OPS.mul = wrapping "+", wrapping "-", wrapping "*"

local function logical(sign)
   return function(v)
      local code = ("(uint64_t)%s %s (uint64_t)%s"):format(operand(v.args[1]), sign, operand(v.args[2]))
      return v.w == 32 and ("(uint32_t)(%s)"):format(code) or code
   end
end

OPS["and"], OPS["or"], OPS.xor = logical "&", logical "|", logical "^"

-- A division of 32 bits costs a third of one of 64.
local function division(sign)
   return function(v)
      local a, b = v.args[1], v.args[2]
      local type = (v.w == 32 or (fits_u32(a) and fits_u32(b))) and "uint32_t" or "uint64_t"
      return ("(%s)%s %s (%s)%s"):format(type, operand(a), sign, type, operand(b))
   end
end

OPS.div, OPS.mod = division "/", division "%"

function OPS.shl(v)
   local code = ("(uint%d_t)%s << %s"):format(v.w or 64, operand(v.args[1]), operand(v.args[2]))
   return v.w == 32 and ("(uint32_t)(%s)"):format(code) or code
end

function OPS.shr(v) return ("(uint%d_t)%s >> %s"):format(v.w or 64, operand(v.args[1]), operand(v.args[2])) end

function OPS.sar(v)
   local code = ("(int%d_t)%s >> %s"):format(v.w or 64, operand(v.args[1]), operand(v.args[2]))
   return v.w == 32 and ("(uint32_t)(%s)"):format(code) or code
end

function OPS.sext(v) return ("(int%d_t)%s"):format(v.bits, operand(v.args[1])) end
function OPS.zext(v) return ("(uint%d_t)%s"):format(v.bits, operand(v.args[1])) end
function OPS.bswap(v) return ("__builtin_bswap%d((uint%d_t)%s)"):format(v.bits, v.bits, operand(v.args[1])) end
function OPS.convert(v) return operand(v.args[1]) end
function OPS.ptradd(v) return ("%s + %s"):format(operand(v.args[1]), operand(v.args[2])) end
function OPS.load(v) return ("load%d(%s)"):format(v.bits, address(v.args[1], v.off)) end
function OPS.pktdata(_, printer) return printer:field "data" end
function OPS.pktend(_, printer) return ("%s + %s"):format(printer:field "data", printer:field "len") end
function OPS.pktlen(_, printer) return printer:field "len" end
function OPS.alloca(v, printer) return ("s%d%s"):format(v.id, printer.bulk and "[i]" or "") end

function OPS.ctxload(v, printer)
   local f = target.fields[v.field] or error(("an lcore's packet has no field %s"):format(v.field), 0)
   if f.of == "pkt" then return printer:field(f.member) end
   return f.of == "self" and f.member or ("%s->%s"):format(f.of, f.member)
end

local ATOMIC = { add = "add", ["or"] = "or", ["and"] = "and", xor = "xor" }

function OPS.atomic(v)
   local at, bits = address(v.args[1], v.off), v.bits
   local first = operand(v.args[2])
   if v.kind == "cmpxchg" then return ("cmpxchg%d(%s, %s, %s)"):format(bits, at, first, operand(v.args[3])) end
   local name = v.kind == "xchg" and "exchange_n" or "fetch_" .. ATOMIC[v.kind]
   return ("__atomic_%s((cell%d *)(%s), (uint%d_t)%s, 5)"):format(name, bits, at, bits, first)
end

local LOOK_UP = { tw_hash_get = true, tw_hash_put = true }

function OPS.call(v, printer)
   local name, text
   if LOOK_UP[v.fn] and v.table and v.args[1].op == "const" then name, text = hash.get(v.fn, v.table) end
   if name then
      printer.helpers[name] = text
      return ("%s(%s, %s)"):format(name, operand(v.args[2]), operand(v.args[3]))
   end
   local args = { v.packet and "pkt" }
   local prototype = target.functions[v.fn] or error(("the engine has no function %s"):format(v.fn), 0)
   for _, a in ipairs(v.args) do
      args[#args + 1] = prototype.params[#args + 1] == "ptr" and ("(void *)%s"):format(operand(a)) or operand(a)
   end
   return ("%s(%s)"):format(v.fn, table.concat(args, ", "))
end

-- This lcore's row of a counters table: before the loop.
local function row_of(self, v)
   local stride = ffi.new "uint32_t[1]"
   local base = address_of(abi.C.tw_counters_base(v.table.table, stride))
   local name = ("row_%x"):format(base)
   if not self.rows[name] then
      self.rows[name] = true
      table.insert(self.rows, ("uint8_t *const %s = (uint8_t *)0x%xULL + burst->lcore * %dULL;"):format(name, base,
         stride[0] * 8))
   end
   return name
end

-- ---- statements ----

function Printer:line(pos)
   if not pos or not pos.line or not pos.file then return end
   local text = ('#line %d "%s"'):format(pos.line, (pos.file:gsub('[\\"]', "\\%0")))
   if text ~= self.last_line then self:say(text) end
   self.last_line = text
end

function Printer:instruction(v)
   self:line(v.pos)
   if v.op == "store" then
      return self:say("store%d(%s, %s);", v.bits, address(v.args[1], v.off), operand(v.args[2]))
   elseif v.op == "ctxstore" then
      local f = target.fields[v.field]
      if not f or not f.write then error(("an lcore's packet has no field %s to write"):format(v.field), 0) end
      if f.member == "odd" and self.options.mbufs then return end -- known from the verdicts, behind the program
      local member = f.of == "pkt" and self:field(f.member) or ("%s->%s"):format(f.of, f.member)
      return self:say("%s = %s;", member, operand(v.args[1]))
   end
   local code = v.fn == "counters_row" and row_of(self, v) or OPS[v.op](v, self)
   if v.type == "void" then return self:say("%s;", code) end
   self:say("%s = (%s)(%s);", operand(v), TYPES[v.type], code)
end

local UNSIGNED = { ult = "<", ule = "<=", ugt = ">", uge = ">=" }
local SIGNED = { eq = "==", ne = "!=", lt = "<", le = "<=", gt = ">", ge = ">=" }

local function condition(term)
   local a, b = term.args[1], term.args[2]
   if term.op == "check" then return ("%s + %d <= %s"):format(operand(a), term.n, operand(b)) end
   local sign = SIGNED[term.cc] or UNSIGNED[term.cc]
   if a.type == "ptr" or b.type == "ptr" then
      return ("(const void *)%s %s (const void *)%s"):format(operand(a), sign, operand(b))
   end
   local type = ("%sint%d_t"):format(UNSIGNED[term.cc] and "u" or "", term.w or 64)
   return ("(%s)%s %s (%s)%s"):format(type, operand(a), sign, type, operand(b))
end

-- The parameters of a target get their values all at once.
local function copies(t)
   local read, written = {}, {}
   for i, p in ipairs(t.block.params) do
      local a = t.args[i]
      if a ~= p then
         read[#read + 1] = ("%s t%d = (%s)%s;"):format(TYPES[p.type], i, TYPES[p.type], operand(a))
         written[#written + 1] = ("v%d = t%d;"):format(p.id, i)
      end
   end
   return #read > 0 and table.concat(read, " ") .. " " .. table.concat(written, " ") .. " " or ""
end

function Printer:jump(t)
   local bulk = self.first_pass
   local go = bulk and not bulk.before[t.block] and self:exit(t.block, bulk.live_in[t.block]) or
      ("goto b%d;"):format(t.block.id)
   local moved = copies(t)
   return moved == "" and not go:find "; " and go or ("{ %s%s }"):format(moved, go)
end

function Printer:terminator(term)
   self:line(term.pos)
   if term.op == "ret" then return self:say "goto next;" end
   local targets = term.targets
   if not targets[2] then return self:say(self:jump(targets[1])) end
   self:say("if (%s) %s else %s", condition(term), self:jump(targets[1]), self:jump(targets[2]))
end

-- ---- the whole ----

function Printer:declarations(order)
   local lists = { num = {}, u64 = {}, i64 = {}, ptr = {} }
   local function declare(v)
      if lists[v.type] then table.insert(lists[v.type], (v.type == "ptr" and "*v" or "v") .. v.id) end
   end
   for _, block in ipairs(order) do
      for _, p in ipairs(block.params) do declare(p) end
      for _, v in ipairs(block.insts) do
         declare(v)
         if v.op == "alloca" then
            local align = math.max(8, v.align or 8)
            self:say("_Alignas(%d) uint8_t s%d%s[%d];", align, v.id, self.bulk and "[TW_BURST_MAX]" or "",
               math.ceil(v.size / align) * align)
         end
      end
   end
   for _, type in ipairs { "num", "u64", "i64", "ptr" } do
      if #lists[type] > 0 then
         self:say("%s %s;", type == "ptr" and "uint8_t" or TYPES[type], table.concat(lists[type], ", "))
      end
   end
end

function Printer:loop_head()
   self:say "for (int32_t i = 0; i < count; i++) {"
   self:say "struct tw_pkt *pkt = &burst->pkts[i];"
end

function Printer:fetch_ahead()
   -- Behind the last packet stands what an earlier burst left: to fetch that does no harm.
   self:say("__builtin_prefetch(burst->pkts[(i + %d) & (TW_BURST_MAX - 1)].data, 1);", AHEAD)
end

function Printer:loop_end()
   self:say "next:;"
   if self.options.resume then self:say("if (!pkt->verdict) pkt->resume = %d;", self.options.resume) end
   self:say "}"
end

function Printer:block(block, first, last)
   for i = first, last do self:instruction(block.insts[i]) end
end

function Printer:body(order)
   self:declarations(order)
   self:loop_head()
   self:fetch_ahead()
   if self.options.guard then self:say "if (pkt->verdict) goto next;" end
   for _, block in ipairs(order) do
      self:say("b%d:;", block.id)
      self:block(block, 1, #block.insts)
      self:terminator(block.term)
   end
   self:loop_end()
end

-- ---- fields of the packet ----

--- A field of the packet: in the burst, or a variable.
function Printer:field(member)
   return self.options.mbufs and mbufs.FIELDS[member] and member or "pkt->" .. member
end

-- ---- two passes with a look-up of all packets in between ----

-- Made again rather than kept.
local CHEAP = { pktdata = true, pktend = true, pktlen = true, alloca = true }

local function sorted(live)
   local list = {}
   for v in pairs(live) do list[#list + 1] = v end
   table.sort(list, function(a, b) return a.id < b.id end)
   return list
end

-- Code that ends a packet's first pass; the second goes on at `block`, or behind the look-up when that is nil.
function Printer:exit(block, live)
   local code, name = {}, block and "b" .. block.id or "found"
   if not self.exits[name] then
      self.exits[#self.exits + 1] = { name = name, live = live }
      self.exits[name] = #self.exits
   end
   for _, v in ipairs(sorted(live)) do
      if not CHEAP[v.op] and v.fn ~= "counters_row" then
         self.kept[v] = true
         code[#code + 1] = ("k%d[i] = v%d;"):format(v.id, v.id)
      end
   end
   code[#code + 1] = ("way[i] = %d; goto over;"):format(self.exits[name])
   return table.concat(code, " ")
end

function Printer:first(bulk, order)
   self.first_pass = bulk
   self:loop_head()
   self:fetch_ahead()
   if self.options.guard then self:say "if (pkt->verdict) { way[i] = 0; goto over; }" end
   for _, block in ipairs(order) do
      if bulk.before[block] then
         self:say("b%d:;", block.id)
         self:block(block, 1, block == bulk.block and bulk.at - 1 or #block.insts)
         if block == bulk.block then
            self:say("keys[n] = %s; who[n++] = i; %s", operand(bulk.call.args[2]), self:exit(nil, bulk.live_after))
         else
            self:terminator(block.term)
         end
      end
   end
   self:say "over:;\n}"
   self.first_pass = nil
end

function Printer:look_up(bulk)
   local now = bulk.call.args[3].op == "const" and operand(bulk.call.args[3]) or "burst->now"
   self:line(bulk.call.pos)
   self:say "if (n) {"
   self:say("tw_hash_get_bulk((void *)%s, keys, n, %s, values);", operand(bulk.call.args[1]), now)
   self:say "for (uint32_t j = 0; j < n; j++) {"
   self:say "__builtin_prefetch(values[j]);"
   self:say "found_at[who[j]] = values[j];"
   self:say "}\n}"
end

function Printer:second(bulk, order)
   self:loop_head()
   self:say "switch (way[i]) {"
   for number, exit in ipairs(self.exits) do
      self:say("case %d:", number)
      for _, v in ipairs(sorted(exit.live)) do
         if self.kept[v] then self:say("v%d = k%d[i];", v.id, v.id) else self:instruction(v) end
      end
      self:say("goto %s;", exit.name)
   end
   self:say "default: goto next;\n}"
   for _, block in ipairs(order) do
      if block == bulk.block then
         self:say("found:;\nv%d = found_at[i];", bulk.call.id)
         self:block(block, bulk.at + 1, #block.insts)
         self:terminator(block.term)
      elseif not bulk.before[block] then
         self:say("b%d:;", block.id)
         self:block(block, 1, #block.insts)
         self:terminator(block.term)
      end
   end
   self:loop_end()
end

function Printer:body_in_passes(bulk, order)
   self.bulk, self.exits, self.kept = bulk, {}, {}
   self:declarations(order)
   self:say "const void *keys[TW_BURST_MAX];\nvoid *values[TW_BURST_MAX], *found_at[TW_BURST_MAX];"
   self:say "uint8_t who[TW_BURST_MAX], way[TW_BURST_MAX];\nuint32_t n = 0;"
   local place = #self.lines + 1
   self:first(bulk, order)
   for _, v in ipairs(sorted(self.kept)) do
      table.insert(self.lines, place, ("%s k%d[TW_BURST_MAX];"):format(TYPES[v.type], v.id))
   end
   self:look_up(bulk)
   self:second(bulk, order)
end

---@class tideway.c.options
---@field name? string of the C function
---@field stage? integer of the first NF, for the fence: not the first segment of a chain
---@field guard? boolean packets that have a verdict are left out: not the first segment of a chain
---@field resume? integer the stage that comes after, noted in packets that go on
---@field bulk? boolean false: no look-ups of all packets at once
---@field stages? integer NFs of the chain, when the program may be all of it

--- The declarations that functions of M.emit need in front of them, once per file.
---@return string
function M.prelude() return PRELUDE end

local HEADING = "void %s(struct tw_burst *burst, int32_t count)\n"

local function print_function(heading, program, options, body)
   local printer = setmetatable({ lines = {}, rows = {}, helpers = {}, options = options }, Printer)
   if options.stage then printer:say("burst->stage = %d;", options.stage) end
   local graph = graphs.of(program)
   body(printer, graph.order, graph)
   local helpers = {}
   for _, text in pairs(printer.helpers) do helpers[#helpers + 1] = text end
   table.sort(helpers)
   return ("%s%s{\n%s\n%s\n}\n"):format(table.concat(helpers), heading:format(options.name or "chain"),
      table.concat(printer.rows, "\n"), table.concat(printer.lines, "\n"))
end

--- Print a program as a C function `void NAME(struct tw_burst *burst, int32_t count)`, and where it can as NAME_mbufs,
--- which runs straight on mbufs (tw_native_mbufs_fn of core/abi_native.h).
---@param program tideway.ir.program
---@param options? tideway.c.options
---@return string
function M.emit(program, options)
   options = options or {}
   local order, found = graphs.of(program).order, options.bulk ~= false and bulks.find(program)
   local text = print_function(HEADING, program, options, function(printer)
      if found then printer:body_in_passes(found, order) else printer:body(order) end
   end)
   if found or not mbufs.runs(order, options) then return text end
   local on_mbufs = setmetatable({ mbufs = true }, { __index = options })
   return text .. print_function(mbufs.HEADING, program, on_mbufs, mbufs.body)
end

return M
