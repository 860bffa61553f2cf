-- SPDX-License-Identifier: BSD-3-Clause
-- The words of the rule language: protocols, ICMP types, TCP flags, and what a misspelt word was meant to be.

local M = {}

--- Protocol names and numbers (IANA "Assigned Internet Protocol Numbers").
M.protocols = {
   icmp = 1, igmp = 2, ipip = 4, tcp = 6, udp = 17, ["6in4"] = 41, gre = 47, esp = 50, ah = 51, icmp6 = 58,
   ospf = 89, pim = 103, vrrp = 112, sctp = 132,
}

--- Protocols whose header starts with a source and a destination port.
M.with_ports = { [6] = true, [17] = true, [132] = true }

--- ICMP types (RFC 792, 950, 1256, 1393).
M.icmp = {
   ["echo-reply"] = 0, unreachable = 3, redirect = 5, echo = 8, ["router-advertisement"] = 9,
   ["router-solicitation"] = 10, ["time-exceeded"] = 11, ["parameter-problem"] = 12, timestamp = 13,
   ["timestamp-reply"] = 14,
}

--- ICMPv6 types (RFC 4443, 4861, 2710, 3810).
M.icmp6 = {
   unreachable = 1, ["packet-too-big"] = 2, ["time-exceeded"] = 3, ["parameter-problem"] = 4, echo = 128,
   ["echo-reply"] = 129, ["mld-query"] = 130, ["mld-report"] = 131, ["mld-done"] = 132,
   ["router-solicitation"] = 133, ["router-advertisement"] = 134, ["neighbor-solicitation"] = 135,
   ["neighbor-advertisement"] = 136, redirect = 137, ["mld2-report"] = 143,
}

--- TCP flags by letter (RFC 9293 3.1).
M.flags = { F = 0x01, S = 0x02, R = 0x04, P = 0x08, A = 0x10, U = 0x20, E = 0x40, W = 0x80 }

--- Bits for what connection tracking says about a packet; one of them is set.
M.states = { new = 1, established = 2, related = 4 }
M.UNTRACKED = 8 -- nothing is tracked, or the packet cannot open a connection (an ICMP error, ND, ...)
M.FRAGMENT = 16 -- a fragment without the header that has the ports
M.ALL_STATES = 31

--- Actions; the order is that of their codes.
M.actions = { allow = 0, drop = 1, reject = 2 }

-- Damerau-Levenshtein distance (optimal string alignment) of two short words.
local function distance(a, b)
   local before, row = {}, {}
   for j = 0, #b do row[j] = j end
   for i = 1, #a do
      local new = { [0] = i }
      for j = 1, #b do
         local same = a:byte(i) == b:byte(j)
         new[j] = math.min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (same and 0 or 1))
         if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
            new[j] = math.min(new[j], before[j - 2] + 1)
         end
      end
      before, row = row, new
   end
   return row[#b]
end

--- The word that was probably meant.
---@param word string
---@param ... table<string, any> sets of words
---@return string? nearest nil when none is near
function M.nearest(word, ...)
   local best, best_distance = nil, math.max(1, math.floor(#word / 3)) + 1
   for i = 1, select("#", ...) do
      for candidate in pairs((select(i, ...))) do
         local d = distance(word:lower(), candidate)
         if d < best_distance or (d == best_distance and best and candidate < best) then
            best, best_distance = candidate, d
         end
      end
   end
   return best
end

--- The words of sets, sorted, for a message.
---@param ... table<string, any>
---@return string
function M.list(...)
   local names = {}
   for i = 1, select("#", ...) do
      for name in pairs((select(i, ...))) do names[#names + 1] = name end
   end
   table.sort(names)
   return table.concat(names, ", ")
end

return M
