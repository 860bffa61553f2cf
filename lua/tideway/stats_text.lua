-- SPDX-License-Identifier: BSD-3-Clause
-- Counters and rates as text: the final table of a run, its live line, the sum that must add up.

local text = require "tideway.text"

local M = {}

local count, si = text.count, text.si

local function drops_text(nf)
   local parts = {}
   for _, d in ipairs(nf.drops) do parts[#parts + 1] = d.reason .. " " .. count(d.count) end
   if nf.quarantined then parts[#parts + 1] = "QUARANTINED" end
   return table.concat(parts, ", ")
end

local function append(lines, more)
   for _, line in ipairs(more) do lines[#lines + 1] = line end
end

local function port_rows(snap)
   local rows = { { "PORT", "DEVICE", "MODE", "RECEIVED", "SENT", "MISSED", "ERRORS" } }
   for _, p in ipairs(snap.ports) do
      rows[#rows + 1] = {
         p.name, p.device, p.mode ~= "" and p.mode or p.driver, count(p.rx_packets), count(p.tx_packets),
         count(p.imissed + p.rx_nombuf), count(p.ierrors + p.oerrors),
      }
   end
   return rows
end

local function chain_rows(snap)
   local rows = { { "CHAIN / NF", "IN", "MADE", "SENT", "DROPPED", "CYC/PKT", "DROPS BY REASON" } }
   for _, c in ipairs(snap.chains) do
      local note = {}
      if c.held > 0 then note[#note + 1] = count(c.held) .. " held" end
      if c.punted > 0 then note[#note + 1] = count(c.punted) .. " punted" end
      if c.passed > 0 then note[#note + 1] = count(c.passed) .. " passed to the kernel" end
      if c.faults > 0 then note[#note + 1] = count(c.faults) .. " faults" end
      local cycles = c.hook and "-" or ("%.0f"):format(c.cycles_per_packet)
      rows[#rows + 1] = {
         c.name, count(c.rx), count(c.originated), count(c.sent), count(c.dropped),
         cycles, #note > 0 and "(" .. table.concat(note, ", ") .. ")" or "",
      }
      for _, nf in ipairs(c.nfs) do
         rows[#rows + 1] = { "  " .. nf.name, count(nf.received), "", "", count(nf.dropped), "", drops_text(nf) }
      end
      if c.engine.dropped > 0 then
         rows[#rows + 1] = { "  (engine)", "", "", "", count(c.engine.dropped), "", drops_text(c.engine) }
      end
   end
   return rows
end

local function lcore_rows(snap)
   local rows = { { "LCORE", "CPU", "LOAD" } }
   for _, l in ipairs(snap.lcores) do
      local note = l.vm_rebuilds > 0 and ("VM rebuilt %d times"):format(l.vm_rebuilds) or ""
      rows[#rows + 1] = { tostring(l.slot), tostring(l.cpu), ("%.0f%%"):format(l.load * 100), note }
   end
   return rows
end

--- "received 10 + originated 1 = sent 8 + dropped 3 + in flight 0: adds up".
---@param snap tideway.stats.snapshot
---@return string
function M.sum_line(snap)
   local t = snap.totals
   local verdict = t.difference == 0 and "adds up"
      or snap.running and count(math.abs(t.difference)) .. " moved while it was read"
      or "OFF BY " .. count(t.difference)
   local line = ("received %s + originated %s = sent %s + dropped %s + in flight %s: %s"):format(count(t.received),
      count(t.originated), count(t.sent), count(t.dropped), count(t.in_flight), verdict)
   if not snap.running then
      for _, c in ipairs(snap.chains) do
         if c.difference ~= 0 then
            line = line .. (", chain %s OFF BY %s"):format(c.name, count(c.difference))
         end
      end
   end
   return line
end

--- See stats.final_table.
---@param snap tideway.stats.snapshot
---@param seconds? number
---@return string
function M.final_table(snap, seconds)
   local lines = {
      ("%s%s"):format(snap.instance ~= "" and snap.instance or "tideway",
         seconds and (": ran %.1f s"):format(seconds) or ""),
   }
   local function section(align, rows)
      if #rows < 2 then return end
      lines[#lines + 1] = ""
      append(lines, text.columns(align, rows))
   end
   section("lllrrrr", port_rows(snap))
   section("lrrrrrl", chain_rows(snap))
   section("rrrl", lcore_rows(snap))
   if snap.gate then
      for _, part in ipairs(require("tideway.gate.text").sections(snap.gate)) do section(part.align, part.rows) end
   end
   lines[#lines + 1] = ""
   if #snap.chains > 0 or not snap.gate then lines[#lines + 1] = M.sum_line(snap) end
   if snap.gate then append(lines, require("tideway.gate.text").sum_lines(snap)) end
   return table.concat(lines, "\n") .. "\n"
end

-- "1.20 Mpps", "12 pps"
local function pps(n) return (si(n):gsub("%d$", "%0 ")) .. "pps" end

--- See stats.line: "lan in 1.20 Mpps out 1.18 Mpps | wan ... | dropped 20.0 k/s | load 93%".
---@param rates table
---@return string
function M.line(rates)
   local parts, dropped, load = {}, 0, {}
   for _, p in ipairs(rates.ports) do
      parts[#parts + 1] = ("%s in %s out %s"):format(p.name, pps(p.rx_pps), pps(p.tx_pps))
   end
   for _, c in ipairs(rates.chains) do
      if c.hook then parts[#parts + 1] = ("%s in %s out %s"):format(c.name, pps(c.rx_pps), pps(c.sent_pps)) end
      dropped = dropped + c.dropped_pps
   end
   parts[#parts + 1] = ("dropped %s/s"):format(si(dropped))
   for i, l in ipairs(rates.lcores) do load[i] = ("%.0f%%"):format(l.load * 100) end
   if #load > 0 then parts[#parts + 1] = "load " .. table.concat(load, " ") end
   return table.concat(parts, " | ")
end

return M
