-- SPDX-License-Identifier: BSD-3-Clause
-- From the model to a plan: which lcore runs which chains, fed by which queues; checked before anything starts.

local ffi = require "ffi"
local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local gate = require "tideway.gate.validate"
local model = require "tideway.model"
local native = require "tideway.native"
local ports = require "tideway.port"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

local function fail(where, ...) error(("%s: %s"):format(where, string.format(...)), 0) end

--- Numbers of the CPUs this process may use.
---@return integer[]
function M.cpus() return affinity.cpus() end

local function default_lcore()
   local cpus = M.cpus()
   return cpus[#cpus]
end

local function check_cpus(chain)
   local cpus = M.cpus()
   local have = {}
   for _, cpu in ipairs(cpus) do have[cpu] = true end
   for _, cpu in ipairs(chain.lcores) do
      if cpu ~= "step" and not have[cpu] then
         fail(chain.where, "chain %s is pinned to lcore %s, which does not exist here; this process may use CPU %s",
            chain.name, cpu, table.concat(cpus, ", "))
      end
   end
end

--- The chains that run on lcores.
---@return tideway.chain[]
function M.on_lcores()
   local list = {}
   for _, chain in ipairs(model.chains) do
      if not chain.place then list[#list + 1] = chain end
   end
   return list
end

-- The ports that DPDK opens: all but those that only chains on hooks name, and in a change those that none names now.
local function needed_ports(chains)
   if #chains == 0 and (#model.chains > 0 or #model.services > 0 or model.live) then return {} end
   local lcores, hooks, list = {}, {}, {}
   for _, port in ipairs(model.live and model.running.ports or {}) do hooks[port] = not port.opened end
   for _, chain in ipairs(model.chains) do
      local set = chain.place and hooks or lcores
      for _, source in ipairs(chain.sources) do set[source] = true end
      if chain.sink then set[chain.sink] = true end
      if chain.kernel_port then set[chain.kernel_port] = true end
   end
   for _, port in ipairs(model.ports) do
      if lcores[port] or not hooks[port] then list[#list + 1] = port end
   end
   return list
end

local function open_ports(chains)
   for _, port in ipairs(needed_ports(chains)) do
      local ok, err = port:open()
      if not ok then fail(port.where, "tw.port: %s", err) end
   end
   for _, ring in ipairs(model.rings) do
      local ok, err = ring:open()
      if not ok then fail(ring.where, "tw.ring: %s", err) end
   end
end

-- One receive queue per lcore of the chain; a source belongs to one chain only.
local function assign_sources(chains)
   local owner = {}
   for _, chain in ipairs(chains) do
      for _, source in ipairs(chain.sources) do
         local other = owner[source]
         if other then
            fail(chain.where, "chain %s reads %s, and so does chain %s (%s); give each its own, or let one chain "
               .. "read it", chain.name, tostring(source), other.name, other.where)
         end
         owner[source] = chain
      end
   end
   for _, ring in ipairs(model.rings) do
      if not owner[ring] then fail(ring.where, "no chain reads ring %s, so it would fill and drop", ring.name) end
   end
   return owner
end

local function check_queues(chain, source)
   if not ports.is_port(source) or #chain.lcores == (source.rx_queues or 1) then return end
   local caps = ffi.new "struct tw_port_caps"
   if C.tw_port_caps(source.index, caps) < 0 then fail(source.where, "%s", abi.error()) end
   if source.started and source.rx_queues ~= #chain.lcores then
      fail(chain.where, "chain %s would read %s on %d lcores, and that runs with %d receive queue(s); delete chain and "
         .. "port in one change and declare them in the next", chain.name, tostring(source), #chain.lcores,
         source.rx_queues)
   end
   if caps.max_rx_queues < #chain.lcores then
      fail(chain.where, "chain %s is pinned to %d lcores, and %s has at most %d receive queue(s); pin it to fewer, or "
         .. "open the device with more (af_xdp: queue_count=, af_packet: qpairs=)", chain.name, #chain.lcores,
         tostring(source), caps.max_rx_queues)
   end
end

--- Check the model, give the chains on lcores their lcores and open their ports.
---@param may_be_empty? boolean a change will bring the chains
function M.validate(may_be_empty)
   local chains = M.on_lcores()
   if not model.dry then open_ports(chains) end
   gate.check()
   if #model.chains == 0 and #model.services == 0 and not model.live and not may_be_empty then
      error("the script declares no chain; the smallest is tw.chain(\"c\", tw.port \"net_null0\", tw.nf.count {})", 0)
   end
   for _, chain in ipairs(chains) do
      if #chain.sources == 0 then
         fail(chain.where, "chain %s has no source; on lcores it needs a port or a ring", chain.name)
      end
      chain.lcores = chain.lcores or { default_lcore() }
      check_cpus(chain)
   end
   assign_sources(chains)
   if not model.dry then
      for _, chain in ipairs(chains) do
         for _, source in ipairs(chain.sources) do check_queues(chain, source) end
      end
   end
end

local function copy_name(field, text) ffi.copy(field, text:sub(1, C.TW_NAME_LEN - 1)) end

local function endpoint_kind(value)
   if value == nil then return C.TW_END_NONE end
   return ports.is_port(value) and C.TW_END_PORT or C.TW_END_RING
end

-- Ports a flood goes to: every port that the chain reads from or sends to.
local function flood_ports(chain)
   local set = 0ULL
   local function add(value)
      if ports.is_port(value) then set = bit.bor(set, bit.lshift(1ULL, value.index)) end
   end
   for _, source in ipairs(chain.sources) do add(source) end
   add(chain.sink)
   return set
end

---@class tideway.plan.origin where the stages of a chain come from, by stage from 0
---@field from table<integer, integer> the stage that one continues; none: it is new
---@field fresh table<integer, boolean> made anew although it continues one
---@field carry table<integer, boolean> takes over the state of the one it continues

local function fill_chain(spec, chain, origin)
   spec.chain = chain.index
   spec.sink_kind = endpoint_kind(chain.sink)
   spec.sink = chain.sink and chain.sink.index or 0
   spec.kernel = chain.kernel_port and chain.kernel_port.index or C.TW_PORT_NONE
   spec.stages = #chain.stages
   spec.code = #chain.stages > 0 and 1 or 0
   spec.native = native.is_whole(chain) and 1 or 0
   spec.flood_ports = flood_ports(chain)
   for i, nf in ipairs(chain.stages) do
      local s = i - 1
      spec.bypass[s] = nf.on_fault == "bypass" and 1 or 0
      spec.from[s] = origin and origin.from[s] or C.TW_STAGE_NEW
      spec.fresh[s] = origin and origin.fresh[s] and 1 or 0
      spec.carry[s] = origin and origin.carry[s] and 1 or 0
      copy_name(spec.name[s], chain.stage_names[i])
      ffi.copy(spec.where[s], nf.where:sub(-95))
   end
end

-- Who feeds a chain and where it ends, for graph and top.
local function publish_links(info, chain)
   for _, source in ipairs(chain.sources) do
      if ports.is_port(source) then
         info.source_ports = bit.bor(info.source_ports, bit.lshift(1ULL, source.index))
      else
         info.source_rings = bit.bor(info.source_rings, bit.lshift(1, source.index))
      end
   end
   info.sink_kind, info.sink = endpoint_kind(chain.sink), chain.sink and chain.sink.index or 0
end

--- The counters' names of a chain.
---@param chain tideway.chain
---@param place string where it runs
function M.publish_names(chain, place)
   local stats = C.tw_stats()
   local info = stats.chain[chain.index]
   local quarantined = ffi.string(info.quarantined, ffi.sizeof(info.quarantined)) -- written by plans and the fence
   ffi.fill(info, ffi.sizeof(info))
   ffi.copy(info.quarantined, quarantined, #quarantined)
   copy_name(info.name, chain.name)
   copy_name(info.place, place)
   info.stages = #chain.stages
   for i, name in ipairs(chain.stage_names) do copy_name(info.stage[i - 1], name) end
   info.tier = native.tier(chain)
   publish_links(info, chain)
   stats.chains = math.max(stats.chains, chain.index + 1)
end

---@class tideway.plan.lcore
---@field cpu integer|"step"
---@field chains tideway.chain[]
---@field inputs { source: table, queue: integer, chain: integer }[]
---@field slot integer? once it is part of a plan
---@field bank integer? of the machine code of its plan

--- What each lcore runs, in order of first use.
---@param chains tideway.chain[] as M.on_lcores() gives them
---@return tideway.plan.lcore[]
function M.lcores_of(chains)
   local list, index = {}, {}
   for _, chain in ipairs(chains) do
      for queue, cpu in ipairs(chain.lcores) do
         local entry = index[cpu]
         if not entry then
            entry = { cpu = cpu, chains = {}, inputs = {} }
            index[cpu] = entry
            list[#list + 1] = entry
         end
         entry.chains[#entry.chains + 1] = chain
         for _, source in ipairs(chain.sources) do
            entry.inputs[#entry.inputs + 1] = { source = source, queue = queue - 1, chain = #entry.chains - 1 }
         end
      end
   end
   return list
end

-- What tideway.lcore.build() gets.
local function pack(entry)
   local list = {}
   for i, chain in ipairs(entry.chains) do
      local stages = {}
      for s, nf in ipairs(chain.stages) do stages[s] = { nf = nf, bypass = nf.on_fault == "bypass" } end
      list[i] = {
         name = chain.name, index = chain.index, stages = stages, segments = native.shipped(chain), bank = entry.bank,
      }
   end
   return transfer.pack(list, "the chains of lcore " .. tostring(entry.cpu))
end

local function cpu_of(entry) return entry.cpu == "step" and -1 or entry.cpu end

local function add_lcore(plan, entry, origins)
   local chains = ffi.new("struct tw_chain_spec[?]", #entry.chains)
   local inputs = ffi.new("struct tw_input_spec[?]", math.max(1, #entry.inputs))
   for i, chain in ipairs(entry.chains) do fill_chain(chains[i - 1], chain, origins[chain]) end
   for i, input in ipairs(entry.inputs) do
      local spec = inputs[i - 1]
      spec.kind, spec.index = endpoint_kind(input.source), input.source.index
      spec.queue, spec.chain = input.queue, input.chain
   end
   entry.bank = C.tw_plan_bank(plan)
   local blob = pack(entry)
   local slot = C.tw_plan_add_lcore(plan, cpu_of(entry), chains, #entry.chains, inputs, #entry.inputs, blob, #blob)
   if slot < 0 then error(abi.error(), 0) end
   entry.slot = slot
end

-- Ports that do not run yet.
local function start_ports(chains, lcores)
   local queues, list = {}, {}
   for _, chain in ipairs(chains) do
      for _, source in ipairs(chain.sources) do
         if ports.is_port(source) then queues[source] = #chain.lcores end
      end
   end
   for _, port in ipairs(needed_ports(chains)) do
      if not port.started then list[#list + 1] = port end
   end
   for _, port in ipairs(list) do C.tw_port_reserve(port.index, queues[port] or 1, #lcores) end
   for _, port in ipairs(list) do
      if C.tw_port_start(port.index, queues[port] or 1, #lcores) < 0 then fail(port.where, "%s", abi.error()) end
      port.started, port.rx_queues = true, queues[port]
   end
end

---@class tideway.plan.change what is different from the plan that runs; all of it is when there is none
---@field kept table<integer|string, tideway.plan.lcore> lcores that go on as they are, by CPU
---@field origins table<tideway.chain, tideway.plan.origin>
---@field without tideway.port[] ports that nobody sends to any more

--- Make a plan of the validated model, and start the ports that it needs. Nothing runs it yet.
---@param lcores tideway.plan.lcore[]
---@param change? tideway.plan.change
---@return ffi.cdata* plan struct tw_plan *, to be published or freed
function M.build(lcores, change)
   change = change or { kept = {}, origins = {}, without = {} }
   local plan = C.tw_plan_new()
   if plan == nil then error(abi.error(), 0) end
   local ok, err = pcall(function()
      for _, entry in ipairs(lcores) do
         local kept = change.kept[entry.cpu]
         if kept then
            entry.slot, entry.bank = C.tw_plan_keep_lcore(plan, cpu_of(entry)), kept.bank
            if entry.slot < 0 then error(abi.error(), 0) end
         else
            add_lcore(plan, entry, change.origins)
            native.warm(entry.bank, entry.chains)
         end
      end
      for _, port in ipairs(change.without) do C.tw_plan_without_port(plan, port.index) end
      start_ports(M.on_lcores(), lcores)
   end)
   if ok then return plan end
   C.tw_plan_free(plan)
   error(err, 0)
end

--- Where a chain on lcores runs, in words.
---@param chain tideway.chain
---@return string
function M.place_text(chain) return "lcore " .. table.concat(chain.lcores, ", ") end

--- Start the chains on lcores, once the model is validated: ports, then lcores.
---@return tideway.plan.lcore[] lcores
function M.start()
   local chains = M.on_lcores()
   if #chains == 0 then return {} end
   for _, chain in ipairs(chains) do
      native.compile(chain)
      M.publish_names(chain, M.place_text(chain))
   end
   local lcores = M.lcores_of(chains)
   if C.tw_plan_publish(M.build(lcores), nil) < 0 then error(abi.error(), 0) end
   native.start(lcores)
   return lcores
end

return M
