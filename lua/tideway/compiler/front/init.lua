-- SPDX-License-Identifier: BSD-3-Clause
-- The front end: a run of NFs of a chain to one IR program for one place.

local abi = require "tideway.abi"
local call = require "tideway.compiler.front.call"
local context = require "tideway.compiler.front.context"
local ir = require "tideway.compiler.ir"
local memory = require "tideway.compiler.front.memory"
local value = require "tideway.compiler.front.value"

local C = abi.C
local M = {}

-- Constants that stand for tables and memory of the engine.
local function add_constants(cx)
   local tables, memories = {}, {}
   function cx.table_const(_, t)
      cx.used_tables[t] = true
      if not tables[t] then tables[t] = ir.const(0, "ptr", { object = t, space = "mem" }) end
      return tables[t]
   end
   function cx.memory_const(_, address, space)
      local key = tostring(address)
      if not memories[key] then memories[key] = ir.const(address, "ptr", { space = space or "mem" }) end
      return memories[key]
   end
end

-- Paths that left an NF with different verdicts stay apart: lists of edges by verdict.
local function by_verdict(cx, edges)
   local groups, index = {}, {}
   for _, edge in ipairs(edges) do
      local fv = edge.state.vars[cx.verdict]
      local key = fv.k == "host" and fv.v or edge
      if not index[key] then
         index[key] = { fv = fv, edges = {} }
         groups[#groups + 1] = index[key]
      end
      table.insert(index[key].edges, edge)
   end
   return groups
end

-- One NF; goes on where it gave no verdict.
local function stage(cx, index, nf, goes_on)
   cx.stage, cx.words = index, {}
   cx.pos = nil
   local after = cx:join()
   after.depth = 0
   cx.exits = after
   call.inline_live(cx, nf.packet, { value.PKT })
   cx:jump(after)
   for _, group in ipairs(by_verdict(cx, after.edges)) do
      local join = cx:join()
      join.depth = 0
      join.edges = group.edges
      if value.is_host(group.fv, C.TW_NEXT) then
         goes_on.edges[#goes_on.edges + 1] = nil
         for _, edge in ipairs(group.edges) do goes_on.edges[#goes_on.edges + 1] = edge end
         cx.joins[join] = nil
      else
         cx:enter(join)
         M.leave(cx, cx.state.vars[cx.verdict], index, goes_on)
      end
   end
   cx.joins[after] = nil
end

--- A verdict that may be "none": test, and leave when it is not.
function M.leave(cx, word, index, goes_on)
   local number = require "tideway.compiler.front.number"
   if word.k == "int" then
      local none, some = number.compare(cx, "eq", word, value.host(C.TW_NEXT))
      if none then
         cx:go(none)
         cx.state.vars[cx.verdict] = value.host(C.TW_NEXT)
         cx:jump(goes_on)
      end
      if not some then return end
      cx:go(some)
   end
   cx.target.finish(cx, word, index)
end

---@class tideway.front.result
---@field program tideway.ir.program
---@field tables table<table, boolean> tables of the engine that it uses

--- Compile NFs that stand one behind the other.
---@param name string of the program
---@param nfs table[] instances with a `packet` function
---@param place table of tideway.compiler.place
---@param options? { first: integer?, last: boolean? } index of the first NF in the chain; whether the chain ends here
---@return tideway.front.result
function M.compile(name, nfs, place, options)
   options = options or {}
   local cx = context.new(name, place)
   cx.used_tables, cx.words = {}, {}
   add_constants(cx)
   cx.held = cx:slot "lock"
   cx.state.vars[cx.held] = value.NIL
   for _, field in ipairs { "verdict", "out", "mark" } do
      cx[field] = cx:slot(field)
      cx.state.vars[cx[field]] = value.host(field == "out" and C.TW_PORT_NONE or 0)
   end
   cx.outset = {}
   for slot, fv in pairs(cx.state.vars) do cx.outset[slot] = fv end
   if place.enter then place:enter(cx) end
   if place.record then
      cx.record = cx:slot "record"
      cx.state.vars[cx.record] = value.int(memory.length(cx))
   end
   if place.checks and place.kernel.packet then -- known on all paths from here on
      memory.data(cx)
      memory.data_end(cx)
      memory.length(cx)
   end
   for i, nf in ipairs(nfs) do
      if cx:dead() then break end
      local goes_on = cx:join()
      goes_on.depth = 0
      stage(cx, (options.first or 0) + i - 1, nf, goes_on)
      cx:enter(goes_on)
      if place.behind and not cx:dead() then place.behind(cx, (options.first or 0) + i - 1) end
   end
   if not cx:dead() then
      cx.pos = nil
      local last = (options.first or 0) + #nfs
      if options.last == false then place.go_on(cx) else place.sink(cx, last) end
   end
   if place.close then place:close(cx) end
   return { program = cx.program, tables = cx.used_tables }
end

return M
