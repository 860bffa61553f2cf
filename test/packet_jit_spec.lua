-- SPDX-License-Identifier: BSD-3-Clause
-- What packet() does compiles: on an lcore whose traces have settled nothing is recorded or aborted any
-- more, and nothing is allocated.

local ffi = require "ffi"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local packets = require "test.support.packets"
local rigs = require "test.support.rig"
local tideway = require "tideway"
local tw = require "tideway.packet"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local band = require("bit").band

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
local arrays = tw.header("arrays", "u8 a[4]; u8 b[4]; be16 c[2]; be32 d[1]; struct e { u8 f; be16 g; u8 h }")
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
   ["arrays and structs"] = function(pkt)
      local h = pkt:header(arrays, pkt:payload_offset() or 60000)
      if not h then return end
      h.a[3] = h.a[h.b[0] % 4] + 1
      h.c[1] = h.c[0]
      if h.d[0] > 5 then h.e.g = h.e.f + h.e.h end
      if h.a == h.b or h.a == "GET " then return pkt:drop "spec_equal" end
      h.b = h.a
   end,
   ["offsets, numbers and time"] = function(pkt)
      local at, length = pkt:payload_offset()
      if at and length > 4 and pkt:u16(at) == 0x1234 then return pkt:drop "spec_payload" end
      if pkt:now() < 5 then return pkt:drop "spec_early" end
      pkt:route(1)
   end,
   ["whole checksums"] = function(pkt)
      if pkt:valid_l4_checksum() == false then return pkt:drop "spec_checksum" end
      pkt:update_l4_checksum()
   end,
}

-- An NF that reads so many fields that a tail call in each would end the trace.
NFS["150 fields"] = assert(loadstring(([[return function(pkt)
   local ip = pkt:ipv4()
   if not ip then return end
   local sum = 0
   %s
   if sum == 0 then return pkt:drop "spec_sum" end
end]]):format(("sum = sum + ip.total_length + ip.src + ip.df\n"):rep(50)), "=150 fields"))()

-- Opcodes of a function's bytecode.
local function opcodes(fn)
   local list, info = {}, util.funcinfo(fn)
   for pc = 1, (info.bytecodes or 1) - 1 do
      local op = band(util.funcbc(fn, pc), 0xff) * 6
      list[#list + 1] = vmdef.bcnames:sub(op + 1, op + 6):match "%S+"
   end
   return list
end

describe("compiled packet functions", function()
   local rig, heap

   after_each(function() rig:close() end) -- frees the table, too

   -- The NF under test and a tick() that tells how much memory the lcore's Lua has in use.
   local function start(packet)
      rig = rigs.new { ports = { "one", "two" } }
      heap = tideway.array { name = "heap", value = "ns", entries = 1 }
      local cell, count = heap, collectgarbage
      rig:chain("c", rig.one, tideway.nf("spec", function()
         return {
            packet = packet,
            tick = function()
               count "stop"
               cell:set(0, count "count" * 1024)
            end,
         }
      end) {}, rig.two)
      rig:start()
   end

   local function load_of(list)
      return function()
         for i = 1, 32 do assert(rig.one:inject(list[i % #list + 1])) end
         rig:run()
         rig:collect(rig.two)
         rig:collect(rig.one)
      end
   end

   -- A rare exit may become hot late, and be recorded then. So: there comes a time, soon, from when on 3200
   -- packets pass with nothing recorded, aborted or allocated.
   local function settles(packet, list)
      start(packet)
      local load = load_of(list)
      rig:steady(load)
      local info = abi.C.tw_lcore_jit(engine.lcores[1].slot)
      local traces, aborts, bytes
      for _ = 1, 10 do
         rig:advance(0.2)
         traces, aborts, bytes = info.traces, info.aborts, heap:get(0)
         for _ = 1, 100 do load() end
         rig:advance(0.2)
         traces, aborts, bytes = info.traces - traces, info.aborts - aborts, (heap:get(0) - bytes) / 3200
         if traces == 0 and aborts == 0 and bytes < 0.5 then return end
      end
      assert.same({ 0, 0, 0 }, { traces, aborts, bytes }, "traces, aborts, bytes per packet; the last abort was at "
         .. ffi.string(info.last_abort))
   end

   for name, nf in pairs(NFS) do
      it(name .. ": one kind of packet", function() settles(nf, { UDP4 }) end)
      it(name .. ": all kinds of packets", function() settles(nf, MIX) end)
   end

   it("are told from functions that allocate", function()
      local last
      assert.is_false(pcall(settles, function(pkt)
         last = { last and last[2], pkt.len }
         pkt.mark = last[2]
      end, { UDP4 }))
   end)
end)

describe("packet functions", function()
   it("read nothing beyond the frame", function()
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

   -- LuaJIT gives up a trace with many tail calls, even of built-in functions: they add up along a chain.
   it("have no tail calls", function()
      for _, module in ipairs { "view", "raw", "rewrite", "checksum", "parse" } do
         for name, fn in pairs(require("tideway.packet." .. module)) do
            for _, op in ipairs(opcodes(fn)) do
               assert.is_true(op ~= "CALLT" and op ~= "CALLMT", module .. "." .. name)
            end
         end
      end
   end)
end)
