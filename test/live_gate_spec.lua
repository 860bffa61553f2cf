-- SPDX-License-Identifier: BSD-3-Clause
-- Chains of messages in the real binary, with real clients and nginx as origin, on all transports: answers, live edits
-- and kills under load, what an idle one costs, commands.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local privilege = require "tideway.privilege"
local shell = require "test.shell"
local upstream = require "test.support.upstream"

local TRANSPORTS = { "inline", "sk_msg", "rings" }

local function missing() return gateway.missing("nginx", "curl", "wrk") end

local SCRIPT = [[
local tw = require "tideway"
tw.options { drain = 2 }
local web = tw.listen("web", "http://127.0.0.1:%d")
local app = tw.upstream("app", { servers = { "127.0.0.1:%d" } })
local hello = tw.nf("hello", function(cfg)
   return {
      message = function(msg)
         if msg.path == "/hello" then
            return msg:respond(200, { ["Content-Type"] = "text/plain" }, cfg.text)
         elseif msg.path == "/raise" then
            error "on purpose"
         elseif msg.path == "/loop" then
            while true do end
         elseif msg.path == "/route" then
            return msg:route "aside"
         end
      end,
      response = function(msg) msg:set_header("X-By", "hello") end,
   }
end, { pure = true })
local tag = tw.nf("tag", function(cfg)
   return { message = function(msg) msg:set_header("X-Tag", cfg.tag) end }
end, { pure = true })
local c = tw.chain("web", web, hello { text = "hello\n" }, tag { tag = "one" }, app)
c:route("aside", function(msg) return msg:respond(418, nil, "aside\n") end)
c:pin { worker = "%s" }
]]

describe("a chain behind a listener, live:", function()
   local why = missing()
   local origin, port, url

   setup(function()
      if not why then origin = gateway.nginx() end
   end)
   teardown(function()
      if origin then origin:stop() end
   end)

   local instance
   local function start(transport, text)
      port = gateway.port()
      url = "http://127.0.0.1:" .. port
      instance = instances.start { script = text and text(port, origin.port)
         or SCRIPT:format(port, origin.port, transport) }
      return instance
   end
   after_each(function()
      if instance then instance:stop "KILL" end
      instance = nil
   end)

   local function live(name, test)
      it(name, function()
         if why then return pending(why) end
         test()
      end)
   end

   -- Ends it; the sums must be exact.
   local function ends_well()
      local result = instance:stop()
      assert.equal(0, result.code, result.err)
      for _, s in ipairs(result.counters.gate.services) do
         assert.equal(0, s.difference, s.name)
         assert.equal(s.requests, s.responses + s.closed + s.in_flight)
      end
      return result
   end

   for _, transport in ipairs(TRANSPORTS) do
      live("answers on " .. transport, function()
         start(transport)
         local r = gateway.curl(url .. "/hello")
         assert.same({ 200, "hello\n" }, { r.status, r.body })
         r = gateway.curl(url .. "/small")
         assert.same({ 200, "small\n" }, { r.status, r.body })
         assert.truthy(r.head:find "\r\nX%-By: hello\r\n", r.head)
         assert.equal("tag one\n", gateway.curl(url .. "/tag").body)
         assert.equal(404, gateway.curl(url .. "/nothing").status)
         r = gateway.curl(url .. "/large")
         assert.truthy(r.body == origin.large, ("%d bytes"):format(#r.body))
         r = gateway.curl(url .. "/route")
         assert.same({ 418, "aside\n" }, { r.status, r.body })
         assert.equal(502, gateway.curl(url .. "/raise").status)
         assert.equal("hello\n", gateway.curl(url .. "/hello").body)
         local s = gateway.service(instance, "web")
         assert.same({ 8, 8 }, { s.requests, s.responses })
         ends_well()
      end)
   end

   for _, transport in ipairs { "sk_msg", "rings" } do
      live("loses no request when a function is killed under load, on " .. transport, function()
         start(transport)
         -- Pollers that have more to do than there are CPUs keep others waiting for seconds, also who is to be started.
         local load = labs.spawn(("wrk -t 1 -c %d -d 300 --timeout 30s %s/hello"):format(transport == "rings" and 4 or 16, url))
         local last
         for _ = 1, 3 do
            posix.poll({}, 300)
            last = labs.eventually(60, function()
               local f = gateway.service(instance, "web").functions[1].instances[1]
               return f.state == "runs" and f.pid ~= last and f.pid
            end)
            assert.truthy(last, "it was not started again")
            assert.equal(0, shell.run("kill -9 " .. last).code)
         end
         posix.poll({}, 300)
         local out = load:stop().out
         assert.truthy(out:find "requests in", out)
         assert.falsy(out:find "Socket errors", out)
         assert.truthy(labs.eventually(60, function()
            local f = gateway.service(instance, "web").functions[1]
            return f.restarts >= 3 and f.instances[1].state == "runs"
         end))
         assert.equal("hello\n", gateway.curl(url .. "/hello").body)
         ends_well()
      end)
   end

   live("answers what an endless loop had in hand, and goes on", function()
      start "sk_msg"
      local r = gateway.curl(url .. "/loop")
      assert.truthy(r.status == 502 or r.status == 504, r.status)
      assert.truthy(labs.eventually(60, function() return gateway.curl(url .. "/hello").status == 200 end))
      assert.truthy(gateway.service(instance, "web").functions[1].restarts >= 1)
      ends_well()
   end)

   live("uses no CPU while nothing comes", function()
      start "sk_msg"
      gateway.curl(url .. "/tag")
      local workers, engine = gateway.pids(instance, "web"), { instance.pid }
      posix.poll({}, 500)
      local idle, control
      for _ = 1, 5 do -- what was begun with before may end late on a busy machine
         idle, control = gateway.ticks(workers), gateway.ticks(engine)
         posix.poll({}, 3000)
         idle, control = gateway.ticks(workers) - idle, gateway.ticks(engine) - control
         if idle == 0 and control <= 6 then break end
      end
      assert.truthy(idle == 0, idle .. " ticks of 10 ms in 3 s of functions")
      -- The control thread looks after things five times a second.
      assert.truthy(control <= 6, control .. " ticks of 10 ms in 3 s")
      ends_well()
   end)

   live("changes under load without a request that fails", function()
      start "sk_msg"
      local load = labs.spawn(("wrk -t 1 -c 8 -d 300 --timeout 30s %s/tag"):format(url))
      posix.poll({}, 300)
      local function edit(code, text)
         local report = instance:eval(code .. "; return nil")
         if text then assert.truthy(labs.eventually(60, function() return gateway.curl(url .. "/tag").body == text end)) end
         return report
      end
      edit 'chains.web:scale("tag", 3)'
      assert.equal(3, #gateway.service(instance, "web").functions[2].instances)
      edit 'chains.web:scale("tag", 1)'
      assert.equal(1, #gateway.service(instance, "web").functions[2].instances)
      edit('set("tag", { tag = "two" })', "tag two\n")
      edit('chains.web:replace("tag", function(msg) msg:set_header("X-Tag", "three") end)', "tag three\n")
      edit('chains.web:insert(function(msg) msg:set_header("X-Tag", "four") end, { after = "tag" })', "tag four\n")
      edit('undo(1)', "tag three\n")
      edit('reload()', "tag one\n")
      local out = load:stop().out
      assert.truthy(out:find "requests in", out)
      assert.falsy(out:find "Socket errors", out)
      assert.falsy(out:find "Non%-2xx", out)
      ends_well()
   end)

   live("keeps functions that a reload does not change", function()
      start "sk_msg"
      local before = gateway.pids(instance, "web")
      local file = instance.files .. "/script.lua"
      shell.write(file, (posix.slurp(file):gsub('tag = "one"', 'tag = "other"')))
      instance:eval "reload()"
      assert.equal("tag other\n", gateway.curl(url .. "/tag").body)
      local after = gateway.pids(instance, "web")
      assert.same({ before[1], before[3] }, { after[1], after[3] })
      assert.is_not.equal(before[2], after[2])
      ends_well()
   end)

   live("takes servers, listeners and chains while it runs, and gives them up", function()
      start "inline"
      local other = gateway.port()
      instance:eval(('edit() tw.chain("two", tw.listen("two", "http://127.0.0.1:%d"), function(msg) '
         .. 'return msg:respond(200, nil, "two") end):pin { worker = "inline" } commit()'):format(other))
      assert.equal("two", gateway.curl("http://127.0.0.1:" .. other).body)
      instance:eval "edit() chains.two:delete() listeners.two:delete() commit()"
      assert.truthy(labs.eventually(60, function() return gateway.curl("http://127.0.0.1:" .. other).code == 7 end))
      instance:eval 'upstreams.app:add("127.0.0.1:1")'
      assert.equal(2, #gateway.gate(instance).upstreams[1].servers)
      instance:eval 'upstreams.app:drain("127.0.0.1:1")'
      for _ = 1, 5 do assert.equal(200, gateway.curl(url .. "/small").status) end
      instance:eval 'upstreams.app:remove("127.0.0.1:1")'
      assert.equal(1, #gateway.gate(instance).upstreams[1].servers)
      ends_well()
   end)

   live("refuses what cannot be, and goes on as it was", function()
      start "sk_msg"
      local c = instance:client()
      local function refused(code, text)
         local reply = c:eval(code, { seconds = 60 })
         assert.is_false(reply.ok)
         assert.truthy(reply.error:find(text, 1, true), reply.error)
      end
      refused('tw.chain("two", tw.listen("two", "http://127.0.0.1:' .. origin.port .. '"), function() end)', "in use")
      -- When the second listener fails the first one is at the new chain already.
      refused('chains.web:remove "tag"; listeners.web:set { requests = 5 }; tw.chain("two", tw.listen("two", "http://'
         .. '127.0.0.1:' .. origin.port .. '"), function() end)', "in use")
      assert.equal("tag one\n", gateway.curl(url .. "/tag").body)
      refused('local f = io.stdout; chains.web:replace("tag", function(msg) f:write "x" end)', 'upvalue "f"')
      refused('chains.web:scale("nope", 2)', 'no function "nope"; there are: hello, tag, aside')
      refused('tw.listen("lone", "http://127.0.0.1:1")', "no chain takes what comes to listener lone")
      refused('upstreams.app:remove("127.0.0.1:' .. origin.port .. '")', "its last server")
      refused("listeners.web:delete()", "listener web is not there any more")
      c:close()
      assert.equal("tag one\n", gateway.curl(url .. "/tag").body)
      assert.equal(1, #gateway.gate(instance).services)
      ends_well()
   end)

   live("gives up rights in all its threads", function()
      start "sk_msg"
      local state = privilege.state(instance.pid, posix.slurp, function(dir)
         local list = {}
         for name in require("lfs").dir(dir) do
            if name:find "^%d" then list[#list + 1] = name end
         end
         return list
      end)
      assert.truthy(state.no_new and state.filtered)
      local names = {}
      for _, c in ipairs(privilege.kept(privilege.needs "drop")) do names[c.name] = true end
      for _, name in ipairs(privilege.names(state.capabilities)) do
         assert.truthy(names[name] or name == "CAP_NET_BIND_SERVICE", name)
      end
      for _, pid in ipairs(gateway.pids(instance, "web")) do
         local status = posix.slurp(("/proc/%d/status"):format(pid))
         assert.equal("0000000000000000", status:match "CapPrm:%s*(%x+)")
         assert.is_not.equal("0", status:match "Uid:%s*(%d+)")
         assert.equal("2", status:match "Seccomp:%s*(%d)")
      end
      ends_well()
   end)

   -- A session of their own would make them a group of their own to the scheduler, and yielding to them would be vain.
   live("keeps its processes in its session, but not at its terminal", function()
      local dir = shell.directory()
      port = gateway.port()
      shell.write(dir .. "/s.lua", SCRIPT:format(port, origin.port, "rings"))
      local terminal = labs.spawn(("script -qefc 'TIDEWAY_RUN_DIR=%s %s run --name spec %s/s.lua' /dev/null"):format(dir,
         shell.binary, dir))
      assert.truthy(terminal:says("ready:", 60), terminal:read "out")
      local function processes()
         local list = {}
         for line in shell.run("ps -eo comm:20,sid,pgid,tty --no-headers").out:gmatch "[^\n]+" do
            local comm, session, group, tty = line:match "^(%S+)%s+(%d+)%s+(%d+)%s+(%S+)"
            list[#list + 1] = { comm = comm, session = session, group = group, tty = tty }
         end
         return list
      end
      local pid = require("tideway.json").decode(shell.tideway("ls --json", "TIDEWAY_RUN_DIR=" .. dir).out)[1].pid
      local engine, seen = shell.run(("ps -o sid=,pgid=,tty= -p %d"):format(pid)).out, {}
      local session, group, tty = engine:match "(%d+)%s+(%d+)%s+(%S+)"
      assert.is_not.equal("?", tty)
      for _, p in ipairs(processes()) do
         if p.session == session and p.comm:find "^tideway%-" then
            seen[p.comm] = (seen[p.comm] or 0) + 1
            assert.equal("?", p.tty, p.comm)
            assert.is_not.equal(group, p.group, p.comm)
         end
      end
      os.execute("kill " .. pid)
      assert.equal(0, terminal:wait(60), terminal:read "out")
      terminal:stop()
      shell.remove(dir)
      assert.equal(3, seen["tideway-worker"]) -- hello, tag, the one behind the route
      assert.equal(1, seen["tideway-helper"])
   end)

   live("shows itself to top, metrics, graph and call", function()
      start "sk_msg"
      for _ = 1, 3 do gateway.curl(url .. "/tag") end
      local r = instance:tideway "top spec --once --interval 0.2"
      for _, text in ipairs { "web", "hello", "tag", "app", "chain web: requests 3 = answered 3" } do
         assert.truthy(r.out:find(text, 1, true), r.out)
      end
      r = instance:tideway "metrics spec"
      assert.truthy(r.out:find('tideway_service_requests_total{chain="web"} 3', 1, true), r.out)
      assert.truthy(r.out:find('tideway_function_instances{chain="web",function="tag"} 1', 1, true))
      assert.truthy(r.out:find("tideway_running 1", 1, true))
      r = instance:tideway "graph spec --interval 0.2"
      assert.truthy(r.out:find "hello" and r.out:find "app", r.out)
      assert.is_nil(r.out:find("sk_msg, sk_msg", 1, true), r.out)
      r = instance:tideway "call --name spec upstreams"
      assert.truthy(r.out:find("127.0.0.1:" .. origin.port, 1, true), r.out)
      r = instance:tideway "call --name spec help upstreams"
      assert.equal(0, r.code, r.err)
      ends_well()
   end)

   live("does not start with an address that is taken, and says which", function()
      local dir = shell.directory()
      shell.write(dir .. "/s.lua", SCRIPT:format(origin.port, origin.port, "inline"))
      local r = shell.tideway(("run --name taken %s/s.lua"):format(dir), "env TIDEWAY_RUN_DIR=" .. dir)
      shell.remove(dir)
      assert.equal(2, r.code, r.out)
      assert.truthy(r.err:find("127.0.0.1:" .. origin.port, 1, true) or r.err:find "web", r.err)
   end)

   live("is audited on all transports", function()
      port = gateway.port()
      local dir = shell.directory()
      shell.write(dir .. "/s.lua", SCRIPT:format(port, gateway.port(), "sk_msg"))
      local r = shell.tideway(("audit --json --requests 50 --path /x %s/s.lua"):format(dir))
      shell.remove(dir)
      assert.equal(0, r.code, r.err)
      local results = require("tideway.json").decode(r.out)
      assert.equal(3, #results)
      for _, result in ipairs(results) do
         assert.equal("built in", result.origin)
         assert.equal(1, result.all.messages)
         assert.equal(4, #result.rows)
         assert.truthy(result.payload_bytes >= 128)
         if result.traced then
            -- A request and its answer on both sides of the gate; strace may come in the middle of a call.
            assert.truthy(result.rows[1].external >= 3.5 and result.rows[1].external < 6, result.rows[1].external)
            assert.equal(0, result.rows[2].external)
         end
      end
      assert.equal(0, results[1].hop.switches)
   end)

   for _, case in ipairs {
      { "udp", "--dns a.test", "datagram", "NOERROR" }, { "udp", "--bytes 300", "datagram", "answered" },
      { "tcp", "--dns a.test", "query", "NOERROR" }, { "tcp", "--path /x", "request", "200" },
   } do
      local protocol, options, what, status = unpack(case)

      live(("is audited where it takes %s, with %s"):format(protocol, options), function()
         local dir = shell.directory()
         shell.write(dir .. "/s.lua", ([[
local tw = require "tideway"
tw.options { gates = 1 }
local nf = tw.nf("look", function() return { message = function() end, data = function() end } end)
tw.chain("l4", tw.listen("l4", "%s://127.0.0.1:%d"), nf {},
   tw.upstream("servers", { protocol = "%s", servers = { "127.0.0.1:%d" }%s }))
]]):format(protocol, gateway.port(), protocol, gateway.port(),
            -- The origin comes later than the first check.
            protocol == "tcp" and ", check = { every = 1 }" or ""))
         local r = shell.tideway(("audit --json --requests 40 %s %s/s.lua"):format(options, dir), nil, 60)
         shell.remove(dir)
         assert.equal(0, r.code, r.err)
         local results = require("tideway.json").decode(r.out)
         assert.equal(3, #results)
         for _, result in ipairs(results) do
            assert.same({ protocol, what, "built in", 2 }, { result.protocol, result.what, result.origin, #result.rows })
            assert.truthy(result.status[status] or result.status[tonumber(status)])
            if protocol == "udp" then
               assert.same({ 1, 1, 0 }, { result.all.messages, result.rows[2].messages, result.copied_bytes })
               assert.equal(status == "answered" and 300 or 24, result.payload_bytes)
               assert.truthy(result.datagrams >= 4)
            elseif what == "query" then
               -- Short pieces are copied into messages: the query of 24 bytes and its answer, each behind its length.
               assert.same({ 24, 52, 2 }, { result.payload_bytes, result.copied_bytes, result.rows[2].messages })
            end
            if result.traced then
               assert.truthy(result.rows[1].external >= 3.5 and result.rows[1].external < 6, result.rows[1].external)
               assert.equal(0, result.rows[2].external)
            end
         end
      end)
   end

   live("is not audited by datagrams that nobody answers, and says what to do", function()
      local dir = shell.directory()
      shell.write(dir .. "/s.lua", ([[
local tw = require "tideway"
tw.chain("mute", tw.listen("mute", "udp://127.0.0.1:%d"), function(msg) return msg:drop "no" end)
]]):format(gateway.port()))
      local r = shell.tideway(("audit --transport inline --requests 40 %s/s.lua"):format(dir), nil, 60)
      shell.remove(dir)
      assert.equal(1, r.code)
      assert.truthy(r.err:find("6 datagrams were not answered within 1000 ms each", 1, true), r.err)
   end)

   live("answers requests that came in time when it is late itself", function()
      start("inline", function(listen)
         return ([[
local tw = require "tideway"
tw.options { gates = 1 }
tw.chain("web", tw.listen("web", "http://127.0.0.1:%d", { idle = 2 }), function(msg) return msg:respond(200, nil, "x") end)
   :pin { worker = "inline" }
]]):format(listen)
      end)
      local clients, GET = {}, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
      for _ = 1, 20 do -- all of it sooner than they have rested for too long
         for i = 1, 200 do clients[i] = upstream.client(port) end
         local began = posix.now()
         for _, c in ipairs(clients) do c:send(GET) end
         for _, c in ipairs(clients) do assert.equal(200, c:response().status) end
         process.terminate(instance.pid, 19) -- SIGSTOP
         for _, c in ipairs(clients) do c:send(GET) end
         if posix.now() - began < 1.5e9 then break end
         process.terminate(instance.pid, 18)
         for _, c in ipairs(clients) do c:close() end
      end
      posix.poll({}, 2500)
      process.terminate(instance.pid, 18) -- SIGCONT
      for _, c in ipairs(clients) do
         local r = c:response()
         assert.equal(200, r and r.status)
         c:close()
      end
   end)

   live("goes on answering when bodies that are to be whole do not fit into its pool together", function()
      start("inline", function(listen, server)
         return ([[
local tw = require "tideway"
local whole = tw.nf("whole", function()
   return { response_body = "whole", response = function(msg) msg:set_header("X-By", "whole") end }
end)
local app = tw.upstream("app", { servers = { "127.0.0.1:%d" } })
tw.chain("web", tw.listen("web", "http://127.0.0.1:%d"), whole {}, app):pin { worker = "inline", pool_mb = 8 }
]]):format(server, listen)
      end)
      local load = labs.spawn(("wrk -t 1 -c 64 -d 300 --timeout 60s %s/large"):format(url))
      local function answered() return gateway.service(instance, "web").status["2xx"] end
      assert.is_true(labs.eventually(60, function() return answered() >= 60 end), answered() .. " answers")
      load:stop()
      assert.is_true(labs.eventually(60, function()
         return gateway.gate(instance).services[1].pool.used == 0
      end))
   end)
end)
