-- SPDX-License-Identifier: BSD-3-Clause
-- What `tideway check` says of chains of messages: what would listen, which process each function is, what reaches it.

local model = require "tideway.model"
local nfs = require "tideway.nf"
local pins = require "tideway.gate.pin"
local placement = require "tideway.gate.placement"
local posix = require "tideway.posix"
local transfer = require "tideway.transfer"

local M = {}

--- Where an NF of messages can run: workers and gate threads.
---@param nf tideway.nf.instance
---@return tideway.inspect.place[]
function M.places(nf)
   local ok, err = pcall(transfer.pack, nf, "NF " .. nf.name)
   local list = {}
   for i, place in ipairs { "worker sk_msg", "worker rings", "inline" } do
      local why = not ok and tostring(err):gsub("cannot move to an lcore", "cannot move to where it runs") or nil
      list[i] = { place = place, can = ok, why = why and why:match "^[^\n]*", detail = why }
   end
   return list
end

local TAKES = { "message", "response", "data" }

local function takes_of(nf)
   local list = {}
   for _, name in ipairs(TAKES) do
      if nf[name] then list[#list + 1] = name end
   end
   if nf.body then list[#list + 1] = "whole bodies" end
   if nf.response_body then list[#list + 1] = "whole response bodies" end
   if nf.readonly then list[#list + 1] = "readonly" end
   return list
end

local function function_report(service, i)
   local nf, name, pin = service.stages[i], service.stage_names[i], service.pinned
   local inline = pin.worker == "inline"
   return {
      name = name, where = nf.where, on_fault = nf.on_fault == "drop" and "fail" or nf.on_fault, takes = takes_of(nf),
      aside = i > #service.stages - #service.aside, sticky = nf.sticky,
      instances = inline and 0 or pins.instances(pin, name),
      cpus = not inline and placement.cpus(service, i) or nil, places = M.places(nf),
      packets = nfs.takes_packets(nf) or nil,
   }
end

local function service_report(service)
   local sources, functions = {}, {}
   for i, listener in ipairs(service.sources) do sources[i] = listener.name end
   for i in ipairs(service.stages) do functions[i] = function_report(service, i) end
   local pin = service.pinned
   return {
      name = service.name, where = service.where, listeners = sources, upstream = service.sink and service.sink.name,
      transport = pin.worker, functions = functions, pool_mb = pin.pool_mb, memory_mb = pin.memory_mb,
      cpu_percent = pin.cpu_percent > 0 and pin.cpu_percent or nil,
   }
end

local function listener_report(listener)
   return {
      name = listener.name, protocol = listener.protocol, address = listener.address.text, where = listener.where,
      options = listener.options,
   }
end

local function group_report(group)
   local servers = {}
   for i, server in ipairs(group.servers) do
      servers[i] = { name = server.name, address = server.address.text, weight = server.weight }
   end
   return {
      name = group.name, protocol = group.protocol or "http", servers = servers, where = group.where,
      balance = group.options.balance, options = group.options, check = group.check,
   }
end

--- Listeners, groups and chains of messages of the model.
---@return { listeners: table[], upstreams: table[], services: table[], gates: integer }
function M.report()
   local out = { listeners = {}, upstreams = {}, services = {}, gates = placement.gates() }
   for i, listener in ipairs(model.listeners) do out.listeners[i] = listener_report(listener) end
   for i, group in ipairs(model.groups) do out.upstreams[i] = group_report(group) end
   for i, service in ipairs(model.services) do out.services[i] = service_report(service) end
   return out
end

--- A chain's way in words: "web -> access -> app".
---@param service tideway.service|table it, or one of its states
---@return string
function M.path_of(service)
   local names, sources = {}, {}
   for i, listener in ipairs(service.sources) do sources[i] = listener.name end
   for i = 1, #service.stages - #service.aside do names[i] = service.stage_names[i] end
   names[#names + 1] = service.sink and service.sink.name or "(404)"
   return table.concat(sources, ", ") .. " -> " .. table.concat(names, " -> ")
end

--- Where a chain's functions run, in words.
---@param service tideway.service
---@return string
function M.place_of(service)
   local pin = service.pinned
   if #service.stages == 0 then return "the gate alone" end
   if pin.worker == "inline" then return "inline in the gate" end
   local n = pins.processes(pin, service.stage_names)
   return ("%d worker%s, %s"):format(n, n == 1 and "" or "s", pin.worker)
end

local OTHER_FILES = 64

-- What listeners may take is more than the process may open: a line that says so.
local function descriptors()
   local wanted, limit = 0, posix.rlimit(posix.RLIMIT_NOFILE)
   for _, listener in ipairs(model.listeners) do
      if listener.protocol ~= "udp" then wanted = wanted + listener.options.connections end
   end
   if wanted + OTHER_FILES <= limit then return nil end
   return ("descriptors: %d at most, listeners take up to %d connections: what is beyond is refused; raise the hard "
      .. "limit (ulimit -Hn, LimitNOFILE), or give listeners fewer connections"):format(limit, wanted)
end

--- What runs, a line each: listeners, upstream groups, chains.
---@return string[]
function M.lines()
   local lines = {}
   if #model.services > 0 then
      local cpus = placement.gate_cpus()
      lines[1] = ("gate: %d thread%s on CPU %s"):format(#cpus, #cpus == 1 and "" or "s", table.concat(cpus, ", "))
   end
   for _, listener in ipairs(model.listeners) do
      lines[#lines + 1] = ("listener %s: %s://%s"):format(listener.name, listener.protocol, listener.address.text)
   end
   for _, group in ipairs(model.groups) do
      local names = {}
      for i, server in ipairs(group.servers) do names[i] = server.name end
      lines[#lines + 1] = ("upstream %s: %s, %s"):format(group.name, table.concat(names, ", "), group.options.balance)
   end
   for _, service in ipairs(model.services) do
      lines[#lines + 1] = ("chain %s, %s: %s"):format(service.name, M.place_of(service), M.path_of(service))
   end
   lines[#lines + 1] = descriptors()
   return lines
end

return M
