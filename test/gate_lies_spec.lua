-- SPDX-License-Identifier: BSD-3-Clause
-- Functions that lie about bodies: how long they are, where they lie in memory, whose memory that is. The gate sends
-- what there is, or an error, and never a byte of another request.

local flow = require "test.support.flow"

for _, transport in ipairs { "inline", "sk_msg", "rings" } do
   describe("what functions say of bodies, by " .. transport .. ",", function()
      local service, app

      local function start(...) service, app = flow.before(transport, ...) end

      after_each(function() service:finish(app) end)

      -- A request with a body, which the server answers; the response, or the status, and the body that came there.
      local function round(path)
         local c, s, head = flow.reach(app, "POST", path, "hello")
         local got = assert(s:bytes(tonumber(head:match "[Cc]ontent%-[Ll]ength: (%d+)")))
         s:send "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"
         local r = assert(c:response())
         c:close()
         s:close()
         return r, got
      end

      it("is not how long they are", function()
         start { { response = function(msg) msg.v.m.body_len = 3 end }, {
            message = function(msg)
               local path, lie = msg.path:match "^(/%a+)(%d+)$"
               msg.v.m.body_len = tonumber(lie)
               if path == "/up" then return end
               local r = msg:respond_message(200)
               r:set_body "12345"
               r.v.m.body_len = tonumber(lie)
               return msg:send(r)
            end,
         } }
         for _, lie in ipairs { 0, 3, 7, 1000000 } do
            local c = flow.ask("GET", "/own" .. lie)
            local r = assert(c:response(), "no response")
            assert.same({ 200, "12345", "" }, { r.status, r.body, c.got })
            c:close()
            local response, got = round("/up" .. lie)
            assert.same({ "hello", "answer" }, { got, response.body })
         end
      end)

      -- Body entries of a request, a response and an answer are the same; `lie` spoils the first one of what has five
      -- bytes. Nothing of it may get anywhere.
      local function refused(lie, extra)
         local function edit(msg)
            msg:set_body "12345"
            lie(msg)
         end
         start { {
            message = function(msg)
               if msg.path == "/own" then
                  local r = msg:respond_message(200)
                  edit(r)
                  return msg:send(r)
               elseif msg.path == "/up" then
                  edit(msg)
               elseif extra then
                  return extra(msg)
               end
            end,
            response = function(msg) if msg.request.path == "/back" then edit(msg) end end,
         } }
         return function()
            for _ = 1, 3 do
               for _, path in ipairs { "/own", "/up" } do
                  local r = flow.get(path)
                  assert.same({ 502, nil }, { r.status, r.body:match "secret" }, path)
               end
               assert.equal(502, (round "/back").status)
            end
            assert.is_nil(app:accept(0.05)) -- no request came to the server
         end
      end

      for name, lie in pairs {
         ["behind their block"] = function(msg) msg.v.m.body[0].len = 2 ^ 31 end,
         ["in front of it"] = function(msg) msg.v.m.body[0].at, msg.v.m.body[0].len = 2 ^ 32 - 4, 8 end,
         ["a byte too far"] = function(msg) msg.v.m.body[0].at, msg.v.m.body[0].len = msg.v.size - 4, 5 end,
         ["in no block"] = function(msg) msg.v.m.body[0].handle = 2 ^ 52 + 123 end,
         ["in more than there may be"] = function(msg) msg.v.m.n_body = 65535 end,
      } do
         it("is not that they lie " .. name, function() refused(lie)() end)
      end

      -- Inline functions are trusted: whatever block it is, it is the gate's, and so is what they say.
      local function stolen(name, extra)
         if transport == "inline" then return end
         it("is not that they lie in a block of another request, " .. name, function()
            local held
            local all = refused(function(msg)
               msg.v.m.body[0].handle, msg.v.m.body[0].at, msg.v.m.body[0].len = held, 0, 3000
            end, function(msg)
               if msg.path == "/back" then return end
               if msg.path == "/ready" then return msg:respond(held and 200 or 404, {}, "") end
               held = msg.v.handle
               return extra(msg)
            end)
            local c = flow.ask("GET", "/hold", nil, { ["X-Whose"] = "secret" })
            local s = name == "with a server" and assert(app:accept())
            assert.is_true(flow.eventually(function() return flow.get("/ready").status == 200 end))
            all()
            if s then s:send "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfor secret" end
            local r = assert(c:response())
            assert.same({ 200, "for secret" }, { r.status, r.body })
            c:close()
            if s then s:close() end
         end)
      end

      stolen("with its function", function(msg)
         msg:sleep(0.5)
         return msg:respond(200, {}, "for " .. msg:header "X-Whose")
      end)

      stolen("with a server", function() end)
   end)
end
