-- SPDX-License-Identifier: BSD-3-Clause
-- The packets of a burst as compiled chains see them: struct tw_pkt with signed words, for LuaJIT reads an uint32_t as
-- a floating-point number, and without methods.

local ffi = require "ffi"
local core = require "tideway.core"
require "tideway.abi"

local pointer = ffi.typeof("struct " .. core.cdef:match "struct tw_pkt (%b{})":gsub("uint32_t", "int32_t") .. " *")

---@param burst ffi.cdata* struct tw_burst *
---@return ffi.cdata* packets from 0
return function(burst) return ffi.cast(pointer, burst.pkts) end
