-- SPDX-License-Identifier: BSD-3-Clause
-- One walk over the dominator tree that gives every value its simplest equal: folding, value numbering, known memory
-- contents, conditions that earlier branches have decided. Edges on which the next block's branch is decided are
-- noted for thread.lua.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local arith = require "tideway.compiler.opt.arith"
local branch = require "tideway.compiler.opt.branch"
local cfg = require "tideway.compiler.opt.cfg"
local facts = require "tideway.compiler.opt.facts"
local fold = require "tideway.compiler.opt.fold"
local memory = require "tideway.compiler.opt.memory"
local thread = require "tideway.compiler.opt.thread"

local M = {}

local Walk = {}
Walk.__index = Walk

-- ---- value numbering ----

local function name(v)
   return v.op == "const" and v.type .. tostring(v.object or v.value) or v.id
end

local function key(v)
   local args = v.args
   local k = v.op .. (v.bits or "") .. (v.w == 32 and "w" or "") .. v.type .. ":" .. name(args[1])
   return args[2] and k .. ":" .. name(args[2]) or k
end

-- A num that is added to packet pointers must keep a range within 0..65535 for the checks.
local function loses_range(walk, from, to)
   if from.type ~= "num" or not walk.offsets[from] or to.op == "const" then return false end
   return (to.lo < 0 or to.hi > 65535) and from.lo >= 0 and from.hi <= 65535
end

-- Lets `to` stand for v wherever v is used; false when it must not.
function Walk:replace(v, to)
   if loses_range(self, v, to) then return false end
   self.facts:set(self.facts.leader, v, to)
   self.changed = self.changed + 1
   return true
end

function Walk:append(v)
   self.out[#self.out + 1] = v
   return v
end

--- The value computed before as `v` would be, if there is one.
function Walk:numbered(v) return self.numbers[key(v)] end

-- A pure instruction: what stands for it, appended when it is new.
function Walk:pure(v)
   local to = fold.simplify(self, v)
   if to then
      if self:replace(v, to) then return to end
      return self:append(v)
   end
   if not self.on.gvn then return self:append(v) end
   local k = key(v)
   local known = self.numbers[k]
   if known and self:replace(v, known) then return known end
   self.facts:set(self.numbers, k, v)
   return self:append(v)
end

local FRAME = { pktdata = true, pktend = true, pktlen = true }

function Walk:frame(v)
   if self.on.gvn and not v.anew then
      local known = self.contents:find("frame", v.op)
      if known then
         self:replace(v, known.value)
         return known.value
      end
      self.contents:add { frame = v.op, value = v }
   end
   return self:append(v)
end

--- A new instruction at the current place; what stands for it.
function Walk:emit(op, type, args, fields)
   fields = fields or {}
   fields.pos = self.pos
   if type == "num" and not fields.lo then fields.lo, fields.hi = -2 ^ 53, 2 ^ 53 end
   local v = ir.value(self.program, op, type, args, fields)
   if FRAME[op] then return self:frame(v) end
   if op == "ptradd" and self.offsets then self.offsets[args[2]] = true end
   return self:pure(v)
end

-- ---- memory ----

-- Constants that pointers were moved by go into the offset of the access.
function Walk:address(v)
   if not self.on.address then return end
   local p = v.args[1]
   while p.op == "ptradd" and p.args[2].op == "const" do
      local off = (v.off or 0) + p.args[2].value
      if off < -32768 or off > 32767 or p.space == "pkt" and off < 0 then return end
      v.off, p = off, self.facts:resolve(p.args[1])
      v.args[1] = p
   end
end

-- What a load of `v`'s shape sees after `x` was stored; nil when that cannot be said.
local function seen(walk, v, x)
   local bits = v.bits
   if x.type == "ptr" or v.type == "ptr" then
      return x.type == v.type and bits == 64 and x.op ~= "const" and x.space == v.space and x or nil
   end
   if bits < 64 then
      local lo, hi = walk.facts:range(x)
      if not (x.type == "num" and lo and lo >= 0 and hi < 2 ^ bits) then
         if x.op ~= "const" then return walk:emit("zext", v.type, { x }, { bits = bits, lo = v.lo, hi = v.hi }) end
         return arith.evaluate({ op = "zext", bits = bits, type = v.type }, x.value)
      end
   end
   if x.type == v.type then return x end
   if x.op == "const" then return arith.constant(v.type, x.value) end
   return walk:emit("convert", v.type, { x }, { lo = v.lo, hi = v.hi })
end

function Walk:load(v)
   self:address(v)
   local p, off, bits = v.args[1], v.off or 0, v.bits
   if not self.on.memory or p.op == "const" then return self:append(v) end
   local entry = self.contents:at(p, off, bits)
   if entry then
      local to = entry.value
      if entry.stored or to.type ~= v.type then to = seen(self, v, to) end
      if to and self:replace(v, to) then return end
   end
   self.contents:add { p = p, off = off, bits = bits, size = bits / 8, value = v }
   self:append(v)
end

function Walk:store(v)
   self:address(v)
   local p, off, bits = v.args[1], v.off or 0, v.bits
   if self.on.fold then v.args[2] = fold.strip(v.args[2], bits) end
   if not self.on.memory or p.op == "const" then
      self.contents:clobber(v)
      return self:append(v)
   end
   local x = v.args[2]
   local entry = self.contents:at(p, off, bits)
   local same = entry and (entry.value == x or x.op == "const" and entry.value.op == "const"
      and entry.value.value == x.value and entry.value.type == x.type)
   if same and (p.space == "pkt" or p.space == "stack") then
      self.changed = self.changed + 1
      return nil -- what it would write is there
   end
   self.contents:clobber(v)
   self.contents:add { p = p, off = off, bits = bits, size = bits / 8, value = x, stored = true }
   return self:append(v)
end

function Walk:call(v)
   if v.pure and self.on.gvn and v.type ~= "void" then
      local names = { v.fn, v.type, tostring(v.table) }
      for i, a in ipairs(v.args) do names[i + 3] = name(a) end
      local k = table.concat(names, ":")
      local known = self.contents:find("call", k)
      if known then
         if self:replace(v, known.value) then return nil end
      end
      self.contents:add { call = k, reads = v.reads, value = v }
   elseif memory.changes(v) then
      self.contents:clobber(v)
   end
   return self:append(v)
end

function Walk:ctxload(v)
   if self.on.memory then
      local known = self.contents:find("field", v.field)
      if known and known.value.type == v.type and self:replace(v, known.value) then return nil end
      self.contents:add { field = v.field, value = v }
   end
   return self:append(v)
end

function Walk:instruction(v)
   local args, resolve = v.args, self.facts
   for i = 1, #args do args[i] = resolve:resolve(args[i]) end
   self.pos = v.pos
   local op = v.op
   if ir.PURE[op] then return self:pure(v) end
   if FRAME[op] then return self:frame(v) end
   if op == "load" then return self:load(v) end
   if op == "store" then return self:store(v) end
   if op == "call" then return self:call(v) end
   if op == "ctxload" then return self:ctxload(v) end
   if op == "atomic" then self:address(v) end
   if op == "atomic" or op == "ctxstore" then self.contents:clobber(v) end
   self:append(v)
end

-- ---- control ----

-- A check of base + constant is a check of the base.
local function check_address(walk, term)
   local p = term.args[1]
   while walk.on.address and p.op == "ptradd" and p.args[2].op == "const" do
      local n = term.n + p.args[2].value
      if p.args[2].value < 0 or n > 65535 then return end
      term.n, p = n, walk.facts:resolve(p.args[1])
      term.args[1] = p
   end
end

-- What the values handed over on one edge are known to be, for the block they come together in.
local function describe(walk, target)
   local lo, hi, nonnil = {}, {}, {}
   local from = walk.graph.idom[target.block]
   if from and #walk.graph.preds[target.block] > 1 and walk.marks[from] then
      for _, v in ipairs(walk.facts:learned(walk.marks[from])) do lo[v], hi[v] = walk.facts:range(v) end
   end
   for i, a in ipairs(target.args) do
      lo[i], hi[i] = walk.facts:range(a)
      if a.type == "ptr" then nonnil[i] = walk.facts:pointer(a) == true end
   end
   walk.edges[target] = { lo = lo, hi = hi, nonnil = nonnil }
end

function Walk:terminator(block)
   local term, known = block.term, self.facts
   for i, a in ipairs(term.args) do term.args[i] = known:resolve(a) end
   self.pos = term.pos
   if term.op == "br" then
      branch.simplify(self, term)
      if branch.length(self, term) then self.changed = self.changed + 1 end
   end
   if term.op == "check" then check_address(self, term) end
   local way
   if self.on.decide then way = known:way(term, term.args[1], term.args[2]) end
   if way then
      for i, t in ipairs(term.targets) do
         if i ~= way then self.dead[t] = true end
      end
      term = { op = "jmp", args = {}, targets = { term.targets[way] }, pos = term.pos }
      block.term = term
      self.changed = self.changed + 1
   end
   for i, t in ipairs(ir.targets(term)) do
      local top = known.top
      known:take(term, i)
      for k, a in ipairs(t.args) do t.args[k] = known:resolve(a) end
      describe(self, t)
      if self.on.thread then thread.consider(self, block, t) end
      known:undo(top)
   end
end

-- Effects on the ways from the block's immediate dominator to it.
function Walk:between(block)
   local stop, graph = self.graph.idom[block], self.graph
   local seen_blocks, work, effects, of = { [stop] = true }, {}, {}, self.effects
   local function enter(b)
      for _, edge in ipairs(graph.preds[b]) do
         if not self.dead[edge.target] and not seen_blocks[edge.block] then
            seen_blocks[edge.block] = true
            work[#work + 1] = edge.block
         end
      end
   end
   enter(block)
   while #work > 0 do
      local b = table.remove(work)
      local list = of[b]
      if not list then
         list = {}
         for _, v in ipairs(b.insts) do
            if memory.changes(v) then list[#list + 1] = v end
         end
         of[b] = list
      end
      for i = 1, #list do effects[#effects + 1] = list[i] end
      enter(b)
   end
   return effects
end

-- What was learned of one num on each of the edges, the bounds that cover all of it hold where they come together.
local function cover(walk, edges)
   local first
   for _, edge in ipairs(edges) do
      local info = walk.edges[edge.target]
      if not walk.dead[edge.target] then
         if not info then return end
         first = first or info
      end
   end
   for v, lo in pairs(first and first.lo or {}) do
      local hi = first.hi[v]
      for _, edge in ipairs(edges) do
         local info = walk.edges[edge.target]
         if not walk.dead[edge.target] and lo then
            if not info.lo[v] then
               lo = nil
            else
               lo, hi = math.min(lo, info.lo[v]), math.max(hi, info.hi[v])
            end
         end
      end
      if lo and type(v) == "table" then walk.facts:bound(v, lo, hi) end
   end
end

-- Parameters of a block where edges come together: one value on all of them, or bounds that cover all.
function Walk:join(block, edges)
   for i, p in ipairs(block.params) do
      local same, lo, hi, nonnil = nil, math.huge, -math.huge, true
      for _, edge in ipairs(edges) do
         local info = self.edges[edge.target]
         if not self.dead[edge.target] then
            if not info then return end -- a back edge: not walked yet
            local a = edge.target.args[i]
            if same == nil then same = a
            elseif same and not (same == a or same.op == "const" and a.op == "const" and same.value == a.value
               and same.object == a.object) then
               same = false
            end
            lo, hi = math.min(lo, info.lo[i] or -math.huge), math.max(hi, info.hi[i] or math.huge)
            nonnil = nonnil and info.nonnil[i]
         end
      end
      if same and self.on.params then
         self:replace(p, same)
      elseif p.type == "num" and lo <= hi then
         lo, hi = math.max(lo, p.lo), math.min(hi, p.hi)
         if lo <= hi then p.lo, p.hi = lo, hi end
      elseif p.type == "ptr" and nonnil and same ~= nil then
         self.facts:set(self.facts.nonnil, p, true)
      end
   end
end

-- The number that is added to `root` to give pointer `p`; nil when it is not one of its sums.
local function added(root, p)
   if p.op == "ptradd" and p.args[1] == root then return p.args[2] end
end

-- A pointer parameter that is root + x on every edge, where another parameter is x, is what root + that parameter
-- would be.
local function sums(walk, block, edges)
   for i, p in ipairs(block.params) do
      local first = edges[1].target.args[i]
      local root = p.type == "ptr" and first.op == "ptradd" and first.args[1]
      for k, q in ipairs(root and block.params or {}) do
         local all = q.type == "num"
         for _, edge in ipairs(all and edges or {}) do
            local by, x = added(root, edge.target.args[i]), edge.target.args[k]
            all = all and by ~= nil and (by == x or cfg.same_constant(by, x))
         end
         if all then walk.facts:set(walk.numbers, key { op = "ptradd", type = "ptr", args = { root, q } }, p) end
      end
   end
end

function Walk:enter(block)
   local edges = self.graph.preds[block]
   if #edges == 1 then
      local edge = edges[1]
      local term = edge.block.term
      for way, t in ipairs(ir.targets(term)) do
         if t == edge.target then self.facts:take(term, way) end
      end
      for i, p in ipairs(block.params) do
         local a = self.facts:resolve(edge.target.args[i])
         if p.type == "num" and a.type == "num" then self.facts:bound(a, p.lo, p.hi) end
         if not self.on.params or not self:replace(p, a) then
            if self.facts:pointer(a) then self.facts:set(self.facts.nonnil, p, true) end
         end
      end
   elseif #edges > 1 then
      cover(self, edges)
      self:join(block, edges)
      if self.on.gvn then sums(self, block, edges) end
      if self.contents.n > 0 then
         for _, v in ipairs(self:between(block)) do self.contents:clobber(v) end
      end
   end
end

local function visit(walk, block, contents)
   local top = walk.facts.top
   walk.contents, walk.out = contents, {}
   walk:enter(block)
   for _, v in ipairs(block.insts) do walk:instruction(v) end
   walk.marks[block] = walk.facts.top
   walk:terminator(block)
   block.insts = walk.out
   local children = walk.graph.children[block]
   for i, child in ipairs(children) do
      visit(walk, child, i == #children and contents or contents:copy())
   end
   walk.facts:undo(top)
end

-- Values that are added to packet pointers.
local function offsets(graph)
   local set = {}
   for _, block in ipairs(graph.order) do
      for _, v in ipairs(block.insts) do
         if v.op == "ptradd" and v.space == "pkt" then set[v.args[2]] = true end
      end
   end
   return set
end

--- Walks the program once.
---@param program tideway.ir.program all its blocks reachable
---@param on table<string, boolean> the passes that are on
---@return integer changes, table threads for thread.apply
function M.run(program, on)
   local graph = graphs.of(program)
   for i, block in ipairs(graph.order) do
      local back = false
      for _, edge in ipairs(block.loop and graph.preds[block] or {}) do back = back or graph.index[edge.block] >= i end
      if not back then block.loop = nil end
   end
   local walk = setmetatable({
      program = program, on = on, graph = graph, facts = facts.new(), numbers = {}, dead = {}, edges = {},
      threads = {}, changed = 0, marks = {}, effects = {}, offsets = offsets(graph),
   }, Walk)
   visit(walk, graph.order[1], memory.contents())
   return walk.changed, walk.threads
end

return M
