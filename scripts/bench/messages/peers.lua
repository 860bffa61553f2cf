-- SPDX-License-Identifier: BSD-3-Clause
-- The contenders of scripts/bench/messages.lua: nginx, haproxy and Tideway in front of the origin.

local bench = require "tideway".bench
local configuration = require "messages.configuration"
local input = require "input"
local origin = require "messages.origin"
local posix = require "tideway.posix"

local M = {}

local function contender(o, argv, note)
   return bench.http {
      name = o.name, url = o.url, connections = o.connections, value = o.value, note = note, script = o.script,
      arguments = o.arguments,
      server = argv, alone = true, warm_up = 1,
      missing = function()
         local ok, err = origin.start()
         return not ok and err or nil
      end,
   }
end

local UPSTREAM = "upstream next { server 127.0.0.1:%d; keepalive 256; keepalive_requests 1000000000; }"
local PASS = "location / { proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; %s }"

--- One nginx in front of the origin: `name`, `port`, `url`, `connections`, `value`.
function M.nginx(o)
   return contender(o, configuration.nginx(o.port, PASS:format "", UPSTREAM:format(origin.port)),
      "nginx, 1 worker process, kept connections to the origin")
end

--- `functions` nginx processes, each of which sets a request header and passes on to the next.
function M.nginx_chain(o)
   local lines = {}
   for i = o.functions, 1, -1 do
      local to = i == o.functions and origin.port or o.port + i
      local argv = configuration.nginx(o.port + i - 1, PASS:format(("proxy_set_header X-Step-%d %d;"):format(i, i)),
         UPSTREAM:format(to))
      lines[#lines + 1] = table.concat(argv, " ")
   end
   local command = ("trap 'kill $(jobs -p)' EXIT; trap exit INT TERM; %s & wait"):format(table.concat(lines, " & "))
   return contender(o, { "bash", "-c", command }, ("%d nginx processes in a row"):format(o.functions))
end

--- One haproxy: `mode` "http" or "tcp".
function M.haproxy(o)
   local argv = configuration.haproxy(o.port, origin.port, o.mode)
   return contender(o, argv, ("haproxy, mode %s, 1 thread"):format(o.mode))
end

--- Tideway with `functions` functions over `transport`.
function M.tideway(o)
   local argv = { posix.readlink "/proc/self/exe", "run", "--quiet", "--name", "bench-" .. o.port,
      input.root .. "/scripts/bench/chains/messages.lua", tostring(o.port), tostring(origin.port), o.transport,
      tostring(o.functions) }
   return contender(o, argv, ("%d function(s), %s"):format(o.functions, o.transport))
end

-- Requests a second that a chain serves at most, by its port; found once.
local function maximum(o)
   local found
   return function()
      if found then return found end
      local c = M.tideway(o)
      local why = c:missing()
      if why then return nil, why end
      local sample, err = c:measure(2)
      found = sample and sample.value
      return found, err
   end
end

--- Tideway under a part of the load that its sk_msg transport serves at most: `share`, and what M.tideway takes. What
--- counts is the CPU time that it uses.
function M.offered(o)
   local most = maximum { name = o.name, port = o.port + 50, url = o.url:gsub(":%d+", ":" .. o.port + 50),
      connections = 64, transport = "sk_msg", functions = o.functions }
   local inner
   return bench.contender {
      name = o.name, apart = true, note = ("%d %% of the most that sk_msg serves"):format(o.share * 100),
      missing = function() return M.tideway(o):missing() end,
      measure = function(_, seconds)
         local rate, err = most()
         if not rate then return nil, err end
         local each = 100 -- requests a second of each connection
         local connections = math.max(1, math.floor(rate * o.share / each + 0.5))
         inner = inner or M.tideway {
            name = o.name, port = o.port, url = o.url, transport = o.transport, functions = o.functions, value = "cpu",
            connections = connections, script = input.root .. "/scripts/bench/messages/paced.lua",
            arguments = { tostring(1000 / each) },
         }
         return inner:measure(seconds)
      end,
   }
end

return M
