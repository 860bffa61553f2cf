-- SPDX-License-Identifier: BSD-3-Clause
-- How the things of an engine are shown: chains, NFs, tables, ports, hooks.

local engine = require "tideway.engine"
local hook_tables = require "tideway.hook.tables"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local ports = require "tideway.port"
local render = require "tideway.live.render"
local rows = require "tideway.live.rows"
local tables = require "tideway.table"
local value = require "tideway.live.value"
local view = require "tideway.live.view"

local M = {}

local function by_name(list, name)
   for _, item in ipairs(list) do
      if item.name == name then return item end
   end
end

-- ---- chains ----

--- Counters of a chain now.
---@param name string
---@return table? as stats.snapshot().chains[]
function M.counters(name) return by_name(engine.snapshot().chains, name) end

--- Drops of a chain's counters by NF and reason, most frequent first.
---@param c table
---@return { chain: string, nf: string, reason: string, count: integer }[]
function M.drops_of(c)
   local list = {}
   for i = 1, #c.nfs + 1 do
      local nf = c.nfs[i] or c.engine
      for _, drop in ipairs(nf.drops) do
         list[#list + 1] = { chain = c.name, nf = nf.name, reason = drop.reason, count = drop.count }
      end
   end
   table.sort(list, function(a, b)
      if a.count ~= b.count then return a.count > b.count end
      return a.nf .. a.reason < b.nf .. b.reason
   end)
   return list
end

--- A chain's way in words: "lan -> ttl -> wan".
---@param chain tideway.chain
---@return string
function M.path_of(chain)
   local names = {}
   for i, name in ipairs(chain.stage_names) do names[i] = name end
   names[#names + 1] = chain.sink and chain.sink.name or chain.place and "the kernel" or nil
   local sources = {}
   for i, source in ipairs(chain.sources) do sources[i] = source.name end
   return (#sources > 0 and table.concat(sources, ", ") .. " -> " or "") .. table.concat(names, " -> ")
end

local function drops_text(drops)
   local texts = {}
   for i, drop in ipairs(drops) do texts[i] = ("%s %.0f"):format(drop.reason, drop.count) end
   return table.concat(texts, ", ")
end

local number = render.number

--- One chain: where it is, its NFs and what they did.
---@param chain tideway.chain
---@return tideway.view
function M.chain(chain)
   local c = M.counters(chain.name)
   local head = ("chain %s: %s, declared at %s"):format(chain.name, M.path_of(chain), chain.where)
   local draft = model.current().own
   if draft and next(draft) then return view.text(head, { name = chain.name, where = chain.where }) end
   if not c then return view.text(head .. "; it does not run", { name = chain.name, where = chain.where }) end
   local list = {}
   for i, nf in ipairs(c.nfs) do
      local state = nf.quarantined and "taken out" or ""
      list[i] = { nf.name, nf.received, nf.dropped, drops_text(nf.drops), state }
   end
   local own = c.engine
   if own.dropped > 0 then list[#list + 1] = { "(engine)", "", own.dropped, drops_text(own.drops) } end
   local sum = view.text(("on %s (%s): %s in, %s sent, %s dropped, %s held"):format(c.place, c.tier or "?",
      number(c.rx), number(c.sent), number(c.dropped), number(c.held)))
   local items = { view.text(head), sum }
   if #list > 0 then items[3] = view.table({ "nf", "received", "dropped", "by reason", "state" }, list) end
   return view.list(items, c)
end

-- ---- tables ----

--- The tables that the NFs of all chains reach, by name.
---@return table<string, tideway.Table>
function M.reached()
   local found = {}
   for _, chain in ipairs(model.chains) do
      for t in pairs(hook_tables.of(chain.stages)) do found[rawget(t, "name")] = t end
   end
   return found
end

--- All tables with their sizes.
---@param prefix? string those whose name begins so
---@return tideway.view
function M.tables(prefix)
   local list, reached, listed = {}, M.reached(), {}
   local function add(name, kind, count, capacity, full, bytes)
      listed[name] = true
      if not prefix or name:sub(1, #prefix) == prefix then
         list[#list + 1] = { name, kind, count, capacity, full, bytes }
      end
   end
   for _, t in ipairs(tables.tables()) do
      local map = reached[t.name] and rawget(reached[t.name], "map")
      add(t.name, t.kind, map and t.kind ~= "counters" and map.count and map:count() or t.count, t.capacity, t.full,
         t.bytes)
   end
   for name, t in pairs(reached) do
      if not listed[name] then add(name, t.kind, "", t.entries or "", "", "") end
   end
   table.sort(list, function(a, b) return a[1] < b[1] end)
   return view.table({ "table", "kind", "count", "capacity", "full", "bytes" }, list)
end

--- One table: its kind, types and size.
---@param t tideway.Table
---@return tideway.view
function M.table_head(t)
   local types = {}
   if t.key_type and t.key_type.text then types[1] = ("key %q"):format(t.key_type.text) end
   if t.value_type and t.value_type.text then types[#types + 1] = ("value %q"):format(t.value_type.text) end
   return view.text(("%s %s%s%s"):format(t.kind, t.name, t.entries and (", %d entries at most"):format(t.entries) or "",
      #types > 0 and "; " .. table.concat(types, ", ") or ""), { name = t.name, kind = t.kind, entries = t.entries })
end

--- One table: what it is and some of its rows.
---@param t tideway.Table
---@param limit? integer rows, default 20
---@return tideway.view
function M.table(t, limit)
   local head, kind = M.table_head(t), rawget(t, "kind")
   if not t.pairs or kind == "meter" or kind == "acl" then return head end
   local list, looked_at = rows.view(t, limit)
   local items = { head, #list.rows > 0 and list or view.text "empty" }
   if looked_at then
      items[3] = view.text(("the first %s of %s entries were looked at"):format(number(looked_at), number(t:count())))
   end
   return view.list(items, list.data)
end

-- ---- NFs, ports, hooks ----

local METHODS = { "packet", "burst", "message", "response", "data", "punt", "tick", "export", "import", "stop" }

--- An NF instance: its parameters, functions and tables.
---@param nf tideway.nf.instance
---@return tideway.view
function M.nf(nf)
   local made, offers, names = nfs.made(nf), {}, {}
   for _, method in ipairs(METHODS) do
      if rawget(nf, method) then offers[#offers + 1] = method end
   end
   for t in pairs(hook_tables.of { nf }) do names[#names + 1] = t.name end
   table.sort(names)
   local config = made and made.config or {}
   local list = {
      { "nf", nf.name }, { "code", nf.where }, { "made at", nf.made_at or "" },
      { "functions", table.concat(offers, ", ") }, { "on fault", nf.on_fault }, { "tables", table.concat(names, ", ") },
   }
   local v = view.table({ "key", "value" }, list, { name = nf.name, where = nf.where, tables = names,
      on_fault = nf.on_fault, parameters = value.plain(config) })
   v.headless = true
   if not next(config) then return v end
   local given = value.view(config)
   given.title = "parameters"
   return view.list({ v, given }, v.data)
end

local function port_view(port)
   local c = by_name(engine.snapshot().ports, port.name)
   if not c then return view.text(tostring(port)) end
   local v = value.view(c)
   v.title = ("port %s (%s), declared at %s"):format(port.name, port.devargs, port.where or "?")
   return v
end

local function is_table(t)
   local mt = getmetatable(t)
   return type(t) == "table" and type(mt) == "table" and mt.__transfer ~= nil and rawget(t, "kind") ~= nil
      and rawget(t, "name") ~= nil
end
local function is_chain(v) return type(v) == "table" and by_name(model.chains, rawget(v, "name")) == v end
local function is_hook(v) return type(v) == "table" and rawget(v, "chain") ~= nil and rawget(v, "punts") ~= nil end

for _, kind in ipairs {
   { test = ports.is_port, view = port_view }, { test = nfs.is_instance, view = M.nf },
   { test = is_table, view = M.table },
   { test = is_chain, view = M.chain },
   { test = is_hook, view = function(hook) return view.text(table.concat(hook:lines(), "\n")) end },
} do value.shown[#value.shown + 1] = kind end

return M
