-- SPDX-License-Identifier: BSD-3-Clause
-- Listeners, upstream groups and chains of messages as scripts declare them: what is taken, what is refused and how.

local ffi = require "ffi"
local abi = require "tideway.abi"
local gate_diff = require "tideway.gate.diff"
local listen = require "tideway.gate.listen"
local model = require "tideway.model"
local options = require "tideway.options"
local spec = require "tideway.gate.spec"
local transfer = require "tideway.transfer"
local tw = require "tideway"
local upstream = require "tideway.gate.upstream"
local validate = require "tideway.gate.validate"

local C = abi.C

local pass = tw.nf("pass", function() return { message = function() end } end)
local packets = tw.nf("packets", function() return { packet = function() end } end)

local function refused(pattern, fn)
   local ok, err = pcall(fn)
   assert.is_false(ok, "it was not refused")
   assert.truthy(tostring(err):find(pattern), tostring(err))
   -- The place in the script, not one in the library.
   assert.truthy(tostring(err):find "gate_declare_spec" or tostring(err):find "^[^:]+:%d+: chain", tostring(err))
end

local function web(...) return tw.listen("web", "http://127.0.0.1:28001", ...) end
local function app(...) return tw.upstream("app", ... or { servers = { "127.0.0.1:28002" } }) end

describe("declarations of the gate", function()
   before_each(function()
      model.reset()
      model.dry = true
   end)
   after_each(function()
      model.reset()
      model.dry = false
      options.gates, options.gate_cpus, options.drain = nil, nil, 10
   end)

   describe("tw.listen", function()
      it("takes IPv4, IPv6, localhost, and protocols", function()
         for text, want in pairs {
            ["http://0.0.0.0:80"] = { "http", 4, "\0\0\0\0", 80 },
            ["http://10.1.2.3:8080/"] = { "http", 4, "\10\1\2\3", 8080 },
            ["tcp://[::]:5000"] = { "tcp", 6, ("\0"):rep(16), 5000 },
            ["udp://[2001:db8::1]:53"] = { "udp", 6, "\x20\x01\x0d\xb8" .. ("\0"):rep(11) .. "\1", 53 },
            ["http://localhost:81"] = { "http", 4, "\127\0\0\1", 81 },
         } do
            model.reset()
            local l = tw.listen("l", text)
            assert.same(want, { l.protocol, l.address.family, l.address.bytes, l.address.port })
         end
      end)

      it("refuses what is no address, and says why", function()
         for text, why in pairs {
            ["0.0.0.0:80"] = 'does not say what is spoken there; write "http://0.0.0.0:80"',
            ["https://0.0.0.0:443"] = "TLS is not there yet",
            ["ftp://0.0.0.0:21"] = 'no protocol "ftp"; there are http, tcp and udp',
            ["http://example.org:80"] = "is a name, and names are resolved for servers only",
            ["http://0.0.0.0"] = "has no port",
            ["http://0.0.0.0:0"] = "0 is no port",
            ["http://0.0.0.0:65536"] = "65536 is no port",
            ["http://::1:80"] = "stands in brackets",
            ["http://[::1]"] = "has no port",
            ["http://256.0.0.1:80"] = "256",
            ["http://10.0.0.1:80/path"] = "an address has no path",
            ["http://unix:/run/app.sock"] = "sockets in the file system are for servers",
            ["http://[fe80::1%nosuch]:80"] = 'no network interface "nosuch"',
         } do
            refused(why:gsub("%p", "%%%0"), function() tw.listen("l", text) end)
         end
         refused("an address is a text", function() tw.listen("l", 80) end)
      end)

      it("checks options, their ranges and their names", function()
         local l = web { idle = 10, head_bytes = 4096, connections = 5 }
         assert.equal(10, l.options.idle)
         assert.equal(60, l.options.head_timeout)
         model.reset()
         refused('no option "idel"; did you mean idle', function() web { idel = 1 } end)
         refused("idle is %-1; it is a number from 0.01 to 86400 seconds", function() web { idle = -1 } end)
         refused("head_bytes is 1.5; it is a whole number", function() web { head_bytes = 1.5 } end)
         refused('proxy is "yes"; it is true or false', function() web { proxy = "yes" } end)
         refused("options are a table", function() web(5) end)
         assert.equal(0, #model.listeners)
      end)

      it("refuses names and addresses that are taken", function()
         web()
         refused('the name "web" is taken by the listener declared at', function()
            tw.listen("web", "http://127.0.0.1:9")
         end)
         refused("is that of listener web", function() tw.listen("b", "tcp://127.0.0.1:28001") end)
         assert.truthy(tw.listen("c", "udp://127.0.0.1:28001"))
         refused("the name is a word", function() tw.listen("a b", "http://127.0.0.1:9") end)
         refused("the name is a word", function() tw.listen(("x"):rep(60), "http://127.0.0.1:9") end)
      end)

      it("tells the gate what it was told", function()
         local l = tw.listen("six", "http://[::1]:28003", { idle = 1.5, only_v6 = false, proxy = true })
         local out = ffi.new "struct tw_listener_spec"
         listen.fill(l, model.state(l), 3, out)
         assert.equal("six", ffi.string(out.name))
         assert.equal(6, out.address.family)
         assert.equal(28003, out.address.port)
         assert.equal(("\0"):rep(15) .. "\1", ffi.string(out.address.bytes, 16))
         assert.same({ 3, 1500, 0, 1, 60000 }, { out.service, out.idle_ms, out.only_v6, out.proxy, out.head_ms })
      end)
   end)

   describe("tw.upstream", function()
      it("takes servers with weights and names", function()
         local g = app { servers = { "10.0.0.1:80", { "[::1]:81", weight = 3, name = "b" } }, balance = "least",
            check = { path = "/health", every = 2 } }
         assert.same({ "10.0.0.1:80", "b" }, { g.servers[1].name, g.servers[2].name })
         local out = ffi.new "struct tw_group_spec"
         upstream.fill(g, model.state(g), out)
         assert.same({ 2, 3, tonumber(C.TW_BALANCE_LEAST), 2000 },
            { out.n_servers, out.server[1].weight, out.balance, out.check_ms })
         assert.equal("/health", ffi.string(out.check_path))
      end)

      it("refuses what makes no group", function()
         refused("servers is a list", function() app {} end)
         refused("servers is a list", function() app { servers = {} } end)
         refused("its options are a table", function() tw.upstream("app") end)
         refused('"back end" is no name of a host', function() app { servers = { "back end:80" } } end)
         refused("has no port", function() app { servers = { "10.0.0.1" } } end)
         refused('server 10.0.0.1:80: there is no option "weigth"; did you mean weight', function()
            app { servers = { { "10.0.0.1:80", weigth = 2 } } }
         end)
         refused('there are two servers "10.0.0.1:80"', function()
            app { servers = { "10.0.0.1:80", "10.0.0.1:80" } }
         end)
         refused('balance is "best"; it can be "round_robin", "least", "hash"', function()
            app { servers = { "10.0.0.1:80" }, balance = "best" }
         end)
         refused('no option "ballance"; did you mean balance', function()
            app { servers = { "10.0.0.1:80" }, ballance = "hash" }
         end)
         refused('check: path is "health"; it is a path that begins with /', function()
            app { servers = { "10.0.0.1:80" }, check = { path = "health" } }
         end)
         refused("weight is 70000; it is a whole number from 0 to 65535", function()
            app { servers = { { "10.0.0.1:80", weight = 70000 } } }
         end)
         refused("speaks tcp and one before it http", function()
            app { servers = { "http://10.0.0.1:80", "tcp://10.0.0.1:81" } }
         end)
         local many = {}
         for i = 1, C.TW_SERVERS_MAX + 1 do many[i] = ("10.0.0.1:%d"):format(i) end
         refused("64 servers are the limit", function() app { servers = many } end)
      end)

      it("moves into functions as its name and number", function()
         local group = app()
         local there = transfer.unpack(transfer.pack({ group }, "it"))[1]
         assert.same({ "app", 0 }, { there.name, there.index })
      end)
   end)

   describe("tw.chain behind a listener", function()
      it("is a chain of messages", function()
         local c = tw.chain("web", web(), pass {}, function() end, app())
         assert.same({ "pass", "function2" }, c.stage_names)
         assert.equal("sk_msg", c.pinned.worker)
         assert.equal(0, #model.chains)
         validate.check()
      end)

      it("refuses NFs of packets, and chains of packets NFs of messages", function()
         refused("NF packets takes packets %(packet%), and behind a listener there are messages", function()
            tw.chain("web", web(), packets {})
         end)
         local lan = tw.port("lan", "net_null0")
         refused("NF pass takes messages .*, and this chain has packets", function() tw.chain("p", lan, pass {}) end)
         refused("upstream app takes messages", function() tw.chain("p", lan, packets {}, app()) end)
         refused("a chain takes messages or packets, not both", function()
            tw.chain("p", { tw.listen("l2", "http://127.0.0.1:28009"), lan }, pass {})
         end)
         refused("port lan .* takes packets; a chain behind a listener ends in an upstream group", function()
            tw.chain("q", tw.listen("l3", "http://127.0.0.1:28010"), pass {}, lan)
         end)
         refused("workers take messages, and this chain has packets", function()
            tw.chain("r", lan, packets {}):pin { worker = "sk_msg" }
         end)
      end)

      it("refuses what cannot be reached, and what is taken twice", function()
         local w = web()
         refused("it has neither a function nor an upstream group", function() tw.chain("web", w) end)
         refused("stands before other functions", function() tw.chain("web", w, app(), pass {}) end)
         tw.chain("a", w, pass {})
         tw.chain("b", w, pass {})
         local ok, err = pcall(validate.check)
         assert.is_false(ok)
         assert.truthy(err:find "gate_declare_spec.*chain b takes what comes to listener web .* and so does chain a", err)
         model.reset()
         web()
         ok, err = pcall(validate.check)
         assert.is_false(ok)
         assert.truthy(err:find "no chain takes what comes to listener web", err)
      end)

      it("gives groups the protocol of what ends in them, and refuses two", function()
         local db = tw.upstream("db", { servers = { "10.0.0.1:5432" } })
         tw.chain("t", tw.listen("t", "tcp://127.0.0.1:28004"), db)
         validate.check()
         assert.equal("tcp", db.protocol)
         tw.chain("h", web(), db)
         local ok, err = pcall(validate.check)
         assert.is_false(ok)
         assert.truthy(err:find "for http and ends in upstream db, whose servers speak tcp", err)
         refused("speaks tcp and those before it http", function()
            tw.chain("x", { tw.listen("x", "http://127.0.0.1:28005"), tw.listen("y", "tcp://127.0.0.1:28006") }, db)
         end)
      end)
   end)

   describe("pin", function()
      local c
      before_each(function() c = tw.chain("web", web(), pass {}, function() end, app()) end)

      it("takes transports, instances, CPUs and limits", function()
         c:pin { worker = "rings", instances = { pass = 3 }, cpu = 0, memory_mb = 32, cpu_percent = 50 }
         assert.same({ pass = 3 }, c.pinned.instances)
         assert.same({ ["*"] = 0 }, c.pinned.cpu)
         assert.same({ "rings", 32, 50 }, { c.pinned.worker, c.pinned.memory_mb, c.pinned.cpu_percent })
         validate.check()
      end)

      it("refuses the rest", function()
         refused('worker is "threads"; it can be "sk_msg", "rings", "inline"', function() c:pin { worker = "threads" } end)
         refused('there is no function "pas"; did you mean pass', function() c:pin { instances = { pas = 2 } } end)
         refused("instances is 33; it is a whole number from 1 to 32", function() c:pin { instances = 33 } end)
         refused("instances of pass is 0", function() c:pin { instances = { pass = 0 } } end)
         refused('no option "core"', function() c:pin { core = 1 } end)
         refused("lcores take packets", function() c:pin { lcore = 1 } end)
         refused("instances is for workers", function() c:pin { worker = "inline", instances = 2 } end)
      end)

      it("scales functions, and forgets the numbers of those that are gone", function()
         c:scale("pass", 4)
         assert.equal(4, c.pinned.instances.pass)
         refused('no function "nope"; there are: pass, function2', function() c:scale("nope", 2) end)
         refused("it is a whole number from 1 to 32", function() c:scale("pass", 0) end)
         c:remove "pass"
         validate.check()
         assert.same({}, c.pinned.instances)
         c:pin { worker = "inline" }
         refused("there are no instances to scale", function() c:scale("function2", 2) end)
      end)

      it("refuses places and options that there are not, also of changes", function()
         refused('insert: there is no "behind"', function() c:insert(pass {}, { behind = "pass" }) end)
         refused("at is 4; it can be 1 to 3", function() c:insert(pass {}, { at = 4 }) end)
         c:insert(pass {}, { at = 1 })
         assert.same({ "pass", "pass#2", "function2" }, c.stage_names)
         refused("options are a table, not 5", function() model.listeners[1]:set(5) end)
         refused("options are a table, not nil", function() model.groups[1]:set() end)
      end)

      it("refuses CPUs that there are not", function()
         c:pin { cpu = { pass = 1000 } }
         refused("function pass is pinned to CPU 1000, which does not exist here", validate.check)
         c:pin { cpu = 1001 }
         refused("each function is pinned to CPU 1001", validate.check)
         c:pin {}
         tw.options { gate_cpus = { 0, 1002 } }
         refused("a thread of the gate is pinned to CPU 1002", validate.check)
      end)

      it("counts the instances of all chains", function()
         c:pin { instances = 32 }
         local d = tw.chain("d", tw.listen("d", "http://127.0.0.1:28007"), pass {}, pass {}, function() end)
         d:pin { instances = 32 }
         local ok, err = pcall(validate.check)
         assert.is_false(ok)
         assert.truthy(err:find "160 instances of functions; 128 are the limit", err)
      end)
   end)

   describe("functions", function()
      it("are told apart by what they take, and routes by their order", function()
         local w = web()
         local c = tw.chain("web", w, tw.nf("both", function()
            return { message = function() end, response = function() end, body = "whole", on_fault = "retry",
               sticky = "connection", readonly = true }
         end) {}, function() end)
         c:route("login", pass {})
         c:route("error", pass {})
         local out = ffi.new "struct tw_service_spec"
         spec.fill(c, model.state(c), out)
         local f = out["function"]
         assert.same({ 4, -1 }, { out.n_functions, out.group })
         assert.equal(bit.bor(C.TW_TAKES_MESSAGE, C.TW_TAKES_RESPONSE, C.TW_TAKES_WHOLE), f[0].takes)
         assert.same({ tonumber(C.TW_FAULT_RETRY), 2, 1 }, { f[0].on_fault, f[0].sticky, f[0].readonly })
         assert.same({ 0, 0, 1, 1 }, { f[0].aside, f[1].aside, f[2].aside, f[3].aside })
         assert.same({ 12, 12 }, { f[0].routes, f[3].routes })
         assert.same({ "both", "function2", "login", "error" }, c.stage_names)
         refused('has two functions "login"', function() c:route("login", pass {}) end)
         refused("the name is a word", function() c:route("a b", pass {}) end)
      end)

      it("have policies and words of their own", function()
         refused('on_fault is "fail" or "retry" or "bypass", not drop', function()
            tw.nf("x", function() return { message = function() end, on_fault = "drop" } end) {}
         end)
         refused('body is "whole", not all', function()
            tw.nf("x", function() return { message = function() end, body = "all" } end) {}
         end)
         refused('sticky is "connection" or "exchange", not yes', function()
            tw.nf("x", function() return { message = function() end, sticky = "yes" } end) {}
         end)
      end)

      it("that only answer belong to HTTP", function()
         tw.chain("t", tw.listen("t", "tcp://127.0.0.1:28008"), tw.nf("back", function()
            return { response = function() end }
         end) {}, app())
         local ok, err = pcall(validate.check)
         assert.is_false(ok)
         assert.truthy(err:find "NF back has response, which is for HTTP", err)
      end)
   end)

   describe("options of the gate", function()
      it("are checked", function()
         tw.options { gates = 2, gate_cpus = { 0, 0 }, drain = 0.5 }
         assert.same({ 2, 0.5 }, { options.gates, options.drain })
         refused("gates is a whole number from 1 to 16, not 0", function() tw.options { gates = 0 } end)
         refused("gate_cpus is a list of CPU numbers", function() tw.options { gate_cpus = 1 } end)
         refused("drain is a number of seconds from 0 to 3600", function() tw.options { drain = -1 } end)
      end)
   end)

   describe("differences", function()
      -- The version that runs, and what fn makes of a draft of it, as lines.
      local function lines(fn)
         local base = model.running
         local draft = model.draft(base)
         local ok, list = model.with(draft, function()
            fn()
            validate.check()
            return gate_diff.of(base, draft)
         end)
         assert.is_true(ok, list)
         local out = {}
         for i, action in ipairs(list) do out[i] = action.text end
         return out
      end

      local c, group
      before_each(function()
         group = app { servers = { "127.0.0.1:28002", "127.0.0.1:28003" } }
         c = tw.chain("web", web(), pass {}, function() end, group)
         validate.check()
      end)

      it("are none when nothing is", function() assert.same({}, lines(function() end)) end)

      it("are instances, servers, groups", function()
         assert.same({ "change chain web: pass: 3 instances instead of 1" }, lines(function() c:scale("pass", 3) end))
         assert.same({ "change upstream app: 127.0.0.1:28002 has weight 0 instead of 1, + 127.0.0.1:28004, "
            .. "- 127.0.0.1:28003" }, lines(function()
            group:drain("127.0.0.1:28002"):add("127.0.0.1:28004"):remove "127.0.0.1:28003"
         end))
         assert.same({ "add upstream b with 1 server(s)", "remove upstream app",
            "change chain web: to b instead of app" }, lines(function()
            c:to(tw.upstream("b", { servers = { "127.0.0.1:28009" } }))
            group:delete()
         end))
      end)

      it("swap a function in its place, and start a chain of another shape anew", function()
         assert.same({ "change chain web: ~ pass" }, lines(function() c:replace("pass", pass {}) end))
         assert.same({ "start chain web anew, 3 workers, sk_msg: web -> pass -> pass#2 -> function2 -> app" },
            lines(function() c:insert(pass {}, { after = "pass" }) end))
         assert.same({ "start chain web anew, inline in the gate: web -> pass -> function2 -> app" },
            lines(function() c:pin { worker = "inline" } end))
      end)

      it("keep a listener of the same address, and open one of another", function()
         assert.same({ "change listener web (http://127.0.0.1:28001)" }, lines(function()
            require("tideway.model").find(model.listeners, "name", "web"):set { idle = 3 }
         end))
      end)
   end)
end)
