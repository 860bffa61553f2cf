-- SPDX-License-Identifier: BSD-3-Clause
-- The gate's way to servers: which one is chosen, connections kept and limited, bodies both ways, what fails and what
-- is tried again.

local abi = require "tideway.abi"
local ffi = require "ffi"
local up = require "test.support.upstream"

local C = abi.C

-- ---- the choice, as a pure function ----

local function servers(...)
   local weights = { ... }
   local list = ffi.new("struct tw_balance_server[?]", #weights)
   local address = ffi.new "struct tw_endpoint_address"
   for i, weight in ipairs(weights) do
      address.family, address.port, address.bytes[0], address.bytes[3] = 4, 80, 10, i
      list[i - 1].weight = weight
      list[i - 1].identity = C.tw_balance_identity(address)
   end
   return list, #weights
end

describe("balance", function()
   it("goes round by weight, and spreads the heavy one out", function()
      local list, n = servers(5, 1, 1)
      local order = {}
      for i = 1, 14 do order[i] = C.tw_balance_choose(C.TW_BALANCE_ROUND_ROBIN, list, n, 0) end
      assert.equal("00102000010200", table.concat(order))
   end)

   it("passes over servers that are drained or not usable now, and says when there is none", function()
      for balance = C.TW_BALANCE_ROUND_ROBIN, C.TW_BALANCE_HASH do
         local list, n = servers(1, 0, 1)
         list[0].skip = true
         for key = 1, 20 do assert.equal(2, C.tw_balance_choose(balance, list, n, key)) end
         list[2].skip = true
         assert.equal(-1, C.tw_balance_choose(balance, list, n, 1))
         assert.equal(-1, C.tw_balance_choose(balance, list, 0, 1))
      end
   end)

   it("chooses the one with least to do for its weight, and alternates between equals", function()
      local list, n = servers(1, 1, 2)
      list[0].active, list[1].active, list[2].active = 3, 2, 6
      assert.equal(1, C.tw_balance_choose(C.TW_BALANCE_LEAST, list, n, 0))
      list[2].active = 4
      assert.equal(2, C.tw_balance_choose(C.TW_BALANCE_LEAST, list, n, 0))
      list, n = servers(1, 1)
      local order = {}
      for i = 1, 6 do order[i] = C.tw_balance_choose(C.TW_BALANCE_LEAST, list, n, 0) end
      assert.equal("010101", table.concat(order))
      list, n = servers(1, 3)
      for _ = 1, 400 do
         local i = C.tw_balance_choose(C.TW_BALANCE_LEAST, list, n, 0)
         list[i].active = list[i].active + 1
      end
      assert.same({ 100, 300 }, { list[0].active, list[1].active })
   end)

   local function spread(list, n, keys)
      local of, count = {}, {}
      for key = 1, keys do
         of[key] = C.tw_balance_choose(C.TW_BALANCE_HASH, list, n, key)
         count[of[key]] = (count[of[key]] or 0) + 1
      end
      return of, count
   end

   it("hashes keys by weight", function()
      local _, count = spread(select(1, servers(1, 2, 1)), 3, 40000)
      for i, share in ipairs { 10000, 20000, 10000 } do
         assert.is_true(math.abs(count[i - 1] - share) < 500, i .. ": " .. count[i - 1])
      end
   end)

   it("moves only the keys of a server that goes, to all others", function()
      local list, n = servers(1, 1, 1, 1, 1)
      local before = spread(list, n, 10000)
      list[2].skip = true
      local after = spread(list, n, 10000)
      local moved = {}
      for key = 1, 10000 do
         if before[key] == 2 then
            moved[after[key]] = (moved[after[key]] or 0) + 1
         else
            assert.equal(before[key], after[key])
         end
      end
      for _, i in ipairs { 0, 1, 3, 4 } do assert.is_true(moved[i] > 400, i) end
      list[2].skip = false
      assert.same(before, (spread(list, n, 10000)))
   end)

   it("gives a new weight only the share that it stands for", function()
      local list, n = servers(4, 4, 4)
      local before = spread(list, n, 10000)
      list[0].weight = 3
      local after = spread(list, n, 10000)
      local moved = 0
      for key = 1, 10000 do
         if before[key] ~= after[key] then
            assert.equal(0, before[key])
            moved = moved + 1
         end
      end
      assert.is_true(moved > 400 and moved < 900, moved) -- 1/3 - 3/11 of them: 606
   end)

   it("knows a server by its address, not by its place", function()
      local list, n = servers(1, 1, 1)
      local before = spread(list, n, 1000)
      list[0], list[2] = ffi.new("struct tw_balance_server", list[2]), ffi.new("struct tw_balance_server", list[0])
      local after = spread(list, n, 1000)
      for key = 1, 1000 do assert.equal(2 - before[key], after[key]) end
   end)
end)

-- ---- through a gate thread ----

local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

describe("a gate and its servers", function()
   local open

   local function keep(object)
      open[#open + 1] = object
      return object
   end
   local function client() return keep(up.client()) end
   local function server(port) return keep(up.server(port)) end

   -- One server; the request's head as it came there.
   local function serve(s, answer)
      local conn, head = s:serve(answer)
      return keep(conn), head
   end

   -- Lines that all differ, so that no piece can be lost, doubled or swapped unseen.
   local function text(bytes)
      local parts = {}
      for i = 1, math.ceil(bytes / 16) do parts[i] = ("%015d\n"):format(i * 7919) end
      return table.concat(parts):sub(1, bytes)
   end

   before_each(function() open = {} end)

   -- Nothing is left behind: no connection in use, no block.
   after_each(function()
      for _, object in ipairs(open) do object:close() end
      local clean = up.eventually(function()
         for i = 0, 3 do
            local f = up.figures(0, i)
            if f and f.active > 0 then return false end
         end
         return up.blocks() == 0
      end)
      local blocks = up.blocks()
      up.stop()
      assert(clean, blocks .. " blocks are not free, or connections are in use")
   end)

   it("relays a request and keeps the connection for the next one", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      assert(c:send "GET /a?b=c HTTP/1.1\r\nHost: example\r\nX-One: 1\r\nConnection: X-Two\r\nX-Two: 2\r\n\r\n")
      local conn, head = serve(s, "HTTP/1.1 201 Made\r\nContent-Length: 5\r\nX-Three: 3\r\n\r\nhello")
      assert.truthy(head:find("^GET /a%?b=c HTTP/1%.1\r\n"))
      assert.truthy(head:find("X-One: 1\r\n", 1, true))
      assert.is_nil(head:find("X-Two", 1, true))
      local r = assert(c:response())
      assert.same({ 201, "hello", "3" }, { r.status, r.body, r.headers["x-three"] })

      c:get("/second")
      assert.truthy(assert(conn:take "\r\n\r\n"):find "^GET /second ")
      assert(conn:send(OK))
      assert.equal("ok", assert(c:response()).body)
      local f = up.figures(0, 0)
      assert.same({ 2, 0, 0, 1 }, { tonumber(f.requests), tonumber(f.failures), f.active, f.idle })
      assert.equal(1, up.counter "upstream_connections")
      assert.equal(1, up.counter "upstream_reused")
   end)

   it("knows that a kept connection was closed, and takes a new one", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      c:get()
      serve(s, OK):close()
      assert(c:response())
      assert.is_true(up.eventually(function() return up.figures(0, 0).idle == 0 end))
      c:get()
      serve(s, OK)
      assert.equal("ok", assert(c:response()).body)
      assert.equal(0, tonumber(up.figures(0, 0).failures))
   end)

   it("asks once more when a kept connection is closed on its request, and blames nobody", function()
      local s = server()
      up.start { servers = { s.port }, retries = 0 }
      local c = client()
      c:get()
      local conn = serve(s, OK)
      assert(c:response())
      c:get("/again")
      assert(conn:take "\r\n\r\n")
      conn:abort()
      local _, head = serve(s, OK)
      assert.truthy(head:find "^GET /again ")
      assert.equal(200, assert(c:response()).status)
      local f = up.figures(0, 0)
      assert.same({ 3, 0 }, { tonumber(f.requests), tonumber(f.failures) })
   end)

   it("does not repeat a request that may have had an effect", function()
      local s = server()
      up.start { servers = { s.port, server().port }, retries = 3 }
      local c = client()
      local conn
      for _ = 1, 2 do -- a kept connection to both
         c:get()
         conn = conn or serve(s, OK)
         if _ == 2 then serve(open[2], OK) end
         assert(c:response())
      end
      assert(c:send "POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 4\r\n\r\nbody")
      assert(conn:take "body")
      conn:close()
      assert.equal(502, assert(c:response()).status)
      assert.equal(1, tonumber(up.figures(0, 0).failures))
      assert.equal(0, up.counter "retries")
   end)

   it("tries another server when one refuses, whatever the request is", function()
      local s = server()
      up.start { servers = { up.unused(), s.port }, retries = 1 }
      local c = client()
      assert(c:send "POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 4\r\n\r\nbody")
      local conn = serve(s)
      assert.equal("body", conn:bytes(4))
      assert(conn:send(OK))
      assert.equal(200, assert(c:response()).status)
      assert.equal(1, tonumber(up.figures(0, 0).failures))
      assert.equal(1, up.counter "retries")
   end)

   it("repeats a whole body for another server", function()
      local bad, good = server(), server()
      up.start { servers = { bad.port, good.port }, retries = 1 }
      local c = client()
      assert(c:send("PUT / HTTP/1.1\r\nHost: example\r\nContent-Length: 6\r\n\r\nwhole!"))
      local conn = keep(assert(bad:accept()))
      assert(conn:take "whole!")
      conn:abort()
      local other = serve(good)
      assert.equal("whole!", other:bytes(6))
      assert(other:send(OK))
      assert.equal(200, assert(c:response()).status)
   end)

   it("does not repeat a body that is not all there any more", function()
      local s = server()
      up.start { servers = { s.port, server().port }, retries = 1 }
      local c = client()
      assert(c:send "PUT / HTTP/1.1\r\nHost: example\r\nContent-Length: 100000000\r\n\r\n")
      local conn = serve(s)
      local lump = ("0123456789"):rep(10000)
      for _ = 1, 40 do
         assert(c:send(lump))
         assert(conn:bytes(#lump) == lump)
      end
      conn:abort()
      assert.equal(502, assert(c:response()).status)
      assert.equal(0, up.counter "retries")
   end)

   it("says which server refused, and why", function()
      local port = up.unused()
      up.start { servers = { port } }
      local c = client()
      c:get()
      local r = assert(c:response())
      assert.equal(502, r.status)
      assert.truthy(ffi.string(up.figures(0, 0).last):find "refused")
      c:get() -- the client's connection goes on
      assert.equal(502, assert(c:response()).status)
   end)

   it("connects to servers that take their time, and not for ever", function()
      local s = server()
      up.start { servers = { s.port }, connect_ms = 150, retries = 0 }
      -- the kernel holds 16 + 1 that nobody has accepted; it answers no other
      for _ = 1, 17 do keep(up.client(s.port)) end
      local c = client()
      c:get()
      assert.equal(504, assert(c:response()).status)
      assert.truthy(ffi.string(up.figures(0, 0).last):find "no connection within 150 ms")
      up.group(0, { servers = { s.port }, connect_ms = 8000, retries = 0 })
      c:get("/late")
      assert.is_true(up.eventually(function() return up.figures(0, 0).active == 1 end))
      for _ = 1, 17 do keep(assert(s:accept())) end
      local _, head = serve(s, OK) -- at the second try of the kernel, a second later
      assert.truthy(head:find "^GET /late ")
      assert.equal("ok", assert(c:response()).body)
   end)

   it("speaks to servers over IPv6", function()
      local net = require "tideway.posix.net"
      local fd, port = net.listen("::1", 0)
      if not fd then
         pending "there is no ::1"
         up.start { servers = { 1 } }
         return
      end
      local s = keep(up.server(fd, port))
      up.start { servers = { { port, v6 = true } } }
      local c = client()
      c:get()
      serve(s, OK)
      assert.equal("ok", assert(c:response()).body)
   end)

   it("waits for an answer only so long", function()
      local s = server()
      up.start { servers = { s.port }, response_ms = 150, retries = 0 }
      local c = client()
      c:get()
      local conn = serve(s, "HTTP/1.1 200 OK\r\nContent-Le")
      assert.equal(504, assert(c:response()).status)
      assert.is_true(conn:ends())
   end)

   for name, answer in pairs {
      ["garbage"] = "220 smtp.example ESMTP\r\n\r\n",
      ["a head that never ends"] = "HTTP/1.1 200 OK\r\n" .. ("X-Filler: 0123456789abcdef\r\n"):rep(3000),
      ["two lengths"] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
      ["a length and chunks"] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
         .. "2\r\nok\r\n0\r\n\r\n",
      ["interim responses without end"] = ("HTTP/1.1 103 Early\r\n\r\n"):rep(100),
      ["another protocol that nobody asked for"] = "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n"
         .. "Connection: upgrade\r\n\r\n",
      ["chunks that are none"] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      ["nothing but an end"] = "",
   } do
      it("answers 502 to " .. name, function()
         local s = server()
         up.start { servers = { s.port }, retries = 2 }
         local c = client()
         c:get()
         local conn = keep(assert(s:accept()))
         assert(conn:take "\r\n\r\n")
         conn:send(answer)
         if answer == "" then conn:close() end
         assert.equal(502, assert(c:response()).status)
         assert.equal(1, tonumber(up.figures(0, 0).failures))
         if conn.fd then assert.is_false(conn:more() or false) end -- closed, or reset
      end)
   end

   it("knows responses that have no body", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      assert(c:send "HEAD / HTTP/1.1\r\nHost: example\r\n\r\n")
      local conn = serve(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
      local r = assert(c:response "HEAD")
      assert.same({ 200, "1000" }, { r.status, r.headers["content-length"] })
      for _, status in ipairs { 204, 304 } do
         c:get()
         assert(conn:take "\r\n\r\n")
         assert(conn:send(("HTTP/1.1 %d X\r\n\r\n"):format(status)))
         local head = assert(c:take "\r\n\r\n")
         assert.truthy(head:find("^HTTP/1%.1 " .. status))
      end
      assert.equal(1, up.counter "upstream_connections")
   end)

   it("relays large bodies of every framing, with and without a slow client", function()
      local s = server()
      up.start { servers = { s.port } }
      local body = text(3000000)
      local chunks, at, size = {}, 1, 1
      while at <= #body do
         chunks[#chunks + 1] = ("%x\r\n%s\r\n"):format(math.min(size, #body - at + 1), body:sub(at, at + size - 1))
         at, size = at + size, size * 3 % 100003 + 1
      end
      chunks[#chunks + 1] = "0\r\nTrailer: x\r\n\r\n"
      local function check(head, payload, close)
         local c = client()
         c:get()
         local conn = keep(assert(s:accept()))
         assert(conn:take "\r\n\r\n")
         local wire, from = head .. payload, 1
         -- Sent as far as it is taken, so that this one process is not in its own way.
         local socket = require "tideway.posix.socket"
         local got = 0
         while from <= #wire do
            local n = socket.send(conn.fd, wire, from - 1)
            if n then from = from + n end
            if not n or got < 1000 then
               c:more(0.01)
               got = got + 1
            end
         end
         if close then conn:close() end
         local r = assert(c:response())
         assert.equal(#body, #r.body)
         assert.is_true(body == r.body)
         conn:close()
         assert.is_true(up.eventually(function() return up.figures(0, 0).idle == 0 end))
      end
      check(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(#body), body)
      check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", table.concat(chunks))
      check("HTTP/1.0 200 OK\r\n\r\n", body, true)
   end)

   it("takes a thousand chunks of a byte", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      c:get()
      local body = text(1000)
      serve(s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
         .. body:gsub(".", function(byte) return "1\r\n" .. byte .. "\r\n" end):gsub("\n$", "\n0\r\n\r\n"))
      assert.equal(body, assert(c:response()).body)
   end)

   it("breaks off a response that is too short", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      c:get()
      serve(s, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"):close()
      local all = c:rest()
      assert.truthy(all:find("\r\n\r\nonly this", 1, true))
      assert.equal(1, tonumber(up.figures(0, 0).failures))
   end)

   it("uses no connection again that had more bytes than its response", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      local stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
      local chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      for i, pieces in ipairs {
         { OK .. stolen }, { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok" .. stolen },
         { chunked .. "2\r\nok\r\n0\r\n\r\n" .. stolen }, { chunked, "2\r\nok\r\n0\r\n\r\n" .. stolen },
         { chunked .. "2\r\n", "ok\r\n0\r\n\r\n" .. stolen }, { "HTTP/1.1 204 No Content\r\n\r\n" .. stolen },
         { OK, method = "HEAD" }, { OK, late = stolen },
      } do
         local name, body = "answer " .. i, (pieces.method or pieces[1]:find " 204 ") and "" or "ok"
         assert(c:send((pieces.method or "GET") .. " / HTTP/1.1\r\nHost: example\r\n\r\n"))
         local conn = serve(s)
         for _, piece in ipairs(pieces) do
            local before = up.counter "upstream_bytes_in"
            assert(conn:send(piece))
            assert(up.eventually(function() return up.counter "upstream_bytes_in" == before + #piece end), name)
         end
         assert.equal(body, assert(c:response(pieces.method)).body, name)
         if pieces.late then assert(conn:send(pieces.late)) end
         assert.is_false(conn:more(), name)
         c:get()
         serve(s, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfine")
         assert.equal("fine", assert(c:response()).body, name)
      end
   end)

   it("streams request bodies by length and in chunks", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      local body = text(2000000)
      local socket = require "tideway.posix.socket"
      local function push(conn, wire, sink)
         local from = 1
         while from <= #wire do
            local n = socket.send(conn.fd, wire, from - 1)
            if n then from = from + n else sink:more(0.01) end
         end
      end
      assert(c:send(("POST / HTTP/1.1\r\nHost: example\r\nContent-Length: %d\r\n\r\n"):format(#body)))
      local conn = serve(s)
      push(c, body, conn)
      assert.is_true(conn:bytes(#body) == body)
      assert(conn:send(OK))
      assert(c:response())

      assert(c:send "POST / HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n")
      local head = assert(conn:take "\r\n\r\n")
      assert.truthy(head:lower():find("transfer-encoding: chunked", 1, true))
      assert(c:send "5\r\nhello\r\n")
      assert.equal("5\r\nhello\r\n", conn:take "hello\r\n")
      assert(c:send "6\r\n world\r\n0\r\n\r\n")
      assert.equal("6\r\n world\r\n0\r\n\r\n", conn:take "0\r\n\r\n")
      assert(conn:send(OK))
      assert.equal(200, assert(c:response()).status)
      assert.equal(1, up.counter "upstream_connections")
   end)

   it("hands on an answer that comes before the request is over", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      assert(c:send "POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 1000\r\n\r\nfirst")
      local conn = serve(s, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
      local r = assert(c:response())
      assert.same({ 413, "no!" }, { r.status, r.body })
      assert(conn:take "first")
      assert.is_false(conn:more() or false) -- not kept
   end)

   it("changes to another protocol, both ways, with half-closed ends", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      assert(c:send "GET /chat HTTP/1.1\r\nHost: example\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
      local conn, head = serve(s)
      assert.truthy(head:lower():find("upgrade: chat", 1, true))
      assert(conn:send "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello")
      assert.truthy(assert(c:take "\r\n\r\n"):find "^HTTP/1.1 101 ")
      assert.equal("hello", c:bytes(5))
      for i = 1, 5 do
         assert(c:send("ping" .. i))
         assert.equal("ping" .. i, conn:bytes(5))
         assert(conn:send("pong" .. i))
         assert.equal("pong" .. i, c:bytes(5))
      end
      conn:close()
      assert.is_true(c:ends())
   end)

   it("lets requests wait for a connection, in order, and not for ever", function()
      local s = server()
      up.start { servers = { s.port }, connections = 1, queue_ms = 5000 }
      local a, b, c = client(), client(), client()
      a:get("/a")
      local conn, head = serve(s)
      assert.truthy(head:find "^GET /a ")
      b:get("/b")
      assert.is_true(up.eventually(function() return up.counter "requests" >= 2 end))
      c:get("/c")
      assert.is_true(up.eventually(function() return up.counter "requests" >= 3 end))
      for i, who in ipairs { a, b, c } do
         if i > 1 then assert.truthy(assert(conn:take "\r\n\r\n"):find("^GET /" .. ("abc"):sub(i, i))) end
         assert(conn:send(OK))
         assert.equal(200, assert(who:response()).status)
      end
      up.group(0, { servers = { s.port }, connections = 1, queue_ms = 100 })
      a:get()
      assert(conn:take "\r\n\r\n")
      b:get()
      assert.equal(503, assert(b:response()).status)
      up.group(0, { servers = { s.port }, connections = 1, queue_ms = 0 })
      b:get()
      assert.equal(503, assert(b:response()).status)
      assert(conn:send(OK))
      assert.equal(200, assert(a:response()).status)
   end)

   it("takes a server out that fails, and tries it with one request later", function()
      local bad, s = up.unused(), server()
      up.start { servers = { bad, s.port }, retries = 1, fails = 2, fail_ms = 1500 }
      local c = client()
      local conn
      local function once()
         c:get()
         if conn then assert(conn:take "\r\n\r\n") else conn = serve(s) end
         assert(conn:send(OK))
         assert.equal(200, assert(c:response()).status)
      end
      for _ = 1, 6 do once() end
      local f = up.figures(0, 0)
      assert.same({ 2, 0 }, { tonumber(f.failures), f.up })
      local back = server(bad)
      assert.is_true(up.eventually(function()
         c:get()
         local fresh = back:accept(0.05)
         if fresh then
            keep(fresh)
            assert(fresh:take "\r\n\r\n")
            assert(fresh:send(OK))
         else
            assert(conn:take "\r\n\r\n")
            assert(conn:send(OK))
         end
         assert.equal(200, assert(c:response()).status)
         return up.figures(0, 0).up == 1
      end))
      assert.equal(2, tonumber(up.figures(0, 0).failures))
   end)

   it("checks servers, and sends nothing to one that fails its checks", function()
      local s, other = server(), server()
      up.start { servers = { s.port, other.port }, check_ms = 20, check_timeout_ms = 20000, check_path = "/health", rise = 2, fall = 2 }
      local status, closed = 200, false
      -- Plays both servers for a while.
      local function play()
         for _, each in ipairs { s, other } do
            local conn = each:accept(0.01)
            if conn then
               local head = conn:take "\r\n\r\n"
               assert.truthy(head:find("^GET /health HTTP/1%.1\r\nHost: 127%.0%.0%.1:"))
               conn:send(("HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"):format(each == s and status or 200))
               conn:close()
            end
         end
         return closed
      end
      local function figure(name)
         return function()
            play()
            return up.figures(0, 0)[name]
         end
      end
      assert.is_true(up.eventually(function() return figure "checks"() >= 3 end))
      assert.equal(1, up.figures(0, 0).up)
      status = 500
      assert.is_true(up.eventually(function() return figure "up"() == 0 end))
      assert.is_true(up.figures(0, 0).failed_checks >= 2)
      assert.truthy(ffi.string(up.figures(0, 0).last):find "500")
      assert.equal(1, up.figures(0, 1).up)
      status = 204
      assert.is_true(up.eventually(function() return figure "up"() == 1 end))
      up.group(0, { servers = { s.port, other.port } }) -- no more checks
   end)

   it("drains, changes and removes servers while requests are under way", function()
      local first, second = server(), server()
      up.start { servers = { first.port } }
      local a, b = client(), client()
      a:get("/old")
      local old = serve(first)
      up.group(0, { servers = { { first.port, weight = 0 }, second.port } })
      assert.equal(1, up.figures(0, 0).active)
      b:get()
      serve(second, OK)
      assert(b:response())
      up.group(0, { servers = { second.port } })
      assert(old:send(OK))
      assert.equal("ok", assert(a:response()).body)
      assert.is_true(old:ends()) -- not kept
      assert.same({ 0, 1 }, { up.figures(0, 0).active, up.figures(0, 0).idle })
      assert.equal(0, C.tw_gate_group_remove(0))
      a:get()
      assert.equal(503, assert(a:response()).status)
      up.group(0, { servers = { second.port } })
      a:get()
      serve(second, OK)
      assert.equal(200, assert(a:response()).status)
   end)

   it("answers 503 when all servers are drained", function()
      local s = server()
      up.start { servers = { { s.port, weight = 0 } } }
      local c = client()
      c:get()
      assert.equal(503, assert(c:response()).status)
   end)

   it("refuses groups that cannot be", function()
      local s = server()
      up.start { servers = { s.port } }
      assert.has_error(function() up.group(0, { servers = { s.port, s.port } }) end)
      assert.has_error(function() up.group(0, { servers = { 0 } }) end)
      assert.has_error(function() up.group(C.TW_GROUPS_MAX, { servers = { s.port } }) end)
      assert.has_error(function() up.group(0, { servers = { s.port }, balance = 9 }) end)
      local c = client() -- and the group is as it was
      c:get()
      serve(s, OK)
      assert.equal(200, assert(c:response()).status)
      assert.is_nil((up.figures(0, 1)))
      assert.is_nil((up.figures(7, 0)))
   end)

   it("leaves nothing when clients go away, in any phase", function()
      local s = server()
      up.start { servers = { s.port }, connections = 2, queue_ms = 10000 }
      local function none() return up.figures(0, 0).active == 0 and up.blocks() == 0 end
      local phases = {
         function() end, -- nothing of a response
         function(conn) conn:send "HTTP/1.1 200 OK\r\nConte" end,
         function(conn) conn:send "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf" end,
         function(conn) conn:send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab") end,
         function(conn) -- more than anybody takes
            local socket = require "tideway.posix.socket"
            conn:send "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
            local lump, stuck = ("x"):rep(65536), 0
            while stuck < 20 do
               if not socket.send(conn.fd, lump, 0) then
                  stuck = stuck + 1
                  ffi.C.tw_posix_poll(nil, 0, 1)
               end
            end
         end,
      }
      for _, phase in ipairs(phases) do
         local c = up.client()
         c:get()
         local conn = serve(s)
         phase(conn)
         c:abort()
         while conn:more() do end
         assert.is_true(conn:ends())
         assert.is_true(up.eventually(none))
      end
      -- while it waits for a connection
      local a, b, c = client(), client(), up.client()
      a:get()
      local one = serve(s)
      b:get()
      local two = serve(s)
      c:get()
      assert.is_true(up.eventually(function() return up.counter "requests" == #phases + 3 end))
      c:abort()
      assert.is_true(up.eventually(function() return up.service "in_flight" == 2 end))
      one:send(OK)
      two:send(OK)
      assert(a:response())
      assert(b:response())
      assert.is_nil((one:more(0.1))) -- the third never came
      assert.is_nil((two:more(0.05)))
   end)

   it("survives a server that resets in every phase", function()
      local s = server()
      up.start { servers = { s.port }, retries = 0 }
      local answer = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789"
      for cut = 0, #answer - 1, 7 do
         local c = client()
         assert(c:send "GET / HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")
         local conn = serve(s)
         conn:send(answer:sub(1, cut))
         if cut % 2 == 0 then ffi.C.tw_posix_poll(nil, 0, 2) end
         conn:abort()
         local all = c:rest()
         assert.truthy(all:find "^HTTP/1.1 502 " or all:find("^HTTP/1.1 200 ") and #all < #answer + 200, all)
         c:close()
      end
      local c = client()
      c:get()
      serve(s, OK)
      assert.equal(200, assert(c:response()).status)
   end)

   it("tells servers who the client is, by the PROXY protocol, on connections of its own", function()
      local s = server()
      up.start { servers = { s.port }, proxy = 1 }
      local c = client()
      for _ = 1, 2 do
         c:get()
         local conn, head = serve(s, OK)
         assert.truthy(head:find(("^PROXY TCP4 127%%.0%%.0%%.1 127%%.0%%.0%%.1 %%d+ %d\r\nGET / HTTP/1%%.1\r\n")
            :format(up.port)))
         assert.truthy(head:lower():find("connection: close", 1, true))
         assert.equal("ok", assert(c:response()).body)
         assert.is_true(conn:ends())
      end
   end)

   it("sends the same client to the same server, when nobody says otherwise", function()
      local list = { server(), server(), server() }
      up.start { servers = { list[1].port, list[2].port, list[3].port }, balance = C.TW_BALANCE_HASH }
      for _ = 1, 5 do
         local c = client()
         c:get()
         assert.is_true(up.eventually(function()
            local sum = 0
            for i = 0, 2 do sum = sum + up.figures(0, i).active end
            return sum > 0
         end))
         for i, s in ipairs(list) do
            if up.figures(0, i - 1).active > 0 then serve(s, OK:gsub("Length: 2", "Length: 2\r\nConnection: close")) end
         end
         assert(c:response())
         c:close()
      end
      local counts = {}
      for i = 0, 2 do counts[i + 1] = tonumber(up.figures(0, i).requests) end
      table.sort(counts)
      assert.same({ 0, 0, 5 }, counts)
   end)

   it("waits when the pool is empty, and goes on", function()
      local s = server()
      up.start({ servers = { s.port } }, 1, 1)
      local socket = require "tideway.posix.socket"
      local slow, conns, sent, lump = {}, {}, {}, text(65536)
      local length, n = 96 * #lump, 12 -- more than the pool and the sockets' buffers hold
      for i = 1, n do
         slow[i] = client()
         slow[i]:get()
         conns[i], sent[i] = keep(assert(s:accept())), 0
         assert(conns[i]:take "\r\n\r\n" )
         conns[i]:send(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(length))
      end
      local function pump()
         for i = 1, n do
            local bytes = sent[i] < length and socket.send(conns[i].fd, lump, sent[i] % #lump)
            if bytes then sent[i] = sent[i] + bytes end
         end
      end
      -- Nobody reads until there is no memory left.
      assert.is_true(up.eventually(function()
         pump()
         return up.counter "no_block" > 0
      end))
      local parts, ended = {}, 0
      for i = 1, n do parts[i] = {} end
      assert.is_true(up.eventually(function()
         pump()
         for i = 1, n do
            local bytes, count = socket.receive(slow[i].fd)
            while bytes and count > 0 do
               parts[i][#parts[i] + 1] = ffi.string(bytes, count)
               parts[i].bytes = (parts[i].bytes or 0) + count
               bytes, count = socket.receive(slow[i].fd)
            end
            if not parts[i].ended and (bytes or (parts[i].bytes or 0) > length) then
               parts[i].ended, ended = true, ended + 1
            end
         end
         return ended == n
      end))
      local got = 0
      for i = 1, n do
         local head, body = table.concat(parts[i]):match "^(.-\r\n\r\n)(.*)$"
         if head:find "^HTTP/1.1 200" then
            assert.is_true(body == lump:rep(length / #lump))
            got = got + 1
         else
            assert.truthy(head:find "^HTTP/1.1 503", head)
         end
      end
      assert.is_true(got > 0)
      assert.is_true(up.counter "no_block" > 0)
   end)

   it("says 503 when there is no descriptor left, and blames no server", function()
      local s = server()
      up.start { servers = { s.port } }
      local c = client()
      c:get()
      serve(s, OK:gsub("Length: 2", "Length: 2\r\nConnection: close"))
      assert(c:response())
      local posix = require "tideway.posix"
      local limit = "prlimit --pid " .. posix.getpid() .. " --nofile="
      local before = io.popen("prlimit --pid " .. posix.getpid() .. " --nofile --noheadings --output SOFT"):read "*n"
         or "unlimited"
      assert.equal(0, os.execute(limit .. "256:"))
      local taken = {}
      while true do
         local fd = ffi.C.tw_posix_socket(1, 1, 0)
         if fd < 0 then break end
         taken[#taken + 1] = fd
      end
      c:get()
      local r = c:response()
      for _, fd in ipairs(taken) do ffi.C.tw_posix_close(fd) end
      assert.equal(0, os.execute(limit .. before .. ":"))
      assert.equal(503, r and r.status)
      assert.equal(0, tonumber(up.figures(0, 0).failures))
      c:get()
      serve(s, OK)
      assert.equal(200, assert(c:response()).status)
   end)

   it("shares what threads know of a server", function()
      local bad, s = up.unused(), server()
      up.start({ servers = { bad, s.port }, retries = 1, fails = 3, fail_ms = 60000 }, 3)
      local stop = false
      for _ = 1, 60 do
         if stop then break end
         local c = client()
         c:get()
         local conn
         assert(up.eventually(function()
            conn = s:accept(0.02)
            if not conn then -- a connection that was kept
               for _, object in ipairs(open) do
                  if object.serves and object:more(0.005) then conn = object end
               end
            end
            return conn
         end))
         conn.serves = true
         keep(conn)
         assert(conn:take "\r\n\r\n")
         conn:send(OK)
         assert.equal(200, assert(c:response()).status)
         c:close()
         stop = up.figures(0, 0).up == 0
      end
      assert.is_true(stop)
      local failures = tonumber(up.figures(0, 0).failures)
      assert.is_true(failures >= 3 and failures <= 5, failures)
   end)
end)

-- ---- nginx ----

describe("a gate before nginx", function()
   local process = require "tideway.posix.process"
   local shell = require "test.shell"
   local CONF = [[
daemon off;
master_process off;
worker_processes 1;
pid %DIR/nginx.pid;
error_log %DIR/error.log;
events { worker_connections 64; }
http {
   access_log off;
   keepalive_requests 3;
   client_body_temp_path %DIR/body;
   proxy_temp_path %DIR/proxy;
   fastcgi_temp_path %DIR/fastcgi;
   uwsgi_temp_path %DIR/uwsgi;
   scgi_temp_path %DIR/scgi;
   client_max_body_size 10m;
   server {
      listen 127.0.0.1:%PORT;
      root %DIR/www;
      location = /moved { return 302 /big; }
      location = /empty { return 204; }
   }
}
]]

   it("fetches files of all sizes over connections that it closes now and then", function()
      if shell.run("command -v nginx").code ~= 0 then
         pending "nginx is not installed (nginx-light)"
         return
      end
      local dir, port = shell.directory(), up.unused()
      local lines = {}
      for i = 1, 70000 do lines[i] = ("line %09d\n"):format(i * 31) end
      local big = table.concat(lines)
      shell.write(dir .. "/www/big", big)
      shell.write(dir .. "/www/small", "small\n")
      shell.write(dir .. "/nginx.conf", (CONF:gsub("%%(%u+)", { DIR = dir, PORT = tostring(port) })))
      os.execute("chmod -R a+rX " .. dir)
      local pid = assert(process.spawn({ "nginx", "-e", dir .. "/error.log", "-c", dir .. "/nginx.conf" }))
      up.start { servers = { port }, retries = 0 }
      local ok, err = pcall(function()
         local c
         assert(up.eventually(function()
            c = up.client()
            c:get("/small")
            local r = c:response()
            return r and r.status == 200
         end), "nginx does not answer")
         for i = 1, 20 do
            c:get("/small")
            assert.equal("small\n", assert(c:response()).body)
            c:get("/big")
            local r = assert(c:response())
            assert.is_true(r.body == big, i)
            c:get("/none")
            assert.equal(404, assert(c:response()).status)
            c:get("/moved")
            assert.equal(302, assert(c:response()).status)
            c:get("/empty")
            assert.truthy(assert(c:take "\r\n\r\n"):find "^HTTP/1.1 204 ")
            assert(c:send "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n")
            r = assert(c:response "HEAD")
            assert.equal(tostring(#big), r.headers["content-length"])
            assert(c:send "GET /big HTTP/1.1\r\nHost: x\r\nRange: bytes=100-199\r\n\r\n")
            r = assert(c:response())
            assert.same({ 206, big:sub(101, 200) }, { r.status, r.body })
         end
         assert.is_true(up.counter "upstream_connections" > 20)
         c:close()
      end)
      up.stop()
      process.terminate(pid)
      process.ended(pid, true)
      shell.remove(dir)
      assert(ok, err)
   end)
end)
