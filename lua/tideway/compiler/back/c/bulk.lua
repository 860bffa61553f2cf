-- SPDX-License-Identifier: BSD-3-Clause
-- Whether a program may be run in two passes over the burst, with one of its hash look-ups done for all packets between
-- them: memory is waited for once and not per packet.
--
-- The first pass runs, per packet, the blocks from which the look-up can still be reached (`before`). Every way out of
-- them, to the look-up or past it, is an exit; the second pass goes on from there, packet by packet in order. So only
-- what is in front moves, ahead of what other packets do behind: there, nothing but the packet's own bytes, fields and
-- stack may be touched, and the table must not be written anywhere in the program.

local graphs = require "tideway.compiler.ir.graph"
local ir = require "tideway.compiler.ir"

local M = {}

---@class tideway.c.bulk
---@field call tideway.ir.value the look-up
---@field block tideway.ir.block where it stands
---@field at integer its place there
---@field before table<tideway.ir.block, boolean> the blocks of the first pass; `block` is in both
---@field live_in table<tideway.ir.block, table> what the second pass needs at an exit to a block: a set of values
---@field live_after table<tideway.ir.value, boolean> what it needs behind the look-up

-- ---- conditions ----

local OWN = { pkt = true, stack = true }

-- The table whose counters an access is to, if it is to counters.
local function counters_of(v)
   if v.op ~= "load" and v.op ~= "store" then return nil end
   local base = v.args[1]
   while base.op == "ptradd" do base = base.args[1] end
   return base.fn == "counters_row" and base.table or nil
end

local function is_own(v)
   if ir.PURE[v.op] or v.op == "alloca" or v.op == "ctxload" or v.op == "ctxstore" then return true end
   if v.op == "pktdata" or v.op == "pktend" or v.op == "pktlen" then return true end
   if v.op == "load" or v.op == "store" then return OWN[v.args[1].space] or counters_of(v) ~= nil end
   if v.op ~= "call" or v.resizes or (v.writes and next(v.writes)) then return false end
   return v.fn == "tw_raw_sum" or v.fn == "counters_row"
end

-- In front: nothing but the packet's own, and counters that nobody touches behind.
local function may_move(graph, before, call)
   local counted = {}
   for block in pairs(before) do
      for _, v in ipairs(block.insts) do
         if v == call then break end
         if not is_own(v) then return false end
         local counters = counters_of(v)
         if counters then counted[counters] = true end
      end
   end
   for _, block in ipairs(graph.order) do
      local behind = not before[block]
      for _, v in ipairs(block.insts) do
         if behind and counted[counters_of(v) or false] then return false end
         behind = behind or v == call
      end
   end
   return true
end

local function written_tables(program)
   local set = {}
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "call" and v.table and v.writes and next(v.writes) then set[v.table] = true end
      end
   end
   return set
end

local function root(v)
   while v.op == "ptradd" and v.args[2].op == "const" do v = v.args[1] end
   return v
end

-- The time has to be the same for all: that of the burst, or none.
local function is_lookup(v)
   if v.op ~= "call" or v.fn ~= "tw_hash_get" or not v.table or v.args[1].op ~= "const" then return false end
   local now = v.args[3]
   return root(v.args[2]).op == "alloca" and (now.op == "const" or (now.op == "ctxload" and now.field == "now"))
end

-- The blocks from which a block can be reached, itself among them.
local function ancestors(graph, block)
   local set, work = { [block] = true }, { block }
   while #work > 0 do
      for _, edge in ipairs(graph.preds[table.remove(work)]) do
         if not set[edge.block] then
            set[edge.block] = true
            work[#work + 1] = edge.block
         end
      end
   end
   return set
end

-- ---- liveness ----

local function transfer(block, from, live)
   local function read(args)
      for _, a in ipairs(args) do
         if a.op ~= "const" then live[a] = true end
      end
   end
   if block.term.op ~= "ret" then read(block.term.args) end
   for _, t in ipairs(ir.targets(block.term)) do read(t.args) end
   for i = #block.insts, from, -1 do
      local v = block.insts[i]
      live[v] = nil
      read(v.args)
   end
   return live
end

local function live_out(live_in, block)
   local live = {}
   for _, t in ipairs(ir.targets(block.term)) do
      for v in pairs(live_in[t.block]) do live[v] = true end
      for _, p in ipairs(t.block.params) do live[p] = nil end
   end
   return live
end

-- Parameters count as live at the entry of their block: an edge has set them.
local function liveness(graph)
   local live_in, changed = {}, true
   for _, block in ipairs(graph.order) do live_in[block] = {} end
   while changed do
      changed = false
      for b = #graph.order, 1, -1 do
         local block = graph.order[b]
         for v in pairs(transfer(block, 1, live_out(live_in, block))) do
            if not live_in[block][v] then
               live_in[block][v] = true
               changed = true
            end
         end
      end
   end
   return live_in
end

-- ---- the choice ----

--- Entries of a table that stays in the cache of a core: there, waiting is cheaper than a second pass.
M.CACHED = 16384

local function pays(t) return (t.entries or math.huge) > M.CACHED end

--- The look-up to do for all packets at once, nil when there is none.
---@param program tideway.ir.program
---@return tideway.c.bulk?
function M.find(program)
   local graph = graphs.of(program)
   local written, in_loop = written_tables(program), {}
   for _, loop in ipairs(graphs.loops(graph)) do
      for block in pairs(loop.blocks) do in_loop[block] = true end
   end
   for _, block in ipairs(graph.order) do
      for at, v in ipairs(block.insts) do
         if is_lookup(v) and pays(v.table) and not written[v.table] and not in_loop[block] then
            local before = ancestors(graph, block)
            if not may_move(graph, before, v) then return nil end -- nor before any look-up behind this one
            local live_in = liveness(graph)
            local after = transfer(block, at + 1, live_out(live_in, block))
            after[v] = nil
            return { call = v, block = block, at = at, before = before, live_in = live_in, live_after = after }
         end
      end
   end
end

return M
