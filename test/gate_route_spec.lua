-- SPDX-License-Identifier: BSD-3-Clause
-- Routes to functions, and upstream groups, that do not exist: those that a script names are refused when it is loaded,
-- others while it runs.

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

describe("an upstream group that a script names", function()
   before_each(model.reset)
   after_each(model.reset)

   local files

   local function declare(nf)
      files = tw.upstream("files", { servers = { "127.0.0.1:28012" } })
      tw.upstream("app", { servers = { "127.0.0.1:28013" } })
      return tw.chain("web", tw.listen("web", "http://127.0.0.1:28011"), nf)
   end

   local function refused(nf, name, what)
      model.reset()
      declare(nf)
      local ok, err = pcall(validate.check)
      assert.is_false(ok)
      assert.truthy(err:find(('chain web: NF %s sends to upstream group "%s", which is not declared; tw.upstream("%s", '
         .. "{ servers = ... }) declares it; %s"):format(name, what[1], what[1], what[2]), 1, true), err)
      return tonumber(err:match "gate_route_spec.lua:(%d+): ")
   end

   it("is refused when it is not declared: parameters of the library's NFs", function()
      local line = refused(tw.nf.reverse_proxy { upstream = "nope" }, "reverse_proxy", { "nope", "there are: files, app" })
      assert.equal(debug.getinfo(1, "l").currentline - 1, line)
      refused(tw.nf.reverse_proxy { upstream = "app", routes = { { path = "/a", upstream = "app" },
         { path = "/b", upstream = "fils" } } }, "reverse_proxy", { "fils", "did you mean files?" })
      refused(tw.nf.l4_proxy { upstream = "nope" }, "l4_proxy", { "nope", "there are" })
      model.reset()
      declare(tw.nf.l4_proxy { upstream = "app" }):route("other", tw.nf.reverse_proxy { upstream = "nope" })
      assert.matches('NF other sends to upstream group "nope"', select(2, pcall(validate.check)))
   end)

   it("is refused when it is not declared: constants in functions, and what NFs say of themselves", function()
      local line = refused(function(msg)
         if msg.path == "/" then return end
         return msg:upstream("nope", msg.peer)
      end, "function1", { "nope", "there are: files, app" })
      assert.equal(debug.getinfo(1, "l").currentline - 2, line)
      refused(function(msg)
         local answer = msg:fetch { upstream = "nope", path = msg.path, method = "GET" }
         return msg:respond(answer.status)
      end, "function1", { "nope", "there are" })
      local nf = tw.nf("own", function(cfg) return { upstreams = cfg, message = function() end } end)
      refused(nf { "app", "nope" }, "own", { "nope", "there are" })
      assert.has_error(function() nf { 5 } end)
      assert.matches("upstreams is a list of groups", select(2, pcall(tw.nf("own", function()
         return { upstreams = "app", message = function() end }
      end), {})))
   end)

   it("is refused when it was taken away", function()
      local gone = tw.upstream("gone", { servers = { "127.0.0.1:28014" } })
      refused(tw.nf.reverse_proxy { upstream = gone }, "reverse_proxy", { "gone", "there are: files, app" })
      model.reset()
      declare(function() end)
      local chain = model.services[1]
      chain:replace(1, tw.nf.l4_proxy { upstream = files })
      validate.check()
      files:delete()
      assert.matches('sends to upstream group "files", which is not declared', select(2, pcall(validate.check)))
   end)

   it("passes when it is there, when it is declared later, and when a function chooses it", function()
      local late = "files"
      tw.chain("late", tw.listen("late", "http://127.0.0.1:28015"), tw.nf.reverse_proxy { upstream = "app",
         routes = { { path = "/a", upstream = "files" } } }, function(msg)
         if msg.path == "/b" then return msg:upstream(late) end
         if msg.path == "/c" then return msg:upstream "app" end
         local answer = msg:fetch { upstream = late, path = "/nope" }
         if not answer then return msg:upstream(msg.path) end
      end)
      declare(tw.nf.l4_proxy {})
      validate.check()
      model.services[1]:insert(tw.nf.reverse_proxy { upstream = files }, { at = 1 })
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

      it("to a group is a fault as well, and the next one goes on", function()
         service = flow.start({
            { message = function(msg) return msg:upstream(msg.path:sub(2)) end },
         }, { transport = transport, group = -1, request_ms = 60000 })
         for _ = 1, 3 do assert.equal(502, flow.get("/nope").status) end
         service:settle()
         assert.equal(3, tonumber(flow.counter "faults"))
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
