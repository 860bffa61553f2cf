-- SPDX-License-Identifier: BSD-3-Clause
-- Counters of chains on hooks: their programs count what leaves, per stage, verdict and CPU; the control thread adds it
-- up into struct tw_stats, in a slot of its own behind those of the lcores.
--
-- What was received is the sum of what left, so the rows of a chain add up by construction.

local abi = require "tideway.abi"
local backing = require "tideway.bpf.backing"

local C = abi.C
local M = {}

local SLOT = C.TW_LCORES_MAX - 1

---@class tideway.hook.run a program that runs or ran
---@field exits table[] { stage, kind, argument } of tideway.compiled
---@field exit_table table
---@field copies integer packets that a flood makes of one
---@field stages integer

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
   for s = 0, math.min(exit.stage, run.stages - 1) do row.stage_in[s] = row.stage_in[s] + packets end
   if exit.kind == "drop" then
      add_drop(row, exit.stage < run.stages and exit.stage or C.TW_STAGE_ENGINE, exit.argument, packets)
   elseif exit.kind == "punt" then
      row.punted = row.punted + packets
   elseif exit.kind == "flood" and run.copies == 0 then
      add_drop(row, exit.stage, "no_sink", packets)
   else
      add_sent(row, run, exit.kind, packets, bytes)
   end
end

--- What left a program so far: { stage, kind, argument, packets, bytes } for each way out that was taken.
---@param run tideway.hook.run
---@return table[]
function M.exits(run)
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

local function write(index, row, stages)
   local slot = C.tw_stats().lcore[SLOT]
   slot.heartbeat = 1 -- readers count slots that were used
   for _, key in ipairs(CHAIN) do slot.chain[index][key] = row[key] end
   for s = 0, stages - 1 do slot.stage_in[index][s] = row.stage_in[s] end
   for stage, drops in pairs(row.drops) do
      for id, n in pairs(drops) do slot.drops[index][stage][id] = n end
   end
end

--- Bring a chain's row in the counters up to date.
---@param index integer of the chain
---@param runs tideway.hook.run[] all its programs, those that were replaced too
---@param stages integer
---@param punts? tideway.hook.punts
function M.refresh(index, runs, stages, punts)
   local row = new_row(stages)
   for _, run in ipairs(runs) do
      for _, exit in ipairs(M.exits(run)) do add_exit(row, run, exit, exit.packets, exit.bytes) end
   end
   if punts then add_punts(row, punts) end
   write(index, row, stages)
end

return M
