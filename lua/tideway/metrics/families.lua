-- SPDX-License-Identifier: BSD-3-Clause
-- Every metric of an instance: its name, unit and meaning, and where in a snapshot of the counters it stands.

local exposition = require "tideway.metrics.exposition"

local M = {}

local labels = exposition.labels

-- One family a row: type, name, unit, key in the snapshot's entry, help.
local PORT = {
   { "counter", "tideway_port_receive_packets", "packets", "rx_packets", "Packets that lcores took from the port." },
   { "counter", "tideway_port_receive_bytes", "bytes", "rx_bytes", "Bytes of these packets, without CRC." },
   { "counter", "tideway_port_transmit_packets", "packets", "tx_packets", "Packets that the port took for sending." },
   { "counter", "tideway_port_transmit_bytes", "bytes", "tx_bytes", "Bytes of these packets, without CRC." },
   { "counter", "tideway_port_transmit_refused_packets", "packets", "tx_full",
      "Packets that the port did not take: dropped as tx_full." },
   { "counter", "tideway_port_receive_missed_packets", "packets", "imissed",
      "Packets that the device lost because its queues were full." },
   { "counter", "tideway_port_receive_errors", nil, "ierrors", "Packets that the device received damaged." },
   { "counter", "tideway_port_receive_no_buffer_packets", "packets", "rx_nombuf",
      "Packets lost because there was no packet buffer." },
   { "counter", "tideway_port_transmit_errors", nil, "oerrors", "Packets that the device failed to send." },
}

local CHAIN = {
   { "counter", "tideway_chain_receive_packets", "packets", "rx", "Packets that the chain got from ports and rings." },
   { "counter", "tideway_chain_receive_bytes", "bytes", "rx_bytes", "Bytes of these packets." },
   { "counter", "tideway_chain_originated_packets", "packets", "originated",
      "Packets that NFs made: ARP requests, ICMP errors, copies of floods." },
   { "counter", "tideway_chain_sent_packets", "packets", "sent", "Packets that left the chain for a port or ring." },
   { "counter", "tideway_chain_sent_bytes", "bytes", "sent_bytes", "Bytes of these packets." },
   { "counter", "tideway_chain_punted_packets", "packets", "punted", "Packets that went the slow path of an NF." },
   { "counter", "tideway_chain_bursts", nil, "bursts", "Entries into the chain with at least one packet." },
   { "counter", "tideway_chain_cycles", "cycles", "cycles",
      "TSC cycles spent in the chain, estimated from one burst in 16." },
   { "counter", "tideway_chain_faults", nil, "faults", "Faults of NFs: raised, stalled, out of memory, wild pointer." },
   { "gauge", "tideway_chain_held_packets", "packets", "held", "Packets that wait in hold queues." },
}

local LCORE = {
   { "counter", "tideway_lcore_loops", nil, "loops", "Turns of the lcore's loop." },
   { "counter", "tideway_lcore_idle_loops", nil, "idle_loops", "Turns that found no packet." },
   { "counter", "tideway_lcore_vm_rebuilds", nil, "vm_rebuilds",
      "Times the lcore's Lua VM was built anew after a fault." },
   { "gauge", "tideway_lcore_plan_generation", nil, "generation", "Generation of the plan that the lcore runs." },
}

local JIT = {
   { "counter", "tideway_jit_traces_made", nil, "made", "Traces that LuaJIT recorded in this VM." },
   { "gauge", "tideway_jit_traces", nil, "live", "Traces that are there now." },
   { "counter", "tideway_jit_aborts", nil, "aborts", "Recordings of traces that failed in this VM." },
   { "counter", "tideway_jit_flushes", nil, "flushes", "Times LuaJIT threw all traces away for lack of room." },
   { "gauge", "tideway_jit_interpreted_functions", "functions", "interpreted",
      "Hot functions that LuaJIT has given up compiling; they run many times slower. See `jit()` and `rewarm()`." },
   { "gauge", "tideway_jit_machine_code_bytes", "bytes", "mcode", "Machine code of the traces." },
   { "gauge", "tideway_lua_heap_bytes", "bytes", "heap", "Lua heap of the lcore's VM." },
   { "gauge", "tideway_lua_heap_limit_bytes", "bytes", "heap_limit", "What the heap may grow to." },
}

local TABLE = {
   { "gauge", "tideway_table_entries", "entries", "count", "Entries in the table." },
   { "gauge", "tideway_table_capacity_entries", "entries", "capacity", "Entries that the table has room for." },
   { "counter", "tideway_table_refused_insertions", "insertions", "full", "Insertions refused because it was full." },
   { "counter", "tideway_table_evictions", "evictions", "evictions", "Entries that made room for another one (lru)." },
   { "counter", "tideway_table_expired_entries", "entries", "expired", "Entries removed after their deadline." },
   { "gauge", "tideway_table_bytes", "bytes", "bytes", "Memory of the table." },
}

local RING = {
   { "gauge", "tideway_ring_used_entries", "entries", "used", "Packets that wait in the ring." },
   { "gauge", "tideway_ring_size_entries", "entries", "size", "Packets that the ring has room for." },
}

local function by(name, key) return function(entry) return labels(name, entry[key]) end end

-- ---- what is not one number of one entry ----

local function about(text, snap)
   text:family("info", "tideway_build", nil, "The program and the script it runs.")
   text:sample(labels("version", require "tideway.version", "abi", snap.abi, "instance", snap.instance, "script",
      snap.script), 1)
   text:family("gauge", "tideway_running", nil, "1 while lcores, hooks or the gate run.")
   text:sample("", (snap.running or snap.gate and #snap.gate.services > 0) and 1 or 0)
   text:family("gauge", "tideway_start_time_seconds", "seconds", "When the instance started, seconds of the epoch.")
   text:sample("", snap.started)
   text:family("gauge", "tideway_plan_generation", nil, "Generation of the plan published last.")
   text:sample("", snap.generation)
end

local function log(text, snap)
   text:family("counter", "tideway_log_messages", "messages", "Messages of the engine's log by level.")
   for _, level in ipairs { "error", "warning", "info", "debug" } do
      text:sample(labels("level", level), snap.log[level])
   end
   text:family("counter", "tideway_log_held_back_messages", "messages",
      "Messages that the log did not print because there were too many alike.")
   text:sample("", snap.log.held_back)
end

local function ports(text, snap)
   if #snap.ports == 0 then return end
   text:family("info", "tideway_port", nil, "What a port is.")
   for _, p in ipairs(snap.ports) do
      text:sample(labels("port", p.name, "device", p.device, "driver", p.driver, "mode", p.mode, "mac", p.mac), 1)
   end
   text:family("gauge", "tideway_port_link_speed_bits", "bits", "Speed of the link, bits a second; 0: not known.")
   for _, p in ipairs(snap.ports) do text:sample(labels("port", p.name), p.speed_mbps * 1e6) end
   text:rows(PORT, snap.ports, by("port", "name"))
end

local function each_nf(snap, fn)
   for _, c in ipairs(snap.chains) do
      for i = 1, #c.nfs + 1 do fn(c, c.nfs[i] or c.engine, i > #c.nfs) end
   end
end

local function nfs(text, snap)
   text:family("counter", "tideway_chain_dropped_packets", "packets", "Packets dropped, by NF and reason; the engine's "
      .. "own reasons (tx_full, no_sink, ...) have nf=\"(engine)\".")
   each_nf(snap, function(c, nf)
      for _, d in ipairs(nf.drops) do
         text:sample(labels("chain", c.name, "nf", nf.name, "reason", d.reason), d.count)
      end
   end)
   text:family("counter", "tideway_nf_receive_packets", "packets", "Packets that entered the NF.")
   each_nf(snap, function(c, nf, is_engine)
      if not is_engine then text:sample(labels("chain", c.name, "nf", nf.name), nf.received) end
   end)
   text:family("gauge", "tideway_nf_quarantined", nil, "1: the NF faulted and was taken out.")
   each_nf(snap, function(c, nf, is_engine)
      if not is_engine then text:sample(labels("chain", c.name, "nf", nf.name), nf.quarantined and 1 or 0) end
   end)
end

local SIZE_BOUNDS = {}
for i = 1, 7 do SIZE_BOUNDS[i] = 2 ^ (i - 1) end

local TIME_BOUNDS, time_counts = exposition.powers(6, 26) -- 64 ns to 67 ms

local SAMPLE = 16

local function samples(text, snap)
   text:family("histogram", "tideway_chain_burst_duration_seconds", "seconds",
      "Time from a burst's entry into the chain to the verdicts on its packets; one burst in 16 is timed.")
   for _, c in ipairs(snap.chains) do
      if not c.hook and #c.nfs > 0 then
         text:histogram(labels("chain", c.name), TIME_BOUNDS, time_counts(c.sample.ns),
            c.cycles / SAMPLE / snap.tsc_hz)
      end
   end
   text:family("histogram", "tideway_chain_burst_size_packets", "packets",
      "Packets of a burst; one burst in 16 is looked at.")
   for _, c in ipairs(snap.chains) do
      if not c.hook then
         local counts = { unpack(c.sample.size) }
         counts[#SIZE_BOUNDS + 1] = 0
         text:histogram(labels("chain", c.name), SIZE_BOUNDS, counts, c.sample.packets)
      end
   end
end

local function chains(text, snap)
   if #snap.chains == 0 then return end
   text:family("info", "tideway_chain", nil, "Where a chain runs and as what: lua, luajit, native, eBPF.")
   for _, c in ipairs(snap.chains) do
      text:sample(labels("chain", c.name, "place", c.place, "tier", c.tier, "hook", c.hook and 1 or 0), 1)
   end
   text:rows(CHAIN, snap.chains, by("chain", "name"))
   text:family("counter", "tideway_chain_port_sent_packets", "packets", "Packets by chain and the port they left by.")
   for _, c in ipairs(snap.chains) do
      for _, to in ipairs(c.sent_to) do text:sample(labels("chain", c.name, "port", to.port), to.packets) end
   end
   nfs(text, snap)
   samples(text, snap)
end

local VERDICTS = {
   { "pass", function(c) return c.passed end }, { "send", function(c) return c.sent - c.passed end },
   { "drop", function(c) return c.dropped end }, { "punt", function(c) return c.punted end },
}

local function hooks(text, snap)
   text:family("counter", "tideway_hook_verdict_packets", "packets",
      "Packets of chains on hooks of the kernel by what became of them; a punted packet gets another verdict later.")
   for _, c in ipairs(snap.chains) do
      for _, v in ipairs(c.hook and VERDICTS or {}) do
         text:sample(labels("chain", c.name, "place", c.place, "verdict", v[1]), v[2](c))
      end
   end
end

local function lcores(text, snap, before)
   if #snap.lcores == 0 then return end
   local hz, old = snap.tsc_hz, {}
   for _, l in ipairs(before and before.pid == snap.pid and before.lcores or {}) do old[l.slot] = l end
   text:family("counter", "tideway_lcore_busy_seconds", "seconds", "Time in turns that moved packets.")
   for _, l in ipairs(snap.lcores) do text:sample(labels("cpu", l.cpu), l.busy_cycles / hz) end
   text:family("counter", "tideway_lcore_idle_seconds", "seconds", "Time in turns that moved none, sleep included.")
   for _, l in ipairs(snap.lcores) do text:sample(labels("cpu", l.cpu), l.idle_cycles / hz) end
   text:family("gauge", "tideway_lcore_busy_ratio", "ratio",
      "Share of busy time since the scrape before; the first time: since the start.")
   for _, l in ipairs(snap.lcores) do
      local o = old[l.slot] or { busy_cycles = 0, idle_cycles = 0 }
      local busy, idle = l.busy_cycles - o.busy_cycles, l.idle_cycles - o.idle_cycles
      text:sample(labels("cpu", l.cpu), busy + idle > 0 and math.max(0, math.min(1, busy / (busy + idle))) or 0)
   end
   text:rows(LCORE, snap.lcores, by("cpu", "cpu"))
   text:rows(JIT, snap.lcores, by("cpu", "cpu"), function(l) return l.jit end)
end

local function tables(text, snap)
   text:family("gauge", "tideway_tables_not_shown", nil, "Tables without metrics: there are more than 64.")
   text:sample("", snap.tables_hidden)
   text:rows(TABLE, snap.tables, function(t) return labels("table", t.name, "kind", t.kind) end)
   if #snap.tables == 0 then return end
   text:family("gauge", "tideway_table_fill_ratio", "ratio",
      "Entries of the table per entry it has room for; of tables that entries are added to.")
   for _, t in ipairs(snap.tables) do
      if t.fill then text:sample(labels("table", t.name, "kind", t.kind), t.fill) end
   end
end

--- Everything about an instance, as OpenMetrics text.
---@param snap tideway.stats.snapshot
---@param before? tideway.stats.snapshot of the scrape before
---@param more? fun(text: tideway.metrics.text) adds families at the end
---@return string
function M.text(snap, before, more)
   local text = exposition.new()
   about(text, snap)
   log(text, snap)
   ports(text, snap)
   chains(text, snap)
   hooks(text, snap)
   text:rows(RING, snap.rings, by("ring", "name"))
   lcores(text, snap, before)
   tables(text, snap)
   require("tideway.metrics.gate_families").add(text, snap.gate)
   if more then more(text) end
   return text:finish()
end

return M
