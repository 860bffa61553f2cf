-- SPDX-License-Identifier: BSD-3-Clause
-- The engine as a service of systemd: says that it is ready, reloads, stops and how it is, and feeds the watchdog of
-- the service manager as long as every lcore turns. Without NOTIFY_SOCKET in the environment nothing of it happens.

local abi = require "tideway.abi"
local change = require "tideway.change"
local engine = require "tideway.engine"
local log = require "tideway.log"
local loop = require "tideway.loop"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local reloading = require "tideway.change.reload"
local stats = require "tideway.stats"
local stats_text = require "tideway.stats_text"

local C = abi.C
local M = {}

local STATUS_PERIOD = 5

local path -- of the service manager's socket
local timers = {}

--- Tell the service manager.
---@param ... string "READY=1", "STATUS=..."
function M.notify(...)
   if not path then return end
   local ok, err = net.datagram(path, table.concat({ ... }, "\n"))
   if not ok then log.warning("the service manager does not hear us at %s: %s", path, err) end
end

-- ---- the watchdog ----

-- When each lcore was last seen to turn.
local turned

local function look_at_lcores(now)
   local counters, seen = C.tw_stats(), {}
   for _, lcore in ipairs(engine.lcores or {}) do
      local at = turned[lcore.slot] or { beat = -1, since = now }
      local beat = tonumber(counters.lcore[lcore.slot].heartbeat)
      if beat ~= at.beat or lcore.cpu == "step" then at.beat, at.since, at.said = beat, now, nil end
      at.cpu, seen[lcore.slot] = lcore.cpu, at
   end
   turned = seen -- without those that a change took away
end

-- One that sleeps until packets come turns at every tick still.
local function feed(period)
   local now, patience = posix.now(), math.max(period * 2, C.tw_options().tick_ms * 3 / 1000)
   look_at_lcores(now)
   for _, at in pairs(turned) do
      local still = (now - at.since) / 1e9
      if still > patience then
         if not at.said then
            log.error("the lcore on CPU %s has not turned for %.1f s: the watchdog of the service manager is not fed",
               tostring(at.cpu), still)
         end
         at.said = true
         return
      end
   end
   M.notify "WATCHDOG=1"
end

local function start_watchdog()
   local interval, pid = tonumber(os.getenv "WATCHDOG_USEC"), tonumber(os.getenv "WATCHDOG_PID")
   if not interval or (pid and pid ~= posix.getpid()) then return end
   local period = interval / 1e6 / 3
   turned = {}
   timers[#timers + 1] = loop.every(period, function() feed(period) end)
end

-- ---- how it is ----

local function start_status()
   local before, at = engine.snapshot(), posix.now()
   timers[#timers + 1] = loop.every(STATUS_PERIOD, function()
      local now, snapshot = posix.now(), engine.snapshot()
      M.notify("STATUS=" .. stats_text.line(stats.rates(before, snapshot, (now - at) / 1e9)))
      before, at = snapshot, now
   end)
end

--- The engine runs.
---@param status string
function M.ready(status)
   path = os.getenv "NOTIFY_SOCKET"
   if path == "" then path = nil end
   if not path then return end
   M.notify("READY=1", "STATUS=" .. status)
   start_watchdog()
   start_status()
end

--- It takes up a new configuration. M.ready or M.reloaded follows.
function M.reloading() M.notify("RELOADING=1", ("MONOTONIC_USEC=%.0f"):format(posix.now() / 1e3)) end

--- It has, or has not.
---@param status string
function M.reloaded(status) M.notify("READY=1", "STATUS=" .. status) end

-- ---- SIGHUP ----

-- Runs the script again; what it is refused for is said, and the engine goes on as before.
local function reload()
   if change.busy() then
      loop.after(0.05, reload)
      return
   end
   M.reloading()
   local ok, report = pcall(function()
      return select(2, change.transaction(function() reloading.reload() end, "SIGHUP"))
   end)
   local sentence = not ok and "refused: " .. tostring(report) or report or "nothing changed"
   if ok then log.info("reload (SIGHUP): %s", sentence) else log.error("reload (SIGHUP): %s", sentence) end
   M.reloaded("reload: " .. sentence:match "[^\n]*")
end

--- Reload on SIGHUP; stop when it came because the terminal is gone.
---@param fd integer from posix.signal_fd
---@param stop fun()
function M.watch_hangup(fd, stop)
   local terminal = posix.isatty(0)
   loop.watch(fd, "r", function()
      posix.read(fd, 128)
      if terminal and not posix.isatty(0) then stop() else reload() end
   end)
end

--- It stops.
function M.stopping()
   M.notify("STOPPING=1", "STATUS=stopping")
   for _, timer in ipairs(timers) do loop.cancel(timer) end
   timers, path, turned = {}, nil, nil
end

return M
