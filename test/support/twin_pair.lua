-- SPDX-License-Identifier: BSD-3-Clause
-- A compiled NF and its C twin, both in the kernel, with the same entries in their maps.
--
--    local pair, why = twin_pair.load(twin)        -- nil and a diagnostic when the compiler refuses the NF
--    local word, bytes = pair:lua(frame)           -- one run; pair:c(frame) the same in the twin
--    local text = pair:difference()                -- of the maps; nil: there is none

local ffi = require "ffi"
local abi = require "tideway.abi"
local backing = require "tideway.bpf.backing"
local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local kernel_twin = require "test.support.kernel_twin"
local loader = require "tideway.bpf.load"
local map_walk = require "tideway.bpf.map_walk"
local options = require "tideway.options"
local ringbuf = require "tideway.bpf.ringbuf"
local twins = require "test.support.twins"

local M = {}

---@class twin_pair
---@field twin twins.twin
---@field nf tideway.nf.instance
---@field compiled tideway.compiled
---@field program tideway.bpf.Program
---@field kernel table  the C program, see kernel_twin
local Pair = {}
Pair.__index = Pair

--- Gives back the tables of an instance, and their maps.
---@param nf tideway.nf.instance
function M.free(nf)
   for _, t in pairs(nf.tables or {}) do
      local map = t.hook_only and backing.of(t) or t.map
      if not t.hook_only then t:free() end
      if map then map:free() end
   end
end

-- Packets come from port 0, and go back to it with XDP_TX.
local PLACE = { counted = false, port = 0, ports = { [0] = 1 } }

-- Tables for 65,536 IPv6 prefixes are large; when DPDK runs already it has what it has.
local function want_memory()
   if not abi.C.tw_eal_info().started then options.options { no_huge = true, memory_mb = 2048 } end
end

--- Compiles an instance alone, as the twins stand: nothing is counted.
---@param twin twins.twin
---@param more? table options of the compiler
---@return tideway.compiled?
---@return tideway.compiler.diagnostic?
---@return tideway.nf.instance
function M.compile(twin, more)
   want_memory()
   local nf, place = twins.make(twin), {}
   for _, list in ipairs { PLACE, more or {} } do
      for k, v in pairs(list) do place[k] = v end
   end
   local compiled, err = compiler.for_hook(twin.name, { nf }, "xdp", place)
   return compiled, err, nf
end

--- Both programs in the kernel.
---@param twin twins.twin
---@param more? table options of the compiler
---@return twin_pair?
---@return any err
function M.load(twin, more)
   local compiled, err, nf = M.compile(twin, more)
   if not compiled then
      M.free(nf)
      return nil, err
   end
   local kernel = kernel_twin.load(twin)
   kernel:fill(nf.tables)
   local program
   program, err = loader.load(compiled)
   if not program then
      kernel:close()
      M.free(nf)
      return nil, err
   end
   return setmetatable({ twin = twin, nf = nf, compiled = compiled, program = program, kernel = kernel }, Pair)
end

--- Runs the compiled NF on a frame.
---@return integer code
---@return string bytes
function Pair:lua(data)
   local code, out = self.program:test(data)
   return assert(code, out), out
end

--- Runs the C program on a frame.
---@return integer code
---@return string bytes
function Pair:c(data) return self.kernel:run(data) end

-- ---- maps ----

--- Entries of a map as key bytes -> value bytes; of arrays only those that are not all zero.
---@param fd integer
---@param like tideway.bpf.Map of the same kind and sizes
---@return table<string, string>
local function dump(fd, like)
   local view = setmetatable({ fd = fd }, { __index = like })
   local list = {}
   for keys, values, count in map_walk.walk(view) do
      for i = 0, count - 1 do
         local value = ffi.string(values + i * like.value_size, like.value_size)
         if like.kind ~= "array" or value:find "[^%z]" then
            list[ffi.string(keys + i * like.key_size, like.key_size)] = value
         end
      end
   end
   return list
end
M.dump = dump

-- Of values with time stamps only the keys are compared.
local function compare(name, mine, its, timed)
   for key, value in pairs(mine) do
      local other = its[key]
      if not other then return ("%s[%s]: C has no such entry"):format(name, frame.hex(key)) end
      if other ~= value and not timed then
         return ("%s[%s]: %s, in C %s"):format(name, frame.hex(key), frame.hex(value), frame.hex(other))
      end
   end
   for key in pairs(its) do
      if not mine[key] then return ("%s[%s]: only C has this entry"):format(name, frame.hex(key)) end
   end
end

local function sizes(fd)
   local info = ffi.new "struct tw_bpf_map_info"
   assert(abi.C.tw_bpf_map_get_info(fd, info) == 0, abi.error())
   return ("keys of %d bytes, values of %d, kind %d"):format(info.key_size, info.value_size, info.kind)
end

local function difference(kernel, t, timed)
   local fd, map = kernel:map(t.name), t.map
   if not map then return nil end -- the compiled program does not use it, or it is no table
   local mine, its = sizes(map.fd), sizes(fd)
   if mine ~= its then return ("%s has %s, in C %s"):format(t.name, mine, its) end
   if t.kind ~= "counters" then return compare(t.name, dump(map.fd, map), dump(fd, map), timed) end
   for i = 0, t.entries - 1 do
      local a, b = tonumber(t:sum(i)), kernel:sum(t.name, i)
      if a ~= b and not timed then return ("%s[%d]: %d, in C %d"):format(t.name, i, a, b) end
   end
end

--- What differs between the maps of the two; nil when nothing does.
---@return string?
function Pair:difference()
   local timed = {}
   for _, name in ipairs(self.twin.timed or {}) do timed[name] = true end
   for _, t in pairs(self.nf.tables or {}) do
      local text = difference(self.kernel, t, timed[t.name])
      if text then return text end
   end
end

--- Raw records that wait in a ring buffer of each of the two.
---@param t tideway.Table
---@return string[] mine
---@return string[] its
function Pair:records(t)
   local lists = {}
   for i, fd in ipairs { t.fd, self.kernel:map(t.name) } do
      local reader, list = assert(ringbuf.open { fd = fd }), {}
      for record in reader.next, reader do list[#list + 1] = record end
      reader:close()
      lists[i] = list
   end
   return lists[1], lists[2]
end

function Pair:close()
   self.program:close()
   self.kernel:close()
   M.free(self.nf)
end

return M
