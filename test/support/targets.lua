-- SPDX-License-Identifier: BSD-3-Clause
-- The NFs that malformed frames are sent through: every one of the library, the edge chain of
-- examples/04-edge.lua, and one that calls all methods of a packet. Each stands in two chains of one rig, as
-- users have it and with its frames between guard pages.

local tw = require "tideway"
local abi = require "tideway.abi"
local corpus = require "test.support.corpus"
local engine = require "tideway.engine"
local frames = require "test.support.frame"
local guard = require "test.support.guard"
local rig = require "test.support.rig"
local validate = require "test.support.validate"

local M = {}

local RULES = [[
   allow established
   drop count bogus tcp flags SF/SF
   reject tcp port 23
   allow in lan
   allow icmp6 neighbor-solicitation, neighbor-advertisement
   allow icmp echo to 198.51.100.1
   reject udp port 53
   drop count unasked
]]

local function router(lan, wan, name)
   return tw.nf.router {
      name = name, icmp_rate = 1e6,
      ports = {
         { port = lan, addresses = { corpus.LAN .. "/24", corpus.LAN6 .. "/64" }, mac = corpus.LAN_MAC },
         { port = wan, addresses = { corpus.WAN .. "/24", corpus.WAN6 .. "/64" }, mac = corpus.WAN_MAC },
      },
      routes = { { "0.0.0.0/0", via = corpus.GATE }, { "::/0", via = corpus.GATE6 } },
      neighbours = {
         [corpus.GATE] = corpus.GATE_MAC, [corpus.HOST] = corpus.HOST_MAC, [corpus.GATE6] = corpus.GATE_MAC,
         [corpus.HOST6] = corpus.HOST_MAC,
      },
   }
end

local function napt44(wan, name, place)
   return tw.nf.napt44 { name = name, outside = wan, address = corpus.WAN, inside = "10.0.0.0/24", place = place }
end

local function firewall(lan, wan, name)
   return tw.nf.firewall {
      name = name, ports = { lan = lan, wan = wan }, rules = RULES, connections = 4096, fragments = "follow",
   }
end

local function exercise()
   return tw.nf("exercise", function()
      local share, n = nil, 0
      return { packet = function(pkt)
         if not share then share = require("test.support.exercise").share end
         n = n + 1
         share(pkt, n)
      end }
   end) {}
end

-- name -> NFs between a port that frames come from and another; the sink, when they need one.
local BUILD = {
   reflect = function() return { tw.nf.reflect {} } end,
   count = function(_, wan) return { tw.nf.count { per = "flow" } }, wan end,
   l2_bridge = function() return { tw.nf.l2_bridge { vlan_aware = true } } end,
   router = function(lan, wan, name) return { router(lan, wan, name) } end,
   firewall = function(lan, wan, name) return { firewall(lan, wan, name) }, wan end,
   napt44 = function(_, wan, name) return { napt44(wan, name, "inline") }, wan end,
   edge = function(lan, wan, name)
      local nat = napt44(wan, name .. "-nat", "around_router")
      return { nat, firewall(lan, wan, name .. "-fw"), router(lan, wan, name .. "-rt"), nat }
   end,
   exercise = function(_, wan) return { exercise() }, wan end,
   -- Not among the names: for the specs of what uses this, an NF with a bug.
   planted = function(_, wan)
      local packet = function(pkt)
         local ip = pkt:ipv4()
         if ip and ip.ihl == 7 then pkt.mark = pkt:tcp().src_port end
      end
      return { tw.nf("planted", function() return { packet = packet } end) {} }, wan
   end,
}

--- Names of the targets in order; each also exists as NAME .. "+guard".
M.names = { "reflect", "count", "l2_bridge", "router", "firewall", "napt44", "edge", "exercise" }

---@class tideway.spec.targets
---@field rig table
---@field target table<string, { lan: tideway.port, wan: tideway.port }>
---@field empty integer empty frames injected since the last run
local Targets = {}
Targets.__index = Targets

local function build(r, target, base, name)
   local nfs, sink = BUILD[base](target.lan, target.wan, name)
   local chain = {}
   if target.guarded then
      local enter, leave = guard.nfs()
      chain[1] = enter
      for _, nf in ipairs(nfs) do chain[#chain + 1] = nf end
      chain[#chain + 1] = leave
   else
      chain = nfs
   end
   chain[#chain + 1] = sink
   r:chain(name, { target.lan, target.wan }, unpack(chain))
end

--- Start all targets, or some.
---@param names? string[]
---@return tideway.spec.targets
function M.start(names)
   local ports, all = {}, {}
   local options = abi.C.tw_options()
   local vm_memory_mb = options.vm_memory_mb
   options.vm_memory_mb = 256 -- 16 chains in one VM, and traces of thousands of calls
   for _, name in ipairs(names or M.names) do
      for _, full in ipairs { name, name .. "+guard" } do
         all[#all + 1] = { name = full, base = name }
         ports[#ports + 1], ports[#ports + 2] = full .. ".lan", full .. ".wan"
      end
   end
   -- Compiling what nobody calls in one burst takes long, in a sanitizer's build longer.
   local r = rig.new { ports = ports, stall_ms = 500 }
   local self = setmetatable({
      rig = r, target = {}, names = {}, empty = 0, vm_memory_mb = vm_memory_mb,
   }, Targets)
   for i, entry in ipairs(all) do
      local target = {
         lan = self.rig.ports[2 * i - 1], wan = self.rig.ports[2 * i], guarded = entry.name ~= entry.base,
         chain = i - 1, resizes = entry.base == "exercise",
      }
      self.target[entry.name], self.names[i] = target, entry.name
      build(self.rig, target, entry.base, entry.name:gsub("%+", "-"))
   end
   self.rig:start()
   return self
end

-- Look at all that left by a port. An empty frame, collected, cannot be told from none: `empty` of them may be
-- in between.
local function look_at(target, frame, port, empty)
   local first
   while true do
      local out = port:collect()
      if not out then
         if empty == 0 then return first end
         empty = empty - 1
      elseif frame and not target.resizes and not first then
         local fault = validate.compare(frame, out)
         first = fault and ("%s: %s"):format(fault, frames.hex(out))
      end
   end
end

--- Put a frame on a port without running.
---@param name string
---@param port "lan"|"wan" where it arrives
---@param frame string
---@return boolean ok
---@return string? error
function Targets:inject(name, port, frame)
   if frame == "" then self.empty = self.empty + 1 end
   return self.target[name][port]:inject(frame)
end

-- Packets in hold queues of a target's chain.
function Targets:held(target)
   local n = 0
   local stats = abi.C.tw_stats()
   for _, entry in ipairs(engine.lcores) do n = n + tonumber(stats.lcore[entry.slot].chain[target.chain].held) end
   return n
end

--- Run what was injected.
---@param name string
---@param frame? string what left is compared with it
---@return string? fault nil when all is well
function Targets:run(name, frame)
   local target = self.target[name]
   local held = self:held(target)
   self.rig:run()
   if self:held(target) < held then frame = nil end -- what left is also what had come before
   local empty = self.empty
   self.empty = 0
   local fault = look_at(target, frame, target.lan, empty)
   fault = look_at(target, frame, target.wan, empty) or fault
   local log = engine.log()
   if #log > 0 then return table.concat(log, "\n") end
   return fault
end

--- Send one frame through a target and look at what leaves.
---@param name string
---@param port "lan"|"wan" where it arrives
---@param frame string
---@return string? fault nil when all is well
function Targets:send(name, port, frame)
   local ok, err = self:inject(name, port, frame)
   if not ok then
      return #frame <= 1514 and err or nil -- longer ones may not fit a buffer
   end
   return self:run(name, frame)
end

-- The engine drops with these when an NF did something it must not do.
local FAULTS = { "nf_fault", "nf_quarantined", "vm_lost", "bad_verdict", "bad_port", "no_punt", "no_sink" }

--- Counters so far that say that something went wrong.
---@return string? fault
function Targets:faults()
   local drops = self.rig:drops()
   for _, reason in ipairs(FAULTS) do
      if drops[reason] then return ("%d packets dropped as %s"):format(drops[reason], reason) end
   end
end

--- Stop; raises when the counters do not add up.
function Targets:close()
   local options = abi.C.tw_options()
   options.vm_memory_mb = self.vm_memory_mb
   return self.rig:close()
end

return M
