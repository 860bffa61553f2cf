-- SPDX-License-Identifier: BSD-3-Clause
-- The NF Lua compiler: NFs of a chain in, programs for a place out.

local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

local function optimise(program, options)
   if options.optimise == false then return {} end
   return require("tideway.compiler.opt").optimise(program, options.passes)
end

-- Runs f; a diagnostic it raises becomes the second result. Not compiled by LuaJIT: a compiler walks each of its
-- paths a few times only, and recording traces would cost more than it saves. Its garbage waits until it is done.
local function caught(f, ...)
   local was_on = jit.status()
   jit.off()
   collectgarbage "stop"
   local results = { xpcall(f, function(err)
      if diagnostic.is(err) then return err end
      return debug.traceback(err, 2)
   end, ...) }
   collectgarbage "restart"
   if was_on then jit.on() end
   if results[1] then return unpack(results, 2) end
   if diagnostic.is(results[2]) then return nil, results[2] end
   error(results[2], 0)
end
M.caught = caught

---@class tideway.compiled
---@field name string
---@field hook string
---@field ir tideway.ir.program
---@field object tideway.ebpf.object
---@field tables table[] engine tables in the order of their names
---@field exits table[] what the counters of what left mean: { stage, kind, argument }
---@field exit_table table? declaration of those counters
---@field punt_table table? the ring that packets are punted to, when one may be

local function sorted(set)
   local list = {}
   for t in pairs(set) do list[#list + 1] = t end
   table.sort(list, function(a, b) return (a.name or "") < (b.name or "") end)
   return list
end

local function hook_program(name, nfs, hook, options)
   local place = require("tideway.compiler.place.hook").new(hook, options)
   place.reason_name = options.reason_name or M.reason_name
   if not place.part.next then place.stages = place.part.first + #nfs end
   for i, nf in ipairs(nfs) do
      if nf.punt then
         place.punts = place.punts or {}
         place.punts[place.part.first + i - 1] = true
      end
   end
   if place.counted then
      local type_lib = require "tideway.table.type"
      -- Declared now, sized when all exits are known.
      place.exit_table = {
         kind = "percpu_array", name = "exits", key_type = type_lib.parse "u32",
         value_type = type_lib.parse "u64 packets; u64 bytes", entries = 1, internal = true,
      }
   end
   local clock = os.clock()
   local front = require("tideway.compiler.front").compile(name, nfs, place,
      { first = place.part.first, last = not place.part.next })
   if place.exit_table then place.exit_table.entries = math.max(1, #place.exits) end
   local stats = optimise(front.program, options)
   local object = require("tideway.compiler.back.ebpf").compile(front.program, hook, options)
   return {
      name = name, hook = hook, ir = front.program, object = object, tables = sorted(front.tables), exits = place.exits,
      exit_table = place.exit_table, flood_table = place.flood_table, punt_table = place.punt_table,
      flood_ports = place.flood_ports, watches = place.watches,
      stats = stats, seconds = os.clock() - clock,
   }
end

--- Compile NFs that stand one behind the other for a hook of the kernel.
---@param name string of the program
---@param nfs table[] instances
---@param hook string "xdp", "tc", ...
---@param options? table see tideway.compiler.place.hook (part: NFs that are not the whole chain); optimise = false,
---  passes = { name = false }
---@return tideway.compiled?
---@return tideway.compiler.diagnostic? why not
function M.for_hook(name, nfs, hook, options) return caught(hook_program, name, nfs, hook, options or {}) end

--- Name of a drop reason.
function M.reason_name(id)
   local abi = require "tideway.abi"
   return require("ffi").string(abi.C.tw_stats().reason[id])
end

-- ---- lcores ----

-- IR of the stages first..last (from 1) of a chain.
local function lcore_program(chain, first, last)
   local nfs = {}
   for i = first, last do nfs[#nfs + 1] = chain.stages[i].nf or chain.stages[i] end
   local place = require("tideway.compiler.place.lcore").new()
   local front = require("tideway.compiler.front").compile(("%s_%d"):format(chain.name, first), nfs, place,
      { first = first - 1, last = last == #chain.stages })
   optimise(front.program, {})
   return front.program
end

-- An NF in a sandbox is a segment by itself: it stays compiled when a neighbour is taken out.
local function alone(stage) return (stage.nf or stage).sandboxed end

-- The longest run of stages from `first` on that can be compiled, as a segment; or why there is none.
local function run_from(chain, first)
   local last, stages = first - 1, chain.stages
   while stages[last + 1] and (stages[last + 1].nf or stages[last + 1]).packet
      and (last < first or not alone(stages[last]) and not alone(stages[last + 1])) do last = last + 1 end
   local why = "it works on bursts"
   while last >= first do
      local program, err = caught(lcore_program, chain, first, last)
      if program then return { first = first, last = last, ir = program } end
      why, last = err, err.stage or first - 1 -- up to the one that was refused
   end
   return { first = first, last = first, raw = why }
end

--- Compile a chain for lcores: segments of stages, in order, that cover the chain.
---@param chain table { name, stages = NF instances }
---@return table[] segments { first, last, ir } or { first, last, raw = why }
function M.for_lcore(chain)
   local segments, done = {}, 0
   while done < #chain.stages do
      local segment = run_from(chain, done + 1)
      segments[#segments + 1], done = segment, segment.last
   end
   return segments
end

return M
