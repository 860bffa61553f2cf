-- SPDX-License-Identifier: BSD-3-Clause
-- router: fragments IPv4 packets that are longer than the MTU and may be (RFC 791 3.2, RFC 1812 4.2.2.7).

local tw = require "tideway"
local send = require "tideway.nf.router.send"

local M = {}

local ETH, IP = 14, 20
local COPIED = 0x80 -- options with this bit go into every fragment

-- The bytes of the options that are copied, padded to whole words.
local function copied_options(pkt, at, stop)
   local list = {}
   while at < stop do
      local kind = pkt:u8(at)
      if kind == 0 then break end
      local length = kind == 1 and 1 or pkt:u8(at + 1)
      if kind >= COPIED then
         for k = 0, length - 1 do list[#list + 1] = pkt:u8(at + k) end
      end
      at = at + length
   end
   while #list % 4 ~= 0 do list[#list + 1] = 0 end
   return list
end

local function copy(to, to_at, from, from_at, count)
   local words = math.floor(count / 4) * 4
   for k = 0, words - 1, 4 do to:set_u32(to_at + k, from:u32(from_at + k)) end
   for k = words, count - 1 do to:set_u8(to_at + k, from:u8(from_at + k)) end
end

local function set_lengths(ip, head, payload, offset, more)
   ip.ihl, ip.total_length = head / 4, head + payload
   ip.frag = (more and 0x2000 or 0) + offset
end

-- A fragment after the first: a frame of its own, that goes on through the chain as the packet does.
local function emit(ctx, pkt, hop, options, head, done, payload, offset, more)
   local new_head = IP + #options
   local out = tw.emit(hop.port, ETH + new_head + payload, true) -- NAT behind the router sees it too
   if not out then return false end
   out.port, out.mark = pkt.port, pkt.mark
   copy(out, 0, pkt, 0, ETH + IP)
   copy(out, ETH + new_head, pkt, ETH + head + done, payload)
   for k, byte in ipairs(options) do out:set_u8(ETH + IP + k - 1, byte) end
   local eth = out:eth()
   eth.dst, eth.src = hop.mac, ctx.ports[hop.port].mac
   set_lengths(out:header(tw.headers.ipv4, ETH), new_head, payload, offset, more)
   out:ipv4():update_checksum()
   return true
end

--- Send a packet in fragments; all go on through the chain.
---@param ctx table
---@param pkt tideway.pkt TTL decremented, options valid
---@param ip tideway.ipv4
---@param hop any that forwards
function M.send(ctx, pkt, ip, hop)
   local head, more_after = ip.ihl * 4, ip.mf == 1
   local payload, offset = ip.total_length - head, ip.frag_offset
   local first = math.floor((hop.mtu - head) / 8) * 8
   local options = copied_options(pkt, ETH + IP, ETH + head)
   local room = math.floor((hop.mtu - IP - #options) / 8) * 8
   local done = first
   while done < payload do
      local size = math.min(room, payload - done)
      local last = done + size == payload
      if not emit(ctx, pkt, hop, options, head, done, size, offset + done / 8, not last or more_after) then
         return pkt:drop "fragment_no_buffer"
      end
      done = done + size
   end
   ip = pkt:ipv4() -- a view knows where the options of the header taken last are
   set_lengths(ip, head, first, offset, true)
   ip:update_checksum()
   pkt:adjust_tail(ETH + head + first - pkt.len)
   ctx.events:add("fragmented", 1)
   return send.by(ctx, pkt, hop)
end

return M
