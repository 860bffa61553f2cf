-- SPDX-License-Identifier: BSD-3-Clause
-- What bursts do: loss and latency of n packets back to back for growing n, and the longest burst that passes whole
-- (RFC 2544, 26.4, as RFC 9004 has it).

local trials = require "tideway.bench.search.trials"

local M = {}

local RESPONSE = {
   sizes = false, low = 1, high = 65536, factor = 2, times = 10, lossy_sizes = 3, progress = false,
}
local LONGEST = { low = 1, high = 1e6, times = 50, precision = 0.01, progress = false }

---@class tideway.bench.search.burst_row
---@field size integer packets
---@field times integer bursts sent
---@field lossy integer bursts that lost something
---@field sent integer
---@field lost integer
---@field latency? table histogram of all, ns

local function sender(send, list)
   return function(size)
      local result, err = send(size)
      if not result then
         trials.stop("a burst of %d packets failed: %s", size, tostring(err or "it says no reason"))
      end
      if result.sent ~= size then
         trials.stop("a burst of %d packets was asked for and %d were sent: the source has no room for more at once, "
            .. "or its chain does not run", size, result.sent)
      end
      list[#list + 1] = { rate = result.reached, sent = result.sent, lost = result.lost, seconds = result.seconds }
      return result
   end
end

local function sizes_of(o)
   if o.sizes then
      for i, size in ipairs(o.sizes) do
         trials.range("burst response", ("sizes[%d]"):format(i), size, 1, math.huge)
      end
      return o.sizes
   end
   trials.range("burst response", "low", o.low, 1, o.high)
   trials.range("burst response", "factor", o.factor, 1, math.huge, true)
   local list, size = {}, o.low
   while size < o.high do
      list[#list + 1] = math.floor(size)
      size = math.max(math.floor(size) + 1, size * o.factor)
   end
   list[#list + 1] = o.high
   return list
end

local function row_of(send, size, times)
   local row = { size = size, times = 0, lossy = 0, sent = 0, lost = 0 }
   for _ = 1, times do
      local result = send(size)
      row.times, row.sent, row.lost = row.times + 1, row.sent + result.sent, row.lost + result.lost
      if result.lost > 0 then row.lossy = row.lossy + 1 end
      if row.latency and result.latency then row.latency:merge(result.latency) end
      row.latency = row.latency or result.latency
   end
   return row
end

local function response_sentence(found, stopped)
   local text
   if found.shortest then
      text = ("bursts of %d packets lose %s; the longest that never lost a packet: %s"):format(found.shortest.size,
         trials.percent(found.shortest.lost / found.shortest.sent),
         found.longest and ("%d packets"):format(found.longest) or "none")
   elseif found.longest then
      text = ("no burst of up to %d packets lost a packet"):format(found.longest)
   end
   return stopped and text and stopped .. "; so far: " .. text or stopped or text
end

--- Loss and latency of bursts by their size.
---@param send fun(size: integer): tideway.bench.trial?, string? sends a burst into an idle path and waits for it
---@param options? table `sizes`: list of packets; or `low` (1), `high` (65536), `factor` (2); `times`: bursts of each
--- size (10); `lossy_sizes`: it ends after so many sizes with loss (3); `progress(text)`
---@return { rows: tideway.bench.search.burst_row[], longest: integer?, shortest: tideway.bench.search.burst_row?,
--- stopped: string?, why: string, trials: table[] } longest: packets of the longest burst of which, and of all shorter
--- ones, none lost a packet; shortest: the row of the first that did
function M.response(send, options)
   local o = trials.options("burst response", options, RESPONSE)
   local found, list = { rows = {} }, {}
   found.trials = list
   local sizes, lossy = sizes_of(o), 0
   send = sender(send, list)
   found.stopped = trials.guard(function()
      for i, size in ipairs(sizes) do
         if o.progress then o.progress(("bursts of %d packets"):format(size), i, #sizes) end
         local row = row_of(send, size, o.times)
         found.rows[#found.rows + 1] = row
         if row.lost > 0 then
            lossy, found.shortest = lossy + 1, found.shortest or row
         elseif not found.shortest then
            found.longest = size
         end
         if lossy >= o.lossy_sizes then break end
      end
   end)
   found.why = response_sentence(found, found.stopped)
   return found
end

-- The longest burst without loss, near a guess. Returns the size (0: not even the shortest) and whether there is none
-- longer allowed.
local function longest_once(send, o, guess)
   local good, bad = 0, nil
   local size, step = guess, math.max(1, math.floor(guess * o.precision))
   repeat
      if send(size).lost == 0 then good = size else bad = size end
      if not bad then
         if good >= o.high then return good, true end
         size, step = math.min(o.high, good + step), step * 2
      elseif good == 0 then
         if bad <= o.low then return 0, false end
         size, step = math.max(o.low, bad - step), step * 2
      else
         size = math.floor((good + bad) / 2)
      end
   until good > 0 and bad and (bad - good <= 1 or bad - good <= o.precision * bad)
   return good, false
end

--- The longest burst that passes without loss, searched many times.
---@param send fun(size: integer): tideway.bench.trial?, string?
---@param options? table `low` (1), `high` (1,000,000): limits in packets; `times`: searches (50, as RFC 9004 asks);
--- `precision`: how far the bounds of a search may be apart, as a part of the upper one (0.01); `progress(text)`
---@return { values: integer[], average: number?, min: integer?, max: integer?, deviation: number?, capped: boolean,
--- stopped: string?, trials: table[] } capped: the longest one allowed passed without loss
function M.longest(send, options)
   local o = trials.options("longest burst", options, LONGEST)
   trials.range("longest burst", "low", o.low, 1, o.high)
   local found = { values = {}, trials = {}, capped = false }
   send = sender(send, found.trials)
   found.stopped = trials.guard(function()
      local guess = math.min(o.high, math.max(o.low, 64))
      for i = 1, o.times do
         if o.progress then o.progress(("longest burst, about %d packets"):format(guess), i, o.times) end
         local size, capped = longest_once(send, o, guess)
         found.values[i], found.capped = size, found.capped or capped
         if capped then break end -- more of the same say nothing
         guess = math.max(o.low, size)
      end
   end)
   local n, sum, squares = #found.values, 0, 0
   if n == 0 then return found end
   for _, v in ipairs(found.values) do sum = sum + v end
   for _, v in ipairs(found.values) do squares = squares + (v - sum / n) ^ 2 end
   found.average, found.deviation = sum / n, math.sqrt(squares / math.max(1, n - 1))
   found.min, found.max = math.min(unpack(found.values)), math.max(unpack(found.values))
   return found
end

return M
