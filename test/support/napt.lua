-- SPDX-License-Identifier: BSD-3-Clause
-- What the specs of napt44 share: edge and inline rigs, frames of both sides, and a decoder that checks checksums.

local frame = require "test.support.frame"
local rigs = require "test.support.rig"
local tw = require "tideway"

local M = { EXT = "198.51.100.1", HOST = "10.0.0.2", OTHER = "10.0.0.3", SERVER = "203.0.113.9" }

local function u16(s, i) return s:byte(i) * 256 + s:byte(i + 1) end
local function ip4(s, i) return ("%d.%d.%d.%d"):format(s:byte(i, i + 3)) end

local function pseudo(p, size)
   return frame.ip4(p.src) .. frame.ip4(p.dst) .. "\0" .. frame.u8(p.proto) .. frame.u16(size)
end

local decode_ip

local function decode_l4(p, l4, quoted)
   if p.offset > 0 then
      p.data = l4
      return
   end
   if p.proto == 1 then
      p.type, p.code, p.sum, p.id_icmp = l4:byte(1), l4:byte(2), u16(l4, 3), u16(l4, 5)
      p.sport, p.l4_ok, p.data = p.id_icmp, frame.checksum(l4) == 0, l4:sub(9)
      if p.type == 3 or p.type == 11 or p.type == 12 then p.inner = decode_ip(p.data, true) end
      return
   end
   p.sport, p.dport = u16(l4, 1), u16(l4, 3)
   local at = p.proto == 6 and 17 or 7
   if #l4 < at + 1 then return end
   p.sum = u16(l4, at)
   p.data = p.proto == 6 and l4:sub(math.floor(l4:byte(13) / 16) * 4 + 1) or l4:sub(9)
   p.flags = p.proto == 6 and l4:byte(14) or nil
   local size = #l4
   if quoted and p.proto == 17 then size = u16(l4, 5) end
   p.l4_ok = (p.proto == 17 and p.sum == 0) or frame.checksum(pseudo(p, size) .. l4) == 0
end

--- An IPv4 packet as a table: src, dst, proto, id, mf, offset, ttl, sport, dport, sum, data, type, code; ip_ok and
--- l4_ok say whether its checksums are right; inner is the packet an ICMP error quotes.
function decode_ip(s, quoted)
   local ihl = s:byte(1) % 16 * 4
   local frag = u16(s, 7)
   local p = {
      src = ip4(s, 13), dst = ip4(s, 17), proto = s:byte(10), id = u16(s, 5), ttl = s:byte(9), ihl = ihl,
      mf = math.floor(frag / 0x2000) % 2, offset = frag % 0x2000, ip_ok = frame.checksum(s:sub(1, ihl)) == 0,
   }
   decode_l4(p, s:sub(ihl + 1, quoted and -1 or u16(s, 3)), quoted)
   return p
end
M.decode_ip = decode_ip

--- The IPv4 packet in an Ethernet frame; its own checksums must be right (those of fragments cannot be checked).
function M.decode(f)
   assert(f, "no frame came out")
   assert(f:sub(13, 14) == "\8\0", "not IPv4")
   local p = decode_ip(f:sub(15))
   assert(p.ip_ok, "IPv4 checksum is wrong")
   if p.mf == 0 and p.offset == 0 and p.l4_ok == false then error "checksum of the transport header is wrong" end
   return p
end

-- What stands for the router: 10/8 is behind lan, the external address is its own, the rest behind wan.
local function small_router(lan, wan)
   local ext = tw.ip4(M.EXT)
   return tw.nf("small_router", function()
      return {
         packet = function(pkt)
            local ip = pkt:ipv4()
            if not ip then return pkt:drop "not_ipv4" end
            if ip.dst == ext then return pkt:drop "for_router" end
            if ip.dst >= 0x0a000000 and ip.dst < 0x0b000000 then return pkt:route(lan) end
            pkt:route(wan)
         end,
      }
   end) {}
end

local Nat = {}
Nat.__index = Nat

local function config(wan, cfg)
   local out = { outside = wan, address = M.EXT, inside = "10.0.0.0/8" }
   for k, v in pairs(cfg or {}) do out[k] = v end
   return out
end

--- A NAT around a router, between ports lan and wan, as in an edge chain.
function M.edge(cfg)
   local rig = rigs.new { ports = { "lan", "wan" } }
   local nf = tw.nf.napt44(config(rig.wan, cfg))
   rig:chain("edge", { rig.lan, rig.wan }, nf, small_router(rig.lan.index, rig.wan.index), nf)
   rig:start()
   return setmetatable({ rig = rig, nf = nf }, Nat)
end

--- The same with no router, in one chain for each way.
function M.inline(cfg)
   local rig = rigs.new { ports = { "lan", "wan" } }
   cfg = cfg or {}
   cfg.place = "inline"
   local nf = tw.nf.napt44(config(rig.wan, cfg))
   rig:chain("up", rig.lan, nf, rig.wan)
   rig:chain("down", rig.wan, nf, rig.lan)
   rig:start()
   return setmetatable({ rig = rig, nf = nf }, Nat)
end

--- Frames from inside that leave by wan, decoded; nil when nothing does.
function Nat:up(f)
   local out = self.rig:through(self.rig.lan, f, self.rig.wan)
   return out and M.decode(out)
end

--- Frames from outside that leave by lan.
function Nat:down(f)
   local out = self.rig:through(self.rig.wan, f, self.rig.lan)
   return out and M.decode(out)
end

--- Frames from inside that come back to the inside.
function Nat:hairpin(f)
   local out = self.rig:through(self.rig.lan, f, self.rig.lan)
   return out and M.decode(out)
end

function Nat:drops() return self.rig:drops() end

--- Entries of the mapping table, expired ones included until they are swept.
function Nat:count()
   for _, t in ipairs(tw.tables()) do
      if t.name == "napt44.inner" then return t.count end
   end
end

--- Lets time pass in steps, so that the sweep gets round.
function Nat:pass(seconds)
   for _ = 1, 50 do self.rig:advance(seconds / 50) end
end

local function endpoint(text)
   local address, port = text:match "^([%d.]+):?(%d*)$"
   return address, tonumber(port)
end

local function transport(make)
   return function(from, to, fields, data, ip)
      local i, t = ip or {}, {}
      i.src, t.sport = endpoint(from)
      i.dst, t.dport = endpoint(to)
      for k, v in pairs(fields or {}) do t[k] = v end
      return make({}, i, t, data)
   end
end

--- Frames: udp("10.0.0.2:1000", "203.0.113.9:53", fields, data, ip fields).
M.udp = transport(frame.udp4)
M.tcp = transport(frame.tcp4)

--- icmp("10.0.0.2", "203.0.113.9", { type =, id = }, data)
function M.icmp(from, to, fields, data) return frame.icmp4({}, { src = from, dst = to }, fields, data) end

--- An ICMP error that quotes a frame: its IPv4 header and `bytes` of what follows (default 8).
function M.error(from, to, fields, quoted, bytes)
   local ihl = quoted:byte(15) % 16 * 4
   fields.rest = fields.rest or "\0\0\0\0"
   return M.icmp(from, to, fields, quoted:sub(15, 14 + ihl + (bytes or 8)))
end

--- A frame with the source or destination of a decoded packet's: what a host answers to `p`.
function M.reply(p) return ("%s:%d"):format(p.dst, p.dport), ("%s:%d"):format(p.src, p.sport) end

return M
