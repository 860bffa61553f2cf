-- SPDX-License-Identifier: BSD-3-Clause
-- What is known where paths meet: equal values stay, different ones become block parameters.

local bit = require "bit"
local ir = require "tideway.compiler.ir"
local value = require "tideway.compiler.front.value"

local M = {}

local NIL, FALSE, TRUE, VALUE = value.TAG_NIL, value.TAG_FALSE, value.TAG_TRUE, value.TAG_VALUE

local function range_in(state, v)
   local r = state.range[v]
   if r then return r[1], r[2] end
   return v.lo, v.hi
end

-- One parameter of `block`, fed with irs[i] by edge i.
local function parameter(cx, block, edges, irs, type, fields)
   local first, same = irs[1], true
   for i = 2, #irs do
      if irs[i] ~= first then same = false end
   end
   if same then return first end
   -- Values that come together (x, y = f() with nil, nil or both) are told apart by one parameter.
   for k, p in ipairs(block.params) do
      local alike = p.type == type
      for i, edge in ipairs(edges) do alike = alike and edge.args[k] == irs[i] end
      if alike then return p end
   end
   local p = ir.param(cx.program, block, type, fields)
   p.pos = cx.pos
   local lo, hi = math.huge, -math.huge
   for i, edge in ipairs(edges) do
      edge.args[#edge.args + 1] = irs[i]
      local l, h = range_in(edge.state, irs[i])
      if not l or not lo then
         lo, hi = nil, nil
      else
         lo, hi = math.min(lo, l), math.max(hi, h)
      end
   end
   p.lo, p.hi = lo, hi
   return p
end

-- ---- numbers ----

local function type_of(fv)
   if fv.k == "int" then return fv.ir.type end
   if type(fv.v) == "number" then return "num" end
   return value.wide_type(fv.v)
end

local function as_ir(cx, fv)
   if fv.k == "int" then return fv.ir end
   if type(fv.v) == "number" then return cx:const(fv.v) end
   return ir.const(fv.v, value.wide_type(fv.v))
end

local function merge_numbers(cx, block, edges, fvs)
   local t, irs = type_of(fvs[1]), {}
   for i, fv in ipairs(fvs) do
      if type_of(fv) ~= t then
         return value.conflict "it is a number on one path and a 64-bit integer on another"
      end
      if fv.k == "host" and type(fv.v) == "number" and fv.v % 1 ~= 0 then
         return value.conflict "it is not a whole number on one path"
      end
      irs[i] = as_ir(cx, fv)
   end
   return value.int(parameter(cx, block, edges, irs, t))
end

-- ---- pointers ----

-- The address of edge i's pointer, with its constant offset added when they differ.
local function address(cx, edge, fv, with_offset)
   if not with_offset or fv.off == 0 then return fv.ir end
   local v = ir.value(cx.program, "ptradd", "ptr", { fv.ir, cx:const(fv.off) }, { space = fv.ir.space, pos = cx.pos })
   edge.block.insts[#edge.block.insts + 1] = v
   return v
end

-- The types that a pointer may have, when they are several: { type, shape } each.
local function alternatives(fvs)
   local list, seen = {}, {}
   for _, fv in ipairs(fvs) do
      for _, a in ipairs(fv.alternatives or { { type = fv.type, shape = fv.shape } }) do
         if not seen[a.type] then list[#list + 1] = a end
         seen[a.type] = true
      end
   end
   return #list > 1 and list or nil
end

-- Bytes behind the pointers that were checked on all edges; nil when there is one without a check.
local function checked_on_all(edges, fvs)
   local least
   for i, edge in ipairs(edges) do
      local n = edge.state.inside[fvs[i].ir]
      if not n then return nil end
      least = math.min(least or n, n)
   end
   return least
end

-- Pointers into the frame stay "start plus a number": the number becomes the parameter.
local function frame_pointer(cx, block, edges, fvs)
   local root, indices = nil, {}
   for i, fv in ipairs(fvs) do
      local v = fv.ir
      if fv.nilable and v.op == "const" then return nil end
      if v.op == "pktdata" then
         indices[i] = cx:const(0)
      elseif v.op == "ptradd" and v.args[1].op == "pktdata" then
         indices[i], v = v.args[2], v.args[1]
      elseif v.index then
         indices[i], v = v.index, v.root
      else
         return nil
      end
      root = root or v
      if root ~= v then return nil end
   end
   local index = parameter(cx, block, edges, indices, "num")
   local known = cx.target.checks and checked_on_all(edges, fvs)
   if known then -- the verifier keeps what it knows of a pointer only with the pointer itself
      local irs = {}
      for i, fv in ipairs(fvs) do irs[i] = fv.ir end
      local p = parameter(cx, block, edges, irs, "ptr", { space = "pkt", root = root, index = index })
      return p, known
   end
   local p = ir.value(cx.program, "ptradd", "ptr", { root, index }, { space = "pkt", pos = cx.pos, block = block })
   block.insts[#block.insts + 1] = p
   return p
end

local function merge_pointers(cx, block, edges, fvs)
   local first = fvs[1]
   local same_place, nilable = true, false
   local kinds = alternatives(fvs)
   for i, fv in ipairs(fvs) do
      if fv.ref ~= first.ref then return value.conflict "it refers to things of different types" end
      if fv.ir.space ~= first.ir.space and fv.ir.space and first.ir.space then
         return value.conflict "it refers to different memories"
      end
      if fv.gen ~= first.gen then return value.conflict "the packet was resized on one path" end
      if fv.off ~= first.off then same_place = false end
      nilable = nilable or (fv.nilable and edges[i].state.nonnil[fv.ir] ~= true)
   end
   local in_frame, known = nil, nil
   if same_place then in_frame, known = frame_pointer(cx, block, edges, fvs) end
   if in_frame then
      if known then cx.checked_at_join[in_frame] = known end
      return value.ptr(in_frame, first.off, first.type,
         { ref = first.ref, gen = first.gen, shape = first.shape, alternatives = kinds })
   end
   local irs = {}
   for i, fv in ipairs(fvs) do irs[i] = address(cx, edges[i], fv, not same_place) end
   local space
   for _, v in ipairs(irs) do space = space or v.space end
   local p = parameter(cx, block, edges, irs, "ptr", { space = space })
   return value.ptr(p, same_place and first.off or 0, first.type,
      { ref = first.ref, nilable = nilable or nil, gen = first.gen, shape = first.shape, alternatives = kinds })
end

-- ---- nil, booleans, and values or nil ----

local function tag_of(cx, fv)
   if fv.k == "tagged" then return fv.tag end
   if fv.k == "host" then
      if fv.v == nil then return cx:const(NIL) end
      if fv.v == false then return cx:const(FALSE) end
      if fv.v == true then return cx:const(TRUE) end
   end
   return cx:const(VALUE)
end

-- Bit per tag that the value may have.
local function set_of(fv)
   if fv.k == "tagged" then return fv.set end
   if fv.k == "host" then
      if fv.v == nil then return 1 end
      if fv.v == false then return 2 end
      if fv.v == true then return 4 end
   end
   return 8
end

local function val_of(fv)
   if fv.k == "tagged" then return fv.val end
   if fv.k == "host" and (fv.v == nil or type(fv.v) == "boolean") then return nil end
   return fv
end

-- Is `val`, defined on the paths of some edges, defined on all of them? Only then may it stay without a parameter.
local function available(block, val)
   if val.k == "tagged" then
      return available(block, value.int(val.tag)) and (not val.val or available(block, val.val))
   end
   local v = val.ir
   if not v or v.op == "const" or v.op == "alloca" then return true end
   local node = block.dom
   while node do
      if node.block == v.block then return true end
      node = node.parent
   end
   return false
end

-- The frame's start on an edge.
local function frame_start(cx, edge)
   local known = edge.state.memo.data
   if known then return known.ir end
   local v = ir.value(cx.program, "pktdata", "ptr", {}, { space = "pkt", pos = cx.pos, block = edge.block })
   table.insert(edge.block.insts, v)
   return v
end

-- Any place in the memory that a pointer points into; nil when there is none to be had. A verifier that does not see
-- why a path with nil can't come to an access is content with any place in the frame.
local function place_in(cx, block, edge, v)
   local root = v.root or (v.op == "ptradd" and v.args[1]) or v
   if v ~= root and available(block, { k = "ptr", ir = root }) then return root end
   if root.op == "pktdata" and not cx.copied then return frame_start(cx, edge) end
end

-- A value of the same kind as `like` for an edge that has none; nobody looks at it.
local function filler(cx, block, edge, like)
   if like.k == "int" then
      local c = ir.const(like.ir.lo or 0, like.ir.type)
      return value.int(c)
   elseif like.k == "ptr" then
      local place = place_in(cx, block, edge, like.ir) or cx:null()
      return value.ptr(place, like.off, like.type,
         { ref = like.ref, nilable = place.op == "const" or nil, gen = like.gen, shape = like.shape,
            alternatives = like.alternatives })
   end
   return like
end

local merge_values

-- A parameter that is fed with one value and fillers: whoever looks at it sees that value. Accesses to the frame
-- through one or the other are accesses to the same place.
local function stand_for(p, v)
   local a, b = p.ir, v.ir
   if not a or not b then return end
   local ai, bi = a.index or (a.op == "ptradd" and a.args[2]), b.index or (b.op == "ptradd" and b.args[2])
   if ai and bi then a, b = ai, bi end
   if a.op == "param" then a.stands_for = b.stands_for or b end
end

local function merge_tagged(cx, block, edges, fvs)
   local tags, have, set = {}, {}, 0
   for i, fv in ipairs(fvs) do
      tags[i] = tag_of(cx, fv)
      set = bit.bor(set, set_of(fv))
      local v = val_of(fv)
      if v then
         have[#have + 1] = v
      end
   end
   local val
   if #have > 0 then
      local all = {}
      local same = true
      for i = 2, #have do
         if not M.equal(have[i], have[1]) then same = false end
      end
      local alone = same
      if same then
         val = have[1]
         if #have < #fvs and not available(block, val) then same = false end
      end
      if not same then
         local like = have[1]
         for i, fv in ipairs(fvs) do all[i] = val_of(fv) or filler(cx, block, edges[i], like) end
         if like.k == "host" and type(like.v) == "number" then
            for i, fv in ipairs(fvs) do all[i] = val_of(fv) or like end
         end
         val = merge_values(cx, block, edges, all)
         if val.k == "conflict" then return val end
         if alone then stand_for(val, have[1]) end
         if val.k == "ptr" then val.nilable = nil end
      end
   end
   return value.tagged(parameter(cx, block, edges, tags, "num"), val, set)
end

-- ---- strings, functions, tables that differ ----

local function is_thing(fv)
   if fv.k == "choice" then return true end
   local t = type(fv.v)
   return fv.k == "host" and (t == "string" or t == "function" or t == "table" or t == "userdata")
end

local function choice_index(cx, v)
   local id = cx.choice_id[v]
   if not id then
      id = #cx.choices + 1
      cx.choices[id], cx.choice_id[v] = v, id
   end
   return id
end

-- One of several values known now, told apart by a number.
local function merge_choice(cx, block, edges, fvs)
   local irs, set = {}, {}
   for i, fv in ipairs(fvs) do
      if fv.k == "choice" then
         irs[i] = fv.ir
         for id in pairs(fv.set) do set[id] = true end
      else
         local id = choice_index(cx, fv.v)
         set[id] = true
         irs[i] = cx:const(id)
      end
   end
   return { k = "choice", ir = parameter(cx, block, edges, irs, "num"), set = set }
end

-- ---- all of them ----

function M.equal(a, b)
   if a == b then return true end
   if a.k ~= b.k then return false end
   if a.k == "host" then return rawequal(a.v, b.v) end
   if a.k == "int" then return a.ir == b.ir end
   if a.k == "ptr" then
      return a.ir == b.ir and a.off == b.off and a.type == b.type and a.alternatives == b.alternatives
         and a.ref == b.ref and a.gen == b.gen
         and not a.nilable == not b.nilable
   end
   if a.k == "tagged" then return a.tag == b.tag and (a.val == b.val or (a.val and b.val and M.equal(a.val, b.val))) end
   return false
end

local function all(fvs, test)
   for _, fv in ipairs(fvs) do
      if not test(fv) then return false end
   end
   return true
end

local function is_pointer(fv) return fv.k == "ptr" end
local function can_tag(fv)
   return fv.k == "tagged" or fv.k == "int" or fv.k == "ptr" or fv.k == "host" or fv.k == "pkt" or fv.k == "closure"
end

-- Neither nil nor a boolean.
local function is_set(fv) return fv.k ~= "tagged" and set_of(fv) == 8 end

-- A pointer that may be nil as what it is known to be on its path: a pointer or nil.
local function outcome(edge, fv)
   if fv.k ~= "ptr" or not fv.nilable then return fv end
   if not edge.state.nonnil[fv.ir] then return value.NIL end -- undecided() left no other
   local p = {}
   for k, v in pairs(fv) do p[k] = v end
   p.nilable = nil
   return p
end

-- The first edge whose value is a pointer that may be nil while that of another is none, and that pointer.
local function undecided_in(edges, get)
   local found, pointer, mixed
   for i, edge in ipairs(edges) do
      local fv = get(edge)
      if not fv or fv.k == "conflict" then return nil end
      if fv.k ~= "ptr" then
         mixed = true
      elseif fv.nilable and edge.state.nonnil[fv.ir] == nil then
         found, pointer = found or i, pointer or fv.ir
      end
   end
   if mixed then return found, pointer end
end

--- What has to be tested before paths can meet: pointers that may be nil where other paths have no pointer.
---@param edges table[] { state, values }
---@param depth integer variables of deeper scopes do not matter
---@return integer? edge
---@return tideway.ir.value? pointer
function M.undecided(edges, depth)
   local first, found, pointer
   for slot in pairs(edges[1].state.vars) do
      if slot.depth <= depth and (not first or slot.id < first.id) then
         local i, p = undecided_in(edges, function(edge) return edge.state.vars[slot] end)
         if i then first, found, pointer = slot, i, p end
      end
   end
   if found then return found, pointer end
   local count = 0
   for _, edge in ipairs(edges) do count = math.max(count, #edge.values) end
   for k = 1, count do
      found, pointer = undecided_in(edges, function(edge) return edge.values[k] or value.NIL end)
      if found then return found, pointer end
   end
end

local function is_pointer_or_nil(fv) return fv.k == "ptr" or (fv.k == "host" and fv.v == nil) end

-- References of which one may be nil by itself (0), and nil: all as references that may be 0.
local function with_null(cx, edges, fvs)
   local like
   for i, fv in ipairs(fvs) do
      if fv.k == "ptr" and fv.nilable and edges[i].state.nonnil[fv.ir] == nil then like = fv end
   end
   if not like then return nil end
   local out = {}
   for i, fv in ipairs(fvs) do
      out[i] = fv.k == "ptr" and fv or value.ptr(cx:null(), like.off, like.type,
         { ref = like.ref, nilable = true, gen = like.gen, shape = like.shape, alternatives = like.alternatives })
   end
   return out
end

-- A reference that may be 0 can't be told apart by a tag.
local function hides_nil(edges, fvs)
   for i, fv in ipairs(fvs) do
      if fv.k == "ptr" and fv.nilable and edges[i].state.nonnil[fv.ir] == nil then return true end
   end
end

function merge_values(cx, block, edges, fvs)
   local first, same = fvs[1], true
   for i = 2, #fvs do
      if not M.equal(fvs[i], first) then same = false end
   end
   if same then return first end
   for _, fv in ipairs(fvs) do
      if fv.k == "conflict" then return fv end
   end
   if all(fvs, value.is_number) then return merge_numbers(cx, block, edges, fvs) end
   if all(fvs, is_pointer) then return merge_pointers(cx, block, edges, fvs) end
   local nullable = all(fvs, is_pointer_or_nil) and with_null(cx, edges, fvs)
   if nullable then return merge_pointers(cx, block, edges, nullable) end
   if all(fvs, is_thing) then return merge_choice(cx, block, edges, fvs) end
   if hides_nil(edges, fvs) then return value.conflict "what a table gave may be nil on one path: test it first" end
   if all(fvs, can_tag) then
      local known = {}
      for i, fv in ipairs(fvs) do known[i] = outcome(edges[i], fv) end
      if not all(known, is_set) then return merge_tagged(cx, block, edges, known) end
   end
   return value.conflict "it is a different thing on each path"
end
M.values = merge_values

-- ---- facts ----

-- Facts that hold on all edges; `meet` combines the values of two, nil when there is nothing in common.
local function facts(edges, name, meet)
   local out = {}
   for k, v in pairs(edges[1].state[name]) do
      for i = 2, #edges do
         local w = edges[i].state[name][k]
         if w == nil then
            v = nil
            break
         end
         v = meet(v, w)
         if v == nil then break end
      end
      out[k] = v
   end
   return out
end

-- The generation of packet pointers when it is one on all edges.
local function same_generation(edges)
   for _, edge in ipairs(edges) do
      if edge.state.gen ~= edges[1].state.gen then return nil end
   end
   return edges[1].state.gen
end

local imply

local function meet_range(a, b) return { math.min(a[1], b[1]), math.max(a[2], b[2]) } end
local function meet_equal(a, b) if rawequal(a, b) then return a end end

-- Range of a parameter over some of the edges.
local function range_over(edges, k)
   local lo, hi = math.huge, -math.huge
   for _, edge in ipairs(edges) do
      local l, h = range_in(edge.state, edge.args[k])
      lo, hi = math.min(lo, l), math.max(hi, h)
   end
   return { lo, hi }
end

-- What a parameter that tells paths apart says about them: the facts that hold on all edges that give it one
-- value hold again once a test finds that value.
function imply(cx, block, edges)
   for k, p in ipairs(block.params) do
      if p.type == "num" and p.lo >= 0 and p.hi <= value.TAG_VALUE then
         local by_value = {}
         for _, edge in ipairs(edges) do
            local lo, hi = range_in(edge.state, edge.args[k])
            for v = lo, hi do
               by_value[v] = by_value[v] or {}
               table.insert(by_value[v], edge)
            end
         end
         local implied = {}
         for v, list in pairs(by_value) do
            implied[v] = {
               range = facts(list, "range", meet_range), nonnil = facts(list, "nonnil", meet_equal),
               inside = facts(list, "inside", math.min), gen = same_generation(list),
            }
            for j, other in ipairs(block.params) do
               if j ~= k and other.type == "num" then implied[v].range[other] = range_over(list, j) end
            end
            local arg = list[1].args[k]
            if #list == 1 and arg.op ~= "const" then implied[v].range[arg] = { v, v } end
         end
         cx.implied[p] = implied
      end
   end
end

-- The nearest block that dominates both.
local function common(a, b)
   while a ~= b do
      if a.depth >= b.depth then a = a.parent else b = b.parent end
   end
   return a
end

--- State and values behind a join.
---@param cx tideway.front.context
---@param block tideway.ir.block
---@param edges table[] { block, state, values, args }
---@param depth integer variables of deeper scopes are gone behind the join
---@return tideway.front.state
---@return table[]
function M.states(cx, block, edges, depth)
   local over = edges[1].state.dom
   for i = 2, #edges do over = common(over, edges[i].state.dom) end
   block.dom = { block = block, parent = over, depth = over.depth + 1 }
   local state = {
      dom = block.dom,
      range = facts(edges, "range", meet_range), nonnil = facts(edges, "nonnil", meet_equal),
      inside = facts(edges, "inside", math.min), memo = facts(edges, "memo", meet_equal), vars = {},
      gen = edges[1].state.gen,
   }
   for i = 2, #edges do
      if edges[i].state.gen ~= state.gen then
         state.gen, state.memo = {}, {}
         break
      end
   end
   local fvs, slots = {}, {}
   for slot in pairs(edges[1].state.vars) do slots[#slots + 1] = slot end
   table.sort(slots, function(a, b) return a.id < b.id end)
   for _, slot in ipairs(slots) do
      local n = slot.depth <= depth and 0 or -1
      for i, edge in ipairs(edges) do
         fvs[i] = edge.state.vars[slot]
         if fvs[i] then n = n + 1 end
      end
      if n == #edges then state.vars[slot] = merge_values(cx, block, edges, fvs) end
   end
   local values, count = {}, 0
   for _, edge in ipairs(edges) do count = math.max(count, #edge.values) end
   for k = 1, count do
      for i, edge in ipairs(edges) do fvs[i] = edge.values[k] or value.NIL end
      values[k] = merge_values(cx, block, edges, fvs)
   end
   imply(cx, block, edges)
   for p, n in pairs(cx.checked_at_join) do state.inside[p] = n end
   cx.checked_at_join = {}
   return state, values
end

return M
