-- SPDX-License-Identifier: BSD-3-Clause
-- Who may send to a mapping from outside: RFC 4787 section 5, RFC 5382 section 4.3.
--
-- The first remote of a mapping stands in its record and may send as long as the mapping lives. Only a
-- mapping with further remotes costs a look-up, in the table of sessions; those end one by one.

local tw = require "tideway"
local bit = require "bit"
local mappings = require "tideway.nf.napt44.mappings"
local tcp_state = require "tideway.nf.napt44.tcp"

local M = {}

local band, bor = bit.band, bit.bor
local TCP, ICMP, STATIC, SEVERAL = mappings.TCP, mappings.ICMP, mappings.STATIC, tcp_state.SEVERAL
local endpoint = mappings.endpoint

--- The functions for one configuration; nil when filtering is endpoint-independent.
---@param c table from config.check
---@param name string prefix of table names
---@return table? f sent(r, remote, port, now): a packet goes out; allows(r, remote, port); port 0 for ICMP
function M.new(c, name)
   if c.filter == 0 then return nil end
   local sessions = tw.lru {
      name = name .. ".sessions", key = "i64 inside; u32 remote; u16 port", value = "ns expires",
      entries = c.sessions, expire = true,
   }
   local with_port = c.filter == 2
   local life_tcp, life_udp, life_icmp = c.timeout.tcp, c.timeout.udp, c.timeout.icmp
   local f = {}

   local function key_port(port)
      if with_port then return port end
      return 0
   end

   function f.sent(r, remote, port, now)
      local class, state = r.class, r.state
      if r.remote == remote and (r.remote_port == port or not with_port) then return end
      if band(state, STATIC) ~= 0 then return end
      if band(state, SEVERAL) == 0 then r.state = bor(state, SEVERAL) end
      local life = life_udp
      if class == TCP then life = life_tcp elseif class == ICMP then life = life_icmp end
      local s = sessions:put(endpoint(r.addr, r.port, class), remote, key_port(port))
      if s and s.expires < now + life then s.expires = now + life end
   end

   function f.allows(r, remote, port)
      local state = r.state
      if band(state, STATIC) ~= 0 then return true end
      if r.remote == remote and (r.remote_port == port or not with_port) then return true end
      if band(state, SEVERAL) == 0 then return false end
      return sessions:get(endpoint(r.addr, r.port, r.class), remote, key_port(port)) ~= nil
   end

   return f
end

return M
