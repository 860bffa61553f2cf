-- SPDX-License-Identifier: BSD-3-Clause
-- Bytes of a service: each byte of a body that came from a client, and each that went to one, is counted once, whatever
-- functions did with it on the way.

local abi = require "tideway.abi"
local flow = require "test.support.flow"
local l4 = require "test.support.l4"
local up = require "test.support.upstream"

local C = abi.C

-- Functions that take none, or the whole, or pieces of bodies.
local FUNCTIONS = {
   ["no function"] = {},
   ["functions that take heads"] = { { message = function() end, response = function() end } },
   ["functions that want all of it"] = {
      { body = "whole", response_body = "whole", message = function() end, response = function() end },
   },
   ["functions that take pieces"] = { { data = function() end } },
   ["functions that take both"] = {
      { body = "whole", response_body = "whole", message = function() end, response = function() end },
      { data = function() end },
   },
}

local function text(n) return ("0123456789abcde\n"):rep(n / 16) end

local function in_chunks(body, size)
   local parts = {}
   for at = 1, #body, size do
      local part = body:sub(at, at + size - 1)
      parts[#parts + 1] = ("%x\r\n%s\r\n"):format(#part, part)
   end
   return table.concat(parts) .. "0\r\n\r\n"
end

-- What is sent behind a head that says so.
local function framed(body, chunk)
   if chunk then return "Transfer-Encoding: chunked\r\n\r\n" .. in_chunks(body, chunk) end
   return ("Content-Length: %d\r\n\r\n%s"):format(#body, body)
end

-- Takes a message of either framing; its body.
local function take(s)
   local head = assert(s:take "\r\n\r\n")
   local length = tonumber(head:match "[Cc]ontent%-[Ll]ength: (%d+)")
   if length then return assert(s:bytes(length)) end
   local parts = {}
   repeat
      local size = tonumber(assert(s:take "\r\n"):match "^%x+", 16)
      parts[#parts + 1] = assert(s:bytes(size + 2)):sub(1, -3)
   until size == 0
   return table.concat(parts)
end

for _, transport in ipairs { "inline", "sk_msg" } do
   describe("bytes of a service by " .. transport, function()
      local app, service

      local function start(...) service, app = flow.before(transport, ...) end

      after_each(function() service:finish(app) end)

      local function counted(received, sent)
         service:settle()
         local stats
         -- Answers to datagrams are counted behind the call that sends them, by no exchange.
         flow.eventually(function()
            stats = service:stats()
            return stats.bytes_out >= sent
         end, 10)
         assert.same({ received, sent }, { tonumber(stats.bytes_in), tonumber(stats.bytes_out) })
      end

      for name, functions in pairs(FUNCTIONS) do
         it("are exact with " .. name, function()
            -- More than is gathered passes, so both ways of that are here too.
            start(functions, { whole_bytes = 300000 })
            local came, went = 0, 0
            for _, case in ipairs {
               { 16, 32 }, { 160, 48, 7, 5 }, { 65536, 65536 }, { 262144, 200000 }, { 262144, 200000, 3000, 5000 },
               { 64, 1048576 }, { 64, 1048576, nil, 16384 },
            } do
               local request, response = text(case[1]), text(case[2])
               local c = flow.client()
               assert(c:send("POST / HTTP/1.1\r\nHost: spec\r\n" .. framed(request, case[3])))
               local s = assert(app:accept())
               assert.is_true(take(s) == request)
               local answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n" .. framed(response, case[4])
               local got = coroutine.wrap(function()
                  for at = 1, #answer, 65536 do
                     assert(s:send(answer:sub(at, at + 65535)))
                     c:more(0)
                  end
                  s:close()
                  return c:response()
               end)()
               assert.is_true(got.body == response)
               c:close()
               came, went = came + #request, went + #response
            end
            counted(came, went)
         end)
      end

      it("are what clients sent and got when functions replace bodies", function()
         start { {
            body = "whole", response_body = "whole",
            message = function(msg) msg:set_body(("n"):rep(1000)) end,
            response = function(msg) msg:set_body(("m"):rep(3000)) end,
         } }
         local c = flow.ask("POST", "/", ("o"):rep(50))
         local s = assert(app:accept())
         assert.equal(1000, #take(s))
         assert(s:send("HTTP/1.1 200 OK\r\n" .. framed(("p"):rep(70))))
         assert.equal(3000, #c:response().body)
         c:close()
         s:close()
         counted(50, 3000)
      end)

      it("are those of answers that functions make", function()
         start { { body = "whole", message = function(msg) return msg:respond(200, {}, ("a"):rep(5000)) end } }
         local c = flow.ask("POST", "/", ("o"):rep(20000))
         assert.equal(5000, #c:response().body)
         c:close()
         counted(20000, 5000)
      end)

      it("are what was sent when the client leaves in the middle", function()
         start {}
         local c, s = flow.reach(app, "GET", "/")
         assert(s:send(("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n%s"):format(("x"):rep(1000))))
         assert(c:take "\r\n\r\n")
         assert(c:bytes(1000))
         c:close()
         s:close()
         counted(0, 1000)
      end)

      it("are those of streams", function()
         start({ { data = function() end } }, { protocol = C.TW_LISTEN_TCP })
         local c = flow.client()
         assert(c:send(("c"):rep(3000)))
         local s = assert(app:accept())
         assert.equal(3000, #s:bytes(3000))
         assert(s:send(("s"):rep(7000)))
         assert.equal(7000, #c:bytes(7000))
         c:close()
         s:close()
         counted(3000, 7000)
      end)

      for name, functions in pairs {
         ["nobody sees"] = {}, ["functions see"] = { { message = function() end } },
         ["functions see, answers too"] = { { message = function() end, response = function() end } },
         ["functions answer"] = { { message = function(msg) return msg:reply(msg.bytes .. msg.bytes) end } },
      } do
         it("are those of datagrams that " .. name, function()
            app = l4.udp()
            service = flow.start(functions, { transport = transport, protocol = C.TW_LISTEN_UDP, servers = { app.port } })
            up.group(0, { servers = { app.port }, protocol = C.TW_LISTEN_UDP })
            local c = l4.udp_client()
            local came, went = 0, 0
            for _, n in ipairs { 1, 100, 5000 } do
               c:send(("d"):rep(n))
               if name ~= "functions answer" then
                  assert.equal(n, #app:receive())
                  app:send(("e"):rep(2 * n))
               end
               assert.equal(2 * n, #c:receive())
               came, went = came + n, went + 2 * n
            end
            c:close()
            counted(came, went)
         end)
      end

      it("are those of streams that nobody looks at, large enough to stay in the kernel", function()
         start({}, { protocol = C.TW_LISTEN_TCP })
         local c = flow.client()
         assert(c:send "begin")
         local s = assert(app:accept())
         assert.equal("begin", s:bytes(5))
         local block = text(65536)
         local got = 0
         for _ = 1, 64 do
            assert(s:send(block))
            c:more(0)
            got, c.got = got + #c.got, ""
         end
         while got < 64 * 65536 do
            assert(c:more())
            got, c.got = got + #c.got, ""
         end
         c:close()
         s:close()
         counted(5, 64 * 65536)
      end)
   end)
end
