-- SPDX-License-Identifier: BSD-3-Clause
-- From the model to a plan: which lcore runs which chains, fed by which queues; checked before anything starts.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"
local native = require "tideway.native"
local ports = require "tideway.port"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

local function fail(where, ...) error(("%s: %s"):format(where, string.format(...)), 0) end

--- Numbers of the CPUs this process may use.
---@return integer[]
function M.cpus()
   local list = {}
   for line in io.lines "/proc/self/status" do
      local text = line:match "^Cpus_allowed_list:%s*(.+)"
      if text then
         for a, b in text:gmatch "(%d+)%-?(%d*)" do
            for cpu = tonumber(a), tonumber(b ~= "" and b or a) do list[#list + 1] = cpu end
         end
      end
   end
   return list
end

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

-- The ports that DPDK opens: all but those that only chains on hooks name.
local function needed_ports(chains)
   if #chains == 0 and #model.chains > 0 then return {} end
   local lcores, hooks, list = {}, {}, {}
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
   if not ports.is_port(source) or #chain.lcores == 1 then return end
   local caps = ffi.new "struct tw_port_caps"
   if C.tw_port_caps(source.index, caps) < 0 then fail(source.where, "%s", abi.error()) end
   if caps.max_rx_queues < #chain.lcores then
      fail(chain.where, "chain %s is pinned to %d lcores, and %s has at most %d receive queue(s); pin it to fewer, or "
         .. "open the device with more (af_xdp: queue_count=, af_packet: qpairs=)", chain.name, #chain.lcores,
         tostring(source), caps.max_rx_queues)
   end
end

--- Check the model, give the chains on lcores their lcores and open their ports.
function M.validate()
   local chains = M.on_lcores()
   if not model.dry then open_ports(chains) end
   if #model.chains == 0 then
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

local function fill_chain(spec, chain)
   spec.chain = chain.index
   spec.sink_kind = endpoint_kind(chain.sink)
   spec.sink = chain.sink and chain.sink.index or 0
   spec.kernel = chain.kernel_port and chain.kernel_port.index or C.TW_PORT_NONE
   spec.stages = #chain.stages
   spec.code = #chain.stages > 0 and 1 or 0
   spec.native = native.is_whole(chain) and 1 or 0
   spec.flood_ports = flood_ports(chain)
   for i, nf in ipairs(chain.stages) do
      spec.bypass[i - 1] = nf.on_fault == "bypass" and 1 or 0
      ffi.copy(spec.where[i - 1], nf.where:sub(-95))
   end
end

--- The counters' names of a chain.
---@param chain tideway.chain
---@param place string where it runs
function M.publish_names(chain, place)
   local stats = C.tw_stats()
   local info = stats.chain[chain.index]
   ffi.fill(info, ffi.sizeof(info))
   copy_name(info.name, chain.name)
   copy_name(info.place, place)
   info.stages = #chain.stages
   for i, name in ipairs(chain.stage_names) do copy_name(info.stage[i - 1], name) end
   info.tier = native.tier(chain)
   stats.chains = math.max(stats.chains, chain.index + 1)
end

-- { cpu -> { chains, inputs } } in order of first use.
local function by_lcore(chains)
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
      list[i] = { name = chain.name, index = chain.index, stages = stages, segments = native.shipped(chain) }
   end
   return transfer.pack(list, "the chains of lcore " .. tostring(entry.cpu))
end

local function add_lcore(plan, entry)
   local chains = ffi.new("struct tw_chain_spec[?]", #entry.chains)
   local inputs = ffi.new("struct tw_input_spec[?]", math.max(1, #entry.inputs))
   for i, chain in ipairs(entry.chains) do fill_chain(chains[i - 1], chain) end
   for i, input in ipairs(entry.inputs) do
      local spec = inputs[i - 1]
      spec.kind, spec.index = endpoint_kind(input.source), input.source.index
      spec.queue, spec.chain = input.queue, input.chain
   end
   local blob = pack(entry)
   local cpu = entry.cpu == "step" and -1 or entry.cpu
   local slot = C.tw_plan_add_lcore(plan, cpu, chains, #entry.chains, inputs, #entry.inputs, blob, #blob)
   if slot < 0 then error(abi.error(), 0) end
   entry.slot = slot
end

local function start_ports(chains, lcores)
   local queues = {}
   for _, chain in ipairs(chains) do
      for _, source in ipairs(chain.sources) do
         if ports.is_port(source) then queues[source] = #chain.lcores end
      end
   end
   local list = needed_ports(chains)
   for _, port in ipairs(list) do C.tw_port_reserve(port.index, queues[port] or 1, #lcores) end
   for _, port in ipairs(list) do
      if C.tw_port_start(port.index, queues[port] or 1, #lcores) < 0 then fail(port.where, "%s", abi.error()) end
   end
end

--- Start the chains on lcores, once the model is validated: ports, then lcores.
---@return { cpu: integer|"step", slot: integer }[] lcores
function M.start()
   local chains = M.on_lcores()
   if #chains == 0 then return {} end
   for _, chain in ipairs(chains) do
      native.compile(chain)
      M.publish_names(chain, "lcore " .. table.concat(chain.lcores, ", "))
   end
   local lcores = by_lcore(chains)
   local plan = C.tw_plan_new()
   local ok, err = pcall(function()
      for _, entry in ipairs(lcores) do add_lcore(plan, entry) end
      start_ports(chains, lcores)
   end)
   if not ok then
      C.tw_plan_free(plan)
      error(err, 0)
   end
   if C.tw_plan_publish(plan) < 0 then error(abi.error(), 0) end
   native.start(chains)
   return lcores
end

return M
