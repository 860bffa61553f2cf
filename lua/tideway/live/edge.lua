-- SPDX-License-Identifier: BSD-3-Clause
-- Edges of chains by name: "up:in", "up:ttl", "up:out", "up:drop", "up", "lan:rx", "lan:tx".

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"
local nearest = require "tideway.live.nearest"
local ports = require "tideway.port"

local C = abi.C
local M = {}

---@class tideway.live.edge
---@field name string
---@field chains tideway.chain[]
---@field edges integer set of enum tw_edge
---@field stage? string name of the NF that it is behind
---@field reason? string only drops for it
---@field in_port? tideway.port
---@field out_port? tideway.port

local WAYS = {
   ["in"] = C.TW_EDGE_IN, out = C.TW_EDGE_OUT, drop = C.TW_EDGE_DROP,
   all = bit.bor(C.TW_EDGE_IN, C.TW_EDGE_OUT, C.TW_EDGE_DROP),
}

local function fail(...) error(string.format(...), 0) end

local function names(list)
   local out = {}
   for i, item in ipairs(list) do out[i] = item.name end
   return out
end

--- Is it a drop reason that some NF has?
---@param reason string
---@return boolean
function M.is_reason(reason)
   local stats = C.tw_stats()
   for i = 0, stats.reasons - 1 do
      if ffi.string(stats.reason[i]) == reason then return true end
   end
   return false
end

--- Refuse a reason that no NF has used.
---@param reason any
---@return string reason
function M.check_reason(reason)
   if type(reason) ~= "string" then fail("the reason of a drop is a string, not %s", tostring(reason)) end
   if M.is_reason(reason) then return reason end
   local stats, known = C.tw_stats(), {}
   for i = 0, stats.reasons - 1 do known[i + 1] = ffi.string(stats.reason[i]) end
   fail("nothing can be dropped for %q so far%s", reason, nearest.hint(reason, known))
end

-- lan:rx, lan:tx: all chains that read from the port, and all that may send to it.
local function port_edge(text, port, way)
   local edge = { name = text, chains = {}, edges = way == "rx" and C.TW_EDGE_IN or C.TW_EDGE_OUT }
   edge[way == "rx" and "in_port" or "out_port"] = port
   for _, chain in ipairs(model.chains) do
      local of_it = false
      for _, source in ipairs(chain.sources) do of_it = of_it or source == port end
      -- On lcores every NF may send to any port.
      if way == "tx" then of_it = of_it or chain.sink == port or not chain.place end
      if of_it then edge.chains[#edge.chains + 1] = chain end
   end
   if #edge.chains == 0 then
      fail("%s: no chain %s port %s", text, way == "rx" and "reads from" or "sends to", port.name)
   end
   return edge
end

-- "ttl", "nat#2", or 2: the second NF.
local function stage_edge(text, chain, stage)
   local list = chain.stage_names
   local name = list[tonumber(stage)] or stage
   for _, known in ipairs(list) do
      if known == name then
         return { name = text, chains = { chain }, edges = C.TW_EDGE_NF, stage = name }
      end
   end
   local known = { "in", "out", "drop", unpack(list) }
   fail("chain %s has no edge %q%s", chain.name, stage, nearest.hint(stage, known))
end

--- The edge of a name.
---@param text string
---@return tideway.live.edge
function M.parse(text)
   if type(text) ~= "string" or text == "" then
      fail("an edge is named by a string such as \"up:in\", \"up:ttl\", \"up:out\", \"up:drop\", \"lan:rx\", not %s",
         tostring(text))
   end
   local name, way, rest = text:match "^([^:]+):([^:]+):?(.*)$"
   name = name or text
   local chain = model.find(model.chains, "name", name)
   local port = model.find(model.ports, "name", name)
   if port and ports.is_port(port) and (way == "rx" or way == "tx") then return port_edge(text, port, way) end
   if not chain then
      if model.find(model.services, "name", name) then
         fail("chain %s takes messages; edges are those of chains of packets", name)
      end
      if port then fail("port %s has the edges %s:rx and %s:tx", name, name, name) end
      local known = names(model.chains)
      for _, p in ipairs(model.ports) do known[#known + 1] = p.name .. ":rx" end
      if #known == 0 then fail("there is no chain %q: edges are those of chains of packets, of them there are none",
         name) end
      fail("there is no chain %q%s", name, nearest.hint(name, known))
   end
   if rest and rest ~= "" then
      if way ~= "drop" then fail("%s: only drops have a third part, the reason: %s:drop:%s", text, name, rest) end
      return { name = text, chains = { chain }, edges = WAYS.drop, reason = M.check_reason(rest) }
   end
   if way and not WAYS[way] then return stage_edge(text, chain, way) end
   return { name = text, chains = { chain }, edges = WAYS[way or "all"] }
end

return M
