-- SPDX-License-Identifier: BSD-3-Clause
-- What the user half of hybrid NFs on hooks does to packets, as records of a watch: packets that a program punted go on
-- in the control thread, and so do their steps.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local place = require "tideway.compiler.place.watch.maps"
local steps = require "tideway.live.watch_steps"

local C = abi.C
local M = {}

local scratch = ffi.new(place.record)

local ENDS = bit.bor(C.TW_EDGE_OUT, C.TW_EDGE_DROP, C.TW_EDGE_HELD)

-- The packet as a program would have written it.
local function record_of(frame)
   local pkt, r = frame.pkt, scratch
   r.time, r.length, r.caplen = C.tw_now(), pkt.len, math.min(pkt.len, place.FRAME)
   r.packet, r.mark, r.port, r.out = frame.watched, pkt.mark, pkt.port, pkt.out
   r.vlan_proto, r.vlan_tci = frame.vlan_proto, frame.vlan_tci
   ffi.copy(ffi.cast("uint8_t *", r) + place.HEADER_SIZE, pkt.data, r.caplen)
   return r
end

local function came_out(verdict)
   local kind = bit.band(verdict, 0xff)
   return kind ~= C.TW_DROP and kind ~= C.TW_HOLD and kind ~= C.TW_PUNT
end

-- Is this edge one of those that are looked at?
local function at_edge(wanted, w, seen)
   if bit.band(wanted.edges, seen.edge) == 0 then return false end
   if wanted.in_port and wanted.in_port.index ~= seen.frame.pkt.port then return false end
   if seen.edge == C.TW_EDGE_NF then return w.stages[seen.stage] and came_out(seen.verdict) end
   if seen.edge == C.TW_EDGE_OUT then return not wanted.out_port or wanted.out_port.index == seen.out end
   return seen.edge ~= C.TW_EDGE_DROP or not wanted.reason
      or bit.rshift(seen.verdict, 8) == C.tw_reason_id(wanted.reason)
end

-- Does the packet match, and is it one in so many?
local function chosen(part, w, pkt)
   local counts = part.user
   counts.looked = counts.looked + 1
   if w.buffer and not C.tw_filter_run(w.buffer, pkt.data, pkt.len, pkt.len) then return false end
   counts.matched = counts.matched + 1
   return (counts.matched - 1) % part.wanted.sample == 0
end

local function step_of(part, w, seen, with)
   local step = steps.of_user(record_of(seen.frame), w, part.wanted, with)
   local r = step.record
   local made = seen.frame.ifindex == 0 and C.TW_WATCH_MADE or 0
   r.edge, r.verdict, r.flags, r.spent = seen.edge, seen.verdict, bit.bor(seen.flags, made), seen.spent
   r.stage = seen.stage < C.TW_STAGE_ENGINE and seen.stage or C.TW_STAGE_ENGINE
   if seen.edge == C.TW_EDGE_OUT then r.out = seen.out or C.TW_PORT_NONE end
   return step
end

-- A step of a packet that is followed since it came in.
local function follow(part, w, seen)
   local number = seen.frame.watched
   if number == 0 then return end
   part:drain() -- what the program wrote comes first
   local list = part.open_packets[number]
   if not list then return end
   list[#list + 1] = step_of(part, w, seen, seen.edge == C.TW_EDGE_NF)
   if bit.band(seen.edge, ENDS) ~= 0 then part:finish(number, not list.torn) end
end

--- What the control thread tells of packets: for tideway.hook.observe.
---@param part tideway.live.watch_hook
---@param w tideway.place.watch
---@return function listener takes what observe.seen() is given
function M.listener(part, w)
   return function(_, edge, frame, stage, verdict, out, flags, spent)
      local seen = {
         edge = edge, frame = frame, stage = stage, verdict = verdict, out = out, flags = flags, spent = spent,
      }
      if part.wanted.follow then return follow(part, w, seen) end
      if not at_edge(part.wanted, w, seen) or not chosen(part, w, frame.pkt) then return end
      part.user.packets = part.user.packets + 1
      part:push { step_of(part, w, seen, true) }
   end
end

return M
