-- SPDX-License-Identifier: BSD-3-Clause
-- A DNS filter: queries for names in a table get the answer REFUSED, or none (RFC 1035 4.1; RFC 8914 names the
-- practice). UDP over IPv4, one question; names are compared without regard to case (RFC 4343), as 64-bit FNV-1a
-- hashes of their labels (Fowler, Noll, Vo; draft-eastlake-fnv).

local tw = require "tideway"
local bit = require "bit"

local band, bor, bxor = bit.band, bit.bor, bit.bxor

local PARAMS = {
   names = { type = "table", required = true, doc = "blocked names, { \"ads.example.com\", ... }" },
   answer = { type = "boolean", default = true, doc = "answer REFUSED; false: drop the query" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "names" },
}

local dns = tw.header("dns", "be16 id, flags, questions, answers, authorities, additional")

local BASIS, PRIME = 0xcbf29ce484222325ULL, 0x100000001b3ULL

-- Hash of a name in text: each label behind its length, as on the wire, without the root's zero.
local function hash_of(name)
   local hash = BASIS
   for label in name:lower():gsub("%.$", ""):gmatch "[^.]+" do
      local wire = string.char(#label) .. label
      for i = 1, #wire do hash = bxor(hash, wire:byte(i)) * PRIME end
   end
   return hash
end

return tw.nf("dns", function(cfg)
   cfg = tw.args("dns", cfg, PARAMS)
   local blocked = tw.hash { name = "dns_blocked", key = "u64", value = "u64 queries", entries = cfg.entries }
   for _, name in ipairs(cfg.names) do blocked:set(hash_of(name), 0) end
   local answer = cfg.answer

   -- Turns the query into the response REFUSED: addresses and ports change places, the checksum sees only the flags.
   local function refuse(pkt, ip, udp, head)
      local old = head.flags
      local new = bor(band(old, 0x0100), 0x8005)
      head.flags = new
      local sum = udp.checksum
      if sum ~= 0 then
         sum = tw.csum.replace16(sum, old, new)
         if sum == 0 then sum = 0xffff end
         udp.checksum = sum
      end
      pkt:eth():swap()
      local src, port = ip.src, udp.src_port
      ip.src = ip.dst
      ip.dst = src
      udp.src_port = udp.dst_port
      udp.dst_port = port
      pkt:send(pkt.port)
   end

   return {
      tables = { blocked = blocked },
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local udp = pkt:udp()
         if not udp or udp.dst_port ~= 53 then return end
         local at = pkt:l4_offset() + 8
         local head = pkt:header(dns, at)
         if not head or band(head.flags, 0xf800) ~= 0 or head.questions ~= 1 then return end
         at = at + 12
         local hash, left, ended = BASIS, 0, false
         for i = 0, 254 do
            local c = pkt:u8(at + i)
            if not c then return pkt:drop "dns_malformed" end
            if left == 0 then
               if c == 0 then
                  ended = true
                  break
               end
               if c > 63 then return pkt:drop "dns_malformed" end
               left = c
            else
               left = left - 1
               if c >= 65 and c <= 90 then c = c + 32 end
            end
            hash = bxor(hash, c) * PRIME
         end
         if not ended then return pkt:drop "dns_malformed" end
         local entry = blocked:get(hash)
         if not entry then return end
         entry.queries = entry.queries + 1
         if not answer then return pkt:drop "dns_blocked" end
         return refuse(pkt, ip, udp, head)
      end,
   }
end)
