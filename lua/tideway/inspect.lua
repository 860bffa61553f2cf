-- SPDX-License-Identifier: BSD-3-Clause
-- What a script declares, without opening anything: its ports and chains, and where each NF and chain can run.

local compiler = require "tideway.compiler"
local diagnostic = require "tideway.compiler.diagnostic"
local gate = require "tideway.gate.report"
local gate_blob = require "tideway.gate.blob"
local hook_chain = require "tideway.hook.chain"
local hooks = require "tideway.hook"
local model = require "tideway.model"
local plan = require "tideway.plan"
local script = require "tideway.script"
local transfer = require "tideway.transfer"

local M = {}

--- The hooks a chain may be pinned to, as the compiler calls them and as pin does.
M.HOOKS = {
   { "xdp", "xdp" }, { "tc", "tc" }, { "cgroup_skb", "cgroup" }, { "socket_filter", "socket_filter" },
   { "sk_msg", "sk_msg" }, { "sk_skb", "sk_skb" }, { "sk_lookup", "sk_lookup" }, { "sk_reuseport", "sk_reuseport" },
   { "lwt_in", "lwt in" }, { "lwt_out", "lwt out" }, { "lwt_xmit", "lwt xmit" },
}

---@class tideway.inspect.place
---@field place string "lcore", "xdp", ...
---@field can boolean
---@field how string? on lcores: "compiled" or "plain Lua"
---@field why string? the line that says why not, or why it is not compiled
---@field detail string? all of it

local function short(err)
   if type(err) == "table" and err.message then
      local pos = err.pos
      local where = pos and ("%s:%d%s: "):format(pos.file, pos.line, pos.col and ":" .. pos.col or "") or ""
      return where .. err.message
   end
   return tostring(err):match "^[^\n]*"
end

local function refusal(place, err)
   return { place = place, can = false, why = short(err), detail = tostring(err) }
end

local function on_lcore(name, stages)
   for _, nf in ipairs(stages) do
      local ok, err = pcall(transfer.pack, nf, "NF " .. nf.name)
      if not ok then return refusal("lcore", err) end
   end
   local ok, segments = pcall(compiler.for_lcore, { name = name, stages = stages })
   if not ok then
      local err = diagnostic.is(segments) and segments or tostring(segments):match "^[^\n]*"
      return { place = "lcore", can = true, how = "plain Lua", why = short(err), detail = tostring(segments) }
   end
   for _, segment in ipairs(segments) do
      if segment.raw then
         local raw = segment.raw
         return { place = "lcore", can = true, how = "plain Lua", why = short(raw), detail = tostring(raw) }
      end
   end
   return { place = "lcore", can = true, how = "compiled" }
end

local function on_hook(chain, stages, hook, label)
   local at = setmetatable({ place = { hook = hook, kind = label } }, { __index = chain })
   local ok, compiled, err = pcall(hook_chain.compile, at, stages, {}, { counted = false })
   if not ok then return refusal(label, compiled) end
   if not compiled then return refusal(label, err) end
   return { place = label, can = true, instructions = compiled.object.count }
end

--- Where NFs that stand one behind the other can run.
---@param chain tideway.chain whose ports they have
---@param stages tideway.nf.instance[]
---@return tideway.inspect.place[]
function M.places(chain, stages)
   local list = { on_lcore(chain.name, stages) }
   for _, hook in ipairs(M.HOOKS) do list[#list + 1] = on_hook(chain, stages, hook[1], hook[2]) end
   return list
end

local function compile_pinned()
   for _, chain in ipairs(hooks.chains()) do
      for _, target in ipairs(chain.place.targets) do
         local compiled, err = hook_chain.compile(chain, chain.stages, target)
         if not compiled then error(err, 0) end
      end
   end
end

--- Load a script, and validate all of it but its devices.
---@param path string
---@param args string[]
---@return boolean? ok
---@return any value what the script returned; when not ok, what is wrong
function M.load(path, args)
   model.dry = true
   local ok, value = script.load(path, args)
   if not ok or #model.chains + #model.services == 0 then return ok, value end
   local err
   ok, err = pcall(function()
      plan.validate()
      for _, chain in ipairs(plan.on_lcores()) do transfer.pack(chain.stages, "chain " .. chain.name) end
      for _, service in ipairs(model.services) do gate_blob.inline(service, model.state(service)) end
      compile_pinned()
   end)
   return ok or nil, ok and value or err
end

local function chain_report(chain)
   local sources, stages = {}, {}
   for i, source in ipairs(chain.sources) do sources[i] = source.name end
   for i, nf in ipairs(chain.stages) do
      stages[i] = {
         name = chain.stage_names[i], where = nf.where, on_fault = nf.on_fault, places = M.places(chain, { nf }),
      }
   end
   local targets = {}
   for i, target in ipairs(chain.place and chain.place.targets or {}) do targets[i] = target.label end
   return {
      name = chain.name, where = chain.where, sources = sources, sink = chain.sink and chain.sink.name,
      lcores = chain.lcores, hook = chain.place and chain.place.hook, targets = chain.place and targets, nfs = stages,
      places = #chain.stages > 1 and M.places(chain, chain.stages) or nil,
   }
end

--- The ports and chains of the script that was loaded, and where what can run.
---@return { ports: table[], chains: table[], listeners: table[], upstreams: table[], services: table[] }
function M.report()
   local out = gate.report()
   out.ports, out.chains = {}, {}
   for i, port in ipairs(model.ports) do
      out.ports[i] = { name = port.name, devargs = port.devargs, interface = port.iface, where = port.where }
   end
   for i, chain in ipairs(model.chains) do out.chains[i] = chain_report(chain) end
   return out
end

return M
