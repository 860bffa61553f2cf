-- SPDX-License-Identifier: BSD-3-Clause
-- The packet as NFs see it: verdicts, header views and everything else that is a method of tw_pkt.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local address = require "tideway.packet.address"
local checksum = require "tideway.packet.checksum"
local header = require "tideway.packet.header"

local C = abi.C
local bor, lshift = bit.bor, bit.lshift

local M = {}

-- ---- methods ----

---@class tideway.pkt
---@field data ffi.cdata* the frame; engine code only, NFs use views
---@field len number bytes
---@field port number index of the ingress port
---@field out number index of the egress port chosen so far, 0xffff for none
---@field mark number user metadata, carried along the chain, 0 at ingress
---@field hash number RSS hash of the device, 0 when it has none
---@field verdict number engine code only
---@field stage number engine code only
local Pkt = {}

for _, name in ipairs { "view", "raw", "rewrite" } do
   for method, fn in pairs(require("tideway.packet." .. name)) do Pkt[method] = fn end
end

-- Verdict words by drop reason. Looked up under a cdata, a reason is a constant of the trace;
-- a new one is registered with the engine, in the interpreter, the first time it is used.
local reasons = setmetatable({}, {
   __index = function(cache, name)
      if type(name) ~= "string" then error("pkt:drop(reason): the reason is a string such as \"ttl_expired\"", 3) end
      local id = C.tw_reason_id(name)
      if id < 0 then error(("pkt:drop(%q): %s"):format(name, ffi.string(C.tw_error())), 3) end
      local verdict = bor(C.TW_DROP, lshift(id, 8))
      cache[name] = verdict
      return verdict
   end,
})
local verdict_of = ffi.metatype(ffi.typeof "struct { }", { __index = reasons })()

--- Drop the packet; it is counted under this name for the chain and the NF.
---@param reason string a constant string
function Pkt:drop(reason) self.verdict = verdict_of[reason] end

-- A port may be given by itself or by its index.
local function index_of(port)
   if type(port) == "table" then return port.index end
   return port
end

--- Send the packet to a port. It leaves the chain.
---@param port tideway.port|integer a port or its index
function Pkt:send(port) self.verdict = bor(C.TW_PORT, lshift(index_of(port), 8)) end

--- Send a copy to every port of the chain but the one it came from.
function Pkt:flood() self.verdict = C.TW_FLOOD end

--- Hand the packet to the kernel's network stack.
function Pkt:pass() self.verdict = C.TW_PASS end

--- Hand the packet to this NF's punt() after the burst.
function Pkt:punt() self.verdict = C.TW_PUNT end

--- Choose the port by which the packet leaves at the end of the chain; no verdict, the next NF runs.
---@param port tideway.port|integer a port or its index
function Pkt:route(port) self.out = index_of(port) end

--- Keep the packet in a hold queue until `queue:release(key)` or the queue's timeout.
---@param queue tideway.hold_queue
---@param key number
function Pkt:hold(queue, key)
   self.key = key
   self.verdict = bor(C.TW_HOLD, lshift(queue.id, 8))
end

--- Time of the burst, monotonic clock.
---@return number ns exact up to 2^53
function Pkt.now() return (tonumber(C.tw_now())) end

local VERDICTS = { [0] = "next", "drop", "port", "flood", "pass", "punt", "hold", "sink" }

ffi.metatype("struct tw_pkt", {
   __index = setmetatable(Pkt, {
      __index = function(_, name)
         error(("a packet has no field or method %q"):format(tostring(name)), 2)
      end,
   }),
   __tostring = function(self)
      local kind = bit.band(self.verdict, 0xff)
      return ("packet{len=%d port=%d out=%d mark=%d verdict=%s}"):format(self.len, self.port, self.out, self.mark,
         VERDICTS[kind] or kind)
   end,
})

--- The burst this VM works on, nil in the control VM.
---@type ffi.cdata*?
M.burst = nil

--- Tell the VM its burst; pkt:now() reads it. The pointer is an upvalue that is never assigned
--- again, which LuaJIT compiles to a load from a constant address.
---@param burst ffi.cdata* struct tw_burst *
function M.set_burst(burst)
   local cast, int64 = ffi.cast, ffi.typeof "int64_t"
   if M.burst then jit.flush() end
   M.burst = burst
   Pkt.now = function() return (tonumber(cast(int64, burst.now))) end
end

-- ---- what the tideway module re-exports ----

M.header = header.define
M.headers = header.all
M.csum = checksum
M.ip4, M.ip6, M.mac, M.prefix = address.ip4, address.ip6, address.mac, address.prefix
M.interface = address.interface
M.ip4_string, M.ip6_string, M.mac_string = address.ip4_string, address.ip6_string, address.mac_string

return M
