-- SPDX-License-Identifier: BSD-3-Clause
-- The Lua code that runs one chain over a burst: compiled segments, loops over NFs that are called as they are, and
-- NFs that see the whole burst, one piece behind the other.
--
-- The chain function is entered once per burst. It writes burst.stage before each NF, so that the fence knows whom to
-- blame, and leaves a verdict other than TW_NEXT on every packet it finished; pkt.resume says how far the others are
-- wherever one piece ends. So the first packet without a verdict that is not further than burst.stage is the one in
-- hand when something goes wrong.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

-- ---- NFs that are called as they are ----

local PACKET_STAGE = [[
%sf%d(pkt)
if pkt.verdict == 0 then
%s
else pkt.stage, burst.odd = %d, 1 end
]]

-- A run of packet NFs becomes one loop with every NF inside. C sets stage 0 at entry.
local function packet_loop(first, last, stages)
   local body = last == stages and "pkt.verdict = 7" or ("pkt.resume = %d"):format(last)
   for i = last, first, -1 do
      local mark = (last > 1) and ("burst.stage = %d\n"):format(i - 1) or ""
      body = PACKET_STAGE:format(mark, i, body, i - 1)
   end
   if first > 1 then body = "if pkt.verdict == 0 then\n" .. body .. "end\n" end
   return "for i = 0, count - 1 do\nlocal pkt = pkts[i]\n" .. body .. "end\n"
end

-- A burst NF sees the whole burst; verdicts it gave are marked as its own afterwards. `resume` says how far
-- each packet is, in case a later NF faults and the rest of the burst has to be taken up again.
local BURST_STAGE = [[
burst.stage = %d
for i = 0, count - 1 do pkts[i].resume = %d end
f%d(burst)
for i = 0, count - 1 do
local pkt = pkts[i]
pkt.resume = %d
if pkt.verdict ~= 0 then
burst.odd = 1
if pkt.stage == %d then pkt.stage = %d end
end
%send
]]
local function burst_call(i, stages)
   local done = i == stages and "if pkt.verdict == 0 then pkt.verdict = 7 end\n" or ""
   return BURST_STAGE:format(i - 1, i - 1, i, i, C.TW_STAGE_ENGINE, i - 1, done)
end

-- ---- pieces ----

---@class tideway.chain_code.segment what the compiler made of stages that stand one behind the other
---@field first integer from 1
---@field last integer
---@field lua? string source of a chunk: given the burst, it returns function(count) and memory it uses
---@field native? boolean machine code may come, in the chain's native word of this number
---@field index integer

---@class tideway.chain_code.piece
---@field kind "segment"|"packet"|"burst"
---@field first integer
---@field last integer
---@field segment? tideway.chain_code.segment

local function free_of(segment, mask)
   for i = segment.first, segment.last do
      if bit.band(mask, bit.lshift(1, i - 1)) ~= 0 then return false end
   end
   return true
end

-- Segments by the stage they begin at, without those that have an NF in quarantine.
local function usable(segments, mask)
   local by_first = {}
   for _, segment in ipairs(segments or {}) do
      if (segment.lua or segment.native) and free_of(segment, mask) then by_first[segment.first] = segment end
   end
   return by_first
end

--- What a chain function consists of.
---@param stages table[] NF instances
---@param segments? tideway.chain_code.segment[]
---@param mask? integer bit per stage in quarantine
---@return tideway.chain_code.piece[]
function M.pieces(stages, segments, mask)
   local by_first, list, i = usable(segments, mask or 0), {}, 1
   while i <= #stages do
      local piece = { kind = stages[i].packet and "packet" or "burst", first = i, last = i, segment = by_first[i] }
      if piece.segment then
         piece.kind, piece.last = "segment", piece.segment.last
      elseif piece.kind == "packet" then
         while piece.last < #stages and stages[piece.last + 1].packet and not by_first[piece.last + 1] do
            piece.last = piece.last + 1
         end
      end
      list[#list + 1] = piece
      i = piece.last + 1
   end
   return list
end

-- A segment that LuaJIT has no code for runs its NFs as they are until the machine code comes.
local function segment_code(piece, stages)
   local index = piece.segment.index
   local code = piece.segment.lua and ("c%d(count)\n"):format(index) or packet_loop(piece.first, piece.last, stages)
   if not piece.segment.native then return code end
   return ("if words[%d].fn ~= nil then words[%d].fn(burst, count) else\n%send\n"):format(index, index, code)
end

local function names(prefix, list)
   local text = {}
   for i, n in ipairs(list) do text[i] = (", %s%d"):format(prefix, n) end
   return table.concat(text)
end

--- The source of a chain's burst function: a chunk that gets the burst, its packets, the native words, the functions
--- of NFs and those of segments.
---@param pieces tideway.chain_code.piece[]
---@param stages integer number of NFs
---@return string
function M.source(pieces, stages)
   local parts, functions, compiled = {}, {}, {}
   for i = 1, stages do functions[i] = i end
   for i, piece in ipairs(pieces) do
      if piece.kind == "segment" then
         if piece.segment.lua then compiled[#compiled + 1] = piece.segment.index end
         parts[i] = segment_code(piece, stages)
      elseif piece.kind == "packet" then
         parts[i] = packet_loop(piece.first, piece.last, stages)
      else
         parts[i] = burst_call(piece.first, stages)
      end
   end
   return ("local burst, pkts, words%s%s = ...\nreturn function(count)\n%send\n"):format(names("f", functions),
      names("c", compiled), table.concat(parts))
end

local anchors = {} -- memory that compiled segments know by address

local function load_segment(name, segment, burst)
   local run, memory = assert(loadstring(segment.lua, ("=chain %s_%d"):format(name, segment.first)))(burst)
   anchors[#anchors + 1] = memory
   return run
end

--- Build a chain's burst function in this VM.
---@param chain table { name, index, segments? }
---@param stages table[] NF instances
---@param mask integer bit per stage in quarantine
---@param burst ffi.cdata* struct tw_burst *
---@param bank? integer of native words
---@return function chain
---@return function[] loops the functions that have loops, which LuaJIT may give up
function M.build(chain, stages, mask, burst, bank)
   local pieces, arguments, loops = M.pieces(stages, chain.segments, mask), {}, {}
   for i, nf in ipairs(stages) do arguments[i] = nf.packet or nf.burst end
   for _, piece in ipairs(pieces) do
      if piece.segment and piece.segment.lua then
         local run = load_segment(chain.name, piece.segment, burst)
         arguments[#arguments + 1], loops[#loops + 1] = run, run
         if #pieces == 1 then return run, loops end -- C itself looks for machine code
      end
   end
   local chunk = assert(loadstring(M.source(pieces, #stages), "=chain " .. chain.name))
   local words = bank and chain.index and C.tw_native_words(bank, chain.index) or nil
   local run = chunk(burst, ffi.cast("struct tw_pkt *", burst.pkts), words, unpack(arguments, 1, #arguments))
   loops[#loops + 1] = run
   return run, loops
end

return M
