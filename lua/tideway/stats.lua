-- SPDX-License-Identifier: BSD-3-Clause
-- Counters to plain tables: a snapshot of struct tw_stats, rates between two, and whether they add up.
--
-- Every counter has one writer and only grows, so a snapshot needs no lock. Taken from a running
-- engine it may miss the packets of the bursts in progress; taken from a stopped one it is exact.

local bit = require "bit"
local ffi = require "ffi"
local sample = require "tideway.stats_sample"

local M = {}

local LCORES_MAX, ENGINE_STAGE = 64, 23
-- Slots for what is not there any more: its counts stay in the sums. Shown when there are any.
local GONE_CHAIN, GONE_PORT, GONE_STAGE = 31, 63, 22
local GONE = "(removed)"

local function text(chars) return ffi.string(chars) end

local END_PORT, END_RING = 1, 2 -- enum tw_endpoint

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
      for _, l in ipairs(lcores) do
         if l.chain[chain].dropped > 0 then n = n + tonumber(l.drops[chain][stage][id]) end
      end
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

-- Names of the bits of a mask.
local function names_of(mask, list, count, into)
   for i = 0, count - 1 do
      if bit.band(bit.rshift(mask, i), 1) == 1 then into[#into + 1] = text(list[i].name) end
   end
   return into
end

-- How a chain hangs together with ports and rings.
local function read_links(s, lcores, chain, info)
   chain.sources = names_of(info.source_rings, s.ring, s.rings, names_of(info.source_ports, s.port, s.ports, {}))
   if info.sink_kind == END_PORT then chain.sink = text(s.port[info.sink].name) end
   if info.sink_kind == END_RING then chain.sink_ring = text(s.ring[info.sink].name) end
   chain.sent_to = {}
   for i = 0, s.ports - 1 do
      local n = 0
      for _, l in ipairs(lcores) do n = n + tonumber(l.sent_to[chain.index][i]) end
      if n > 0 and s.port[i].name[0] ~= 0 then
         chain.sent_to[#chain.sent_to + 1] = { port = text(s.port[i].name), packets = n }
      end
   end
end

local function read_chain(s, lcores, index, reasons)
   local info = s.chain[index]
   local hook = info.hook ~= 0
   local chain = {
      name = index == GONE_CHAIN and GONE or text(info.name), index = index, place = text(info.place), hook = hook,
      tier = hook and "eBPF" or TIERS[info.tier], nfs = {}, sample = sample.read(lcores, index),
   }
   for _, key in ipairs(CHAIN_COUNTERS) do
      for _, l in ipairs(lcores) do add(chain, key, l.chain[index][key]) end
      chain[key] = chain[key] or 0
   end
   for stage = 0, tonumber(info.stages) - 1 do
      chain.nfs[stage + 1] = read_nf(lcores, index, stage, text(info.stage[stage]),
         info.quarantined[stage] ~= 0, reasons)
   end
   local gone = read_nf(lcores, index, GONE_STAGE, GONE, false, reasons)
   if gone.received + gone.dropped > 0 then chain.nfs[#chain.nfs + 1] = gone end
   chain.engine = read_nf(lcores, index, ENGINE_STAGE, "(engine)", false, reasons)
   read_links(s, lcores, chain, info)
   chain.cycles_per_packet = chain.rx > 0 and chain.cycles / chain.rx or 0
   chain.difference = chain.rx + chain.originated - chain.sent - chain.dropped - chain.held
   return chain
end

local function read_port(s, lcores, index)
   local info = s.port[index]
   local m = info.mac
   local port = {
      name = index == GONE_PORT and GONE or text(info.name), index = index, device = text(info.device),
      driver = text(info.driver), lcores = {},
      mode = text(info.mode), offloads = text(info.offloads), speed_mbps = info.speed, mtu = info.mtu,
      rx_queues = info.rx_queues, tx_queues = info.tx_queues,
      mac = ("%02x:%02x:%02x:%02x:%02x:%02x"):format(m[0], m[1], m[2], m[3], m[4], m[5]),
   }
   for _, key in ipairs(PORT_COUNTERS) do
      for _, l in ipairs(lcores) do add(port, key, l.port[index][key]) end
      port[key] = port[key] or 0
   end
   for _, key in ipairs(DEVICE_COUNTERS) do port[key] = tonumber(info[key]) end
   for _, l in ipairs(lcores) do
      local p = l.port[index]
      if l.cpu >= 0 and p.rx_packets + p.tx_packets > 0 then
         port.lcores[#port.lcores + 1] = {
            cpu = l.cpu, rx_packets = tonumber(p.rx_packets), tx_packets = tonumber(p.tx_packets),
            tx_full = tonumber(p.tx_full),
         }
      end
   end
   return port
end

local JIT_COUNTERS = { "made", "live", "aborts", "flushes", "settled", "interpreted", "mcode", "heap", "heap_limit" }

local function read_jit(info)
   local out = { last_abort = text(info.last_abort), interpreted_at = text(info.interpreted_at) }
   for _, key in ipairs(JIT_COUNTERS) do out[key] = tonumber(info[key]) end
   return out
end

local function read_lcore(s, l, slot)
   local busy, idle = tonumber(l.busy_cycles), tonumber(l.idle_cycles)
   local out = {
      slot = slot, cpu = l.cpu, busy_cycles = busy, idle_cycles = idle,
      load = busy + idle > 0 and busy / (busy + idle) or 0,
      loops = tonumber(l.heartbeat), idle_loops = tonumber(l.idle_loops),
      generation = tonumber(l.generation), vm_rebuilds = l.vm_rebuilds, jit = read_jit(l.jit), chains = {},
   }
   for i = 0, s.chains - 1 do
      local c = l.chain[i]
      if c.bursts > 0 then
         out.chains[#out.chains + 1] = {
            name = text(s.chain[i].name), rx = tonumber(c.rx), sent = tonumber(c.sent), dropped = tonumber(c.dropped),
            bursts = tonumber(c.bursts), cycles = tonumber(c.cycles),
         }
      end
   end
   return out
end

-- Has anybody counted there?
local function is_used(lcores, list, index, ...)
   for _, l in ipairs(lcores) do
      for i = 1, select("#", ...) do
         if l[list][index][select(i, ...)] > 0 then return true end
      end
   end
   return false
end

local TABLE_COUNTERS = { "count", "capacity", "full", "evictions", "expired", "bytes" }
-- The others have all their entries always.
local GROWING = { hash = true, lru = true, lpm = true, percpu_hash = true, lru_percpu = true }

local function read_table(info)
   local out = { name = text(info.name), kind = text(info.kind) }
   for _, key in ipairs(TABLE_COUNTERS) do out[key] = tonumber(info[key]) end
   if GROWING[out.kind] and out.capacity > 0 then out.fill = out.count / out.capacity end
   return out
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
---@field lcores table[] each with jit and chains[]
---@field tables table[]
---@field tables_hidden integer those that are not in tables
---@field totals table

--- Copy the counters into plain tables.
---@param s ffi.cdata* `const struct tw_stats *`
---@return tideway.stats.snapshot
function M.snapshot(s)
   local snap = {
      instance = text(s.instance), script = text(s.script), pid = s.pid, abi = s.abi,
      running = s.running ~= 0, tsc_hz = tonumber(s.tsc_hz), started = tonumber(s.start_ns) / 1e9,
      generation = tonumber(s.generation), ports = {}, chains = {}, rings = {}, lcores = {}, tables = {},
      tables_hidden = s.tables_hidden,
   }
   snap.log = {
      error = tonumber(s.log_lines[3]), warning = tonumber(s.log_lines[4]), info = tonumber(s.log_lines[6]),
      debug = tonumber(s.log_lines[7]), held_back = tonumber(s.log_held),
   }
   local reasons, lcores = {}, {}
   for id = 0, s.reasons - 1 do reasons[id + 1] = text(s.reason[id]) end
   -- An unpinned slot keeps the packets it counted before.
   for slot = 0, LCORES_MAX - 1 do
      local l = s.lcore[slot]
      if l.cpu >= 0 then snap.lcores[#snap.lcores + 1] = read_lcore(s, l, slot) end
      if l.cpu >= 0 or l.heartbeat > 0 then lcores[#lcores + 1] = l end
   end
   for i = 0, s.ports - 1 do
      -- One without a name is the port of a hook, which no lcore has.
      if s.port[i].name[0] ~= 0 then snap.ports[#snap.ports + 1] = read_port(s, lcores, i) end
   end
   if is_used(lcores, "port", GONE_PORT, "rx_packets", "tx_packets") then
      snap.ports[#snap.ports + 1] = read_port(s, lcores, GONE_PORT)
   end
   for i = 0, math.min(s.chains, GONE_CHAIN) - 1 do -- one without a name was removed
      if s.chain[i].name[0] ~= 0 then snap.chains[#snap.chains + 1] = read_chain(s, lcores, i, reasons) end
   end
   if is_used(lcores, "chain", GONE_CHAIN, "rx", "originated", "sent", "dropped") then
      snap.chains[#snap.chains + 1] = read_chain(s, lcores, GONE_CHAIN, reasons)
   end
   for i = 0, s.rings - 1 do
      local r = s.ring[i]
      if r.name[0] ~= 0 then snap.rings[#snap.rings + 1] = { name = text(r.name), size = r.size, used = r.used } end
   end
   for i = 0, s.tables - 1 do snap.tables[i + 1] = read_table(s.table[i]) end
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
   chain.sources, chain.sink, chain.sink_ring, chain.sent_to = new.sources, new.sink, new.sink_ring, {}
   before = {}
   for _, to in ipairs(old.sent_to or {}) do before[to.port] = to.packets end
   for i, to in ipairs(new.sent_to) do
      chain.sent_to[i] = { port = to.port, pps = rate(to.packets, before[to.port], seconds) }
   end
   chain.passed_pps, chain.held, chain.faults = r "passed", new.held, new.faults
   chain.sample = sample.since(new.sample, old.sample)
   chain.quantiles = sample.quantiles(chain.sample)
   return chain
end

local function lcore_rates(new, old, seconds)
   local busy = rate(new.busy_cycles, old and old.busy_cycles, seconds)
   local idle = rate(new.idle_cycles, old and old.idle_cycles, seconds)
   local out = {
      slot = new.slot, cpu = new.cpu, load = busy + idle > 0 and busy / (busy + idle) or 0,
      loops_ps = rate(new.loops, old and old.loops, seconds), jit = new.jit, vm_rebuilds = new.vm_rebuilds,
      aborts_ps = rate(new.jit.aborts, old and old.jit.aborts, seconds), chains = {},
   }
   local before = by_name(old and old.chains or {})
   for i, c in ipairs(new.chains) do
      local o = before[c.name] or {}
      local rx, bursts = rate(c.rx, o.rx, seconds), rate(c.bursts, o.bursts, seconds)
      out.chains[i] = {
         name = c.name, rx_pps = rx, sent_pps = rate(c.sent, o.sent, seconds),
         dropped_pps = rate(c.dropped, o.dropped, seconds),
         cycles_per_packet = rx > 0 and rate(c.cycles, o.cycles, seconds) / rx or 0,
         packets_per_burst = bursts > 0 and rx / bursts or 0,
      }
   end
   return out
end

local function port_lcore_rates(port, old, seconds)
   local before, list = {}, {}
   for _, l in ipairs(old.lcores or {}) do before[l.cpu] = l end
   for i, l in ipairs(port.lcores) do
      local o = before[l.cpu] or {}
      list[i] = {
         cpu = l.cpu, rx_pps = rate(l.rx_packets, o.rx_packets, seconds),
         tx_pps = rate(l.tx_packets, o.tx_packets, seconds), tx_full_pps = rate(l.tx_full, o.tx_full, seconds),
      }
   end
   return list
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
         tx_full_pps = r "tx_full", missed_pps = r "imissed", error_pps = r "ierrors" + r "oerrors",
         no_buffer_pps = r "rx_nombuf", lcores = port_lcore_rates(p, old, seconds),
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
