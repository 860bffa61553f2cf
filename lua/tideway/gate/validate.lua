-- SPDX-License-Identifier: BSD-3-Clause
-- Listeners, groups and chains of messages as a whole: what a declaration alone cannot see.

local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local model = require "tideway.model"
local options = require "tideway.options"
local nearest = require "tideway.live.nearest"
local pins = require "tideway.gate.pin"
local routes = require "tideway.gate.routes"
local upstreams = require "tideway.gate.upstream"

local C = abi.C
local M = {}

local function fail(where, ...) error(("%s: %s"):format(where, string.format(...)), 0) end

-- A listener feeds one chain.
local function check_listeners()
   local owner = {}
   for _, service in ipairs(model.services) do
      for _, listener in ipairs(service.sources) do
         if not model.state(listener) then
            fail(service.where, "chain %s: listener %s is not there any more", service.name, rawget(listener, "name"))
         end
         local other = owner[listener]
         if other then
            fail(service.where, "chain %s takes what comes to %s, and so does chain %s (%s); give each its own "
               .. "listener", service.name, tostring(listener), other.name, other.where)
         end
         owner[listener] = service
      end
   end
   for _, listener in ipairs(model.listeners) do
      if not owner[listener] then
         fail(listener.where, "no chain takes what comes to %s; declare one: tw.chain(%q, it, ...)", tostring(listener),
            listener.name)
      end
   end
end

-- A group speaks what the listeners of the chains speak that end in it.
local function check_groups()
   local said = {}
   for _, service in ipairs(model.services) do
      local group, protocol = service.sink, service.sources[1] and service.sources[1].protocol
      if group then
         if not model.state(group) then
            fail(service.where, "chain %s: upstream %s is not there any more", service.name, rawget(group, "name"))
         end
         local speaks = group.options.protocol or said[group] and said[group].protocol
         for _, server in ipairs(group.servers) do speaks = server.address.protocol or speaks end
         if speaks and speaks ~= protocol then
            fail(service.where, "chain %s is behind a listener for %s and ends in %s, whose servers speak %s",
               service.name, protocol, tostring(group), speaks)
         end
         local path = upstreams.no_datagrams(group.servers, protocol)
         if path then
            fail(service.where, "chain %s is behind a listener for udp and ends in %s, and no datagrams go to %s",
               service.name, tostring(group), path)
         end
         said[group] = { protocol = protocol }
         if group.protocol ~= protocol then model.edit(group).protocol = protocol end
      end
   end
end

-- Groups that functions send to, as far as they are known before a message comes: what an NF says of itself, and
-- constants in its code. Others are looked for with each message.
local function check_upstreams(service, nf, name)
   local index, names = {}, {}
   for i, group in ipairs(model.groups) do index[group.name], names[i] = group.index, group.name end
   local function missing(where, group)
      fail(where, "chain %s: NF %s sends to upstream group %q, which is not declared; tw.upstream(%q, { servers = "
         .. "... }) declares it%s", service.name, name, group, group, nearest.hint(group, names))
   end
   for _, group in ipairs(nf.upstreams or {}) do
      local text = type(group) == "table" and rawget(group, "name") or group
      if not index[text] or group ~= text and index[text] ~= rawget(group, "index") then
         missing(nf.made_at or service.where, text)
      end
   end
   local unknown, where = routes.unknown(nf, "upstream", names)
   if unknown then missing(where, unknown) end
end

local ONLY_HTTP = { "response", "body", "response_body" }

local function check_functions(service)
   local protocol = service.sources[1].protocol
   for i, nf in ipairs(service.stages) do
      local name = service.stage_names[i]
      local unknown, where = routes.unknown(nf, "route", service.aside)
      if unknown then
         fail(where, "chain %s: NF %s routes to %q, and the chain has no such function aside%s", service.name, name,
            unknown, nearest.hint(unknown, service.aside))
      end
      check_upstreams(service, nf, name)
      if protocol ~= "http" then
         for _, word in ipairs(ONLY_HTTP) do
            if nf[word] and not (nf.message or nf.data) then
               fail(service.where, "chain %s: NF %s has %s, which is for HTTP, and its listener is for %s",
                  service.name, name, word, protocol)
            end
         end
      end
   end
end

-- CPUs that the script names: those of the gate's threads, and of functions.
local function check_cpus(service)
   local cpus, have = affinity.cpus(), {}
   for _, cpu in ipairs(cpus) do have[cpu] = true end
   local function check(cpu, what)
      if not have[cpu] then
         fail(service.where, "chain %s: %s is pinned to CPU %d, which does not exist here; this process may use CPU %s",
            service.name, what, cpu, table.concat(cpus, ", "))
      end
   end
   for _, cpu in ipairs(options.gate_cpus or {}) do check(cpu, "a thread of the gate") end
   for name, cpu in pairs(service.pinned.cpu) do check(cpu, name == "*" and "each function" or "function " .. name) end
end

-- Numbers of functions that were taken out go with them.
local function forget_instances(service)
   local names, pinned = { ["*"] = true }, service.pinned
   for _, name in ipairs(service.stage_names) do names[name] = true end
   local instances, gone = {}, false
   for name, n in pairs(pinned.instances) do
      if names[name] then instances[name] = n else gone = true end
   end
   if not gone then return end
   model.edit(service).pinned = pins.with(pinned, "instances", instances)
end

-- tideway run --worker: the transport of all chains.
local function override(service)
   if not options.worker or service.pinned.worker == options.worker or #service.stages == 0 then return end
   model.edit(service).pinned = pins.with(service.pinned, "worker", options.worker)
end

--- Check all of it, and settle what groups speak. Raises what is wrong, with its place in the script.
function M.check()
   check_listeners()
   check_groups()
   local members = 0
   for _, service in ipairs(model.services) do
      if #service.sources == 0 then
         fail(service.where, "chain %s has no listener", service.name)
      end
      check_functions(service)
      check_cpus(service)
      override(service)
      forget_instances(service)
      members = members + pins.processes(service.pinned, service.stage_names)
      if members > C.TW_WORKERS_MAX then
         fail(service.where, "with chain %s there would be %d instances of functions; %d are the limit", service.name,
            members, C.TW_WORKERS_MAX)
      end
   end
end

return M
