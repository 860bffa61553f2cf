-- SPDX-License-Identifier: BSD-3-Clause
-- Routes to functions that do not exist: those that a script names are refused when it is loaded, others while it runs.

local tw = require "tideway"
local flow = require "test.support.flow"
local model = require "tideway.model"
local validate = require "tideway.gate.validate"

describe("a route that a script names", function()
   before_each(model.reset)
   after_each(model.reset)

   local function declare(methods)
      local chain = tw.chain("web", tw.listen("web", "http://127.0.0.1:28011"), tw.nf("gatekeeper", function() return methods end) {})
      chain:route("login", function(msg) return msg:respond(200) end)
      chain:route("error", function(msg) return msg:respond(500) end)
      return chain
   end

   local function refused(methods, text)
      declare(methods)
      local ok, err = pcall(validate.check)
      assert.is_false(ok)
      assert.matches("gate_route_spec.lua:%d+: chain web: NF gatekeeper routes to ", err)
      assert.truthy(err:find(text, 1, true), err)
      return tonumber(err:match "gate_route_spec.lua:(%d+): ")
   end

   it("is refused with its place, and what may be meant", function()
      local line = refused({ message = function(msg)
         if msg.path == "/private" then
            return msg:route "lgoin"
         end
      end }, '"lgoin", and the chain has no such function aside; did you mean login?')
      assert.equal(debug.getinfo(1, "l").currentline - 3, line)
      model.reset()
      refused({ message = function(msg) return msg:route "quite_another" end }, "there are: login, error")
      model.reset()
      refused({ response = function(msg)
         local verdict = msg:route("err")
         return verdict
      end }, '"err"')
   end)

   it("is refused when nothing stands aside, and in functions aside", function()
      tw.chain("web", tw.listen("web", "http://127.0.0.1:28011"), function(msg) return msg:route "login" end)
      assert.matches('routes to "login", and the chain has no such function aside; there are none', select(2, pcall(validate.check)))
      model.reset()
      declare({ message = function() end }):route("third", function(msg) return msg:route "fourth" end)
      assert.matches('NF third routes to "fourth"', select(2, pcall(validate.check)))
   end)

   it("that is there is none to refuse, nor is what only looks like one", function()
      local other = { route = function() end }
      declare { message = function(msg)
         other:route "anything"
         local name = msg.path
         if name == "/a" then return msg:route "login" end
         if name == "/b" then return msg:route(name) end
         if msg.route == "nothing" then return msg:route "error" end
      end }
      validate.check()
   end)
end)

for _, transport in ipairs { "inline", "sk_msg", "rings" } do
   describe("a route that leads nowhere, by " .. transport, function()
      local service

      after_each(function() service:finish() end)

      it("is a fault of who takes it: answered, counted, and the next one goes on", function()
         service = flow.start({
            { message = function(msg) return msg:route(msg.path:sub(2)) end },
            { name = "aside", aside = true, message = function(msg) return msg:respond(200, {}, "aside") end },
         }, { transport = transport, group = -1, request_ms = 60000 })
         for _ = 1, 3 do
            assert.equal(502, flow.get("/nowhere").status)
            assert.equal("aside", flow.get("/aside").body)
         end
         service:settle()
         local stats = service:stats()
         assert.same({ 6, 3, 3 }, { tonumber(stats.requests), tonumber(stats.status[2]), tonumber(stats.status[5]) })
         assert.equal(3, tonumber(flow.counter "faults"))
         local board = transport == "inline" and stats.inline_board[0] or flow.info(service.workers[1]).board
         assert.equal(3, tonumber(board.faults))
      end)

      it("is none that the functions of a chain can make", function()
         service = flow.start({
            { message = function(msg)
               msg.fn.routes.ghost = 9 -- whatever it writes into its own tables
               return msg:route(msg.path:sub(2))
            end },
            { name = "aside", aside = true, message = function(msg) return msg:respond(200, {}, "aside") end },
         }, { transport = transport, group = -1, request_ms = 60000 })
         for _ = 1, 3 do
            assert.equal(502, flow.get("/ghost").status)
            assert.equal("aside", flow.get("/aside").body)
         end
         if transport ~= "inline" then assert.equal(3, tonumber(flow.info(service.workers[1]).denied)) end
      end)
   end)
end
