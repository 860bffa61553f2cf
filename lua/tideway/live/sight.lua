-- SPDX-License-Identifier: BSD-3-Clause
-- Commands that look: ports, chains, tables, lcores, hooks, nfs, counters, drops.

local engine = require "tideway.engine"
local hook_engine = require "tideway.hook"
local model = require "tideway.model"
local nearest = require "tideway.live.nearest"
local nf_library = require "tideway.nf"
local shown = require "tideway.live.shown"
local view = require "tideway.live.view"

local M = {}

local function named(list, what, name)
   local names = {}
   for i, item in ipairs(list) do
      if item.name == name then return item end
      names[i] = item.name
   end
   error(("there is no %s %q%s"):format(what, tostring(name), nearest.hint(tostring(name), names)), 0)
end

--- The ports: device, mode, packets received and sent, what was missed.
---@return tideway.view
function M.ports()
   local snapshot, rows = engine.snapshot(), {}
   for i, p in ipairs(snapshot.ports) do
      rows[i] = {
         p.name, p.device, p.mode ~= "" and p.mode or p.driver, p.mac, p.rx_packets, p.tx_packets,
         p.imissed + p.rx_nombuf, p.ierrors + p.oerrors,
      }
   end
   return view.table({ "port", "device", "mode", "mac", "received", "sent", "missed", "errors" }, rows, snapshot.ports)
end

--- The chains: their way, where they run, what they did.
---@return tideway.view
function M.chains()
   local snapshot, rows, data = engine.snapshot(), {}, {}
   local counted = {}
   for _, c in ipairs(snapshot.chains) do counted[c.name] = c end
   for i, chain in ipairs(model.chains) do
      local c = counted[chain.name] or { name = chain.name, place = "does not run" }
      rows[i] = {
         chain.name, shown.path_of(chain), c.place, c.tier, c.rx, c.sent, c.dropped, c.held, c.faults,
         not c.hook and c.cycles_per_packet and math.floor(c.cycles_per_packet + 0.5) or "",
      }
      c.path = shown.path_of(chain)
      data[i] = c
   end
   local packets = view.table({
      { "chain", align = "left" }, "path", "place", "tier", "received", "sent", "dropped", "held", "faults", "cyc/pkt",
   }, rows, data)
   if #model.services == 0 then return packets end
   local messages = require("tideway.live.gate").services()
   if #rows == 0 then return messages end
   for _, s in ipairs(messages.data) do data[#data + 1] = s end
   return view.list({ packets, messages }, data)
end

--- The tables of NFs: kind, entries, size. `tables.NAME` shows rows of one.
---@param prefix? string those whose name begins so
---@return tideway.view
function M.tables(prefix) return shown.tables(prefix) end

--- Rows of a table: rows "flows", rows("flows", 1000).
---@param name string
---@param limit? integer default 20
---@return tideway.view
function M.rows(name, limit)
   local reached = shown.reached()
   if reached[name] then return shown.table(reached[name], limit) end
   local names = {}
   for known in pairs(reached) do names[#names + 1] = known end
   table.sort(names)
   error(("there is no table %q%s"):format(tostring(name), nearest.hint(tostring(name), names)), 0)
end

--- The lcores: their CPU, load since the start, what runs there.
---@return tideway.view
function M.lcores()
   local snapshot, rows = engine.snapshot(), {}
   for i, l in ipairs(snapshot.lcores) do
      local chains = {}
      for _, chain in ipairs(model.chains) do
         for _, cpu in ipairs(chain.lcores or {}) do
            if cpu == l.cpu then chains[#chains + 1] = chain.name end
         end
      end
      rows[i] = {
         l.cpu, l.slot, ("%.0f%%"):format(l.load * 100), table.concat(chains, ", "), l.loops, l.generation,
         l.vm_rebuilds,
      }
   end
   return view.table({
      "cpu", "slot", { "load", align = "right" }, "chains", "loops", "generation", "vm_rebuilds",
   }, rows, snapshot.lcores)
end

--- The chains on hooks of the kernel: where they are attached, with which programs.
---@return tideway.view
function M.hooks()
   local rows = {}
   for _, hook in ipairs(hook_engine.list) do
      for _, line in ipairs(hook:lines()) do rows[#rows + 1] = { hook.chain.name, (line:gsub("^[^:]*: ", "", 1)) } end
   end
   return view.table({ "chain", "attached" }, rows)
end

-- The first sentence of an NF's page.
local function summary_of(name)
   local text = require("tideway.posix").slurp(("%s/tideway/nf/%s.md"):format(require("tideway.abi").root, name)) or ""
   local sentence = text:match "^#[^\n]*\n+(.-%.)%s"
   return sentence and sentence:gsub("%s+", " ") or ""
end

--- The NFs that run, and those of the library: `help(tw.nf.NAME)` says more of one.
---@return tideway.view
function M.nfs()
   local rows, used = {}, {}
   for _, chain in ipairs(model.all_chains()) do
      for i, nf in ipairs(chain.stages) do
         local made = nf_library.made(nf)
         used[made and made.constructor.name or nf.name] = true
         local stage = chain.stage_names[i]
         local key = stage:find "^[%a_][%w_]*$" and "." .. stage or ("[%q]"):format(stage)
         rows[#rows + 1] = { nf.name, "chains." .. chain.name .. key, nf.where }
      end
   end
   local library = {}
   for i, name in ipairs(nf_library.known()) do
      library[i] = { name, used[name] and "yes" or "", summary_of(name) }
   end
   local running = view.table({ "nf", "in", "code" }, rows)
   local offered = view.table({ "library", "runs", "what" }, library)
   return view.list({ running, offered }, { running = running.data, library = offered.data })
end

-- Numbers of a record by name, in the order given.
local function figures(record, names)
   local rows = {}
   for _, name in ipairs(names) do rows[#rows + 1] = { name, record[name] } end
   local v = view.table({ { "key", align = "left" }, { "value" } }, rows, record)
   v.headless = true
   return v
end

local CHAIN = { "rx", "rx_bytes", "originated", "sent", "sent_bytes", "passed", "dropped", "held", "punted", "faults",
   "bursts", "cycles", "cycles_per_packet" }
local TOTALS = { "received", "originated", "sent", "dropped", "held", "in_rings", "in_flight", "punted", "faults" }

--- Counters of a chain, of packets or of messages, or the sums of the engine: received + originated = sent + dropped
--- + in flight.
---@param chain? string its name
---@return tideway.view
function M.counters(chain)
   local snapshot = engine.snapshot()
   if chain == nil then
      return view.list({ figures(snapshot.totals, TOTALS),
         view.text(require("tideway.stats_text").sum_line(snapshot)) }, snapshot.totals)
   end
   local name = type(chain) == "table" and chain.name or chain
   local service = model.find(model.services, "name", name)
   if service then return require("tideway.live.gate").service(service) end
   local c = named(snapshot.chains, "chain", name)
   local rows = {}
   for i, nf in ipairs(c.nfs) do rows[i] = { nf.name, nf.received, nf.dropped } end
   return view.list({ figures(c, CHAIN), view.table({ "nf", "received", "dropped" }, rows) }, c)
end

--- What was dropped, by chain, NF and reason.
---@param chain? string of this chain only
---@return tideway.view
function M.drops(chain)
   local snapshot, rows = engine.snapshot(), {}
   local list = chain and { named(snapshot.chains, "chain", type(chain) == "table" and chain.name or chain) }
      or snapshot.chains
   local all = {}
   for _, c in ipairs(list) do
      for _, drop in ipairs(shown.drops_of(c)) do all[#all + 1] = drop end
   end
   for i, d in ipairs(all) do rows[i] = { d.chain, d.nf, d.reason, d.count } end
   if #all == 0 then return view.text("nothing was dropped", {}) end
   return view.table({ "chain", "nf", "reason", "count" }, rows, all)
end

return M
