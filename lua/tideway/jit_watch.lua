-- SPDX-License-Identifier: BSD-3-Clause
-- What LuaJIT does in an lcore's VM: traces and failed recordings for the fence, top and jit(); traces that are thrown
-- away once the traffic is steady; functions it gave up compiling, and how they get another chance.

local bit = require "bit"
local ffi = require "ffi"
local util = require "jit.util"
local vmdef = require "jit.vmdef"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local function put(field, text) ffi.copy(field, text:sub(-C.TW_WHERE_LEN + 1)) end

-- ---- traces ----

local function where(fn, pc)
   local info = util.funcinfo(fn, pc)
   return info.loc or (info.addr and "C function") or "?"
end

-- What the number of an abort means, in LuaJIT's own words; "%s" and the like stand for its operand.
local function reason(code, operand)
   if type(code) == "string" then return code end
   local text = vmdef.traceerr[code]
   if not text then return "error " .. tostring(code) end
   if type(operand) == "function" then operand = where(operand) end
   if text:find "bytecode" and type(operand) == "number" then
      operand = vmdef.bcnames:sub(operand * 6 + 1, operand * 6 + 6):match "%S+"
   end
   return (text:gsub("%%%a", (tostring(operand):gsub("%%", "%%%%"))))
end

local function add_trace(info, trace, started)
   info.traces = info.traces + 1
   local code, address = util.tracemc(trace)
   if not code then return end
   info.live, info.mcode = info.live + 1, info.mcode + #code
   if trace >= C.TW_TRACES_MAX then return end
   local slot = info.trace[trace]
   slot.start = address < 0 and address + 2 ^ 64 or address
   slot["end"] = slot.start + #code
   put(slot.where, started or "?")
end

local function add_abort(info, place, why)
   local slot = info.abort[info.aborts % C.TW_ABORTS_MAX]
   slot.at = C.tw_now()
   put(slot.where, place)
   ffi.copy(slot.why, why:sub(1, C.TW_WHERE_LEN - 1))
   put(info.last_abort, place)
   info.aborts = info.aborts + 1
end

local function forget_traces(info)
   info.live, info.mcode = 0, 0
   ffi.fill(info.trace, ffi.sizeof(info.trace))
end

-- The functions that packets go through, and where recordings of them began that failed.
local hot, failed, FAILED_MAX = nil, {}, 1000

local function note_failed(start)
   if not hot[start.fn] or #failed == FAILED_MAX then return end
   for _, known in ipairs(failed) do
      if known.fn == start.fn and known.pc == start.pc then return end
   end
   failed[#failed + 1] = start
end

--- Note every trace and abort from here on.
---@param info ffi.cdata* struct tw_jit *
function M.attach(info)
   local started = {}
   jit.attach(function(what, trace, fn, pc, code, operand)
      local start = started[trace]
      if what == "start" then
         started[trace] = { fn = fn, pc = pc, place = where(fn, pc) }
      elseif what == "stop" then
         add_trace(info, trace, start and start.place)
         started[trace] = nil
      elseif what == "abort" then
         started[trace] = nil
         if not hot then return end -- while the VM is built, which happens once
         add_abort(info, where(fn, pc), reason(code, operand))
         if start then note_failed(start) end
      elseif what == "flush" then
         info.flushes = info.flushes + 1
         forget_traces(info)
      end
   end, "trace")
end

-- ---- functions that LuaJIT gave up ----

local FUNCTIONS_MAX, FIELDS_MAX = 1000, 100

-- A Lua function and those it can reach by its upvalues.
local function collect(fn, set, seen)
   if type(fn) ~= "function" or set[fn] or set.count == FUNCTIONS_MAX or not util.funcinfo(fn).bytecodes then return end
   set[fn], set.count = true, set.count + 1
   for i = 1, 250 do
      local name, value = debug.getupvalue(fn, i)
      if not name then break end
      if type(value) == "table" and not seen[value] then
         seen[value] = true
         local n = 0
         for _, field in next, value do
            n = n + 1
            if n > FIELDS_MAX then break end
            collect(field, set, seen)
         end
      else
         collect(value, set, seen)
      end
   end
end

jit.off(collect) -- once in the life of a VM

-- LuaJIT notes in the bytecode that a loop, or the whole function, is to be interpreted for good. So does jit.off(),
-- but then no recording was begun.
local GIVEN_UP = { IFORL = true, ILOOP = true, IITERL = true, IFUNCF = true, IFUNCV = true }

local function is_given_up(start)
   local op = bit.band(util.funcbc(start.fn, start.pc), 0xff) * 6
   return GIVEN_UP[vmdef.bcnames:sub(op + 1, op + 6):match "%S+"]
end

-- Only after an abort can there be more of them.
local function look_for_given_up(info, looked)
   if info.aborts == looked then return looked end
   local n = 0
   for i = 1, #failed do
      if is_given_up(failed[i]) then
         if n < C.TW_INTERPRETED_MAX then put(info.interpreted_at[n], failed[i].place) end
         n = n + 1
      end
   end
   info.interpreted = n
   return info.aborts
end

-- ---- ticks ----

-- Traces are recorded from the first packets, which are unlike the rest (new flows, unresolved neighbours);
-- what comes after lives in side traces. So when the traces have settled they are thrown away, once early and
-- once later, and recorded again from the traffic as it is.
local SETTLED_TICKS = { 3, 20 }

-- On purpose: not one of the flushes that LuaJIT makes when its memory is full.
local function flush(info)
   local flushes = info.flushes
   jit.flush()
   info.flushes = flushes
end

-- jit.on() lets LuaJIT try a function again that it gave up.
local function rewarm(info)
   for i = 1, #failed do jit.on(failed[i].fn) end
   failed = {}
   flush(info)
   info.settled, info.interpreted, info.warned = 0, 0, 0
   ffi.fill(info.interpreted_at, ffi.sizeof(info.interpreted_at))
   info.rewarmed = info.rewarm_asked
end

--- The tick of a VM: that of its NFs, then what is to be done about its traces.
---@param tick fun() of the NFs
---@param info ffi.cdata* struct tw_jit *
---@param roots function[] what packets go through; functions that these can reach belong to it
---@return fun()
function M.make_tick(tick, info, roots)
   hot = { count = 0 }
   local tables = {}
   for _, fn in ipairs(roots) do collect(fn, hot, tables) end
   local seen, still, looked = 0, 0, 0
   local function settle()
      tick()
      if info.rewarm_asked ~= info.rewarmed then
         rewarm(info)
         still = 0
      end
      looked = look_for_given_up(info, looked)
      local wanted = SETTLED_TICKS[info.settled + 1]
      if not wanted then return end
      still = info.traces == seen and still + 1 or 0
      seen = info.traces
      if seen > 0 and still >= wanted then
         flush(info)
         info.settled, still = info.settled + 1, 0
      end
   end
   for _, fn in ipairs { settle, is_given_up, look_for_given_up, rewarm } do jit.off(fn) end -- too seldom
   return settle
end

return M
