-- SPDX-License-Identifier: BSD-3-Clause
-- Trailers (RFC 9110 6.5): read, seen by functions, sent on behind chunks, and never taken for fields of the head.

local flow = require "test.support.flow"

local HEAD = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
local END = "0\r\nX-Sum: 42\r\nContent-Length: 3\r\nSet-Cookie: a=b\r\nIf-Match: x\r\nx-SUM:\t 43 \r\n\r\n"
local KEPT = "0\r\nX-Sum: 42\r\nx-SUM:\t 43 \r\n\r\n"

-- What a function sees, as a header for those who ask.
local function seen(msg)
   local list = {}
   for name, value in pairs(msg.trailers) do list[#list + 1] = name .. "=" .. value end
   table.sort(list)
   return #list > 0 and table.concat(list, ";") or "none"
end

for _, transport in ipairs { "inline", "sk_msg" } do
   describe("trailers by " .. transport, function()
      local app, service, c, s

      local function start(...) service, app = flow.before(transport, ...) end

      local function post(text)
         c = flow.client()
         assert(c:send("POST / HTTP/1.1\r\nHost: spec\r\nTransfer-Encoding: chunked\r\n\r\n" .. text))
         s = assert(app:accept())
         return assert(s:take "\r\n\r\n")
      end

      after_each(function()
         if c then c:close() end
         if s then s:close() end
         c, s = nil, nil
         service:finish(app)
      end)

      it("pass both ways, without those that frame, route or decide", function()
         start()
         assert.matches("\r\nTransfer%-Encoding: chunked\r\n", post("3\r\nabc\r\n0\r\nX-Up: yes\r\nHost: evil\r\n\r\n"))
         assert.equal("3\r\nabc\r\n0\r\nX-Up: yes\r\n\r\n", s:take "\r\n\r\n")
         assert(s:send(HEAD .. "5\r\nhello\r\n"))
         assert.matches("\r\nTrailer: X%-Sum\r\n", (c:take "\r\n\r\n"))
         assert.equal("5\r\nhello\r\n", c:bytes(10))
         assert(s:send(END))
         assert.equal(KEPT, c:take "\r\n\r\n")
         -- Both connections go on, and a message without trailers has none.
         assert(c:send "GET /next HTTP/1.1\r\nHost: spec\r\n\r\n")
         assert.matches("^GET /next ", (s:take "\r\n\r\n"))
         assert(s:send(HEAD .. "5\r\nagain\r\n0\r\n\r\n"))
         local r = c:response()
         assert.same({ 200, "again" }, { r.status, r.body })
      end)

      it("come in pieces of one byte", function()
         start()
         c, s = flow.reach(app, "GET", "/")
         assert(s:send(HEAD))
         assert(c:take "\r\n\r\n")
         for byte in ("5\r\nhello\r\n" .. END):gmatch "." do assert(s:send(byte)) end
         local got = assert(c:take "\r\n\r\n")
         assert.equal(KEPT, got:sub(-#KEPT))
      end)

      it("are seen by functions that want bodies whole, and go when those set another one", function()
         start { {
            body = "whole", response_body = "whole",
            message = function(msg) msg:set_header("X-Saw", seen(msg)) end,
            response = function(msg)
               msg:set_header("X-Saw", seen(msg))
               if msg:header "X-Change" then msg:set_body "other" end
            end,
         } }
         local head = post("3\r\nabc\r\n0\r\nX-Up: yes\r\n\r\n")
         assert.matches("X%-Saw: x%-up=yes\r\n", head)
         assert.equal("3\r\nabc\r\n0\r\nX-Up: yes\r\n\r\n", s:take "\r\n\r\n")
         assert(s:send(HEAD .. "5\r\nhello\r\n" .. END))
         assert.matches("X%-Saw: x%-sum=42, 43\r\n", (c:take "\r\n\r\n"))
         assert.equal("5\r\nhello\r\n" .. KEPT, c:take "\r\n\r\n")
         assert(c:send "GET /next HTTP/1.1\r\nHost: spec\r\n\r\n")
         assert.matches("X%-Saw: none\r\n", (s:take "\r\n\r\n"))
         assert(s:send((HEAD:gsub("Trailer", "X-Change: 1\r\nTrailer")) .. "5\r\nhello\r\n" .. END))
         local r = c:response()
         assert.same({ 200, "other", "5" }, { r.status, r.body, r.headers["content-length"] })
      end)

      it("are seen with the last piece of a body", function()
         local store = require("tideway").store { name = "trailers-" .. transport, bytes = 65536 }
         start { { data = function(msg)
            if msg.last then store:set(msg.backward and "back" or "forth", seen(msg)) end
         end } }
         post("3\r\nabc\r\n0\r\nX-Up: yes\r\n\r\n")
         assert(s:take "X-Up: yes\r\n\r\n")
         assert(s:send(HEAD .. "5\r\nhello\r\n" .. END))
         assert(c:take "\r\n\r\n")
         assert.equal(KEPT, assert(c:take "\r\n\r\n"):sub(-#KEPT))
         assert.same({ "x-up=yes", "x-sum=42, 43" }, { (store:get "forth"), (store:get "back") })
      end)

      it("are refused when they are none, and bounded", function()
         start()
         c, s = flow.reach(app, "GET", "/")
         assert(s:send(HEAD .. "5\r\nhello\r\n"))
         assert(c:take "\r\n\r\n")
         assert(s:send("0\r\n" .. ("X-Long: " .. ("x"):rep(1000) .. "\r\n"):rep(17) .. "\r\n"))
         assert.is_nil(c:rest():find("0\r\n", 1, true)) -- cut off, for all to see
         c:close()
         s:close()
         c = flow.client()
         assert(c:send "POST / HTTP/1.1\r\nHost: spec\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX Y: z\r\n\r\n")
         assert.equal(400, c:response().status)
      end)
   end)
end
