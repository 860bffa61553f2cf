-- SPDX-License-Identifier: BSD-3-Clause
-- HTTP connections of the gate as clients meet them: kept, pipelined, cut in pieces, slow, half closed, reset, hostile;
-- limits and timeouts; listeners that change and leave. Answers come from a function in the gate, or from nobody (404).

local abi = require "tideway.abi"
local ffi = require "ffi"
local flow = require "test.support.flow"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local shell = require "test.shell"
local upstream = require "test.support.upstream"

local C = abi.C

pcall(ffi.cdef, [[
   struct spec_rlimit { unsigned long now, most; };
   int shutdown(int fd, int how);
   int dup(int fd);
   int getrlimit(int what, struct spec_rlimit *limit);
   int setrlimit(int what, const struct spec_rlimit *limit);
]])

local GET = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

describe("an HTTP listener", function()
   local service, open

   -- Functions (none: 404 for all), and what is different in the listener.
   local function listen(options)
      local spec = ffi.new "struct tw_listener_spec"
      spec.name, spec.protocol, spec.service = "web", C.TW_LISTEN_HTTP, 0
      spec.address.family, spec.address.port = 4, service.port
      spec.address.bytes[0], spec.address.bytes[3] = 127, 1
      spec.backlog, spec.connections, spec.head_bytes, spec.body_bytes = 64, 1000, 16384, 2 ^ 30
      spec.idle_ms, spec.head_ms, spec.body_ms, spec.send_ms, spec.request_ms = 30000, 10000, 10000, 10000, 20000
      for name, value in pairs(options or {}) do
         if name == "family" then
            spec.address.family = value
            ffi.fill(spec.address.bytes, 16)
            spec.address.bytes[15] = 1
         elseif name == "port" then
            spec.address.port = value
         else
            spec[name] = value
         end
      end
      if C.tw_gate_listener(0, spec) ~= 0 then return nil, ffi.string(C.tw_error()) end
      return true
   end

   local function start(functions, options)
      service = flow.start(functions or {}, { group = -1 })
      assert(listen(options))
      return service
   end

   local function client()
      local c = upstream.client()
      open[#open + 1] = c
      return c
   end

   local function counter(name) return upstream.counter(name) end
   local function none() return service:stats().pool_used == 0 end
   local function wait(ms) ffi.C.tw_posix_poll(nil, 0, ms) end

   -- Says its path and body; with "?size=N" so many bytes.
   local function echo()
      return {
         message = function(msg)
            local size = tonumber(msg.target:match "size=(%d+)")
            return msg:respond(200, { ["Content-Type"] = "text/plain" },
               size and ("x"):rep(size) or msg.target .. " " .. tostring(msg.body))
         end,
         body = "whole",
      }
   end

   before_each(function() open = {} end)
   after_each(function()
      for _, c in ipairs(open) do c:close() end
      local ended = service
      service = nil
      if ended then ended:finish() end
   end)

   it("answers request after request on a connection", function()
      start()
      local c = client()
      for _ = 1, 5 do
         assert(c:send(GET))
         local r = assert(c:response())
         assert.equal(404, r.status)
         assert.is_nil(r.headers.connection)
         assert.matches("^404 Not Found", r.body)
         assert.matches("GMT$", r.headers.date)
      end
      assert(c:send "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
      assert.equal(404, assert(c:response "HEAD").status)
      assert(c:send "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
      assert.equal("close", assert(c:response()).headers.connection)
      assert.is_true(c:ends())
      assert.equal(1, counter "connections")
      assert.equal(7, counter "requests")
      assert.equal(7, counter "responses")
   end)

   it("closes behind a response to HTTP/1.0, unless it is asked not to", function()
      start { echo() }
      local c = client()
      assert(c:send "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
      local r = assert(c:response())
      assert.equal("keep-alive", r.headers.connection)
      assert(c:send "GET /b HTTP/1.0\r\n\r\n")
      r = assert(c:response())
      assert.equal("close", r.headers.connection)
      assert.is_true(c:ends())
   end)

   it("answers requests that are sent all at once, in order", function()
      start { echo() }
      local c = client()
      local all, n = {}, 200
      for i = 1, n do
         all[i] = i % 3 == 0 and ("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"):format(i)
            or i % 3 == 1 and ("POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"):format(i)
            or ("GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"):format(i)
      end
      assert(c:send(table.concat(all)))
      for i = 1, n do
         local r = assert(c:response())
         assert.equal(200, r.status)
         assert.matches("^/" .. i .. " ", r.body)
         if i % 3 ~= 2 then assert.matches("body$", r.body) end
      end
      assert.equal(1, counter "connections")
   end)

   it("understands requests byte by byte", function()
      start { echo() }
      local c = client()
      for _, request in ipairs { GET, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
         "POST /y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n" } do
         for i = 1, #request do
            assert(c:send(request:sub(i, i)))
            wait(0)
         end
         local r = assert(c:response())
         assert.equal(200, r.status)
      end
      -- Two in turn: what has come of one is no part of the other.
      local two, texts = { client(), client() }, {}
      for i, path in ipairs { "/first", "/the/second" } do
         texts[i] = ("GET %s HTTP/1.1\r\nX-%d: %s\r\nHost: h\r\n\r\n"):format(path, i, ("v"):rep(i * 20))
      end
      for at = 1, math.max(#texts[1], #texts[2]) do
         local before = counter "bytes_in"
         for i, text in ipairs(texts) do
            assert(two[i]:send(text:sub(at, at)))
            if at <= #text then before = before + 1 end
            assert(upstream.eventually(function() return counter "bytes_in" == before end))
         end
      end
      assert.equal("/first ", assert(two[1]:response()).body)
      assert.equal("/the/second ", assert(two[2]:response()).body)
      -- And all bytes of them but the last, in one go each.
      for n = 1, #GET - 1 do
         local d = upstream.client()
         assert(d:send(GET:sub(1, n)))
         wait(0)
         assert(d:send(GET:sub(n + 1)))
         assert.equal(200, assert(d:response()).status)
         d:close()
      end
   end)

   it("takes bodies of every size, and gives them back", function()
      start { echo() }
      local c = client()
      for _, size in ipairs { 1, 8000, 8400, 16384, 70000, 300000 } do
         local body = ("0123456789abcdef"):rep(math.ceil(size / 16)):sub(1, size)
         assert(c:send(("POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"):format(size) .. body))
         local r = assert(c:response())
         assert.equal(200, r.status)
         assert.is_true(r.body == "/b " .. body)
         local chunks, at = {}, 1
         while at <= size do
            local n = math.min(size - at + 1, 7001)
            chunks[#chunks + 1] = ("%x\r\n%s\r\n"):format(n, body:sub(at, at + n - 1))
            at = at + n
         end
         assert(c:send("POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" .. table.concat(chunks) .. "0\r\n\r\n"))
         r = assert(c:response())
         assert.is_true(r.body == "/b " .. body)
      end
      assert.equal(1, counter "connections")
   end)

   it("says what is wrong with a request, and closes", function()
      start(nil, { head_bytes = 4096, body_bytes = 1000 })
      for request, status in pairs {
         ["GET / HTTP/1.1\r\n\r\n"] = 400,
         ["garbage\r\n\r\n"] = 501,
         ["\22\3\1\1\0\1\0\0\252\3\3"] = 400,
         ["GET / HTTP/3.0\r\nHost: h\r\n\r\n"] = 505,
         ["CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"] = 501,
         ["GET /" .. ("x"):rep(5000) .. " HTTP/1.1\r\nHost: h\r\n\r\n"] = 414,
         ["GET / HTTP/1.1\r\nHost: h\r\nA: " .. ("x"):rep(5000) .. "\r\n\r\n"] = 431,
         ["POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n" .. ("x"):rep(1001)] = 413,
         ["POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] = 400,
         ["POST / HTTP/1.1\r\nHost: h\r\nExpect: more\r\nContent-Length: 1\r\n\r\n"] = 417,
      } do
         local c = client()
         assert(c:send(request .. GET:rep(5))) -- what follows is no request any more
         local r = assert(c:response())
         assert.equal(status, r.status, request)
         assert.equal("close", r.headers.connection)
         assert.is_true(c:ends())
         assert.is_nil(c.reset)
         c:close()
      end
      assert.equal(10, counter "bad_requests")
      assert.is_true(upstream.eventually(none))
   end)

   it("refuses a chunked body that becomes too large or breaks, also in the middle", function()
      start({ echo() }, { body_bytes = 100000 })
      local head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
      for rest, status in pairs { [("8000\r\n" .. ("x"):rep(32768) .. "\r\n"):rep(4)] = 413, ["5\r\nhello\r\n5\r\nhelloX"] = 400,
         ["5\r\nhello\r\nx\r\n"] = 400 } do
         local c = client()
         assert(c:send(head))
         wait(5)
         assert(c:send(rest))
         assert.equal(status, assert(c:response()).status)
         assert.is_true(c:ends())
      end
   end)

   it("does not lose the answer while the body still comes", function()
      start()
      for _ = 1, 5 do
         local c = client()
         assert(c:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
         c:send(("x"):rep(200000)) -- nobody reads all of this
         local r = assert(c:response())
         assert.equal(404, r.status)
         assert.equal("close", r.headers.connection)
         c:close()
      end
      -- A short one is thrown away, and the connection stays.
      local c = client()
      assert(c:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n")
      assert.equal(404, assert(c:response()).status)
      assert(c:send(("x"):rep(5000) .. GET))
      assert.equal(404, assert(c:response()).status)
      assert(c:send(GET))
      assert.equal(404, assert(c:response()).status)
   end)

   it("asks for a body that waits to be asked for, if somebody wants it", function()
      start { echo() }
      local c = client()
      assert(c:send "POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
      assert.equal("HTTP/1.1 100 Continue\r\n\r\n", c:take "\r\n\r\n")
      assert(c:send "body")
      assert.equal("/e body", assert(c:response()).body)
      assert(c:send "POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody")
      assert.equal("/e body", assert(c:response()).body) -- it did not wait
      service:set { { message = function(msg) return msg:respond(403, {}, "no") end } }
      assert(c:send "POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
      local r = assert(c:response())
      assert.equal(403, r.status)
      assert.equal("close", r.headers.connection) -- the body may come or not
   end)

   it("gives up who is slow", function()
      start({ echo() }, { idle_ms = 500, head_ms = 500, body_ms = 500, send_ms = 500 })
      local kept = client()
      assert(kept:send(GET))
      assert.equal(200, assert(kept:response()).status)
      local head = client()
      assert(head:send "GET / HT")
      local body = client()
      assert(body:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
      local idle, sink = client(), client()
      assert(sink:send(("GET /?size=3000000 HTTP/1.1\r\nHost: h\r\n\r\n"):rep(5)))
      assert.equal(408, assert(head:response()).status)
      assert.is_true(head:ends())
      assert.equal(408, assert(body:response()).status)
      assert.is_true(body:ends())
      assert.is_true(idle:ends())
      assert.is_true(kept:ends())
      assert.is_true(upstream.eventually(function() return counter "timeouts" >= 5 end))
      assert.is_true(#sink:rest() < 15000000)
      assert.is_true(upstream.eventually(none))
   end)

   it("lets a slow one go on that keeps sending", function()
      start({ echo() }, { body_ms = 1000, head_ms = 5000 })
      local c = client()
      assert(c:send "POST /s HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
      for _ = 1, 8 do
         wait(150)
         assert(c:send "x")
      end
      assert.equal("/s xxxxxxxx", assert(c:response()).body)
   end)

   it("answers who ends its direction first", function()
      start { echo() }
      local c = client()
      assert(c:send(GET:rep(3)))
      ffi.C.shutdown(c.fd, 1)
      for _ = 1, 3 do assert.equal(200, assert(c:response()).status) end
      assert.is_true(c:ends())
      c = client()
      assert(c:send "GET / HT")
      ffi.C.shutdown(c.fd, 1)
      assert.equal(400, assert(c:response()).status)
      assert.is_true(c:ends())
      c = client()
      assert(c:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
      ffi.C.shutdown(c.fd, 1)
      assert.equal(400, assert(c:response()).status)
      c = client()
      ffi.C.shutdown(c.fd, 1)
      assert.is_true(c:ends())
   end)

   it("keeps nothing of connections that are reset, in any phase", function()
      start { echo() }
      for _, bytes in ipairs { "", "GET / HT", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nsome",
         "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", GET, GET .. "GET /", "GET /?size=4000000 HTTP/1.1\r\nHost: h\r\n\r\n" } do
         for _ = 1, 5 do
            local c = upstream.client()
            if bytes ~= "" then assert(c:send(bytes)) end
            wait(2)
            c:abort()
         end
      end
      assert.is_true(upstream.eventually(function()
         local stats = ffi.new "struct tw_gate_stats"
         C.tw_gate_stats(0, stats)
         return stats.connections == 0 and stats.exchanges == 0 and none()
      end))
      local c = client()
      assert(c:send(GET))
      assert.equal(200, assert(c:response()).status)
   end)

   it("writes large responses as fast as they are taken", function()
      start { echo() }
      local c = client()
      for _ = 1, 3 do
         assert(c:send "GET /?size=900000 HTTP/1.1\r\nHost: h\r\n\r\n")
         wait(20) -- until the socket is full
         local r = assert(c:response())
         assert.is_true(r.body == ("x"):rep(900000))
      end
   end)

   it("has limits for connections and for requests on one", function()
      start(nil, { connections = 2, requests = 3 })
      local a, b = client(), client()
      assert(a:send(GET))
      assert.equal(404, assert(a:response()).status)
      assert(b:send(GET))
      assert(b:response())
      local c = client()
      local r = assert(c:response())
      assert.equal(503, r.status)
      assert.matches("too many connections", r.body)
      assert.equal(1, counter "refused")
      assert(a:send(GET .. GET .. GET))
      assert.is_nil(assert(a:response()).headers.connection)
      assert.equal("close", assert(a:response()).headers.connection)
      assert.is_true(a:ends())
      a:close()
      assert.is_true(upstream.eventually(function()
         local d = upstream.client()
         d:send(GET)
         local answer = d:response()
         d:close()
         return answer and answer.status == 404
      end))
   end)

   it("refuses connections when descriptors run out, and goes on when there are some", function()
      start()
      local before = client()
      assert(before:send(GET))
      assert(before:response())
      local hoard, limit, few = {}, ffi.new "struct spec_rlimit", ffi.new "struct spec_rlimit"
      assert.equal(0, ffi.C.getrlimit(7, limit)) -- RLIMIT_NOFILE
      few.now, few.most = 400, limit.most
      assert.equal(0, ffi.C.setrlimit(7, few))
      while #hoard < 1000 do
         local fd = ffi.C.dup(1)
         if fd < 0 then break end
         hoard[#hoard + 1] = fd
      end
      posix.close(table.remove(hoard)) -- for the next client
      local d = client()
      local ended = d:more()
      ffi.C.setrlimit(7, limit)
      for _, fd in ipairs(hoard) do posix.close(fd) end
      assert.is_false(ended)
      assert.is_true(counter "refused" >= 1)
      assert(before:send(GET))
      assert.equal(404, assert(before:response()).status)
      local e = client()
      assert(e:send(GET))
      assert.equal(404, assert(e:response()).status)
   end)

   it("holds many idle connections with no block and no wake-up", function()
      start(nil, { idle_ms = 60000 })
      local n = 300
      for _ = 1, n do
         local c = client()
         assert(c:send(GET))
         assert(c:response())
      end
      -- Clients have the response before the gate has let go of its request.
      assert.same({ 0, 0 }, { service:settle() })
      assert.is_true(upstream.eventually(function()
         local turns = counter "turns"
         wait(200)
         return turns == counter "turns"
      end))
   end)

   it("says so when the memory for requests is used up, and goes on when some is free", function()
      start(nil, { connections = 0, backlog = 1024, head_ms = 60000 })
      local held, refused = {}, nil
      for i = 1, 3000 do
         held[i] = client()
         assert(held[i]:send "GET / HT")
         if i % 50 == 0 and counter "no_block" > 0 then
            refused = true
            break
         end
      end
      assert.is_true(refused)
      assert.equal(503, assert(held[#held]:response()).status)
      assert.is_true(held[#held]:ends())
      for _, one in ipairs(held) do one:close() end
      assert.is_true(upstream.eventually(none))
      local c = client()
      assert(c:send(GET))
      assert.equal(404, assert(c:response()).status)
   end)

   it("takes memory from those that only begin requests, when it is used up", function()
      start(nil, { connections = 0, backlog = 1024, head_ms = 60000 })
      local held = {}
      repeat
         local c = client()
         held[#held + 1] = c
         assert(c:send "GET / HT")
      until #held == 3000 or #held % 50 == 0 and counter "no_block" > 0
      wait(1200)
      for _ = 1, 5 do
         local c = client()
         assert(c:send(GET))
         assert.equal(404, assert(c:response()).status)
         c:close()
      end
      assert.is_true(counter "timeouts" >= 1)
   end)

   it("gives few bytes a small block", function()
      start { { message = function(msg) return msg:respond(200, {}, tostring(#msg.body)) end, body = "whole" } }
      local list = {}
      for i = 1, 20 do
         local c = client()
         list[i] = c
         assert(c:send "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
         for _ = 1, 6 do
            assert(c:send "1\r\nx\r\n")
            wait(1)
         end
      end
      assert.is_true(tonumber(service:stats().pool_used) < 200)
      for _, c in ipairs(list) do
         assert(c:send "0\r\n\r\n")
         assert.equal("6", assert(c:response()).body)
      end
   end)

   it("changes while it runs, and leaves", function()
      start { echo() }
      local c, d = client(), client()
      assert(c:send(GET))
      assert(c:response())
      assert(d:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
      local old = service.port
      local port = upstream.unused()
      assert(listen { port = port }) -- another address; connections go on
      assert(c:send(GET))
      assert.equal(200, assert(c:response()).status)
      assert.is_nil((net.connect("127.0.0.1", old)))
      local fd = assert(net.connect("127.0.0.1", port))
      posix.close(fd)
      assert.equal(0, C.tw_gate_listener_remove(0, 5000))
      assert.is_nil((net.connect("127.0.0.1", port)))
      assert.is_true(c:ends()) -- idle
      assert(d:send "llo")
      local r = assert(d:response())
      assert.same({ 200, "close" }, { r.status, r.headers.connection })
      assert.is_true(d:ends())
      assert.is_true(C.tw_gate_listener_remove(0, 0) < 0)
      assert(listen { port = port }) -- and there again
      posix.close((assert(net.connect("127.0.0.1", port))))
   end)

   it("closes what is left when its time to leave is over", function()
      start { echo() }
      local d = client()
      assert(d:send "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
      wait(10)
      assert.equal(0, C.tw_gate_listener_remove(0, 50))
      assert.is_true(d:ends())
   end)

   it("says why it cannot be opened", function()
      start()
      local other = assert(upstream.server())
      local ok, err = listen { port = other.port }
      assert.is_nil(ok)
      assert.matches("Address already in use", err)
      assert.matches("127.0.0.1:" .. other.port, err)
      other:close()
      ok, err = listen { port = 0 }
      assert.is_nil(ok)
      assert.matches("port is missing", err)
      ok, err = listen { protocol = 9 }
      assert.is_nil(ok)
      assert.matches("no protocol 9", err)
      local c = client() -- the one before is still there
      assert(c:send(GET))
      assert.equal(404, assert(c:response()).status)
   end)

   it("listens on IPv6", function()
      start { { message = function(msg) return msg:respond(200, {}, "six") end } }
      local port = upstream.unused()
      local ok, err = listen { family = 6, port = port }
      if not ok then
         pending("no IPv6: " .. err)
         return
      end
      local out = shell.run(("curl -sg -m 60 http://[::1]:%d/"):format(port))
      assert.equal("six", out.out)
   end)

   it("hands on both directions of an upgraded connection until both have ended", function()
      local app = flow.server()
      service = flow.start({}, { servers = { app.port } })
      assert(listen())
      for round = 1, 2 do
         local c = client()
         assert(c:send("GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n" .. (round == 2 and "early" or "")))
         local s = assert(app:accept())
         local head = assert(s:take "\r\n\r\n")
         assert.matches("[Uu]pgrade: chat\r\n", head)
         assert.matches("Connection: upgrade\r\n", head)
         assert(s:send "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nhello")
         local answer = assert(c:take "hello")
         assert.matches("^HTTP/1.1 101 ", answer)
         assert.matches("Upgrade: chat\r\n", answer)
         if round == 2 then assert.equal("early", s:bytes(5)) end
         local long = ("0123456789"):rep(20000)
         local echoed = {}
         for at = 1, #long, 5000 do
            assert(c:send(long:sub(at, at + 4999)))
            local part = assert(s:bytes(5000))
            assert(s:send(part))
            echoed[#echoed + 1] = assert(c:bytes(5000))
         end
         assert.is_true(table.concat(echoed) == long)
         ffi.C.shutdown(c.fd, 1)
         assert.is_true(s:ends()) -- its direction has ended, the other has not
         assert(s:send "bye")
         assert.equal("bye", c:bytes(3))
         s:close()
         assert.is_true(c:ends())
      end
      app:close()
   end)

   it("survives whatever clients do", function()
      start({ echo() }, { head_ms = 200, body_ms = 200, send_ms = 200, idle_ms = 200, body_bytes = 20000, head_bytes = 3000 })
      math.randomseed(22)
      local seeds = { GET, "GET /?size=200000 HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD /x HTTP/1.0\r\n\r\n",
         "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n" .. ("x"):rep(9000),
         "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
         "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1000\r\n" .. ("y"):rep(4096) .. "\r\n0\r\n\r\n",
         "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" }
      local living = {}
      for _ = 1, 400 do
         local parts = {}
         for i = 1, math.random(4) do parts[i] = seeds[math.random(#seeds)] end
         local bytes = table.concat(parts)
         if math.random(2) == 1 then
            for _ = 1, math.random(3) do
               local at = math.random(#bytes)
               bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + math.random(0, 3))
            end
         end
         local c = upstream.client()
         local at = 1
         while at <= #bytes do
            local n = math.random(3) == 1 and math.random(20) or #bytes
            if not c:send(bytes:sub(at, at + n - 1)) then break end
            at = at + n
            if math.random(20) == 1 then break end
         end
         local what = math.random(6)
         if what == 1 then c:abort()
         elseif what == 2 then ffi.C.shutdown(c.fd, 1) living[#living + 1] = c
         elseif what == 3 then c:more(0.002) c:close()
         elseif what == 4 then c:close()
         else living[#living + 1] = c end
         if #living > 30 then table.remove(living, math.random(#living)):close() end
      end
      for _, c in ipairs(living) do c:close() end
      assert.is_true(upstream.eventually(function()
         local stats = ffi.new "struct tw_gate_stats"
         C.tw_gate_stats(0, stats)
         return stats.connections == 0 and stats.exchanges == 0 and none()
      end))
      assert(listen())
      local c = client()
      assert(c:send(GET))
      assert.equal(200, assert(c:response()).status)
   end)

   it("reads the header of a proxy in front, or closes", function()
      start({ echo() }, { proxy = 1 })
      local c = client()
      assert(c:send("PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n" .. GET))
      assert.equal(200, assert(c:response()).status)
      assert(c:send(GET)) -- once only
      assert.equal(200, assert(c:response()).status)
      local text = "PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n" .. GET
      local d = client()
      for i = 1, #text do
         assert(d:send(text:sub(i, i)))
         wait(0)
      end
      assert.equal(200, assert(d:response()).status)
      local e = client()
      assert(e:send(GET))
      assert.is_true(e:ends())
   end)
end)

describe("gate threads", function()
   it("start once, stop, and start again", function()
      assert.equal(0, C.tw_gates_start(2, nil))
      assert.is_true(C.tw_gates_start(1, nil) < 0)
      assert.matches("run already", ffi.string(C.tw_error()))
      local stats = ffi.new "struct tw_gate_stats"
      assert.equal(0, C.tw_gate_stats(1, stats))
      assert.is_true(C.tw_gate_stats(2, stats) < 0)
      assert.equal(0, C.tw_gates_stop(0))
      assert.equal(0, C.tw_gates_stop(0))
      assert.is_true(C.tw_gates_start(0, nil) < 0)
      assert.is_true(C.tw_gates_start(C.TW_GATES_MAX + 1, nil) < 0)
      assert.is_true(C.tw_gates_start(1, ffi.new("int[1]", 4000)) < 0)
      assert.equal(0, C.tw_gates_start(1, nil))
      assert.equal(0, C.tw_gates_stop(0))
   end)
end)
