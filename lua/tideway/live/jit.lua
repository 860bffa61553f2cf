-- SPDX-License-Identifier: BSD-3-Clause
-- What LuaJIT makes of the chains: traces, recordings that failed and why, functions it gave up, memory; and another
-- try for those.

local ffi = require "ffi"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local model = require "tideway.model"
local native = require "tideway.native"
local text = require "tideway.text"
local view = require "tideway.live.view"

local C = abi.C
local M = {}

local str = ffi.string

local function bytes(n) return (text.si(n):gsub("%d$", "%0 ")) .. "B" end

-- ---- whose line is it? ----

-- { file, first, last, name } of the functions of all NFs; a place in none of them is the engine's or a library's.
local function ranges()
   local list = {}
   for _, chain in ipairs(model.chains) do
      for i, nf in ipairs(chain.stages) do
         for _, key in ipairs { "packet", "burst", "punt", "tick" } do
            local fn = type(nf) == "table" and nf[key]
            local info = type(fn) == "function" and debug.getinfo(fn, "S")
            if info and info.what ~= "C" then
               list[#list + 1] = {
                  file = info.short_src:match "[^/]*$", first = info.linedefined, last = info.lastlinedefined,
                  name = chain.stage_names[i], chain = chain.name,
               }
            end
         end
      end
   end
   return list
end

-- "chain up_1:12" is code that was made for the chain; "guard.lua:12" a line of an NF.
local function owner_of(place, list)
   local chain, made = place:match "^chain (.-):%d+$", place:match "^%((table .-)%):"
   if chain then return "chain " .. (model.find(model.chains, "name", chain) and chain or chain:gsub("_%d+$", "")) end
   if made then return made end
   local file, line = place:match "([^/]*):(%d+)$"
   line = tonumber(line)
   for _, range in ipairs(line and list or {}) do
      if range.file == file and line >= range.first and line <= range.last then
         return ("%s of chain %s"):format(range.name, range.chain)
      end
   end
   return ""
end

-- ---- one lcore ----

local function traces_of(info, nfs)
   local list, by_place = {}, {}
   for i = 1, C.TW_TRACES_MAX - 1 do
      local t = info.trace[i]
      if t.start ~= 0 then
         local place = str(t.where)
         local entry = by_place[place]
         if not entry then
            entry = { at = place, owner = owner_of(place, nfs), traces = 0, bytes = 0 }
            by_place[place], list[#list + 1] = entry, entry
         end
         entry.traces = entry.traces + 1
         entry.bytes = entry.bytes + tonumber(t["end"] - t.start)
      end
   end
   table.sort(list, function(a, b)
      if a.bytes ~= b.bytes then return a.bytes > b.bytes end
      return a.at < b.at
   end)
   return list
end

-- The last ones, the youngest first; those that are alike together.
local function aborts_of(info, nfs)
   local list, by_text, now = {}, {}, tonumber(C.tw_now())
   for n = info.aborts - 1, math.max(0, info.aborts - C.TW_ABORTS_MAX), -1 do
      local a = info.abort[n % C.TW_ABORTS_MAX]
      local place, why = str(a.where), str(a.why)
      local entry = by_text[place .. why]
      if not entry then
         entry = {
            at = place, why = why, owner = owner_of(place, nfs), times = 0,
            seconds_ago = math.max(0, (now - tonumber(a.at)) / 1e9),
         }
         by_text[place .. why], list[#list + 1] = entry, entry
      end
      entry.times = entry.times + 1
   end
   return list
end

local function given_up_of(info, nfs)
   local list = {}
   for i = 0, math.min(info.interpreted, C.TW_INTERPRETED_MAX) - 1 do
      local place = str(info.interpreted_at[i])
      list[i + 1] = { at = place, owner = owner_of(place, nfs) }
   end
   return list
end

--- What LuaJIT did on an lcore; nil when it has no Lua VM.
---@param slot integer
---@return table?
function M.of(slot)
   local info = C.tw_lcore_jit(slot)
   if info == nil then return nil end
   local nfs = ranges()
   return {
      traces_made = info.traces, traces = info.live, machine_code = tonumber(info.mcode), aborts = info.aborts,
      flushes = info.flushes, settled = info.settled, rewarmed = info.rewarmed, interpreted = info.interpreted,
      heap = tonumber(C.tw_lcore_heap(slot)), where = traces_of(info, nfs), last_aborts = aborts_of(info, nfs),
      given_up = given_up_of(info, nfs),
   }
end

-- ---- as a view ----

local TIERS = { [0] = "lua", "luajit", "native" }

local function chains_of(lcore)
   local rows = {}
   for _, chain in ipairs(model.chains) do
      for _, cpu in ipairs(chain.lcores or {}) do
         if cpu == lcore.cpu then
            local tier = TIERS[native.tier(chain)]
            rows[#rows + 1] = { chain.name, tier, table.concat(chain.stage_names, ", ") }
         end
      end
   end
   return rows
end

local function titled(title, v)
   v.title = title
   return v
end

local MOST = 20

local function head(list)
   local out = {}
   for i = 1, math.min(MOST, #list) do out[i] = list[i] end
   return out
end

local function rows_of(list, ...)
   local rows = {}
   for i, entry in ipairs(head(list)) do
      rows[i] = {}
      for k = 1, select("#", ...) do rows[i][k] = entry[select(k, ...)] end
   end
   return rows
end

local function view_of(lcore, r)
   local items = {
      view.text(("cpu %s: %d traces now (%d made), %s of machine code, %d aborts, %d flushes for lack of room, "
         .. "Lua heap %s%s"):format(tostring(lcore.cpu), r.traces, r.traces_made, bytes(r.machine_code), r.aborts,
         r.flushes, bytes(r.heap), r.interpreted > 0 and ("\nINTERPRETED: %d hot function(s) that LuaJIT gave up; "
         .. "rewarm(%s) lets it try again"):format(r.interpreted, tostring(lcore.cpu)) or "")),
      titled("chains", view.table({ "chain", "runs as", "NFs" }, chains_of(lcore))),
   }
   local function add(title, v, list)
      if #list > 0 then items[#items + 1] = titled(title, v) end
   end
   add("given up, interpreted", view.table({ "at", "of" }, rows_of(r.given_up, "at", "owner")), r.given_up)
   add("aborted recordings, the last ones", view.table({ "at", "of", "why", "times" },
      rows_of(r.last_aborts, "at", "owner", "why", "times")), r.last_aborts)
   add("traces by where they begin", view.table({ "at", "of", "traces", "bytes" },
      rows_of(r.where, "at", "owner", "traces", "bytes")), r.where)
   return view.list(items)
end

-- ---- commands ----

local function lcore_of(cpu, command)
   for _, lcore in ipairs(engine.lcores or {}) do
      if lcore.cpu == cpu then return lcore end
   end
   local names = {}
   for i, lcore in ipairs(engine.lcores or {}) do names[i] = tostring(lcore.cpu) end
   error(("%s: there is no lcore on CPU %s; there are: %s"):format(command, tostring(cpu),
      #names > 0 and table.concat(names, ", ") or "none, all chains are on hooks"), 0)
end

--- What LuaJIT makes of the chains: traces and their size, aborted recordings with line and reason, functions it gave
--- up, memory. Chains that run as "native" need it for slow paths only.
---@param cpu? integer of one lcore; default: all
---@return tideway.view
function M.jit(cpu)
   local items, data = {}, {}
   for _, lcore in ipairs(cpu ~= nil and { lcore_of(cpu, "jit") } or engine.lcores or {}) do
      local report = M.of(lcore.slot)
      if report then
         report.cpu = lcore.cpu
         data[#data + 1], items[#items + 1] = report, view_of(lcore, report)
      end
   end
   if #items == 0 then return view.text("no lcore has a Lua VM", data) end
   return view.list(items, data)
end

--- Lets LuaJIT throw the traces of an lcore away, take back what it gave up, and record anew from the traffic as it is
--- now. State of NFs stays.
---@param cpu? integer default: every lcore
---@return string
function M.rewarm(cpu)
   local done = {}
   for _, lcore in ipairs(cpu ~= nil and { lcore_of(cpu, "rewarm") } or engine.lcores or {}) do
      if C.tw_lcore_rewarm(lcore.slot) < 0 then error("rewarm: " .. abi.error(), 0) end
      done[#done + 1] = tostring(lcore.cpu)
   end
   if #done == 0 then error("rewarm: there is no lcore", 0) end
   return ("the traces of CPU %s are recorded anew from the next tick on (%d ms); jit() shows them"):format(
      table.concat(done, ", "), C.tw_options().tick_ms)
end

return M
