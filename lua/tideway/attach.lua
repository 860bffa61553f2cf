-- SPDX-License-Identifier: BSD-3-Clause
-- The counters of an instance that runs: what top, graph and metrics read. Those of packets are mapped from its run
-- directory, those of its gate are asked for at its control socket.

local ffi = require "ffi"
local lfs = require "lfs"
local posix = require "tideway.posix"
local rundir = require "tideway.rundir"
local stats = require "tideway.stats"
require "tideway.abi"

local M = {}

local function running_names(list)
   local names = {}
   for _, instance in ipairs(list) do
      if instance.alive then names[#names + 1] = instance.name end
   end
   return names
end

--- The instance of this name, or the youngest that runs.
---@param name? string
---@return tideway.instance? instance
---@return string[]|string names_or_error the names of all that run
function M.find(name)
   local list = rundir.instances()
   for _, instance in ipairs(list) do
      if instance.alive and (not name or instance.name == name) then return instance, running_names(list) end
   end
   local names = running_names(list)
   if #names == 0 then
      return nil, ("no instance runs (looked in %s); start one: tideway run SCRIPT"):format(
         table.concat(rundir.bases(), ", "))
   end
   return nil, ("no instance named '%s' runs; these do: %s"):format(name, table.concat(names, ", "))
end

local function map(instance)
   local size, own = ffi.sizeof "struct tw_stats", tonumber(ffi.C.TW_ABI_VERSION)
   if instance.abi ~= 0 and instance.abi ~= own then
      return nil, ("instance '%s' (pid %d) has ABI %d, this tideway has ABI %d: use the tideway that started it")
         :format(instance.name, instance.pid, instance.abi, own)
   end
   local found = lfs.attributes(instance.stats, "size") or 0
   if instance.abi == 0 then return nil, ("instance '%s' is starting; try again"):format(instance.name) end
   if found ~= size then
      return nil, ("the counters of '%s' have %d bytes, not %d: it is another build of tideway; use that one")
         :format(instance.name, found, size)
   end
   local address, err = posix.map_file(instance.stats, size)
   if not address then return nil, ("cannot map %s: %s"):format(instance.stats, err) end
   return address
end

---@class tideway.attached
---@field instance tideway.instance
---@field names string[] of all instances that run
---@field counters ffi.cdata* const struct tw_stats *
---@field anchor ffi.cdata* the mapping, which lives as long as this
local Attached = {}
Attached.__index = Attached

-- Who has a gate says so when one says hello; who may not ask sees the counters of packets alone.
local function gate_client(instance)
   local client = require("tideway.control.client").open(instance, 2)
   if not client then return nil end
   if client.hello.gate then return client end
   client:close()
end

--- Map the counters of the instance of this name, or of the youngest that runs.
---@param name? string
---@return tideway.attached?
---@return string? error
function M.open(name)
   local instance, names = M.find(name)
   if not instance then return nil, names end
   local anchor, err = map(instance)
   if not anchor then return nil, err end
   local self = setmetatable({
      instance = instance, names = names, anchor = anchor, counters = ffi.cast("const struct tw_stats *", anchor),
   }, Attached)
   self.client = gate_client(instance)
   return self
end

--- The counters now.
---@return tideway.stats.snapshot
function Attached:snapshot()
   local snap = stats.snapshot(self.counters)
   if self.client then
      local reply = self.client:call("gate", {}, { seconds = 5 })
      if reply.ok and reply.view then snap.gate = reply.view.data end
      if reply.gone then self.client = nil end
   end
   return snap
end

--- The counters now, and the rates since the call before (nil the first time).
---@return tideway.stats.snapshot
---@return table? rates as stats.rates() gives them
function Attached:sample()
   local snap, now = self:snapshot(), posix.now()
   local rates = self.last and stats.rates(self.last, snap, (now - self.last_at) / 1e9)
   if rates and snap.gate then
      rates.gate = require("tideway.gate.figures").rates(self.last.gate, snap.gate, (now - self.last_at) / 1e9)
   end
   self.last, self.last_at = snap, now
   return snap, rates
end

--- Does it still run?
---@return boolean
function Attached:alive() return posix.alive(self.instance.pid) end

return M
