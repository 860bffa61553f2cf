-- SPDX-License-Identifier: BSD-3-Clause
-- The chain that 21-kernel.lua measures: a TTL between two interfaces. Argument: "xdp" or "tc".

local tw = require "tideway"
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/../../?.lua;" .. package.path

tw.chain("ttl", tw.port "lan", require "nf.ttl" {}, tw.port "wan"):pin { [...] = true }
