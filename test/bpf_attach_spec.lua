-- SPDX-License-Identifier: BSD-3-Clause
-- Programs on real hooks with real traffic: a veth pair into a namespace, sockets on loopback.
local abi = require "tideway.abi"
local bpf = require "tideway.bpf"
local lab = require "test.support.lab"
local posix = require "tideway.posix"
local asm = require "tideway.bpf.asm"
local shell = require "test.shell"
local sockets = require "test.support.sockets"

local C = abi.C

local missing = lab.missing "tc"
local function live(name, f)
   it(name, missing and function() pending(missing) end or f)
end

local pid = posix.getpid()
local ns, here, there = ("twbpf-%d"):format(pid), ("twb%da"):format(pid % 100000), ("twb%db"):format(pid % 100000)
local INSTANCE = ("spec-%d"):format(pid)

local function sh(command)
   local r = shell.run(command)
   assert(r.code == 0, command .. ": " .. r.err)
   return r.out
end

local loaded = {}

-- A program that counts its packets in a map and returns a value.
local function program(kind, verdict, o)
   o = o or {}
   local a = asm.new()
   if o.counter then
      a:map("r1", o.counter, 0)
      a:mov("r2", 1)
      a:atomic_add(64, "r1", 0, "r2")
   end
   a:mov("r0", verdict)
   a:exit()
   local h = bpf.link.hooks[kind]
   local p = assert(bpf.program.load(a:spec { name = o.name or "spec", type = h.type, attach_type = h.attach_type }))
   loaded[#loaded + 1] = p
   return p
end

local function new_counter(o)
   o = o or {}
   o.kind, o.value, o.entries, o.name = "array", "u64", 1, o.name or "hits"
   return assert(bpf.map.new(o))
end

-- Attaches a program that returns a verdict to `here`.
local function attach(hook, verdict, o)
   o = o or {}
   o.hook, o.interface, o.program = hook, here, o.program or program(hook, verdict, o)
   o.counter, o.name = nil, nil
   return bpf.link.attach(o)
end

local function ping() return shell.run(("ip netns exec %s ping -c 1 -W 0.3 -i 0.1 10.77.1.1"):format(ns)).code == 0 end

-- Runs Lua in another engine process, which dies of SIGKILL at its end.
local function in_process_that_is_killed(text)
   local dir = shell.directory()
   shell.write(dir .. "/child_spec.lua", ([[
      describe("child", function() it("attaches", function()
         local bpf, asm = require "tideway.bpf", require "tideway.bpf.asm"
         local function program(kind, verdict)
            local a = asm.new()
            a:mov("r0", verdict)
            a:exit()
            local h = bpf.link.hooks[kind]
            return assert(bpf.program.load(a:spec { name = "child", type = h.type, attach_type = h.attach_type }))
         end
         %s
         os.execute "kill -9 $PPID"
      end) end)]]):format(text))
   local r = shell.run(("sh -c '%s test %s/child_spec.lua; exit $?' 2>/dev/null"):format(shell.binary, dir))
   shell.remove(dir)
   assert(r.code == 137, r.out .. r.err)
end

describe("BPF hooks", function()
   setup(function()
      if missing then return end
      sh(([[ip netns add %s && ip link add %s type veth peer name %s netns %s &&
         ip addr add 10.77.1.1/24 dev %s && ip link set %s up &&
         ip -n %s addr add 10.77.1.2/24 dev %s && ip -n %s link set %s up && ip -n %s link set lo up]]):format(ns,
         here, there, ns, here, here, ns, there, ns, there, ns))
      assert(lab.eventually(60, ping), "the lab does not work")
   end)
   teardown(function()
      if missing then return end
      shell.run(("ip link del %s; ip netns del %s; rm -rf /sys/fs/bpf/tideway/%s"):format(here, ns, INSTANCE))
      shell.run "rmdir /sys/fs/bpf/tideway"
   end)
   after_each(function()
      for _, p in ipairs(loaded) do p:close() end
      loaded = {}
   end)

   describe("xdp", function()
      live("drops, passes and counts; replaced in place; gone when detached", function()
         local hits = new_counter()
         local link = assert(attach("xdp", 1))
         assert.equal("native", link.mode)
         assert.is_false(ping())
         assert(link:replace(program("xdp", 2, { counter = hits })))
         assert.is_true(lab.eventually(60, ping))
         assert.is_true(hits:get(0) >= 1ULL)
         assert.equal(link.program.id, link:info().program)
         assert(link:detach())
         assert.is_nil(sh("ip link show dev " .. here):find("xdp", 1, true))
         assert.is_true(lab.eventually(60, ping))
         hits:free()
      end)

      live("generic where asked, or where the driver cannot, and says so", function()
         local link = assert(attach("xdp", 1, { mode = "generic" }))
         assert.equal("generic", link.mode)
         assert.is_false(ping())
         link:detach()
         link = assert(bpf.link.attach { hook = "xdp", interface = "lo", program = program("xdp", 2) })
         assert.equal("generic", link.mode)
         assert.truthy(link.fell_back:find("not supported", 1, true))
         link:detach()
         local no, err = bpf.link.attach { hook = "xdp", interface = "lo", mode = "native",
            program = program("xdp", 2) }
         assert.is_nil(no)
         assert.truthy(err:find("interface lo cannot run XDP in native mode", 1, true))
      end)

      live("never takes another program's place: of a link, or without one", function()
         local other = assert(bpf.link.attach { hook = "xdp", interface = here,
            program = program("xdp", 2, { name = "theirs" }) })
         local no, err = attach("xdp", 1)
         assert.is_nil(no)
         assert.truthy(err:find(("already runs program %d (theirs) in native mode"):format(other.program.id), 1, true))
         assert.truthy(err:find("bpftool link detach id " .. other:info().id, 1, true))
         assert.is_nil((attach("xdp", 1, { mode = "generic" })))
         other:detach()
         if not shell.has "bpftool" then return end
         local theirs = program("xdp", 2, { name = "old_style" })
         sh(("bpftool net attach xdp id %d dev %s"):format(theirs.id, here))
         no, err = attach("xdp", 1)
         assert.is_nil(no)
         assert.truthy(err:find("(old_style)", 1, true))
         assert.truthy(err:find(("ip link set dev %s xdp off"):format(here), 1, true))
         assert.truthy(sh("ip link show dev " .. here):find("prog/xdp", 1, true))
         sh("bpftool net detach xdp dev " .. here)
      end)

      live("ends with its process", function()
         in_process_that_is_killed(("assert(bpf.link.attach { hook = 'xdp', interface = %q, program = "
            .. "program('xdp', 1) })"):format(here))
         assert.is_true(lab.eventually(60, ping))
      end)

      live("persists, is adopted by the next run with its maps, and replaced only when it differs", function()
         local hits = new_counter { persist = INSTANCE }
         local link = assert(bpf.link.attach { hook = "xdp", interface = here, persist = INSTANCE,
            program = program("xdp", 2, { counter = hits }) })
         assert.is_nil(link.adopted)
         assert.is_true(lab.eventually(60, ping))
         link:release()
         hits:free()
         assert.is_true(lab.eventually(60, ping))

         hits = new_counter { persist = INSTANCE }
         assert.is_true(hits.adopted)
         local before = hits:get(0)
         assert.is_true(before >= 2ULL)
         link = assert(bpf.link.attach { hook = "xdp", interface = here, persist = INSTANCE,
            program = program("xdp", 2, { counter = hits }) })
         assert.equal("same", link.adopted)
         assert.equal("native", link.mode)
         link:release()
         local others = new_counter()
         link = assert(bpf.link.attach { hook = "xdp", interface = here, persist = INSTANCE,
            program = program("xdp", 2, { counter = others }) })
         assert.equal("replaced", link.adopted) -- the same code over another map
         link:release()
         others:free()
         link = assert(bpf.link.attach { hook = "xdp", interface = here, persist = INSTANCE,
            program = program("xdp", 1, { counter = hits }) })
         assert.equal("replaced", link.adopted)
         assert.is_false(ping())
         assert.is_true(hits:get(0) > before)
         assert(link:detach())
         hits:unpersist()
         hits:free()
         assert.is_false(shell.run("test -e /sys/fs/bpf/tideway/" .. INSTANCE).code == 0)
         assert.is_true(lab.eventually(60, ping))
      end)

      live("a pinned map of another type is refused, not thrown away", function()
         local hits = new_counter { persist = INSTANCE }
         hits:set(0, 7)
         hits:free()
         local no, err = bpf.map.new { kind = "array", name = "hits", value = "i64", entries = 1, persist = INSTANCE }
         assert.is_nil(no)
         assert.truthy(err:find("u64", 1, true) and err:find("i64", 1, true), err)
         no, err = bpf.map.new { kind = "array", name = "hits", value = "u64", entries = 2, persist = INSTANCE }
         assert.is_nil(no)
         assert.truthy(err:find("1 entries", 1, true), err)
         hits = new_counter { persist = INSTANCE }
         assert.is_true(hits:get(0) == 7ULL)
         hits:unpersist()
         hits:free()
      end)
   end)

   describe("tc", function()
      local function filters(direction) return sh(("tc filter show dev %s %s"):format(here, direction)) end
      local function clsact() return sh("tc qdisc show dev " .. here):find("clsact", 1, true) ~= nil end

      after_each(function() shell.run(("tc qdisc del dev %s clsact"):format(here)) end)

      live("ingress and egress; clsact comes and goes with us", function()
         for _, hook in ipairs { "tc_ingress", "tc_egress" } do
            local hits = new_counter()
            assert.is_false(clsact())
            local link = assert(attach(hook, 2))
            assert.is_true(clsact())
            assert.is_false(ping())
            assert(link:replace(program(hook, 0, { counter = hits, name = "counts" })))
            assert.is_true(lab.eventually(60, ping))
            assert.is_true(hits:get(0) >= 1ULL)
            assert.truthy(link:info().name:find("counts", 1, true))
            assert(link:detach())
            assert.is_false(clsact())
            assert.is_true(lab.eventually(60, ping))
            hits:free()
         end
      end)

      -- A filter as any other program puts one there.
      local function foreign(priority, verdict)
         local p = program("tc_ingress", verdict, { name = "theirs" })
         assert.equal(0, C.tw_bpf_tc_attach(C.tw_bpf_ifindex(here), false, p.fd, 1, priority, false))
      end

      live("leaves others' filters and qdisc alone", function()
         sh(("tc qdisc add dev %s clsact"):format(here))
         sh(("tc filter add dev %s ingress pref 50 u32 match u32 0 0 flowid 1:1"):format(here))
         local no, err = attach("tc_ingress", 0)
         assert.is_nil(no)
         assert.truthy(err:find("priority 50 of " .. here .. " holds a u32 filter", 1, true), err)
         foreign(45, 2)
         assert.is_false(ping())
         local link = assert(attach("tc_ingress", 0, { priority = 40 }))
         assert.is_true(lab.eventually(60, ping)) -- ours runs first
         link:detach()
         assert.is_false(ping())
         assert.truthy(filters("ingress"):find("u32", 1, true))
         assert.truthy(filters("ingress"):find("theirs", 1, true))
         assert.is_true(clsact())
      end)

      live("keeps clsact while somebody uses it", function()
         local link = assert(attach("tc_ingress", 0))
         sh(("tc filter add dev %s egress pref 7 u32 match u32 0 0 flowid 1:1"):format(here))
         link:detach()
         assert.is_true(clsact())
         assert.truthy(filters("egress"):find("u32", 1, true))
      end)

      live("two of ours at one priority stand side by side", function()
         local a, b = new_counter(), new_counter()
         local one = assert(attach("tc_ingress", 0, { counter = a }))
         local two = assert(attach("tc_ingress", -1, { counter = b })) -- runs first, and gives on
         assert.is_true(lab.eventually(60, ping))
         assert.is_true(a:get(0) > 0ULL and b:get(0) > 0ULL)
         one:detach()
         assert.truthy(two:info())
         two:detach()
         assert.is_false(clsact())
         a:free()
         b:free()
      end)

      live("what a killed process left is taken over, what somebody put there is not removed", function()
         in_process_that_is_killed(("assert(bpf.link.attach { hook = 'tc_ingress', interface = %q, program = "
            .. "program('tc_ingress', 2) })"):format(here))
         assert.is_false(ping()) -- the kernel keeps the filter
         local link = assert(attach("tc_ingress", 0))
         assert.is_number(link.took_over)
         assert.is_true(lab.eventually(60, ping))
         local theirs = program("tc_ingress", 0, { name = "theirs" })
         C.tw_bpf_tc_attach(link.ifindex, false, theirs.fd, link.handle, link.priority, true)
         local ok, err = link:replace(program("tc_ingress", 2))
         assert.is_nil(ok)
         assert.truthy(err:find("(theirs) stands in the place of our filter", 1, true), err)
         link:detach()
         assert.truthy(filters("ingress"):find("theirs", 1, true))
      end)

      live("persists and is adopted", function()
         local o = { hook = "tc_egress", interface = here, persist = INSTANCE, program = program("tc_egress", 0) }
         local link = assert(bpf.link.attach(o))
         link:release()
         assert.truthy(filters("egress"):find("direct-action", 1, true))
         link = assert(bpf.link.attach(o))
         assert.equal("same", link.adopted)
         link:release()
         o.program = program("tc_egress", 2)
         link = assert(bpf.link.attach(o))
         assert.equal("replaced", link.adopted)
         assert.is_false(ping())
         link:release()
         link = assert(bpf.link.adopt(o))
         assert.equal("same", link.adopted)
         assert(link:detach())
         assert.is_true(lab.eventually(60, ping))
         assert.is_false(clsact())
         assert.is_nil((bpf.link.adopt(o)))
      end)
   end)

   describe("sockets", function()
      local open = {}
      local function keep(...)
         for _, s in ipairs { ... } do open[#open + 1] = s end
         return ...
      end
      after_each(function()
         for _, s in ipairs(open) do s:close() end
         open = {}
      end)

      live("socket_filter: what the socket gets, until it is detached", function()
         local receiver, sender = keep(sockets.udp(), sockets.udp())
         local link = assert(bpf.link.attach { hook = "socket_filter", socket = receiver.fd,
            program = program("socket_filter", 0) })
         sender:send_to(receiver.port, "one")
         assert.is_nil(receiver:receive(50))
         assert(link:replace(program("socket_filter", 65535)))
         sender:send_to(receiver.port, "two")
         assert.equal("two", receiver:receive())
         local no, err = bpf.link.attach { hook = "socket_filter", socket = receiver.fd,
            program = program("socket_filter", 0) }
         assert.is_nil(no)
         assert.truthy(err:find("has a filter, which is not ours", 1, true), err)
         assert(link:detach())
         sender:send_to(receiver.port, "three")
         assert.equal("three", receiver:receive())
         no, err = bpf.link.attach { hook = "socket_filter", socket = receiver.fd, program = program("xdp", 0) }
         assert.is_nil(no)
         assert.truthy(err:find("is not of type socket_filter", 1, true), err)
      end)

      live("sk_reuseport picks the socket of the group", function()
         local first = keep(sockets.udp { reuseport = true })
         local second, sender = keep(sockets.udp { port = first.port, reuseport = true }, sockets.udp())
         local array = assert(bpf.map.new { kind = "reuseport_sockarray", entries = 2 })
         array:set(0, first)
         array:set(1, second)
         local function picks(index)
            local a = asm.new()
            a:store(32, "r10", -4, index)
            a:map("r2", array)
            a:mov("r3", "r10")
            a:add("r3", -4)
            a:mov("r4", 0)
            a:call(82) -- sk_select_reuseport
            a:mov("r0", 1)
            a:exit()
            local p = assert(bpf.program.load(a:spec { name = "pick", type = "sk_reuseport" }))
            loaded[#loaded + 1] = p
            return p
         end
         local link = assert(bpf.link.attach { hook = "sk_reuseport", socket = first.fd, program = picks(1) })
         sender:send_to(first.port, "x")
         assert.equal("x", second:receive())
         assert(link:replace(picks(0)))
         sender:send_to(first.port, "y")
         assert.equal("y", first:receive())
         assert(link:detach())
         array:free()
      end)

      live("sk_lookup gives a port's connections to another listener", function()
         local listener = keep(sockets.listener())
         local map = assert(bpf.map.new { kind = "sockmap", entries = 1 })
         map:set(0, listener)
         local a = asm.new()
         a:mov("r6", "r1")
         a:load(32, "r2", "r1", 60) -- bpf_sk_lookup.local_port
         a:jump("ne", "r2", 4567, "out")
         a:map("r1", map)
         a:store(32, "r10", -4, 0)
         a:mov("r2", "r10")
         a:add("r2", -4)
         a:call(1)
         a:jump("eq", "r0", 0, "out")
         a:mov("r7", "r0")
         a:mov("r1", "r6")
         a:mov("r2", "r7")
         a:mov("r3", 0)
         a:call(124) -- sk_assign
         a:mov("r1", "r7")
         a:call(86) -- sk_release
         a:label "out"
         a:mov("r0", 1)
         a:exit()
         local p = assert(bpf.program.load(a:spec { name = "lookup", type = "sk_lookup" }))
         loaded[#loaded + 1] = p
         assert.is_nil(sockets.connect(4567))
         local link = assert(bpf.link.attach { hook = "sk_lookup", program = p })
         local connected = sockets.connect(4567)
         assert.truthy(connected)
         keep(connected)
         link:detach()
         assert.is_nil(sockets.connect(4567))
         map:free()
      end)

      live("sk_msg decides on what is sent, stream_verdict on what is received", function()
         local map = assert(bpf.map.new { kind = "sockmap", name = "conns", entries = 2 })
         local client, server = keep(sockets.pair())
         local link = assert(bpf.link.attach { hook = "sk_msg", map = map, program = program("sk_msg", 0) })
         map:set(0, client)
         local n, errno = client:send "refused"
         assert.is_nil(n)
         assert.equal(13, errno)
         assert(link:replace(program("sk_msg", 1)))
         map:del(0) -- a socket keeps the program it was added under
         map:set(0, client)
         assert.equal(4, client:send "sent")
         assert.equal("sent", server:receive())
         local no, err = bpf.link.attach { hook = "sk_msg", map = map, program = program("sk_msg", 1) }
         assert.is_nil(no)
         assert.truthy(err:find("map conns runs program", 1, true), err)
         assert(link:detach())
         map:clear()

         local hits = new_counter()
         local receive = assert(bpf.map.new { kind = "sockmap", name = "inbound", entries = 2 })
         link = assert(bpf.link.attach { hook = "sk_skb_verdict", map = receive,
            program = program("sk_skb_verdict", 0, { counter = hits }) })
         receive:set(0, server)
         client:send "dropped"
         assert.is_nil(server:receive(50))
         assert.is_true(hits:get(0) == 1ULL)
         assert(link:detach())
         receive:free()
         hits:free()
         map:free()
      end)

      live("stream_parser and stream_verdict on one map", function()
         local hits = new_counter()
         local map = assert(bpf.map.new { kind = "sockhash", name = "streams", key = "u32", entries = 2 })
         local parser_code = asm.new()
         parser_code:load(32, "r0", "r1", 0) -- __sk_buff.len: the whole is one message
         parser_code:exit()
         local parser = assert(bpf.program.load(parser_code:spec { name = "parse", type = "sk_skb",
            attach_type = "stream_parser" }))
         local one = assert(bpf.link.attach { hook = "stream_parser", map = map, program = parser })
         local two = assert(bpf.link.attach { hook = "stream_verdict", map = map,
            program = program("stream_verdict", 1, { counter = hits }) })
         local client, server = keep(sockets.pair())
         map:set(5, server)
         client:send "through"
         assert.equal("through", server:receive())
         assert.is_true(hits:get(0) == 1ULL)
         assert(two:detach())
         assert(one:detach())
         map:free()
         hits:free()
         parser:close()
      end)

      local root_of_cgroups = ""
      for _, path in ipairs { "/sys/fs/cgroup/unified", "/sys/fs/cgroup" } do
         if posix.slurp(path .. "/cgroup.procs") and posix.slurp(path .. "/cgroup.controllers") then
            root_of_cgroups = path
         end
      end

      live("cgroup_ingress and cgroup_egress: the packets of its sockets", function()
         if root_of_cgroups == "" then pending "cgroup2 is not mounted" end
         local path = ("%s/twbpf-%d"):format(root_of_cgroups, pid)
         sh("mkdir " .. path)
         local function pings()
            local command = "sh -c 'echo $$ >%s/cgroup.procs; exec ping -c 1 -W 0.3 10.77.1.2'"
            return shell.run(command:format(path)).code == 0
         end
         assert.is_true(lab.eventually(60, pings))
         for _, hook in ipairs { "cgroup_ingress", "cgroup_egress" } do
            local link = assert(bpf.link.attach { hook = hook, cgroup = path, program = program(hook, 0) })
            assert.is_false(pings())
            assert.is_true(shell.run("ping -c 1 -W 0.3 10.77.1.2").code == 0) -- we are outside
            assert(link:replace(program(hook, 1)))
            assert.is_true(lab.eventually(60, pings))
            assert(link:detach())
            assert.is_true(lab.eventually(60, pings))
         end
         sh("rmdir " .. path)
         local no, err = bpf.link.attach { hook = "cgroup_egress", cgroup = path,
            program = program("cgroup_egress", 0) }
         assert.is_nil(no)
         assert.equal(("cgroup_egress: %s: No such file or directory"):format(path), err)
      end)
   end)

   describe("lwt", function()
      live("a route of ours runs the program; others' routes stay", function()
         local hits = new_counter()
         local function pings() return shell.run("ping -c 1 -W 0.3 10.88.0.2").code == 0 end
         sh(("ip -n %s addr add 10.88.0.2/32 dev lo && ip route add 10.88.0.0/16 via 10.77.1.2"):format(ns))
         assert.is_true(lab.eventually(60, pings))
         local no, err = bpf.link.attach { hook = "lwt_xmit", to = "10.88.0.0/16", via = "10.77.1.2", interface = here,
            program = program("lwt_xmit", 2) }
         assert.is_nil(no)
         assert.truthy(err:find("there is a route to 10.88.0.0/16 of this metric, which is not ours", 1, true), err)
         local link = assert(bpf.link.attach { hook = "lwt_xmit", to = "10.88.0.2/32", via = "10.77.1.2",
            interface = here, program = program("lwt_xmit", 2, { counter = hits }) })
         assert.is_false(pings())
         assert.is_true(hits:get(0) >= 1ULL)
         assert.truthy(sh("ip route show 10.88.0.2"):find("encap bpf xmit spec", 1, true))
         assert(link:replace(program("lwt_xmit", 0)))
         assert.is_true(lab.eventually(60, pings))
         assert(link:detach())
         assert.equal("", sh "ip route show 10.88.0.2")
         assert.is_true(lab.eventually(60, pings))
         for _, hook in ipairs { "lwt_in", "lwt_out" } do
            link = assert(bpf.link.attach { hook = hook, to = "10.88.0.2/32", via = "10.77.1.2",
               program = program(hook, hook == "lwt_out" and 2 or 0) })
            assert.equal(hook == "lwt_in", pings())
            assert(link:detach())
         end
         sh "ip route del 10.88.0.0/16"
         hits:free()
      end)
   end)

   it("refuses a hook it does not know", function()
      local no, err = bpf.link.attach { hook = "xpd" }
      assert.is_nil(no)
      assert.equal("'xpd' is not a hook", err)
   end)
end)
