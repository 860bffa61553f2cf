-- SPDX-License-Identifier: BSD-3-Clause
-- The hot path: one packet, its header checks, its connection, its rule.

local bit = require "bit"
local ipv4 = require "tideway.nf.firewall.flow4"
local ipv6 = require "tideway.nf.firewall.flow6"
local words = require "tideway.nf.firewall.words"

local M = {}

local band, rshift = bit.band, bit.rshift
local ALLOW, REJECT = words.actions.allow, words.actions.reject
local ETH_IPV4, ETH_IPV6 = 0x0800, 0x86dd

-- What follows from the result of the rules: the number of the rule that allows the packet, or -1
-- and a verdict.
local function make_settle(hits, default_rule, default_action)
   return function(pkt, result)
      local rule, action = default_rule, default_action
      if result then rule, action = rshift(result, 2), band(result, 3) end
      hits:add(rule, 1)
      if action == ALLOW then return rule end
      if action == REJECT then
         pkt:punt()
      elseif result then
         pkt:drop "fw_denied"
      else
         pkt:drop "fw_default"
      end
      return -1
   end
end

---@class tideway.nf.firewall.flow
---@field tables table hits, acl4, acl6, conns4?, conns6?, frags4?, frags6?
---@field track table functions of track.new
---@field tracks boolean some rule asks for a state
---@field established integer? number of the rule that allows every packet of a known connection
---@field default_rule integer its counter
---@field default_action integer
---@field loose boolean
---@field fragments "drop"|"follow"|"allow"
---@field pass_non_ip boolean
---@field settle function

--- The packet function of a firewall.
---@param o tideway.nf.firewall.flow
---@return fun(pkt: tideway.pkt)
function M.new(o)
   o.settle = make_settle(o.tables.hits, o.default_rule, o.default_action)
   local packet4, packet6 = ipv4.new(o), ipv6.new(o)
   local pass_non_ip = o.pass_non_ip

   return function(pkt)
      local ip = pkt:ipv4()
      if ip then return packet4(pkt, ip) end
      local ip6 = pkt:ipv6()
      if ip6 then return packet6(pkt, ip6) end
      local type = pkt:ethertype()
      if not type then return pkt:drop "eth_malformed" end
      if type == ETH_IPV4 or type == ETH_IPV6 then return pkt:drop "ip_malformed" end
      if not pass_non_ip then return pkt:drop "fw_non_ip" end
   end
end

return M
