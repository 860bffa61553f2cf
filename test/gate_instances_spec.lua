-- SPDX-License-Identifier: BSD-3-Clause
-- Instances of functions as gate threads see them: those that die, are stuck or not there, messages that are in their
-- hands then, load and stickiness, and any mix of it.

local ffi = require "ffi"
local abi = require "tideway.abi"
local flow = require "test.support.flow"

local C = abi.C

for _, transport in ipairs { "sk_msg", "rings" } do
   describe("instances by " .. transport, function()
      local service

      after_each(function()
         if service then
            local in_flight, blocks = service:settle()
            service:close()
            assert.same({ 0, 0 }, { in_flight, blocks })
         end
         service = nil
      end)

      local function start(functions, options)
         options = options or {}
         options.transport, options.group = transport, options.group or -1
         service = flow.start(functions, options)
      end

      local function ok(msg) return msg:respond(200, {}, "ok") end

      local function kill(worker) ffi.C.kill(flow.info(worker).pid, 9) end

      it("that die answer what they had begun with, and others go on", function()
         start { { instances = 2, message = function(msg)
            if msg.path == "/hold" then msg:sleep(1000) end
            return msg:respond(200, {}, "ok")
         end } }
         local held = {}
         for i = 1, 8 do held[i] = flow.ask("GET", "/hold") end
         assert.is_true(flow.eventually(function()
            return tonumber(flow.info(service.workers[1]).board.held + flow.info(service.workers[2]).board.held) == 8
         end))
         for _, worker in ipairs(service.workers) do kill(worker) end
         for i = 1, 8 do
            assert.equal(502, held[i]:response().status)
            held[i]:close()
         end
         assert.is_true(flow.eventually(function() return flow.get("/").status == 200 end))
      end)

      it("that die have their messages retried elsewhere, or passed by", function()
         for policy, want in pairs { retry = 200, bypass = 404 } do
            start { { on_fault = policy, message = function(msg)
               if msg:value(1) == 0 then
                  msg:set_value(1, 1)
                  msg:sleep(1000)
               end
               return msg:respond(200, {}, "ok")
            end } }
            local c = flow.ask("GET", "/")
            assert.is_true(flow.eventually(function() return flow.info(service.workers[1]).board.held == 1 end))
            kill(service.workers[1])
            assert.equal(want, c:response().status)
            c:close()
            local in_flight, blocks = service:settle()
            service:close()
            service = nil
            assert.same({ 0, 0 }, { in_flight, blocks })
         end
      end)

      it("that are stuck are found and killed", function()
         start { { message = function(msg)
            if msg.path == "/stuck" then while true do end end
            return msg:respond(200, {}, "ok")
         end } }
         local c = flow.ask("GET", "/stuck")
         assert.equal(502, c:response().status)
         c:close()
         assert.matches("stuck", ffi.string(flow.info(service.workers[1]).last))
         assert.is_true(flow.eventually(function() return flow.get("/").status == 200 end))
      end)

      it("that are stuck cost only the message in their hands", function()
         start { { message = function(msg)
            if msg.path == "/stuck" then while true do end end
            return msg:respond(200, {}, "ok")
         end } }
         local stuck = flow.ask("GET", "/stuck")
         assert.is_true(flow.eventually(function()
            local info = flow.info(service.workers[1])
            return info.board.current ~= 0 or info.restarts > 0
         end))
         local behind = {}
         for i = 1, 5 do behind[i] = flow.ask("GET", "/" .. i) end
         assert.equal(502, stuck:response().status)
         -- A new process may take longer to come than they are let wait.
         for i = 1, 5 do
            assert.is_true(({ [200] = true, [503] = true })[behind[i]:response().status])
            behind[i]:close()
         end
         stuck:close()
      end)

      it("lose nothing in any mix of faults", function()
         local origin = flow.server()
         start({
            { instances = 2, on_fault = "retry", message = function(msg)
               local what = tonumber(msg.path:match "%d+") % 10
               if what == 1 then msg:sleep(0.02) end
               if what == 2 then error "raised" end
               if what == 3 then return msg:respond(200, {}, ("x"):rep(20000)) end
               if what == 4 then return msg:drop() end
               if what == 5 then msg:set_body(("y"):rep(30000)) end
               if what == 6 then
                  local answer = msg:fetch { upstream = "app", path = "/fetched" }
                  return msg:respond(answer and answer.status or 500, {}, answer and answer.body or "")
               end
            end },
            { instances = 2, on_fault = "bypass", body = "whole", response_body = "whole",
               message = function(msg)
                  if msg.path == "/7" then msg:sleep(5) end
               end,
               response = function(msg) msg:set_body(msg.body .. "!") end },
            { data = function(msg) if #msg.bytes > 0 then msg:set_bytes(msg.bytes .. "?") end end },
         }, { group = 0, servers = { origin.port }, gates = 2 })
         local until_when, n, killed = flow.now() + 4e9, 0, 0
         local open, servers = {}, {}
         while flow.now() < until_when or #open > 0 do
            if flow.now() < until_when and #open < 50 then
               n = n + 1
               local body = n % 3 == 0 and ("b"):rep(n * 37 % 50000) or nil
               open[#open + 1] = flow.ask(body and "POST" or "GET", "/" .. n % 100, body)
               if n % 150 == 75 then
                  kill(service.workers[1 + killed % #service.workers])
                  killed = killed + 1
               end
            end
            local s = origin:accept(0)
            if s then
               servers[#servers + 1] = s
               s:send "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\norigin"
            end
            if #servers > 100 then table.remove(servers, 1):close() end
            if #open >= 50 or flow.now() >= until_when then
               local c = table.remove(open, 1)
               if n % 11 == 0 then c:abort() else c:more(0.01) c:close() end
            end
            if n % 50 == 0 then service:exact() end
         end
         for _, s in ipairs(servers) do s:close() end
         origin:close()
         assert.is_true(n > 100 and killed > 0)
         assert.equal(n, tonumber(service:stats().requests))
      end)

      it("share the load, or have an address or exchange for themselves", function()
         for sticky, most in pairs { none = 2, connection = 1 } do
            start { { instances = 2, sticky = sticky ~= "none" and sticky or nil, message = function(msg)
               msg:sleep(0.05)
               return msg:respond(200, {}, "ok")
            end } }
            local all = {}
            for i = 1, 40 do all[i] = flow.ask("GET", "/") end
            for i = 1, 40 do
               assert.equal(200, all[i]:response().status)
               all[i]:close()
            end
            local used = 0
            for _, worker in ipairs(service.workers) do
               if flow.info(worker).board.started > 0 then used = used + 1 end
            end
            assert.equal(most, used)
            service:settle()
            service:close()
            service = nil
         end
      end)

      it("that are not there are waited for a moment", function()
         start { { message = ok } }
         C.tw_worker_remove(service.workers[1], 0)
         assert.is_true(flow.eventually(function()
            local info = flow.info(service.workers[1])
            return not info or info.state == C.TW_WORKER_NONE
         end))
         local at = flow.now()
         assert.equal(503, flow.get("/").status)
         assert.is_true(flow.now() - at > 8e7)
         local c = flow.ask("GET", "/")
         service:add(1)
         assert.is_true(({ [200] = true, [503] = true })[c:response().status])
         c:close()
         assert.equal(200, flow.get("/").status)
      end)
   end)
end
