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

local function run(script, port, ...)
   return { posix.readlink "/proc/self/exe", "run", "--quiet", "--name", "bench-" .. port,
      input.root .. "/scripts/bench/chains/" .. script, tostring(port), tostring(origin.port), ... }
end

--- Tideway with `functions` functions over `transport`.
function M.tideway(o)
   return contender(o, run("messages.lua", o.port, o.transport, tostring(o.functions)),
      ("%d function(s), %s"):format(o.functions, o.transport))
end

--- Tideway passing TCP connections on.
function M.streams(o) return contender(o, run("streams.lua", o.port), "TCP, no function") end

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

local EACH = 100 -- requests a second of a connection that waits between them, at most
local TRIES, CLOSE = 5, 0.03

-- Connections by which a chain is asked `rate` times a second. How long an answer takes adds to what they wait; one
-- that takes longer than they wait is the chain's fault, and more connections do not help it.
local function connections_for(rate, of)
   local n = math.max(1, math.floor(rate / EACH + 0.5))
   local most = 2 * n
   for _ = 1, TRIES do
      local sample, err = of(n):measure(1)
      if not sample then return nil, err end
      local share = sample.extras.rate / rate
      if math.abs(share - 1) < CLOSE then break end
      n = math.max(1, math.min(most, math.floor(n / share + 0.5)))
   end
   return n
end

local maxima = {} -- by functions

--- Tideway under a part of the load that its sk_msg transport serves at most: `share`, and what M.tideway takes. What
--- counts is the CPU time that it uses.
function M.offered(o)
   local port = o.port + 50
   local most = maxima[o.functions] or maximum { name = o.name, port = port, url = o.url:gsub(":%d+", ":" .. port),
      connections = 64, transport = "sk_msg", functions = o.functions }
   maxima[o.functions] = most -- the same load for all of them
   local inner
   local function asked_by(connections)
      return M.tideway {
         name = o.name, port = o.port, url = o.url, transport = o.transport, functions = o.functions, value = "cpu",
         connections = connections, script = input.root .. "/scripts/bench/messages/paced.lua",
         arguments = { tostring(1000 / EACH) },
      }
   end
   return bench.contender {
      name = o.name, apart = true, note = ("%d %% of the most that sk_msg serves"):format(o.share * 100),
      missing = function() return M.tideway(o):missing() end,
      measure = function(_, seconds)
         local rate, err = most()
         if not rate then return nil, err end
         if not inner then
            local n, why = connections_for(rate * o.share, asked_by)
            if not n then return nil, why end
            inner = asked_by(n)
         end
         local sample, why = inner:measure(seconds)
         if not sample then return nil, why end
         local share = sample.extras.rate / (rate * o.share)
         if math.abs(share - 1) > 3 * CLOSE then
            sample.why = { ("it was asked %.0f %% of what it should have been"):format(share * 100) }
         end
         return sample
      end,
   }
end

return M
