-- SPDX-License-Identifier: BSD-3-Clause
-- The way of a message through the functions of a service: every verdict, the order of responses, bodies whole and
-- piece by piece, fetches, faults and their policies, limits, deadlines; figures that add up, blocks that come back.

local abi = require "tideway.abi"
local flow = require "test.support.flow"

local C = abi.C

local function request(app, pattern)
   local s = assert(app:accept(), "no connection at the server")
   local head = assert(s:take "\r\n\r\n", "no request at the server")
   if pattern then assert.matches(pattern, head) end
   return s, head
end

local function respond(s, body, headers)
   s:send(("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s"):format(headers or "", #body, body))
end

for _, transport in ipairs { "inline", "sk_msg", "rings" } do
   describe("a service by " .. transport, function()
      local service, app, other

      local function start(functions, options)
         options = options or {}
         app, other = flow.server(), flow.server()
         options.transport, options.servers, options.others = transport, { app.port }, { other.port }
         service = flow.start(functions, options)
         return service
      end

      -- Through functions to the server and back; the response, and what the server saw.
      local function round(method, path, body, answer, headers)
         local c = flow.ask(method, path, body, headers)
         local s, head = request(app)
         local got
         if head:lower():find "transfer%-encoding: chunked" then
            got = assert(s:take "0\r\n\r\n"):gsub("\r\n0\r\n\r\n$", "")
         else
            local length = tonumber(head:match "[Cc]ontent%-[Ll]ength: (%d+)")
            got = length and s:bytes(length) or ""
         end
         respond(s, answer or "answer")
         local response = c:response(method)
         c:close()
         s:close()
         return assert(response, "no response"), head, got
      end

      after_each(function()
         local ended, servers = service, app and { app, other } or {}
         service, app = nil, nil
         if ended then return ended:finish(unpack(servers)) end
         for _, server in ipairs(servers) do server:close() end
      end)

      it("passes requests through its functions in order, and responses in reverse", function()
         start {
            {
               message = function(msg) msg.path = msg.path .. "/one" end,
               response = function(msg) msg:set_header("X-Order", (msg:header "X-Order" or "") .. "1") end,
            },
            { message = function(msg) msg.path = msg.path .. "/two" end },
            { response = function(msg) msg:set_header("X-Order", (msg:header "X-Order" or "") .. "3") end },
         }
         local response, head = round("GET", "/start")
         assert.matches("^GET /start/one/two HTTP/1.1\r\n", head)
         assert.same({ 200, "answer", "31" }, { response.status, response.body, response.headers["x-order"] })
         service:settle()
         local stats = service:stats()
         assert.same({ 1, 1, 1 }, { tonumber(stats.requests), tonumber(stats.responses), tonumber(stats.status[2]) })
      end)

      it("goes straight to the servers without functions, and says 404 without servers", function()
         start {}
         assert.equal("answer", round("GET", "/").body)
         service:close()
         app:close()
         other:close()
         start({}, { group = -1 })
         assert.equal(404, flow.get("/").status)
      end)

      it("lets a function respond: functions before it see the response, those behind it nothing", function()
         start {
            { response = function(msg) msg:add_header("X-Seen", "1") end },
            {
               message = function(msg) return msg:respond(403, { ["X-Why"] = "because" }, "no, " .. msg.path) end,
               response = function(msg) msg:add_header("X-Seen", "2") end,
            },
            { message = function(msg) msg.path = "/not-reached" end, response = function(msg) msg:add_header("X-Seen", "3") end },
         }
         local response = flow.get "/x"
         assert.same({ 403, "no, /x", "because", "1" },
            { response.status, response.body, response.headers["x-why"], response.headers["x-seen"] })
         service:settle()
         assert.equal(1, tonumber(service:stats().status[4]))
      end)

      it("keeps the connection for more requests, also when functions respond to bodies nobody reads", function()
         start { { message = function(msg) return msg:respond(200, {}, msg.method .. msg.path) end } }
         local c = flow.client()
         for i = 1, 3 do
            c:send(("POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"):format(i))
            assert.equal("POST/" .. i, c:response().body)
         end
         c:send(("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"):rep(3))
         for _ = 1, 3 do assert.equal("GET/a", c:response().body) end
         c:close()
      end)

      it("sends to the group that a function names, past the others", function()
         start {
            { message = function(msg) if msg.path == "/other" then return msg:upstream "other" end end },
            { message = function(msg) msg.path = "/through" end },
         }
         local c = flow.ask("GET", "/other")
         local s = request(other, "^GET /other ")
         respond(s, "from the other")
         assert.equal("from the other", c:response().body)
         c:close()
         s:close()
         assert.matches("^GET /through ", (select(2, round("GET", "/this"))))
      end)

      it("routes to a function aside", function()
         start {
            { message = function(msg) if msg.path == "/aside" then return msg:route "aside" end end },
            { message = function(msg) return msg:respond(200, {}, "in order") end },
            { name = "aside", aside = true, message = function(msg) return msg:respond(200, {}, "aside") end },
         }
         assert.equal("in order", flow.get("/").body)
         assert.equal("aside", flow.get("/aside").body)
      end)

      it("drops without a word", function()
         start { { message = function(msg) if msg.path == "/drop" then return msg:drop "unwanted" end end } }
         local c = flow.ask("GET", "/drop")
         assert.equal("", c:rest())
         c:close()
         assert.equal(1, tonumber(service:stats().status[0]))
         assert.equal("answer", round("GET", "/").body)
      end)

      it("answers a fault by the function's policy", function()
         start {
            { on_fault = "bypass", message = function(msg) if msg.path == "/bypass" then error "one" end end },
            { message = function(msg) if msg.path == "/fail" then error "two" end end },
            { on_fault = "retry", message = function(msg)
               msg:set_value(1, msg:value(1) + 1)
               if msg.path == "/retry" and msg:value(1) == 1 then error "three" end
               if msg.path == "/again" then error "four" end
            end },
         }
         assert.equal("answer", round("GET", "/bypass").body)
         assert.equal(502, flow.get("/fail").status)
         assert.equal("answer", round("GET", "/retry").body)
         assert.equal(502, flow.get("/again").status)
         service:settle()
         assert.equal(2, tonumber(service:stats().failed))
         assert.equal(2, flow.counter "retries")
      end)

      it("does the same with faults in responses", function()
         start {
            { response = function(msg) msg:set_header("X-First", "yes") end },
            { on_fault = "bypass", response = function(msg) if msg.status == 200 then error "five" end end },
            { response = function(msg) if msg:header "X-Bad" then error "six" end end },
         }
         local response = round("GET", "/")
         assert.same({ 200, "answer", "yes" }, { response.status, response.body, response.headers["x-first"] })
         local c = flow.ask("GET", "/")
         local s = request(app)
         respond(s, "bad", "X-Bad: 1\r\n")
         assert.equal(502, c:response().status)
         c:close()
         s:close()
      end)

      it("gathers request bodies for functions that want them whole", function()
         start { { body = "whole", message = function(msg)
            msg:set_header("X-Size", #msg.body)
            if msg.path == "/upper" then msg:set_body(msg.body:upper()) end
            if msg.path == "/none" then msg:set_body(nil) end
            if msg.path == "/large" then msg:set_body(msg.body:rep(40)) end
         end } }
         local text = ("abcdefgh"):rep(5000)
         for path, want in pairs { ["/same"] = text, ["/upper"] = text:upper(), ["/none"] = "", ["/large"] = text:rep(40) } do
            local _, head, got = round("POST", path, text)
            assert.matches("X%-Size: 40000\r\n", head)
            assert.equal(#want, #got)
            assert.is_true(want == got)
         end
      end)

      it("gathers a body that comes byte by byte in chunks", function()
         start { { body = "whole", message = function(msg) return msg:respond(200, {}, msg.body) end } }
         local c = flow.client()
         c:send "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
         for i = 1, 100 do c:send(("1\r\n%s\r\n"):format(string.char(97 + i % 26))) end
         c:send "0\r\n\r\n"
         local want = {}
         for i = 1, 100 do want[i] = string.char(97 + i % 26) end
         assert.equal(table.concat(want), c:response().body)
         c:close()
      end)

      it("refuses whole bodies that are too large", function()
         start({ { body = "whole", message = function() end } }, { whole_bytes = 1000 })
         local c = flow.ask("POST", "/", ("x"):rep(1001))
         assert.equal(413, c:response().status)
         c:close()
         c = flow.client()
         c:send "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
         for _ = 1, 11 do c:send("64\r\n" .. ("y"):rep(100) .. "\r\n") end
         assert.equal(413, c:response().status)
         c:close()
         assert.equal(1000, #select(3, round("POST", "/", ("x"):rep(1000))))
      end)

      it("gathers and replaces bodies of responses", function()
         start { { response_body = "whole", response = function(msg) msg:set_body(msg.body:reverse()) end } }
         local text = ("0123456789"):rep(20000)
         local response = round("GET", "/", nil, text)
         assert.equal(tostring(#text), response.headers["content-length"])
         assert.is_true(response.body == text:reverse())
      end)

      it("replaces a body that nobody gathered", function()
         start { { message = function(msg) msg:set_body "instead" end, response = function(msg) msg:set_body "of it" end } }
         local c = flow.ask("POST", "/", ("x"):rep(200000))
         local s, head = request(app)
         assert.matches("[Cc]ontent%-[Ll]ength: 7\r\n", head)
         assert.equal("instead", s:bytes(7))
         respond(s, ("y"):rep(200000))
         assert.equal("of it", c:response().body)
         c:close()
         s:close()
      end)

      it("passes bodies through functions piece by piece, both ways", function()
         start { {
            message = function(msg) msg:set_header("X-Head", "seen") end,
            data = function(msg)
               msg:set_bytes(msg.backward and msg.bytes:lower() or msg.bytes:upper())
            end,
         }, { data = function(msg) if #msg.bytes > 0 then msg:set_bytes(msg.bytes .. ".") end end } }
         local text = ("abcdefghijklmnop"):rep(20000)
         local c = flow.ask("POST", "/", text)
         local s, head = request(app)
         assert.matches("[Tt]ransfer%-[Ee]ncoding: chunked", head)
         local parts = {}
         while true do
            local size = tonumber(assert(s:take "\r\n"):match "^%x+", 16)
            local part = s:bytes(size + 2)
            if size == 0 then break end
            parts[#parts + 1] = part:sub(1, -3)
         end
         local got = table.concat(parts):gsub("%.", "")
         assert.is_true(got == text:upper())
         respond(s, text:upper())
         local response = c:response()
         assert.is_true(response.body:gsub("%.", "") == text)
         c:close()
         s:close()
      end)

      it("stops a body when a function drops a piece", function()
         start { { data = function(msg) if msg.bytes:find "virus" then return msg:drop "virus" end end } }
         local c = flow.ask("POST", "/", "a virus")
         assert.equal("", c:rest())
         c:close()
      end)

      it("fetches from servers while a message is held", function()
         start { { message = function(msg)
            local answer, err = msg:fetch { upstream = "other", path = "/ask?" .. msg.path, body = msg.path == "/post" and "question" or nil }
            if not answer then return msg:respond(500, {}, err) end
            msg:set_header("X-Answer", answer.status .. " " .. answer.body)
         end } }
         local c = flow.ask("GET", "/get")
         local s = request(other, "^GET /ask%?/get ")
         respond(s, "yes")
         local t, head = request(app)
         assert.matches("X%-Answer: 200 yes\r\n", head)
         respond(t, "done")
         assert.equal("done", c:response().body)
         c:close()
         s:close()
         t:close()
         c = flow.ask("GET", "/post")
         s = request(other, "^POST /ask%?/post ")
         assert.equal("question", s:bytes(8))
         s:close() -- without an answer
         local response = c:response()
         assert.equal(500, response.status)
         c:close()
      end)

      it("passes streams through functions, both ways", function()
         start({
            { message = function(msg) if msg.kind == "open" then msg:set_value(1, 1) end end },
            { data = function(msg) msg:set_bytes(msg.backward and msg.bytes:upper() or msg.bytes:gsub("a", "b")) end },
         }, { protocol = C.TW_LISTEN_TCP })
         local c = flow.client()
         local s
         c:send "banana"
         s = assert(app:accept())
         assert.equal("bbnbnb", s:bytes(6))
         local text = ("abc"):rep(100000)
         s:send(text)
         local got = c:bytes(#text)
         assert.is_true(got == text:upper())
         c:close()
         assert.equal("", s:rest())
         s:close()
      end)

      it("lets functions answer streams that have no server", function()
         start({ { data = function(msg) if #msg.bytes > 0 then return msg:reply("<" .. msg.bytes .. ">") end end } },
            { protocol = C.TW_LISTEN_TCP, group = -1 })
         local c = flow.client()
         for i = 1, 3 do
            c:send("n" .. i)
            assert.equal("<n" .. i .. ">", c:bytes(4))
         end
         c:close()
      end)

      it("holds a message while others go on, up to the deadline", function()
         start({ { message = function(msg) if msg.path == "/slow" then msg:sleep(100) end return msg:respond(200, {}, "ok") end } },
            { request_ms = 700 })
         local slow = flow.ask("GET", "/slow")
         assert.equal(200, flow.get("/quick").status)
         assert.equal(504, slow:response().status)
         slow:close()
         service:settle()
         assert.equal(1, tonumber(service:stats().status[5]))
         assert.equal(1, flow.counter "timeouts")
      end)

      it("refuses when the pool is empty, and recovers", function()
         start({ { message = function(msg) if msg.path == "/hold" then msg:sleep(1) end return msg:respond(200, {}, "ok") end } },
            { memory_mb = 2 })
         local all, status = {}, {}
         for i = 1, 400 do all[i] = flow.ask("GET", "/hold") end
         for i = 1, 400 do
            local response = all[i]:response()
            local got = response and response.status or 0
            status[got] = (status[got] or 0) + 1
            all[i]:close()
         end
         assert.is_true((status[503] or 0) + (status[502] or 0) > 0, "nothing was refused")
         assert.is_true((status[200] or 0) > 0, "nothing was answered")
         assert.same({ 0, 0 }, { service:settle() })
         assert.equal(200, flow.get("/").status)
      end)

      it("gives up what a client that has gone had asked for", function()
         start { { message = function(msg) if msg.path == "/hold" then msg:sleep(0.3) end end } }
         local held, asked = flow.ask("GET", "/hold"), flow.ask("GET", "/asked")
         local s = request(app, "/asked")
         assert.is_true(flow.eventually(function() return service:stats().in_flight == 2 end))
         held:abort()
         asked:abort()
         assert.is_true(flow.eventually(function() return service:stats().in_flight == 0 end))
         assert.equal(2, tonumber(service:stats().status[0]))
         s:close()
         assert.is_true(flow.eventually(function() -- and nobody waits for it any more
            local turns = flow.counter "turns"
            return not flow.eventually(function() return flow.counter "turns" ~= turns end, 0.2)
         end))
      end)

      it("changes its functions while it runs", function()
         start { { name = "a", message = function(msg) return msg:respond(200, {}, "a") end } }
         assert.equal("a", flow.get("/").body)
         if transport ~= "inline" then
            service:set {
               service.functions[1],
               { name = "b", message = function(msg) return msg:respond(200, {}, "b") end },
            }
            service:add(2)
            assert.equal("a", flow.get("/").body)
         else
            service:set { { name = "b", message = function(msg) return msg:respond(200, {}, "b") end } }
            assert.equal("b", flow.get("/").body)
         end
      end)

      it("survives functions that write anything into messages", function()
         local words = { 0, 1, 63, 64, 65, 255, 4095, 4096, 65535, 1e6, 2 ^ 31, 2 ^ 32 - 1 }
         start({ {
            message = function(msg)
               local n = tonumber(msg.path:match "%d+")
               local view = msg.v
               local m, bytes = view.m, require("ffi").cast("uint32_t *", view.m)
               local state = n * 2654435761 % 4294967296
               local function random(limit)
                  state = (state * 1103515245 + 12345) % 2147483648
                  return math.floor(state / 65536) % limit
               end
               for _ = 1, 1 + random(12) do
                  -- anywhere in the head but what leads back to its exchange
                  bytes[random(math.floor(require("ffi").sizeof "struct tw_msg" / 4))] = words[1 + random(#words)]
               end
               if n % 3 == 0 then m.verdict = random(9) end
               if n % 5 == 0 then m.flags, m.n_body = 2 + random(2) * 256, random(70) end
               m.exchange = n % 7 == 0 and random(100) or m.exchange
            end,
            response = function(msg) msg.v.m.n_headers = 60000 msg.v.m.flags = 2 msg.v.m.n_body = 3 end,
         } }, { request_ms = 1000 })
         if transport == "inline" then return end -- those are trusted
         local all = {}
         for i = 1, 300 do all[i] = flow.ask(i % 2 == 0 and "POST" or "GET", "/" .. i, i % 2 == 0 and "body" or nil) end
         local served = {}
         assert.is_true(flow.eventually(function()
            local s = app:accept(0.01)
            if s then
               s:send "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
               served[#served + 1] = s
            end
            return service:stats().in_flight == 0
         end))
         for i = 1, 300 do all[i]:close() end
         for _, s in ipairs(served) do s:close() end
         local stats = service:stats()
         assert.equal(300, tonumber(stats.requests))
      end)

      it("counts exactly under many connections", function()
         start({ {
            message = function(msg)
               local n = tonumber(msg.path:match "%d+")
               if n % 4 == 0 then return msg:respond(200, {}, "n" .. n) end
               if n % 4 == 1 then return msg:drop() end
               if n % 4 == 2 then error "no" end
               return msg:respond(404, {}, "")
            end,
         } }, { gates = 2 })
         local all = {}
         for i = 1, 200 do
            all[i] = flow.ask("GET", "/" .. i)
            service:exact()
         end
         for i = 1, 200 do
            if i % 4 == 1 then assert.equal("", all[i]:rest()) else
               assert.equal(({ [0] = 200, [2] = 502, [3] = 404 })[i % 4], all[i]:response().status)
            end
            all[i]:close()
         end
         service:settle()
         local stats = service:stats()
         assert.same({ 200, 150, 50, 50, 50, 50 }, {
            tonumber(stats.requests), tonumber(stats.responses), tonumber(stats.status[0]), tonumber(stats.status[2]),
            tonumber(stats.status[4]), tonumber(stats.status[5]),
         })
      end)
   end)
end
