-- SPDX-License-Identifier: BSD-3-Clause
-- Turns parsed rules into the rows of two ACL tables, IPv4 and IPv6, and finds the rule for established traffic.

local bit = require "bit"
local words = require "tideway.nf.firewall.words"

local M = {}

--- Rows one rule may become: its lists multiply.
M.MAX_ROWS = 4096

-- The key of both tables. For ICMP sport is the type and dport the code. `state` has one bit set.
M.KEY4 = "u8 proto bits; u8 ingress bits; u8 egress bits; u8 state bits; u8 flags bits; u32 src prefix; " ..
   "u32 dst prefix; u16 sport range; u16 dport range"
M.KEY6 = M.KEY4:gsub("u32", "ip6")

local function one_family(list, family)
   if not list or #list == 0 then return { false } end
   local out = {}
   for _, prefix in ipairs(list) do
      if prefix.family == family then out[#out + 1] = prefix end
   end
   return out
end

-- A list to loop over; `false` stands for "no condition".
local function choices(list) return list and #list > 0 and list or { false } end

local function states_of(rule)
   local states = rule.states or words.ALL_STATES
   if rule.sports or rule.dports or rule.types or rule.flags then
      states = bit.band(states, bit.bnot(words.FRAGMENT))
   end
   return states
end

-- All combinations of the lists, as rows.
local function rows_of(rule, family, result, rows)
   local lists = {
      { "proto", choices(rule.protocols) }, { "ingress", choices(rule.inports) }, { "egress", choices(rule.outports) },
      { "src", one_family(rule.from, family) }, { "dst", one_family(rule.to, family) },
      { "sport", choices(rule.sports or rule.types) }, { "dport", choices(rule.dports or rule.codes) },
   }
   local count = 1
   for _, list in ipairs(lists) do count = count * #list[2] end
   if count > M.MAX_ROWS then
      error(("firewall: %s:%d: the rule's lists make %d combinations, at most %d are possible; write several rules")
         :format(rule.source or "rules", rule.line, count, M.MAX_ROWS), 0)
   end
   local forbidden = bit.band(bit.bnot(states_of(rule)), words.ALL_STATES)
   for n = 0, count - 1 do
      local row = { result = result, state = { 0, forbidden }, flags = rule.flags }
      for _, list in ipairs(lists) do
         row[list[1]] = list[2][n % #list[2] + 1] or nil
         n = math.floor(n / #list[2])
      end
      rows[#rows + 1] = row
   end
end

-- Does the rule say no more than a state?
local function unconditional(rule)
   return not (rule.inports or rule.outports or rule.protocols or rule.family or rule.flags) and
      #(rule.from or {}) == 0 and #(rule.to or {}) == 0
end

-- The rule that every packet of a known connection meets first, if there is one: the first that can
-- match such a packet, when it asks for nothing else.
local function established_rule(rules)
   for i, rule in ipairs(rules) do
      if bit.band(rule.states or words.ALL_STATES, words.states.established) ~= 0 then
         return unconditional(rule) and rule.action == "allow" and i or nil
      end
   end
end

-- A counter for every rule: its `count NAME`, or its line and text.
local function counter_names(rules)
   local names, taken = {}, {}
   for i, rule in ipairs(rules) do
      local name = rule.count or ("%d: %s"):format(rule.line, rule.text)
      if taken[name] then name = ("%s (line %d)"):format(name, rule.line) end
      names[i], taken[name] = name, true
   end
   names[#names + 1] = "default"
   return names
end

--- Compile rules. A row's result is the rule's number (from 0) * 4 + its action, so that the
--- lowest result is the first rule.
---@param rules tideway.nf.firewall.rule[]
---@return { rows4: table[], rows6: table[], tracks: boolean, established: integer?, names: string[] }
---   tracks: a rule asks for a state; established: number of the rule of the fast path, from 0;
---   names: counters of the rules in order, then that of the default policy
function M.compile(rules)
   local out = { rows4 = {}, rows6 = {}, tracks = false, names = counter_names(rules) }
   for i, rule in ipairs(rules) do
      local result = (i - 1) * 4 + words.actions[rule.action]
      if rule.v4 then rows_of(rule, 4, result, out.rows4) end
      if rule.v6 then rows_of(rule, 6, result, out.rows6) end
      out.tracks = out.tracks or rule.states ~= nil
   end
   local first = established_rule(rules)
   out.established = out.tracks and first and first - 1 or nil
   return out
end

return M
