-- SPDX-License-Identifier: BSD-3-Clause
-- Packets copied out for those who watch, compiled into a hook's program: as they come in, behind NFs, and where they
-- leave. A program that nobody watches has none of this. tideway.live.watch_hook reads the other end of the ring.

local choose = require "tideway.compiler.place.watch.choose"
local maps = require "tideway.compiler.place.watch.maps"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local record = require "tideway.compiler.place.watch.record"
local value = require "tideway.compiler.front.value"

local M = {}

local need = maps.need

---@class tideway.place.watch what an observer wants of a program
---@field program integer tells the records of one program from those of others
---@field exits table[]? of that program, as tideway.compiled: there when it is compiled
---@field count number? stages of the chain, math.huge: another program is behind this one
---@field ring table declaration of the ring buffer
---@field scratch table of the place per CPU where records are put together
---@field tally table of the counts per CPU
---@field control table? of what the limit counts; nil: no limit
---@field snap integer bytes of each frame, at most FRAME of maps.lua
---@field follow boolean packets are chosen as they come in and then followed; else they are chosen anew at each point
---@field enter boolean? as they come in
---@field behind table<integer, true>? behind these stages, from 0
---@field leaves fun(exit: table): boolean which of those that leave: { stage, kind, argument }
---@field code tideway.filter.instruction[]? classic BPF
---@field fn function? a packet function that gives true for those wanted
---@field sample integer one in so many
---@field limit integer? as many

-- ---- packets that are followed ----

-- What goes along with a packet: its number, the set of those that follow it (a bit each), when the last record of it
-- was done.
local CARRIED = { { "packet", 2 ^ 32 - 1 }, { "set", 2 ^ 32 - 1 }, { "since", memory.LATEST } }

--- Kinds of what goes along, for a landing.
---@param kinds table[] to which they are added
function M.carried_kinds(place, kinds)
   for _, c in ipairs(place.follows and CARRIED or {}) do kinds[#kinds + 1] = { "num", 0, c[2] } end
   return kinds
end

--- What goes along.
---@param values tideway.ir.value[] to which it is added
function M.carried(place, cx, values)
   for _, c in ipairs(place.follows and CARRIED or {}) do
      values[#values + 1] = number.ir(cx, cx.state.vars[place.follows[c[1]]])
   end
   return values
end

--- Takes over what went along: values from..; the number of the first behind them.
function M.take_over(place, cx, values, from)
   for _, slot in pairs(place.follows or {}) do cx.state.vars[slot] = value.host(0) end
   for i, c in ipairs(place.follows and CARRIED or {}) do
      cx.state.vars[place.follows[c[1]]] = value.int(values[from + i - 1])
   end
   return from + (place.follows and #CARRIED or 0)
end

--- The number of a packet that is followed, 0: it is not.
---@return tideway.ir.value
function M.number(place, cx)
   return place.follows and number.ir(cx, cx.state.vars[place.follows.packet]) or cx:const(0)
end

-- A number that no other packet has for long: bit 31, 19 bits that count, 12 bits that say which CPU.
local function number_of(place, cx, none)
   local count = maps.fetch_add(cx, maps.entry(place, cx, maps.numbers, none), maps.numbers, "n")
   local cpu = place:call(cx, "get_smp_processor_id", "num", {}, { lo = 0, hi = 4095 })
   local high = cx:emit("shl", "num", { cx:emit("and", "num", { count, cx:const(0x7ffff) }, { lo = 0, hi = 0x7ffff }),
      cx:const(12) }, { lo = 0, hi = 0x7ffff000 })
   local both = cx:emit("or", "num", { high, cpu }, { lo = 0, hi = 2 ^ 31 - 1 })
   return cx:emit("or", "num", { both, cx:const(2 ^ 31) }, { lo = 2 ^ 31, hi = 2 ^ 32 - 1 })
end

-- What is done for packets that somebody follows.
local function when_followed(place, cx, f)
   local join = cx:join()
   need(cx, "ne", number.ir(cx, cx.state.vars[place.follows.set]), cx:const(0), join)
   if not cx:dead() then
      f(cx.state.vars)
      cx:jump(join)
   end
   cx:enter(join)
end

-- From now on an NF has the packet.
local function hand_over(place, cx)
   if not place.follows then return end
   when_followed(place, cx, function(vars) vars[place.follows.since] = value.int(maps.now(place, cx)) end)
end

-- What the clock says at a point, before anything is recorded.
local function take_time(place, cx)
   if not place.follows then return end
   local f = place.follows
   when_followed(place, cx, function(vars)
      local time = maps.now(place, cx)
      local spent = cx:emit("sub", "num", { time, number.ir(cx, vars[f.since]) }, { lo = -2 ^ 53, hi = 2 ^ 53 })
      vars[f.time], vars[f.spent] = value.int(time), value.int(spent)
   end)
end

-- Who follows this packet?
local function begin(place, cx)
   local f = place.follows
   for i, w in ipairs(place.watches) do
      if w.follow then
         local wanted, unwanted = cx:join(), cx:join()
         choose.choose(place, cx, w, wanted, unwanted)
         cx:enter(wanted)
         if not cx:dead() then
            local set, own = number.ir(cx, cx.state.vars[f.set]), cx:const(2 ^ (i - 1))
            cx.state.vars[f.set] = value.int(cx:emit("or", "num", { set, own }, { lo = 1, hi = 2 ^ 32 - 1 }))
            cx:jump(unwanted)
         end
         cx:enter(unwanted)
      end
   end
   local none = cx:join()
   when_followed(place, cx, function(vars) vars[f.packet] = value.int(number_of(place, cx, none)) end)
   cx:jump(none)
   cx:enter(none)
end

-- ---- points ----

-- Where the packet goes on when a watch is not after it: in `unwanted`.
local function chosen(place, cx, i, w, unwanted)
   if w.follow then
      local set = number.ir(cx, cx.state.vars[place.follows.set])
      local own = cx:emit("and", "num", { set, cx:const(2 ^ (i - 1)) }, { lo = 0, hi = 2 ^ (i - 1) })
      return need(cx, "ne", own, cx:const(0), unwanted)
   end
   local wanted = cx:join()
   choose.choose(place, cx, w, wanted, unwanted)
   cx:enter(wanted)
end

-- A record of a packet that is followed, or of one that is wanted here.
local function at_point(place, cx, i, w, facts)
   local join = cx:join()
   chosen(place, cx, i, w, join)
   if not cx:dead() then
      local f = w.follow and place.follows
      facts.packet = f and number.ir(cx, cx.state.vars[f.packet]) or cx:const(0)
      if f then
         facts.time, facts.spent = number.ir(cx, cx.state.vars[f.time]), number.ir(cx, cx.state.vars[f.spent])
      end
      record.write(place, cx, w, facts)
      cx:jump(join)
   end
   cx:enter(join)
end

local function mark(place, cx) return number.ir(cx, place:field_of(cx, "mark") or value.host(0), "pkt.mark") end

local function inside(place, cx, i, w, point)
   at_point(place, cx, i, w, {
      point = point, out = number.ir(cx, cx.state.vars[cx.out], "pkt.out"), mark = mark(place, cx),
   })
end

--- What the program carries along for its observers; before any way out.
function M.prepare(place, cx)
   for _, w in ipairs(place.watches) do
      if not place.load_bytes then
         cx:refuse(("packets on hook %s can't be copied out"):format(place.name),
            "watch a chain on xdp, tc or an lcore")
      end
      if w.follow and not place.follows then
         place.follows = {}
         for _, name in ipairs { "packet", "set", "since", "time", "spent" } do
            place.follows[name] = cx:slot(name)
            cx.state.vars[place.follows[name]] = value.host(0)
         end
      end
      w.exits, w.count = place.exits, place.stages or math.huge
   end
end

--- The packet comes from another program of the chain.
M.resume = hand_over

--- The packet comes in.
function M.enter(place, cx)
   if place.follows then begin(place, cx) end
   take_time(place, cx)
   for i, w in ipairs(place.watches) do
      if w.follow or w.enter then inside(place, cx, i, w, maps.ENTER) end
   end
   hand_over(place, cx)
end

--- The NF at a stage gave no verdict.
function M.behind(place, cx, stage)
   take_time(place, cx)
   for i, w in ipairs(place.watches) do
      if w.follow or w.behind[stage] then inside(place, cx, i, w, maps.NF + stage) end
   end
   hand_over(place, cx)
end

--- What the way out has to know besides exit and code.
---@param kinds table[] of a landing, to which they are added
function M.kinds(place, kinds)
   if #place.watches == 0 then return kinds end
   kinds[#kinds + 1] = { "num", 0, 2 ^ 32 - 1 } -- mark
   M.carried_kinds(place, kinds)
   for _ in ipairs(place.watches) do kinds[#kinds + 1] = { "num", 0, 1 } end -- wanted?
   return kinds
end

--- That, for one way out.
---@param exit table { stage, kind, argument }
---@param values tideway.ir.value[] to which it is added
function M.values(place, cx, exit, values)
   if #place.watches == 0 then return values end
   values[#values + 1] = mark(place, cx)
   M.carried(place, cx, values)
   for _, w in ipairs(place.watches) do
      values[#values + 1] = cx:const((w.follow or w.leaves(exit)) and 1 or 0)
   end
   return values
end

--- The packet leaves.
---@param values tideway.ir.value[] of the landing: exit, code, and ours
function M.leave(place, cx, values)
   local at = M.take_over(place, cx, values, 4)
   if #place.watches > 0 then take_time(place, cx) end
   for i, w in ipairs(place.watches) do
      local join = cx:join()
      need(cx, "ne", values[at + i - 1], cx:const(0), join)
      at_point(place, cx, i, w, {
         point = maps.EXIT, exit = values[1], out = cx:const(0xffff), mark = values[3],
      })
      cx:jump(join)
      cx:enter(join)
   end
end

return M
