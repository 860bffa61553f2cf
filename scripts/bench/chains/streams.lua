-- SPDX-License-Identifier: BSD-3-Clause
-- Passes TCP connections on to one server, in the gate: scripts/bench/messages.lua sets it against haproxy in TCP mode.
--
--    tideway run streams.lua PORT SERVER_PORT

local tw = require "tideway"

local port, server = ...

tw.options { gates = 1 }
local web = tw.listen("web", "tcp://127.0.0.1:" .. port)
tw.chain("web", web, tw.upstream("origin", { servers = { "127.0.0.1:" .. server } }))
