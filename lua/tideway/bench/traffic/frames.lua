-- SPDX-License-Identifier: BSD-3-Clause
-- Finished frames of a template: headers, lengths, payload, where checksums are, and what a user's function changes.

local ffi = require "ffi"
local range = require "tideway.bench.traffic.range"
local protocols = require "tideway.bench.traffic.protocols"
local sizes = require "tideway.bench.traffic.sizes"
local stacks = require "tideway.bench.traffic.stack"
local variation = require "tideway.bench.traffic.variation"

local M = {
   --- Bytes of the stamp at the end of a frame.
   STAMP = 16,
}

local TRANSPORT = { udp = true, tcp = true, icmp = true, icmp6 = true, gre = true }

-- ---- payload ----

-- Bytes that do not compress, the same ones in each run (Park and Miller's minimal standard generator).
local function random_bytes(length, seed)
   local state, list = seed % 2147483646 + 1, {}
   for i = 1, length do
      state = state * 16807 % 2147483647
      list[i] = string.char(math.floor(state / 256) % 256)
   end
   return table.concat(list)
end

--- What `payload` says.
---@param payload any a text, { pattern = text }, { random = seed }, nil
---@return integer least bytes that must fit
---@return fun(length: integer): string
function M.payload(payload)
   if payload == nil then return 0, function(length) return ("\0"):rep(length) end end
   if type(payload) == "string" then
      return #payload, function(length) return payload .. ("\0"):rep(length - #payload) end
   end
   local pattern = type(payload) == "table" and payload.pattern
   if type(pattern) == "string" and pattern ~= "" then
      return 0, function(length) return pattern:rep(math.ceil(length / #pattern)):sub(1, length) end
   end
   local seed = type(payload) == "table" and payload.random
   if type(seed) == "number" and seed % 1 == 0 and seed >= 0 then
      return 0, function(length) return random_bytes(length, seed) end
   end
   error(("payload: a text, { pattern = \"ab\" } or { random = 1 }, not %s"):format(tostring(payload)), 0)
end

-- ---- lengths ----

---@class tideway.bench.shape
---@field stack tideway.bench.stack
---@field least integer bytes without FCS that a frame must have
---@field payload fun(length: integer): string
---@field payload_least integer
---@field stamp boolean
---@field closed boolean the packet ends with its last header; what follows is no part of it

-- TCP segments without data, which Ethernet pads. Longer frames are meant to have data.
local function bare_tcp(shape, longest)
   local last
   for _, layer in ipairs(shape.stack.layers) do
      if TRANSPORT[layer.protocol] then last = layer.protocol end
   end
   return last == "tcp" and shape.payload_least == 0 and not shape.stamp and longest <= sizes.LEAST - sizes.FCS
end

-- Where the packet in a frame of `length` bytes ends.
local function stop_of(shape, length) return shape.closed and shape.stack.size or length end

--- What is needed of a template before frames are made.
---@param stack tideway.bench.stack
---@param payload any
---@param stamp boolean
---@return tideway.bench.shape
function M.shape(stack, payload, stamp)
   local least, fill = M.payload(payload)
   if stack.closed and payload ~= nil then
      error("payload: the message of dns is the payload; leave one of them out", 0)
   end
   return {
      stack = stack, payload = fill, payload_least = least, stamp = stamp,
      least = stack.size + least + (stamp and M.STAMP or 0),
   }
end

-- ---- headers ----

local function first_of(layer, name)
   local value = layer.values[name]
   local what = range.what(layer.label .. "." .. name, layer.header.fields[name])
   if not variation.is(value) then return (range.value(what, value)) end
   return variation.resolve(value, what, protocols.by_name[layer.protocol].defaults[name]).first
end

-- Fields in the order of the layout: a part (dscp) comes after what it is part of (tos).
local function write_header(pkt, layer)
   if layer.bytes then return ffi.copy(pkt.data + layer.at, layer.bytes, layer.size) end
   local view = pkt:header(layer.header, layer.at)
   for _, field in ipairs(layer.header.fields) do
      if layer.values[field.name] ~= nil then view[field.name] = first_of(layer, field.name) end
   end
end

local function write_length(pkt, layer, stop)
   local view = layer.header and pkt:header(layer.header, layer.at)
   if layer.protocol == "ipv4" then
      view.total_length = stop - layer.at
   elseif layer.protocol == "ipv6" then
      view.payload_length = stop - layer.at - 40
   elseif layer.protocol == "udp" then
      view.length = stop - layer.at
   end
end

--- A buffer as a packet, with all views that NFs have.
---@param buffer ffi.cdata* uint8_t[]
---@param length integer
---@return tideway.pkt
function M.packet(buffer, length)
   local pkt = ffi.new "struct tw_pkt"
   pkt.data, pkt.len, pkt.room, pkt.room_end = buffer, length, buffer, buffer + length
   return pkt
end

--- Runs a script's function over a frame.
---@param pkt tideway.pkt
---@param fill fun(pkt: tideway.pkt, number: integer)
---@param number integer of the frame, from 1
---@param label string for messages
function M.run_fill(pkt, fill, number, label)
   local before = pkt.len
   local ok, err = pcall(fill, pkt, number)
   if not ok then error(("%s: %s"):format(label, tostring(err)), 0) end
   if pkt.len ~= before then
      error(("%s made the frame %d bytes long instead of %d; its length must stay"):format(label, pkt.len, before), 0)
   end
end

--- One frame.
---@param shape tideway.bench.shape
---@param length integer bytes without FCS
---@return string
function M.build(shape, length, fill, number)
   local buffer = ffi.new("uint8_t[?]", length)
   local pkt = M.packet(buffer, length)
   local stop = stop_of(shape, length)
   for _, layer in ipairs(shape.stack.layers) do
      write_header(pkt, layer)
      write_length(pkt, layer, stop)
   end
   local room = stop - shape.stack.size - (shape.stamp and not shape.closed and M.STAMP or 0)
   ffi.copy(buffer + shape.stack.size, shape.payload(room), room)
   if fill then M.run_fill(pkt, fill, number, "fill") end
   return ffi.string(pkt.data, length)
end

-- What must fit a frame, for messages.
local function contents(shape)
   local text = stacks.names(shape.stack)
   if shape.payload_least > 0 then text = ("%s with %d bytes of payload"):format(text, shape.payload_least) end
   return shape.stamp and text .. " and a stamp of 16 bytes" or text
end

--- Lengths without FCS of the frames to make, or why they cannot be.
---@param shape tideway.bench.shape
---@param size any what the script said
---@return integer[] lengths
---@return integer[]? order
function M.lengths(shape, size)
   local read = sizes.read(size, shape.least + sizes.FCS)
   local list, longest = {}, 0
   for i, with_fcs in ipairs(read.list) do
      local length = with_fcs - sizes.FCS
      if length < shape.least then
         error(("size: %d bytes (FCS included) are too few for %s: the least is %d"):format(with_fcs, contents(shape),
            math.max(sizes.LEAST, shape.least + sizes.FCS)), 0)
      end
      list[i], longest = length, math.max(longest, length)
   end
   shape.closed = shape.stack.closed or bare_tcp(shape, longest)
   return list, read.order
end

-- ---- checksums ----

-- The transport header's checksum: where it is in it.
local AT = { tcp = 16, udp = 6, icmp = 2, icmp6 = 2 }
local NUMBER = { tcp = 6, udp = 17, icmp6 = 58 }

local function transport_sum(layer)
   local sum = { at = layer.at + AT[layer.protocol], from = layer.at }
   if layer.protocol == "udp" then sum.udp = true end
   if NUMBER[layer.protocol] then
      local ip = layer.ip
      sum.pseudo = { ip.protocol == "ipv4" and { ip.at + 12, 8 } or { ip.at + 8, 32 } }
      sum.protocol = NUMBER[layer.protocol]
   end
   return sum
end

--- Where checksums are.
---@param shape tideway.bench.shape
---@return table[]
function M.sums(shape)
   local list = {}
   for _, layer in ipairs(shape.stack.layers) do
      if layer.protocol == "ipv4" then
         list[#list + 1] = { at = layer.at + 10, from = layer.at, length = 20 }
      elseif AT[layer.protocol] and not layer.values.no_checksum then
         list[#list + 1] = transport_sum(layer)
      end
   end
   return list
end

return M
