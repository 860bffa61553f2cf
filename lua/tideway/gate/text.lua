-- SPDX-License-Identifier: BSD-3-Clause
-- Counters and rates of chains of messages as text: the final table of a run, its live line, the sums that must add up.

local text = require "tideway.text"

local M = {}

local count, si = text.count, text.si

--- A time, in words: "64 us".
---@param ns number?
---@return string
function M.duration(ns)
   if not ns then return "-" end
   if ns < 1e3 then return ("%.0f ns"):format(ns) end
   if ns < 1e6 then return ("%.0f us"):format(ns / 1e3) end
   if ns < 1e9 then return ("%.0f ms"):format(ns / 1e6) end
   return ("%.1f s"):format(ns / 1e9)
end

local function status_text(service)
   local parts = {}
   for _, class in ipairs { "1xx", "2xx", "3xx", "4xx", "5xx" } do
      if service.status[class] > 0 then parts[#parts + 1] = ("%s %s"):format(class, count(service.status[class])) end
   end
   if service.closed > 0 then parts[#parts + 1] = "closed " .. count(service.closed) end
   return table.concat(parts, ", ")
end
M.status_text = status_text

local function function_note(f)
   local parts = {}
   if #f.instances > 1 then parts[1] = #f.instances .. " instances" end
   if f.faults > 0 then parts[#parts + 1] = count(f.faults) .. " faults" end
   if f.restarts > 0 then parts[#parts + 1] = count(f.restarts) .. " restarts" end
   if f.denied > 0 then parts[#parts + 1] = count(f.denied) .. " denied" end
   return table.concat(parts, ", ")
end

local function service_rows(gate)
   local rows = { { "CHAIN / FUNCTION", "IN", "ANSWERED", "FAILED", "P50", "P99", "STATUS" } }
   for _, s in ipairs(gate.services) do
      rows[#rows + 1] = {
         s.name, count(s.requests), count(s.responses), count(s.failed), M.duration(s.quantiles.ns_50),
         M.duration(s.quantiles.ns_99), status_text(s),
      }
      for _, f in ipairs(s.functions) do
         rows[#rows + 1] = {
            "  " .. f.name, count(f.started), count(f.done), count(f.faults), M.duration(f.quantiles.ns_50),
            M.duration(f.quantiles.ns_99), function_note(f),
         }
      end
   end
   return rows
end

local function server_rows(gate)
   local rows = { { "UPSTREAM / SERVER", "REQUESTS", "FAILURES", "STATE", "LAST FAILURE" } }
   for _, group in ipairs(gate.upstreams) do
      rows[#rows + 1] = { group.name }
      for _, server in ipairs(group.servers) do
         rows[#rows + 1] = {
            "  " .. server.name, count(server.requests), count(server.failures), server.up and "up" or "down",
            server.last,
         }
      end
   end
   return rows
end

--- The tables of a run.
---@param gate tideway.gate.snapshot
---@return { align: string, rows: string[][] }[]
function M.sections(gate)
   return { { align = "lrrrrrl", rows = service_rows(gate) }, { align = "lrrll", rows = server_rows(gate) } }
end

--- "chain web: requests 10 = answered 9 + closed 1 + in flight 0: adds up", of each chain.
---@param snap { gate: tideway.gate.snapshot, running: boolean }
---@return string[]
function M.sum_lines(snap)
   local lines = {}
   for i, s in ipairs(snap.gate.services) do
      local verdict = s.difference == 0 and "adds up"
         or snap.running and count(math.abs(s.difference)) .. " moved while it was read"
         or "OFF BY " .. count(s.difference)
      lines[i] = ("chain %s: requests %s = answered %s + closed %s + in flight %s: %s"):format(s.name,
         count(s.requests), count(s.responses), count(s.closed), count(s.in_flight), verdict)
   end
   return lines
end

--- A line of live rates, behind that of the packets.
---@param rates table from tideway.gate.figures
---@param line string|false of packets
---@return string
function M.line(rates, line)
   local parts = { line or nil }
   for _, s in ipairs(rates.services) do
      parts[#parts + 1] = ("%s %s req/s, p99 %s%s"):format(s.name, (si(s.rps):gsub("%s+$", "")),
         M.duration(s.quantiles.ns_99), s.errors_ps > 0 and (", 5xx %s/s"):format(si(s.errors_ps)) or "")
   end
   return table.concat(parts, " | ")
end

return M
