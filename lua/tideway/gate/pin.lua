-- SPDX-License-Identifier: BSD-3-Clause
-- Where the functions of a chain of messages run: what pin { worker = ... } says, checked.

local fields = require "tideway.gate.fields"
local nearest = require "tideway.live.nearest"

local M = {}

---@class tideway.gate.pin
---@field worker "sk_msg"|"rings"|"inline"
---@field instances table<string, integer> of functions that have another number than one
---@field cpu table<string, integer> by function
---@field memory_mb integer
---@field cpu_percent integer
---@field stuck number seconds
---@field pool_mb integer
---@field whole_bytes integer

--- What pin may be told, besides instances and cpu.
---@type table<string, tideway.gate.field>
M.FIELDS = {
   worker = { kind = "choice", default = "sk_msg", choices = { "sk_msg", "rings", "inline" },
      doc = "processes reached through the kernel's sk_msg programs, through rings that they poll, or none: the "
         .. "functions run in the gate's threads" },
   memory_mb = { kind = "count", default = 64, min = 8, max = 65536, doc = "of an instance's Lua heap, MB" },
   cpu_percent = { kind = "count", default = 0, min = 0, max = 100, doc = "of one CPU, by cgroup; 0: no limit" },
   stuck = { kind = "seconds", default = 0.04, min = 0.005, max = 60,
      doc = "CPU time in one message before an instance is taken for stuck" },
   pool_mb = { kind = "count", default = 64, min = 8, max = 65536, doc = "of the memory that messages lie in, MB" },
   whole_bytes = { kind = "bytes", default = 1048576, min = 4096, max = 64 * 1048576,
      doc = "of a body that a function wants whole: larger requests get 413, responses pass" },
}

local KEYS = { instances = true, cpu = true }

local INSTANCES_MAX = 32

local function whole(value, min, max)
   return type(value) == "number" and value % 1 == 0 and value >= min and value <= max
end

-- A number for all functions, or numbers by function.
local function by_function(key, value, names, min, max)
   local out = {}
   if type(value) ~= "table" then value = { ["*"] = value } end
   for name, n in pairs(value) do
      local known = name == "*"
      for _, other in ipairs(names) do known = known or other == name end
      if not known then
         return nil, ("%s: there is no function %q%s"):format(key, tostring(name), nearest.hint(tostring(name), names))
      end
      if not whole(n, min, max) then
         return nil, ("%s%s is %s; it is a whole number from %d to %d"):format(key,
            name == "*" and "" or " of " .. name, tostring(n), min, max)
      end
      out[name] = n
   end
   return out
end

--- The number of something for a function.
---@param list table<string, integer>
---@param name string
---@return integer?
function M.of(list, name)
   if list[name] ~= nil then return list[name] end
   return list["*"]
end

--- How many instances of a function there are to be.
---@param pin tideway.gate.pin
---@param name string
---@return integer
function M.instances(pin, name) return M.of(pin.instances, name) or 1 end

--- How many processes the functions of a chain are.
---@param pin tideway.gate.pin
---@param names string[] of its functions
---@return integer
function M.processes(pin, names)
   if pin.worker == "inline" then return 0 end
   local n = 0
   for _, name in ipairs(names) do n = n + M.instances(pin, name) end
   return n
end

--- The same pin with another value of one key.
---@param pin tideway.gate.pin
---@param key string
---@param value any
---@return tideway.gate.pin
function M.with(pin, key, value)
   local out = {}
   for k, v in pairs(pin) do out[k] = v end
   out[key] = value
   return out
end

--- Check what pin was given.
---@param place table
---@param names string[] of the chain's functions
---@return tideway.gate.pin? pin
---@return string? err
function M.parse(place, names)
   if type(place) ~= "table" then return nil, "pin takes a table such as { worker = \"sk_msg\" }" end
   if place.lcore ~= nil or place.step ~= nil then
      return nil, "lcores take packets, and this chain is behind a listener; its places are worker = \"sk_msg\", "
         .. "\"rings\" or \"inline\""
   end
   local pin, err = fields.check(place, M.FIELDS, nil, KEYS)
   if not pin then return nil, err end
   pin.instances, err = by_function("instances", place.instances, names, 1, INSTANCES_MAX)
   if not pin.instances then return nil, err end
   pin.cpu, err = by_function("cpu", place.cpu, names, 0, 1023)
   if not pin.cpu then return nil, err end
   if pin.worker == "inline" and (place.instances or place.cpu) then
      return nil, ("%s is for workers; inline functions run in every thread of the gate: tw.options { gates = N, "
         .. "gate_cpus = { ... } }"):format(place.cpu and "cpu" or "instances")
   end
   return pin
end

return M
