-- SPDX-License-Identifier: BSD-3-Clause
-- Commands that look at the gate: services, listeners, upstreams, gate; and how its things are shown.

local engine = require "tideway.gate.engine"
local figures = require "tideway.gate.figures"
local gate_text = require "tideway.gate.text"
local listeners = require "tideway.gate.listen"
local model = require "tideway.model"
local services = require "tideway.gate.service"
local upstreams = require "tideway.gate.upstream"
local value = require "tideway.live.value"
local view = require "tideway.live.view"

local M = {}

local EMPTY = { gates = {}, listeners = {}, services = {}, upstreams = {} }

local function snapshot() return figures.snapshot() or EMPTY end

local function by_name(list, name)
   for _, item in ipairs(list) do
      if item.name == name then return item end
   end
end

-- In a change that is not made yet: what is counted is that of before.
local function is_draft()
   local draft = model.current().own
   return draft ~= nil and next(draft) ~= nil
end

local function right(name) return { name = name, align = "right" } end

-- ---- chains ----

local SERVICE = {
   { name = "chain", align = "left" }, "path", "place", "requests", "answered", "closed", "failed", "in flight",
   right "p50", right "p99",
}

local function service_row(s)
   return {
      s.name, s.path, s.place, s.requests, s.responses, s.closed, s.failed, s.in_flight,
      gate_text.duration(s.quantiles.ns_50), gate_text.duration(s.quantiles.ns_99),
   }
end

--- The chains of messages: their way, where they run, what they did.
---@return tideway.view
function M.services()
   local rows, snap = {}, snapshot()
   for i, s in ipairs(snap.services) do rows[i] = service_row(s) end
   return view.table(SERVICE, rows, snap.services)
end

local FUNCTION = {
   { name = "function", align = "left" }, "instance", "pid", "cpu", "state", "messages", "queued", "held", "faults",
   "restarts", right "busy", right "p99", "last",
}

-- Of one that was restarted nobody knows how much of its time the process before it had.
local function busy(entry, since)
   if not since or since <= 0 or entry.restarts > 0 then return "" end
   return ("%.0f%%"):format(100 * entry.busy_ns / since)
end

local function function_rows(rows, f, inline)
   local p99 = gate_text.duration(f.quantiles.ns_99)
   if inline or #f.instances == 0 then
      rows[#rows + 1] = {
         f.name, "", "", "", inline and "inline" or "none", f.done, "", f.held, f.faults, "", "", p99,
      }
   end
   local now = tonumber(require("tideway.abi").C.tw_now())
   for i, instance in ipairs(f.instances) do
      rows[#rows + 1] = {
         i == 1 and f.name or "", instance.instance, instance.pid, instance.cpu, instance.state, instance.done,
         instance.queued, instance.held, instance.faults, instance.restarts,
         busy(instance, now - instance.since_ns), i == 1 and p99 or "", instance.last,
      }
   end
end

--- One chain of messages: its functions and their instances.
---@param service tideway.service
---@return tideway.view
function M.service(service)
   local s = by_name(snapshot().services, service.name)
   local head = ("chain %s, %s: declared at %s"):format(service.name,
      require("tideway.gate.report").path_of(service), service.where)
   if is_draft() then return view.text(head, { name = service.name, where = service.where }) end
   if not s then return view.text(head .. "; it does not run", { name = service.name, where = service.where }) end
   local rows = {}
   for _, f in ipairs(s.functions) do function_rows(rows, f, s.transport == "inline") end
   local status = gate_text.status_text(s)
   local items = {
      view.text(head),
      view.text(("%s: %d requests, %d answered%s, %d in flight; p50 %s, p99 %s; %d of %d blocks used"):format(
         s.place, s.requests, s.responses, status ~= "" and (" (%s)"):format(status) or "", s.in_flight,
         gate_text.duration(s.quantiles.ns_50), gate_text.duration(s.quantiles.ns_99), s.pool.used, s.pool.blocks)),
   }
   if #rows > 0 then items[3] = view.table(FUNCTION, rows) end
   return view.list(items, s)
end

-- ---- listeners and servers ----

--- The listeners: where clients connect to, and which chain takes what comes.
---@return tideway.view
function M.listeners()
   local rows, data = {}, {}
   for i, listener in ipairs(model.listeners) do
      local owner = ""
      for _, service in ipairs(model.services) do
         for _, source in ipairs(service.sources) do
            if source == listener then owner = service.name end
         end
      end
      data[i] = {
         name = listener.name, protocol = listener.protocol, address = listener.address.text, chain = owner,
         options = listener.options,
      }
      rows[i] = { listener.name, ("%s://%s"):format(listener.protocol, listener.address.text), owner, listener.where }
   end
   return view.table({ "listener", "address", "chain", "declared at" }, rows, data)
end

local SERVER = {
   { name = "upstream", align = "left" }, "server", "weight", "state", "active", "idle", "requests", "failures",
   "checks", "failed", "last failure",
}

local function server_rows(rows, group)
   for i, server in ipairs(group.servers) do
      rows[#rows + 1] = {
         i == 1 and group.name or "", server.name, server.weight, server.up and "up" or "down", server.active,
         server.idle, server.requests, server.failures, server.checks, server.failed_checks, server.last,
      }
   end
end

--- The upstream groups: their servers, whether they are up, connections, requests, failures.
---@return tideway.view
function M.upstreams()
   local rows, snap = {}, snapshot()
   for _, group in ipairs(snap.upstreams) do server_rows(rows, group) end
   return view.table(SERVER, rows, snap.upstreams)
end

local function servers_of(group)
   local names = {}
   for i, server in ipairs(group.servers) do
      names[i] = server.weight == 1 and server.name or ("%s (weight %d)"):format(server.name, server.weight)
   end
   return table.concat(names, ", ")
end

local function upstream_view(group)
   local rows, read = {}, by_name(snapshot().upstreams, group.name)
   local text = ("upstream %s, %s, declared at %s"):format(group.name, group.options.balance, group.where)
   if is_draft() then return view.text(("%s: %s"):format(text, servers_of(group)), { name = group.name }) end
   local head = view.text(text)
   if not read then return head end
   server_rows(rows, read)
   return view.list({ head, view.table(SERVER, rows) }, read)
end

local function listener_view(listener)
   local v = value.view(listener.options)
   v.title = ("%s, declared at %s"):format(tostring(listener), listener.where)
   return v
end

-- ---- threads ----

--- The gate: its threads with their counters; as JSON all there is about it.
---@return tideway.view
function M.gate()
   local snap = snapshot()
   if not engine.is_running() then return view.text("there is no gate: no chain is behind a listener", snap) end
   local columns, rows, names = { { name = "counter", align = "left" } }, {}, {}
   for i, gate in ipairs(snap.gates) do
      columns[i + 1] = right("thread " .. gate.index)
      for name in pairs(gate.counters) do names[name] = true end
   end
   local function row(name, of)
      local cells = { name }
      for i, gate in ipairs(snap.gates) do cells[i + 1] = of(gate) end
      rows[#rows + 1] = cells
   end
   row("open connections", function(gate) return gate.connections end)
   row("exchanges", function(gate) return gate.exchanges end)
   row("CPU ms", function(gate) return math.floor(gate.cpu_ns / 1e6) end)
   local order = {}
   for name in pairs(names) do order[#order + 1] = name end
   table.sort(order)
   for _, name in ipairs(order) do row(name, function(gate) return gate.counters[name] or 0 end) end
   return view.table(columns, rows, snap)
end

local function is_handle(of)
   return function(v) return type(v) == "table" and of(v) and model.current().state[v] ~= nil end
end

for _, kind in ipairs {
   { test = is_handle(services.is_service), view = M.service },
   { test = is_handle(upstreams.is_upstream), view = upstream_view },
   { test = is_handle(listeners.is_listener), view = listener_view },
} do value.shown[#value.shown + 1] = kind end

return M
