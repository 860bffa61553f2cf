-- SPDX-License-Identifier: BSD-3-Clause
-- Load inside of one engine: a source that paces and numbers packets of net_null, and a check behind the chain under
-- test that finds what was lost, what came out of order, and how long each took. They talk to the spec by a table.

local ffi = require "ffi"
local tw = require "tideway"

local M = {}

local FLOWS = 16
local WINDOW = 16384 -- packets under way: another process may have the CPU of the chain under test for a while
local BUCKETS = 20000 -- of a microsecond each; the last one has all that took longer

-- Words of the table.
local RATE, PHASE, SENT, SEEN, LOST, REORDERED, WORST, STOP = 0, 1, 2, 3, 4, 5, 6, 7
M.WORDS = { stop = STOP, rate = RATE, phase = PHASE, sent = SENT, seen = SEEN, lost = LOST, reordered = REORDERED, worst = WORST }

ffi.cdef "struct spec_stamp { uint8_t head[48]; uint32_t phase, flow; uint64_t number, sent; };"

--- Tables of a load.
---@return table words
---@return table delays counts by microsecond
function M.tables()
   return tw.array { name = "load.words", value = "u64", entries = 16, keep = true },
      tw.array { name = "load.delays", value = "u32", entries = BUCKETS, keep = true }
end

--- The source: takes from net_null what the rate allows, and drops the rest.
---@param words table
---@param frame string at least 48 bytes: the head of each packet
function M.source(words, frame)
   local start, sent, rate, phase = 0, 0, 0, 0
   local numbers = {}
   for flow = 0, FLOWS - 1 do numbers[flow] = 0 end
   return tw.nf("load_source", function()
      return {
         burst = function(batch)
            local now, wanted = tw.now(), tonumber(words:get(RATE))
            if wanted ~= rate or tonumber(words:get(PHASE)) ~= phase then
               start, sent, rate, phase = now, 0, wanted, tonumber(words:get(PHASE))
               words:set(SEEN, 0)
               for flow = 0, FLOWS - 1 do numbers[flow] = 0 end
            end
            local allowed = math.floor((now - start) * rate / 1e9) - sent
            if words:get(STOP) ~= 0 then allowed = 0 end
            local room = WINDOW - (sent - tonumber(words:get(SEEN)))
            if allowed > room then
               allowed = math.max(0, room)
               start = now - (sent + allowed) / rate * 1e9 -- what was not sent is not made up for
            end
            for i = 0, batch.count - 1 do
               local pkt = batch.pkts[i]
               if i < allowed then
                  local stamp, flow = ffi.cast("struct spec_stamp *", pkt.data), sent % FLOWS
                  ffi.copy(stamp, frame, 48)
                  stamp.phase, stamp.flow, stamp.number, stamp.sent = phase, flow, numbers[flow], now
                  numbers[flow] = numbers[flow] + 1
                  sent = sent + 1
               else
                  pkt:drop "paced"
               end
            end
            words:set(SENT, sent)
         end,
      }
   end) {}
end

--- The check: counts and forgets.
---@param words table
---@param delays table
function M.check(words, delays)
   local phase, seen, lost, reordered, worst = 0, 0, 0, 0, 0
   local expected = {}
   local function begin(now)
      phase, seen, lost, reordered, worst = now, 0, 0, 0, 0
      for flow = 0, FLOWS - 1 do expected[flow] = 0 end
   end
   begin(0)
   return tw.nf("load_check", function()
      return {
         burst = function(batch)
            local now, wanted = tw.now(), tonumber(words:get(PHASE))
            if wanted ~= phase then begin(wanted) end
            for i = 0, batch.count - 1 do
               local pkt = batch.pkts[i]
               local stamp = ffi.cast("struct spec_stamp *", pkt.data)
               if stamp.phase == phase then
                  local flow, number = stamp.flow, tonumber(stamp.number)
                  seen = seen + 1
                  if number < expected[flow] then
                     reordered = reordered + 1
                  else
                     lost, expected[flow] = lost + number - expected[flow], number + 1
                  end
                  local delay = now - tonumber(stamp.sent)
                  if delay > worst then worst = delay end
                  delays:add(math.min(BUCKETS - 1, math.floor(delay / 1000)), 1)
               end
               pkt:drop "checked"
            end
            words:set(SEEN, seen)
            words:set(LOST, lost)
            words:set(REORDERED, reordered)
            words:set(WORST, worst)
         end,
      }
   end) {}
end

--- How long packets took so far, in microseconds.
---@param delays table
---@return table percentiles { p50, p99, p999, count }
function M.percentiles(delays)
   local total = 0
   for i = 0, BUCKETS - 1 do total = total + delays:get(i) end
   local out, n = { count = total }, 0
   for i = 0, BUCKETS - 1 do
      n = n + delays:get(i)
      if not out.p50 and n >= total * 0.5 then out.p50 = i end
      if not out.p99 and n >= total * 0.99 then out.p99 = i end
      if not out.p999 and n >= total * 0.999 then out.p999 = i end
   end
   return out
end

return M
