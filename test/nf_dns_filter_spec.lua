-- SPDX-License-Identifier: BSD-3-Clause
-- dns_filter: its parser on good and bad queries, its sets of names, streams cut anywhere, and the NF between dig and
-- dnsmasq, over UDP and TCP.

local abi = require "tideway.abi"
local flow = require "test.support.flow"
local l4 = require "test.support.l4"
local labs = require "test.support.lab"
local names = require "tideway.nf.dns_filter.names"
local query = require "tideway.nf.dns_filter.query"
local streams = require "tideway.nf.dns_filter.stream"
local shell = require "test.shell"
local socket = require "tideway.posix.socket"
local tw = require "tideway"
local upstream = require "test.support.upstream"

local C = abi.C

local function label(text) return string.char(#text) .. text end

local function name_of(text)
   local out = text:gsub("[^.]+", label):gsub("%.", "")
   return out .. "\0"
end

-- A query byte by byte, independent of the code it checks.
local function make(name, kind, o)
   o = o or {}
   return (o.id or "\18\52") .. (o.flags or "\1\0") .. (o.counts or "\0\1\0\0\0\0\0\0") .. (o.raw or name_of(name))
      .. "\0" .. string.char(kind or 1) .. (o.class or "\0\1") .. (o.more or "")
end

-- As it is in a stream.
local function framed(bytes) return string.char(math.floor(#bytes / 256), #bytes % 256) .. bytes end

-- The first message of a stream and what stands behind it; nil: it is not whole.
local function first_of(text)
   local high, low = text:byte(1, 2)
   local len = low and high * 256 + low
   if not len or #text < len + 2 then return nil, text end
   return text:sub(3, len + 2), text:sub(len + 3)
end

local OPT = "\0\0\41\16\0\0\0\128\0\0\0"
local WITH_OPT = "\0\1\0\0\0\0\0\1"

describe("a DNS query", function()
   it("is read", function()
      local q, err = query.read(make("WWW.Example.COM", 28))
      assert.is_nil(err)
      assert.same({ "www.example.com", 28, 1, 3 }, { q.name, q.type, q.class, q.labels })
      q, err = query.read(make("a.b", 1, { counts = WITH_OPT, more = OPT }))
      assert.is_nil(err)
      assert.same({ size = 4096, version = 0, dnssec = true }, q.edns)
      q, err = query.read(make("", 2))
      assert.same({ "", nil }, { q.name, err })
      local longest = ("a"):rep(63) .. "." .. ("b"):rep(63) .. "." .. ("c"):rep(63) .. "." .. ("d"):rep(61)
      q, err = query.read(make(longest))
      assert.same({ longest, nil }, { q.name, err })
   end)

   it("is refused when it is not whole, too long, or something else", function()
      local longer = ("a"):rep(63) .. "." .. ("b"):rep(63) .. "." .. ("c"):rep(63) .. "." .. ("d"):rep(62)
      for _, case in ipairs {
         { make("a.b", 1, { raw = "\1a\192\12" }), query.FORMERR, "compressed" },
         { make("a.b", 1, { raw = "\1a\64b\0" }), query.FORMERR, "unknown kind" },
         { make("a.b", 1, { raw = "\63ab\0" }), query.FORMERR, "cut off" },
         { make(longer), query.FORMERR, "too long" },
         { make("a.b", 1, { counts = "\0\2\0\0\0\0\0\0" }), query.FORMERR, "2 questions" },
         { make("a.b", 1, { counts = "\0\0\0\0\0\0\0\0" }), query.FORMERR, "0 questions" },
         { make("a.b", 1, { more = "x" }), query.FORMERR, "behind the last" },
         { make("a.b", 1, { counts = WITH_OPT }), query.FORMERR, "cut off" },
         { make("a.b", 1, { counts = WITH_OPT, more = OPT:sub(1, -2) }), query.FORMERR, "cut off" },
         { make("a.b", 1, { counts = WITH_OPT, more = "\192" }), query.FORMERR, "cut off" },
         { make("a.b", 1, { counts = "\0\1\0\0\0\0\0\2", more = OPT .. OPT }), query.FORMERR, "two records" },
         { make("a.b", 1, { counts = "\0\1\255\255\0\0\0\0" }), query.FORMERR, "records in a query" },
         { make("a.b", 1, { flags = "\40\0" }), query.NOTIMP, "not a standard" },
         { make("a.b", 1, { flags = "\129\128" }), nil, "response" },
         { "\18\52\1\0", nil, "shorter" }, { "", nil, "shorter" },
      } do
         local _, err, rcode = query.read(case[1])
         assert.matches(case[3], err)
         assert.equal(case[2], rcode)
      end
      local whole = make("a.b", 1, { counts = WITH_OPT, more = OPT })
      for len = 0, #whole - 1 do assert.is_string(select(2, query.read(whole:sub(1, len)))) end
   end)

   it("that was mutated is read or refused, and answered with something that can be read", function()
      math.randomseed(4)
      for _ = 1, 20000 do
         local bytes = make("www.example.com", math.random(255), { counts = WITH_OPT, more = OPT })
         for _ = 1, math.random(4) do
            local at = math.random(#bytes)
            bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + math.random(0, 2))
         end
         local q, err, rcode = query.read(bytes)
         assert.is_true(q ~= nil or (err ~= nil and rcode == nil))
         if q then
            local answer = query.respond(bytes, q, rcode or query.NOERROR)
            assert.equal(bytes:sub(1, 2), answer:sub(1, 2))
            assert.is_true(answer:byte(3) >= 128 and #answer >= 12)
         end
      end
   end)
end)

describe("a set of names", function()
   it("has single names and all below", function()
      local set = names.set()
      for _, text in ipairs { "ads.example", "*.Bad.Example.", "*.com.bad" } do names.add(set, names.parse(text)) end
      for name, is in pairs {
         ["ads.example"] = true, ["x.ads.example"] = false, ["example"] = false, ["bad.example"] = false,
         ["a.bad.example"] = true, ["a.b.c.bad.example"] = true, ["notbad.example"] = false, ["x.com.bad"] = true, [""] = false,
      } do
         assert.equal(is, names.has(set, name), name)
      end
      for _, text in ipairs { "", "*.", "a..b", ".a", "a b", ("x"):rep(64), "*", "a.*.b", ("x."):rep(128) .. "x" } do
         assert.is_nil((names.parse(text)), text)
      end
   end)

   it("reads lists of names and hosts files, and says which line is wrong", function()
      local path, set = os.tmpname(), names.set()
      shell.write(path, "# a list\nads.example\n\n*.bad.example # all\n0.0.0.0 one.example two.example\n"
         .. "127.0.0.1 localhost\n::1 ip6-localhost six.example\n")
      assert.equal(5, names.load(set, path))
      for _, name in ipairs { "ads.example", "x.bad.example", "one.example", "two.example", "six.example" } do
         assert.is_true(names.has(set, name))
      end
      assert.is_false(names.has(set, "localhost"))
      shell.write(path, "fine.example\nnot/fine\n")
      assert.matches(":2: .*not/fine", select(2, names.load(set, path)))
      os.remove(path)
      assert.is_string(select(2, names.load(set, path)))
   end)

   it("costs the same whether it has ten names or many", function()
      -- Look-ups of strings in tables: what is counted is how many there are, not how long they take.
      local set, looks = names.set(), 0
      for i = 1, 50000 do names.add(set, names.parse("*.n" .. i .. ".example")) end
      local below = set.below
      set.below = setmetatable({}, { __index = function(_, name)
         looks = looks + 1
         return below[name]
      end })
      assert.is_true(names.has(set, "a.b.n50000.example"))
      assert.is_true(looks <= 3)
   end)
end)

describe("messages of a stream", function()
   local function opened()
      local all = streams.connections()
      streams.open(all, 1)
      return all, streams.find(all, 1)
   end

   it("are whole, wherever it is cut", function()
      local text = framed(make "a.b") .. framed(("x"):rep(300)) .. framed(make "www.example.com")
      for size = 1, #text do
         local all, c = opened()
         local out, bounds = {}, { [0] = true, [#framed(make "a.b")] = true, [#framed(make "a.b") + 302] = true,
            [#text] = true }
         local sum = 0
         for at = 1, #text, size do
            local whole = assert(streams.take(all, c.asks, text:sub(at, at + size - 1), 4096))
            out[#out + 1], sum = whole, sum + #whole
            assert.is_true(bounds[sum])
         end
         assert.equal(text, table.concat(out))
         assert.equal(0, all.held)
      end
   end)

   it("have a length that can be, which is looked at first", function()
      for bytes, why in pairs {
         ["\0\11"] = "bad_length", ["\0\0"] = "bad_length", [framed(make "a.b") .. "\0\1x"] = "bad_length",
         ["\16\1"] = "too_long", ["\255\255"] = "too_long",
      } do
         local all, c = opened()
         assert.same({ nil, why }, { streams.take(all, c.asks, bytes, 4096) })
         all, c = opened()
         assert.equal("", streams.take(all, c.asks, bytes:sub(1, 1), 4096))
         assert.same({ nil, why }, { streams.take(all, c.asks, bytes:sub(2), 4096) })
      end
      local all, c = opened()
      assert.equal("", streams.take(all, c.asks, "\16\0", 4096))
      assert.equal("", streams.take(all, c.answers, "\255\255", streams.ANSWER_MAX))
   end)

   it("that are not whole take so much memory at most, of so many connections", function()
      local all = streams.connections()
      for i = 1, 10000 do
         streams.open(all, i)
         local c = streams.find(all, i)
         if i % 2 == 0 then
            streams.take(all, c.asks, "\16\0" .. ("x"):rep(4000), 4096)
            streams.take(all, c.answers, "\255\255" .. ("y"):rep(60000), 65535)
         end
         assert.is_true(all.held <= 2 ^ 22 and all.n <= 4000)
         streams.find(all, 1) -- is always in use, and stays
      end
      assert.is_table(streams.find(all, 1))
      assert.is_nil(streams.find(all, 9000)) -- had more to keep than there was room for
      assert.is_table(streams.find(all, 8999)) -- had nothing
      assert.is_nil(streams.find(all, 2001))
      assert.is_false(streams.was_closed(all, 8999))
      streams.close(all, streams.find(all, 8999))
      assert.same({ nil, true, false }, { streams.find(all, 8999), streams.was_closed(all, 8999),
         streams.was_closed(all, 8999 + 256) })
      local n = 0
      while all.oldest do
         streams.forget(all, all.oldest)
         n = n + 1
      end
      assert.is_true(n > 1000)
      assert.same({ 0, 0, false, nil }, { all.n, all.held, all.newest, next(all.of) })
   end)
end)

describe("dns_filter", function()
   local service, app

   local function start(config, transport)
      app = l4.udp()
      local nf = tw.nf.dns_filter(config)
      service = flow.start({ { name = "dns_filter", nf = nf, message = nf.message } }, { protocol = C.TW_LISTEN_UDP,
         servers = { app.port }, transport = transport })
      upstream.group(0, { servers = { app.port }, protocol = C.TW_LISTEN_UDP })
      return nf
   end

   after_each(function()
      local ended = service
      service = nil
      if ended then ended:finish(app) end
   end)

   for _, transport in ipairs { "inline", "sk_msg" } do
      it("answers for blocked names, and counts, by " .. transport, function()
         local nf = start({ block = { "ads.example", "*.bad.example" }, allow = { "good.bad.example" },
            name = "dns_" .. transport }, transport)
         local c = l4.udp_client()
         c:send(make("ADS.example", 1, { counts = WITH_OPT, more = OPT, flags = "\1\16" }))
         assert.equal("\18\52\129\147\0\1\0\0\0\0\0\1" .. name_of "ADS.example" .. "\0\1\0\1"
            .. "\0\0\41\4\208\0\0\128\0\0\0", c:receive())
         c:send(make "x.bad.example")
         assert.equal(3, c:receive():byte(4) % 16)
         local passes = make "good.bad.example"
         c:send(passes)
         assert.equal(passes, app:receive())
         app:send "whatever the resolver says"
         assert.equal("whatever the resolver says", c:receive())
         c:send(make("x", 1, { raw = "\1x\192\12" }))
         assert.equal(1, c:receive():byte(4) % 16)
         c:send "short"
         c:send(make("ads.example", 1, { class = "\0\3" })) -- not of the Internet
         assert.is_string(app:receive())
         local out = nf.export()
         assert.same({ 6, 2, 2, 2 }, { out.queries, out.blocked, out.passed, out.malformed })
         assert.same({ ["ads.example"] = 1, ["x.bad.example"] = 1 }, out.names)
         c:close()
      end)
   end

   local function start_tcp(config, transport)
      app = flow.server()
      local nf = tw.nf.dns_filter(config)
      service = flow.start({ { name = "dns_filter", nf = nf, message = nf.message, data = nf.data } },
         { protocol = C.TW_LISTEN_TCP, servers = { app.port }, transport = transport })
      upstream.group(0, { servers = { app.port }, protocol = C.TW_LISTEN_TCP })
      return nf
   end

   local function connected()
      local c = flow.client()
      return c, assert(app:accept(), "no connection at the resolver")
   end

   -- The next message, whole.
   local function next_of(connection)
      local message
      upstream.eventually(function()
         message, connection.got = first_of(connection.got)
         return message or connection:more(1) == false
      end)
      return message
   end

   for _, transport in ipairs { "inline", "sk_msg", "rings" } do
      it("answers for blocked names in a stream, and passes what is whole, by " .. transport, function()
         local nf = start_tcp({ block = { "ads.example" }, name = "dns_tcp_" .. transport }, transport)
         local c, s = connected()
         local passes = make("good.example", 1, { id = "\0\7" })
         -- Several at once; the answer of the filter waits for nobody.
         c:send(framed(make "ads.example") .. framed(passes) .. framed(make("ads.example", 28, { id = "\0\9" }))
            .. framed(passes):sub(1, 9))
         assert.equal("\18\52\129\131\0\1\0\0\0\0\0\0" .. name_of "ads.example" .. "\0\1\0\1", next_of(c))
         assert.equal("\0\9\129\131", next_of(c):sub(1, 4))
         assert.equal(passes, next_of(s))
         assert.equal("", s.got) -- not the half of one
         c:send(framed(passes):sub(10))
         assert.equal(passes, next_of(s))
         -- Half of an answer of the resolver goes nowhere: what the filter says does not come to lie in it.
         local large = passes .. ("r"):rep(40000)
         s:send(framed(large):sub(1, 20000))
         flow.eventually(function() return nf.export().connections == 1 and upstream.counter "upstream_bytes_in" == 20000
         end)
         c:send(framed(make("ads.example", 1, { id = "\0\8" })))
         assert.equal("\0\8\129\131", next_of(c):sub(1, 4))
         s:send(framed(large):sub(20001) .. framed "0123456789ab")
         assert.is_true(next_of(c) == large)
         assert.equal("0123456789ab", next_of(c))
         -- A query that is none is answered as over UDP.
         c:send(framed(make("x", 1, { raw = "\1x\192\12" })))
         assert.equal(1, next_of(c):byte(4) % 16)
         l4.half_close(c)
         assert.is_true(s:ends())
         s:close()
         assert.is_true(c:ends())
         c:close()
         local out = nf.export()
         assert.same({ 6, 3, 2, 1 }, { out.queries, out.blocked, out.passed, out.malformed })
         assert.same({ 1, 0, 0, 0, 0 }, { out.connections, out.bad_length, out.too_long, out.half, out.lost })
         assert.same({ ["ads.example"] = 3 }, out.names)
      end)

      it("keeps every message whole, cut anywhere at both ends, by " .. transport, function()
         math.randomseed(7)
         start_tcp({ block = { "*.bad.example" }, name = "dns_cut_" .. transport }, transport)
         local c, s = connected()
         local up, down, expected, answered, n = {}, "", {}, 0, 400
         for i = 1, n do
            local id = string.char(math.floor(i / 256), i % 256)
            local blocked = math.random(2) == 1
            up[i] = framed(make(("n%d.%s.example"):format(i, blocked and "bad" or "good"), 1, { id = id }))
            expected[id] = blocked or id .. "\129\128" .. ("r%d."):format(i):rep(math.random(3, 1500))
         end
         up = table.concat(up)
         local function cut(most) return math.random(5) == 1 and math.random(most) or math.random(40) end
         local done = upstream.eventually(function()
            if #up > 0 then
               local size = cut(900)
               c:send(up:sub(1, size))
               up = up:sub(size + 1)
            end
            s:more(0)
            while true do
               local message
               message, s.got = first_of(s.got)
               if not message then break end
               down = down .. framed(assert(expected[message:sub(1, 2)], "the resolver was asked twice"))
            end
            if #down > 0 then
               local size = cut(9000)
               s:send(down:sub(1, size))
               down = down:sub(size + 1)
            end
            c:more(0)
            while true do
               local message
               message, c.got = first_of(c.got)
               if not message then break end
               local id = message:sub(1, 2)
               if expected[id] == true then
                  assert.equal(3, message:byte(4) % 16)
               else
                  assert.is_true(message == expected[id])
               end
               expected[id], answered = nil, answered + 1
            end
            return answered == n
         end, 30)
         assert.same({ true, "" }, { done, c.got })
         c:close()
         s:close()
      end)
   end

   -- What a client of the hammer below sends: queries, at times cut off or with something behind them that is none.
   local function mess()
      local list = {}
      for i = 1, math.random(60) do
         list[i] = framed(make(("n%d.%s"):format(i, math.random(2) == 1 and "bad" or "good")))
      end
      local text = table.concat(list)
      if math.random(4) == 1 then text = text:sub(1, math.random(#text)) end
      return math.random(50) == 1 and text .. "\0\1" or text
   end

   for _, transport in ipairs { "inline", "sk_msg", "rings" } do
      it("keeps nothing of clients and resolvers that come, send anything and go, by " .. transport, function()
         local seed = tonumber(os.getenv "TIDEWAY_SEED") or os.time()
         math.randomseed(seed)
         local nf = start_tcp({ block = { "*.bad" }, name = "dns_hammer_" .. transport }, transport)
         local clients, servers, opened = {}, {}, 0
         local function accept()
            local fd = socket.accept(app.fd)
            while fd do
               servers[#servers + 1] = upstream.wrap(fd)
               fd = socket.accept(app.fd)
            end
         end
         -- One step of one connection; false: it is no more.
         local function of_client(c)
            local dice = math.random(100)
            if dice <= 60 then
               socket.send(c.fd, mess(), 0)
            elseif dice <= 93 then
               c:more(0)
               c.got = ""
               if dice > 90 then l4.half_close(c) end
            elseif dice <= 97 then
               c[dice > 95 and "close" or "abort"](c)
               return false
            end
         end
         local function of_server(s)
            local dice = math.random(100)
            if s:more(0) == false or dice > 98 then
               s[dice > 98 and "abort" or "close"](s)
               return false
            end
            s.got = ""
            if dice < 40 then socket.send(s.fd, framed(("r"):rep(math.random(12, 60000))), 0) end
            if dice < 3 then l4.half_close(s) end
         end
         while opened < 1500 do
            for _ = #clients, 39 do
               clients[#clients + 1] = flow.client()
               opened = opened + 1
            end
            accept()
            for i = #clients, 1, -1 do
               if of_client(clients[i]) == false then table.remove(clients, i) end
            end
            for i = #servers, 1, -1 do
               if of_server(servers[i]) == false then table.remove(servers, i) end
            end
         end
         for _, list in ipairs { clients, servers } do
            for _, connection in ipairs(list) do connection:close() end
         end
         app:close() -- with those that nobody has accepted
         assert.same({ 0, 0 }, { service:settle(20) }, "seed " .. seed)
         local out = nf.export()
         assert.is_true(out.queries > 1500 and out.bad_length > 0 and out.half > 0)
         assert.same({ out.queries, 0 }, { out.blocked + out.passed + out.malformed, out.lost })
      end)
   end

   it("closes streams that are no DNS, and counts them", function()
      local nf = start_tcp { block = { "ads.example" }, name = "dns_bad" }
      local good = framed(make "good.example")
      local function closed(bytes, from, before)
         local c, s = connected()
         if before then
            c:send(good)
            assert.equal(good, s:bytes(#good))
         end
         local at = from == "server" and s or c
         at:send(bytes)
         if from == "half" then l4.half_close(c) end
         assert.is_false(c:more(), "the client's end is open")
         assert.equal("", c.got)
         s:more()
         c:close()
         s:close()
      end
      closed "\0\0"
      closed("\0\11" .. ("x"):rep(11), nil, true)
      closed "GET / HTTP/1.1\r\n\r\n" -- a long length
      closed("\255\255", nil, true)
      closed("\0\30" .. ("x"):rep(29), "half")
      closed("\0", "half")
      closed(framed(make("good.example", 1, { flags = "\129\128" }))) -- a response
      closed("\0\1x", "server", true)
      local c, s = connected()
      c:send(good)
      assert.equal(good, s:bytes(#good))
      s:send "\0\40half an answer"
      s:close()
      assert.is_false(c:more())
      assert.equal("", c.got)
      c:close()
      local out = nf.export()
      assert.same({ 3, 2, 3, 0 }, { out.bad_length, out.too_long, out.half, out.lost })
      assert.same({ 9, 5, 4, 1 }, { out.connections, out.queries, out.passed, out.malformed })
   end)

   it("leaves out what it is told to drop, and goes on", function()
      start_tcp { block = { "ads.example" }, answer = "drop", name = "dns_tcp_drop" }
      local c, s = connected()
      local good = framed(make "good.example")
      c:send(framed(make "ads.example") .. good .. framed(make "ads.example"))
      c:send(good)
      assert.equal(good .. good, s:bytes(2 * #good))
      s:send(good)
      assert.equal(good, c:bytes(#good))
      assert.same({ "", "" }, { c.got, s.got })
      c:close()
      s:close()
   end)

   it("answers thousands of queries that came at once, in turns", function()
      local nf = start_tcp({ block = { "a" }, name = "dns_many" }, "sk_msg")
      local c, s = connected()
      local n, one = 20000, framed(make "a")
      local sent, got, text = 0, 0, one:rep(n)
      local answer = framed("\18\52\129\131\0\1\0\0\0\0\0\0\1a\0\0\1\0\1")
      assert.is_true(upstream.eventually(function()
         if sent < #text then sent = sent + (socket.send(c.fd, text, sent) or 0) end
         c:more(0)
         got = got + #c.got
         assert.is_true(c.got == "" or (answer:rep(2 + #c.got / #answer)):find(c.got, 1, true) ~= nil)
         c.got = ""
         return got == n * #answer
      end, 60))
      assert.same({ n, n }, { nf.export().queries, nf.export().blocked })
      assert.equal(0, tonumber(flow.info(service.workers[1]).restarts))
      assert.equal("", s.got)
      c:close()
      s:close()
   end)

   it("closes a stream that an instance before it knew", function()
      local nf = start_tcp({ block = { "ads.example" }, name = "dns_lost" }, "sk_msg")
      local c, s = connected()
      c:send(framed(make "ads.example"))
      assert.is_string(next_of(c))
      local restarts = flow.info(service.workers[1]).restarts
      require("ffi").C.kill(flow.info(service.workers[1]).pid, 9)
      assert(upstream.eventually(function()
         local info = flow.info(service.workers[1])
         return info.restarts > restarts and info.state == C.TW_WORKER_RUNS
      end, 20))
      c:send(framed(make "ads.example"))
      assert.is_false(c:more())
      assert.equal(1, nf.export().lost)
      c:close()
      s:close()
      c, s = connected()
      c:send(framed(make "ads.example"))
      assert.is_string(next_of(c))
      c:close()
      s:close()
   end)

   it("answers with addresses, of the types it is told", function()
      start { block = { "ads.example" }, answer = { "192.0.2.9", "2001:db8::9" }, ttl = 70000, name = "dns_addresses" }
      local c = l4.udp_client()
      local function ask(kind)
         c:send(make("ads.example", kind))
         return c:receive()
      end
      local head = "\18\52\129\128\0\1\0\1\0\0\0\0" .. name_of "ads.example"
      assert.equal(head .. "\0\1\0\1\192\12\0\1\0\1\0\1\17\112\0\4\192\0\2\9", ask(1))
      assert.equal(head .. "\0\28\0\1\192\12\0\28\0\1\0\1\17\112\0\16\32\1\13\184" .. ("\0"):rep(11) .. "\9", ask(28))
      assert.equal("\18\52\129\128\0\1\0\0\0\0\0\0" .. name_of "ads.example" .. "\0\16\0\1", ask(16))
      c:close()
   end)

   it("says what is wrong with its parameters", function()
      for _, case in ipairs {
         { { block = { "a b" } }, "block%[1%]" }, { { answer = "maybe" }, "answer is maybe" },
         { { file = "/nonexistent/list" }, "nonexistent" }, { { types = { "QQ" } }, "no type" },
         { { blocks = {} }, "no parameter" }, { { answer = {} }, "empty list" },
      } do
         local ok, err = pcall(tw.nf.dns_filter, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err)
      end
   end)

   for _, over in ipairs { "udp", "tcp" } do
      it("stands between dig and dnsmasq over " .. over, function()
         local missing = labs.missing("dig", "dnsmasq")
         if missing then pending(missing) return end
         local words = over == "tcp" and "+tcp" or ""
         local config = { block = { "ads.example" }, types = { "A" }, name = "dns_dig_" .. over }
         if over == "tcp" then start_tcp(config) else start(config) end
         local function dig(from, what)
            return shell.run(("dig +time=5 +tries=5 -p %d @127.0.0.1 %s %s"):format(from, words, what)).out
         end
         -- It wants its port for both: another one may have that.
         local dnsmasq, port
         for _ = 1, 5 do
            port = upstream.unused()
            dnsmasq = labs.spawn(("dnsmasq -k -p %d -a 127.0.0.1 --bind-interfaces --no-resolv --no-hosts -u root "
               .. "--conf-file=/dev/null --pid-file= --address=/good.example/192.0.2.7 --txt-record=ads.example,passes")
               :format(port))
            local answers = upstream.eventually(function()
               return dnsmasq:code() or dig(port, "good.example"):find "NOERROR"
            end)
            if answers and not dnsmasq:code() then break end
            dnsmasq:stop "TERM"
         end
         finally(function() dnsmasq:stop "TERM" end)
         upstream.group(0, { servers = { port }, protocol = over == "tcp" and C.TW_LISTEN_TCP or C.TW_LISTEN_UDP })
         assert.matches("good%.example%.%s+%d+%s+IN%s+A%s+192%.0%.2%.7", dig(service.port, "good.example"))
         assert.matches("status: NXDOMAIN", dig(service.port, "ads.example"))
         assert.matches("status: NXDOMAIN.*EDNS: version: 0, flags: do;", dig(service.port, "+dnssec ads.example"))
         assert.matches('TXT%s+"passes"', dig(service.port, "TXT ads.example"))
         if over == "udp" then return end
         -- One connection for all of them.
         local both = dig(service.port, "+keepopen ads.example good.example ads.example good.example")
         assert.equal(2, select(2, both:gsub("status: NXDOMAIN", "")))
         assert.equal(2, select(2, both:gsub("A%s+192%.0%.2%.7", "")))
      end)
   end
end)
