-- SPDX-License-Identifier: BSD-3-Clause
-- The gate's own answers: functions that take responses see them, replace them, and may fail with them; clients read
-- no address and no line in them, the log has those. Responses that are too long to be whole pass untouched.

local abi = require "tideway.abi"
local ffi = require "ffi"
local flow = require "test.support.flow"
local upstream = require "test.support.upstream"

local C = abi.C

-- Lines that the engine has left for its log.
local function logged()
   local text, line = "", ffi.new "char[1024]"
   while C.tw_log_next(line, 1024) ~= 0 do text = text .. ffi.string(line) .. "\n" end
   return text
end

-- Puts its own name in front of what others have put there.
local function marks(name, more)
   local f = more or {}
   f.response = f.response or function(msg)
      msg:set_header("X-Seen", name .. (msg:header "X-Seen" or ""))
      msg:set_header("X-Status", tostring(msg.status))
   end
   return f
end

for _, transport in ipairs { "inline", "sk_msg", "rings" } do
   describe("the gate's own answers by " .. transport, function()
      local service, app

      local function start(...)
         service, app = flow.before(transport, ...)
         logged()
      end

      after_each(function()
         local ended = service
         service = nil
         if ended then ended:finish(app) end
      end)

      local function seen(path, headers)
         local r = flow.get(path, headers)
         return r.status, r.headers["x-seen"], r.body, r
      end

      it("are seen by the functions that a response goes through", function()
         local nobody = upstream.unused()
         start({
            marks("a", { message = function(msg) if msg.path == "/a" then error "at a" end end }),
            marks("b", { message = function(msg) if msg.path == "/b" then error "at b" end end }),
            marks "c",
         }, { servers = { nobody } })
         local status, names, body, r = seen "/"
         assert.same({ 502, "abc", "502 Bad Gateway: no server answered\n", "502" },
            { status, names, body, r.headers["x-status"] })
         assert.equal("text/plain; charset=utf-8", r.headers["content-type"])
         status, names, body = seen "/b"
         assert.same({ 502, "a", "502 Bad Gateway: a function failed\n" }, { status, names, body })
         status, names, body = seen "/a"
         assert.same({ 502, nil, "502 Bad Gateway: a function failed\n" }, { status, names, body })
         local text = logged()
         assert.truthy(text:find(("chain \"flow\": server 127.0.0.1:%d: Connection refused"):format(nobody), 1, true), text)
         service:settle()
         local stats = service:stats()
         assert.equal(tonumber(stats.requests), tonumber(stats.failed))
         assert.equal(tonumber(stats.requests), tonumber(stats.status[5]))
      end)

      it("are heads only for HEAD", function()
         start({ marks "a" }, { servers = { upstream.unused() } })
         local c = flow.ask("HEAD", "/")
         local r = c:response "HEAD"
         assert.same({ 502, "a", tostring(#"502 Bad Gateway: no server answered\n") },
            { r.status, r.headers["x-seen"], r.headers["content-length"] })
         c:send "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
         assert.equal("502 Bad Gateway: no server answered\n", c:response().body)
         c:close()
      end)

      it("are 404 where no server is asked, and 413 where a body is too large", function()
         start({ marks("a", { body = "whole", message = function() end }) }, { group = -1, whole_bytes = 1000 })
         assert.same({ 404, "a" }, { (seen "/"), (select(2, seen "/")) })
         local c = flow.ask("POST", "/", ("x"):rep(2000))
         local r = c:response()
         assert.same({ 413, "a" }, { r.status, r.headers["x-seen"] })
         c:close()
      end)

      it("can be replaced, and changed", function()
         start({
            marks "a",
            { response = function(msg)
               if msg.request.path == "/page" then return msg:respond(200, { ["X-Page"] = "1" }, "a page") end
               if msg.request.path == "/body" then msg:set_body("sorry, " .. msg.body) end
               if msg.request.path == "/none" then msg:set_body(nil) end
               if msg.request.path == "/status" then msg.status = 503 end
            end },
            marks "c",
         }, { servers = { upstream.unused() } })
         assert.same({ 200, "a", "a page" }, { (seen "/page"), (select(2, seen "/page")), (select(3, seen "/page")) })
         assert.equal("sorry, 502 Bad Gateway: no server answered\n", (select(3, seen "/body")))
         assert.equal("", (select(3, seen "/none")))
         local status, names = seen "/status"
         assert.same({ 503, "ac" }, { status, names })
      end)

      it("are sent as they were when a function fails with them", function()
         start({ marks "a", { response = function() error "again" end } }, { servers = { upstream.unused() } })
         local status, names, body = seen "/"
         assert.same({ 502, "502 Bad Gateway: no server answered\n" }, { status, body })
         assert.is_nil(names)
         service:set { marks "a", { on_fault = "bypass", response = function() error "again" end } }
         if transport == "inline" then assert.equal("a", (select(2, seen "/"))) end
      end)

      it("are seen when a function fails with a server's response", function()
         start { marks "a", { response = function(msg) if msg:header "X-Bad" then error "bad" end end }, marks "c" }
         local c = flow.ask("GET", "/")
         local s = assert(app:accept())
         assert(s:take "\r\n\r\n")
         s:send(("HTTP/1.1 200 OK\r\nX-Bad: 1\r\nContent-Length: 100000\r\n\r\n%s"):format(("x"):rep(50000)))
         local r = c:response()
         assert.same({ 502, "a", "502 Bad Gateway: a function failed\n" }, { r.status, r.headers["x-seen"], r.body })
         c:close()
         s:close()
      end)

      it("say in the log what a cause is, not each time", function()
         start({ marks "a" }, { servers = { upstream.unused() } })
         for _ = 1, 50 do assert.equal(502, (seen "/")) end
         local _, n = logged():gsub("Connection refused", "")
         assert.is_true(n >= 1 and n <= 10, n .. " lines")
      end)

      it("go through functions that take bodies piece by piece", function()
         start({
            { data = function(msg) if msg.backward then msg:set_bytes(msg.bytes:upper()) end end },
            marks "b",
         }, { servers = { upstream.unused() } })
         local _, names, body = seen "/"
         assert.same({ "b", "502 BAD GATEWAY: NO SERVER ANSWERED\n" }, { names, body })
      end)

      -- ---- responses that are too long to be whole ----

      local function large(functions, pieces, chunked, options)
         if not service then start(functions, options or { whole_bytes = 10000 }) end
         local c = flow.ask("GET", "/")
         local s = assert(app:accept())
         assert(s:take "\r\n\r\n")
         local text = table.concat(pieces)
         if chunked then
            s:send "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            for _, piece in ipairs(pieces) do s:send(("%x\r\n%s\r\n"):format(#piece, piece)) end
            s:send "0\r\n\r\n"
         else
            s:send(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(#text))
            for _, piece in ipairs(pieces) do s:send(piece) end
         end
         local r = assert(c:response(), "no response")
         c:close()
         s:close()
         return r, text
      end

      local function pieces_of(n, bytes)
         local list = {}
         for i = 1, n do list[i] = (("%08d"):format(i)):rep(bytes / 8) end
         return list
      end

      local whole = function()
         return { response_body = "whole", response = function(msg)
            local body = msg.body
            msg:set_header("X-Whole", body and tostring(#body) or "no")
         end }
      end

      for _, chunked in ipairs { false, true } do
         it("let bodies pass that are too long to be whole, " .. (chunked and "chunked" or "of known length"), function()
            for _, shape in ipairs { { 1, 800, "800" }, { 1, 10000, "10000" }, { 1, 10008, "no" }, { 3, 8000, "no" },
               { 60, 64, "3840" }, { 400, 64, "no" }, { 40, 40000, "no" } } do
               local r, text = large({ whole() }, pieces_of(shape[1], shape[2]), chunked)
               assert.same({ 200, shape[3] }, { r.status, r.headers["x-whole"] })
               assert.equal(#text, #r.body)
               assert.is_true(text == r.body, "another body")
            end
         end)

         it("let them pass through functions that take pieces, " .. (chunked and "chunked" or "of known length"), function()
            local count = { data = function(msg)
               if msg.backward and msg.bytes then msg:set_bytes((msg.bytes:gsub("0", "o"))) end
            end }
            for _, shape in ipairs { { 1, 800, "800" }, { 3, 8000, "no" }, { 40, 40000, "no" } } do
               local r, text = large({ count, whole() }, pieces_of(shape[1], shape[2]), chunked)
               assert.same({ 200, shape[3] }, { r.status, r.headers["x-whole"] })
               assert.is_true(text:gsub("0", "o") == r.body, "another body")
            end
         end)
      end

      it("can be set instead of a body that is too long", function()
         start({ { response_body = "whole", response = function(msg) if not msg.body then msg:set_body "short" end end } },
            { whole_bytes = 10000 })
         for _, chunked in ipairs { false, true } do
            assert.equal("short", large({}, pieces_of(3, 8000), chunked).body)
         end
      end)

      it("leave nothing behind, whoever leaves while they pass", function()
         local held = { response_body = "whole", response = function(msg)
            if msg:header "X-Sleep" then msg:sleep(0.03) end
            if msg:header "X-Bad" then error "bad" end
         end }
         start({ held, { data = function(msg) if msg.id % 2 == 0 then msg:set_bytes(msg.bytes) end end } },
            { whole_bytes = 10000 })
         local piece = ("4000\r\n%s\r\n"):format(("p"):rep(16384))
         for i = 1, 40 do
            local c = flow.ask("GET", "/")
            local s = assert(app:accept())
            assert(s:take "\r\n\r\n")
            s:send(("HTTP/1.1 200 OK\r\n%s%sTransfer-Encoding: chunked\r\n\r\n"):format(
               i % 2 == 0 and "X-Sleep: 1\r\n" or "", i % 5 == 0 and "X-Bad: 1\r\n" or ""))
            s:send(piece:rep(i % 7 + 1))
            if i % 3 == 0 then c:abort() elseif i % 3 == 1 then s:abort() else s:send "0\r\n\r\n" end
            if c.fd and i % 4 < 2 then c:more(0.01) end
            if c.fd then c:close() end
            if s.fd then s:close() end
         end
         local r = large({}, pieces_of(1, 800), true)
         assert.equal(800, #r.body)
      end)

      it("end the connection of a client whose server breaks off in such a body", function()
         start({ whole() }, { whole_bytes = 10000 })
         local c = flow.ask("GET", "/")
         local s = assert(app:accept())
         assert(s:take "\r\n\r\n")
         s:send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" .. ("4e20\r\n%s\r\n"):format(("x"):rep(20000)))
         assert.is_truthy(c:take "\r\n\r\n")
         s:abort()
         assert.is_falsy((c:rest() or ""):find("\r\n0\r\n", 1, true))
         assert.is_false(c:more(0.1))
         c:close()
      end)
   end)
end
