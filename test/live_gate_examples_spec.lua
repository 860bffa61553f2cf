-- SPDX-License-Identifier: BSD-3-Clause
-- The examples with chains of messages, as they stand but for their ports, with curl and dig as clients.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

describe("the example", function()
   local instance, running
   before_each(function() running = {} end)
   after_each(function()
      if instance then instance:stop "KILL" end
      for _, thing in ipairs(running) do thing:stop "TERM" end
      instance = nil
   end)

   -- Starts examples/NAME.lua with other ports: a table from those in the file to those of this run.
   local function start(name, ports, change)
      local text = assert(posix.slurp(("examples/%s.lua"):format(name)))
      for from, to in pairs(ports) do
         local n
         text, n = text:gsub("(:)" .. from .. "(%D)", "%1" .. to .. "%2")
         assert.truthy(n > 0, from)
      end
      instance = instances.start { script = change and change(text) or text }
   end

   local function origin()
      local server = gateway.nginx()
      running[#running + 1] = server
      return server
   end

   local function live(name, programs, test)
      it(name, function()
         local why = gateway.missing(unpack(programs))
         if why then return pending(why) end
         test()
         local result = instance:stop()
         assert.equal(0, result.code, result.err)
      end)
   end

   live("11-reverse-proxy rewrites, keeps, redirects and tells the servers who asked", { "nginx", "curl" }, function()
      local a, b, port = origin(), origin(), gateway.port()
      start("11-reverse-proxy", { [8080] = port, [9001] = a.port, [9002] = b.port })
      local url = "http://127.0.0.1:" .. port
      local r = gateway.curl(url .. "/docs/small")
      assert.same({ 200, "small\n" }, { r.status, r.body })
      assert.falsy(r.head:lower():find "\r\nserver:")
      r = gateway.curl(url .. "/docs/small")
      assert.same({ 200, "small\n" }, { r.status, r.body })
      assert.truthy(r.head:lower():find "\r\nage: %d", r.head)
      r = gateway.curl(url .. "/old")
      assert.equal(301, r.status)
      assert.truthy(r.head:lower():find "\r\nlocation: /docs/\r\n", r.head)
      assert.truthy(gateway.curl(url .. "/docs/large").body == a.large)
   end)

   live("12-gateway asks for passwords, counts and chooses", { "nginx", "curl" }, function()
      local a, b, port = origin(), origin(), gateway.port()
      start("12-gateway", { [8080] = port, [9001] = a.port, [9002] = b.port })
      local url = "http://127.0.0.1:" .. port
      assert.equal(200, gateway.curl(url .. "/small").status)
      assert.equal(401, gateway.curl(url .. "/admin/").status)
      assert.equal(401, gateway.curl(url .. "/admin/", "-u ann:wrong").status)
      assert.equal(404, gateway.curl(url .. "/admin/", "-u ann:secret").status)
      assert.equal(405, gateway.curl(url .. "/small", "-X DELETE").status)
      -- By one process over one connection: faster than ten a second wherever this runs.
      local codes = shell.run(("curl -s -o /dev/null -w '%%{http_code} ' '%s/small?[1-300]'"):format(url)).out
      assert.truthy(codes:find "429", codes)
   end)

   live("13-l4-balancer relays, spreads, and leaves out who is down", { "nginx", "curl" }, function()
      local a, b, port = origin(), origin(), gateway.port()
      start("13-l4-balancer", { [5000] = port, [9001] = a.port, [9002] = b.port })
      local url = "http://127.0.0.1:" .. port
      for _ = 1, 6 do assert.equal("small\n", gateway.curl(url .. "/small").body) end
      assert.truthy(gateway.curl(url .. "/large").body == a.large)
      local servers = gateway.gate(instance).upstreams[1].servers
      assert.equal(7, servers[1].requests + servers[2].requests)
      -- The one with the greater weight, which has got them.
      assert.truthy(servers[2].requests > 0)
      b:stop()
      running[2] = nil
      for _ = 1, 4 do assert.equal("small\n", gateway.curl(url .. "/small").body) end
   end)

   live("14-dns-filter answers for blocked names and asks for others", { "dnsmasq", "dig" }, function()
      local port, behind = gateway.port(), gateway.port()
      running[1] = labs.spawn(("dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root "
         .. "--pid-file= --log-facility=- --port=%d --listen-address=127.0.0.1 --bind-interfaces "
         .. "--address=/www.tideway.example/203.0.113.80 --txt-record=large.tideway.example,%s"):format(behind,
         table.concat({ ("a"):rep(250), ("b"):rep(250), ("c"):rep(250) }, ",")))
      start("14-dns-filter", { [5353] = port }, function(text)
         return (text:gsub("9%.9%.9%.9:53", "127.0.0.1:" .. behind))
      end)
      local function dig(name)
         return shell.run(("dig +tries=5 +time=5 @127.0.0.1 -p %d %s"):format(port, name)).out
      end
      assert.truthy(labs.eventually(60, function()
         return dig "www.tideway.example":find("203.0.113.80", 1, true) ~= nil
      end))
      assert.truthy(dig "ads.example":find "status: NXDOMAIN")
      assert.truthy(dig "x.tracker.example":find "status: NXDOMAIN")
      assert.falsy(dig "good.tracker.example":find "status: NXDOMAIN")
      assert.truthy(dig "+tcp www.tideway.example":find("203.0.113.80", 1, true))
      assert.truthy(dig "+tcp ads.example":find "status: NXDOMAIN")
      -- What a datagram has no room for is asked for again over TCP, by dig itself.
      assert.truthy(dig "+noedns +ignore TXT large.tideway.example":find "flags: qr[ %a]* tc")
      local out = dig "+noedns TXT large.tideway.example"
      assert.truthy(out:find("Truncated, retrying in TCP mode", 1, true), out)
      assert.truthy(out:find(('"%s"'):format(("c"):rep(250)), 1, true), out)
   end)

   for _, transport in ipairs { "sk_msg", "rings", "inline" } do
      live("15-transports answers on " .. transport, { "curl" }, function()
         local port = gateway.port()
         start("15-transports", { [8080] = port }, function(text)
            return (text:gsub('%.%.%. or "sk_msg"', ('"%s"'):format(transport)))
         end)
         local r = gateway.curl(("http://127.0.0.1:%d/hello"):format(port))
         assert.equal("GET /hello, stamped one\n", r.body)
         assert.equal(transport, gateway.service(instance, "web").transport)
      end)
   end
end)
