-- SPDX-License-Identifier: BSD-3-Clause
-- Rates of the running engine as a command: what `tideway top` shows, once.

local duration = require("tideway.gate.text").duration
local engine = require "tideway.engine"
local posix = require "tideway.posix"
local session = require "tideway.live.session"
local stats = require "tideway.stats"
local text = require "tideway.text"
local view = require "tideway.live.view"

local M = {}

local SECONDS = 0.5
local last, last_at -- for callers that cannot wait

--- The counters, and the rates of a moment: a session waits for it; others get the rates since the call before.
---@param seconds? number default: 0.5
---@return tideway.stats.snapshot
---@return table rates as stats.rates() gives them
function M.sample(seconds)
   local before, at = last, last_at
   if session.current() then
      before, at = engine.snapshot(), posix.now()
      session.sleep(seconds or SECONDS)
   end
   local now, now_at = engine.snapshot(), posix.now()
   if not before or now_at - at < 1e6 then before, at = now, now_at - 1e9 end
   last, last_at = now, now_at
   local passed = (now_at - at) / 1e9
   local rates = stats.rates(before, now, passed)
   if now.gate then rates.gate = require("tideway.gate.figures").rates(before.gate, now.gate, passed) end
   return now, rates
end

local function port_rows(rates)
   local rows = {}
   for i, p in ipairs(rates.ports) do
      rows[i] = { p.name, text.si(p.rx_pps), text.si(p.tx_pps), text.si(p.missed_pps), text.si(p.tx_full_pps) }
   end
   return rows
end

local function chain_rows(rates)
   local rows = {}
   for i, c in ipairs(rates.chains) do
      rows[i] = {
         c.name, c.tier, text.si(c.rx_pps), text.si(c.sent_pps), text.si(c.dropped_pps),
         ("%.0f"):format(c.cycles_per_packet), ("%.1f"):format(c.packets_per_burst),
      }
   end
   return rows
end

local function right(...)
   local list = {}
   for i = 1, select("#", ...) do list[i] = { name = (select(i, ...)), align = "right" } end
   return list
end

local function columns(first, ...)
   local list = { first, unpack(right(...)) }
   return list
end

local function service_rows(rates)
   local rows = {}
   for _, s in ipairs(rates.gate.services) do
      rows[#rows + 1] = { s.name, "", text.si(s.rps), text.si(s.errors_ps), duration(s.quantiles.ns_50),
         duration(s.quantiles.ns_99) }
      for _, f in ipairs(s.functions) do
         rows[#rows + 1] = { "", f.name, text.si(f.mps), "", duration(f.quantiles.ns_50), duration(f.quantiles.ns_99) }
      end
   end
   return rows
end

--- Packets a second of ports and chains, messages a second of chains behind listeners, over so many seconds.
---@param seconds? number default: 0.5
---@return tideway.view
function M.rates(seconds)
   if seconds ~= nil and (type(seconds) ~= "number" or not (seconds > 0 and seconds <= 60)) then
      error(("rates: %s is no time; it is a number of seconds up to 60"):format(tostring(seconds)), 0)
   end
   local _, rates = M.sample(seconds)
   local list = {
      view.table(columns("port", "in/s", "out/s", "missed/s", "full/s"), port_rows(rates)),
      view.table({ "chain", "runs as", unpack(right("in/s", "sent/s", "dropped/s", "cycles", "a burst")) },
         chain_rows(rates)),
   }
   if rates.gate then
      if #rates.chains == 0 then list = {} end
      list[#list + 1] = view.table({ "chain", "function", unpack(right("messages/s", "5xx/s", "p50", "p99")) },
         service_rows(rates))
   end
   return view.list(list, rates)
end

return M
