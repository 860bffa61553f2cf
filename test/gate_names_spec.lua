-- SPDX-License-Identifier: BSD-3-Clause
-- Servers that are given by the name of their host: resolved where they are declared, and again by a reload. The names
-- are in a hosts file of the spec's own, in a mount namespace; nobody outside is asked.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local l4 = require "test.support.l4"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local shell = require "test.shell"
local up = require "test.support.upstream"

local function missing()
   local why = gateway.missing "unshare"
   if why then return why end
   if not posix.slurp "/etc/hosts" then return "there is no /etc/hosts" end
   if shell.run("unshare -m true").code ~= 0 then return "no mount namespace can be made here" end
end

-- Nobody is asked who is not in the file: the resolver is at an address of loopback where nobody answers.
local SETUP = [[
mount --bind %DIR/hosts /etc/hosts || exit 99
[ ! -e /etc/resolv.conf ] || mount --bind %DIR/resolv.conf /etc/resolv.conf || exit 99
exec "$@"
]]

local SCRIPT = [[
local tw = require "tideway"
local web = tw.listen("web", "http://127.0.0.1:%d")
local app = tw.upstream("app", { servers = { %s } })
tw.chain("web", web, app)
]]

local RESOLVER = "127.0.0.77"
local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

describe("servers by name", function()
   local why = missing()
   local dir, prefix, open

   local function hosts(text) shell.write(dir .. "/hosts", text) end
   local function keep(object)
      open[#open + 1] = object
      return object
   end

   before_each(function()
      open = {}
      if why then return end
      dir = shell.directory()
      shell.write(dir .. "/in.sh", (SETUP:gsub("%%DIR", dir)))
      shell.write(dir .. "/resolv.conf", "nameserver " .. RESOLVER .. "\noptions timeout:30 attempts:5\n")
      prefix = ("unshare -m sh %s/in.sh"):format(dir)
   end)
   after_each(function()
      for i = #open, 1, -1 do open[i]:close() end
      if dir then shell.remove(dir) end
   end)

   local function check(servers, port)
      shell.write(dir .. "/script.lua", SCRIPT:format(port or 28021, servers))
      return shell.tideway("check " .. dir .. "/script.lua", prefix)
   end

   local function named(name, test)
      it(name, function()
         if why then return pending(why) end
         test()
      end)
   end

   named("are all addresses that the name has", function()
      hosts "127.0.0.3 two.test\n127.0.0.2 two.test www.two.test\n127.0.0.2 two.test\n127.0.0.4 one.test\n"
      local r = check [["two.test:8080", { "http://one.test:81", name = "single" }, "127.0.0.1:82"]]
      assert.equal(0, r.code, r.err)
      assert.truthy(r.out:find("127.0.0.2:8080, 127.0.0.3:8080, single, 127.0.0.1:82", 1, true), r.out)
      r = check [[{ "two.test:8080", name = "pair", weight = 3 }]]
      assert.truthy(r.out:find("pair/127.0.0.2:8080 weight 3, pair/127.0.0.3:8080 weight 3", 1, true), r.out)
   end)

   named("are refused when the name has no address, or a server is there twice", function()
      hosts "127.0.0.2 a.test\n127.0.0.2 b.test\n"
      local r = check [["a.test:80", "b.test:80"]]
      assert.equal(2, r.code)
      assert.truthy(r.err:find('there are two servers "127.0.0.2:80" (a.test:80 and b.test:80)', 1, true), r.err)
      r = check [["nobody.invalid:80"]]
      assert.equal(2, r.code)
      assert.truthy(r.err:find('script.lua:3: tw.upstream: group app: "nobody.invalid:80": the name "nobody.invalid" has '
         .. 'no address: ', 1, true), r.err)
      for text, says in pairs {
         ["a test:80"] = "is no name of a host", ["-a.test:80"] = "is no name of a host",
         [("a"):rep(254) .. ":80"] = "is no name of a host", ["a.test"] = "has no port", ["a.test:0"] = "0 is no port",
      } do
         r = check(("%q"):format(text))
         assert.equal(2, r.code)
         assert.truthy(r.err:find(says, 1, true), r.err)
      end
   end)

   -- One request of a client that names no host; what the server saw of it.
   local function serve(server, port)
      local c = keep(up.client(port))
      assert(c:send "GET / HTTP/1.0\r\n\r\n")
      local conn = keep(assert(server:accept()))
      local head = assert(conn:take "\r\n\r\n")
      assert(conn:send(OK))
      assert.equal(200, assert(c:response()).status)
      return head
   end

   local function server(host, port)
      local fd, at = net.listen(host, port)
      return keep(up.server(assert(fd, at), at))
   end

   named("are asked by their name, and resolved again by a reload that traffic does not wait for", function()
      local a = server("127.0.0.2", 0)
      local b = server("127.0.0.3", a.port)
      local port = gateway.port()
      hosts "127.0.0.2 backend.test\n"
      local instance = keep(instances.start { prefix = prefix, options = "--worker inline",
         script = SCRIPT:format(port, ([["backend.test:%d"]]):format(a.port)) })
      instance.close = function(self) self:stop() end
      local head = serve(a, port)
      assert.truthy(head:find(("\r\nHost: backend.test:%d\r\n"):format(a.port), 1, true), head)

      hosts "127.0.0.3 backend.test\n"
      local r = instance:tideway "reload"
      assert.equal(0, r.code, r.err)
      serve(b, port)

      -- A resolver that does not answer: refused in the end, and what runs goes on meanwhile.
      local silent = l4.bound(RESOLVER, 53)
      if not silent then return end -- somebody has that address
      keep(silent)
      hosts ""
      local out, began = dir .. "/reload", posix.now()
      os.execute(("(env TIDEWAY_RUN_DIR=%s %s reload >%s.out 2>&1; echo $? >%s.code) &"):format(instance.run_dir,
         shell.binary, out, out))
      assert(silent:receive(), "nobody asked")
      for _ = 1, 3 do serve(b, port) end
      if posix.now() - began < 4e9 then assert.is_nil(posix.slurp(out .. ".code")) end -- it waits still
      assert.is_true(up.eventually(function() return (posix.slurp(out .. ".code") or "") ~= "" end, 60))
      local said = posix.slurp(out .. ".out")
      assert.truthy(said:find('the name "backend.test" has no address: no answer within 5000 ms', 1, true), said)
      serve(b, port)
   end)

   named("are looked for again as often as the group says", function()
      local a = server("127.0.0.2", 0)
      local b, c = server("127.0.0.3", a.port), server("127.0.0.4", a.port)
      local port = gateway.port()
      hosts "127.0.0.2 backend.test\n127.0.0.4 other.test\n"
      local instance = keep(instances.start { prefix = prefix, script = [[
local tw = require "tideway"
local web = tw.listen("web", "http://127.0.0.1:]] .. port .. [[")
local app = tw.upstream("app", { resolve = 1, servers = { { "backend.test:]] .. a.port .. [[", weight = 2 },
   "other.test:]] .. a.port .. [[" } })
tw.chain("web", web, app)
]] })
      instance.close = function(self) self:stop() end
      instance:eval("upstreams.app:drain 'other.test:" .. a.port .. "'")
      serve(a, port)

      local function servers()
         local list = {}
         for i, each in ipairs(gateway.gate(instance).upstreams[1].servers) do
            list[i] = ("%s %d"):format(each.address:match "^[^:]*", each.weight)
         end
         return table.concat(list, ", ")
      end
      local function become(wanted)
         up.eventually(function() return servers() == wanted end)
         assert.equal(wanted, servers())
      end
      assert.equal("127.0.0.2 2, 127.0.0.4 0", servers())
      hosts "127.0.0.3 backend.test\n127.0.0.2 backend.test\n127.0.0.4 other.test\n"
      become "127.0.0.2 2, 127.0.0.3 2, 127.0.0.4 0"
      hosts "127.0.0.3 backend.test\n127.0.0.4 other.test\n"
      become "127.0.0.3 2, 127.0.0.4 0"
      serve(b, port)
      assert.truthy(instance:log():find(("its servers are 127.0.0.3:%d, 127.0.0.4:%d\n"):format(a.port, a.port), 1, true))
      local view = require("tideway.json").encode(instance:eval "changes()")
      assert.truthy(view:find("the resolver", 1, true), view)

      -- Nobody answers any more, then somebody does.
      hosts "127.0.0.4 other.test\n"
      assert.is_true(up.eventually(function()
         return instance:log():find('upstream app: the name "backend.test" has no address: ', 1, true) ~= nil
      end))
      assert.equal("127.0.0.3 2, 127.0.0.4 0", servers())
      serve(b, port)
      -- Two names for one address: refused, and nothing is different.
      hosts "127.0.0.4 other.test backend.test\n"
      assert.is_true(up.eventually(function() return instance:log():find("there are two servers", 1, true) ~= nil end))
      assert.equal("127.0.0.3 2, 127.0.0.4 0", servers())
      hosts "127.0.0.3 other.test\n127.0.0.4 backend.test\n"
      become "127.0.0.4 2, 127.0.0.3 1"
      serve(c, port)
   end)
end)
