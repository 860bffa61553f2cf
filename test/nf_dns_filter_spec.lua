-- SPDX-License-Identifier: BSD-3-Clause
-- dns_filter: its parser on good and bad queries, its sets of names, and the NF between dig and dnsmasq.

local abi = require "tideway.abi"
local flow = require "test.support.flow"
local l4 = require "test.support.l4"
local labs = require "test.support.lab"
local names = require "tideway.nf.dns_filter.names"
local query = require "tideway.nf.dns_filter.query"
local shell = require "test.shell"
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

   it("stands between dig and dnsmasq", function()
      local missing = labs.missing("dig", "dnsmasq")
      if missing then pending(missing) return end
      start { block = { "ads.example" }, types = { "A" }, name = "dns_dig" }
      local function dig(from, words)
         return shell.run(("dig +time=2 +tries=1 -p %d @127.0.0.1 %s"):format(from, words)).out
      end
      -- It wants its port for TCP as well: another one may have that.
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
      upstream.group(0, { servers = { port }, protocol = C.TW_LISTEN_UDP })
      assert.matches("good%.example%.%s+%d+%s+IN%s+A%s+192%.0%.2%.7", dig(service.port, "good.example"))
      assert.matches("status: NXDOMAIN", dig(service.port, "ads.example"))
      assert.matches("status: NXDOMAIN.*EDNS: version: 0, flags: do;", dig(service.port, "+dnssec ads.example"))
      assert.matches('TXT%s+"passes"', dig(service.port, "TXT ads.example"))
   end)
end)
