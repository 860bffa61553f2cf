-- SPDX-License-Identifier: BSD-3-Clause
-- The same chain of messages on three transports: one word changes.
--
--    sudo build/tideway run examples/15-transports.lua sk_msg      # or rings, or inline
--    curl -i http://127.0.0.1:8080/hello                           # in another terminal
--    wrk -c 64 -d 5 http://127.0.0.1:8080/hello
--    sudo build/tideway top                                        # what each function does
--    sudo build/tideway audit examples/15-transports.lua           # what each transport costs, measured
--
-- sk_msg: each function is a process of its own that sleeps until a program of the kernel puts a descriptor into its
-- queue. rings: the same, but it polls shared memory, and burns its CPU. inline: no processes, the gate calls the
-- functions itself; for functions that are trusted. The payload is never copied: it lies in memory that all share.

local tw = require "tideway"

local transport = ... or "sk_msg"

-- A function of messages: what it returns is the verdict; nothing: the next one.
local stamp = tw.nf("stamp", function(cfg)
   return {
      message = function(msg) msg:set_header("X-Stamp", cfg.text) end,
      response = function(msg) msg:set_header("X-Passed", cfg.text) end,
   }
end, { pure = true })

local hello = tw.nf("hello", function()
   return {
      message = function(msg)
         local text = ("%s %s, stamped %s\n"):format(msg.method, msg.path, msg:header "X-Stamp" or "by nobody")
         return msg:respond(200, { ["Content-Type"] = "text/plain" }, text)
      end,
   }
end)

local web = tw.listen("web", "http://127.0.0.1:8080")
tw.chain("web", web, stamp { text = "one" }, hello {}):pin { worker = transport }
