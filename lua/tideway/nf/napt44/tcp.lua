-- SPDX-License-Identifier: BSD-3-Clause
-- How far the TCP connection over a mapping has come, which decides how long the mapping lives.
--
-- RFC 5382 REQ-5 and RFC 7857 section 2, with the state machine of RFC 6146 3.5.2. The state belongs to
-- the mapping and follows the one connection to its `remote`. An inside endpoint that talks to
-- several remotes at once gets SEVERAL: from then on no FIN or RST shortens the mapping's life, since
-- it says something about one connection only.

local bit = require "bit"
local mappings = require "tideway.nf.napt44.mappings"

local M = {}

local band, bor = bit.band, bit.bor

local FIN, SYN, RST = 1, 2, 4 -- TCP flags

-- Bits of state. UDP and ICMP use SEVERAL alone, where filtering needs it.
local ANSWERED = 1      -- a packet came in
local ESTABLISHED = 2   -- and was answered: the handshake is over
local FIN_OUT, FIN_IN = 4, 8
local RESET = 16
local SEVERAL = 32
local STATIC = mappings.STATIC

M.ESTABLISHED, M.SEVERAL = ESTABLISHED, SEVERAL

local BOTH_FIN = FIN_OUT + FIN_IN

-- Both FINs were seen, or a RST.
local function is_over(state) return band(state, RESET) ~= 0 or band(state, BOTH_FIN) == BOTH_FIN end

--- The functions for one configuration.
---@param c table from config.check
---@return table tcp outbound, inbound
function M.new(c)
   local established, transitory = c.timeout.tcp, c.timeout.tcp_transitory
   local tcp = {}

   local function lifetime(state)
      if band(state, ESTABLISHED) == 0 then return transitory end
      if band(state, SEVERAL) == 0 and is_over(state) then return transitory end
      return established
   end

   --- A packet of a mapping goes out to remote; not for the plain case, which the caller has settled:
   --- neither FIN, SYN nor RST, to the mapping's remote, state just ESTABLISHED and ANSWERED.
   function tcp.outbound(r, remote, remote_port, flags, now)
      local state = r.state
      if band(state, STATIC) ~= 0 then return end
      local same = r.remote == remote and r.remote_port == remote_port
      if band(flags, SYN) ~= 0 and is_over(state) and band(state, SEVERAL) == 0 then
         r.remote, r.remote_port = remote, remote_port
         same, state = true, 0
      end
      if not same then state = bor(state, SEVERAL) end
      if band(flags, RST) ~= 0 then
         state = bor(state, RESET)
      else
         state = band(state, 255 - RESET) -- it goes on, so it was not over (RFC 6146 3.5.2.2, TRANS)
         if band(flags, FIN) ~= 0 then state = bor(state, FIN_OUT) end
         if band(flags, SYN) == 0 and band(state, ANSWERED) ~= 0 then state = bor(state, ESTABLISHED) end
      end
      r.state = state
      r.expires = now + lifetime(state)
   end

   --- The same for a packet that comes in. It can only shorten the mapping's life here.
   function tcp.inbound(r, remote, remote_port, flags, now)
      local state = r.state
      if band(state, STATIC) ~= 0 then return end
      if band(state, SEVERAL) == 0 then
         if r.remote ~= remote or r.remote_port ~= remote_port then return end
         if band(flags, RST) ~= 0 then
            state = bor(state, RESET)
         elseif band(flags, FIN) ~= 0 then
            state = bor(state, FIN_IN)
         end
      end
      state = bor(state, ANSWERED)
      if state == r.state then return end
      r.state = state
      local expires = now + lifetime(state)
      if expires < r.expires then r.expires = expires end
   end

   return tcp
end

return M
