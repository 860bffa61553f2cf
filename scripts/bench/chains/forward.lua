-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: everything from one port to the other, no NF, so Lua is never entered.
-- Arguments: source devargs, sink devargs, lcore.

local tw = require "tideway"
local source, sink, lcore = ...

local from, to = tw.port("source", source), tw.port("sink", sink)
tw.chain("forward", from, to):pin {lcore = tonumber(lcore)}
