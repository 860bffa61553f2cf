-- SPDX-License-Identifier: BSD-3-Clause
-- NFs and frames of swap_spec and swap_threads_spec: NFs do what the first byte of a frame says.

local abi = require "tideway.abi"
local frame = require "test.support.frame"

local C = abi.C
local M = {}

M.udp = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "payload")

--- A frame whose first byte says what NFs do with it.
function M.with(byte) return string.char(byte) .. M.udp:sub(2) end

function M.pass() return { packet = function() end } end

--- Drops frames that begin with its byte.
function M.dropper(byte)
   local verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "spec", 8))
   return { packet = function(pkt)
      if pkt.data[0] == byte then pkt.verdict = verdict end
   end }
end

--- Items 0 to n - 1 as a list.
function M.list(t, n)
   local out = {}
   for i = 0, n - 1 do out[i + 1] = t[i] end
   return out
end

--- Each is a way for an NF to go wrong on a frame that begins with 9.
M.faults = {
   raises = { says = "attempt to index", act = function() local nothing = nil; return nothing.field end },
   ["loops for ever, interpreted"] = {
      says = "ran for more than",
      act = function() while true do pcall(string.rep, "x", 10) end end,
   },
   ["loops for ever, compiled"] = {
      says = "ran for more than",
      act = function() local n = 0 while true do n = n + 1 end end,
   },
   ["recurses without end"] = {
      says = "stack overflow",
      act = function() local function f(x) return 1 + f(x + 1) end return f(1) end,
   },
   ["eats memory"] = {
      says = "", -- its time or its heap runs out first
      act = function()
         local hoard = {}
         for i = 1, 1e9 do hoard[i] = ("x"):rep(1000) .. i end
         return hoard
      end,
   },
   ["writes through a wild pointer"] = {
      says = "memory fault",
      act = function() require("ffi").cast("int *", 8)[0] = 1 end,
   },
}

--- Acts so.
function M.bad(act)
   return { packet = function(pkt)
      if pkt.data[0] == 9 then act() end
   end }
end

return M
