-- SPDX-License-Identifier: BSD-3-Clause
-- What a hook's program wrote of a packet, as records of tw_watch: frames as they would be on the wire, ways out as
-- edges and verdicts.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local place = require "tideway.compiler.place.watch.maps"

local C = abi.C
local M = {}

local HEADER = ffi.sizeof "struct tw_watch_record"
local RECORD, BYTES = ffi.typeof "struct tw_watch_record *", ffi.typeof "uint8_t *"
local NONE, ENGINE = C.TW_PORT_NONE, C.TW_STAGE_ENGINE

---@class tideway.live.step
---@field record ffi.cdata* struct tw_watch_record *
---@field frame ffi.cdata* uint8_t *
---@field buffer ffi.cdata* memory of both

-- ---- frames ----

-- Bytes in front of or inside a frame that it has on the wire and not in the program: an Ethernet header where packets
-- start with the IP header, the VLAN tag that the kernel took out. Their place and text.
local function missing(record, program)
   local frame = record.frame
   if program.starts == "l3" then
      local v6 = record.caplen > 0 and bit.rshift(frame[0], 4) == 6
      return 0, ("\0"):rep(12) .. (v6 and "\x86\xdd" or "\x08\x00")
   elseif record.vlan_proto ~= 0 and record.caplen >= 12 then
      local tci, proto = record.vlan_tci, bit.rshift(bit.bswap(record.vlan_proto), 16)
      return 12, string.char(bit.rshift(proto, 8), bit.band(proto, 255), bit.rshift(tci, 8), bit.band(tci, 255))
   end
   return 0, ""
end

-- A record with the frame, or without.
local function new(record, program, wanted, with)
   local at, text = missing(record, program)
   local caplen = with and record.caplen + #text or 0
   local buffer = ffi.new("uint8_t[?]", HEADER + caplen)
   local out, frame = ffi.cast(RECORD, buffer), ffi.cast(BYTES, buffer) + HEADER
   if with then
      local from = ffi.cast(BYTES, record) + place.HEADER_SIZE
      ffi.copy(frame, from, at)
      ffi.copy(frame + at, text, #text)
      ffi.copy(frame + at + #text, from + at, record.caplen - at)
      caplen = math.min(caplen, wanted.snaplen)
      if wanted.headers then caplen = math.min(caplen, C.tw_header_length(frame, caplen)) end
   end
   out.size, out.caplen = bit.band(HEADER + caplen + 7, bit.bnot(7)), caplen
   out.len = with and record.length + #text or 0
   out.packet, out.time, out.mark = record.packet, record.time, record.mark
   out.chain, out.port, out.out, out.stage, out.slot = program.chain.index, record.port, record.out, ENGINE,
      record.cpu % 256
   return { record = out, frame = frame, buffer = buffer }
end

-- ---- ways out ----

local function verdict(kind, argument) return bit.bor(kind, bit.lshift(argument or 0, 8)) end

local VERDICT = {
   drop = function(exit) return verdict(C.TW_DROP, C.tw_reason_id(exit.argument)) end,
   port = function(exit) return verdict(C.TW_PORT, exit.argument) end,
   flood = function() return C.TW_FLOOD end,
   pass = function() return C.TW_PASS end,
   punt = function() return C.TW_PUNT end,
   redirect = function() return verdict(C.TW_PORT, NONE) end,
}

-- Ports that a packet leaves by: one, those of a flood, or one that is none of the script's.
local function ways_out(exit, hook, port)
   if exit.kind == "port" then return { exit.argument } end
   if exit.kind ~= "flood" then return { NONE } end
   local list = {}
   for index in pairs(hook.parts[1] and hook.parts[1].flood or {}) do
      if index ~= port then list[#list + 1] = index end
   end
   table.sort(list)
   return list
end

local Exit = {}
Exit.__index = Exit

function Exit:add(edge, with)
   local step = new(self.record, self.program, self.wanted, with)
   local r, last = step.record, self.exit.stage >= self.stages
   r.edge, r.verdict, r.stage = edge, VERDICT[self.exit.kind](self.exit), last and ENGINE or self.exit.stage
   self.list[#self.list + 1] = step
   return r
end

function Exit:sent(with)
   for i, out in ipairs(ways_out(self.exit, self.hook, self.record.port)) do
      local port = self.wanted.out_port
      if not port or self.wanted.follow or port.index == out then
         local r = self:add(C.TW_EDGE_OUT, with)
         r.out, r.flags = out, self.exit.kind == "flood" and i > 1 and C.TW_WATCH_MADE or 0
      end
   end
end

-- Where a packet left: its last NF, when that gave the verdict, and its end.
local function leaving(self)
   local exit, follow, edges = self.exit, self.wanted.follow, self.wanted.edges
   local from_nf = exit.stage < self.stages
   local kind = exit.kind
   if from_nf and (follow or (kind ~= "drop" and bit.band(edges, C.TW_EDGE_NF) ~= 0
         and self.program.stages[exit.stage])) then
      self:add(C.TW_EDGE_NF, true).spent = self.record.spent
   end
   if kind == "punt" then return end -- goes on in the control thread
   if kind == "drop" then
      if follow or bit.band(edges, C.TW_EDGE_DROP) ~= 0 then self:add(C.TW_EDGE_DROP, not follow) end
   elseif follow or bit.band(edges, C.TW_EDGE_OUT) ~= 0 then
      self:sent(not follow)
   end
end

--- What a program wrote, as records.
---@param record ffi.cdata* place.record
---@param program tideway.place.watch of the program that wrote it; also chain, starts, stages
---@param hook tideway.hook.chain
---@param wanted tideway.live.watch.wanted
---@return tideway.live.step[] steps
---@return string? ends "left", "punted": its way through the program ends
---@return integer? expected then: steps that it has had, when all are there
function M.of(record, program, hook, wanted)
   local point = record.point
   if point ~= place.EXIT then
      local step = new(record, program, wanted, true)
      local r = step.record
      r.edge = C.TW_EDGE_IN
      if point >= place.NF then
         r.edge, r.stage, r.verdict, r.spent = C.TW_EDGE_NF, point - place.NF, C.TW_NEXT, record.spent
      end
      return { step }
   end
   local exit = program.exits[record.exit + 1]
   local self = setmetatable({
      record = record, program = program, hook = hook, wanted = wanted, exit = exit, list = {}, stages = program.count,
   }, Exit)
   leaving(self)
   return self.list, exit.kind == "punt" and "punted" or "left", exit.stage + 1 + #self.list
end

--- A record of what the control thread has of a packet.
---@param record ffi.cdata* place.record
---@param w tideway.place.watch
---@param wanted tideway.live.watch.wanted
---@param with boolean the frame too
---@return tideway.live.step
function M.of_user(record, w, wanted, with) return new(record, w, wanted, with) end

return M
