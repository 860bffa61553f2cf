-- SPDX-License-Identifier: BSD-3-Clause
-- A rig for NF specs: the real engine on wire ports, turned by hand, with exact accounting at the end.
--
--    local rig = require "test.support.rig"
--    local r = rig.new { ports = { "lan", "wan" } }
--    r:chain("c", { r.lan, r.wan }, nf, r.wan)
--    r:start()
--    r:send(r.lan, frame)               -- and r:run() turns the lcore until nothing moves
--    local out = r:collect(r.wan)       -- list of frames (strings)
--    r:drops()                          -- { reason = count }
--    r:advance(30)                      -- the engine's clock, seconds
--    r:close()                          -- checks received + originated = sent + dropped

local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local stats = require "tideway.stats"

local M = {}
local Rig = {}
Rig.__index = Rig

-- CPU time is also what a virtual machine was kept from its CPU: 10 ms of it are no sign of an NF that loops.
local STALL_MS = 500

--- @param spec { ports: string[], stall_ms: integer? } stall_ms: CPU time that an NF may take for a burst
function M.new(spec)
   engine.close() -- whatever a failed spec left behind
   abi.C.tw_stats_close()
   assert(abi.C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
   local options = abi.C.tw_options()
   local rig = setmetatable({ ports = {}, stall_ms = options.stall_ms }, Rig)
   options.stall_ms = spec.stall_ms or STALL_MS
   for i, name in ipairs(spec.ports) do
      local port = tw.port(name, "wire" .. i)
      rig[name] = port
      rig.ports[i] = port
   end
   return rig
end

function Rig:chain(...) return tw.chain(...):pin { step = true } end

function Rig:start() engine.start() end

--- Turn the lcore until nothing moves any more.
function Rig:run()
   for _ = 1, 100 do
      if engine.step() == 0 then
         engine.step() -- what was emitted or released in the last turn
         return
      end
   end
end

--- Put frames on a port and run.
function Rig:send(port, ...)
   for i = 1, select("#", ...) do assert(port:inject((select(i, ...)))) end
   self:run()
end

--- All frames that left by a port since the last call.
function Rig:collect(port)
   local list = {}
   while true do
      local frame = port:collect()
      if not frame then return list end
      list[#list + 1] = frame
   end
end

--- Send one frame and return the one frame that leaves by `out` (nil when none does).
function Rig:through(port, frame, out)
   self:send(port, frame)
   local list = self:collect(out)
   assert(#list <= 1, "more than one frame left")
   return list[1]
end

--- Drops of all chains so far, by reason.
function Rig:drops()
   local out = {}
   for _, chain in ipairs(engine.snapshot().chains) do
      for _, nf in ipairs(chain.nfs) do
         for _, d in ipairs(nf.drops) do out[d.reason] = (out[d.reason] or 0) + d.count end
      end
      for _, d in ipairs(chain.engine.drops) do out[d.reason] = (out[d.reason] or 0) + d.count end
   end
   return out
end

function Rig:snapshot() return engine.snapshot() end

--- Run `load` until the lcore's traces have settled, then 100 times more, in up to ten windows until one is
--- quiet: a rare path may become hot late, but a chain that LuaJIT cannot compile never comes to rest.
---@return integer traces made in the last window
---@return integer aborts of recordings in it
---@return string last_abort where the last one was
function Rig:steady(load)
   local info = abi.C.tw_lcore_jit(engine.lcores[1].slot)
   for _ = 1, 400 do
      load()
      if info.settled == 2 then break end
      self:advance(0.1)
   end
   assert(info.settled == 2, "the traces did not settle")
   for _ = 1, 60 do load() end
   assert(info.traces > 0, "nothing was compiled")
   local flushes, traces, aborts = info.flushes, 0, 0
   for _ = 1, 10 do
      traces, aborts = info.traces, info.aborts
      for _ = 1, 100 do load() end
      traces, aborts = info.traces - traces, info.aborts - aborts
      if traces + aborts == 0 then break end
   end
   assert(info.flushes == flushes, "LuaJIT threw all traces away")
   self:advance(0.1)
   assert(info.interpreted == 0, "LuaJIT has given up compiling the chain")
   return traces, aborts, require("ffi").string(info.last_abort)
end

--- Messages of the fence since the last call.
function Rig:log() return engine.log() end

--- Move the engine's clock ahead and run (ticks happen).
function Rig:advance(seconds)
   abi.C.tw_clock_advance(seconds * 1e9)
   self:run()
end

--- Stop everything; the counters must add up.
function Rig:close()
   for _, port in ipairs(self.ports) do self:collect(port) end
   abi.C.tw_engine_stop()
   local snapshot = stats.snapshot(abi.C.tw_stats())
   local exact = stats.adds_up(snapshot)
   engine.close()
   abi.C.tw_options().stall_ms = self.stall_ms
   assert(exact, "the counters do not add up")
   return snapshot
end

return M
