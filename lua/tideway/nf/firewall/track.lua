-- SPDX-License-Identifier: BSD-3-Clause
-- Connection tracking: the value of a connection, its states, and the TCP state machine (RFC 9293 3.3.2).

local bit = require "bit"

local M = {}

local band, bor = bit.band, bit.bor

--- Keys: the lower end of the connection first, so that both directions find one entry. `low` of
--- the value says which end opened it. ICMP queries have their identifier as the port of the one
--- who asks and the type asked for as the port of the one who answers.
M.KEY4 = "u32 low; u32 high; u16 low_port; u16 high_port; u8 proto"
M.KEY6 = "ip6 low; ip6 high; u16 low_port; u16 high_port; u8 proto"
M.VALUE = "u8 state; u8 low; u8 fins; u8 reset; u32 rule; ns since; ns expires"

local SYN_SENT, SYN_RECEIVED, ESTABLISHED, CLOSING, CLOSED, ACTIVE = 1, 2, 3, 4, 5, 6

--- Names of the states; a connection of another protocol than TCP is "active".
M.state_names = { "syn_sent", "syn_received", "established", "closing", "closed", "active" }
M.ESTABLISHED, M.CLOSED = ESTABLISHED, CLOSED

local FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
local BOTH_FINS = 3

--- Seconds without a packet after which a connection is forgotten.
M.timeouts = {
   syn = 240, -- opening, RFC 5382 REQ-5: at least 4 minutes
   established = 7440, -- RFC 5382 REQ-5: at least 2 hours 4 minutes
   closing = 240, -- after a FIN, RFC 5382 REQ-5: at least 4 minutes
   closed = 10, -- after a RST
   udp = 120, -- RFC 4787 REQ-5: at least 2 minutes
   icmp = 60, -- RFC 5508 REQ-2: at least 60 seconds
   other = 600,
}

--- Does this segment ask for a new connection: SYN and nothing else that matters?
---@param flags integer
---@return boolean
function M.is_syn(flags) return band(flags, 0x17) == SYN end

--- Does a new SYN replace this connection? It is over (RFC 9293 3.6.1), or was reset.
---@param conn table value of the table
---@return boolean
function M.is_over(conn) return conn.state == CLOSED or (conn.state == CLOSING and conn.fins == BOTH_FINS) end

-- A segment of a connection that a RST closed. Whoever really reset it sends no more; if it does,
-- the RST was forged (RFC 5961) and the connection lives.
local function after_reset(conn, flags, sender)
   if conn.reset == sender and band(flags, ACK) ~= 0 then
      conn.reset = 0
      conn.state = conn.fins ~= 0 and CLOSING or ESTABLISHED
   end
end

-- Opening, as far as the two ends show it: SYN, then SYN from the other end (with ACK, or without
-- when both open at once), then ACK from the first.
local function opening(conn, flags, reply)
   if conn.state == SYN_SENT then
      if reply and band(flags, SYN) ~= 0 then conn.state = SYN_RECEIVED end
   elseif not reply and band(flags, ACK) ~= 0 then
      conn.state = ESTABLISHED
   end
end

-- The state after a segment that is not plain data on an established connection.
local function advance(conn, flags, reply)
   local sender = reply and 2 or 1
   if band(flags, RST) ~= 0 then
      if conn.state ~= CLOSED then conn.state, conn.reset = CLOSED, sender end
      return
   end
   if conn.state == CLOSED then after_reset(conn, flags, sender) end
   if conn.state <= SYN_RECEIVED then opening(conn, flags, reply) end
   if band(flags, FIN) ~= 0 and conn.state ~= CLOSED then
      conn.fins = bor(conn.fins, sender)
      conn.state = CLOSING
   end
end

--- Functions over connections, with the timeouts folded in.
---@param timeouts table<string, number> seconds
---@return { tcp: function, other: function, open: function }
function M.new(timeouts)
   local t = {}
   for name, seconds in pairs(timeouts) do t[name] = seconds * 1e9 end
   local T_SYN, T_ESTABLISHED, T_CLOSING, T_CLOSED = t.syn, t.established, t.closing, t.closed
   local T_UDP, T_ICMP, T_OTHER = t.udp, t.icmp, t.other

   local function slow(conn, flags, reply, now)
      local was_closed = conn.state == CLOSED
      advance(conn, flags, reply)
      local state = conn.state
      if state == ESTABLISHED then
         conn.expires = now + T_ESTABLISHED
      elseif state == CLOSING then
         conn.expires = now + T_CLOSING
      elseif state ~= CLOSED then
         conn.expires = now + T_SYN
      elseif not was_closed then
         conn.expires = now + T_CLOSED -- once: what still arrives does not keep it
      end
   end

   --- A TCP segment of a known connection.
   local function tcp(conn, flags, reply, now)
      if conn.state == ESTABLISHED and band(flags, 0x07) == 0 then
         conn.expires = now + T_ESTABLISHED
         return
      end
      slow(conn, flags, reply, now)
   end

   --- A packet of a known connection of another protocol.
   local function other(conn, proto, now)
      if proto == 17 then
         conn.expires = now + T_UDP
      elseif proto == 1 or proto == 58 then
         conn.expires = now + T_ICMP
      else
         conn.expires = now + T_OTHER
      end
   end

   --- The first packet of a connection; a segment that is no SYN is taken up as established.
   local function open(conn, proto, flags, low, rule, now)
      conn.low, conn.rule, conn.fins, conn.reset, conn.since = low, rule, 0, 0, now
      if proto ~= 6 then
         conn.state = ACTIVE
         return other(conn, proto, now)
      end
      conn.state = M.is_syn(flags) and SYN_SENT or ESTABLISHED
      conn.expires = now + (conn.state == SYN_SENT and T_SYN or T_ESTABLISHED)
   end

   return { tcp = tcp, other = other, open = open }
end

return M
