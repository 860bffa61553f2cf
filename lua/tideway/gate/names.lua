-- SPDX-License-Identifier: BSD-3-Clause
-- Names of hosts, looked for again while the engine runs: of groups with resolve = SECONDS. The resolver is waited for
-- by threads of its own; what is different is a change as an operator's is.

local abi = require "tideway.abi"
local log = require "tideway.log"
local model = require "tideway.model"
local resolve = require "tideway.gate.resolve"
local upstream = require "tideway.gate.upstream"

local C = abi.C
local M = {}

local LOOK = 0.1 -- seconds between looks for answers

---@class tideway.gate.round
---@field due number monotonic ns, of the next one
---@field questions table<string, ffi.cdata*> by host, not answered yet
---@field numbers table<string, string[]> what the others were answered
---@field asks boolean
---@field said? string what was complained of last
---@field bad boolean this time, too

---@type table<tideway.upstream, tideway.gate.round>
local rounds = setmetatable({}, { __mode = "k" })

local function complain(round, group, err)
   if round.said ~= err then
      log.warning("upstream %s: %s; its servers stay as they are", rawget(group, "name"), err)
   end
   round.said, round.bad = err, true
end

local function begin(group, round, servers)
   round.questions, round.numbers, round.asks, round.bad = {}, {}, true, false
   for _, server in ipairs(servers) do
      local host = upstream.host_of(server)
      if host and not round.questions[host] then
         local question, err = resolve.ask(host)
         if not question then complain(round, group, err) end
         round.questions[host] = question
      end
   end
end

-- True: all answers are there.
local function collect(group, round)
   for host, question in pairs(round.questions) do
      local list, err = resolve.answer(question)
      if list ~= false then
         round.questions[host], round.numbers[host] = nil, list
         if not list then complain(round, group, err) end
      end
   end
   return not next(round.questions)
end

local function same(a, b)
   for i = 1, math.max(#a, #b) do
      if a[i] ~= b[i] then return false end
   end
   return true
end

-- False: another change is being made.
local function change_servers(group, round, servers)
   local change = require "tideway.change"
   local list, err = upstream.renewed(servers, round.numbers)
   if not list then return complain(round, group, err) end
   if same(list, servers) then return end
   if change.busy() then return false end
   local ok, refused = pcall(change.transaction, function() model.edit(group).servers = list end, "the resolver")
   if not ok then return complain(round, group, tostring(refused)) end
   local texts = {}
   for i, server in ipairs(list) do texts[i] = server.name end
   log.info("upstream %s: the resolver has other addresses; its servers are %s", rawget(group, "name"),
      table.concat(texts, ", "))
end

-- Seconds until it wants to be called again.
local function turn(group, state, now)
   local every = state.options.resolve * 1e9
   local round = rounds[group]
   if not round then
      round = { due = now + every, asks = false, bad = false }
      rounds[group] = round
   end
   if not round.asks and now >= round.due then begin(group, round, state.servers) end
   if round.asks then
      if not collect(group, round) or change_servers(group, round, state.servers) == false then return LOOK end
      round.asks, round.due = false, now + every
      if not round.bad then round.said = nil end
   end
   return (round.due - now) / 1e9
end

--- A duty of the control thread.
---@return number? seconds until the next look
function M.look()
   if not model.live then return nil end
   local now, next_look = tonumber(C.tw_now()), nil
   for _, group in ipairs(model.running.groups) do
      local state = model.running.state[group]
      if state.options.resolve then next_look = math.min(next_look or math.huge, turn(group, state, now)) end
   end
   return next_look
end

return M
