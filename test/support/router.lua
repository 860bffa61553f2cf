-- SPDX-License-Identifier: BSD-3-Clause
-- What the specs of the router share: a router between two wire ports, frames for it, and what came out.

local frame = require "test.support.frame"
local rig = require "test.support.rig"
local engine = require "tideway.engine"
local tw = require "tideway"

local M = {
   LAN_MAC = "02:00:00:00:01:01", WAN_MAC = "02:00:00:00:01:02",
   HOST_MAC = "02:00:00:00:03:05", GATE_MAC = "02:00:00:00:03:02",
   HOST = "10.0.0.5", GATE = "198.51.100.2", HOST6 = "2001:db8:1::5", GATE6 = "2001:db8:2::2",
   LAN = "10.0.0.1", WAN = "198.51.100.1", LAN6 = "2001:db8:1::1", WAN6 = "2001:db8:2::1",
   BROADCAST = "ff:ff:ff:ff:ff:ff",
}

local function config(r)
   return {
      ports = {
         { port = r.lan, addresses = { M.LAN .. "/24", M.LAN6 .. "/64" }, mac = M.LAN_MAC },
         { port = r.wan, addresses = { M.WAN .. "/24", M.WAN6 .. "/64" }, mac = M.WAN_MAC },
      },
      routes = { { "0.0.0.0/0", via = M.GATE }, { "::/0", via = M.GATE6 } },
      neighbours = { [M.GATE] = M.GATE_MAC, [M.HOST] = M.HOST_MAC, [M.GATE6] = M.GATE_MAC, [M.HOST6] = M.HOST_MAC },
   }
end

--- A running router between r.lan and r.wan; `change(cfg, r)` may change its configuration.
---@return table rig
---@return table router NF instance
function M.start(change)
   local r = rig.new { ports = { "lan", "wan" } }
   local cfg = config(r)
   if change then change(cfg, r) end
   local ok, router = pcall(tw.nf.router, cfg)
   if not ok then
      engine.close()
      error(router, 0)
   end
   r:chain("c", { r.lan, r.wan }, router)
   r:start()
   return r, router
end

--- What the lcore's VM tells of its compiler.
function M.jit() return require("tideway.abi").C.tw_lcore_jit(engine.lcores[1].slot) end

-- ---- what a frame says, read byte by byte; offsets from 0 ----

function M.u8(s, at) return s:byte(at + 1) end
function M.u16(s, at) return M.u8(s, at) * 256 + M.u8(s, at + 1) end
function M.u32(s, at) return M.u16(s, at) * 65536 + M.u16(s, at + 2) end

function M.mac(s, at)
   return (s:sub(at + 1, at + 6):gsub(".", function(c) return ("%02x:"):format(c:byte()) end):sub(1, -2))
end

function M.ip4(s, at) return ("%d.%d.%d.%d"):format(s:byte(at + 1, at + 4)) end

--- Text of the IPv6 address at an offset.
function M.ip6(s, at)
   local groups = {}
   for i = 0, 7 do groups[i + 1] = ("%x"):format(M.u16(s, at + 2 * i)) end
   return tw.ip6_string(tw.ip6(table.concat(groups, ":")))
end

--- Is the IPv4 header checksum right? The ICMP checksum too?
function M.valid4(f) return M.u16(f, 12) == 0x0800 and frame.checksum(f:sub(15, 14 + M.u8(f, 14) % 16 * 4)) == 0 end
function M.valid_icmp4(f) return M.valid4(f) and frame.checksum(f:sub(35, 14 + M.u16(f, 16))) == 0 end

--- Is the ICMPv6 checksum right?
function M.valid_icmp6(f)
   local length = M.u16(f, 18)
   local pseudo = f:sub(23, 54) .. frame.u32(length) .. "\0\0\0\58"
   return M.u16(f, 12) == 0x86dd and frame.checksum(pseudo .. f:sub(55, 54 + length)) == 0
end

-- ---- frames from the host on the LAN ----

local function eth(more)
   local e = { dst = M.LAN_MAC, src = M.HOST_MAC }
   for key, value in pairs(more or {}) do e[key] = value end
   return e
end
M.eth = eth

function M.udp4(ip, data, ethernet)
   ip.src, ip.dst = ip.src or M.HOST, ip.dst or "192.0.2.9"
   return frame.udp4(eth(ethernet), ip, { sport = 4000, dport = 53 }, data or "payload")
end

function M.udp6(ip, data, ethernet)
   ip.src, ip.dst = ip.src or M.HOST6, ip.dst or "2001:db8:9::9"
   return frame.udp6(eth(ethernet), ip, { sport = 4000, dport = 53 }, data or "payload")
end

function M.icmp4(ip, icmp, data, ethernet)
   ip.src = ip.src or M.HOST
   return frame.icmp4(eth(ethernet), ip, icmp, data or "ping")
end

function M.icmp6(ip, icmp, data, ethernet)
   ip.src = ip.src or M.HOST6
   return frame.icmp6_6(eth(ethernet), ip, icmp, data or "ping")
end

function M.arp_reply(from_mac, from, to_mac, to)
   return frame.arp({ dst = to_mac, src = from_mac }, { oper = 2, sha = from_mac, spa = from, tha = to_mac, tpa = to })
end

function M.arp_request(sha, spa, tpa)
   return frame.arp({ dst = M.BROADCAST, src = sha },
      { oper = 1, sha = sha, spa = spa, tha = "00:00:00:00:00:00", tpa = tpa })
end

--- Neighbor solicitation (135) or advertisement (136); option = { type, mac }.
function M.nd(e, ip, type, flags, target, option)
   local data = frame.ip6(target) .. (option and frame.u8(option[1]) .. "\1" .. frame.mac(option[2]) or "")
   ip.hops = ip.hops or 255
   return frame.icmp6_6(e, ip, { type = type, rest = frame.u32(flags) }, data)
end

return M
