-- SPDX-License-Identifier: BSD-3-Clause
-- Which packets somebody who watches a hook's program wants: filter, one in so many, as many as the limit says.

local filter = require "tideway.compiler.place.watch.filter"
local maps = require "tideway.compiler.place.watch.maps"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local predicate = require "tideway.compiler.place.watch.predicate"
local value = require "tideway.compiler.front.value"

local M = {}

local need = maps.need

-- As many as the limit says, on all CPUs together. Those that come later do not count up to its end.
local function within_limit(place, cx, w, no)
   if not w.control then return end
   local at = maps.entry(place, cx, w.control, no)
   local taken = cx:emit("load", "num", { at }, { bits = 32, off = 0, lo = 0, hi = 2 ^ 32 - 1 })
   need(cx, "ult", taken, cx:const(w.limit), no)
   need(cx, "ult", maps.fetch_add(cx, at, w.control, "taken"), cx:const(w.limit), no)
end

-- One in so many packets is timed in the filter: looking at the clock costs as much as a filter.
local TIMED = 64

-- The time for the packets that are timed, 0 for the others.
local function start_clock(place, cx, looked)
   local join = cx:join()
   local low = cx:emit("and", "num", { looked, cx:const(TIMED - 1) }, { lo = 0, hi = TIMED - 1 })
   local yes, no = cx:split("eq", low, cx:const(0))
   cx:go(yes)
   cx:jump(join, { value.int(maps.now(place, cx)) })
   cx:go(no)
   cx:jump(join, { value.host(0) })
   return number.ir(cx, cx:enter(join)[1])
end

local function stop_clock(place, cx, tally, began)
   local join = cx:join()
   need(cx, "ne", began, cx:const(0), join)
   local took = cx:emit("sub", "num", { maps.now(place, cx), began }, { lo = 0, hi = memory.LATEST })
   maps.add(cx, tally, "clocked", took)
   maps.add(cx, tally, "timed")
   cx:jump(join)
   cx:enter(join)
end

-- Does the packet match? Paths go to `yes` or `no`.
local function match(place, cx, w, tally, yes, no)
   maps.add(cx, tally, "looked")
   if not w.code and not w.fn then return cx:jump(yes) end
   local began = start_clock(place, cx, maps.fetch_add(cx, tally, w.tally, "turn"))
   local matched, other = cx:join(), cx:join()
   local test = w.code and filter or predicate
   test.test(place, cx, w.code or w.fn, matched, other)
   for _, way in ipairs { { matched, yes }, { other, no } } do
      cx:enter(way[1])
      if not cx:dead() then
         stop_clock(place, cx, tally, began)
         cx:jump(way[2])
      end
   end
end

--- Paths of packets that are wanted and of others part.
---@param wanted table join
---@param unwanted table join
function M.choose(place, cx, w, wanted, unwanted)
   local yes = cx:join()
   local tally = maps.entry(place, cx, w.tally, unwanted)
   match(place, cx, w, tally, yes, unwanted)
   cx:enter(yes)
   if cx:dead() then return end
   maps.add(cx, tally, "matched")
   if w.sample > 1 then
      local n = maps.fetch_add(cx, tally, w.tally, "sampled")
      n = cx:emit("mod", "num", { n, cx:const(w.sample) }, { lo = 0, hi = w.sample - 1 })
      need(cx, "eq", n, cx:const(0), unwanted)
   end
   within_limit(place, cx, w, unwanted)
   maps.add(cx, tally, "packets")
   cx:jump(wanted)
end

return M
