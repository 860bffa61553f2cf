-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: message chains against nginx and haproxy, over loopback, with nginx as the origin of all.
--
--    build/tideway bench scripts/bench/messages.lua                     # all of it
--    build/tideway bench --only hop,chain-4 scripts/bench/messages.lua  # some experiments
--
-- All contenders stand behind the same wrk and in front of the same origin. Each is started for its measurement, so no
-- other one is there meanwhile. Chains: N functions that each set a request header, against N nginx processes that each
-- do so and pass on to the next, with kept connections.

local input = require "input"
local bench = require "tideway".bench
local origin = require "messages.origin"
local peers = require "messages.peers"

local CONNECTIONS = 64
local ROUNDS, SECONDS = 5, 2

local function group(name, options)
   options.rounds, options.seconds = options.rounds or ROUNDS, options.seconds or SECONDS
   options.unit, options.better = options.unit or "requests/s", options.better or "more"
   bench.group(name, options)
end

-- ---- one hop ----

-- What counts is CPU time: all contenders share two CPUs with wrk and the origin, and are asked at the same time.
local function hop(make, options)
   options.connections, options.value = CONNECTIONS, "per_cpu"
   options.url = origin.url(options.port, options.path)
   return make(options)
end

local UNIT = "requests/CPU s"
local GOALS = { ["tideway, no function"] = 1.0, ["tideway inline"] = 1.0 }

local function inline(functions, name, port)
   return hop(peers.tideway, { name = name, transport = "inline", functions = functions, port = port })
end

group("hop", {
   title = "one proxy hop: requests for a second of the proxy's CPU time; 128-byte object, kept connections",
   unit = UNIT, together = true,
   contenders = {
      hop(peers.nginx, { name = "nginx", port = 29101 }),
      hop(peers.haproxy, { name = "haproxy (http)", mode = "http", port = 29102 }),
      hop(peers.haproxy, { name = "haproxy (tcp)", mode = "tcp", port = 29103 }),
      inline(0, "tideway, no function", 29106),
      inline(1, "tideway inline", 29104),
      hop(peers.tideway, { name = "tideway sk_msg", transport = "sk_msg", functions = 1, port = 29105 }),
   },
   reference = "nginx",
   goals = GOALS,
})

group("hop-haproxy", {
   title = "the same hop against haproxy (http)",
   unit = UNIT, together = true,
   contenders = {
      hop(peers.haproxy, { name = "haproxy (http)", mode = "http", port = 29107 }),
      inline(0, "tideway, no function", 29108),
      inline(1, "tideway inline", 29109),
   },
   reference = "haproxy (http)",
   goals = GOALS,
})

-- Neither reads HTTP.
group("hop-tcp", {
   title = "the same hop for those that pass on TCP connections",
   unit = UNIT, together = true,
   contenders = {
      hop(peers.haproxy, { name = "haproxy (tcp)", mode = "tcp", port = 29110 }),
      hop(peers.streams, { name = "tideway", port = 29111 }),
   },
   reference = "haproxy (tcp)",
   goals = { tideway = 1.0 },
})

-- ---- chains ----

for _, n in ipairs { 2, 4, 8 } do
   local goal = ({ [2] = 1.5, [4] = 2, [8] = 3 })[n]
   local function chain(make, options)
      options.connections, options.functions, options.url = CONNECTIONS, n, origin.url(options.port)
      return make(options)
   end
   group("chain-" .. n, {
      title = ("a chain of %d functions, against a chain of %d nginx processes"):format(n, n),
      contenders = {
         chain(peers.nginx_chain, { name = "nginx", port = 29200 + 10 * n }),
         chain(peers.tideway, { name = "tideway sk_msg", transport = "sk_msg", port = 29300 + n }),
         chain(peers.tideway, { name = "tideway rings", transport = "rings", port = 29310 + n }),
         chain(peers.tideway, { name = "tideway inline", transport = "inline", port = 29320 + n }),
      },
      reference = "nginx",
      goals = { ["tideway sk_msg"] = goal },
   })
end

-- ---- payload ----

for _, bytes in ipairs(input.quick and { 100, 1000000 } or { 100, 10000, 100000, 1000000 }) do
   local function payload(make, options)
      options.connections, options.url = 16, origin.url(options.port, "/" .. bytes)
      return make(options)
   end
   group("payload-" .. bytes, {
      title = ("objects of %d bytes: four functions more, no copy of the payload more"):format(bytes),
      rounds = 3,
      contenders = {
         payload(peers.tideway, { name = "1 function", transport = "sk_msg", functions = 1, port = 29331 }),
         payload(peers.tideway, { name = "5 functions", transport = "sk_msg", functions = 5, port = 29332 }),
         payload(peers.nginx, { name = "nginx", port = 29333 }),
      },
      reference = "1 function",
   })
end

-- ---- load and latency ----

for _, percent in ipairs(input.quick and { 10 } or { 10, 25, 50, 75 }) do
   local function offered(transport, port)
      return peers.offered {
         name = transport, transport = transport, functions = 2, share = percent / 100, port = port,
         url = origin.url(port),
      }
   end
   group("load-" .. percent, {
      title = ("CPUs used under %d %% of the most that sk_msg serves, two functions"):format(percent),
      unit = "CPUs", better = "less", rounds = 3,
      contenders = { offered("rings", 29340 + percent), offered("sk_msg", 29341 + percent) },
      reference = "rings",
   })
end

local one = {}
for i, n in ipairs { 1, 2, 5, 9 } do
   one[i] = peers.tideway {
      name = ("%d function%s"):format(n, n == 1 and "" or "s"), transport = "sk_msg", functions = n, connections = 1,
      value = "p50", port = 29500 + n, url = origin.url(29500 + n),
   }
end
one[#one + 1] = peers.nginx { name = "nginx", connections = 1, value = "p50", port = 29510, url = origin.url(29510) }
group("latency", {
   title = "one request at a time: what a function more costs", unit = "us", better = "less", contenders = one,
   reference = "1 function",
})
