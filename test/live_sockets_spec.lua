-- SPDX-License-Identifier: BSD-3-Clause
-- Chains pinned to sockets and cgroups, with real sockets: what their NFs decide happens, and is counted exactly.
-- Runs alone: packet sockets see what others send over loopback.

local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local hook_chain = require "tideway.hook.chain"
local posix = require "tideway.posix"
local shell = require "test.shell"
local sockets = require "test.support.sockets"
local stats = require "tideway.stats"

local C = abi.C
local missing = posix.geteuid() ~= 0 and "needs root to load programs" or nil

local function fresh()
   engine.close()
   C.tw_stats_close()
   assert(C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
end

-- What applications send: the first byte says what is to become of it.
local letter = tw.header("letter", "u8 first; u8 second; u8 third")
local udp_letter = tw.header("udp_letter", "be16 sport; be16 dport; be16 length; be16 sum; u8 first")
local D, R = ("D"):byte(), ("R"):byte()

describe("chains on sockets:", function()
   local hooks, open = {}, {}

   before_each(fresh)
   after_each(function()
      for _, hook in ipairs(hooks) do
         hook:detach()
         hook:close()
      end
      for _, s in ipairs(open) do s:close() end
      hooks, open = {}, {}
      fresh()
   end)

   local function keep(...)
      for _, s in ipairs { ... } do open[#open + 1] = s end
      return ...
   end

   local function live(name, f) it(name, missing and function() pending(missing) end or f) end

   -- NFs of these functions, running where `place` says.
   local function pin(place, ...)
      local list = {}
      for i, f in ipairs { ... } do list[i] = tw.nf("nf" .. i, function() return { packet = f } end) {} end
      local chain = tw.chain("c" .. #hooks, {}, unpack(list)):pin(place)
      local hook = hook_chain.load(chain)
      hooks[#hooks + 1] = hook
      hook:attach()
      require("tideway.plan").publish_names(chain, "spec")
      C.tw_stats().chain[chain.index].hook = 1
      return hook
   end

   -- What a chain counted: { received, sent, dropped }, and its drops by reason.
   local function counted(hook)
      hook:refresh()
      for _, c in ipairs(stats.snapshot(C.tw_stats()).chains) do
         if c.name == hook.chain.name then
            assert.equal(0, c.difference)
            local drops = {}
            for _, nf in ipairs(c.nfs) do
               for _, d in ipairs(nf.drops) do drops[d.reason] = d.count end
            end
            return { c.rx, c.sent, c.dropped }, drops
         end
      end
   end

   live("socket_filter: what a UDP socket gets", function()
      local receiver, sender = keep(sockets.udp(), sockets.udp())
      local hook = pin({ socket_filter = receiver.fd }, function(pkt)
         local l = pkt:header(udp_letter, 0)
         if not l then return end
         if l.first == D then return pkt:drop "unwanted" end
      end)
      for _, text in ipairs { "one", "Dropped", "two", "Drop", "three" } do sender:send_to(receiver.port, text) end
      assert.equal("one", receiver:receive())
      assert.equal("two", receiver:receive())
      assert.equal("three", receiver:receive())
      assert.is_nil(receiver:receive(30))
      local counts, drops = counted(hook)
      assert.same({ 5, 3, 2 }, counts)
      assert.same({ unwanted = 2 }, drops)
      hook:detach()
      sender:send_to(receiver.port, "Dropped no more")
      assert.equal("Dropped no more", receiver:receive())
   end)

   live("sk_msg: what is sent through the sockets of a map, refused and redirected", function()
      local map = tw.sockmap { name = "senders", entries = 4 }
      local hook = pin({ sk_msg = map }, function(pkt)
         local l = pkt:header(letter, 0)
         if not l then return end
         if l.first == D then return pkt:drop "unwanted" end
         if l.first == R then return map:redirect(1) end
      end)
      local client, server = keep(sockets.pair())
      local other, far = keep(sockets.pair())
      map:set(0, client)
      map:set(1, other)
      assert.equal(4, client:send "sent")
      assert.equal("sent", server:receive())
      assert.equal(8, client:send "Redirect")
      assert.equal("Redirect", far:receive())
      assert.is_nil(server:receive(30))
      local n, errno = client:send "Dropped"
      assert.is_nil(n)
      assert.equal(13, errno) -- EACCES
      -- The kernel asks no program any more, until the socket comes anew.
      assert.is_nil((client:send "more"))
      map:del(0)
      map:set(0, client)
      assert.equal(5, client:send "after")
      assert.equal("after", server:receive())
      local counts, drops = counted(hook)
      assert.same({ 4, 3, 1 }, counts)
      assert.same({ unwanted = 1 }, drops)
   end)

   live("sk_skb verdict: what the sockets of a map receive, dropped and redirected", function()
      local map = tw.sockmap { name = "receivers", entries = 4 }
      local hook = pin({ sk_skb = map }, function(pkt)
         local l = pkt:header(letter, 0)
         if not l then return end
         if l.first == D then return pkt:drop "unwanted" end
         if l.first == R then return map:redirect(1) end
      end)
      local client, server = keep(sockets.pair())
      local other, far = keep(sockets.pair())
      map:set(0, server)
      map:set(1, other)
      client:send "through"
      assert.equal("through", server:receive())
      client:send "Dropped"
      assert.is_nil(server:receive(50))
      client:send "Redirect"
      assert.equal("Redirect", far:receive())
      client:send "after"
      assert.equal("after", server:receive())
      local counts, drops = counted(hook)
      assert.same({ 4, 3, 1 }, counts)
      assert.same({ unwanted = 1 }, drops)
   end)

   live("stream_parser and stream_verdict: records of a stream, a verdict each", function()
      local map = tw.sockhash { name = "streams", key = "u32", entries = 4 }
      local parser = pin({ sk_skb = map, at = "stream_parser" }, function(pkt)
         local l = pkt:header(letter, 0)
         if l then pkt.record = l.second - 48 end -- its length, as a digit
      end)
      local verdict = pin({ sk_skb = map, at = "stream_verdict" }, function(pkt)
         local l = pkt:header(letter, 0)
         if l and l.first == D then return pkt:drop "unwanted" end
      end)
      local client, server = keep(sockets.pair())
      map:set(7, server)
      client:send "a5x"
      assert.is_nil(server:receive(30))
      client:send "yz"
      assert.equal("a5xyz", server:receive())
      client:send "D4xy"
      assert.is_nil(server:receive(30))
      client:send "b3x"
      assert.equal("b3x", server:receive())
      local counts, drops = counted(verdict)
      assert.same({ 3, 2, 1 }, counts)
      assert.same({ unwanted = 1 }, drops)
      assert.same({ 3, 3, 0 }, (counted(parser)))
   end)

   live("sk_lookup: connections get another listener, or are refused", function()
      local map = tw.sockmap { name = "listeners", entries = 1 }
      local hook = pin({ sk_lookup = true }, function(pkt)
         if pkt.local_port == 4567 then
            map:assign(0)
            return pkt:pass()
         end
         if pkt.local_port == 4568 then return pkt:drop "closed" end
      end)
      local listener = keep(sockets.listener())
      assert.is_nil(sockets.connect(4567))
      map:set(0, listener)
      assert.truthy(keep(sockets.connect(4567)))
      assert.truthy(keep(sockets.connect(listener.port)))
      local before, drops = counted(hook)
      assert.is_nil(drops.closed)
      assert.is_nil(sockets.connect(4568))
      local after
      after, drops = counted(hook)
      assert.is_true(drops.closed >= 1)
      assert.equal(after[3] - before[3], drops.closed)
      hook:detach()
      assert.is_nil(sockets.connect(4567))
   end)

   live("sk_reuseport: which socket of a group gets a packet", function()
      local map = tw.sockmap { name = "group", entries = 2 }
      local first = keep(sockets.udp { reuseport = true })
      local second, sender = keep(sockets.udp { port = first.port, reuseport = true }, sockets.udp())
      local hook = pin({ sk_reuseport = first.fd }, function(pkt)
         local l = pkt:header(udp_letter, 0)
         if not l then return end
         if l.first == D then return pkt:drop "unwanted" end
         if l.first == R then map:select(1) else map:select(0) end
      end)
      map:set(0, first)
      map:set(1, second)
      for _, text in ipairs { "one", "Right", "Dropped", "two", "Right again" } do
         sender:send_to(first.port, text)
      end
      assert.same({ "one", "two" }, { first:receive(), first:receive() })
      assert.same({ "Right", "Right again" }, { second:receive(), second:receive() })
      assert.is_nil(first:receive(30))
      local counts, drops = counted(hook)
      assert.same({ 5, 4, 1 }, counts)
      assert.same({ unwanted = 1 }, drops)
   end)

   live("cgroup: packets of its sockets, in and out", function()
      local mounted = shell.run "findmnt -n -o TARGET -t cgroup2".out:match "[^\n]+"
      if not mounted then return pending "cgroup2 is not mounted" end
      local path = ("%s/tw-sockets-%d"):format(mounted, posix.getpid())
      assert.equal(0, shell.run("mkdir " .. path).code)
      finally(function() shell.run("rmdir " .. path) end)
      local function ping(options)
         return shell.run(("sh -c 'echo $$ >%s/cgroup.procs; exec ping -n -i 0.05 -W 0.3 %s'"):format(path, options))
      end
      for _, direction in ipairs { "ingress", "egress" } do
         local reason = "short_" .. direction
         local hook = pin({ cgroup = path, direction = direction }, function(pkt)
            local ip = pkt:ipv4()
            if ip and (ip.src == 0x7f000007 or ip.dst == 0x7f000007) then return pkt:drop(reason) end
         end)
         assert.equal(0, ping("-c 3 127.0.0.1").code)
         assert.not_equal(0, ping("-c 2 127.0.0.7").code)
         local counts, drops = counted(hook)
         assert.same({ [reason] = 2 }, drops)
         assert.equal(2, counts[3])
         hook:detach()
         assert.equal(0, ping("-c 1 127.0.0.7").code)
      end
   end)

   local W = ("W"):byte()
   local function rewrite(pkt)
      local l = pkt:header(letter, 0)
      if l and l.first == W then l.second = 33 end -- "!"
   end

   live("sk_msg and sk_skb change what is sent and received, long messages too", function()
      local sent, received = tw.sockmap { name = "sent", entries = 2 }, tw.sockmap { name = "received", entries = 2 }
      local client, server = keep(sockets.pair())
      local out = pin({ sk_msg = sent }, rewrite)
      sent:set(0, client)
      local long = "W." .. ("x"):rep(1500)
      for _, text in ipairs { "W.1", "n.1", long } do
         assert.equal(#text, client:send(text))
         assert.equal(text:gsub("W%.", "W!"), (server:receive()))
      end
      assert.same({ 3, 3, 0 }, (counted(out)))
      out:detach()
      sent:del(0)
      local into = pin({ sk_skb = received }, rewrite)
      received:set(0, server)
      for _, text in ipairs { "W.1", "n.1", long } do
         client:send(text)
         assert.equal(text:gsub("W%.", "W!"), (server:receive()))
      end
      assert.same({ 3, 3, 0 }, (counted(into)))
   end)

   live("NFs are replaced under the sockets, counters go on", function()
      local receiver, sender = keep(sockets.udp(), sockets.udp())
      local first = keep(sockets.udp { reuseport = true })
      local second = keep(sockets.udp { port = first.port, reuseport = true })
      local group = tw.sockmap { name = "group2", entries = 2 }
      local filter = pin({ socket_filter = receiver.fd }, function(pkt) return pkt:drop "all" end)
      local to_first = function() group:select(0) end
      local chosen = pin({ sk_reuseport = first.fd }, to_first)
      group:set(0, first)
      group:set(1, second)
      sender:send_to(receiver.port, "lost")
      sender:send_to(first.port, "to first")
      assert.is_nil(receiver:receive(30))
      assert.equal("to first", first:receive())
      local function nf(f) return { tw.nf("new", function() return { packet = f } end) {} } end
      assert(filter:replace(nf(function(pkt) return pkt:pass() end)))
      assert(chosen:replace(nf(function() group:select(1) end)))
      sender:send_to(receiver.port, "comes")
      sender:send_to(first.port, "to second")
      assert.equal("comes", receiver:receive())
      assert.equal("to second", second:receive())
      local counts, drops = counted(filter)
      assert.same({ 2, 1, 1 }, counts)
      assert.same({ all = 1 }, drops)
      assert.same({ 2, 2, 0 }, (counted(chosen)))
   end)

   live("NFs are replaced under the sockets of a map, which keep their places", function()
      local map = tw.sockmap { name = "kept", entries = 2 }
      local client, server = keep(sockets.pair())
      map:set(0, client) -- before there is a program
      local hook = pin({ sk_msg = map }, function(pkt)
         local l = pkt:header(letter, 0)
         if l then l.first = D end
      end)
      client:send "one"
      assert.equal("Dne", server:receive())
      assert(hook:replace { tw.nf("new", function() return { packet = function(pkt)
         local l = pkt:header(letter, 0)
         if l then l.first = R end
      end } end) {} })
      client:send "two"
      assert.equal("Rwo", server:receive())
      assert.same({ 2, 2, 0 }, (counted(hook)))
   end)

   live("socket_filter: frames of a packet socket, longer than what is seen of them", function()
      local receiver, sender, all = keep(sockets.udp(), sockets.udp(), sockets.packets())
      local wanted = receiver.port
      local hook = pin({ socket_filter = all.fd }, function(pkt)
         local ip, l4 = pkt:ipv4(), pkt:udp()
         if not ip or not l4 or l4.dst_port ~= wanted then return pkt:drop "others" end
      end)
      while all:receive(0) do end -- what came before there was a filter
      sender:send_to(receiver.port, ("x"):rep(900))
      assert.equal(14 + 20 + 8 + 900, #(all:receive() or ""))
      sender:send_to(sender.port, "not wanted")
      sender:send_to(receiver.port, "wanted")
      local got
      repeat got = all:receive() until not got or #got < 900
      assert.equal("wanted", got and got:sub(-6))
      local counts, drops = counted(hook)
      assert.is_true(drops.others >= 1)
      assert.equal(counts[1], counts[2] + counts[3])
   end)

   live("a packet is as long as it is, of which a socket filter sees the start", function()
      local receiver, sender = keep(sockets.udp(), sockets.udp())
      local deep = tw.header("deep", "u8 at")
      local hook = pin({ socket_filter = receiver.fd },
         function(pkt)
            if pkt.len > 1008 then return pkt:drop "too_long" end
         end,
         function(pkt)
            local h = pkt:header(deep, 250)
            if h and h.at == D then return pkt:drop "unwanted" end
         end)
      local function text(n, byte) return ("."):rep(242) .. (byte or ".") .. ("."):rep(n - 243) end
      for _, t in ipairs { text(500), text(500, "D"), text(1000), text(1001), "short" } do
         sender:send_to(receiver.port, t)
      end
      assert.equal(500, #receiver:receive())
      assert.equal(1000, #receiver:receive())
      assert.equal("short", receiver:receive())
      local counts, drops = counted(hook)
      assert.same({ 5, 3, 2 }, counts)
      assert.same({ too_long = 1, unwanted = 1 }, drops)
   end)
end)
