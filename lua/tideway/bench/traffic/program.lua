-- SPDX-License-Identifier: BSD-3-Clause
-- Traffic tables as the engine takes them (struct tw_source_traffic), checked for what C cannot see: kinds of values.
-- What fits together, C checks.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local INDEX_KIND = { count = C.TW_SOURCE_COUNT, random = C.TW_SOURCE_RANDOM, zipf = C.TW_SOURCE_ZIPF }

local function refuse(...) error(string.format(...), 0) end

-- A whole number or a 64-bit integer, as uint64_t.
local function word(value, what)
   if type(value) == "number" and value > -2 ^ 53 and value < 2 ^ 53 and value % 1 == 0 then
      return ffi.cast("uint64_t", ffi.cast("int64_t", value))
   end
   if ffi.istype("uint64_t", value) or ffi.istype("int64_t", value) then return ffi.cast("uint64_t", value) end
   refuse("%s is %s, and must be a whole number below 2^53 or a 64-bit one", what, tostring(value))
end

local function small(value, what, least, most)
   if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > most then
      refuse("%s is %s, and must be a whole number from %d to %.0f", what, tostring(value), least, most)
   end
   return value
end

local function list_of(traffic, name, limit)
   local list = traffic[name]
   if list == nil then return {} end
   if type(list) ~= "table" then refuse("%s is %s, not a list", name, tostring(list)) end
   if #list > limit then refuse("%d %s; %d are the limit", #list, name, limit) end
   return list
end

local function frames(spec, traffic, keep)
   local list = traffic.frames
   if type(list) ~= "table" or #list == 0 then refuse "frames is no list of frames" end
   local lengths, total = ffi.new("uint32_t[?]", #list), 0
   for i, frame in ipairs(list) do
      if type(frame) ~= "string" then refuse("frame %d is %s, not a string of its bytes", i, tostring(frame)) end
      lengths[i - 1], total = #frame, total + #frame
   end
   local bytes, at = ffi.new("uint8_t[?]", math.max(total, 1)), 0
   for _, frame in ipairs(list) do
      ffi.copy(bytes + at, frame, #frame)
      at = at + #frame
   end
   spec.n_frames, spec.lengths, spec.bytes = #list, keep(lengths), keep(bytes)
   if traffic.order == nil then return end
   local order = traffic.order
   if type(order) ~= "table" or #order == 0 then refuse "order is no list of numbers of frames" end
   local numbers = ffi.new("uint32_t[?]", #order)
   for i, frame in ipairs(order) do numbers[i - 1] = small(frame, ("order[%d]"):format(i), 1, #list) - 1 end
   spec.n_order, spec.order = #order, keep(numbers)
end

local function indexes(spec, list, keep)
   local out = ffi.new("struct tw_source_index[?]", math.max(#list, 1))
   for i, index in ipairs(list) do
      local to, what = out[i - 1], ("index %d: "):format(i)
      if type(index) ~= "table" then refuse("%sit is %s, not a table", what, tostring(index)) end
      to.kind = INDEX_KIND[index.kind] or refuse("%skind is %s; there are count, random and zipf", what,
         tostring(index.kind))
      to.n = small(index.n, what .. "n", 1, 2 ^ 32)
      to.every = small(index.every or 1, what .. "every", 1, 2 ^ 53)
      to.seed, to.skew = word(index.seed or 1, what .. "seed"), index.skew or 1
   end
   spec.n_indexes, spec.indexes = #list, keep(out)
end

local function values(to, field, what, keep)
   if field.list ~= nil then
      if type(field.list) ~= "table" or #field.list == 0 then refuse("%slist is %s", what, tostring(field.list)) end
      local list = ffi.new("uint64_t[?]", #field.list)
      for i, value in ipairs(field.list) do list[i - 1] = word(value, ("%slist[%d]"):format(what, i)) end
      to.kind, to.list, to.count = C.TW_SOURCE_LIST, keep(list), #field.list
      return
   end
   to.base = word(field.base or 0, what .. "base")
   if field.scatter ~= nil then
      to.kind, to.count, to.seed = C.TW_SOURCE_SCATTER, word(field.scatter, what .. "scatter"),
         word(field.seed or 0, what .. "seed")
   else
      to.kind, to.step = C.TW_SOURCE_STEP, word(field.step or 1, what .. "step")
      to.right = small(field.right or 0, what .. "right", 0, 31)
   end
end

local function fields(spec, list, n_sums, keep)
   local out = ffi.new("struct tw_source_field[?]", math.max(#list, 1))
   for i, field in ipairs(list) do
      local to, what = out[i - 1], ("field %d: "):format(i)
      if type(field) ~= "table" then refuse("%sit is %s, not a table", what, tostring(field)) end
      to.at, to.bytes = small(field.at, what .. "at", 0, 65535), small(field.bytes, what .. "bytes", 1, 8)
      to.mask = field.mask and word(field.mask, what .. "mask") or -1ULL
      to.index = small(field.index, what .. "index", 1, math.max(spec.n_indexes, 1)) - 1
      values(to, field, what, keep)
      for _, sum in ipairs(field.sums or {}) do
         if type(sum) ~= "number" or sum % 1 ~= 0 or sum < 1 or sum > n_sums then
            refuse("%sit counts for sum %s; there are %d sums", what, tostring(sum), n_sums)
         end
         to.sums = bit.bor(to.sums, bit.lshift(1, sum - 1))
      end
   end
   spec.n_fields, spec.fields = #list, keep(out)
end

local function sums(spec, list, keep)
   local out = ffi.new("struct tw_source_sum[?]", math.max(#list, 1))
   for i, sum in ipairs(list) do
      local to, what = out[i - 1], ("sum %d: "):format(i)
      to.at, to.from = small(sum.at, what .. "at", 0, 65535), small(sum.from, what .. "from", 0, 65535)
      to.length = sum.length and small(sum.length, what .. "length", 1, 65535) or 0
      to.udp, to.protocol = sum.udp == true, small(sum.protocol or 0, what .. "protocol", 0, 255)
      local spans = sum.pseudo or {}
      if #spans > C.TW_SOURCE_SPANS_MAX then
         refuse("%sa pseudo header of %d spans; %d are the limit", what, #spans, C.TW_SOURCE_SPANS_MAX)
      end
      for s, span in ipairs(spans) do
         to.span[s - 1].at = small(span[1], what .. "a span's offset", 0, 65535)
         to.span[s - 1].bytes = small(span[2], what .. "a span's length", 1, 65535)
      end
      to.spans = #spans
   end
   spec.n_sums, spec.sums = #list, keep(out)
end

local function build(traffic)
   if type(traffic) ~= "table" then
      refuse("traffic is %s, not what bench.packets { ... } returns", tostring(traffic))
   end
   local kept = {}
   local function keep(value)
      kept[#kept + 1] = value
      return value
   end
   local spec = keep(ffi.new "struct tw_source_traffic")
   frames(spec, traffic, keep)
   local list = list_of(traffic, "sums", C.TW_SOURCE_SUMS_MAX)
   indexes(spec, list_of(traffic, "indexes", C.TW_SOURCE_INDEXES_MAX), keep)
   fields(spec, list_of(traffic, "fields", C.TW_SOURCE_FIELDS_MAX), #list, keep)
   sums(spec, list, keep)
   spec.stamp = traffic.stamp == true
   return { spec = spec, kept = kept }
end

--- The traffic as a struct tw_source_traffic.
---@param traffic tideway.bench.traffic
---@return ffi.cdata*? spec to be used as long as kept is there
---@return table|string kept what it points to; or why there is none
function M.spec(traffic)
   local ok, result = pcall(build, traffic)
   if not ok then return nil, tostring(result) end
   return result.spec, result.kept
end

return M
