-- SPDX-License-Identifier: BSD-3-Clause
-- Chains of packets: sources, NFs in order, sink, and where they are pinned. Chains of messages, which are behind
-- listeners, are in gate/service.lua.

local edit = require "tideway.chain_edit"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local places = require "tideway.hook.place"
local ports = require "tideway.port"
local services = require "tideway.gate.service"

local CHAINS_MAX = 31 -- one slot is for the counts of those that are gone

local M = {}

---@class tideway.chain
---@field name string
---@field sources table[] ports or rings
---@field sink table? port or ring
---@field stages tideway.nf.instance[]
---@field lcores? (integer|"step")[]
---@field place? tideway.hook.place where it runs when that is a hook
---@field where string file:line of its declaration
local Chain = model.class()

function Chain:__newindex(key, value) model.edit(self)[key] = value end
function Chain:__tostring() return "chain " .. rawget(self, "name") end

local is_upstream = require("tideway.gate.upstream").is_upstream
local function is_endpoint(value) return ports.is_port(value) or ports.is_ring(value) end

local function check_lcore(chain, value)
   if type(value) ~= "number" or value < 0 or value % 1 ~= 0 then
      error(("chain %s: lcore must be a CPU number, or a list of them, not %s"):format(chain.name, tostring(value)), 4)
   end
   return value
end

local function lcore_list(chain, value)
   local list, seen = {}, {}
   for _, cpu in ipairs(type(value) == "table" and value or { value }) do
      check_lcore(chain, cpu)
      if seen[cpu] then error(("chain %s: lcore %d is named twice"):format(chain.name, cpu), 3) end
      seen[cpu] = true
      list[#list + 1] = cpu
   end
   if #list == 0 then error(("chain %s: an empty list of lcores"):format(chain.name), 3) end
   return list
end

-- What stands beside a place that is none of ours.
local function check_places(chain, place)
   if place.worker ~= nil then
      error(("chain %s: workers take messages, and this chain has packets; it would need listeners (tw.listen) as its "
         .. "source"):format(chain.name), 3)
   end
   for key in pairs(place) do
      if key ~= "lcore" and key ~= "step" then
         error(("chain %s: cannot pin to %s; places are lcore, %s"):format(chain.name, tostring(key),
            table.concat(places.kinds, ", ")), 3)
      end
   end
end

--- Pin the chain to lcores: `{ lcore = 1 }`, `{ lcore = { 0, 1 } }` (one copy per lcore, a receive queue each), or
--- `{ step = true }` (no thread: the script calls tideway.engine's step()). Or to a hook of the kernel, where it runs
--- as an eBPF program:
--- `{ xdp = I, mode = "auto"|"native"|"generic" }` · `{ tc = I }`, `{ tc = "eth0:egress", priority = 50 }` ·
--- `{ cgroup = path, direction = "ingress"|"egress" }` ·
--- `{ socket_filter = socket }` · `{ sk_reuseport = socket }` (tw.bpf.socket) · `{ sk_msg = sockmap }` ·
--- `{ sk_skb = sockmap, at = "verdict"|"stream_verdict"|"stream_parser" }` ·
--- `{ sk_lookup = true|netns }` · `{ lwt = "10.0.0.0/8 via 10.1.1.1 dev eth0", at = "in"|"out"|"xmit" }`.
--- I is the name of an interface, a port, a list of them, or true: the interfaces of the chain's source ports.
--- `persist = name`: the program stays when the process ends, and a later run of this name takes it up.
--- `split = true`: a program per NF, with tail calls between them.
---@param place table
---@return tideway.chain self
function Chain:pin(place)
   if type(place) ~= "table" then error(("chain %s: pin takes a table such as { lcore = 1 }"):format(self.name), 2) end
   local hook, err = places.parse(self, place)
   if err then error(("chain %s: pin: %s"):format(self.name, err), 2) end
   local lcores
   if not hook then
      check_places(self, place)
      if place.step then
         lcores = { "step" }
      elseif place.lcore ~= nil then
         lcores = lcore_list(self, place.lcore)
      else
         error(("chain %s: pin { lcore = N } is missing its lcore"):format(self.name), 2)
      end
   end
   local state = model.edit(self)
   state.place, state.lcores = hook, lcores
   return self
end

--- Where packets go that an NF passes to the kernel (`pkt:pass()`): a port whose other end is the kernel.
---@param port tideway.port
---@return tideway.chain self
function Chain:kernel(port)
   if not ports.is_port(port) then error(("chain %s: kernel takes a port"):format(self.name), 2) end
   model.edit(self).kernel_port = port
   return self
end

edit.methods(Chain)

local function sources_of(name, first)
   local list = is_endpoint(first) and { first } or first
   if type(list) ~= "table" then
      error(("tw.chain(%q, ...): the second argument is its source: a port, a ring, or a list of them; {} on hooks "
         .. "that belong to no port"):format(name), 3)
   end
   for i, source in ipairs(list) do
      if not is_endpoint(source) then
         error(("tw.chain(%q, ...): source %d is %s, not a port or a ring"):format(name, i, tostring(source)), 3)
      end
   end
   return list
end

-- The NFs and the sink of what tw.chain() was given behind the source.
local function parts_of(name, ...)
   local stages, sink, n = {}, nil, select("#", ...)
   for i = 1, n do
      local item = select(i, ...)
      if is_endpoint(item) then
         if i ~= n then
            error(("tw.chain(%q, ...): %s stands before other NFs; a sink is the last argument")
               :format(name, tostring(item)), 3)
         end
         sink = item
      elseif is_upstream(item) then
         error(("tw.chain(%q, ...): %s takes messages, and this chain has packets; it would need listeners (tw.listen) "
            .. "as its source"):format(name, tostring(item)), 3)
      elseif type(item) == "function" then
         stages[#stages + 1] = nfs.instance(("function%d"):format(i), item, 3)
      elseif nfs.is_instance(item) then
         if not nfs.takes_packets(item) then
            error(("tw.chain(%q, ...): NF %s takes messages (message, response, data), and this chain has packets; it "
               .. "belongs to a chain behind a listener (tw.listen)"):format(name, item.name), 3)
         end
         stages[#stages + 1] = item
      else
         error(("tw.chain(%q, ...): argument %d is %s; expected an NF instance, such as tw.nf.count {}, a function, "
            .. "or the sink"):format(name, i + 2, item == nil and "nil" or tostring(item)), 3)
      end
   end
   if #stages > edit.STAGES_MAX then
      error(("tw.chain(%q, ...): %d NFs are more than a chain takes (%d)"):format(name, #stages, edit.STAGES_MAX), 3)
   end
   if #stages == 0 and not sink then
      error(("tw.chain(%q, ...): it has neither an NF nor a sink"):format(name), 3)
   end
   return stages, sink
end

--- Declare a chain: of packets, behind ports and rings, or of messages, behind listeners. When the engine runs this is
--- part of a change; a chain that was deleted in it, or all in a reload, are declared anew under their names.
---@param name string
---@param source table port, ring, or list of them; a listener, or list of them
---@param ... any NF instances (or plain functions), at the end optionally the sink: a port or ring; an upstream group
---@return tideway.chain|tideway.service
function M.chain(name, source, ...)
   if type(name) ~= "string" or name == "" then error("tw.chain: the name must be a string", 2) end
   model.writable(("tw.chain(%q, ...)"):format(name))
   local other = model.find(model.all_chains(), "name", name)
   if other then
      error(("tw.chain: the name %q is taken by the chain declared at %s"):format(name, other.where), 2)
   end
   if services.is_source(source) then return (services.declare(name, source, ...)) end
   local sources, where = sources_of(name, source), model.where(2)
   local stages, sink = parts_of(name, ...)
   local chain = model.handle(Chain, "chains", name, CHAINS_MAX)
   if not chain then error(("tw.chain: %d chains are the limit"):format(CHAINS_MAX), 2) end
   model.declare("chains", chain, {
      sources = sources, sink = sink, stages = stages, stage_names = edit.stage_names(stages), where = where,
   })
   return chain
end

--- Is it a chain?
function M.is_chain(value) return getmetatable(value) == Chain end

return M
