-- SPDX-License-Identifier: BSD-3-Clause
-- Frame sizes, counted with the FCS, and in which order they come: one, weighted mixes, IMIX, IMIX genomes (RFC 6985).

local M = {
   --- Bytes of the FCS, which sizes include and frames do not have.
   FCS = 4,
   --- Least size of an Ethernet frame.
   LEAST = 64,
   --- Longest frame.
   MOST = 16000,
}

---@class tideway.bench.sizes
---@field list integer[] different sizes, with FCS
---@field order? integer[] positions in list; nil: in turn

local function check(size)
   if type(size) ~= "number" or size % 1 ~= 0 or size < M.LEAST or size > M.MOST then
      error(("size: %s is not a frame size from %d to %d bytes, FCS included"):format(tostring(size), M.LEAST,
         M.MOST), 0)
   end
   return size
end

-- Spreads entries over their sum as evenly as goes: at each place the one that is furthest behind its share.
local function spread(weights)
   local total, order, given = 0, {}, {}
   for i, weight in ipairs(weights) do
      total, given[i] = total + weight, 0
   end
   for place = 1, total do
      local best, most = 1, -math.huge
      for i, weight in ipairs(weights) do
         local behind = weight * place / total - given[i]
         if behind > most + 1e-9 then best, most = i, behind end
      end
      given[best] = given[best] + 1
      order[place] = best
   end
   return order
end

local function mix_of(list)
   local sizes, weights, total = {}, {}, 0
   for i, entry in ipairs(list) do
      local size, weight = entry, 1
      if type(entry) == "table" then size, weight = entry[1], entry[2] end
      sizes[i] = check(size)
      if type(weight) ~= "number" or weight % 1 ~= 0 or weight < 1 then
         error(("size: the weight of %d is %s; it must be a whole number of at least 1"):format(size,
            tostring(weight)), 0)
      end
      weights[i], total = weight, total + weight
   end
   if #sizes == 0 then error("size: the list is empty; write sizes, or { { 64, 7 }, { 594, 4 }, { 1518, 1 } }", 0) end
   if total > 1e6 then error(("size: the weights add up to %d; they may to 1000000"):format(total), 0) end
   return { list = sizes, order = spread(weights) }
end

-- RFC 6985 section 3.
local GENOME = { a = 64, b = 128, c = 256, d = 512, e = 1024, f = 1280, g = 1518, h = 2112, i = 9000, j = 16000 }

local function genome_of(text, custom)
   local sizes, order, place = {}, {}, {}
   for letter in text:gmatch "." do
      if not place[letter] then
         local size = custom[letter] or GENOME[letter]
         if not size then
            error(("bench.imix(%q): %q is no size of RFC 6985 (a to j); say what it is: bench.imix(%q, { %s = 1500 })")
               :format(text, letter, text, letter), 3)
         end
         sizes[#sizes + 1] = size
         place[letter] = #sizes
      end
      order[#order + 1] = place[letter]
   end
   return { list = sizes, order = order }
end

local Mix = {}
Mix.__index = Mix

--- Mixed frame sizes: the simple IMIX, 7 of 64, 4 of 594 and 1 of 1518 bytes; or the sizes that a text of letters
--- names, in its order (RFC 6985): a 64, b 128, c 256, d 512, e 1024, f 1280, g 1518, h 2112, i 9000, j 16000.
---@param genome? string such as "aaafg"
---@param custom? table<string, integer> sizes of other letters, with FCS: { A = 1020, z = 1500 }
---@return table size for bench.packets
function M.imix(genome, custom)
   if genome == nil then return setmetatable(mix_of { { 64, 7 }, { 594, 4 }, { 1518, 1 } }, Mix) end
   if type(genome) ~= "string" or genome == "" then
      error(("bench.imix(%s): a text of letters such as \"aaafg\" (RFC 6985)"):format(tostring(genome)), 2)
   end
   return setmetatable(genome_of(genome, custom or {}), Mix)
end

--- What `size` means.
---@param size any nil, a number, bench.imix(), a list of sizes or of { size, weight }
---@param natural integer least size of the packets, for nil
---@return tideway.bench.sizes
function M.read(size, natural)
   if size == nil then return { list = { math.max(M.LEAST, natural) } } end
   if getmetatable(size) == Mix then
      for _, one in ipairs(size.list) do check(one) end
      return size
   end
   if type(size) == "table" then return mix_of(size) end
   return { list = { check(size) } }
end

return M
