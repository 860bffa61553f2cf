-- SPDX-License-Identifier: BSD-3-Clause
-- What an end host would say of a frame: is its IP header right, is its transport checksum right? Written on
-- strings, independent of tideway.packet.

local M = {}

local floor = math.floor

local function u16(s, at) return s:byte(at + 1) * 256 + s:byte(at + 2) end

-- One's complement sum of bytes [from, to), added to `sum` and folded.
local function add(sum, s, from, to)
   local at = from
   while at + 1 < to do
      sum = sum + s:byte(at + 1) * 256 + s:byte(at + 2)
      at = at + 2
   end
   if at < to then sum = sum + s:byte(at + 1) * 256 end
   while sum > 0xffff do sum = sum % 65536 + floor(sum / 65536) end
   return sum
end

-- nil: cannot be told (fragment, other protocol, lying length).
local function transport(s, proto, at, stop, sum, four)
   local length = stop - at
   if proto == 6 then
      if length < 20 then return nil end
   elseif proto == 17 then
      if length < 8 then return nil end
      local own = u16(s, at + 4)
      if own < 8 or own > length then return nil end
      if u16(s, at + 6) == 0 then
         if four then return true end
         return false
      end
      length, stop = own, at + own
   elseif proto == 1 and four then
      if length < 8 then return nil end
      return add(0, s, at, stop) == 0xffff
   elseif proto == 58 and not four then
      if length < 8 then return nil end
   else
      return nil
   end
   return add(sum + proto + length, s, at, stop) == 0xffff
end

local function ipv4(s, off)
   if off + 20 > #s then return false end
   local first = s:byte(off + 1)
   local size, total = first % 16 * 4, u16(s, off + 2)
   if floor(first / 16) ~= 4 or size < 20 or total < size or off + total > #s then return false end
   if add(0, s, off, off + size) ~= 0xffff then return false end
   if u16(s, off + 6) % 0x4000 ~= 0 then return true, nil end
   return true, transport(s, s:byte(off + 10), off + size, off + total, add(0, s, off + 12, off + 20), true)
end

local function ipv6(s, off)
   if off + 40 > #s or floor(s:byte(off + 1) / 16) ~= 6 then return false end
   local stop = off + 40 + u16(s, off + 4)
   if stop > #s then return false end
   return true, transport(s, s:byte(off + 7), off + 40, stop, add(0, s, off + 8, off + 40), false)
end

--- Look at a frame, behind at most two VLAN tags.
---@param s string
---@return boolean? ip header lengths and checksum are right; nil when it is no IP packet
---@return boolean? transport checksum is right; nil when it cannot be told
function M.look(s)
   if #s < 14 then return nil end
   local type, off = u16(s, 12), 14
   for _ = 1, 2 do
      if (type == 0x8100 or type == 0x88a8) and #s >= off + 4 then
         type, off = u16(s, off + 2), off + 4
      end
   end
   if type == 0x0800 then return ipv4(s, off) end
   if type == 0x86dd then return ipv6(s, off) end
   return nil
end

--- What is wrong with a frame that left an NF, given the one that entered it.
---@param before string
---@param after string
---@return string? fault nil when nothing is
function M.compare(before, after)
   if #after < 14 and after ~= before then return ("a frame of %d bytes left"):format(#after) end
   if #after > math.max(#before + 8, 1514) then return ("it grew from %d to %d bytes"):format(#before, #after) end
   local ip, l4 = M.look(before)
   if ip == false then return nil end
   local ip_after, l4_after = M.look(after)
   if ip_after == false then return "a right IP header came out wrong" end
   if l4 == true and l4_after == false then return "a right checksum came out wrong" end
   return nil
end

return M
