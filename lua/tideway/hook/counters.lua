-- SPDX-License-Identifier: BSD-3-Clause
-- Counters of chains on hooks: their programs count what leaves, per stage, verdict and CPU; the control thread adds it
-- up into struct tw_stats, in a slot of its own behind those of the lcores.
--
-- What was received is the sum of what left, so the rows of a chain add up by construction.

local ffi = require "ffi"
local abi = require "tideway.abi"
local backing = require "tideway.bpf.backing"

local C = abi.C
local M = {}

local SLOT = C.TW_LCORES_MAX - 1

---@class tideway.hook.run a program that runs or ran
---@field exits table[] { stage, kind, argument } of tideway.compiled
---@field exit_table table
---@field final table[]? in place of both: what left, of programs that run no more
---@field copies integer packets that a flood makes of one
---@field stages integer
---@field at table<integer, integer> its stage -> that of the chain now, from 0; none: the NF is gone

local GONE = C.TW_STAGE_GONE

--- Stages that are where they were.
---@param stages integer
---@return table<integer, integer>
function M.in_order(stages)
   local at = {}
   for s = 0, stages - 1 do at[s] = s end
   return at
end

--- Where the stages of programs are now.
---@param runs tideway.hook.run[]
---@return table<tideway.hook.run, table>
function M.places(runs)
   local places = {}
   for _, run in ipairs(runs) do places[run] = run.at end
   return places
end

--- Some stage's number after others were put in or taken out.
---@param from table<integer, integer> new -> old, from 1
---@return fun(stage: integer): integer old -> new, from 0
function M.mapping(from)
   local to = {}
   for new, old in pairs(from) do to[old - 1] = new - 1 end
   return function(stage)
      if stage >= GONE then return stage end
      return to[stage] or GONE
   end
end

--- The chain's stages have other numbers from now on.
---@param runs tideway.hook.run[]
---@param from table<integer, integer> new -> old, from 1
---@param places table of M.places() before; those that are not in it have the new numbers
---@param again? table of M.places() when the chain was as it is now
function M.renumber(runs, from, places, again)
   local map = M.mapping(from)
   for _, run in ipairs(runs) do
      if again and again[run] then
         run.at = again[run]
      elseif places[run] then
         local at = {}
         for s, now in pairs(run.at) do at[s] = map(now) end
         run.at = at
      end
   end
end

local function new_row(stages)
   local row = {
      rx = 0, rx_bytes = 0, originated = 0, sent = 0, sent_bytes = 0, passed = 0, dropped = 0, held = 0, punted = 0,
      faults = 0, stage_in = {}, drops = {},
   }
   for s = 0, stages - 1 do row.stage_in[s] = 0 end
   return row
end

local function add_drop(row, stage, reason, packets)
   local id = C.tw_reason_id(reason)
   if id < 0 then error(abi.error(), 0) end
   row.drops[stage] = row.drops[stage] or {}
   row.drops[stage][id] = (row.drops[stage][id] or 0) + packets
   row.dropped = row.dropped + packets
end

local function add_sent(row, run, kind, packets, bytes)
   local copies = 1
   if kind == "flood" then copies = run.copies end
   row.sent, row.sent_bytes = row.sent + packets * copies, row.sent_bytes + bytes * copies
   row.originated = row.originated + packets * (copies - 1)
   if kind == "pass" then row.passed = row.passed + packets end
end

local function add_exit(row, run, exit, packets, bytes)
   row.rx, row.rx_bytes = row.rx + packets, row.rx_bytes + bytes
   for s = 0, math.min(exit.stage, run.stages - 1) do
      row.stage_in[run.at[s]] = (row.stage_in[run.at[s]] or 0) + packets
   end
   local stage = run.at[exit.stage] or C.TW_STAGE_ENGINE
   if exit.kind == "drop" then
      add_drop(row, stage, exit.argument, packets)
   elseif exit.kind == "punt" then
      row.punted = row.punted + packets
   elseif exit.kind == "flood" and run.copies == 0 then
      add_drop(row, stage, "no_sink", packets)
   else
      add_sent(row, run, exit.kind, packets, bytes)
   end
end

--- What left a program so far: { stage, kind, argument, packets, bytes } for each way out that was taken.
---@param run tideway.hook.run
---@return table[]
function M.exits(run)
   if run.final then return run.final end
   local map, list = assert(backing.of(run.exit_table)), {}
   for i, exit in ipairs(run.exits) do
      local entry = map:sum(i - 1)
      local packets = tonumber(entry.packets)
      if packets > 0 then
         list[#list + 1] = {
            stage = exit.stage, kind = exit.kind, argument = exit.argument, packets = packets,
            bytes = tonumber(entry.bytes),
         }
      end
   end
   return list
end

local function key_of(exit) return ("%d:%s:%s"):format(exit.stage, exit.kind, tostring(exit.argument)) end

-- Adds what left to a list of the same.
local function add_final(list, more)
   local known = {}
   for _, exit in ipairs(list) do known[key_of(exit)] = exit end
   for _, exit in ipairs(more) do
      local same = known[key_of(exit)]
      if same then
         same.packets, same.bytes = same.packets + exit.packets, same.bytes + exit.bytes
      else
         list[#list + 1] = exit
      end
   end
end

local function same_places(a, b)
   for s = 0, a.stages - 1 do
      if a.at[s] ~= b.at[s] then return false end
   end
   return a.stages == b.stages and a.copies == b.copies
end

--- A program runs no more: its counts are kept, its map is not. Those of programs alike become one run.
---@param runs tideway.hook.run[]
---@param exit_table table
function M.fold(runs, exit_table)
   for i, run in ipairs(runs) do
      if run.exit_table == exit_table then
         run.final, run.exit_table = M.exits(run), nil
         backing.of(exit_table):free()
         for _, other in ipairs(runs) do
            if other ~= run and other.final and same_places(other, run) then
               add_final(other.final, run.final)
               table.remove(runs, i)
               return
            end
         end
         return
      end
   end
end

local ADDED = { "originated", "sent", "sent_bytes", "passed", "dropped", "punted", "faults" }

-- What became of the packets that were punted. Those in the ring and those that wait are in flight; a program counts a
-- packet just after it has put it into the ring.
local function add_punts(row, punts)
   local counts, late = punts.counts, math.max(0, punts.taken - row.punted)
   row.rx, row.punted = row.rx + late, row.punted + late
   row.held = row.punted - punts.taken + punts.held
   for _, key in ipairs(ADDED) do row[key] = row[key] + counts[key] end
   for stage, n in pairs(counts.stage_in) do row.stage_in[stage] = (row.stage_in[stage] or 0) + n end
   for stage, drops in pairs(counts.drops) do
      row.drops[stage] = row.drops[stage] or {}
      for id, n in pairs(drops) do row.drops[stage][id] = (row.drops[stage][id] or 0) + n end
   end
end

local CHAIN = {
   "rx", "rx_bytes", "originated", "sent", "sent_bytes", "passed", "dropped", "held", "punted", "faults",
}

local function write(index, row, renumbered)
   local slot = C.tw_stats().lcore[SLOT]
   slot.heartbeat = 1 -- readers count slots that were used
   for _, key in ipairs(CHAIN) do slot.chain[index][key] = row[key] end
   if renumbered then ffi.fill(slot.stage_in[index], ffi.sizeof(slot.stage_in[index])) end
   for s, n in pairs(row.stage_in) do slot.stage_in[index][s] = n end
   if renumbered then ffi.fill(slot.drops[index], ffi.sizeof(slot.drops[index])) end
   for stage, drops in pairs(row.drops) do
      for id, n in pairs(drops) do slot.drops[index][stage][id] = n end
   end
end

--- Bring a chain's row in the counters up to date.
---@param index integer of the chain
---@param runs tideway.hook.run[] all its programs, those that were replaced too
---@param stages integer
---@param punts? tideway.hook.punts
---@param renumbered? boolean the stages had other numbers the last time
function M.refresh(index, runs, stages, punts, renumbered)
   local row = new_row(stages)
   for _, run in ipairs(runs) do
      for _, exit in ipairs(M.exits(run)) do add_exit(row, run, exit, exit.packets, exit.bytes) end
   end
   if punts then add_punts(row, punts) end
   write(index, row, renumbered)
end

local function move(to, from, key)
   to[key], from[key] = to[key] + from[key], 0
end

--- The chain runs on no hook any more: what it has counted goes to the counts of chains that are gone. What it received
--- and sent was no port's; from now on it is that of ports that are gone.
---@param index integer
function M.retire(index)
   local slot = C.tw_stats().lcore[SLOT]
   local from, to, port = slot.chain[index], slot.chain[C.TW_CHAIN_GONE], slot.port[C.TW_PORT_GONE]
   port.rx_packets, port.rx_bytes = port.rx_packets + from.rx, port.rx_bytes + from.rx_bytes
   port.tx_packets, port.tx_bytes = port.tx_packets + from.sent, port.tx_bytes + from.sent_bytes
   for _, key in ipairs(CHAIN) do move(to, from, key) end
   for s = 0, C.TW_STAGES_MAX - 1 do
      local stage = s == C.TW_STAGE_ENGINE and s or GONE
      slot.stage_in[C.TW_CHAIN_GONE][stage] = slot.stage_in[C.TW_CHAIN_GONE][stage] + slot.stage_in[index][s]
      for id = 0, C.tw_stats().reasons - 1 do
         local drops = slot.drops[C.TW_CHAIN_GONE][stage]
         drops[id] = drops[id] + slot.drops[index][s][id]
      end
   end
   ffi.fill(slot.stage_in[index], ffi.sizeof(slot.stage_in[index]))
   ffi.fill(slot.drops[index], ffi.sizeof(slot.drops[index]))
end

return M
