-- SPDX-License-Identifier: BSD-3-Clause
-- Servers that are sockets in the file system: requests and streams byte exact, full queues, checks, what is not there
-- or not allowed; how they are declared.

local abi = require "tideway.abi"
local ffi = require "ffi"
local flow = require "test.support.flow"
local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local l4 = require "test.support.l4"
local model = require "tideway.model"
local shell = require "test.shell"
local tw = require "tideway"
local up = require "test.support.upstream"
local upstream = require "tideway.gate.upstream"
local validate = require "tideway.gate.validate"

local C = abi.C
local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

local dir, open

local function keep(object)
   open[#open + 1] = object
   return object
end
local function client() return keep(up.client()) end
local function path(name) return dir .. "/" .. name end
local function server(name) return keep(up.server_at(path(name or "app.sock"))) end
local function figure(number, name) return tonumber(up.figures(0, number or 0)[name]) end
local function last(number) return ffi.string(up.figures(0, number or 0).last) end

local function status(target)
   local c = client()
   c:get(target)
   return assert(c:response()).status
end

local function serve(s, answer)
   local conn, head = s:serve(answer)
   return keep(conn), head
end

-- A server whose queue has one place, and that is taken.
local function full(name)
   local s = server(name)
   ffi.C.tw_posix_listen(s.fd, 0)
   keep(up.wrap(assert(require("tideway.posix.socket").connect(s.path))))
   return s
end

describe("a gate and servers at paths", function()
   before_each(function() dir, open = shell.directory(), {} end)

   after_each(function()
      for _, object in ipairs(open) do object:close() end
      local clean = up.eventually(function() return figure(0, "active") == 0 and up.blocks() == 0 end)
      local blocks = up.blocks()
      up.stop()
      shell.remove(dir)
      assert(clean, blocks .. " blocks are not free, or connections are in use")
   end)

   it("relays requests and keeps connections", function()
      local s = server()
      up.start { servers = { s.path } }
      local c = client()
      c:get("/one")
      local conn, head = serve(s, OK)
      assert.truthy(head:find "^GET /one HTTP/1.1\r\nHost: example\r\n")
      assert.equal("ok", assert(c:response()).body)
      assert(c:send "GET /two HTTP/1.0\r\n\r\n")
      head = assert(conn:take "\r\n\r\n")
      assert.truthy(head:find "^GET /two HTTP/1.1\r\n")
      assert.truthy(head:find("\r\nHost: localhost\r\n", 1, true), head)
      assert(conn:send(OK))
      assert.equal("ok", assert(c:response()).body)
      assert.same({ 2, 0, 1 }, { figure(0, "requests"), figure(0, "failures"), figure(0, "idle") })
      assert.same({ 1, 1 }, { up.counter "upstream_connections", up.counter "upstream_reused" })
   end)

   it("relays large bodies, both ways", function()
      local s = server()
      up.start { servers = { s.path } }
      local c = client()
      local there, back = l4.pattern(2 ^ 22 + 17, 3), l4.pattern(2 ^ 22 + 4711, 4)
      local a = { connection = c, text = ("PUT / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n%s"):format(#there, there) }
      local at, got = 0, {}
      local conn
      assert(up.eventually(function()
         at = at + (require("tideway.posix.socket").send(c.fd, a.text, at) or 0)
         conn = conn or s:accept(0.01)
         if conn and conn:more(0.001) then
            got[#got + 1] = conn.got
            conn.got = ""
         end
         return at == #a.text
      end))
      keep(conn)
      got[#got + 1] = conn:bytes(#there - #table.concat(got):match "\r\n\r\n(.*)$")
      assert.is_true(table.concat(got):match "\r\n\r\n(.*)$" == there)
      local answer = ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(#back) .. back
      local sent, parts, have = 0, {}, 0
      assert(up.eventually(function()
         sent = sent + (require("tideway.posix.socket").send(conn.fd, answer, sent) or 0)
         if c:more(0.001) then
            parts[#parts + 1], have = c.got, have + #c.got
            c.got = ""
         end
         return sent == #answer and have > #back
      end))
      local all = table.concat(parts)
      while #all:match "\r\n\r\n(.*)$" < #back do
         assert(c:more())
         all, c.got = all .. c.got, ""
      end
      assert.is_true(all:match "\r\n\r\n(.*)$" == back)
   end)

   it("answers 502 when nobody is there, and goes on when somebody is", function()
      local gone = path "app.sock"
      up.start { servers = { gone }, retries = 0 }
      assert.equal(502, status())
      assert.same({ 1, "No such file or directory" }, { figure(0, "failures"), last() })
      shell.write(gone, "a file")
      assert.equal(502, status())
      assert.same({ 2, "Connection refused" }, { figure(0, "failures"), last() })
      local s = server()
      s:close()
      assert.equal(502, status())
      assert.equal(3, figure(0, "failures"))
      s = server()
      local c = client()
      c:get()
      serve(s, OK)
      assert.equal(200, assert(c:response()).status)
   end)

   it("takes one out that fails, and tries another one", function()
      local s = server "there"
      up.start { servers = { path "gone", s.path }, retries = 1, fails = 2, fail_ms = 60000 }
      local c, conn = client(), nil
      for i = 1, 6 do
         c:get("/" .. i)
         conn = conn or keep(assert(s:accept()))
         assert(conn:take "\r\n\r\n")
         conn:send(OK)
         assert.equal(200, assert(c:response()).status)
      end
      assert.same({ 0, 2, 2 }, { figure(0, "up"), figure(0, "failures"), up.counter "retries" })
      assert.same({ 1, 0 }, { figure(1, "up"), figure(1, "failures") })
   end)

   it("waits for a place in its queue, and not for ever", function()
      local s = full()
      up.start { servers = { s.path }, connect_ms = 60, retries = 0 }
      assert.equal(504, status())
      assert.equal("no connection within 60 ms", last())
      up.group(0, { servers = { s.path }, connect_ms = 20000, retries = 0 })
      local c, given_up = client(), up.client()
      c:get("/late")
      given_up:get()
      assert.is_true(up.eventually(function() return figure(0, "active") == 2 end))
      ffi.C.tw_posix_poll(nil, 0, 20)
      given_up:close()
      assert.is_true(up.eventually(function() return figure(0, "active") == 1 end))
      keep(assert(s:accept()))
      local _, head = serve(s, OK)
      assert.truthy(head:find "^GET /late ")
      assert.equal("ok", assert(c:response()).body)
      assert.equal(1, figure(0, "failures"))
   end)

   it("is told when a server goes while it waits for a place", function()
      local s = full()
      up.start { servers = { s.path }, connect_ms = 20000, retries = 0 }
      local c = client()
      c:get()
      assert.is_true(up.eventually(function() return figure(0, "active") == 1 end))
      s:close()
      assert.equal(502, assert(c:response()).status)
      assert.equal("Connection refused", last())
      -- and when the gate ends in the middle of it
      s = full "other"
      up.group(0, { servers = { s.path }, connect_ms = 20000 })
      client():get()
      assert.is_true(up.eventually(function() return figure(0, "active") == 1 end))
   end)

   it("checks them", function()
      local s, answer = server(), 200
      up.start { servers = { s.path, path "gone" }, check_ms = 20, check_path = "/health", fall = 2 }
      local function play()
         local conn = s.fd and s:accept(0.01)
         if not conn then return end
         local head = conn:take "\r\n\r\n"
         assert.truthy(head:find("^GET /health HTTP/1%.1\r\nHost: localhost\r\n"), head)
         conn:send(("HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"):format(answer))
         conn:close()
      end
      local function becomes(number, is)
         assert.is_true(up.eventually(function()
            play()
            return figure(number, "checks") > 2 and figure(number, "up") == is
         end, 60))
      end
      becomes(0, 1)
      becomes(1, 0)
      assert.equal("check: No such file or directory", last(1))
      answer = 500
      becomes(0, 0)
      answer = 204
      becomes(0, 1)
      s:close()
      becomes(0, 0)
      assert.equal("check: Connection refused", last(0))
      s = server()
      becomes(0, 1)
      up.group(0, { servers = { s.path } })
   end)

   it("tells them who the client is, by the PROXY protocol", function()
      local s = server()
      up.start { servers = { s.path }, proxy = 1 }
      local c = client()
      c:get()
      local _, head = serve(s, OK)
      assert.truthy(head:find "^PROXY TCP4 127%.0%.0%.1 127%.0%.0%.1 %d+ %d+\r\nGET / ", head)
      assert.equal("ok", assert(c:response()).body)
   end)

   it("knows them by their path, and refuses what is none", function()
      local s = server()
      up.start { servers = { s.path } }
      for text, options in pairs {
         ["have the same address"] = { servers = { s.path, s.path } },
         ["has no absolute path"] = { servers = { "app.sock" } },
         ["no datagrams go to"] = { servers = { s.path }, protocol = C.TW_LISTEN_UDP },
      } do
         local ok, err = pcall(up.group, 0, options)
         assert.is_false(ok)
         assert.truthy(tostring(err):find(text, 1, true), err)
      end
      local address, other = ffi.new "struct tw_endpoint_address", ffi.new "struct tw_endpoint_address"
      address.family, address.path, other.family, other.path = C.TW_ADDRESS_UNIX, "/a", C.TW_ADDRESS_UNIX, "/b"
      assert.are_not.equal(C.tw_balance_identity(address), C.tw_balance_identity(other))
      other.path = "/a"
      assert.equal(C.tw_balance_identity(address), C.tw_balance_identity(other))
   end)
end)

describe("streams to servers at paths", function()
   local service

   local function start(functions, options)
      options.transport, options.protocol = "inline", C.TW_LISTEN_TCP
      service = flow.start(functions, options)
      service.has_groups = { true }
      options.servers, options.transport = options.servers or { path "app.sock" }, nil
      up.group(0, options)
   end

   before_each(function() dir, open = shell.directory(), {} end)
   after_each(function()
      for _, object in ipairs(open) do object:close() end
      local in_flight, blocks = service:settle()
      local active = figure(0, "active")
      service:close()
      shell.remove(dir)
      assert.same({ 0, 0, 0 }, { in_flight, blocks, active })
   end)

   for name, functions in pairs { ["without functions"] = {}, ["through a function"] = {
      { message = function() end, data = function() end } } } do
      it("are byte exact both ways at once, " .. name, function()
         local s = server()
         start(functions, {})
         local c = client()
         local conn = keep(assert(s:accept()))
         local n = functions[1] and 2 ^ 20 or 2 ^ 23
         local there, back = l4.pattern(n + 17, 1), l4.pattern(n + 4711, 2)
         local at_server, at_client = l4.exchange(c, conn, there, back)
         assert.is_true(at_server == there)
         assert.is_true(at_client == back)
         assert.same({ 1, 0 }, { figure(0, "requests"), figure(0, "failures") })
      end)
   end

   it("go to another one when one is not there, and are closed when none is", function()
      local s = server "there"
      start({}, { servers = { path "gone", s.path }, retries = 1, fails = 0 })
      for _ = 1, 4 do
         local c = client()
         c:send "hello"
         assert.equal("hello", keep(assert(s:accept())):bytes(5))
      end
      assert.same({ 2, 4 }, { figure(0, "failures"), figure(1, "requests") })
      assert.equal("No such file or directory", last(0))
      s:close()
      local c = client()
      assert.is_false(c:more())
      assert.equal("Connection refused", last(1))
   end)

   it("wait for a place in a queue, and not for ever", function()
      local s = full()
      start({}, { servers = { s.path }, connect_ms = 60, retries = 0, fails = 0 })
      assert.is_false(client():more())
      assert.equal("it does not answer", last())
      up.group(0, { servers = { s.path }, protocol = C.TW_LISTEN_TCP, connect_ms = 20000, retries = 0, fails = 0 })
      local c, given_up = client(), up.client()
      c:send "late"
      assert.is_true(up.eventually(function() return figure(0, "active") == 2 end))
      ffi.C.tw_posix_poll(nil, 0, 20)
      given_up:abort()
      assert.is_true(up.eventually(function() return figure(0, "active") == 1 end))
      keep(assert(s:accept()))
      local conn = keep(assert(s:accept()))
      assert.equal("late", conn:bytes(4))
      conn:send "thanks"
      assert.equal("thanks", c:bytes(6))
   end)

   it("hear of a server that goes while they wait for a place", function()
      local s = full()
      start({}, { servers = { s.path }, connect_ms = 20000, retries = 0, fails = 0 })
      local c = client()
      assert.is_true(up.eventually(function() return figure(0, "active") == 1 end))
      s:close()
      assert.is_false(c:more())
      assert.equal("Connection refused", last())
   end)
end)

describe("a path in a script", function()
   before_each(function()
      model.reset()
      model.dry = true
   end)
   after_each(function()
      model.reset()
      model.dry = false
   end)

   local function spec_of(group)
      local out = ffi.new "struct tw_group_spec"
      upstream.fill(group, model.state(group), out)
      return out
   end

   it("is a server of HTTP or TCP", function()
      local long = "/" .. ("d"):rep(99) .. "/a.sock"
      local g = tw.upstream("app", { servers = { "unix:/run/app.sock", { "http://unix:" .. long, weight = 2 },
         { "unix:/run/c.sock", name = "c" }, "10.0.0.1:80" } })
      local out = spec_of(g)
      assert.same({ "unix:/run/app.sock", "unix:..." .. long:sub(-39), "c", "10.0.0.1:80" },
         { g.servers[1].name, g.servers[2].name, g.servers[3].name, g.servers[4].name })
      assert.same({ tonumber(C.TW_ADDRESS_UNIX), "/run/app.sock", "localhost" },
         { out.server[0].address.family, ffi.string(out.server[0].address.path), ffi.string(out.server[0].host) })
      assert.same({ long, 2, 4, "" }, { ffi.string(out.server[1].address.path), out.server[1].weight,
         out.server[3].address.family, ffi.string(out.server[3].host) })
      g:drain "unix:/run/app.sock"
      assert.equal(0, g.servers[1].weight)
      assert.truthy(tw.upstream("db", { servers = { "tcp://unix:/run/postgresql/.s.PGSQL.5432" } }))
   end)

   it("is refused where it cannot be one", function()
      local function refused(text, fn)
         local ok, err = pcall(fn)
         assert.is_false(ok)
         assert.truthy(err:find(text, 1, true), err)
      end
      for given, says in pairs {
         ["unix:app.sock"] = "is given by its whole path", ["unix:"] = "is given by its whole path",
         ["unix:/a\nb"] = "is given by its whole path", ["udp://unix:/a"] = "no datagrams go to sockets",
         ["unix:/" .. ("x"):rep(107)] = "has 107 bytes at most, not 108",
      } do
         refused(says, function() tw.upstream("app", { servers = { given } }) end)
      end
      refused("no datagrams go to", function() tw.upstream("app", { protocol = "udp", servers = { "unix:/a" } }) end)
      local dns = tw.upstream("dns", { servers = { "10.0.0.1:53", "unix:/a" } })
      tw.chain("dns", tw.listen("dns", "udp://127.0.0.1:28031"), dns)
      refused("chain dns is behind a listener for udp and ends in upstream dns, and no datagrams go to unix:/a",
         validate.check)
      dns:remove "unix:/a"
      validate.check()
      refused("no datagrams go to", function() dns:add "unix:/a" end)
      refused("sockets in the file system are for servers", function() tw.listen("l", "tcp://unix:/a") end)
   end)
end)

describe("nginx at a path", function()
   local SCRIPT = [[
local tw = require "tideway"
local web = tw.listen("web", "http://127.0.0.1:%d")
local app = tw.upstream("app", { servers = { "unix:%s" }, keepalive = 0 })
tw.chain("web", web, app)
]]

   it("is served by a running engine, as far as its mode allows", function()
      local why = gateway.missing("nginx", "curl")
      if why then return pending(why) end
      local home = shell.directory()
      local at = home .. "/nginx.sock"
      local origin = gateway.nginx(nil, "listen unix:" .. at .. ";")
      local port = gateway.port()
      local instance = instances.start { script = SCRIPT:format(port, at) }
      local url = "http://127.0.0.1:" .. port
      local ok, err = pcall(function()
         local r = gateway.curl(url .. "/small")
         assert.same({ 200, "small\n" }, { r.status, r.body })
         assert.is_true(gateway.curl(url .. "/large").body == origin.large)
         assert.equal("a.test\n", gateway.curl(url .. "/host", "-H 'Host: a.test'").body)
         -- Its user is root still, and has no right any more to pass by modes.
         assert.equal(0, shell.run(("chown 65534 %s && chmod 600 %s"):format(at, at)).code)
         assert.equal(502, gateway.curl(url .. "/small").status)
         assert.truthy(gateway.gate(instance).upstreams[1].servers[1].last:find "Permission denied")
         assert.truthy(instance:tideway("top --once").out:find "unix:")
      end)
      local result = instance:stop()
      origin:stop()
      shell.remove(home)
      assert(ok, err)
      assert.equal(0, result.code, result.err)
   end)
end)
