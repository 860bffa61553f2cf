-- SPDX-License-Identifier: BSD-3-Clause
-- For the table specs: tables that are freed after each test, and what the JIT made of a loop.

local ffi = require "ffi"
local jit_util = require "jit.util"
local vmdef = require "jit.vmdef"
local tables = require "tideway.table"

local M = {}

local made = {}

--- tw.hash and so on, for the time of one test: make.hash{...}
M.make = setmetatable({}, {
   __index = function(_, kind)
      return function(options)
         local t = tables[kind](options)
         made[#made + 1] = t
         return t
      end
   end,
})

--- Frees what the test made; for after_each.
function M.free()
   for _, t in ipairs(made) do
      if t.table ~= nil then
         t:free()
      end
   end
   made = {}
end

--- A number from 0 to 2^32-1.
function M.random32()
   return math.random(0, 65535) * 65536 + math.random(0, 65535)
end

--- Runs `loop` until it is compiled, then again while recording what the JIT does.
---@return integer traces  traces that end compiled
---@return string[] aborts  recordings that failed, but for those a retry from another place replaces
function M.compile(loop)
   local traces, aborts = 0, {}
   local function watch(what, _, func, pc, code, arg)
      if what == "stop" then
         traces = traces + 1
      elseif what == "abort" then
         local text = vmdef.traceerr[code] or tostring(code)
         if text:find "NYI" or text:find "blacklisted" or text:find "bad argument" then
            local line = jit_util.funcinfo(func, pc).loc
            aborts[#aborts + 1] = ("%s: %s"):format(line, text:find "%%" and text:format(tostring(arg)) or text)
         end
      end
   end
   jit.flush()
   jit.attach(watch, "trace")
   for _ = 1, 3 do loop() end
   jit.attach(watch)
   return traces, aborts
end

--- Garbage that a warm `loop` leaves behind, bytes.
function M.garbage(loop)
   for _ = 1, 5 do loop() end -- side exits become traces, which take memory
   collectgarbage()
   collectgarbage "stop"
   local before = collectgarbage "count"
   loop()
   local after = collectgarbage "count"
   collectgarbage "restart"
   return (after - before) * 1024
end

--- struct tw_in6 from 16 bytes.
function M.in6(bytes)
   require "tideway.packet.address"
   local address = ffi.new "struct tw_in6"
   ffi.copy(address, bytes, 16)
   return address
end

return M
