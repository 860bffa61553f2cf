-- SPDX-License-Identifier: BSD-3-Clause
-- What a source writes to packets: the indexes that yield numbers, and the fields with their places, from the
-- variations of a template.

local range = require "tideway.bench.traffic.range"
local flows = require "tideway.bench.traffic.flows"
local protocols = require "tideway.bench.traffic.protocols"
local variation = require "tideway.bench.traffic.variation"

local M = {
   --- What a source can do at once.
   INDEXES = 16, FIELDS = 32, SUMS = 4,
}

-- Where the bits of a field lie: `bytes` from `at` on, the field `shift` bits from their right end.
local function place_of(layer, field)
   local at = layer.at + field.offset
   if field.type == "ip6" then return { at = at + 8, bytes = 8, shift = 0 } end
   local bytes = math.ceil((field.bit + field.width) / 8)
   local shift = bytes * 8 - field.bit - field.width
   local mask = field.width ~= bytes * 8 and (2 ^ field.width - 1) * 2 ^ shift or nil
   return { at = at, bytes = bytes, shift = shift, mask = mask }
end

local Plan = {}
Plan.__index = Plan

-- The position of an index; counters that go on together are one, and so are the uses of one variation.
function Plan:index(index, key)
   if index.kind == "count" then key = ("count %.0f %.0f"):format(index.n, index.every) end
   if self.known[key] then return self.known[key] end
   local list = self.traffic.indexes
   index.seed = self.seed + #list
   list[#list + 1] = index
   self.known[key] = #list
   return #list
end

-- Only the last four bytes, where the others stay as they are: sources are fastest with those.
local function narrow(field, n)
   local base, upper = field.base, 2 ^ 32
   if field.bytes <= 4 or field.mask then return end
   local low = type(base) == "number" and base % upper or tonumber(base % 2ULL ^ 32)
   local last = low + (field.step or 1) * (n - 1)
   if last < 0 or last >= upper then return end
   field.at, field.bytes, field.base = field.at + field.bytes - 4, 4, low
end

local function scaled(value, shift) return shift == 0 and value or value * 2 ^ shift end

function Plan:vary(what, place, given, default)
   local resolved = variation.resolve(given, what, default)
   if given.how == "flow" then
      if resolved.n > 1 then
         self.of_flows[#self.of_flows + 1] = { what = what, place = place, first = resolved.first, n = resolved.n }
      end
      return
   end
   local field = { at = place.at, bytes = place.bytes, mask = place.mask, index = self:index(resolved.index, given) }
   if resolved.list then
      field.list = {}
      for i, value in ipairs(resolved.list) do field.list[i] = scaled(value, place.shift) end
   else
      field.base = scaled(range.countable(resolved.first), place.shift)
      field.step = scaled(resolved.step, place.shift)
      narrow(field, resolved.n)
   end
   table.insert(self.traffic.fields, field)
end

local function refuse_made(layer, name, what)
   local bare = { type = true, protocol = true, next_header = true }
   if bare[name] and layer.protocol ~= "icmp" and layer.protocol ~= "icmp6" then
      error(("%s says what follows; it cannot change from packet to packet"):format(what.label), 0)
   end
end

function Plan:layer(layer)
   if layer.bytes then return end
   -- In the order of the header, so that the same script always gives the same traffic.
   for _, field in ipairs(layer.header.fields) do
      local value = layer.values[field.name]
      if variation.is(value) then
         local what = range.what(("%s.%s"):format(layer.label, field.name), field)
         refuse_made(layer, field.name, what)
         self:vary(what, place_of(layer, field), value, protocols.by_name[layer.protocol].defaults[field.name])
      end
   end
end

function Plan:add_flows(given)
   local read = flows.read(given)
   if #self.of_flows == 0 then
      if read.n == 1 then return end
      error("flows: no field is a flow's; say which differ, as in ipv4 = { src = bench.flow \"198.18.0.0/16\" }", 0)
   end
   local index = self:index({ kind = read.order, n = read.n, every = 1, skew = read.skew }, "flows")
   for i, field in ipairs(flows.fields(read, self.of_flows)) do
      field.index = index
      narrow(field, self.of_flows[i].n)
      table.insert(self.traffic.fields, field)
   end
end

-- First and last byte that a field writes to: those whose bits the mask has.
local function written(field)
   local mask = field.mask
   if not mask then return field.at, field.at + field.bytes - 1 end
   local first, last
   local value = type(mask) == "number" and mask + 0ULL or mask
   for i = field.bytes - 1, 0, -1 do
      if value % 256ULL ~= 0ULL then
         first, last = field.at + i, last or field.at + i
      end
      value = value / 256ULL
   end
   return first, last
end

local function inside(first, last, from, length) return first >= from and last < from + (length or math.huge) end

--- Which checksums a field counts for.
---@param field table
---@param sums table[]
---@return integer[]
function M.counts_for(field, sums)
   local first, last = written(field)
   local list = {}
   for i, sum in ipairs(sums) do
      local counts = inside(first, last, sum.from, sum.length)
      for _, span in ipairs(sum.pseudo or {}) do counts = counts or inside(first, last, span[1], span[2]) end
      if counts then list[#list + 1] = i end
   end
   return list
end

local function check_limit(what, have, most, hint)
   if have > most then error(("%d %s, a source has %d; %s"):format(have, what, most, hint), 0) end
end

--- Puts what the variations of a template ask for into its traffic: indexes and fields.
---@param traffic table with frames and sums
---@param stack tideway.bench.stack
---@param given_flows any what the script said about flows
---@param seed integer
function M.plan(traffic, stack, given_flows, seed)
   traffic.indexes, traffic.fields = {}, {}
   local plan = setmetatable({ traffic = traffic, known = {}, of_flows = {}, seed = seed }, Plan)
   for _, layer in ipairs(stack.layers) do plan:layer(layer) end
   if given_flows ~= nil then
      plan:add_flows(given_flows)
   elseif #plan.of_flows > 0 then
      error(("%s is a flow's: say how many there are, flows = { n = 1000 }"):format(plan.of_flows[1].what.label), 0)
   end
   check_limit("independent variations", #traffic.indexes, M.INDEXES, "use one for several fields, or flows")
   check_limit("varied fields", #traffic.fields, M.FIELDS, "leave some fixed")
   check_limit("checksums", #traffic.sums, M.SUMS, "one tunnel is what it can do")
   for _, field in ipairs(traffic.fields) do field.sums = M.counts_for(field, traffic.sums) end
end

return M
