-- SPDX-License-Identifier: BSD-3-Clause
-- Functions inside gate threads: routes, figures, functions that are given anew while others hold messages, one that
-- does not return; and the library's NFs in a chain with real clients, inline and in workers.

local abi = require "tideway.abi"
local flow = require "test.support.flow"
local lines = require "tideway.message.lines"
local tw = require "tideway"

local C = abi.C

describe("inline functions", function()
   local service, app

   local function start(...) service, app = flow.before("inline", ...) end

   after_each(function()
      local ended = service
      service = nil
      if ended then ended:finish(app) end
   end)

   it("count on their boards", function()
      start {
         { message = function(msg) if msg.path == "/bad" then error "bad" end end },
         { message = function(msg) msg:sleep(0.001) return msg:respond(200, {}, "x") end },
      }
      for _ = 1, 5 do assert.equal(200, flow.get("/").status) end
      assert.equal(502, flow.get("/bad").status)
      local boards = service:stats().inline_board
      assert.same({ 6, 6, 1, 0 }, { tonumber(boards[0].started), tonumber(boards[0].done), tonumber(boards[0].faults),
         tonumber(boards[0].held) })
      assert.same({ 10, 10, 0 }, { tonumber(boards[1].started), tonumber(boards[1].done), tonumber(boards[1].held) })
      local samples = 0
      for i = 0, C.TW_TIME_BUCKETS - 1 do samples = samples + tonumber(boards[0].time[i]) end
      assert.equal(6, samples)
   end)

   it("that send a message in circles are stopped", function()
      start {
         { message = function(msg) return msg:route "a" end },
         { name = "a", aside = true, message = function(msg) return msg:route "b" end },
         { name = "b", aside = true, message = function(msg) return msg:route "a" end },
      }
      assert.equal(502, flow.get("/").status)
   end)

   it("are given anew while the old ones hold messages", function()
      start { { message = function(msg)
         if msg.path == "/slow" then msg:sleep(0.2) end
         return msg:respond(200, {}, "old")
      end } }
      local slow = flow.ask("GET", "/slow")
      assert.equal("old", flow.get("/").body)
      service:set { { message = function(msg) return msg:respond(200, {}, "new") end } }
      assert.equal("new", flow.get("/").body)
      assert.equal("old", slow:response().body)
      slow:close()
      assert.equal("new", flow.get("/").body)
   end)

   it("that do not return are ended, and their thread goes on", function()
      start { { message = function(msg)
         if msg.path == "/stuck" then
            jit.off(true) -- machine code does not look up
            while msg do msg.fn = nil or msg.fn end -- luacheck: ignore
         end
         return msg:respond(200, {}, "x")
      end } }
      assert.equal(200, flow.get("/").status)
      local stuck = flow.ask("GET", "/loop")
      assert.equal(200, stuck:response().status)
      stuck:close()
      assert.equal(502, flow.get("/stuck").status)
      for _ = 1, 100 do assert.equal(200, flow.get("/").status) end
   end)

   it("that hold up their thread cost nobody who waits to be accepted, also when the listener is removed", function()
      start { { message = function(msg)
         local now = require("tideway.abi").C.tw_now
         local until_when = now() + (msg.path == "/busy" and 300000000 or 0)
         while now() < until_when do end
         return msg:respond(200, {}, "x")
      end } }
      local busy = flow.ask("GET", "/busy")
      flow.eventually(function() return service:stats().in_flight == 1 end)
      local all = {}
      for i = 1, 100 do all[i] = flow.ask("GET", "/") end
      assert.equal(0, C.tw_gate_listener_remove(0, 5000))
      all[#all + 1] = busy
      for _, c in ipairs(all) do
         local response = c:response()
         c:close()
         assert.equal(200, response and response.status)
      end
   end)

   it("say in the log what they raised, with its line", function()
      start { { name = "sad", message = function() error "what a\npity" end } }
      for _ = 1, 3 do assert.equal(502, flow.get("/a").status) end
      service:set { { name = "glad", response = function() error "in response" end },
         { name = "quick", message = function(msg) return msg:respond(200, {}, "x") end } }
      for _ = 1, 3 do assert.equal(502, flow.get("/a").status) end
      local text, line = "", require("ffi").new "char[1024]"
      while C.tw_log_next(line, 1024) ~= 0 do text = text .. require("ffi").string(line) .. "\n" end
      local where = 'chain "flow": %s, gate thread 0: .-gate_inline_spec.lua:%%d+: %s\n'
      assert.matches(where:format("sad", "what a pity"), text)
      assert.matches(where:format("glad", "in response"), text)
      assert.is_true(select(2, text:gsub("what a pity", "")) <= 2)
   end)

   it("cannot block: what would raises, and says what to do", function()
      start { { message = function(msg)
         local tried = { io.open, io.read, os.execute, io.popen, os.remove, dofile }
         for i, fn in ipairs(tried) do tried[i] = select(2, pcall(fn, "/etc/passwd")) end
         return msg:respond(200, {}, table.concat(tried, "\n"))
      end } }
      local text = flow.get("/").body
      for _, name in ipairs { "io.open", "io.read", "os.execute", "io.popen", "os.remove", "dofile" } do
         assert.truthy(text:find(name .. " blocks, and a function of messages must not: ", 1, true), text)
      end
   end)

   it("tick once a second", function()
      local store = tw.store { name = "spec_ticks", bytes = 65536, entries = 16 }
      store:set("n", 0)
      start { { message = function(msg) return msg:respond(200, {}, "x") end, tick = function()
         store:incr("n", 1)
         if store:get "n" == 1 then error "once" end
      end } }
      assert.is_true(flow.eventually(function() return store:get "n" >= 2 end))
      assert.equal(200, flow.get("/").status)
   end)

   it("that are forgotten are not resumed: the client has gone", function()
      start { { message = function(msg)
         msg:sleep(0.05)
         return msg:respond(200, {}, "x")
      end } }
      local c = flow.ask("GET", "/")
      flow.eventually(function() return service:stats().inline_board[0].held == 1 end)
      c:close()
      assert.is_true(flow.eventually(function() return service:stats().inline_board[0].held == 0 end))
      assert.equal(200, flow.get("/").status)
   end)

   it("end with their service: no tick, no timer, and the next one of that number begins anew", function()
      local store = tw.store { name = "spec_ends", bytes = 65536, entries = 16 }
      store:set("n", 0)
      start { { message = function(msg) msg:sleep(100) return msg:respond(200, {}, "x") end,
         tick = function() store:incr("n", 1) end, stop = function() store:set("stopped", 1) end } }
      local c = flow.ask("GET", "/")
      assert.is_true(flow.eventually(function() return service:stats().inline_board[0].held == 1 end))
      assert.is_true(flow.eventually(function() return store:get "n" >= 1 end))
      assert.equal(0, C.tw_gate_service_remove(0, 0))
      assert.is_nil(c:response())
      c:close()
      assert.equal(1, store:get "stopped")
      local at, ticks = flow.now(), store:get "n"
      service:set { { message = function(msg) return msg:respond(200, {}, "new") end } }
      assert.equal("new", flow.get("/").body)
      local board = service:stats().inline_board[0]
      assert.same({ 1, 0 }, { tonumber(board.started), tonumber(board.held) })
      flow.eventually(function() return flow.now() - at > 2.5e9 end)
      assert.equal(ticks, store:get "n")
   end)

   it("are refused when they cannot be built, and the old ones stay", function()
      start { { message = function(msg) return msg:respond(200, {}, "old") end } }
      local blob = "no blob"
      assert.is_true(C.tw_gate_inline(0, blob, #blob) < 0)
      assert.equal("old", flow.get("/").body)
   end)
end)

-- ---- the library ----

local function of(nf)
   local f = { nf = nf, name = nf.name }
   for _, key in ipairs { "message", "response", "data", "readonly", "sticky", "on_fault", "body", "response_body" } do
      f[key] = nf[key]
   end
   return f
end

for _, transport in ipairs { "inline", "sk_msg" } do
   describe("the library's NFs, " .. transport, function()
      it("make a gateway: log, access, limit, rewrite, headers, proxy", function()
         local path, name = os.tmpname(), "spec_gateway_" .. transport
         local app, other = flow.server(), flow.server()
         local service = flow.start({
            of(tw.nf.log { to = path, name = name, format = "common" }),
            of(tw.nf.access { deny = { "10.0.0.0/8" }, paths = { { prefix = "/admin", methods = { "PUT" } } } }),
            of(tw.nf.rate_limit { rate = 0.01, burst = 4, name = name, entries = 1024, key = "header:X-Client" }),
            of(tw.nf.url_rewrite { rules = { { "^/old/(.*)$", "/new/%1" }, { prefix = "/go", to = "/went", redirect = 301 } } }),
            of(tw.nf.headers { forwarded = true, response_set = { ["X-Served"] = "yes" } }),
            of(tw.nf.reverse_proxy { routes = { { path = "/new", upstream = "other", strip = "/new", host = "o.test" } } }),
         }, { transport = transport, servers = { app.port }, others = { other.port } })
         local began = flow.now()
         local ok, err = pcall(function()
            local function proxied(server, target, pattern)
               local c = flow.ask("GET", target, nil, { ["X-Client"] = "a" })
               local s = assert(server:accept())
               local head = s:take "\r\n\r\n"
               s:send "HTTP/1.1 302 Found\r\nLocation: http://o.test/there\r\nContent-Length: 2\r\n\r\nok"
               local response = c:response()
               assert.matches(pattern, head)
               assert.matches("X%-Forwarded%-For: 127.0.0.1\r\n", head)
               c:close()
               s:close()
               return response
            end
            local r = proxied(other, "/old/x?q", "^GET /x%?q HTTP/1.1\r\n")
            assert.same({ 302, "http://spec/new/there", "yes" }, { r.status, r.headers.location, r.headers["x-served"] })
            assert.equal("http://o.test/there", proxied(app, "/else", "^GET /else ").headers.location)
            r = flow.get("/go/1", { ["X-Client"] = "a" })
            assert.same({ 301, "/went/1" }, { r.status, r.headers.location })
            r = flow.get("/%61dmin", { ["X-Client"] = "a" })
            assert.same({ 405, "PUT" }, { r.status, r.headers.allow })
            assert.equal(301, flow.get("/go/2", { ["X-Client"] = "a" }).status)
            r = flow.get("/go/3", { ["X-Client"] = "a" })
            assert.equal(429, r.status)
            -- A hundred seconds for a token; what has passed of them by now is a matter of the machine.
            local retry, most = tonumber(r.headers["retry-after"]), (flow.now() - began) / 1e9
            assert.is_true(retry <= 100 and retry >= 100 - most, r.headers["retry-after"])
            assert.equal(301, flow.get("/go/3", { ["X-Client"] = "b" }).status)
            local text = ""
            assert.is_true(flow.eventually(function()
               lines.drain()
               local file = assert(io.open(path))
               text = file:read "*a"
               file:close()
               return select(2, text:gsub("\n", "")) == 7
            end), text)
            local seen = {}
            for request, status in text:gmatch '"(%u+ %S+) HTTP/1.1" (%d+)' do seen[#seen + 1] = request .. " " .. status end
            table.sort(seen)
            assert.same({ "GET /%61dmin 405", "GET /else 302", "GET /go/1 301", "GET /go/2 301", "GET /go/3 301",
               "GET /go/3 429", "GET /old/x?q 302" }, seen)
         end)
         local in_flight, blocks = service:settle()
         service:close()
         app:close()
         other:close()
         os.remove(path)
         assert(ok, err)
         assert.same({ 0, 0 }, { in_flight, blocks })
      end)
   end)
end
