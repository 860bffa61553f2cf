-- SPDX-License-Identifier: BSD-3-Clause
-- Answers TCP SYNs with SYN cookies (RFC 4987 3.6) in place of the server, whose kernel takes the connection over
-- when the client's ACK brings a good cookie back (sysctl net.ipv4.tcp_syncookies = 2).
--
-- Kernel hooks only: the cookies are the kernel's own. Clients that have shown one cookie are known from then on.

local tw = require "tideway"
local bit = require "bit"

local band, lshift, rshift = bit.band, bit.lshift, bit.rshift

local PARAMS = {
   services = { type = "table", required = true, doc = "{ { address = \"192.0.2.1\", port = 80 }, ... }" },
   mss = { type = "number", default = 1460, min = 536, max = 8960, doc = "our maximum segment size" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "connections remembered" },
}

local FIN, SYN, RST, ACK = 1, 2, 4, 16

-- The helper wants to know that the longest TCP header there can be is inside the frame.
local longest_tcp = tw.header("longest_tcp", "be16 src_port, dst_port; be32 seq, ack; pad 48")
local ANSWER = 14 + 20 + 24

-- Maximum segment size among the TCP options in front of `stop`; 536 when there is none, 0 when they are malformed.
local function mss_of(pkt, stop)
   local at = 54
   for _ = 1, 40 do
      if at >= stop then break end
      local kind = pkt:u8(at)
      if not kind or kind == 0 then break end
      if kind == 1 then
         at = at + 1
      else
         local size = pkt:u8(at + 1)
         if not size or size < 2 or at + size > stop then return 0 end
         if kind == 2 and size == 4 then return pkt:u16(at + 2) or 0 end
         at = at + size
      end
   end
   return 536
end

local function halves(word) return rshift(word, 16) + band(word, 0xffff) end

local function checksum(sum)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return 0xffff - sum
end

return tw.nf("syn_cookie", function(cfg)
   cfg = tw.args("syn_cookie", cfg, PARAMS)
   local services = tw.hash { name = "syn_services", key = "u32 address; u16 port", value = "u32", entries = 1024 }
   local known = tw.lru {
      name = "syn_known", key = "u32 src; u32 dst; u16 sport; u16 dport", value = "u32", entries = cfg.entries,
   }
   for _, s in ipairs(cfg.services) do services:set(tw.ip4(s.address), s.port, 1) end
   local our_mss = cfg.mss

   -- Makes the frame, which has exactly ANSWER bytes, the answer to the SYN that stands in it.
   local function write_answer(pkt, cookie, mss)
      pkt:eth():swap()
      local ip = pkt:ipv4_at(14)
      local src, dst = ip.dst, ip.src
      ip.tos = 0
      ip.total_length = 44
      ip.id = 0
      ip.frag = 0x4000
      ip.ttl = 64
      ip.src = src
      ip.dst = dst
      ip.checksum = checksum(0x4500 + 44 + 0x4000 + 0x4006 + halves(src) + halves(dst))
      local tcp = pkt:tcp_at(34)
      local src_port, dst_port, ack = tcp.dst_port, tcp.src_port, (tcp.seq + 1) % 4294967296
      tcp.src_port = src_port
      tcp.dst_port = dst_port
      tcp.seq = cookie
      tcp.ack = ack
      pkt:set_u16(46, 0x6012) -- six words; SYN and ACK
      tcp.window = 65535
      tcp.urgent = 0
      pkt:set_u16(54, 0x0204)
      pkt:set_u16(56, mss)
      tcp.checksum = checksum(halves(src) + halves(dst) + 6 + 24 + src_port + dst_port + halves(cookie) + halves(ack) +
         0x6012 + 65535 + 0x0204 + mss)
   end

   local function answer(pkt, length)
      local mss = mss_of(pkt, 34 + length)
      if mss == 0 then return pkt:drop "syn_options" end
      if not pkt:adjust_tail(94 - pkt.len) then return pkt:drop "no_tailroom" end
      local ip, tcp = pkt:ipv4_at(14), pkt:header(longest_tcp, 34)
      if not ip or not tcp then return pkt:drop "no_tailroom" end
      local cookie = tw.bpf.tcp_raw_gen_syncookie_ipv4(ip, tcp, length)
      if cookie < 0 then return pkt:drop "syn_no_cookie" end
      if not pkt:adjust_tail(ANSWER - 94) then return pkt:drop "no_tailroom" end
      if mss > our_mss then mss = our_mss end
      write_answer(pkt, cookie % 4294967296, mss)
      pkt:send(pkt.port)
   end

   return {
      tables = { services = services, known = known },
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth or eth.type ~= 0x0800 then return end
         local ip = pkt:ipv4()
         if not ip or ip.ihl ~= 5 or ip:is_fragment() then return end
         local tcp = pkt:tcp()
         if not tcp or not services:get(ip.dst, tcp.dst_port) then return end
         local flags = band(tcp.flags, FIN + SYN + RST + ACK)
         if flags == SYN then return answer(pkt, lshift(tcp.data_offset, 2)) end
         if known:get(ip.src, ip.dst, tcp.src_port, tcp.dst_port) then return end
         if flags ~= ACK then return pkt:drop "syn_unknown" end
         if tw.bpf.tcp_raw_check_syncookie_ipv4(ip, tcp) ~= 0 then return pkt:drop "syn_bad_cookie" end
         known:set(ip.src, ip.dst, tcp.src_port, tcp.dst_port, 1)
      end,
   }
end)
