-- SPDX-License-Identifier: BSD-3-Clause
-- Seeded random frames: mostly right ones, and those that are nearly so (options, tags, fragments, truncated, wrong
-- lengths, flipped bits, noise).

local bit = require "bit"
local frame = require "test.support.frame"

local M = {}

-- ---- random numbers: xorshift32 (Marsaglia, 2003), the same everywhere ----

---@class traffic.random
local Random = {}
Random.__index = Random

--- A source of random numbers.
---@param seed integer
---@return traffic.random
function M.random(seed)
   local r = setmetatable({ state = bit.tobit(bit.bxor(seed * 2 + 1, 0x6b43a9b5)) }, Random)
   if r.state == 0 then r.state = 1 end
   for _ = 1, 8 do r:word() end
   return r
end

function Random:word()
   local x = self.state
   x = bit.bxor(x, bit.lshift(x, 13))
   x = bit.bxor(x, bit.rshift(x, 17))
   x = bit.bxor(x, bit.lshift(x, 5))
   self.state = x
   return x % 2 ^ 32
end

--- A whole number from a to b.
function Random:range(a, b) return a + math.floor(self:word() / 2 ^ 32 * (b - a + 1)) end

--- True once in n times.
function Random:one_in(n) return self:range(1, n) == 1 end

--- One of a list.
function Random:pick(list) return list[self:range(1, #list)] end

--- Random bytes.
function Random:bytes(length)
   local list = {}
   for i = 1, length do list[i] = string.char(self:range(0, 255)) end
   return table.concat(list)
end

-- ---- what goes wrong with frames ----

-- Cut, flipped, replaced by noise: one frame in five.
local function damage(r, f)
   local what = r:range(1, 40)
   if what <= 3 then return f:sub(1, r:range(14, math.max(14, math.min(#f, 80)))) end
   if what <= 7 then
      for _ = 1, r:range(1, 3) do
         local at = r:range(13, math.min(#f, 80))
         f = f:sub(1, at - 1) .. string.char(r:range(0, 255)) .. f:sub(at + 1)
      end
      return f
   end
   if what == 8 then return r:bytes(r:range(14, 100)) end
   return f
end
M.damage = damage

local function tags(r, o)
   if not r:one_in(o.tagged or 8) then return nil end
   local vids = o.vids or { 1, 2, 100 }
   local list = { { r:pick { 0x8100, 0x8100, 0x88a8 }, r:pick(vids) + r:range(0, 7) * 8192 } }
   if r:one_in(4) then list[2] = { 0x8100, r:pick(vids) } end
   if r:one_in(16) then list[#list + 1] = { 0x8100, 1 } end
   return list
end

local function payload(r)
   if r:one_in(20) then return r:bytes(r:range(500, 1500)) end
   return r:bytes(r:range(0, 64))
end

local FLAGS = { 0x02, 0x10, 0x12, 0x18, 0x11, 0x04, 0x00, 0x29 }

--- A transport header and its payload.
---@param r traffic.random
---@param i table  addresses, as frame.udp takes them
---@param proto integer
---@param o table  { sport, dport, flags, data }
---@return string
function M.transport(r, i, proto, o)
   local sport, dport = r:pick(o.sport or { 1024, 40000, 65535 }), r:pick(o.dport or { 80, 53, 443 })
   local data = o.data and o.data(r) or payload(r)
   if proto == 17 then
      return frame.udp(i, { sport = sport, dport = dport, no_checksum = r:one_in(6) }, data)
   elseif proto == 6 then
      local options = r:one_in(3) and (o.options and o.options(r) or "\2\4\5\180") or nil
      local segment = frame.tcp(i, {
         sport = sport, dport = dport, flags = r:pick(o.flags or FLAGS), seq = r:word(), ack = r:word(),
         options = options,
      }, data)
      if not r:one_in(10) then return segment end
      return segment:sub(1, 12) .. string.char(r:pick { 0, 0x40, 0x50, 0x60, 0x70, 0xf0 }) .. segment:sub(14)
   elseif proto == 1 then
      return frame.icmp({ type = r:pick { 0, 8, 3, 11 }, id = sport, seq = dport }, data)
   end
   return data
end

--- An IPv4 packet in a frame. What is not given is chosen at random.
---@param r traffic.random
---@param o table  lists to pick from: { src, dst, proto, sport, dport, flags, vids }; tagged = one frame in so many has
---  VLAN tags; data, options = functions of r that give payload and TCP options; inner = function of r that gives
---  what follows the IP header; whole = no fragments and no options
---@return string
function M.ip(r, o)
   local i = {
      src = r:pick(o.src), dst = r:pick(o.dst), proto = r:pick(o.proto or { 6, 17, 17, 1, 47 }),
      ttl = r:pick { 64, 64, 63, 255, 2, 1, 0 }, tos = r:range(0, 255), id = r:range(0, 65535), df = r:one_in(2),
   }
   local body = o.inner and o.inner(r, i) or M.transport(r, i, i.proto, o)
   if not o.whole and r:one_in(10) then i.options = ("\1"):rep(4 * r:range(1, 10)) end
   if not o.whole and r:one_in(12) then i.frag = r:pick { 0x2000, 0x2001, 1, 185 } end
   if r:one_in(10) then -- also one byte less than a header needs
      i.total_length = #(i.options or "") + r:pick { 19, 20, 27, 28, 31, 32, 39, 40, 41, 43, 44, 59, r:range(0, 80) }
   end
   local dst = r:pick { "02:00:00:00:00:02", "02:00:00:00:00:ff" }
   local f = frame.eth({ dst = dst, vlan = tags(r, o) }, frame.ipv4(i, body))
   if r:one_in(8) then f = f .. r:bytes(r:range(1, 20)) end -- Ethernet padding
   return damage(r, f)
end

--- An IPv6 packet in a frame.
---@param r traffic.random
---@param to string[]  destinations to pick from
---@return string
function M.ip6(r, to)
   local i = { src = "2001:db8::99", dst = r:pick(to), hops = r:pick { 64, 64, 255, 2, 1, 0 }, next = r:pick { 17, 6 } }
   local body = M.transport(r, i, i.next, {})
   if r:one_in(25) then i.length = r:range(0, 2000) end
   return damage(r, frame.eth({ type = 0x86dd, vlan = tags(r, {}) }, frame.ipv6(i, body)))
end

return M
