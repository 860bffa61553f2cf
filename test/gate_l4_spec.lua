-- SPDX-License-Identifier: BSD-3-Clause
-- Streams and datagrams through the gate: byte exact both ways, half-closes, resets, refusals, PROXY headers, functions
-- that take openings, pieces and datagrams; figures that add up, blocks that come back.

local ffi = require "ffi"
local abi = require "tideway.abi"
local flow = require "test.support.flow"
local l4 = require "test.support.l4"
local upstream = require "test.support.upstream"

local C = abi.C

-- A listener (number 0: the service's, again) with other words.
local function listen(service, number, words)
   local spec = ffi.new "struct tw_listener_spec"
   spec.name, spec.protocol, spec.backlog, spec.connections = "flow", service.protocol, 64, 1000
   spec.address.family, spec.address.port = 4, service.port
   spec.address.bytes[0], spec.address.bytes[3] = 127, 1
   spec.idle_ms, spec.head_ms, spec.request_ms = 30000, 10000, 20000
   for key, value in pairs(words) do spec[key] = value end
   assert(C.tw_gate_listener(number, spec) == 0, abi.error())
end

-- The unspecified address of IPv6, for IPv4 as well.
local function listen_any(service)
   local port = upstream.unused()
   listen(service, 1, { address = { family = 6, port = port } })
   return port
end

describe("a stream", function()
   local service, app

   local function start(functions, options)
      options = options or {}
      app = flow.server()
      options.protocol, options.servers = C.TW_LISTEN_TCP, { app.port }
      service = flow.start(functions, options)
      upstream.group(0, { servers = { app.port }, protocol = C.TW_LISTEN_TCP, proxy = options.proxy or 0,
         retries = options.retries or 0 })
      if options.listener then listen(service, 0, options.listener) end
      return service
   end

   local function connected()
      local c = flow.client()
      c:send "hello"
      local s = assert(app:accept(), "no connection at the server")
      assert.equal("hello", s:bytes(5))
      return c, s
   end

   after_each(function()
      local in_flight, blocks = service:settle()
      local active = upstream.figures(0, 0)
      active = active and active.active
      service:close()
      app:close()
      assert.same({ 0, 0, 0 }, { in_flight, blocks, active or 0 })
   end)

   for _, case in ipairs { { "without functions", "inline", nil }, { "inline", "inline", true },
      { "sk_msg", "sk_msg", true }, { "rings", "rings", true } } do
      local name, transport, takes_data = unpack(case)

      it("is byte exact both ways at once, " .. name, function()
         start(takes_data and { { message = function() end, data = function() end } } or {},
            { transport = transport })
         local c = flow.client()
         local s = assert(app:accept())
         local n = takes_data and 2 ^ 20 or 2 ^ 23
         local up, down = l4.pattern(n + 17, 1), l4.pattern(n + 4711, 2)
         local at_server, at_client = l4.exchange(c, s, up, down)
         assert.same({ #up, #down }, { #at_server, #at_client })
         assert.is_true(at_server == up and at_client == down)
         c:close()
         s:close()
      end)
   end

   it("that is long goes past the pool, byte exact", function()
      start {}
      local c = flow.client()
      local s = assert(app:accept())
      local calls = flow.counter "copied_bytes"
      local up, down = l4.pattern(2 ^ 25, 5), l4.pattern(2 ^ 20, 6)
      local at_server, at_client = l4.exchange(c, s, up, down)
      assert.is_true(at_server == up and at_client == down)
      assert.equal(calls, flow.counter "copied_bytes")
      c:close()
      s:close()
   end)

   it("may be read after it was half-closed, either way", function()
      start {}
      local c, s = connected()
      l4.half_close(c)
      assert.is_true(s:ends())
      s:send "still there"
      assert.equal("still there", c:bytes(11))
      s:close()
      assert.is_true(c:ends())
      c:close()
      c, s = connected()
      l4.half_close(s)
      assert.is_true(c:ends())
      c:send "still there"
      assert.equal("still there", s:bytes(11))
      c:close()
      assert.is_true(s:ends())
      s:close()
   end)

   it("is reset at one end when the other is reset", function()
      start {}
      local c, s = connected()
      c:abort()
      assert.is_false(s:more())
      assert.matches("reset", s.reset)
      s:close()
      c, s = connected()
      s:abort()
      assert.is_false(c:more())
      assert.matches("reset", c.reset)
      c:close()
   end)

   it("waits for who does not read, with bounded memory", function()
      start {}
      local c, s = connected()
      local sent, text = 0, l4.pattern(65536, 3)
      local socket = require "tideway.posix.socket"
      for _ = 1, 2000 do
         local n = socket.send(c.fd, text, 0)
         if n then sent = sent + n else ffi.C.tw_posix_poll(nil, 0, 1) end
      end
      local stats = service:stats()
      assert.is_true(tonumber(stats.pool_used) <= 16)
      assert.is_true(sent > 2 ^ 20)
      l4.half_close(c)
      local got = s:rest()
      assert.equal(sent, #got)
      s:close()
      c:close()
   end)

   it("comes by IPv4 and IPv6", function()
      start { { message = function(msg)
         return msg:reply(("%s %s"):format(msg.peer, msg.local_address))
      end } }
      local port = listen_any(service)
      for _, case in ipairs { { "127.0.0.1", "127.0.0.1 127.0.0.1" }, { "::1", "::1 ::1" } } do
         local c = l4.tcp(case[1], port)
         assert.equal(case[2], c:rest())
         c:close()
      end
   end)

   it("goes on when its listener is removed, until it has to end", function()
      start {}
      local c, s = connected()
      assert.equal(0, C.tw_gate_listener_remove(0, 1000))
      c:send "still there"
      assert.equal("still there", s:bytes(11))
      assert.is_false(c:more())
      assert.is_false(s:more())
      c:close()
      s:close()
   end)

   it("waits like others that do not read, none of them loses a byte", function()
      start {}
      local all = {}
      for i = 1, 20 do
         local c, s = connected()
         all[i] = { c, s }
         local text = l4.pattern(2 ^ 20, i)
         local socket = require "tideway.posix.socket"
         local at = 0
         for _ = 1, 40 do at = at + (socket.send(c.fd, text, at) or 0) end
         all[i].sent, all[i].text = at, text
      end
      for i = 1, 20 do
         local c, s = unpack(all[i])
         l4.half_close(c)
         assert.is_true(s:rest() == all[i].text:sub(1, all[i].sent))
         c:close()
         s:close()
      end
   end)

   it("is closed when no server can be had", function()
      start {}
      app:close()
      local c = flow.client()
      assert.is_false(c:more())
      c:close()
   end)

   it("goes to another server when one does not answer", function()
      start({}, { retries = 1 })
      upstream.group(0, { servers = { upstream.unused(), app.port }, protocol = C.TW_LISTEN_TCP, retries = 1 })
      for _ = 1, 4 do
         local c, s = connected()
         c:close()
         s:close()
      end
   end)

   it("is closed when nothing moves for too long", function()
      start({}, { listener = { idle_ms = 700 } })
      local c, s = connected()
      assert.is_false(c:more())
      assert.is_false(s:more())
      c:close()
      s:close()
      assert.equal(1, flow.counter "timeouts")
   end)

   it("is refused by a function before a byte is read", function()
      start { { message = function(msg)
         assert(msg.kind == "open" and msg.peer == "127.0.0.1" and msg.local_address == "127.0.0.1")
         return msg:drop "not today"
      end } }
      local c = flow.client()
      assert.is_false(c:more())
      c:close()
      assert.is_nil(app:accept(0.1))
   end)

   it("is answered by a function, all of it, and closed", function()
      local long = ("x"):rep(300000)
      start { { message = function(msg) return msg:reply("sorry " .. long) end } }
      for _, first in ipairs { "", "what the client says is not read" } do
         local c = flow.client()
         if #first > 0 then c:send(first) end
         assert.is_true(c:rest() == "sorry " .. long)
         assert.is_nil(c.reset)
         c:close()
      end
      assert.is_nil(app:accept(0.05))
   end)

   it("is a conversation with functions when there is no server", function()
      start({ { message = function() end, data = function(msg) return msg:reply("you said " .. msg.bytes) end } },
         { group = -1 })
      local c = flow.client()
      c:send "hello"
      assert.equal("you said hello", c:bytes(14))
      c:send "again"
      assert.equal("you said again", c:bytes(14))
      l4.half_close(c)
      c:rest()
      c:close()
   end)

   it("goes through functions piece by piece, and they answer", function()
      start { {
         message = function() end,
         data = function(msg)
            if msg.backward then
               msg:set_bytes(msg.bytes:upper())
            elseif msg.bytes == "ping" then
               return msg:reply "pong"
            else
               msg:set_bytes(msg.bytes:reverse())
            end
         end,
      } }
      local c = flow.client()
      local s = assert(app:accept())
      c:send "abc"
      assert.equal("cba", s:bytes(3))
      s:send "answer"
      assert.equal("ANSWER", c:bytes(6))
      c:send "ping"
      assert.equal("pong", c:bytes(4))
      l4.half_close(c)
      assert.is_true(s:ends())
      s:close()
      assert.is_true(c:ends())
      c:close()
   end)

   -- Bytes in capitals go back, those in small letters go on.
   local function split(msg)
      if msg.backward then return end
      local back, on = msg.bytes:gsub("%l", ""), msg.bytes:gsub("%u", "")
      if back ~= "" then return msg:reply(back, on) end
   end

   for _, transport in ipairs { "inline", "sk_msg", "rings" } do
      it("is answered by functions that let some of it go on, to those behind too, by " .. transport, function()
         start({ { message = function() end, data = split }, { data = function(msg)
            if not msg.backward then msg:set_bytes(msg.bytes:reverse()) end
         end } }, { transport = transport })
         local c = flow.client()
         local s = assert(app:accept())
         for i = 1, 20 do
            c:send "aBcDe"
            assert.equal("BD", c:bytes(2))
            assert.equal("eca", s:bytes(3))
            c:send "XYZ"
            assert.equal("XYZ", c:bytes(3))
            s:send("n" .. i % 10)
            assert.equal("n" .. i % 10, c:bytes(2))
         end
         -- More than lies in a message itself, and the last piece.
         c:send((("a"):rep(5000) .. ("B"):rep(5000)):rep(3))
         l4.half_close(c)
         assert.equal(("a"):rep(15000), s:rest())
         s:close()
         assert.equal(("B"):rep(15000), c:rest())
         c:close()
      end)

      it("waits with answers for who does not read, and loses none, by " .. transport, function()
         start({ { message = function() end, data = split } }, { transport = transport })
         local socket = require "tideway.posix.socket"
         local c = flow.client()
         local s = assert(app:accept())
         local text, sent, there, idle = ("Ab"):rep(32768), 0, 0, 0
         local function take()
            s:more(0)
            there, s.got = there + #s.got, ""
         end
         -- Until nothing moves any more: what is in the way is full.
         while idle < 200 do
            local n = socket.send(c.fd, text, sent % #text)
            sent, idle = sent + (n or 0), n and 0 or idle + 1
            if not n then ffi.C.tw_posix_poll(nil, 0, 1) end
            take()
         end
         assert.is_true(tonumber(service:stats().pool_used) <= 48)
         assert.is_true(sent > 2 ^ 20 and there < sent / 2)
         l4.half_close(c)
         local parts, back = {}, 0
         flow.eventually(function()
            take()
            c:more(0)
            parts[#parts + 1], back, c.got = c.got, back + #c.got, ""
            return there + back == sent
         end, 20)
         assert.same({ math.floor(sent / 2), math.ceil(sent / 2) }, { there, back })
         assert.is_true(table.concat(parts) == ("A"):rep(back))
         s:close()
         assert.is_true(c:ends())
         c:close()
      end)
   end

   it("that has ended at its server goes on; what functions reply then is lost", function()
      start { { message = function() end, data = split } }
      local c = flow.client()
      local s = assert(app:accept())
      l4.half_close(s)
      assert.is_true(c:ends())
      c:send "aBcDe"
      assert.equal("ace", s:bytes(3))
      c:close()
      assert.is_true(s:ends())
      s:close()
   end)

   it("is closed when functions lie about what goes on", function()
      -- Blocks that are named nowhere are found again of workers only: functions inside the gate are trusted that far.
      for lie, transports in pairs {
         [function(m) m.n_on = 3 end] = { "inline", "sk_msg" }, -- more than there is
         [function(m) m.body[0].len = 2 ^ 31 end] = { "inline", "sk_msg" },
         [function(m) m.body[0] = m.body[1] end] = { "sk_msg" }, -- not in a block of its own
         [function(m) m.body[0].handle = m.self end] = { "sk_msg" },
         [function(m) m.body[0].handle = 12345 end] = { "sk_msg" },
      } do
         for _, transport in ipairs(transports) do
            start({ { message = function() end, data = function(msg)
               if msg.backward or #msg.bytes == 0 then return end
               local verdict = msg:reply("back", "on")
               lie(msg.v.m)
               return verdict
            end } }, { transport = transport })
            local c, s = flow.client(), assert(app:accept())
            c:send "x"
            assert.is_false(c:more())
            s:more()
            assert.same({ "", "" }, { c.got, s.got })
            c:close()
            s:close()
            assert.same({ 0, 0 }, { service:settle(30) })
            service:close()
            app:close()
         end
      end
      start {}
   end)

   for _, transport in ipairs { "inline", "sk_msg" } do
      it("goes on as it was when functions fail, whatever they had made of it, by " .. transport, function()
         start({ { on_fault = "bypass", message = function() end, data = function(msg)
            if #msg.bytes == 0 then return end
            if #msg.bytes % 2 == 0 then msg:set_bytes(("x"):rep(100000)) else msg:reply("back", "on") end
            error "on purpose"
         end } }, { transport = transport })
         local c, s = flow.client(), assert(app:accept())
         for _, n in ipairs { 3, 4, 5001, 5002 } do
            local text = l4.pattern(n, n)
            c:send(text)
            assert.is_true(s:bytes(n) == text)
         end
         c:close()
         s:close()
         assert.same({ 0, 0 }, { service:settle(20) })
      end)

      it("is given up while functions hold a reply, which is freed, by " .. transport, function()
         local store = require("tideway").store { name = "held-" .. transport, bytes = 65536 }
         start({ { message = function() end, data = function(msg)
            local verdict = msg:reply("back", "on")
            store:set("held", true)
            msg:sleep(30)
            return verdict
         end } }, { transport = transport })
         local c, s = flow.client(), assert(app:accept())
         c:send "x"
         assert.is_true(flow.eventually(function() return store:get "held" end))
         c:abort()
         assert.is_false(s:more())
         s:close()
         assert.same({ 0, 0 }, { service:settle(30) })
      end)
   end

   it("is given up while a reply waits for its client", function()
      start { { message = function() end, data = split } }
      local socket = require "tideway.posix.socket"
      local c = flow.client()
      local s = assert(app:accept())
      local text, idle = ("Ab"):rep(32768), 0
      while idle < 100 do
         local n = socket.send(c.fd, text, 0)
         idle = n and 0 or idle + 1
         if not n then ffi.C.tw_posix_poll(nil, 0, 1) end
         s:more(0)
         s.got = ""
      end
      c:abort()
      s:rest()
      s:close()
   end)

   it("is given up when its client goes while functions have it", function()
      start { { message = function(msg) msg:sleep(0.2) end } }
      local c = flow.client()
      c:abort()
      assert.is_nil(app:accept(0.4))
   end)

   -- ---- PROXY protocol ----

   it("says whom a PROXY header names, byte by byte too, and leaves what follows to the server", function()
      for _, version in ipairs { 1, 2 } do
         start({}, { listener = { proxy = 1 }, proxy = version })
         for _, step in ipairs { 1, 1000 } do
            local c = flow.client()
            local header = version == 1 and "PROXY TCP4 192.0.2.1 198.51.100.2 33333 443\r\n"
               or "\r\n\r\n\0\r\nQUIT\n\33\17\0\12\192\0\2\1\198\51\100\2\130\53\1\187"
            local bytes = header .. "GET the rest"
            for at = 1, #bytes, step do
               c:send(bytes:sub(at, at + step - 1))
               if step == 1 and at % 8 == 0 then ffi.C.tw_posix_poll(nil, 0, 1) end
            end
            local s = assert(app:accept())
            assert.equal(bytes, s:bytes(#bytes))
            c:close()
            s:close()
         end
         if version == 1 then
            assert.same({ 0, 0 }, { service:settle() })
            service:close()
            app:close()
         end
      end
   end)

   it("is closed when its chain is removed while its header comes", function()
      start({}, { listener = { proxy = 1 } })
      local c = flow.client()
      c:send "PROXY TCP4 192.0.2.1 198"
      ffi.C.tw_posix_poll(nil, 0, 20)
      assert.equal(0, C.tw_gate_service_remove(0, 0))
      c:send ".51.100.2 33333 443\r\n"
      assert.is_false(c:more())
      c:close()
      service:set {}
   end)

   it("is closed when it begins with anything else than the header it has to", function()
      start({}, { listener = { proxy = 1, head_ms = 700 } })
      for _, bytes in ipairs { "GET / HTTP/1.1\r\n", "PROXY TCP4 1.2.3 1 1\r\n", "\r\n\r\n\0\r\nQUIT\n\17" } do
         local c = flow.client()
         c:send(bytes)
         assert.is_false(c:more())
         c:close()
      end
      local c = flow.client()
      c:send "PROXY TCP4"
      assert.is_false(c:more()) -- and no more
      c:close()
      assert.is_nil(app:accept(0.05))
      assert.same({ 3, 1 }, { flow.counter "bad_requests", flow.counter "timeouts" })
   end)
end)

describe("a datagram", function()
   local service, app, last

   local function start(functions, options)
      options = options or {}
      app = l4.udp()
      options.protocol, options.servers = C.TW_LISTEN_UDP, { app.port }
      service = flow.start(functions, options)
      upstream.group(0, { servers = { app.port }, protocol = C.TW_LISTEN_UDP, proxy = options.proxy or 0 })
      if options.listener then listen(service, 0, options.listener) end
      last = nil
   end

   local function to_app(c, text)
      c:send(text)
      local got = app:receive()
      last = app.from
      return got
   end

   after_each(function()
      service:finish(app)
   end)

   it("goes to a server, and its answers to who has asked, of every length", function()
      start {}
      local a, b = l4.udp_client(), l4.udp_client()
      for _, len in ipairs { 0, 1, 512, 1472, 2300, 2600, 9000, 60000 } do
         local text = l4.pattern(len, len + 1)
         assert.is_true(to_app(a, text) == text)
         local of_a = last
         assert.is_true(to_app(b, text .. "b") == text .. "b")
         app:send(text .. "to b")
         app:send(text .. "to a", of_a)
         app:send("more", of_a)
         assert.is_true(a:receive() == text .. "to a")
         assert.equal("more", a:receive())
         assert.is_true(b:receive() == text .. "to b")
      end
      a:close()
      b:close()
   end)

   for _, transport in ipairs { "inline", "sk_msg", "rings" } do
      it("is answered, changed, or thrown away by functions, by " .. transport, function()
         start({ { message = function(msg)
            local bytes = msg.bytes
            if bytes:find "^echo" then return msg:reply(bytes:sub(6):upper()) end
            if bytes == "drop" then return msg:drop "unwanted" end
            if bytes == "long" then return msg:reply(("x"):rep(20000)) end
            msg:set_bytes(bytes .. " from " .. msg.peer)
         end } }, { transport = transport })
         local c = l4.udp_client()
         for i = 1, 50 do
            c:send("echo n" .. i)
            assert.equal("N" .. i, c:receive())
         end
         c:send "long"
         assert.equal(20000, #c:receive())
         c:send "drop"
         assert.equal("abc from 127.0.0.1", to_app(c, "abc"))
         app:send "back"
         assert.equal("back", c:receive())
         c:close()
      end)
   end

   it("has no pieces: functions that take some as well see the whole of it, once", function()
      start { { message = function(msg) msg:set_bytes(msg.bytes .. "!") end,
         data = function(msg) msg:set_bytes(msg.bytes .. "?") end } }
      local c = l4.udp_client()
      assert.equal("question!", to_app(c, "question"))
      app:send "answer"
      assert.equal("answer", c:receive())
      c:close()
   end)

   it("many at once are answered each", function()
      start { { message = function(msg) return msg:reply(msg.bytes) end } }
      local c, seen = l4.udp_client(), {}
      for round = 1, 20 do
         for i = 1, 40 do c:send(round .. "." .. i) end
         for _ = 1, 40 do seen[c:receive()] = true end
      end
      for round = 1, 20 do
         for i = 1, 40 do assert.is_true(seen[round .. "." .. i]) end
      end
      c:close()
   end)

   it("is answered from the address it was sent to", function()
      start { { message = function(msg) return msg:reply(msg.local_address) end } }
      local port = upstream.unused()
      listen(service, 1, { address = { family = 4, port = port } })
      upstream.port = port
      for _, n in ipairs { 1, 7, 99 } do
         local c = l4.udp_client(n) -- connected: hears nobody else
         c:send "where"
         assert.equal("127.0.0." .. n, c:receive())
         c:close()
      end
   end)

   it("that answers is looked at by functions that take responses", function()
      start { { response_body = "whole", response = function(msg) msg:set_body(msg.body .. "!") end } }
      local c = l4.udp_client()
      assert.equal("question", to_app(c, "question"))
      app:send "answer"
      assert.equal("answer!", c:receive())
      app:send "unasked"
      assert.equal("unasked", c:receive())
      c:close()
   end)

   it("comes by IPv4 and IPv6, and is answered from the address it was sent to", function()
      start { { message = function(msg) return msg:reply(("%s %s"):format(msg.peer, msg.local_address)) end } }
      local port = listen_any(service)
      for _, case in ipairs { { "127.0.0.1", "127.0.0.1 127.0.0.1" }, { "127.0.0.9", "127.0.0.1 127.0.0.9" },
         { "::1", "::1 ::1" } } do
         local c = l4.udp_to(case[1], port)
         c:send "who"
         assert.equal(case[2], c:receive())
         c:close()
      end
   end)

   it("comes no more when its listener is removed; answers still do", function()
      start {}
      local c = l4.udp_client()
      assert.equal("question", to_app(c, "question"))
      assert.equal(0, C.tw_gate_listener_remove(0, 10000))
      c:send "too late"
      assert.is_nil(app:receive(0.1))
      app:send "answer"
      assert.equal("answer", c:receive())
      c:close()
   end)

   it("whose chain is removed is thrown away, until there is a chain again", function()
      start {}
      local c = l4.udp_client()
      assert.equal("before", to_app(c, "before"))
      assert.equal(0, C.tw_gate_service_remove(0, 0))
      c:send "meanwhile"
      app:send "an answer"
      assert.equal("an answer", c:receive())
      assert.is_nil(app:receive(0.1))
      service:set {}
      assert.equal("afterwards", to_app(c, "afterwards"))
      c:close()
   end)

   it("finds a listener at its new address, and the old one answers still", function()
      start {}
      local c = l4.udp_client()
      assert.equal("before", to_app(c, "before"))
      local before = last
      assert.equal(0, C.tw_gate_listener_remove(0, 10000))
      upstream.port = upstream.unused()
      listen(service, 0, { address = { family = 4, port = upstream.port, bytes = { 127, 0, 0, 1 } } })
      local d = l4.udp_client()
      assert.equal("after", to_app(d, "after"))
      app:send("late", before)
      app:send("now", last)
      assert.same({ "late", "now" }, { c:receive(), d:receive() })
      c:close()
      d:close()
   end)

   it("has a session that ends, and another when there are too many", function()
      start({}, { listener = { idle_ms = 1000, connections = 3 } })
      local clients = {}
      for i = 1, 5 do
         clients[i] = l4.udp_client()
         assert.equal("hello", to_app(clients[i], "hello"))
      end
      app:send "to the last"
      assert.equal("to the last", clients[5]:receive())
      assert.equal(3, upstream.figures(0, 0).active)
      assert.is_true(upstream.eventually(function() return upstream.figures(0, 0).active == 0 end))
      for i = 1, 5 do clients[i]:close() end
   end)

   it("goes elsewhere when a server is not there", function()
      start {}
      upstream.group(0, { servers = { upstream.unused(), app.port }, protocol = C.TW_LISTEN_UDP, fails = 1,
         fail_ms = 5000 })
      local c = l4.udp_client()
      local came
      for _ = 1, 100 do
         c:send "try"
         came = app:receive(0.2)
         if came then break end
      end
      assert.equal("try", came)
      c:close()
   end)

   it("brings a PROXY header when the server wants one", function()
      start({}, { proxy = 2 })
      local c = l4.udp_client()
      local got = to_app(c, "payload")
      assert.equal("\r\n\r\n\0\r\nQUIT\n\33\18\0\12\127\0\0\1\127\0\0\1", got:sub(1, 24))
      assert.equal(c.port, got:byte(25) * 256 + got:byte(26))
      assert.equal("payload", got:sub(29))
      c:close()
   end)
end)
