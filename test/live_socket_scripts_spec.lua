-- SPDX-License-Identifier: BSD-3-Clause
-- Scripts that pin chains to the sockets of programs that run, as a user writes them: `tideway run` finds the sockets
-- of this process, whose packets go through the chain.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local posix = require "tideway.posix"
local shell = require "test.shell"
local sockets = require "test.support.sockets"

local missing = posix.geteuid() ~= 0 and "needs root to load programs" or nil

describe("a script on sockets:", function()
   local open, running = {}, nil

   after_each(function()
      if running then running:stop() end
      for _, s in ipairs(open) do s:close() end
      open, running = {}, nil
   end)

   local function keep(...)
      for _, s in ipairs { ... } do open[#open + 1] = s end
      return ...
   end

   local function live(name, f) it(name, missing and function() pending(missing) end or f) end

   -- Runs a script, in which PID is this process and the others are numbers.
   local function run(text, numbers)
      numbers.PID = posix.getpid()
      running = instances.start { script = 'local tw = require "tideway"\n' .. (text:gsub("%$(%u+)", numbers)) }
   end

   -- Received, sent, dropped, in the document that the run ends with.
   local function counted()
      local result = running:stop()
      assert.equal(0, result.code, result.err)
      local chain = result.counters.chains[1]
      assert.equal(0, chain.difference)
      return { chain.rx, chain.sent, chain.dropped }
   end

   local LETTER = [[
      local letter = tw.header("letter", "u8 first")
      local udp_letter = tw.header("udp_letter", "be16 sport; be16 dport; be16 length; be16 sum; u8 first")
      local D, R = ("D"):byte(), ("R"):byte()
      local function nf(name, f) return tw.nf(name, function() return { packet = f } end) {} end
   ]]

   live("socket_filter of a UDP socket, found by its port", function()
      local receiver, sender = keep(sockets.udp(), sockets.udp())
      run(LETTER .. [[
         tw.chain("c", {}, nf("only", function(pkt)
            local l = pkt:header(udp_letter, 0)
            if l and l.first == D then return pkt:drop "unwanted" end
         end)):pin { socket_filter = tw.bpf.socket { udp = $PORT } } ]], { PORT = receiver.port })
      for _, text in ipairs { "one", "Dropped", "two" } do sender:send_to(receiver.port, text) end
      assert.same({ "one", "two" }, { receiver:receive(), receiver:receive() })
      assert.is_nil(receiver:receive(30))
      assert.same({ 3, 2, 1 }, counted())
      sender:send_to(receiver.port, "Dropped no more")
      assert.equal("Dropped no more", receiver:receive())
   end)

   live("sk_reuseport of a group of sockets", function()
      local first = keep(sockets.udp { reuseport = true })
      local second, sender = keep(sockets.udp { port = first.port, reuseport = true }, sockets.udp())
      run(LETTER .. [[
         local group = tw.sockmap { name = "group", entries = 2 }
         group:set(0, tw.bpf.socket { pid = $PID, fd = $FIRST })
         group:set(1, tw.bpf.socket { pid = $PID, fd = $SECOND })
         assert(#tw.bpf.sockets { udp = $PORT } == 2)
         tw.chain("c", {}, nf("pick", function(pkt)
            local l = pkt:header(udp_letter, 0)
            if not l then return end
            if l.first == D then return pkt:drop "unwanted" end
            if l.first == R then group:select(1) else group:select(0) end
         end)):pin { sk_reuseport = tw.bpf.socket { udp = $PORT } } ]],
         { PORT = first.port, FIRST = first.fd, SECOND = second.fd })
      for _, text in ipairs { "one", "Right", "Dropped", "two" } do sender:send_to(first.port, text) end
      assert.same({ "one", "two" }, { first:receive(), first:receive() })
      assert.equal("Right", second:receive())
      assert.is_nil(first:receive(30))
      assert.same({ 4, 3, 1 }, counted())
   end)

   live("sk_msg and sk_skb of connections", function()
      for place, sends_back in pairs { sk_msg = false, sk_skb = true } do
         local client, server = keep(sockets.pair())
         run(LETTER .. [[
            local map = tw.sockmap { name = "connections", entries = 2 }
            tw.chain("c", {}, nf("only", function(pkt)
               local l = pkt:header(letter, 0)
               if l and l.first == R then l.first = D end
               if l and l.first == D and pkt.len > 5 then return pkt:drop "unwanted" end
            end)):pin { $PLACE = map }
            map:set(0, tw.bpf.socket { tcp = $PORT, remote = $REMOTE }) ]],
            { PLACE = place, PORT = sends_back and server.port or client.port,
               REMOTE = sends_back and client.port or server.port })
         client:send "sent"
         assert.equal("sent", server:receive())
         client:send "Right"
         assert.equal("Dight", server:receive())
         client:send "Dropped"
         assert.is_nil(server:receive(30))
         assert.same({ 3, 2, 1 }, counted())
      end
   end)

   live("sk_lookup in a network namespace, for a listener of a program", function()
      local listener = keep(sockets.listener())
      run(LETTER .. [[
         local map = tw.sockmap { name = "listeners", entries = 1 }
         map:set(0, tw.bpf.socket { tcp = $PORT })
         tw.chain("c", {}, nf("steer", function(pkt)
            if pkt.local_port == 4569 then
               map:assign(0)
               return pkt:pass()
            end
         end)):pin { sk_lookup = true } ]], { PORT = listener.port })
      assert.truthy(keep(sockets.connect(4569)))
      assert.truthy(keep(sockets.connect(listener.port)))
      assert.is_nil(sockets.connect(4570))
      running:stop()
      assert.is_nil(sockets.connect(4569))
   end)

   live("cgroup: what its programs send", function()
      local mounted = shell.run "findmnt -n -o TARGET -t cgroup2".out:match "[^\n]+"
      if not mounted then return pending "cgroup2 is not mounted" end
      local path = ("%s/tw-script-%d"):format(mounted, posix.getpid())
      assert.equal(0, shell.run("mkdir " .. path).code)
      finally(function() shell.run("rmdir " .. path) end)
      run(LETTER .. [[
         tw.chain("c", {}, nf("only", function(pkt)
            local ip = pkt:ipv4()
            if ip and ip.dst == tw.ip4 "127.0.0.9" then return pkt:drop "unwanted" end
         end)):pin { cgroup = "$PATH", direction = "egress" } ]], { PATH = path })
      local function ping(address)
         return shell.run(("sh -c 'echo $$ >%s/cgroup.procs; exec ping -n -i 0.05 -W 0.3 -c 2 %s'"):format(path,
            address)).code
      end
      assert.equal(0, ping "127.0.0.1")
      assert.not_equal(0, ping "127.0.0.9")
      assert.equal(2, counted()[3])
   end)

   live("a socket that is not there is said", function()
      local free = gateway.port() -- none that others get meanwhile, at their ends of connections
      local tw = require "tideway"
      assert.error_matches(function() tw.bpf.socket { udp = free } end, "no UDP socket with port " .. free)
      assert.same({}, tw.bpf.sockets { tcp = free })
      assert.error_matches(function() tw.bpf.socket { pid = posix.getpid(), fd = 999 } end, "descriptor 999 of process")
      assert.error_matches(function() tw.bpf.socket { udp = "53" } end, "udp = 53; it takes")
      assert.error_matches(function() tw.bpf.socket { fd = 3 } end, "pid and fd together")
      assert.error_matches(function() tw.bpf.socket(53) end, "it takes a table")
   end)
end)
