-- SPDX-License-Identifier: BSD-3-Clause
-- A chain of functions (or none) that each set a request header, in front of one server: what
-- scripts/bench/messages.lua runs.
--
--    tideway run messages.lua PORT SERVER_PORT sk_msg|rings|inline FUNCTIONS

local tw = require "tideway"

local port, server, transport, count = ...

local step = tw.nf("step", function(cfg)
   local name, value = "X-Step-" .. cfg.number, tostring(cfg.number)
   return { message = function(msg) msg:set_header(name, value) end }
end)

local functions = {}
for i = 1, tonumber(count) do functions[i] = step { number = i } end

tw.options { gates = 1 }
local web = tw.listen("web", "http://127.0.0.1:" .. port)
local origin = tw.upstream("origin", { servers = { "127.0.0.1:" .. server } })
functions[#functions + 1] = origin
tw.chain("web", web, unpack(functions)):pin { worker = transport }
