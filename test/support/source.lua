-- SPDX-License-Identifier: BSD-3-Clause
-- For specs of sources: frames and checksums by code that shares nothing with the engine, and a rig: sources in front
-- of one wire port, turned by hand.

local assert = require "luassert"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local stats = require "tideway.stats"
local tw = require "tideway"

local C = abi.C
local bench = tw.bench
local M = {}

-- ---- frames ----

function M.bytes(hex) return (hex:gsub("%s", ""):gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)) end

function M.be(frame, at, n)
   local value = 0
   for i = 1, n do value = value * 256 + frame:byte(at + i) end
   return value
end

M.ETHER = "020000000002 020000000001 "

-- UDP over IPv4; sums are 0.
function M.udp(payload)
   local n = #payload
   return M.bytes(M.ETHER .. ("0800 4500%04x 0000 0000 4011 0000 0a000001 0a010001 03e8 07d0 %04x 0000"):format(n + 28,
      n + 8)) .. payload
end

function M.udp6(payload)
   local n = #payload + 8
   return M.bytes(M.ETHER .. ("86dd 60000000 %04x 11 40 20010db8000000000000000000000001 "
      .. "20010db8000000000000000000000002 03e8 07d0 %04x 0000"):format(n, n)) .. payload
end

function M.ipv4_sum() return { at = 24, from = 14, length = 20 } end
function M.udp_sum() return { at = 40, from = 34, udp = true, pseudo = { { 26, 8 } }, protocol = 17 } end

-- RFC 1071, word by word.
function M.sum(frame, from, to, start)
   local total = start or 0
   for at = from, to - 1, 2 do
      total = total + frame:byte(at + 1) * 256 + (at + 1 < to and frame:byte(at + 2) or 0)
   end
   while total > 0xffff do total = total % 65536 + math.floor(total / 65536) end
   return total
end

-- Both checksums of a UDP packet over IPv4, from its own header.
function M.assert_sums(frame)
   assert.equal(0xffff, M.sum(frame, 14, 34), "IPv4 header checksum")
   local finish = 14 + M.be(frame, 16, 2)
   local pseudo = M.sum(frame, 26, 34, 17 + finish - 34)
   assert.is_not.equal(0, M.be(frame, 40, 2))
   assert.equal(0xffff, M.sum(frame, 34, finish, pseudo), "UDP checksum")
end

-- ---- the engine, turned by hand ----

-- Forgets whatever a failed spec left behind.
function M.fresh()
   engine.close()
   C.tw_stats_close()
   assert(C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
   tw.options { burst = 32 }
end

function M.start(sources, options)
   M.fresh()
   local rig = {}
   for i, traffic in ipairs(sources) do
      rig[i] = bench.source("s" .. i, traffic, options)
      rig.out = rig.out or tw.port("out", "wire1")
      tw.chain("c" .. i, rig[i], rig.out):pin { step = true }
   end
   engine.start()
   M.rig = rig
   return unpack(rig)
end

function M.collect()
   local list = {}
   while true do
      local frame = M.rig.out:collect()
      if not frame then return list end
      list[#list + 1] = frame
   end
end

-- Stops the engine; its counters must be exact.
function M.close()
   if not M.rig then return end
   for _, source in ipairs(M.rig) do source:stop() end
   engine.step()
   M.collect()
   C.tw_engine_stop()
   local snapshot = stats.snapshot(C.tw_stats())
   engine.close()
   M.rig = nil
   assert(stats.adds_up(snapshot), "the counters do not add up")
end

-- Turns until the sources stop by themselves; what they made.
function M.finish()
   local list = {}
   local function running()
      for _, source in ipairs(M.rig) do
         if source:running() then return true end
      end
   end
   repeat
      engine.step()
      for _, frame in ipairs(M.collect()) do list[#list + 1] = frame end
   until not running()
   return list
end

-- The first n frames that a source makes of traffic.
function M.made(traffic, n)
   local source = M.start { traffic }
   assert(source:start { count = n })
   local list = M.finish()
   assert.equal(n, #list)
   assert.equal(n, source:counters().packets)
   return list, source
end

-- Turns the engine for some seconds, and until nothing is due.
function M.turn(seconds)
   local due = tw.now() + seconds * 1e9
   repeat
      local moved = engine.step()
      M.collect()
   until tw.now() >= due and moved == 0
end

function M.plain(fields, indexes, payload)
   return { frames = { M.udp(payload or ("x"):rep(18)) }, indexes = indexes, fields = fields,
      sums = { M.ipv4_sum(), M.udp_sum() } }
end

return M
