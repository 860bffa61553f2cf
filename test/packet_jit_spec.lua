-- SPDX-License-Identifier: BSD-3-Clause
-- What packet() does compiles: loops over packets become traces, nothing is allocated per packet, and
-- after the warm-up no recording is tried, let alone aborted.

local ffi = require "ffi"
local frame = require "test.support.frame"
local packets = require "test.support.packets"
local tw = require "tideway.packet"
local util = require "jit.util"

local BURST, SLOT = 32, 2048
local LIKE_AN_LCORE = { "maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000",
   "hotloop=28", "hotexit=6", "maxmcode=16384" }
local DEFAULTS = { "maxtrace=1000", "maxrecord=4000", "maxirconst=500", "maxside=100", "maxsnap=500", "hotloop=56",
   "hotexit=10", "maxmcode=512" }

local i4, i6 = { src = "10.0.0.1", dst = "192.0.2.9" }, { src = "2001:db8::1", dst = "2001:db8::2" }
local ports = { sport = 1234, dport = 53 }
local UDP4 = frame.udp4({}, i4, ports, "payload of some bytes")
local MIX = {
   UDP4, frame.tcp4({}, i4, ports, "data"), frame.icmp4({}, i4, { type = 8, id = 5 }, "ping"),
   frame.udp4({ vlan = { { 0x8100, 5 } } }, i4, ports, "tagged"), frame.udp6({}, i6, ports, "six"),
   frame.eth({ type = 0x86dd }, frame.ipv6({ src = i6.src, dst = i6.dst, next = 60 },
      "\17\0\0\0\0\0\0\0" .. frame.udp(i6, ports, "behind options"))),
   frame.eth({}, frame.ipv4({ src = i4.src, dst = i4.dst, options = "\1\1\1\0" },
      frame.udp(i4, ports, "options"))),
   frame.icmp6_6({}, i6, { type = 128 }, "ping"), UDP4, UDP4:sub(1, 20), UDP4,
   frame.arp({}, { oper = 1, sha = "02:00:00:00:00:01",
      spa = "10.0.0.1", tha = "00:00:00:00:00:00", tpa = "10.0.0.2" }),
}

local mine = tw.header("mine", "be16 src_port, dst_port; u4 a; u12 b")
local src6 = tw.ip6 "2001:db8::99"

-- The bodies of packet() functions, as NFs write them.
local NFS = {
   ["swap MACs"] = function(pkt)
      local eth = pkt:eth()
      if not eth then return end
      eth:swap()
   end,
   ["MACs as numbers"] = function(pkt)
      local eth = pkt:eth()
      if not eth then return end
      local dst = eth.dst
      eth.dst = eth.src
      eth.src = dst
   end,
   ["TTL and checksum"] = function(pkt)
      local ip = pkt:ipv4()
      if not ip then return end
      if ip.ttl <= 1 then return pkt:drop "spec_ttl_expired" end
      ip.ttl = 255 - ip.ttl
      ip:update_checksum()
   end,
   ["five-tuple"] = function(pkt)
      local src, dst = 0, 0
      local ip = pkt:ipv4()
      if ip then
         src, dst = ip.src, ip.dst
      else
         local ip6 = pkt:ipv6()
         if not ip6 then return pkt:drop "spec_not_ip" end
         if ip6.src == src6 then return pkt:drop "spec_address" end
      end
      local sport, dport = 0, 0
      local tcp = pkt:tcp()
      if tcp then
         sport, dport = tcp.src_port, tcp.dst_port
         if tcp.syn == 1 and tcp.ack_flag == 0 then pkt.mark = 1 end
      else
         local udp = pkt:udp()
         if udp then sport, dport = udp.src_port, udp.dst_port end
      end
      if src == dst and sport == dport then return pkt:drop "spec_land" end
   end,
   ["NAT"] = function(pkt)
      if not pkt:set_ipv4_src(0x0a000001) then
         pkt:set_ipv6_src(src6)
         return
      end
      pkt:set_src_port(4000)
   end,
   ["VLAN and ARP"] = function(pkt)
      local vlan = pkt:vlan()
      if vlan and vlan.vid == 7 then return pkt:drop "spec_vlan" end
      local arp = pkt:arp()
      if arp and arp.op == 1 then return pkt:punt() end
   end,
   ["ICMP"] = function(pkt)
      local icmp = pkt:icmp()
      if icmp and icmp.type == 8 then
         icmp.id = icmp.seq
         return pkt:send(1)
      end
      local icmp6 = pkt:icmp6()
      if icmp6 and not icmp6:is_error() then return pkt:flood() end
   end,
   ["a header of one's own"] = function(pkt)
      local h = pkt:header(mine, pkt:l4_offset())
      if h and h.dst_port == 53 then h.b = h.a end
   end,
   ["offsets, numbers and time"] = function(pkt)
      local at, length = pkt:payload_offset()
      if at and length > 4 and pkt:u16(at) == 0x1234 then return pkt:drop "spec_payload" end
      if pkt:now() < 5 then return pkt:drop "spec_early" end
      pkt:route(2)
   end,
   ["whole checksums"] = function(pkt)
      if pkt:valid_l4_checksum() == false then return pkt:drop "spec_checksum" end
      pkt:update_l4_checksum()
   end,
}

describe("compiled packet loops", function()
   local burst = ffi.new "struct tw_burst"
   local memory = ffi.new("uint8_t[?]", BURST * SLOT)
   local events = { loops = {} }

   -- No globals here: busted's are looked up through a function, and this runs inside the recorder.
   local function on_trace(what, trace, fn, pc)
      events[what] = (events[what] or 0) + 1
      if what == "start" then events.at = util.funcinfo(fn, pc).loc end
      if what == "stop" and util.traceinfo(trace).linktype == "loop" then events.loops[events.at or "?"] = true end
   end

   setup(function()
      jit.opt.start(unpack(LIKE_AN_LCORE))
      jit.attach(on_trace, "trace")
   end)

   teardown(function()
      jit.attach(on_trace)
      jit.opt.start(unpack(DEFAULTS))
      jit.flush()
   end)
   -- Fresh packets, written by compiled code that allocates nothing.
   local function fill(list)
      for i = 0, BURST - 1 do
         local pkt, bytes = burst.pkts[i], list[i % #list + 1]
         pkt.data, pkt.len, pkt.verdict = memory + i * SLOT + 64, #bytes, 0
         ffi.copy(pkt.data, bytes, #bytes)
      end
   end

   -- The loop that lua/tideway/lcore.lua makes for a chain of one NF.
   local LOOP = [[local burst, pkts, nf = ...
      return function()
         for i = 0, burst.count - 1 do
            local pkt = pkts[i]
            burst.stage = 0
            nf(pkt)
            if pkt.verdict == 0 then pkt.verdict = 7 else pkt.stage = 0 end
         end
      end]]

   -- Interpreted, so that the loop over packets is entered from outside, as C does it.
   local function rounds(count, list, run)
      for _ = 1, count do
         fill(list)
         run()
      end
   end
   jit.off(rounds)

   local function measure(nf, list, name)
      events = { loops = {} }
      burst.count = BURST
      local chunk = assert(loadstring(LOOP, "=spec " .. name))
      local run = chunk(ffi.cast("struct tw_burst *", burst), ffi.cast("struct tw_pkt *", burst.pkts), nf)
      rounds(4000, list, run)
      local looped = false
      for at in pairs(events.loops) do looped = looped or at:find("spec " .. name, 1, true) ~= nil end
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      local seen = { loops = {} }
      events = seen
      rounds(1000, list, run)
      events = { loops = {} } -- what the test itself does from here on does not count
      local bytes = (collectgarbage "count" - before) * 1024 / (1000 * BURST)
      collectgarbage "restart"
      return looped, bytes, seen
   end

   for name, nf in pairs(NFS) do
      it(name .. ": one kind of packet", function()
         jit.flush()
         local looped, bytes, after = measure(nf, { UDP4 }, name)
         assert.is_true(looped or name == "whole checksums", "the loop over packets is no trace of its own")
         assert.is_nil(after.abort)
         assert.is_nil(after.start)
         assert.is_true(bytes < 0.5, bytes .. " bytes allocated per packet")
      end)

      it(name .. ": all kinds of packets", function()
         jit.flush()
         local _, bytes, after = measure(nf, MIX, name)
         assert.is_nil(after.abort)
         assert.is_true(bytes < 0.5, bytes .. " bytes allocated per packet")
      end)
   end

   it("and the check sees what does not compile", function()
      jit.flush()
      local _, bytes = measure(function(pkt) pkt.mark = #{ pkt.len } end, { UDP4 }, "table")
      local _, closure = measure(function(pkt) pkt.mark = (function() return pkt.len end)() end, { UDP4 }, "closure")
      assert.is_true(bytes > 1 or closure > 1)
   end)

   it("uses nothing beyond the frames", function()
      -- The same NFs, compiled by now, on frames that end at a forbidden page.
      local pkt = packets.new ""
      for _, nf in pairs(NFS) do
         for _, bytes in ipairs(MIX) do
            for len = 0, #bytes do
               packets.put(pkt, bytes:sub(1, len))
               nf(pkt)
            end
         end
      end
   end)
end)
