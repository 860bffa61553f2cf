-- SPDX-License-Identifier: BSD-3-Clause
-- Interim responses of servers (1xx): to clients that know them, past the functions, in order, and never many.

local ffi = require "ffi"
local flow = require "test.support.flow"
local up = require "test.support.upstream"

local HINTS = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

for _, transport in ipairs { "inline", "sk_msg" } do
   describe("interim responses by " .. transport, function()
      local app, service, c, s

      local function start(...) service, app = flow.before(transport, ...) end

      -- A request and the server's end of it.
      local function ask(...)
         local head
         c, s, head = flow.reach(app, ...)
         return head
      end

      after_each(function()
         if c then c:close() end
         if s then s:close() end
         c, s = nil, nil
         service:finish(app)
      end)

      it("are there before the response is, one after the other", function()
         start {}
         ask("GET", "/")
         assert(s:send "HTTP/1.1 102 Processing\r\n\r\n")
         assert.matches("^HTTP/1.1 102 Processing\r\n", (c:take "\r\n\r\n"))
         assert(s:send(HINTS .. "HTTP/1.1 103 Early"))
         local head = c:take "\r\n\r\n"
         assert.matches("^HTTP/1.1 103 Early Hints\r\n", head)
         assert.matches("\r\nLink: </a.css>; rel=preload\r\n", head)
         assert(s:send(" Hints\r\nX-Two: 2\r\n\r\nHTTP/1.1 199 Whatever\r\n\r\n" .. OK))
         local r = c:response()
         assert.same({ 200, "ok", 2 }, { r.status, r.body, #r.interim })
         assert.matches("^HTTP/1.1 103 Early Hints\r\nX%-Two: 2\r\n", r.interim[1])
         assert.matches("^HTTP/1.1 199 Whatever\r\n", r.interim[2])
         -- Both connections go on.
         assert(c:send "GET /second HTTP/1.1\r\nHost: spec\r\n\r\n")
         assert.matches("^GET /second ", (s:take "\r\n\r\n"))
         assert(s:send(OK))
         r = c:response()
         assert.same({ 200, 0 }, { r.status, #r.interim })
      end)

      it("lose what belongs to the server's connection, and never frame anything", function()
         start {}
         ask("GET", "/")
         assert(s:send("HTTP/1.1 103 Early Hints\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=1\r\n"
            .. "Proxy-Authenticate: x\r\nUpgrade: y\r\nContent-Length: 5\r\nX-Other: 2\r\n\r\n" .. OK))
         local r = c:response()
         assert.same({ 200, "ok", 1 }, { r.status, r.body, #r.interim })
         assert.matches("^HTTP/1.1 103 Early Hints\r\nX%-Other: 2\r\nDate: [%w :,]+\r\n\r\n$", r.interim[1])
      end)

      it("are not for clients of HTTP/1.0, and 100 for nobody who has not asked", function()
         start {}
         c = flow.client()
         assert(c:send "GET / HTTP/1.0\r\n\r\n")
         s = assert(app:accept())
         assert(s:take "\r\n\r\n")
         assert(s:send("HTTP/1.1 100 Continue\r\n\r\n" .. HINTS .. OK))
         local r = c:response()
         assert.same({ 200, 0 }, { r.status, #r.interim })
         c:close()
         s:close()
         ask("GET", "/")
         assert(s:send("HTTP/1.1 100 Continue\r\n\r\n" .. HINTS .. OK))
         r = c:response()
         assert.same({ 200, 1 }, { r.status, #r.interim })
         assert.matches("^HTTP/1.1 103 ", r.interim[1])
      end)

      it("stand beside the gate's own 100", function()
         start {}
         c = flow.client()
         assert(c:send "POST / HTTP/1.1\r\nHost: spec\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
         assert.equal("HTTP/1.1 100 Continue\r\n\r\n", c:take "\r\n\r\n")
         s = assert(app:accept())
         assert.is_nil(assert(s:take "\r\n\r\n"):lower():find("expect", 1, true))
         assert(s:send("HTTP/1.1 100 Continue\r\n\r\n" .. HINTS))
         assert.matches("^HTTP/1.1 103 ", (c:take "\r\n\r\n"))
         assert(c:send "body")
         assert.equal("body", s:bytes(4))
         assert(s:send(OK))
         local r = c:response()
         assert.same({ 200, 0 }, { r.status, #r.interim })
      end)

      it("go past functions, which see the response alone", function()
         start { {
            message = function(msg) msg:set_header("X-Asked", "yes") end,
            response = function(msg) msg:set_header("X-Seen", tostring(msg.status)) end,
         } }
         assert.matches("X%-Asked: yes", ask("GET", "/"))
         assert(s:send(HINTS))
         local head = c:take "\r\n\r\n"
         assert.matches("^HTTP/1.1 103 ", head)
         assert.is_nil(head:find("X-Seen", 1, true))
         assert(s:send(OK))
         assert.equal("200", c:response().headers["x-seen"])
      end)

      it("of what functions fetch are nobody's", function()
         start { { message = function(msg)
            local answer = msg:fetch { upstream = "app", path = "/fetched" }
            return msg:respond(200, {}, tostring(answer and answer.status))
         end } }
         ask("GET", "/")
         assert(s:send(HINTS .. OK))
         local r = c:response()
         assert.same({ "200", 0 }, { r.body, #r.interim })
      end)

      it("are read over in answers to checks", function()
         start {}
         up.group(0, { servers = { app.port }, check_ms = 20, check_timeout_ms = 5000, rise = 1, fall = 1,
            check_path = "/health" })
         local function check(...)
            s = assert(app:accept())
            assert(s:take "\r\n\r\n")
            local before = up.figures(0, 0)
            for _, part in ipairs { ... } do
               assert(s:send(part))
               ffi.C.tw_posix_poll(nil, 0, 2)
            end
            s:close()
            assert.is_true(up.eventually(function() return up.figures(0, 0).checks > before.checks end))
            return tonumber(up.figures(0, 0).failed_checks - before.failed_checks)
         end
         local long = "HTTP/1.1 102 Processing\r\nX-Long: " .. ("x"):rep(500) .. "\r\n\r\n"
         assert.equal(0, check(HINTS .. long .. HINTS .. OK))
         assert.equal(0, check(HINTS .. long .. "HTTP/1.1 103 Ea", "rly Hints\r\n\r", "\nHTTP/1.", "1 200 OK\r\n\r\n"))
         assert.equal(1, check(HINTS .. "HTTP/1.1 500 No\r\n\r\n"))
         assert.equal(1, check(HINTS))
         assert.equal(1, check(long:sub(1, -3)))
         up.group(0, { servers = { app.port } })
      end)

      it("stand in front of the gate's own answers", function()
         start(nil, { request_ms = 1200 })
         ask("GET", "/")
         assert(s:send(HINTS))
         s:close()
         local r = c:response()
         assert.same({ 502, 1 }, { r.status, #r.interim })
         c:close()
         ask("GET", "/")
         assert(s:send(HINTS))
         r = c:response()
         assert.same({ 504, 1 }, { r.status, #r.interim })
         c:close()
         s:close()
         -- In the same turn as a client that has sent what is no chunk.
         c = flow.client()
         assert(c:send "POST / HTTP/1.1\r\nHost: spec\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
         s = assert(app:accept())
         assert(s:take "body")
         assert(s:send(HINTS))
         assert(c:send "xyz\r\n")
         r = c:response()
         assert.equal(400, r.status)
      end)

      it("are sixteen at most", function()
         start {}
         ask("GET", "/")
         assert(s:send(HINTS:rep(17) .. OK))
         local r = c:response()
         assert.same({ 502, 16 }, { r.status, #r.interim })
         assert.equal(1, tonumber(up.figures(0, 0).failures))
      end)

      it("wait for a client that takes nothing, as long as they are not many", function()
         start {}
         ask("GET", "/")
         local least = ffi.new("int[1]", 8192)
         ffi.C.tw_posix_setsockopt(c.fd, 1, 8, least, 4) -- SO_RCVBUF
         local big = ("HTTP/1.1 103 Early Hints\r\nX-Big: %s\r\n\r\n"):format(("b"):rep(30000))
         for _ = 1, 16 do assert(s:send(big)) end
         assert(s:send(OK))
         assert.is_true(up.eventually(function() return up.figures(0, 0).idle == 1 end))
         local r = c:response()
         assert.same({ 200, "ok" }, { r.status, r.body })
         for _, head in ipairs(r.interim) do assert.equal(30000, #head:match "X%-Big: (b+)\r\n") end
         assert.is_true(#r.interim >= 2)
      end)

      for _, bad in ipairs { "HTTP/1.1 103\1\r\n", "HTTP/1.1 103 X\r\nA\r\n", "HTTP/1.1 103 X\r\nB : c\r\n" } do
         it(("that are none end as responses do that are none: %q"):format(bad), function()
            start()
            ask("GET", "/")
            assert(s:send(bad .. "\r\n" .. OK))
            local r = c:response()
            assert.same({ 502, 0 }, { r.status, #r.interim })
         end)
      end
   end)
end
