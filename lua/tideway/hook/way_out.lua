-- SPDX-License-Identifier: BSD-3-Clause
-- Where a packet goes that the control thread has a verdict for: as the programs of its hook send it.

local bit = require "bit"
local abi = require "tideway.abi"
local frames = require "tideway.hook.frame"
local inject = require "tideway.hook.inject"

local C = abi.C
local M = {}

M.again_table = inject.again_table

local missing

--- Why frames can't be passed to the kernel here; nil when they can.
---@return string?
function M.missing()
   if missing == nil then missing = inject.no_pass() or false end
   return missing or nil
end

-- XDP sends past the qdisc, tc through it.
local function send(punts, ifindex, frame, port, direct)
   frames.put_tag(frame)
   local pkt = frame.pkt
   if direct == nil then direct = punts.hook.chain.place.hook == "xdp" end
   local ok, reason = inject.send(ifindex, pkt.data, pkt.len, direct)
   if ok then punts:sent(frame, port) else punts:lose(frame, C.TW_STAGE_ENGINE, reason) end
   return ok
end

--- To a port.
---@param punts tideway.hook.punts
---@param frame tideway.hook.frame
---@param port integer
---@param stage integer
function M.to_port(punts, frame, port, stage)
   local ifindex = punts:interfaces()[port]
   if not ifindex then return punts:lose(frame, stage, "no_such_port") end
   send(punts, ifindex, frame, port)
end

local KIND = {}

KIND[C.TW_DROP] = function(punts, frame, stage) punts:lose(frame, stage, bit.rshift(frame.pkt.verdict, 8)) end

KIND[C.TW_PORT] = function(punts, frame, stage) M.to_port(punts, frame, bit.rshift(frame.pkt.verdict, 8), stage) end

KIND[C.TW_FLOOD] = function(punts, frame, stage)
   local copies = 0
   for port, ifindex in pairs(punts:flood_ports()) do
      if port ~= frame.pkt.port then
         copies = copies + 1
         send(punts, ifindex, frame, port)
      end
   end
   if copies == 0 then return punts:lose(frame, stage, "no_sink") end
   punts.counts.originated = punts.counts.originated + copies - 1
end

-- On, as if it had not been punted: up the stack, or out of the interface that it was about to leave by.
KIND[C.TW_PASS] = function(punts, frame, stage)
   local ok, reason
   if frame.ifindex == 0 then return punts:lose(frame, stage, "no_kernel_port") end
   if frame.egress then
      ok = send(punts, frame.ifindex, frame, nil, true)
   else
      frames.put_tag(frame)
      ok, reason = inject.pass(frame.ifindex, frame.pkt.data, frame.pkt.len, punts:marks_passed(frame))
      if ok then punts:sent(frame) else punts:lose(frame, C.TW_STAGE_ENGINE, reason) end
   end
   if ok then punts.counts.passed = punts.counts.passed + 1 end
end

KIND[C.TW_SINK] = function(punts, frame, stage)
   local out, sink = frame.pkt.out, punts.hook.chain.sink
   if out ~= C.TW_PORT_NONE then return M.to_port(punts, frame, out, stage) end
   if sink then return M.to_port(punts, frame, sink.index, stage) end
   KIND[C.TW_PASS](punts, frame, stage)
end

KIND[C.TW_PUNT] = function(punts, frame, stage) punts:lose(frame, stage, "no_punt") end

--- A packet has its verdict.
---@param punts tideway.hook.punts
---@param frame tideway.hook.frame
---@param stage integer that gave it
function M.settle(punts, frame, stage)
   local way = KIND[bit.band(frame.pkt.verdict, 0xff)]
   if not way then return punts:lose(frame, stage, "bad_verdict") end
   way(punts, frame, stage)
end

return M
