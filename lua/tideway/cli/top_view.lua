-- SPDX-License-Identifier: BSD-3-Clause
-- The screen of `tideway top`: counters and rates as lines, the keys, and the terminal given back.

local posix = require "tideway.posix"
local text = require "tideway.text"
local stats_text = require "tideway.stats_text"

local M = {}

local si = text.si

--- The orders `s` goes through: as in the script, most packets first, most drops first.
M.ORDERS = { "script", "packets", "drops" }

local function sorted(list, order, packets, drops)
   if order == "script" then return list end
   local copy, key = { unpack(list) }, order == "drops" and drops or packets
   table.sort(copy, function(a, b)
      if key(a) ~= key(b) then return key(a) > key(b) end
      return a.name < b.name
   end)
   return copy
end

local function bits(mbps) return si(mbps * 1e6) end

local function find(list, name)
   for _, item in ipairs(list) do
      if item.name == name then return item end
   end
end

local function port_rows(snap, rates, order)
   local rows = { { "PORT", "IN pkt/s", "bit/s", "OUT pkt/s", "bit/s", "MISSED/s", "FULL/s", "MODE" } }
   local ports = sorted(rates.ports, order, function(p) return p.rx_pps end, function(p)
      return p.missed_pps + p.tx_full_pps
   end)
   for _, p in ipairs(ports) do
      local info = find(snap.ports, p.name)
      rows[#rows + 1] = {
         p.name, si(p.rx_pps), bits(p.rx_mbps), si(p.tx_pps), bits(p.tx_mbps), si(p.missed_pps),
         si(p.tx_full_pps), info.mode ~= "" and info.mode or info.driver,
      }
   end
   return rows
end

local function drops_text(nf)
   local parts = {}
   if nf.quarantined then parts[1] = "QUARANTINED" end
   for _, d in ipairs(nf.drops) do parts[#parts + 1] = d.reason .. " " .. si(d.pps) end
   return table.concat(parts, ", ")
end

local function chain_rows(rates, order)
   local rows = {
      { "CHAIN / NF", "RUNS AS", "IN pkt/s", "SENT/s", "DROP/s", "CYC/PKT", "PKT/BURST", "DROPS/s BY REASON" },
   }
   local chains = sorted(rates.chains, order, function(c) return c.rx_pps end, function(c) return c.dropped_pps end)
   for _, c in ipairs(chains) do
      rows[#rows + 1] = {
         c.name, c.tier, si(c.rx_pps), si(c.sent_pps), si(c.dropped_pps),
         c.cycles_per_packet > 0 and ("%.0f"):format(c.cycles_per_packet) or "-",
         c.packets_per_burst > 0 and ("%.1f"):format(c.packets_per_burst) or "-",
         c.punted_pps > 0 and "punted " .. si(c.punted_pps) or c.hook and c.place or "",
      }
      for _, nf in ipairs(c.nfs) do
         rows[#rows + 1] = { "  " .. nf.name, "", si(nf.pps), "", si(nf.dropped_pps), "", "", drops_text(nf) }
      end
      if c.engine.dropped_pps > 0 then
         rows[#rows + 1] = { "  (engine)", "", "", "", si(c.engine.dropped_pps), "", "", drops_text(c.engine) }
      end
   end
   return rows
end

local function lcore_rows(rates)
   local rows = { { "LCORE", "CPU", "LOAD", "" } }
   for _, l in ipairs(rates.lcores) do
      local cells = math.floor(l.load * 20 + 0.5)
      rows[#rows + 1] = {
         tostring(l.slot), tostring(l.cpu), ("%.0f%%"):format(l.load * 100),
         ("#"):rep(cells) .. ("."):rep(20 - cells),
      }
   end
   return rows
end

local function ring_rows(snap)
   local rows = { { "RING", "USED", "SIZE" } }
   for _, r in ipairs(snap.rings) do rows[#rows + 1] = { r.name, text.count(r.used), text.count(r.size) } end
   return rows
end

local function uptime(started)
   local s = math.max(0, os.time() - math.floor(started))
   return ("%d:%02d:%02d"):format(s / 3600, s / 60 % 60, s % 60)
end

--- The report as lines.
---@param snap tideway.stats.snapshot
---@param rates table
---@param view {interval: number, names: string[], order?: string, note?: string}
---@return string[]
function M.lines(snap, rates, view)
   local order = view.order or "script"
   local lines = {
      ("%s  pid %d  up %s  plan %d  %s%s"):format(snap.instance, snap.pid, uptime(snap.started), snap.generation,
         snap.script, view.note and "  " .. view.note or ""),
   }
   if #view.names > 1 then lines[2] = "running: " .. table.concat(view.names, ", ") end
   local function section(align, rows)
      if #rows < 2 then return end
      lines[#lines + 1] = ""
      for _, line in ipairs(text.columns(align, rows)) do lines[#lines + 1] = line end
   end
   section("lrrrrrrl", port_rows(snap, rates, order))
   section("llrrrrrl", chain_rows(rates, order))
   section("rrrl", lcore_rows(rates))
   section("lrr", ring_rows(snap))
   lines[#lines + 1] = ""
   lines[#lines + 1] = stats_text.sum_line(snap)
   return lines
end

local ALTERNATE_ON, ALTERNATE_OFF = "\27[?1049h\27[?25l", "\27[?25h\27[?1049l"
local HELP = "q quit  s order: %s  p %s"

local function draw(lines, help)
   local rows, cols = posix.terminal_size(1)
   local out = { "\27[H" }
   for i = 1, rows - 1 do
      out[#out + 1] = text.cut(lines[i] or "", cols) .. "\27[K\r\n"
   end
   out[#out + 1] = "\27[7m" .. text.cut(help, cols) .. "\27[m\27[K"
   io.stdout:write(table.concat(out))
   io.stdout:flush()
end

-- Runs until q, a signal or the end of the instance; returns what to say afterwards.
local function loop(instance, names, sample, options, signals)
   local order, paused = 1, false
   local snap, rates
   sample()
   posix.poll({}, 100)
   snap, rates = sample()
   local due = posix.now() + options.interval * 1e9
   while true do
      local view = {
         interval = options.interval, names = names, order = M.ORDERS[order], note = paused and "[paused]" or nil,
      }
      draw(M.lines(snap, rates, view), HELP:format(M.ORDERS[order], paused and "go on" or "pause"))
      local left = math.max(0, math.ceil((due - posix.now()) / 1e6))
      local ready = posix.poll({ 0, signals }, left)
      if ready[signals] then
         local SIGWINCH = 28
         if posix.read(signals, 128):byte(1) ~= SIGWINCH then return nil end
      end
      if ready[0] then
         local key = posix.read(0, 1)
         if key == "q" or key == "" then return nil end
         if key == "s" then order = order % #M.ORDERS + 1 end
         if key == "p" then paused = not paused end
      end
      if posix.now() >= due then
         due = posix.now() + options.interval * 1e9
         if not posix.alive(instance.pid) then return ("instance '%s' has stopped"):format(instance.name) end
         local new_snap, new_rates = sample()
         if not paused then snap, rates = new_snap, new_rates end
      end
   end
end

--- The live view in a terminal; gives the terminal back however it ends.
---@param instance tideway.instance
---@param names string[] all running instances
---@param sample fun(): tideway.stats.snapshot, table
---@param options {interval: number}
---@return integer exit code
function M.live(instance, names, sample, options)
   local SIGHUP, SIGINT, SIGTERM, SIGWINCH = 1, 2, 15, 28
   local signals, restore_signals = posix.signal_fd { SIGHUP, SIGINT, SIGTERM, SIGWINCH }
   local restore_terminal = posix.raw_terminal(0)
   io.stdout:write(ALTERNATE_ON)
   local ok, result = xpcall(loop, debug.traceback, instance, names, sample, options, signals)
   io.stdout:write(ALTERNATE_OFF)
   io.stdout:flush()
   if restore_terminal then restore_terminal() end
   restore_signals()
   if not ok then error(result, 0) end
   if result then io.stdout:write(result, "\n") end
   return 0
end

return M
