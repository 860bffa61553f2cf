-- SPDX-License-Identifier: BSD-3-Clause
-- From IR to machine instructions over virtual registers: two addresses, immediates, addressing modes, the
-- calls' registers, no SSA any more. One machine instruction here is one of the program, save what becomes
-- nothing when the registers are given out.

local ir = require "tideway.compiler.ir"
local build = require "tideway.compiler.back.ebpf.build"
local demand = require "tideway.compiler.back.ebpf.demand"
local flow = require "tideway.compiler.back.ebpf.flow"
local known = require "tideway.compiler.back.ebpf.known"
local operand = require "tideway.compiler.back.ebpf.operand"
local uses = require "tideway.compiler.back.ebpf.uses"
local arith = require "tideway.compiler.back.ebpf.arith"
local control = require "tideway.compiler.back.ebpf.control"
local memory = require "tideway.compiler.back.ebpf.memory"
local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

local OP = {}
for _, part in ipairs { arith, memory } do
   for op, emit in pairs(part.OP) do OP[op] = emit end
end

-- ---- context ----

local function field(s, name, pos)
   local found = s.target.fields[name]
   if not found then
      diagnostic.raise(pos, ("%s has no context field %s"):format(s.target.name, name), s.target:fields_hint())
   end
   return found
end

local function load_field(s, dst, name, pos)
   local f = field(s, name, pos)
   return s.out:load(f.bits, dst, { reg = s:context(), off = f.off })
end

-- Register with an end of the frame: the one that this block has loaded, or a new one.
local function packet_edge(s, name, pos)
   return s.edges[name] or load_field(s, s.out:fresh(), name, pos)
end

function OP.pktdata(s, value) s.edges.data = load_field(s, s:define(value), "data", value.pos) end

function OP.pktend(s, value) s.edges.data_end = load_field(s, s:define(value), "data_end", value.pos) end

function OP.pktlen(s, value)
   local dst = s:define(value)
   if s.target.length then return load_field(s, dst, s.target.length, value.pos) end
   local data = packet_edge(s, "data", value.pos)
   s.out:move(dst, packet_edge(s, "data_end", value.pos))
   s.out:alu("sub", 64, dst, data)
end

-- The field "ctx" is the context itself, for helpers that want it.
function OP.ctxload(s, value)
   if value.field == "ctx" then return OP.ctx(s, value) end
   load_field(s, s:define(value), value.field, value.pos)
end

function OP.ctx(s, value) s.reg[value] = s:context() end

function OP.ctxstore(s, value)
   local f = field(s, value.field, value.pos)
   if not f.write then
      diagnostic.raise(value.pos, ("%s: the context field %s is read-only"):format(s.target.name, value.field))
   end
   s.out:store(f.bits, { reg = s:context(), off = f.off }, s:operand(value.args[1]))
end

-- ---- calls ----

local function stack_objects(s, args)
   local objects
   for _, arg in ipairs(args) do
      local slot = s:object(arg)
      if slot then
         objects = objects or {}
         objects[#objects + 1] = slot
      end
   end
   return objects
end

-- A zero that the verifier does not know for one: the high bits of the frame's length, spread over 24 bits.
local function unknown_zero(s, value)
   local dst, copy = s:define(value), s.out:fresh()
   if s.target.length then
      load_field(s, dst, s.target.length, value.pos)
   else
      local data = packet_edge(s, "data", value.pos)
      s.out:move(dst, packet_edge(s, "data_end", value.pos))
      s.out:alu("sub", 64, dst, data)
   end
   s.out:alu_const("shr", 64, dst, 20)
   s.out:alu_const("and", 64, dst, 4095)
   s.out:move(copy, dst)
   s.out:alu_const("shl", 64, copy, 12)
   s.out:alu("or", 64, dst, copy)
end

-- The same number with a mask that changes nothing: the verifier forgets its least value by it.
local function loosen(s, value)
   local dst = s:define(value)
   s.out:move(dst, s:operand(s.uses:resolve(value.args[1])))
   s.out:alu_const("and", 64, dst, known.mask(value.hi))
end

function OP.call(s, value)
   local fn, args = value.fn, value.args
   if fn == "zero" then return unknown_zero(s, value) end
   if fn == "loosen" then return loosen(s, value) end
   local id = s.target:helper(fn)
   if not id then
      diagnostic.raise(value.pos, ("%s: the kernel has no helper %s here"):format(s.target.name, tostring(fn)),
         s.target:helper_hint(fn))
   elseif #args > 5 then
      diagnostic.raise(value.pos, ("%s gets %d arguments, 5 are possible"):format(fn, #args))
   end
   for i, arg in ipairs(args) do s:into(i, arg) end
   s.out:call(id, #args, stack_objects(s, args))
   if value.resizes then s.edges = {} end
   if value.type ~= "void" and s.uses.count[value] then s.out:move(s:define(value), 0) end
end

-- ---- the pass ----

local Selector = setmetatable({}, { __index = operand })
Selector.__index = Selector

local function selector(program, target)
   local graph = flow.analyse(program)
   local s = setmetatable({
      target = target, flow = graph, out = build.new(), uses = uses.analyse(graph),
      known = known.new(graph, ir.NEGATED, ir.MIRRORED), reg = {}, slot = {}, bias = {}, objects = {}, block = {},
      loose = {},
   }, Selector)
   s.whole = demand.analyse(graph, s.uses)
   for _, block in ipairs(graph.order) do
      local first = block.insts[1] or block.term
      s.block[block] = s.out:new_block(block.id, graph.depth[block], first.pos)
      for _, param in ipairs(block.params) do
         if s.uses.count[param] and s.uses:resolve(param) == param then
            s.reg[param] = s.out:fresh(param.name)
            s.loose[param] = not s.whole[param]
         end
      end
   end
   return s
end

local function select_block(s, block)
   local out = s.out
   s.current, s.edges = block, {}
   out:at(s.block[block])
   s.known:enter(block)
   for _, value in ipairs(block.insts) do
      out.pos = value.pos
      if s.uses:wanted(value) then
         local emit = OP[value.op] or error("no such operation in eBPF: " .. tostring(value.op))
         emit(s, value)
      end
      if not s.loose[value] then s.known:define(value, block) end
   end
   out.pos = block.term.pos or out.pos
   control.TERM[block.term.op](s, block.term)
end

--- Machine program for an IR program, over virtual registers.
---@param program tideway.ir.program
---@param target tideway.kernel.target
function M.select(program, target)
   local s = selector(program, target)
   for _, block in ipairs(s.flow.order) do select_block(s, block) end
   if s.ctx then
      local start = { insts = {} }
      s.out.pos = nil
      s.out:at(start)
      s.out:move(s.ctx, 1)
      table.insert(s.out.blocks[1].insts, 1, start.insts[1])
   end
   return s.out
end

return M
