-- SPDX-License-Identifier: BSD-3-Clause
-- Keeps LuaJIT from carrying values of memory over accesses of another width.

local ffi = require "ffi"

local copy = ffi.copy
local scratch = ffi.new "struct { uint64_t word; }"

--- Memory read before this call is read again after it. LuaJIT forwards loads and stores on the
--- assumption that accesses of different width through different base pointers do not overlap;
--- a copy of unknown type ends that. Costs one load and one store.
return function() copy(scratch, scratch, 8) end
