-- SPDX-License-Identifier: BSD-3-Clause
-- What `tideway top` shows of a gate: its chains of messages with their functions, its servers, its threads.

local gate_text = require "tideway.gate.text"
local text = require "tideway.text"

local M = {}

local si, count = text.si, text.count

local function right(title, least) return { title, align = "r", least = least } end
local function percent(share) return ("%.0f%%"):format(share * 100) end
local duration = gate_text.duration

local function note_of(f)
   local parts = {}
   if f.aside then parts[1] = "aside" end
   if f.held > 0 then parts[#parts + 1] = "held " .. count(f.held) end
   if f.faults > 0 then parts[#parts + 1] = "faults " .. count(f.faults) end
   if f.last ~= "" then parts[#parts + 1] = "last end: " .. f.last end
   return table.concat(parts, ", ")
end

local function function_row(service, f)
   return {
      target = ("service/%s"):format(service.name),
      cells = {
         "  " .. f.name, f.instances > 0 and ("%d x"):format(f.instances) or "", si(f.mps), "",
         duration(f.quantiles.ns_50), duration(f.quantiles.ns_99), f.instances > 0 and count(f.queued) or "",
         percent(f.busy), count(f.restarts), note_of(f),
      },
   }
end

local function service_row(s)
   local note = {}
   if s.errors_ps > 0 then note[1] = "5xx " .. si(s.errors_ps) .. "/s" end
   if s.closed_ps > 0 then note[#note + 1] = "closed " .. si(s.closed_ps) .. "/s" end
   return {
      target = "service/" .. s.name,
      cells = {
         s.name, s.transport, si(s.rps), count(s.in_flight), duration(s.quantiles.ns_50), duration(s.quantiles.ns_99),
         "", "", "", table.concat(note, ", "),
      },
   }
end

local COLUMNS = {
   { "CHAIN / FUNCTION" }, { "RUNS AS", least = 5 }, right "MSG/s", right("IN FLIGHT", 6), right "P50", right "P99",
   right "QUEUE", right "BUSY", right("RESTARTS", 4), { "NOTES", elastic = true },
}

local function services(rates, matches)
   local rows = {}
   for _, s in ipairs(rates.services) do
      local whole, own = matches(s.name), {}
      for _, f in ipairs(s.functions) do
         if whole or matches(f.name) then own[#own + 1] = function_row(s, f) end
      end
      if whole or #own > 0 then
         rows[#rows + 1] = service_row(s)
         for _, row in ipairs(own) do rows[#rows + 1] = row end
      end
   end
   return { columns = COLUMNS, rows = rows }
end

local function servers(rates, matches)
   local rows = {}
   for _, group in ipairs(rates.upstreams) do
      for _, server in ipairs(group.servers) do
         if matches(group.name) or matches(server.name) then
            rows[#rows + 1] = {
               cells = {
                  group.name, server.name, server.up and "up" or "DOWN", si(server.rps), si(server.failures_ps),
                  count(server.active), count(server.idle), server.last,
               },
            }
         end
      end
   end
   return {
      columns = {
         { "UPSTREAM" }, { "SERVER" }, { "STATE" }, right "REQ/s", right "FAIL/s", right("ACTIVE", 4),
         right("IDLE", 5), { "LAST FAILURE", elastic = true, least = 6 },
      },
      rows = rows,
   }
end

local function threads(rates)
   local rows = {}
   for _, gate in ipairs(rates.gates) do
      rows[#rows + 1] = {
         cells = { tostring(gate.index), percent(gate.busy), count(gate.connections), count(gate.exchanges) },
      }
   end
   return { columns = { right "GATE", right "BUSY", right "CONNECTIONS", right "EXCHANGES" }, rows = rows }
end

--- The sections of a gate for the overview.
---@param rates table from tideway.gate.figures
---@param matches fun(...: string): boolean
---@return tideway.top.section[]
function M.sections(rates, matches)
   return { services(rates, matches), servers(rates, matches), threads(rates) }
end

local function instance_rows(f)
   local rows = {}
   for _, i in ipairs(f.instances) do
      rows[#rows + 1] = {
         cells = {
            f.name, tostring(i.instance), tostring(i.pid), tostring(i.cpu), i.state, count(i.done), count(i.queued),
            count(i.faults), count(i.denied), count(i.restarts), i.last,
         },
      }
   end
   return rows
end

--- The page of a chain of messages.
---@param snap tideway.gate.snapshot
---@param rates table
---@param name string
---@return tideway.top.page?
function M.page(snap, rates, name)
   local rows, found, now = {}, nil, nil
   for i, s in ipairs(snap.services) do
      if s.name == name then found, now = s, rates.services[i] end
   end
   if not found then return nil end
   for _, f in ipairs(found.functions) do
      for _, row in ipairs(instance_rows(f)) do rows[#rows + 1] = row end
   end
   local pool = found.pool
   return {
      head = {
         ("%s, %s"):format(found.place, found.path),
         ("%s requests/s, p50 %s, p90 %s, p99 %s; %s in flight"):format(si(now.rps), duration(now.quantiles.ns_50),
            duration(now.quantiles.ns_90), duration(now.quantiles.ns_99), count(now.in_flight)),
         ("since the start: %s requests, %s answered (%s), %s closed without an answer"):format(count(found.requests),
            count(found.responses), gate_text.status_text(found), count(found.closed)),
         ("memory: %s of %s blocks, %sB, %s; found empty %s times, %s bad handles"):format(count(pool.used),
            count(pool.blocks), si(pool.bytes), pool.hugepages > 0 and "hugepages" or "no hugepages",
            count(pool.empty), count(pool.refused)),
      },
      sections = {
         services({ services = { now } }, function() return true end),
         {
            columns = {
               { "FUNCTION" }, right "INSTANCE", right "PID", right("CPU", 5), { "STATE" }, right "MESSAGES",
               right "QUEUE", right "FAULTS", right("DENIED", 4), right "RESTARTS",
               { "LAST END", elastic = true, least = 6 },
            },
            rows = rows,
         },
      },
   }
end

--- What is wrong with it.
---@param snap tideway.gate.snapshot
---@return string[]
function M.warnings(snap)
   local list = {}
   for _, group in ipairs(snap.upstreams) do
      for _, server in ipairs(group.servers) do
         if not server.up then
            list[#list + 1] = ("server %s of %s is down: %s"):format(server.name, group.name, server.last)
         end
      end
   end
   for _, s in ipairs(snap.services) do
      for _, f in ipairs(s.functions) do
         local running = 0
         for _, i in ipairs(f.instances) do running = running + (i.state == "runs" and 1 or 0) end
         if #f.instances > 0 and running == 0 then
            list[#list + 1] = ("function %s of chain %s has no instance that runs: %s"):format(f.name, s.name,
               f.instances[1].last)
         end
      end
   end
   return list
end

return M
