-- SPDX-License-Identifier: BSD-3-Clause
-- What `tideway top` shows: an overview, and a page for each chain, NF, port and lcore, as sections of rows.
--
-- A row may have a target, the page behind it: a path such as "chain/up/firewall".

local gate_text = require "tideway.gate.text"
local sample = require "tideway.stats_sample"
local stats_text = require "tideway.stats_text"
local text = require "tideway.text"
local top_gate = require "tideway.cli.top_gate"

local M = {}

local si, count = text.si, text.count

---@class tideway.top.column
---@field [1] string heading
---@field align? "r" default: left
---@field least? integer the higher, the sooner it goes when the terminal is narrow; nil: it stays
---@field elastic? boolean it takes what room is left

---@class tideway.top.section
---@field columns tideway.top.column[]
---@field rows { cells: string[], target: string? }[]

---@class tideway.top.page
---@field head string[]
---@field sections tideway.top.section[]
---@field foot? string

---@class tideway.top.state
---@field snap tideway.stats.snapshot
---@field rates table
---@field order string
---@field reverse? boolean
---@field filter? string

--- The orders of rows: as in the script, most packets first, most drops, most cycles, by name.
M.ORDERS = { "script", "packets", "drops", "cycles", "name" }

local KEYS = {
   packets = function(x) return x.rx_pps or x.pps or 0 end,
   drops = function(x) return x.dropped_pps or (x.missed_pps or 0) + (x.tx_full_pps or 0) end,
   cycles = function(x) return x.cycles_per_packet or 0 end,
}

local function sorted(state, list)
   local copy, key = { unpack(list) }, KEYS[state.order]
   if state.order == "name" then
      table.sort(copy, function(a, b) return a.name < b.name end)
   elseif key then
      table.sort(copy, function(a, b)
         if key(a) ~= key(b) then return key(a) > key(b) end
         return a.name < b.name
      end)
   end
   if state.reverse then
      for i = 1, math.floor(#copy / 2) do copy[i], copy[#copy - i + 1] = copy[#copy - i + 1], copy[i] end
   end
   return copy
end

local function matches(state, ...)
   if not state.filter or state.filter == "" then return true end
   local wanted = state.filter:lower()
   for i = 1, select("#", ...) do
      if tostring((select(i, ...))):lower():find(wanted, 1, true) then return true end
   end
   return false
end

local function find(list, name)
   for _, item in ipairs(list) do
      if item.name == name then return item end
   end
end

local function bits(mbps) return si(mbps * 1e6) end
local function percent(share) return ("%.0f%%"):format(share * 100) end
local function bar(share, cells)
   local full = math.floor(math.min(1, share) * cells + 0.5)
   return ("#"):rep(full) .. ("."):rep(cells - full)
end
local function bytes(n) return (si(n):gsub("%d$", "%0 ")) .. "B" end

local function nanoseconds(ns)
   if not ns then return "-" end
   if ns < 1e3 then return ("%.0f ns"):format(ns) end
   if ns < 1e6 then return ("%.1f us"):format(ns / 1e3) end
   return ("%.1f ms"):format(ns / 1e6)
end

local function drops_text(nf)
   local parts = {}
   if nf.quarantined then parts[1] = "QUARANTINED" end
   for _, d in ipairs(nf.drops) do parts[#parts + 1] = d.reason .. " " .. si(d.pps) end
   return table.concat(parts, ", ")
end

local function section(columns, rows) return { columns = columns, rows = rows } end
local function right(title, least) return { title, align = "r", least = least } end

-- ---- the overview ----

local function ports_section(state)
   local rows = {}
   for _, p in ipairs(sorted(state, state.rates.ports)) do
      if matches(state, p.name) then
         local info = find(state.snap.ports, p.name)
         rows[#rows + 1] = {
            target = "port/" .. p.name,
            cells = {
               p.name, si(p.rx_pps), bits(p.rx_mbps), si(p.tx_pps), bits(p.tx_mbps),
               si(p.missed_pps + p.no_buffer_pps), si(p.tx_full_pps), info.mode ~= "" and info.mode or info.driver,
            },
         }
      end
   end
   return section({
      { "PORT" }, right "IN pkt/s", right("bit/s", 5), right "OUT pkt/s", right("bit/s", 6), right("MISSED/s", 3),
      right("FULL/s", 4), { "MODE", elastic = true, least = 7 },
   }, rows)
end

local function nf_row(chain, nf)
   return {
      target = ("chain/%s/%s"):format(chain.name, nf.name),
      cells = { "  " .. nf.name, "", si(nf.pps), "", si(nf.dropped_pps), "", "", "", drops_text(nf) },
   }
end

local function chain_row(c)
   local note = {}
   if c.punted_pps > 0 then note[#note + 1] = "punted " .. si(c.punted_pps) end
   if c.held > 0 then note[#note + 1] = "held " .. count(c.held) end
   if c.faults > 0 then note[#note + 1] = "faults " .. count(c.faults) end
   if c.hook then note[#note + 1] = c.place end
   return {
      target = "chain/" .. c.name,
      cells = {
         c.name, c.tier, si(c.rx_pps), si(c.sent_pps), si(c.dropped_pps),
         c.cycles_per_packet > 0 and ("%.0f"):format(c.cycles_per_packet) or "-",
         c.packets_per_burst > 0 and ("%.1f"):format(c.packets_per_burst) or "-", nanoseconds(c.quantiles.ns_99),
         table.concat(note, ", "),
      },
   }
end

local function chains_section(state)
   local rows = {}
   for _, c in ipairs(sorted(state, state.rates.chains)) do
      local whole, own = matches(state, c.name, c.place), {}
      for _, nf in ipairs(sorted(state, c.nfs)) do
         if whole or matches(state, nf.name) then own[#own + 1] = nf_row(c, nf) end
      end
      if whole and c.engine.dropped_pps > 0 then own[#own + 1] = nf_row(c, c.engine) end
      if whole or #own > 0 then
         rows[#rows + 1] = chain_row(c)
         for _, row in ipairs(own) do rows[#rows + 1] = row end
      end
   end
   return section({
      { "CHAIN / NF" }, { "RUNS AS", least = 5 }, right "IN pkt/s", right "SENT/s", right "DROP/s",
      right("CYC/PKT", 3), right("PKT/BURST", 4), right("P99/BURST", 6), { "DROPS/s BY REASON", elastic = true },
   }, rows)
end

local function lcores_section(state)
   local rows = {}
   for _, l in ipairs(state.rates.lcores) do
      if matches(state, "cpu " .. l.cpu, "lcore " .. l.cpu) then
         local j = l.jit
         rows[#rows + 1] = {
            target = "lcore/" .. l.cpu,
            cells = {
               tostring(l.cpu), percent(l.load), bar(l.load, 20), count(j.live), count(j.aborts),
               j.interpreted > 0 and count(j.interpreted) .. " !" or "0", bytes(j.mcode), bytes(j.heap),
            },
         }
      end
   end
   return section({
      right "LCORE", right "LOAD", { "", least = 4 }, right "TRACES", right("ABORTS", 3), right "INTERPRETED",
      right("MACHINE CODE", 6), right("LUA HEAP", 5),
   }, rows)
end

local function rings_section(state)
   local rows = {}
   for _, r in ipairs(state.snap.rings) do
      if matches(state, r.name) then rows[#rows + 1] = { cells = { r.name, count(r.used), count(r.size) } } end
   end
   return section({ { "RING" }, right "USED", right "SIZE" }, rows)
end

-- Those that can become full first, the fullest before the others.
local function tables_section(state)
   local list, place, rows = { unpack(state.snap.tables) }, {}, {}
   for i, t in ipairs(list) do place[t] = i end
   table.sort(list, function(a, b)
      local fill_a, fill_b = a.fill or -1, b.fill or -1
      if fill_a ~= fill_b then return fill_a > fill_b end
      return place[a] < place[b]
   end)
   for _, t in ipairs(list) do
      if matches(state, t.name) then
         rows[#rows + 1] = {
            cells = {
               t.name, t.kind, count(t.count), count(t.capacity), t.fill and percent(t.fill) or "-", count(t.full),
               count(t.evictions), count(t.expired), bytes(t.bytes),
            },
         }
      end
   end
   return section({
      { "TABLE" }, { "KIND", least = 5 }, right "ENTRIES", right "CAPACITY", right "FILL", right("REFUSED", 3),
      right("EVICTED", 4), right("EXPIRED", 6), right("MEMORY", 7),
   }, rows)
end

local function overview(state)
   local sections = {
      ports_section(state), chains_section(state), lcores_section(state), rings_section(state), tables_section(state),
   }
   local foot, gate = stats_text.sum_line(state.snap), state.rates.gate
   if gate then
      if #state.rates.chains == 0 then sections, foot = { tables_section(state) }, nil end
      for i, s in ipairs(top_gate.sections(gate, function(...) return matches(state, ...) end)) do
         table.insert(sections, i, s)
      end
      local sums = table.concat(gate_text.sum_lines(state.snap), "\n")
      foot = foot and foot .. "\n" .. sums or sums
   end
   return { head = {}, sections = sections, foot = foot }
end

-- ---- a chain ----

-- Values by powers of two, each with its share of all.
local function distribution(title, buckets, unit)
   local rows, all = {}, 0
   for _, n in ipairs(buckets) do all = all + n end
   for i, n in ipairs(buckets) do
      if n > 0 then
         rows[#rows + 1] = { cells = { unit(2 ^ (i - 1)), percent(n / all), bar(n / all, 30) } }
      end
   end
   return section({ right(title), right "SHARE", { "" } }, rows)
end

local function nfs_section(state, c)
   local rows = {}
   local list = { unpack(sorted(state, c.nfs)) }
   if c.engine.dropped_pps > 0 then list[#list + 1] = c.engine end
   for _, nf in ipairs(list) do
      if matches(state, nf.name) then
         local share = c.rx_pps > 0 and nf.pps / c.rx_pps or 0
         rows[#rows + 1] = {
            target = ("chain/%s/%s"):format(c.name, nf.name),
            cells = {
               nf.name, si(nf.pps), percent(share), si(nf.dropped_pps),
               nf.pps > 0 and ("%.2f%%"):format(nf.dropped_pps / nf.pps * 100) or "-", drops_text(nf),
            },
         }
      end
   end
   return section({
      { "NF" }, right "IN pkt/s", right "OF CHAIN", right "DROP/s", right "OF ITS OWN",
      { "DROPS/s BY REASON", elastic = true },
   }, rows)
end

local function leaves_section(c)
   local rows = {}
   for _, to in ipairs(c.sent_to) do
      rows[#rows + 1] = { target = "port/" .. to.port, cells = { to.port, si(to.pps) } }
   end
   if c.passed_pps > 0 then rows[#rows + 1] = { cells = { "the kernel", si(c.passed_pps) } } end
   return section({ { "LEAVES BY" }, right "pkt/s" }, rows)
end

local function chain_page(state, name)
   local c = find(state.rates.chains, name)
   if not c then return end
   local sink = c.sink or c.sink_ring
   local lines = {
      ("%s, as %s%s%s"):format(c.place, c.tier, #c.sources > 0 and ", from " .. table.concat(c.sources, ", ") or "",
         sink and ", to " .. sink or ""),
      ("in %s pkt/s, %s bit/s; sent %s, made %s, dropped %s, punted %s a second; held %s, faults %s"):format(
         si(c.rx_pps), bits(c.rx_mbps), si(c.sent_pps), si(c.originated_pps), si(c.dropped_pps), si(c.punted_pps),
         count(c.held), count(c.faults)),
   }
   -- When nothing came in this interval: all there was.
   local timed, since = c.sample, ""
   if timed.packets == 0 then timed, since = find(state.snap.chains, name).sample, " SINCE THE START" end
   if timed.packets > 0 then
      local q = sample.quantiles(timed)
      lines[#lines + 1] = ("%.0f cycles a packet, %.1f packets a burst; a burst takes up to %s, 99%% of them up to %s")
         :format(c.cycles_per_packet, c.packets_per_burst, nanoseconds(q.ns_max), nanoseconds(q.ns_99))
   end
   return {
      head = lines,
      sections = {
         nfs_section(state, c), leaves_section(c),
         distribution("PACKETS A BURST" .. since, timed.size, function(n) return ("up to %.0f"):format(n) end),
         distribution("TIME A BURST" .. since, timed.ns, function(n) return "up to " .. nanoseconds(n) end),
      },
   }
end

-- ---- an NF ----

local function nf_page(state, chain_name, nf_name)
   local chain, c = find(state.snap.chains, chain_name), find(state.rates.chains, chain_name)
   if not chain then return end
   local nf, rates = find(chain.nfs, nf_name) or chain.engine, find(c.nfs, nf_name) or c.engine
   if nf.name ~= nf_name then return end
   local now, rows = {}, {}
   for _, d in ipairs(rates.drops) do now[d.reason] = d.pps end
   for _, d in ipairs(nf.drops) do
      if matches(state, d.reason) then
         rows[#rows + 1] = {
            cells = { d.reason, si(now[d.reason] or 0), count(d.count), percent(d.count / math.max(1, nf.dropped)) },
         }
      end
   end
   return {
      head = {
         ("%s of chain %s, %s%s"):format(nf.name, chain_name, c.place, nf.quarantined and ": QUARANTINED" or ""),
         ("in %s pkt/s (%s of the chain's), dropped %s a second; since the start: in %s, dropped %s"):format(
            si(rates.pps), percent(c.rx_pps > 0 and rates.pps / c.rx_pps or 0), si(rates.dropped_pps),
            count(nf.received), count(nf.dropped)),
      },
      sections = { section({ { "DROPPED FOR" }, right "DROPS/s", right "ALL", right "SHARE" }, rows) },
   }
end

-- ---- a port ----

local DEVICE = {
   { "received", "rx_packets", "rx_pps" }, { "sent", "tx_packets", "tx_pps" },
   { "not taken for sending (tx_full)", "tx_full", "tx_full_pps" },
   { "missed by the device", "imissed", "missed_pps" }, { "no packet buffer", "rx_nombuf", "no_buffer_pps" },
   { "damaged", "ierrors", nil }, { "failed to send", "oerrors", nil },
}

local function port_page(state, name)
   local p, r = find(state.snap.ports, name), find(state.rates.ports, name)
   if not p then return end
   local device, queues = {}, {}
   for _, d in ipairs(DEVICE) do
      device[#device + 1] = { cells = { d[1], count(p[d[2]]), d[3] and si(r[d[3]]) or "" } }
   end
   for _, l in ipairs(r.lcores) do
      queues[#queues + 1] = {
         target = "lcore/" .. l.cpu,
         cells = { tostring(l.cpu), si(l.rx_pps), si(l.tx_pps), si(l.tx_full_pps) },
      }
   end
   return {
      head = {
         ("%s, driver %s, %s"):format(p.device, p.driver, p.mode),
         ("mac %s, mtu %d, %s, %d rx and %d tx queue(s), offloads: %s"):format(p.mac, p.mtu,
            p.speed_mbps > 0 and si(p.speed_mbps * 1e6) .. "bit/s" or "speed not known", p.rx_queues, p.tx_queues,
            p.offloads ~= "" and p.offloads or "none"),
      },
      sections = {
         section({ { "PACKETS" }, right "ALL", right "A SECOND" }, device),
         section({ right "LCORE", right "IN pkt/s", right "OUT pkt/s", right "FULL/s" }, queues),
      },
   }
end

-- ---- an lcore ----

local function lcore_page(state, cpu)
   local l
   for _, each in ipairs(state.rates.lcores) do
      if tostring(each.cpu) == cpu then l = each end
   end
   if not l then return end
   local j, chains = l.jit, {}
   for _, c in ipairs(sorted(state, l.chains)) do
      chains[#chains + 1] = {
         target = "chain/" .. c.name,
         cells = {
            c.name, si(c.rx_pps), si(c.sent_pps), si(c.dropped_pps), ("%.0f"):format(c.cycles_per_packet),
            ("%.1f"):format(c.packets_per_burst),
         },
      }
   end
   local function row(what, value) return { cells = { what, value } } end
   return {
      head = { ("cpu %s   load %s %s   %s turns/s"):format(cpu, percent(l.load), bar(l.load, 20), si(l.loops_ps)) },
      sections = {
         section({
            { "CHAIN" }, right "IN pkt/s", right "SENT/s", right "DROP/s", right "CYC/PKT", right "PKT/BURST",
         }, chains),
         section({ { "LUAJIT" }, { "", elastic = true } }, {
            row("traces", ("%s now, %s made, %s of machine code"):format(count(j.live), count(j.made), bytes(j.mcode))),
            row("aborted recordings", ("%s%s"):format(count(j.aborts), j.last_abort ~= "" and ", the last at "
               .. j.last_abort or "")),
            row("given up, interpreted", j.interpreted > 0 and ("%s, at %s (tideway call rewarm %s)"):format(
               count(j.interpreted), j.interpreted_at, cpu) or "0"),
            row("flushes", ("%s for lack of room, %s to record from steady traffic"):format(count(j.flushes),
               count(j.settled))),
            row("Lua heap", ("%s of %s"):format(bytes(j.heap), bytes(j.heap_limit))),
            row("VM built anew", count(l.vm_rebuilds) .. " times"),
         }),
      },
   }
end

-- ---- all of them ----

--- A page; nil when what it is about is gone.
---@param state tideway.top.state
---@param path string "", "chain/up", "chain/up/firewall", "port/lan", "lcore/1", "service/web"
---@return tideway.top.page?
function M.page(state, path)
   if path == "" then return overview(state) end
   local kind, rest = path:match "^(%w+)/(.+)$"
   local gate = (kind == "chain" or kind == "service") and state.rates.gate
   local service = gate and top_gate.page(state.snap.gate, gate, rest)
   if service then return service end
   if kind == "chain" then
      local page = chain_page(state, rest)
      if page then return page end
      local chain, nf = rest:match "^(.*)/([^/]+)$"
      return chain and nf_page(state, chain, nf)
   elseif kind == "port" then
      return port_page(state, rest)
   elseif kind == "lcore" then
      return lcore_page(state, rest)
   end
end

local function uptime(started)
   local s = math.max(0, os.time() - math.floor(started))
   return ("%d:%02d:%02d"):format(s / 3600, s / 60 % 60, s % 60)
end

--- What stands above every page: the instance, and what is wrong with it.
---@param state tideway.top.state
---@param note? string
---@return string[] lines
---@return string[] warnings
function M.head(state, note)
   local snap, warnings = state.snap, {}
   for _, l in ipairs(snap.lcores) do
      if l.jit.interpreted > 0 then
         warnings[#warnings + 1] = ("cpu %d: %d hot function(s) run interpreted, at %s (tideway call rewarm %d)")
            :format(l.cpu, l.jit.interpreted, l.jit.interpreted_at, l.cpu)
      end
   end
   for _, c in ipairs(snap.chains) do
      for _, nf in ipairs(c.nfs) do
         if nf.quarantined then
            warnings[#warnings + 1] = ("NF %s of chain %s is in quarantine: it faulted"):format(nf.name, c.name)
         end
      end
   end
   for _, line in ipairs(snap.gate and top_gate.warnings(snap.gate) or {}) do warnings[#warnings + 1] = line end
   return {
      ("%s%s  pid %d  up %s  plan %d  %s"):format(snap.instance, note and " " .. note or "", snap.pid,
         uptime(snap.started), snap.generation, snap.script),
   }, warnings
end

return M
