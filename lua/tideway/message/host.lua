-- SPDX-License-Identifier: BSD-3-Clause
-- Who moves descriptors and counts, for runners that have nobody else for it: on the functions' boards, and in `out`.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}
local BUCKETS = C.TW_TIME_BUCKETS

-- Descriptors in `out`: one call of batch() or timers() leaves at most three for each of 64 messages.
local OUT = 256

local bits = ffi.new "union { double number; uint32_t word[2]; }"

-- The bucket whose bound, a power of two, is the least that is not below the time.
local function bucket(ns)
   if ns <= 1 then return 0 end
   bits.number = ns - 0.5
   local i = bit.rshift(bits.word[1], 20) - 1022
   return i < BUCKETS and i or BUCKETS - 1
end

local Host = {}
Host.__index = Host

--- A function begins with a message, or goes on with one that was held. False: it is not ours any more.
---@param ctx tideway.message.context
---@param handle ffi.cdata* uint64_t
---@param again boolean
---@return boolean ours
function Host:begin(ctx, handle, again) -- luacheck: ignore again
   local board = ctx.board
   board.current = handle
   board.started = board.started + 1
   return true
end

--- It has returned, raised, or holds the message.
---@param ctx tideway.message.context
function Host:done(ctx)
   local board = ctx.board
   local now = tonumber(C.tw_now())
   local spent = now - self.since
   self.since = now
   local i = bucket(spent)
   board.current = 0
   board.done = board.done + 1
   board.busy_ns = board.busy_ns + spent
   board.time[i] = board.time[i] + 1
end

--- A message goes out.
function Host:put(handle, exit, gate, key)
   local n = self.n_out
   local desc = self.out[n]
   desc.handle, desc.exit, desc.gate, desc.key = handle, exit, gate, key
   self.n_out = n + 1
end

--- The host that counts on the functions' boards and leaves descriptors in `out`. Others offer the same three methods.
---@return table host
function M.new()
   return setmetatable({ out = ffi.new("struct tw_desc[?]", OUT), n_out = 0, since = tonumber(C.tw_now()) }, Host)
end

return M
