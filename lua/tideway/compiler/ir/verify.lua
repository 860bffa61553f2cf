-- SPDX-License-Identifier: BSD-3-Clause
-- Whether a program keeps the rules of the IR: every value defined once and used only where that definition
-- dominates, operand types, ranges, arguments of targets, loops. A program that fails is a bug of the pass before.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local text = require "tideway.compiler.ir.text"

local LIMIT = 2 ^ 53
local INTEGER = { num = true, u64 = true, i64 = true }
local TYPES = { num = true, u64 = true, i64 = true, ptr = true, void = true }
local SPACES = { pkt = true, value = true, stack = true, mem = true, ctx = true }
local ATOMICS = { add = 2, ["or"] = 2, ["and"] = 2, xor = 2, xchg = 2, cmpxchg = 3 }

local function fail(where, line, what, ...)
   error({ ir = ("b%d: %s: %s"):format(where.id, line and text.line(line) or "", what:format(...)) }, 0)
end

local function show(v) return v.op == "const" and "a constant" or "v" .. tostring(v.id) end

-- ---- values by themselves ----

local function check_type(block, v, line)
   if not TYPES[v.type] then fail(block, nil, "%s has type %s", show(v), tostring(v.type)) end
   if v.type == "num" and v.op ~= "const" then
      local lo, hi = v.lo, v.hi
      if not (lo and hi) then fail(block, line, "%s is num without a range", show(v)) end
      if not (lo >= -LIMIT and hi <= LIMIT and lo <= hi) then
         fail(block, line, "%s has range %s..%s", show(v), lo, hi)
      end
      if lo % 1 ~= 0 or hi % 1 ~= 0 then fail(block, line, "%s has a range that is no integer", show(v)) end
   elseif v.type == "ptr" and v.op ~= "const" and not SPACES[v.space] then
      fail(block, line, "%s has space %s", show(v), tostring(v.space))
   end
end

local function arity(block, v, n)
   if #v.args ~= n then fail(block, v, "%d operands, %d needed", #v.args, n) end
end

local function integers(block, v, first)
   for i = first or 1, #v.args do
      if not INTEGER[v.args[i].type] then fail(block, v, "operand %d is %s, no integer", i, v.args[i].type) end
   end
end

local function pointer(block, v)
   if v.args[1].type ~= "ptr" then fail(block, v, "operand 1 is %s, no pointer", v.args[1].type) end
end

local WIDTHS = {
   sext = { [8] = true, [16] = true, [32] = true }, zext = { [8] = true, [16] = true, [32] = true },
   bswap = { [16] = true, [32] = true, [64] = true }, atomic = { [32] = true, [64] = true },
   load = { [8] = true, [16] = true, [32] = true, [64] = true },
}
WIDTHS.store = WIDTHS.load

local RULES = {}

local function arithmetic(block, v)
   arity(block, v, 2)
   integers(block, v)
   if not INTEGER[v.type] then fail(block, v, "the result is %s, no integer", v.type) end
   if v.w == 32 then return end
   local shift = v.op == "shl" or v.op == "shr" or v.op == "sar"
   for i = 1, shift and 1 or 2 do
      if v.args[i].type ~= v.type then fail(block, v, "operand %d is %s", i, v.args[i].type) end
   end
end
for op in ("add sub mul div mod and or xor shl shr sar"):gmatch "%S+" do RULES[op] = arithmetic end

local function unary(block, v)
   arity(block, v, 1)
   integers(block, v)
   if not INTEGER[v.type] then fail(block, v, "the result is %s, no integer", v.type) end
end
for op in ("sext zext bswap convert"):gmatch "%S+" do RULES[op] = unary end

function RULES.ptradd(block, v)
   arity(block, v, 2)
   pointer(block, v)
   if v.args[2].type ~= "num" then fail(block, v, "operand 2 is %s, no num", v.args[2].type) end
   if v.type ~= "ptr" then fail(block, v, "the result is %s, no pointer", v.type) end
   if v.args[1].op ~= "const" and v.args[1].space ~= v.space then
      fail(block, v, "%s is of space %s", show(v.args[1]), tostring(v.args[1].space))
   end
end

function RULES.load(block, v)
   arity(block, v, 1)
   pointer(block, v)
   if v.type == "void" then fail(block, v, "no result") end
   if v.bits == 64 and v.type == "num" and v.lo < 0 then fail(block, v, "the range has negative numbers") end
end

function RULES.store(block, v)
   arity(block, v, 2)
   pointer(block, v)
   if v.type ~= "void" then fail(block, v, "a store has no result") end
end

function RULES.atomic(block, v)
   if not ATOMICS[v.kind] then fail(block, v, "no kind %s", tostring(v.kind)) end
   arity(block, v, ATOMICS[v.kind])
   pointer(block, v)
   integers(block, v, 2)
   if (v.type ~= "void") ~= (v.fetch == true) then fail(block, v, "fetch and the result's type disagree") end
end

function RULES.alloca(block, v, entry)
   if block ~= entry then fail(block, v, "stands outside of the entry block") end
   if v.type ~= "ptr" or v.space ~= "stack" then fail(block, v, "is no pointer to the stack") end
   if not (v.size and v.size > 0) then fail(block, v, "size %s", tostring(v.size)) end
end

local function frame_pointer(block, v)
   arity(block, v, 0)
   if v.type ~= "ptr" or v.space ~= "pkt" then fail(block, v, "is no pointer to the frame") end
end
RULES.pktdata, RULES.pktend = frame_pointer, frame_pointer

function RULES.ctx(block, v)
   arity(block, v, 0)
   if v.type ~= "ptr" or v.space ~= "ctx" then fail(block, v, "is no pointer to the context") end
end

function RULES.pktlen(block, v)
   arity(block, v, 0)
   if v.type ~= "num" then fail(block, v, "is no num") end
end

function RULES.ctxload(block, v)
   arity(block, v, 0)
   if not v.field or v.type == "void" then fail(block, v, "field or result is missing") end
end

function RULES.ctxstore(block, v)
   arity(block, v, 1)
   if not v.field then fail(block, v, "field is missing") end
end

function RULES.call(block, v)
   if type(v.fn) ~= "string" then fail(block, v, "fn is %s", tostring(v.fn)) end
   if v.pure and (v.resizes or v.writes and next(v.writes)) then fail(block, v, "is pure, but has an effect") end
end

local function check_instruction(block, v, entry)
   local rule = RULES[v.op]
   if not rule then fail(block, nil, "v%s: no operation %s", tostring(v.id), tostring(v.op)) end
   check_type(block, v, v)
   if v.w ~= nil and v.w ~= 32 and v.w ~= 64 then fail(block, v, "w is %s", tostring(v.w)) end
   if WIDTHS[v.op] and not WIDTHS[v.op][v.bits] then fail(block, v, "bits is %s", tostring(v.bits)) end
   if v.off and (v.off < -32768 or v.off > 32767) then fail(block, v, "off is %d, beyond 16 bits", v.off) end
   rule(block, v, entry)
end

-- ---- terminators ----

local function is_nil(v) return v.op == "const" and v.type == "ptr" and v.value == 0 and not v.object end

local function check_branch(block, term)
   local a, b = term.args[1], term.args[2]
   if #term.args ~= 2 or not ir.NEGATED[term.cc] then fail(block, term, "two operands and a condition are needed") end
   if a.type ~= b.type then fail(block, term, "%s and %s are of types %s and %s", show(a), show(b), a.type, b.type) end
   if a.type ~= "ptr" then return end
   if term.cc ~= "eq" and term.cc ~= "ne" or not (is_nil(a) or is_nil(b)) then
      fail(block, term, "a pointer can only be compared with nil, by eq or ne")
   end
end

local function check_bounds(block, term)
   local p, e = term.args[1], term.args[2]
   if #term.args ~= 2 or p.type ~= "ptr" or p.space ~= "pkt" then fail(block, term, "no pointer to the frame") end
   if e.op ~= "pktend" then fail(block, term, "%s is no pktend", show(e)) end
   local n = term.n
   if type(n) ~= "number" or n < 0 or n > 65535 then fail(block, term, "n is %s", tostring(n)) end
   while p.op == "ptradd" do
      local by = p.args[2]
      -- Tests in front may have narrowed it further: what is below 0 by its own range need not be.
      if by.lo < -65535 or by.hi > 65535 then
         fail(block, term, "%s adds %s..%s to the pointer: up to 65535 is allowed", show(p), by.lo, by.hi)
      end
      p = p.args[1]
   end
end

local TARGETS = { jmp = 1, br = 2, check = 2, ret = 0 }

local function check_terminator(block)
   local term = block.term
   if not term then fail(block, nil, "no terminator") end
   local n = TARGETS[term.op]
   if not n then fail(block, nil, "no terminator %s", tostring(term.op)) end
   if #ir.targets(term) ~= n then fail(block, term, "%d targets, %d needed", #ir.targets(term), n) end
   if term.op == "br" then check_branch(block, term) end
   if term.op == "check" then check_bounds(block, term) end
   if term.op == "ret" and (#term.args ~= 1 or not INTEGER[term.args[1].type]) then
      fail(block, term, "one integer is needed")
   end
   for _, t in ipairs(ir.targets(term)) do
      local params = t.block.params
      if #t.args ~= #params then fail(block, term, "%d arguments to b%d, %d needed", #t.args, t.block.id, #params) end
      for i, a in ipairs(t.args) do
         local p = params[i]
         if a.type ~= p.type then fail(block, term, "%s is %s, v%d is %s", show(a), a.type, p.id, p.type) end
         if a.type == "ptr" and a.op ~= "const" and a.space ~= p.space then
            fail(block, term, "%s is of space %s, v%d of %s", show(a), tostring(a.space), p.id, tostring(p.space))
         end
      end
   end
end

-- ---- the whole ----

local function define(program)
   local owner, place, ids = {}, {}, {}
   for _, block in ipairs(program.blocks) do
      local function enter(v, at)
         if owner[v] then fail(block, nil, "%s is defined twice", show(v)) end
         if not v.id or ids[v.id] then fail(block, nil, "id %s stands for two values", tostring(v.id)) end
         if v.op == "const" then fail(block, nil, "a constant stands in the block") end
         owner[v], place[v], ids[v.id] = block, at, true
      end
      for _, p in ipairs(block.params) do
         if p.op ~= "param" then fail(block, nil, "%s is no param", show(p)) end
         check_type(block, p)
         enter(p, 0)
      end
      for i, v in ipairs(block.insts) do enter(v, i) end
   end
   return owner, place
end

local function check_uses(program, graph)
   local owner, place = define(program)
   local function use(block, line, v, at)
      if v.op == "const" then return check_type(block, v, line) end
      local from = owner[v]
      if not from then fail(block, line, "%s stands in no block", show(v)) end
      if v.type == "void" then fail(block, line, "%s is no value", show(v)) end
      if graph.index[block] then
         local good
         if from == block then good = place[v] < at
         else good = graph.index[from] and graphs.dominates(graph, from, block) end
         if not good then fail(block, line, "%s, defined in b%d, does not dominate", show(v), from.id) end
      end
   end
   for _, block in ipairs(program.blocks) do
      for i, v in ipairs(block.insts) do
         for _, a in ipairs(v.args) do use(block, v, a, i) end
      end
      local after = #block.insts + 1
      for _, a in ipairs(block.term.args) do use(block, block.term, a, after) end
      for _, t in ipairs(ir.targets(block.term)) do
         for _, a in ipairs(t.args) do use(block, block.term, a, after) end
      end
   end
end

local function check_loops(graph)
   for i, block in ipairs(graph.order) do
      for _, edge in ipairs(graph.preds[block]) do
         if graph.index[edge.block] >= i then
            if not block.loop then fail(edge.block, edge.block.term, "goes back to b%d, which is no loop", block.id) end
            if not graphs.dominates(graph, block, edge.block) then
               fail(edge.block, edge.block.term, "b%d is entered from elsewhere too: no loop header", block.id)
            end
         end
      end
   end
end

local function verify(program)
   local entry = program.blocks[1]
   if not entry then error({ ir = "the program has no block" }, 0) end
   if #entry.params > 0 then fail(entry, nil, "the entry block has parameters") end
   local present, ids = {}, {}
   for _, block in ipairs(program.blocks) do
      if ids[block.id] then fail(block, nil, "two blocks have this number") end
      present[block], ids[block.id] = true, true
   end
   for _, block in ipairs(program.blocks) do
      for _, t in ipairs(ir.targets(block.term or {})) do
         if not present[t.block] then fail(block, nil, "b%d is not in the program", t.block.id) end
         if t.block == entry then fail(block, block.term, "goes to the entry block") end
      end
      for _, v in ipairs(block.insts) do check_instruction(block, v, entry) end
      check_terminator(block)
   end
   local graph = graphs.of(program)
   check_uses(program, graph)
   check_loops(graph)
end

local M = {}

--- Whether the program is well formed: true, or nil and a sentence that names block, line and fault.
---@param program tideway.ir.program
---@return true?, string?
function M.verify(program)
   local ok, why = pcall(verify, program)
   if ok then return true end
   if type(why) == "table" and why.ir then return nil, why.ir end
   error(why, 0)
end

-- The module itself can be called.
return setmetatable(M, { __call = function(_, program) return M.verify(program) end })
