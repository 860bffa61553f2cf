-- SPDX-License-Identifier: BSD-3-Clause
-- Counters to plain tables: a snapshot of struct tw_stats, rates between two, and whether they add up.
--
-- Every counter has one writer and only grows, so a snapshot needs no lock. Taken from a running
-- engine it may miss the packets of the bursts in progress; taken from a stopped one it is exact.

local ffi = require "ffi"

local M = {}

local LCORES_MAX, ENGINE_STAGE = 64, 23

local function text(chars) return ffi.string(chars) end

local function add(t, key, n) t[key] = (t[key] or 0) + tonumber(n) end

local PORT_COUNTERS = { "rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "tx_full" }
local DEVICE_COUNTERS = { "imissed", "ierrors", "rx_nombuf", "oerrors" }
local CHAIN_COUNTERS = {
   "rx", "rx_bytes", "originated", "sent", "sent_bytes", "passed", "dropped", "held", "bursts", "cycles",
   "punted", "faults",
}

local TIERS = { [0] = "lua", "luajit", "native" }

-- Drop counts of one stage over all lcores, most frequent first.
local function stage_drops(lcores, chain, stage, reasons)
   local list = {}
   for id = 0, #reasons - 1 do
      local n = 0
      for _, l in ipairs(lcores) do n = n + tonumber(l.drops[chain][stage][id]) end
      if n > 0 then list[#list + 1] = { reason = reasons[id + 1], count = n } end
   end
   table.sort(list, function(a, b)
      if a.count ~= b.count then return a.count > b.count end
      return a.reason < b.reason
   end)
   return list
end

local function read_nf(lcores, chain, stage, name, quarantined, reasons)
   local nf = {
      name = name, stage = stage, quarantined = quarantined, received = 0, dropped = 0,
      drops = stage_drops(lcores, chain, stage, reasons),
   }
   for _, l in ipairs(lcores) do add(nf, "received", l.stage_in[chain][stage]) end
   for _, d in ipairs(nf.drops) do nf.dropped = nf.dropped + d.count end
   return nf
end

local function read_chain(s, lcores, index, reasons)
   local info = s.chain[index]
   local hook = info.hook ~= 0
   local chain = {
      name = text(info.name), index = index, place = text(info.place), hook = hook,
      tier = hook and "eBPF" or TIERS[info.tier], nfs = {},
   }
   for _, key in ipairs(CHAIN_COUNTERS) do
      for _, l in ipairs(lcores) do add(chain, key, l.chain[index][key]) end
      chain[key] = chain[key] or 0
   end
   for stage = 0, tonumber(info.stages) - 1 do
      chain.nfs[stage + 1] = read_nf(lcores, index, stage, text(info.stage[stage]),
         info.quarantined[stage] ~= 0, reasons)
   end
   chain.engine = read_nf(lcores, index, ENGINE_STAGE, "(engine)", false, reasons)
   chain.cycles_per_packet = chain.rx > 0 and chain.cycles / chain.rx or 0
   chain.difference = chain.rx + chain.originated - chain.sent - chain.dropped - chain.held
   return chain
end

local function read_port(s, lcores, index)
   local info = s.port[index]
   local m = info.mac
   local port = {
      name = text(info.name), index = index, device = text(info.device), driver = text(info.driver),
      mode = text(info.mode), offloads = text(info.offloads), speed_mbps = info.speed, mtu = info.mtu,
      rx_queues = info.rx_queues, tx_queues = info.tx_queues,
      mac = ("%02x:%02x:%02x:%02x:%02x:%02x"):format(m[0], m[1], m[2], m[3], m[4], m[5]),
   }
   for _, key in ipairs(PORT_COUNTERS) do
      for _, l in ipairs(lcores) do add(port, key, l.port[index][key]) end
      port[key] = port[key] or 0
   end
   for _, key in ipairs(DEVICE_COUNTERS) do port[key] = tonumber(info[key]) end
   return port
end

local function read_lcore(l, slot)
   local busy, idle = tonumber(l.busy_cycles), tonumber(l.idle_cycles)
   return {
      slot = slot, cpu = l.cpu, busy_cycles = busy, idle_cycles = idle,
      load = busy + idle > 0 and busy / (busy + idle) or 0,
      loops = tonumber(l.heartbeat), idle_loops = tonumber(l.idle_loops),
      generation = tonumber(l.generation), vm_rebuilds = l.vm_rebuilds,
   }
end

-- The whole engine as one equation: received + originated = sent + dropped + in flight. Ports count what lcores
-- receive and send; chains on hooks count for themselves.
local function read_totals(snap)
   local t = { received = 0, originated = 0, sent = 0, dropped = 0, held = 0, in_rings = 0, punted = 0, faults = 0 }
   for _, p in ipairs(snap.ports) do
      t.received, t.sent = t.received + p.rx_packets, t.sent + p.tx_packets
   end
   for _, c in ipairs(snap.chains) do
      if c.hook then t.received, t.sent = t.received + c.rx, t.sent + c.sent end
      for _, key in ipairs { "originated", "dropped", "held", "punted", "faults" } do t[key] = t[key] + c[key] end
   end
   for _, r in ipairs(snap.rings) do t.in_rings = t.in_rings + r.used end
   t.in_flight = t.held + t.in_rings
   t.difference = t.received + t.originated - t.sent - t.dropped - t.in_flight
   return t
end

---@class tideway.stats.snapshot
---@field instance string
---@field script string
---@field pid integer
---@field abi integer
---@field running boolean
---@field tsc_hz number
---@field started number seconds of the epoch
---@field generation integer
---@field ports table[]
---@field chains table[] each with nfs[] and engine (drops the engine itself decided)
---@field rings table[]
---@field lcores table[]
---@field totals table

--- Copy the counters into plain tables.
---@param s ffi.cdata* `const struct tw_stats *`
---@return tideway.stats.snapshot
function M.snapshot(s)
   local snap = {
      instance = text(s.instance), script = text(s.script), pid = s.pid, abi = s.abi,
      running = s.running ~= 0, tsc_hz = tonumber(s.tsc_hz), started = tonumber(s.start_ns) / 1e9,
      generation = tonumber(s.generation), ports = {}, chains = {}, rings = {}, lcores = {},
   }
   local reasons, lcores = {}, {}
   for id = 0, s.reasons - 1 do reasons[id + 1] = text(s.reason[id]) end
   -- An unpinned slot keeps the packets it counted before.
   for slot = 0, LCORES_MAX - 1 do
      local l = s.lcore[slot]
      if l.cpu >= 0 then snap.lcores[#snap.lcores + 1] = read_lcore(l, slot) end
      if l.cpu >= 0 or l.heartbeat > 0 then lcores[#lcores + 1] = l end
   end
   for i = 0, s.ports - 1 do
      -- One without a name is the port of a hook, which no lcore has.
      if s.port[i].name[0] ~= 0 then snap.ports[#snap.ports + 1] = read_port(s, lcores, i) end
   end
   for i = 0, s.chains - 1 do snap.chains[i + 1] = read_chain(s, lcores, i, reasons) end
   for i = 0, s.rings - 1 do
      local r = s.ring[i]
      snap.rings[i + 1] = { name = text(r.name), size = r.size, used = r.used }
   end
   snap.totals = read_totals(snap)
   return snap
end

-- Growth of a counter a second; a counter that went back (a restart) has no rate.
local function rate(new, old, seconds)
   local delta = new - (old or 0)
   return delta > 0 and delta / seconds or 0
end

local function by_name(list)
   local map = {}
   for _, item in ipairs(list) do map[item.name] = item end
   return map
end

local function drop_rates(new, old, seconds)
   local before, list = {}, {}
   for _, d in ipairs(old and old.drops or {}) do before[d.reason] = d.count end
   for _, d in ipairs(new.drops) do
      local r = rate(d.count, before[d.reason], seconds)
      if r > 0 then list[#list + 1] = { reason = d.reason, pps = r } end
   end
   table.sort(list, function(a, b) return a.pps > b.pps end)
   return list
end

local function nf_rates(new, old, seconds)
   return {
      name = new.name, quarantined = new.quarantined,
      pps = rate(new.received, old and old.received, seconds),
      dropped_pps = rate(new.dropped, old and old.dropped, seconds),
      drops = drop_rates(new, old, seconds),
   }
end

local function chain_rates(new, old, seconds)
   old = old or { nfs = {} }
   local function r(key) return rate(new[key], old[key], seconds) end
   local chain = {
      name = new.name, tier = new.tier, hook = new.hook, place = new.place, rx_pps = r "rx",
      rx_mbps = r "rx_bytes" * 8 / 1e6, originated_pps = r "originated",
      sent_pps = r "sent", sent_mbps = r "sent_bytes" * 8 / 1e6, dropped_pps = r "dropped",
      punted_pps = r "punted", bursts_ps = r "bursts", nfs = {},
      engine = nf_rates(new.engine, old.engine, seconds),
   }
   chain.cycles_per_packet = chain.rx_pps > 0 and r "cycles" / chain.rx_pps or 0
   chain.packets_per_burst = chain.bursts_ps > 0 and chain.rx_pps / chain.bursts_ps or 0
   local before = by_name(old.nfs)
   for i, nf in ipairs(new.nfs) do chain.nfs[i] = nf_rates(nf, before[nf.name], seconds) end
   return chain
end

local function lcore_rates(new, old, seconds)
   local busy = rate(new.busy_cycles, old and old.busy_cycles, seconds)
   local idle = rate(new.idle_cycles, old and old.idle_cycles, seconds)
   return {
      slot = new.slot, cpu = new.cpu, load = busy + idle > 0 and busy / (busy + idle) or 0,
      loops_ps = rate(new.loops, old and old.loops, seconds),
   }
end

--- What happened between two snapshots of one instance, a second.
---@param a tideway.stats.snapshot the earlier
---@param b tideway.stats.snapshot the later
---@param seconds number between them
---@return table rates ports (rx_pps, tx_pps, rx_mbps, tx_mbps: frame bits without CRC and preamble),
---  chains (rx_pps, sent_pps, dropped_pps, cycles_per_packet, nfs, engine), lcores (load 0..1)
function M.rates(a, b, seconds)
   local out = { seconds = seconds, ports = {}, chains = {}, lcores = {} }
   if a.pid ~= b.pid then a = { ports = {}, chains = {}, lcores = {} } end
   local before = by_name(a.ports)
   for i, p in ipairs(b.ports) do
      local old = before[p.name] or {}
      local function r(key) return rate(p[key], old[key], seconds) end
      out.ports[i] = {
         name = p.name, rx_pps = r "rx_packets", tx_pps = r "tx_packets",
         rx_mbps = r "rx_bytes" * 8 / 1e6, tx_mbps = r "tx_bytes" * 8 / 1e6,
         tx_full_pps = r "tx_full", missed_pps = r "imissed",
      }
   end
   before = by_name(a.chains)
   for i, c in ipairs(b.chains) do out.chains[i] = chain_rates(c, before[c.name], seconds) end
   local slots = {}
   for _, l in ipairs(a.lcores) do slots[l.slot] = l end
   for i, l in ipairs(b.lcores) do out.lcores[i] = lcore_rates(l, slots[l.slot], seconds) end
   return out
end

--- Drop counts of a snapshot by reason over all chains and NFs, most frequent first.
---@param snap tideway.stats.snapshot
---@return {reason: string, count: number}[]
function M.drops(snap)
   local sums, list = {}, {}
   for _, c in ipairs(snap.chains) do
      for i = 1, #c.nfs + 1 do
         for _, d in ipairs((c.nfs[i] or c.engine).drops) do add(sums, d.reason, d.count) end
      end
   end
   for reason, count in pairs(sums) do list[#list + 1] = { reason = reason, count = count } end
   table.sort(list, function(a, b)
      if a.count ~= b.count then return a.count > b.count end
      return a.reason < b.reason
   end)
   return list
end

--- Do the counters add up, over the ports and in every chain? Exact for a stopped engine.
---@param snap tideway.stats.snapshot
---@return boolean
function M.adds_up(snap)
   if snap.totals.difference ~= 0 then return false end
   for _, c in ipairs(snap.chains) do
      if c.difference ~= 0 then return false end
   end
   return true
end

--- The table printed when an engine stops: ports, chains with their NFs and drops, lcores, the sum.
---@param snap tideway.stats.snapshot
---@param seconds? number how long it ran, for the heading
---@return string
function M.final_table(snap, seconds)
   return require "tideway.stats_text".final_table(snap, seconds)
end

--- One line of live rates.
---@param rates table from M.rates
---@return string
function M.line(rates)
   return require "tideway.stats_text".line(rates)
end

return M
