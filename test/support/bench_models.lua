-- SPDX-License-Identifier: BSD-3-Clause
-- Models of paths with a known answer: functions trial(rate, seconds) as searches take them, without an engine.

local M = {}

-- The same every time, unlike math.random, which other specs share.
local function random(seed)
   local state = seed
   return function()
      state = (state * 16807) % 2147483647
      return state / 2147483647
   end
end
M.random = random

local function result(rate, reached, seconds, lost)
   local sent = math.floor(reached * seconds + 0.5)
   lost = math.max(0, math.min(sent, math.floor(lost + 0.5)))
   return { offered = rate, reached = reached, sent = sent, received = sent - lost, lost = lost, seconds = seconds }
end

--- A path that forwards `most` packets a second and drops the rest, behind a buffer.
---@param spec { most: number, source: number?, buffer: number?, noise: (fun(rate: number, seconds: number): number)? }
--- `source`: what the source can do; `buffer`: packets; `noise`: packets lost in addition
function M.limiter(spec)
   return function(rate, seconds)
      local source = spec.source or math.huge
      local reached = math.min(rate or source, source)
      local over = math.max(0, (reached - spec.most) * seconds - (spec.buffer or 0))
      return result(rate, reached, seconds, over + (spec.noise and spec.noise(reached, seconds) or 0))
   end
end

--- Hiccups: each second with this probability the path stands still for so long and loses what comes in that time.
function M.hiccups(probability, still, seed)
   local next_random = random(seed or 1)
   return function(rate, seconds)
      local lost, left = 0, seconds
      while left > 1e-9 do
         local part = math.min(1, left)
         if next_random() < probability * part then lost = lost + rate * still end
         left = left - part
      end
      return lost
   end
end

--- Each packet is lost with a probability that grows with the rate: share(rate).
function M.leaky(share)
   return function(rate, seconds) return result(rate, rate, seconds, rate * seconds * share(rate)) end
end

--- A buffer in front of what forwards `most` packets a second while `source` come: a burst is longer than it takes when
--- more than `buffer` have to wait.
---@param spec { most: number, source: number, buffer: integer }
---@return fun(count: integer): table send
function M.buffer(spec)
   return function(count)
      local lost = math.max(0, math.floor(count * (1 - spec.most / spec.source) - spec.buffer))
      return {
         sent = count, received = count - lost, lost = lost, seconds = count / spec.source, reached = spec.source,
      }
   end
end

--- A histogram of known times.
---@param from integer ns
---@param to integer
function M.times(from, to)
   local h = require("tideway.bench.histogram").histogram { clock = "tsc" }
   for ns = from, to do h:record(ns) end
   return h
end

--- A clock of its own, and a flow that runs by it. `behave(t, counts)` changes the counts at a time, all since the start.
---@param rate number
---@param behave fun(t: number, counts: table)
function M.flow(rate, behave)
   local clock = { at = 0 }
   function clock.now() return clock.at end
   function clock.sleep(seconds) clock.at = clock.at + seconds end
   local function counts()
      local t = clock.at
      local c = { sent = math.floor(rate * t), lost = 0 }
      c.received = c.sent
      behave(t, c)
      c.received = c.received - c.lost
      return c
   end
   local flow = {}
   function flow.read()
      local c = counts()
      if c.gone then return nil, c.gone end
      return c
   end
   function flow.stop()
      local c = counts()
      clock.stopped = true
      return c
   end
   return function() return flow end, clock
end

--- What an experiment gets, without an engine.
---@param seconds? number as on the command line
function M.context(seconds)
   local context = { rounds = 3, seconds = seconds or 0.5, quick = false, given = { seconds = seconds ~= nil }, said = {} }
   function context.sleep() end
   function context.progress(text) table.insert(context.said, text) end
   return context
end

--- Raises unless a value is within a part of what is expected.
function M.near(expected, value, part)
   if type(value) == "number" and math.abs(value - expected) <= part * expected then return end
   error(("%s is not within %g %% of %s"):format(tostring(value), part * 100, expected), 2)
end

return M
