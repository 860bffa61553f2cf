-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: forward.lua plus one NF that does nothing, which shows what entering Lua costs.
-- Arguments: source devargs, sink devargs, lcore.

local tw = require "tideway"
local source, sink, lcore = ...

local empty = tw.nf("empty", function() return {packet = function() end} end)

local from, to = tw.port("source", source), tw.port("sink", sink)
tw.chain("entry", from, empty {}, to):pin {lcore = tonumber(lcore)}
