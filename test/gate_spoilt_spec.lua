-- SPDX-License-Identifier: BSD-3-Clause
-- Messages whose heads functions have written over: the gate knows by itself whose they are, and answers at once.

local flow = require "test.support.flow"

local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

-- Runs in functions: the path, or the header, says what to write.
local function spoil(msg, what)
   local ffi = require "ffi"
   local m = msg.v.m
   if what == "ff" then ffi.fill(m, ffi.sizeof "struct tw_msg", 255) end
   if what == "zero" then ffi.fill(m, ffi.sizeof "struct tw_msg", 0) end
   if what == "magic" then m.magic = 1 end
   if what == "kind" then m.kind = 77 end
   if what == "answer" then m.kind = 6 end -- TW_MSG_ANSWER
   if what == "exchange" then m.exchange = 123456 end
   if what == "neighbour" then m.exchange = m.exchange == 0 and 1 or 0 end
   if what == "id" then m.id = m.id + 1 end
   if what == "self" then m.self = 1 end
   if what == "gate" then m.gate, m.exchange = 77, 77 end
end

local WAYS = { "ff", "zero", "magic", "kind", "answer", "exchange", "neighbour", "id", "self", "gate" }

for _, transport in ipairs { "sk_msg", "rings", "inline" } do
   describe("a message whose head is written over, by " .. transport, function()
      local app, service

      local function start(functions, options)
         options = options or {}
         options.request_ms = 60000 -- whoever is not answered at once is answered too late
         service, app = flow.before(transport, functions, options)
      end

      after_each(function() service:finish(app) end)

      local function counted(n)
         service:settle()
         local stats = service:stats()
         assert.same({ n, n }, { tonumber(stats.requests), tonumber(stats.status[5]) })
         assert.is_true(flow.counter "faults" >= n)
      end

      it("fails in the function that does it", function()
         start { { message = function(msg) spoil(msg, msg.path:sub(2)) end } }
         for _, way in ipairs(WAYS) do assert.equal(502, flow.get("/" .. way).status, way) end
         counted(#WAYS)
      end)

      it("fails whatever the function decides, and whatever its policy is", function()
         start { { on_fault = "bypass", message = function(msg)
            spoil(msg, msg.path:sub(2))
            if msg.v.m.magic == 0 then error "what is this" end
            return msg:drop()
         end } }
         for _, way in ipairs(WAYS) do assert.equal(502, flow.get("/" .. way).status, way) end
         counted(#WAYS)
      end)

      it("fails behind other functions", function()
         start { { message = function(msg) spoil(msg, msg.path:sub(2)) end }, { message = function() end } }
         for _, way in ipairs(WAYS) do assert.equal(502, flow.get("/" .. way).status, way) end
         counted(#WAYS)
      end)

      it("fails when it was held before", function()
         start { { message = function(msg)
            local way = msg.path:sub(2)
            msg:sleep(0.01)
            spoil(msg, way)
         end } }
         for _, way in ipairs(WAYS) do assert.equal(502, flow.get("/" .. way).status, way) end
         counted(#WAYS)
      end)

      it("fails on its way back", function()
         start { { response = function(msg) spoil(msg, msg:header "X-Way") end } }
         for _, way in ipairs(WAYS) do
            local c = flow.ask("GET", "/")
            local s = assert(app:accept())
            assert(s:take "\r\n\r\n")
            assert(s:send(("HTTP/1.1 200 OK\r\nX-Way: %s\r\nContent-Length: 2\r\n\r\nok"):format(way)))
            assert.equal(502, c:response().status, way)
            c:close()
            s:close()
         end
         counted(#WAYS)
      end)

      it("ends the body that it is a piece of", function()
         start { { data = function(msg) spoil(msg, msg.bytes) end } }
         for _, way in ipairs(WAYS) do
            local c = flow.ask("POST", "/", way)
            local s = assert(app:accept())
            assert.equal(502, c:response().status, way)
            c:close()
            s:close()
         end
         counted(#WAYS)
      end)

      it("harms no other exchange", function()
         start { { message = function(msg)
            if msg.path == "/hold" then msg:sleep(0.2) else spoil(msg, "neighbour") end
         end } }
         local held = flow.ask("GET", "/hold")
         assert.equal(502, flow.get("/").status)
         local s = assert(app:accept())
         assert.matches("^GET /hold ", (s:take "\r\n\r\n"))
         assert(s:send(OK))
         assert.same({ 200, "ok" }, { held:response().status, "ok" })
         held:close()
         s:close()
         assert.equal(1, tonumber(flow.counter "faults"))
      end)
   end)
end
