-- SPDX-License-Identifier: BSD-3-Clause
-- The message object over struct tw_msg: what is read, what is written, what is refused; verdicts, holding, and blocks
-- in which anything may stand.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local message = require "tideway.message"
local rigs = require "test.support.message"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local C = abi.C

describe("a message", function()
   local rig

   -- Runs fn on a message of this kind.
   local function with(spec, fn, options)
      local seen, raised = nil, nil
      rig = rigs.rig(setmetatable({ name = "f", message = fn, response = fn, data = fn },
         { __index = options and options.nf }), options)
      local out = rig:run(spec)
      if out and out.verdict == "fault" then raised = out.why end
      return out, raised, seen
   end

   after_each(function()
      if rig then rig:close() end
      rig = nil
   end)

   it("has its parts", function()
      local got = {}
      local out, raised = with({ method = "POST", target = "/a%20b/c?x=1&y=%41+b&x=2&z", host = "web.test:8080",
         headers = { { "Accept", "text/html" }, { "X-A", "1" }, { "x-a", "2" } }, body = "hello" }, function(msg)
         for _, name in ipairs { "kind", "method", "target", "path", "query", "host", "version", "scheme", "body",
            "has_body", "peer", "peer_port", "local_address", "local_port", "status", "id", "backward", "last" } do
            got[name] = msg[name]
         end
         got.args = msg.args
         got.accept, got.xa, got.none = msg:header "ACCEPT", msg:header "X-a", msg:header "X-None"
         got.all = msg:headers_of "x-A"
         got.size, got.trailers = msg:body_size(), next(msg.trailers)
         got.list = {}
         for name, value in msg:each_header() do got.list[#got.list + 1] = name .. "=" .. value end
      end)
      assert.is_nil(raised)
      assert.equals("next", out.exit)
      assert.equals("none", out.verdict)
      assert.same({ kind = "request", method = "POST", target = "/a%20b/c?x=1&y=%41+b&x=2&z", path = "/a%20b/c",
         query = "x=1&y=%41+b&x=2&z", host = "web.test:8080", version = "HTTP/1.1", scheme = "http", body = "hello",
         has_body = true, peer = "192.0.2.1", peer_port = 40000, local_address = "198.51.100.1", local_port = 80, id = 1,
         backward = false, last = false, args = { x = "1", y = "A b", z = "" }, accept = "text/html", xa = "1",
         all = { "1", "2" }, size = 5,
         list = { "Host=web.test:8080", "Accept=text/html", "X-A=1", "x-a=2" } }, got)
   end)

   it("has what targets of other forms say", function()
      local seen = {}
      for _, target in ipairs { "*", "http://a.test/p?q", "http://a.test", "http://a.test?q", "a.test:443", "/" } do
         with({ method = "OPTIONS", target = target }, function(msg)
            seen[#seen + 1] = msg.path .. " " .. tostring(msg.query)
         end)
         rig:close()
         rig = nil
      end
      assert.same({ "* nil", "/p q", "/ nil", "/ q", "a.test:443 nil", "/ nil" }, seen)
   end)

   it("writes addresses of IPv6", function()
      local peer
      with({ peer = { 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 } }, function(msg) peer = msg.peer end)
      assert.equals("2001:db8::1", peer)
   end)

   it("can be edited", function()
      local out, raised = with({ target = "/old?x=1", headers = { { "A", "1" }, { "B", "2" }, { "a", "3" } } },
         function(msg)
            msg.path = "/new"
            msg:set_header("a", "one")
            msg:add_header("C", 7)
            msg:add_header("C", "8")
            msg:remove_header "B"
            msg.host = "other.test"
            msg.method = "PUT"
            msg:set_value(3, 12345)
            msg:set_body "new body"
         end)
      assert.is_nil(raised)
      local msg, list = out.msg, {}
      for name, value in msg:each_header() do list[#list + 1] = name .. "=" .. value end
      assert.same({ "Host=other.test", "A=one", "C=7", "C=8" }, list)
      assert.equals("/new?x=1", msg.target)
      assert.equals("PUT", msg.method)
      assert.equals("other.test", msg.host)
      assert.equals("new body", msg.body)
      assert.equals(12345, msg:value(3))
      assert.is_true(bit.band(out.raw.flags, C.TW_MSG_EDITED) ~= 0)
      assert.equals(8, tonumber(out.raw.body_len))
   end)

   it("sets and removes queries, and forgets the old arguments", function()
      local seen = {}
      local out = with({ target = "/p?a=1" }, function(msg)
         seen[1] = msg.args.a
         msg.query = "a=2&b=3"
         seen[2], seen[3] = msg.args.a, msg.target
         msg.query = nil
         seen[4] = next(msg.args)
      end)
      assert.same({ "1", "2", "/p?a=2&b=3" }, seen)
      assert.equals("/p", out.msg.target)
   end)

   it("takes more headers than its table has room for", function()
      local out, raised = with({ room = 16384, spare = 1 }, function(msg)
         for i = 1, 100 do msg:add_header("X-" .. i, i) end
         for i = 1, 99 do msg:remove_header("X-" .. i) end
         for i = 1, 150 do msg:add_header("Y", i) end
      end)
      assert.is_nil(raised)
      assert.equals("100", out.msg:header "X-100")
      assert.equals(150, #out.msg:headers_of "Y")
      assert.equals("150", out.msg:headers_of("Y")[150])
   end)

   describe("refuses", function()
      local function refused(text, fn, spec, options)
         local line = debug.getinfo(fn, "S").linedefined
         local out, raised = with(spec or {}, fn, options)
         assert.equals("fault", out.verdict)
         assert.equals("gate", out.exit)
         assert.matches(text, raised)
         assert.matches("msg_message_spec.lua:" .. line .. ":", raised, 1, true)
         assert.equals(1, tonumber(rig.context.board.faults))
      end

      it("control characters in values", function()
         refused("byte 0x0d at position 2", function(msg) msg:set_header("X", "a\r\nEvil: 1") end)
      end)
      it("names that are no tokens", function()
         refused("byte 0x20 at position 2", function(msg) msg:add_header("a b", "1") end)
      end)
      it("empty names", function() refused("must be a string, not empty", function(msg) msg:add_header("", "1") end) end)
      it("NUL in paths", function() refused("byte 0x00", function(msg) msg.path = "/a\0b" end) end)
      it("spaces in paths", function() refused("byte 0x20", function(msg) msg.path = "/a b" end) end)
      it("queries in paths", function() refused("query", function(msg) msg.path = "/a?b" end) end)
      it("paths without a slash", function() refused("does not begin", function(msg) msg.path = "a" end) end)
      it("methods that are no tokens", function() refused("0x20", function(msg) msg.method = "GET /" end) end)
      it("hosts with a path", function() refused("0x2f", function(msg) msg.host = "a/b" end) end)
      it("lengths", function() refused("written by the gate", function(msg) msg:set_header("content-length", 1) end) end)
      it("a body that is no string", function() refused("must be a string", function(msg) msg:set_body {} end) end)
      it("a status in a request", function() refused("in a response", function(msg) msg.status = 200 end) end)
      it("unknown fields", function() refused('has no "pth"', function(msg) msg.pth = "/" end) end)
      it("unknown fields when read", function() refused('has no "pth"', function(msg) return msg.pth end) end)
      it("fields that are facts", function() refused("cannot be set", function(msg) msg.peer = "1.2.3.4" end) end)
      it("values that do not exist", function() refused("1 to 8", function(msg) msg:set_value(9, 1) end) end)
      it("values that are no integers", function() refused("integer", function(msg) msg:set_value(1, 0.5) end) end)
      it("what is no verdict", function()
         local out, raised = with({}, function() return 403 end)
         assert.equals("fault", out.verdict)
         assert.matches("f returned 403; a function returns nothing, or", raised)
      end)
      it("a status that is none", function() refused("from 200 to 599", function(msg) return msg:respond(99) end) end)
      it("routes that do not exist", function()
         refused('no route "y"; there are: x', function(msg) return msg:route "y" end, nil, { routes = { x = 2 } })
      end)
      it("groups that do not exist", function()
         refused('no upstream group "y"; there are: none', function(msg) return msg:upstream "y" end)
      end)
      it("replies to requests", function() refused("datagrams", function(msg) return msg:reply "x" end) end)
      it("edits when it is full, and says how much is left", function()
         refused("message full: 5000 bytes are needed, %d+ bytes left of 4096",
            function(msg) msg:set_header("X", ("x"):rep(5000)) end)
      end)
      it("edits by readonly functions", function()
         rig = rigs.rig({ name = "f", readonly = true, message = function(msg) msg.path = "/x" end })
         local out = rig:run {}
         assert.equals("gate", out.exit)
         assert.equals(C.TW_V_FAULT, out.desc_key)
         assert.equals("none", out.verdict)
         assert.matches("this function is readonly", rig.runner.fault_text)
      end)
   end)

   describe("verdict", function()
      it("respond makes a response in a block of its own", function()
         local out, raised = with({}, function(msg)
            return msg:respond(403, { ["X-Why"] = "no", { "Set-Cookie", "a=1" }, { "Set-Cookie", "b=2" },
               Connection = "close", ["Content-Length"] = 5 }, "not here\n")
         end)
         assert.is_nil(raised)
         assert.equals("respond", out.verdict)
         assert.equals("gate", out.exit)
         assert.equals(403, out.status)
         assert.equals("not here\n", out.body)
         assert.equals("no", out.header "x-why")
         assert.equals("text/plain; charset=utf-8", out.header "content-type")
         assert.same({ "a=1", "b=2" }, out.answer:headers_of "set-cookie")
         assert.is_nil(out.header "connection")
         assert.is_nil(out.header "content-length")
         assert.equals(out.handle, out.answer.v.m.request)
         rig:free(out)
         assert.equals(0, rig:blocks())
      end)

      it("respond gives large bodies in further blocks, and all come back", function()
         local text = ("0123456789abcdef"):rep(160000)
         rig = rigs.rig({ name = "f", message = function(msg) return msg:respond(200, nil, text) end },
            { memory_mb = 64 })
         local out = rig:run {}
         assert.equals("respond", out.verdict, out.why)
         assert.equals(#text, #out.body)
         assert.is_true(out.body == text)
         rig:free(out)
         assert.equals(0, rig:blocks())
      end)

      it("that is not returned is none, and its block is free again", function()
         local out = with({}, function(msg)
            msg:respond(403)
            msg:respond(404)
         end)
         assert.equals("next", out.exit)
         assert.equals(1, rig:blocks())
      end)

      it("of a function that raises frees what it made", function()
         local out = with({}, function(msg)
            msg:respond(403)
            error "no"
         end)
         assert.equals("fault", out.verdict)
         assert.equals(1, rig:blocks())
      end)

      it("respond_message is filled step by step", function()
         local out = with({}, function(msg)
            local r = msg:respond_message(201)
            r:add_header("Location", "/x")
            r:set_body "made"
            return msg:send(r)
         end)
         assert.equals(201, out.status)
         assert.equals("/x", out.header "Location")
         assert.equals("made", out.body)
      end)

      it("route, upstream and drop", function()
         local out = with({}, function(msg) return msg:route "x" end, { routes = { x = 3 } })
         assert.equals(3, out.exit)
         rig:close()
         out = with({}, function(msg) return msg:upstream("app", "key") end, { groups = { app = 4 } })
         assert.same({ "gate", "upstream", 4, C.tw_text_key("key", 3) }, { out.exit, out.verdict, out.group, out.key })
         rig:close()
         out = with({}, function(msg) return msg:drop "because" end)
         assert.same({ "gate", "drop", "because" }, { out.exit, out.verdict, out.why })
      end)

      it("of a readonly function is in the descriptor alone", function()
         rig = rigs.rig({ name = "f", readonly = true, message = function(msg) return msg:drop "x" end })
         local out = rig:run {}
         assert.same({ "gate", C.TW_V_DROP, "none" }, { out.exit, out.desc_key, out.verdict })
      end)

      it("reply changes a datagram's bytes", function()
         local out = with({ kind = C.TW_MSG_DATAGRAM, bytes = "ping" }, function(msg)
            return msg:reply(msg.bytes .. "!" .. msg.kind)
         end)
         assert.same({ "reply", "ping!datagram" }, { out.verdict, out.msg.bytes })
      end)
   end)

   describe("a reply to a piece of a stream", function()
      local DATA = C.TW_MSG_DATA

      -- What it has told apart: bytes of the entries, and how many of the last ones go on.
      local function entries(out)
         local m, list = out.raw, {}
         for i = 0, m.n_body - 1 do
            local e = m.body[i]
            local base = e.handle == 0 and out.msg.v.b
               or ffi.cast("uint8_t *", C.tw_pool_peek(rig.pool, e.handle, ffi.new "uint32_t[1]"))
            list[i + 1] = ffi.string(base + e.at, e.len)
         end
         return list, m.n_on
      end

      it("lets other bytes go on besides, in other blocks", function()
         local out = with({ kind = DATA, bytes = "one two" }, function(msg) return msg:reply("one", "two") end)
         local list, on = entries(out)
         assert.same({ "reply", { "one", "two" }, 1 }, { out.verdict, list, on })
         assert.is_true(out.raw.body[0].handle ~= 0)
         assert.is_true(out.raw.body[1].handle == 0)
      end)

      it("is all of it when nothing goes on, and nothing when it is empty", function()
         local out = with({ kind = DATA, bytes = "x" }, function(msg) return msg:reply("back", "") end)
         local list, on = entries(out)
         assert.same({ { "back" }, 0 }, { list, on })
         rig:close()
         out = with({ kind = DATA, bytes = "x" }, function(msg) return msg:reply("", "on") end)
         list, on = entries(out)
         assert.same({ { "on" }, 1 }, { list, on })
         rig:close()
         out = with({ kind = DATA, bytes = "x" }, function(msg)
            msg:reply("back", "on")
            return msg:reply "all of it"
         end)
         list, on = entries(out)
         assert.same({ { "all of it" }, 0 }, { list, on })
      end)

      it("can be long on both sides, up to what a body can have", function()
         local back, onward = ("b"):rep(2 ^ 20 + 1), ("o"):rep(2 ^ 20 + 2)
         local out = with({ kind = DATA, bytes = "x" }, function(msg) return msg:reply(back, onward) end,
            { memory_mb = 32 })
         local list, on = entries(out)
         assert.same({ 4, 2 }, { #list, on })
         assert.is_true(list[1] .. list[2] == back and list[3] .. list[4] == onward)
         rig:close()
         out = with({ kind = DATA, bytes = "x" }, function(msg) return msg:reply(("b"):rep(2 ^ 26 + 1), "on") end,
            { memory_mb = 32 })
         assert.equal("fault", out.verdict)
         assert.matches("a reply of 67108865 bytes is too large", out.why)
      end)

      it("is no reply to a datagram", function()
         local out = with({ kind = C.TW_MSG_DATAGRAM, bytes = "x" }, function(msg) return msg:reply("a", "b") end)
         assert.equal("fault", out.verdict)
         assert.matches("only of a piece of a stream", out.why)
      end)
   end)

   it("keeps a table for an exchange until its response has passed", function()
      local nf = { name = "f" }
      function nf.message(msg) msg.state.n = 5 end
      local seen
      function nf.response(msg) seen = msg.state.n end
      rig = rigs.rig(nf)
      rig:run { id = 99 }
      assert.equals(5, rig.context.states.of[99.5].n)
      rig:run { id = 99, kind = C.TW_MSG_RESPONSE, status = 200 }
      assert.equals(5, seen)
      assert.is_falsy(rig.context.states.of[99.5])
      for i = 100, 5000 do rig:free(rig:run { id = i }) end
      local n = 0
      for _ in pairs(rig.context.states.of) do n = n + 1 end
      assert.is_true(n <= 4096)
   end)

   it("of a response has its request, which can only be read", function()
      local path, err
      rig = rigs.rig({ name = "f", response = function(msg)
         path = msg.request.path
         err = select(2, pcall(function() msg.request.path = "/" end))
         msg.status = 404
      end })
      local _, handle = rig:message { target = "/asked" }
      local out = rig:run { kind = C.TW_MSG_RESPONSE, status = 200, request = handle }
      assert.equals("/asked", path)
      assert.matches("can only be read", err)
      assert.equals(404, out.msg.status)
   end)

   it("cannot be used when it is gone", function()
      local kept
      local out = with({}, function(msg)
         kept = msg
         return msg.args.a and msg:drop "an argument"
      end)
      assert.equals("next", out.exit)
      for _, field in ipairs { "kind", "method", "target", "path", "plain_path", "query", "args", "host", "asked_target",
         "asked_host", "scheme", "version", "status", "reason", "request", "has_body", "bytes", "last", "backward",
         "peer_port", "local_address", "listener", "received", "received_at", "id", "state", "server", "upgrade" } do
         local ok, err = pcall(function() return kept[field] end)
         assert.is_false(ok, field)
         assert.matches("the message is gone", err, 1, true)
      end
      for _, use in ipairs {
         function() return kept.path end, function() kept.path = "/" end, function() return kept:header "host" end,
         function() kept:set_header("a", "b") end, function() return kept.body end, function() kept:set_body "x" end,
         function() return kept:respond(200) end, function() kept:set_value(1, 2) end, function() return kept.peer end,
      } do
         local ok, err = pcall(use)
         assert.is_false(ok)
         assert.matches("the message is gone", err)
      end
   end)

   -- ---- holding ----

   describe("held", function()
      it("sleeps while others go on", function()
         local order = {}
         rig = rigs.rig({ name = "f", message = function(msg)
            order[#order + 1] = "in " .. msg.path
            if msg.path == "/slow" then msg:sleep(0.02) end
            order[#order + 1] = "out " .. msg.path
            return msg:respond(200, nil, msg.path)
         end })
         assert.is_nil(rig:run { target = "/slow" })
         local fast = rig:run { target = "/fast" }
         assert.equals("/fast", fast.body)
         assert.equals(1, tonumber(rig.context.board.held))
         assert.is_nil(rig.runner:timers(tonumber(C.tw_now())))
         assert.is_nil(rig:collect())
         rig.runner:timers(rig.runner:due())
         local slow = rig:collect()
         assert.equals("/slow", slow.body)
         assert.same({ "in /slow", "in /fast", "out /fast", "out /slow" }, order)
         assert.equals(0, tonumber(rig.context.board.held))
         assert.is_nil(rig.runner:due())
      end)

      it("in a batch, many times, in the order of their times", function()
         local done = {}
         rig = rigs.rig({ name = "f", message = function(msg)
            local n = tonumber(msg.path:sub(2))
            if n % 2 == 0 then msg:sleep(n / 10) end
            done[#done + 1] = n
         end })
         local descs = ffi.new "struct tw_desc[64]"
         for i = 0, 63 do descs[i].handle = select(2, rig:message { target = "/" .. (64 - i) }) end
         rig.runner:batch(descs, 64)
         assert.equals(32, rig.host.n_out)
         assert.equals(32, rig.runner.n_held)
         while rig.runner:due() do rig.runner:timers(rig.runner:due()) end
         assert.equals(64, rig.host.n_out)
         for i = 33, 64 do assert.equals((i - 32) * 2, done[i]) end
         assert.equals(64, tonumber(rig.context.board.started) - 32)
         assert.equals(tonumber(rig.context.board.started), tonumber(rig.context.board.done))
      end)

      it("fetches", function()
         rig = rigs.rig({ name = "f", message = function(msg)
            local answer, err = msg:fetch { upstream = "auth", path = "/check?u=1", headers = { Cookie = "c" },
               body = "ask" }
            if not answer then return msg:respond(502, nil, err) end
            return msg:respond(answer.status, { ["X-Got"] = answer.headers["x-auth"] }, answer.body)
         end }, { groups = { auth = 2 } })
         local _, lead = rig:message { target = "/" }
         local fetch = rig:run_handle(lead)
         assert.same({ "gate", "fetch", 2 }, { fetch.exit, fetch.verdict, fetch.group })
         local ask = fetch.msg
         assert.same({ "POST", "/check?u=1", "example.org", "c", "ask" },
            { ask.method, ask.target, ask.host, ask:header "cookie", ask.body })
         assert.equals(lead, ask.v.m.request)
         local _, answer = rig:message { kind = C.TW_MSG_ANSWER, status = 204, headers = { { "X-Auth", "yes" } },
            body = "ok", request = lead }
         local back, out = rig:run_handle(answer)
         assert.equals(answer, back.handle)
         assert.equals("gate", back.exit)
         assert.same({ "respond", 204, "yes", "ok" }, { out.verdict, out.status, out.header "x-got", out.body })
         assert.equals(0, rig.runner.n_held)
      end)

      it("hears of a fetch that nothing answered", function()
         rig = rigs.rig({ name = "f", message = function(msg)
            local answer, err = msg:fetch { upstream = "auth" }
            return msg:respond(answer and 200 or 502, nil, err)
         end }, { groups = { auth = 2 } })
         local _, lead = rig:message {}
         rig:run_handle(lead)
         local m, answer = rig:message { kind = C.TW_MSG_ANSWER, status = 502, request = lead,
            flags = C.TW_MSG_NO_BODY, headers = { { "why", "nobody there" } } }
         local row = ffi.cast("struct tw_header *", ffi.cast("uint8_t *", m) + m.headers)[0]
         m.why.at, m.why.len = row.value.at, row.value.len
         local _, out = rig:run_handle(answer)
         assert.same({ 502, "nobody there" }, { out.status, out.body })
      end)

      it("and taken away is not resumed", function()
         local after = false
         rig = rigs.rig({ name = "f", message = function(msg)
            msg:sleep(0.001)
            after = true
         end })
         local _, handle = rig:message {}
         assert.is_nil(rig:run_handle(handle))
         C.tw_pool_free(rig.pool, handle, rig.member)
         rig.runner:timers(rig.runner:due())
         assert.is_false(after)
         assert.equals(0, rig.runner.n_held)
         local _, other = rig:message {}
         assert.is_nil(rig:run_handle(other))
         assert.is_true(rig.runner:forget(other))
         assert.is_nil(rig.runner:due())
         assert.equals(0, tonumber(rig.context.board.held))
      end)

      it("and taken away is let go soon, whatever it waits for", function()
         rig = rigs.rig({ name = "f", message = function(msg)
            if msg.path == "/sleep" then msg:sleep(3600) else msg:fetch { upstream = "auth" } end
         end }, { groups = { auth = 2 } })
         local _, one = rig:message { target = "/sleep" }
         local _, two = rig:message { target = "/fetch" }
         local _, kept = rig:message { target = "/sleep" }
         rig:run_handle(one)
         rig:run_handle(kept)
         rig:free(rig:run_handle(two))
         assert.equals(3, rig.runner.n_held)
         local now = tonumber(C.tw_now())
         assert.is_true(rig.runner:due() <= now + 1e9)
         for _, handle in ipairs { one, two } do
            -- as the gate takes back what somebody has who lives: it is lost, and free when that one lets go
            assert.equals(0, tonumber(C.tw_pool_seize(rig.pool, handle, 0, true)))
         end
         rig.runner:timers(now + 2e9)
         assert.equals(1, rig.runner.n_held)
         assert.equals(1, rig:blocks())
      end)

      it("cannot be in unlimited numbers", function()
         local refused
         rig = rigs.rig({ name = "f", message = function(msg)
            local ok, err = pcall(msg.sleep, msg, 1)
            if not ok then refused = err end
         end })
         rig.runner.HELD_MAX = 3
         for _ = 1, 4 do rig:run {} end
         assert.matches("3 messages are held already", refused)
      end)
   end)

   it("that faults does not end the others of its batch", function()
      rig = rigs.rig({ name = "f", message = function(msg)
         if msg.path == "/bad" then error "bad one" end
      end })
      local descs = ffi.new "struct tw_desc[3]"
      for i, path in ipairs { "/a", "/bad", "/c" } do descs[i - 1].handle = select(2, rig:message { target = path }) end
      rig.runner:batch(descs, 3)
      local a, bad, c = rig:collect()
      assert.same({ "none", "fault", "none" }, { a.verdict, bad.verdict, c.verdict })
      assert.matches("msg_message_spec.lua:%d+: bad one", bad.why)
   end)

   it("that is stale is left out", function()
      rig = rigs.rig({ name = "f", message = function() end })
      local _, handle = rig:message {}
      C.tw_pool_free(rig.pool, handle, rig.member)
      assert.is_nil(rig:run_handle(handle))
      assert.equals(1, rig.runner.stale)
   end)
end)

-- ---- anything in a block ----

describe("a block in which anything may stand", function()
   local USES = {
      function(msg) return msg.method, msg.target, msg.path, msg.query, msg.args end,
      function(msg) return msg.host, msg.reason, msg.status, msg.kind end,
      function(msg) return msg:header "host", msg:header "x", msg:headers_of "accept" end,
      function(msg) for _ in msg:each_header() do end end,
      function(msg) return msg.body, msg:body_size(), msg.bytes end,
      function(msg) return msg.peer, msg.local_address, msg.request and msg.request.path end,
      function(msg) msg.path = "/x" end,
      function(msg) msg.host = "h" end,
      function(msg) msg:set_header("Accept", "y") end,
      function(msg) msg:add_header("Z", "y") end,
      function(msg) msg:remove_header "accept" end,
      function(msg) msg:set_body "new" end,
      function(msg) return msg:respond(200, nil, "x") end,
      function(msg) return msg:drop "why" end,
   }

   local function random(seed)
      math.randomseed(seed)
      return function(n) return math.random(0, n - 1) end
   end

   it("is read and written only inside, whatever its offsets say", function()
      -- blocks lie next to each other: what is written outside of one is seen in its neighbours
      local rig
      local use
      rig = rigs.rig({ name = "f", message = function(msg) return use(msg) end,
         response = function(msg) return use(msg) end, data = function(msg) return use(msg) end })
      local seed = tonumber(os.getenv "TIDEWAY_SEED") or os.time()
      local rand = random(seed)
      local before, _ = rig:message { headers = { { "Accept", "*" } }, body = "b" }
      local victim, handle = rig:message { headers = { { "Accept", "*" } }, body = "b" }
      local behind = rig:message { headers = { { "Accept", "*" } }, body = "b" }
      local clean = ffi.string(ffi.cast("char *", victim), 4096)
      local guards = {}
      local EDGES = { 0, 1, 4095, 4096, 4097, 0xffff, 0x7fffffff, 0xffffffff, 0xfffffff0, 1400 }
      local words = math.floor(ffi.sizeof "struct tw_msg" / 4)
      -- Words that say where something is, more often than the others.
      local likely = {}
      for _, name in ipairs { "used", "status", "headers", "method", "target", "host", "reason", "n_body", "body" } do
         local at = math.floor(ffi.offsetof("struct tw_msg", name) / 4)
         for i = 0, 3 do likely[#likely + 1] = at + i end
      end
      local MARK = ("\238"):rep(8)
      ffi.fill(before, 4096, 238)
      ffi.fill(behind, 4096, 238)
      guards[1], guards[2] = ffi.string(before, 4096), ffi.string(behind, 4096)
      local function look(value)
         if type(value) == "table" then for _, v in pairs(value) do look(v) end end
         assert(type(value) ~= "string" or not value:find(MARK, 1, true), "it read another message, seed " .. seed)
      end
      local raised, fine = 0, 0
      for _ = 1, 6000 do
         ffi.copy(victim, clean, 4096)
         victim.self = handle
         for _ = 1, 1 + rand(6) do
            local word = rand(2) == 0 and likely[1 + rand(#likely)] or 2 + rand(words - 2)
            local value = rand(2) == 0 and EDGES[1 + rand(#EDGES)] or rand(65536) * (rand(2) == 0 and 1 or 65536)
            ffi.cast("uint32_t *", victim)[word] = value
         end
         local kinds = { C.TW_MSG_REQUEST, C.TW_MSG_RESPONSE, C.TW_MSG_DATA, C.TW_MSG_DATAGRAM }
         victim.kind = kinds[1 + rand(4)]
         if rand(3) == 0 then -- the table of headers too
            local list = ffi.cast("uint32_t *", ffi.cast("char *", victim) + (victim.used % 4000))
            list[rand(20)] = EDGES[1 + rand(#EDGES)]
         end
         victim.magic = C.TW_MSG_MAGIC
         local msg = message.wrap(message.attach(rig.pool, rig.member), handle, rig.context)
         use = USES[1 + rand(#USES)]
         local results = { pcall(use, msg) }
         local ok, err = results[1], results[2]
         if ok then
            fine = fine + 1
            for i = 2, 6 do look(results[i]) end
         else
            raised = raised + 1
            assert(type(err) == "string" and not err:find "bad argument", tostring(err) .. " seed " .. seed)
         end
         message.leave(msg)
      end
      assert.is_true(guards[1] == ffi.string(before, 4096), "seed " .. seed)
      assert.is_true(guards[2] == ffi.string(behind, 4096), "seed " .. seed)
      assert.is_true(raised > 300 and fine > 300, raised .. " raised, " .. fine .. " fine")
      rig:close()
   end)

   it("is refused when it is no message", function()
      local rig = rigs.rig({ name = "f", message = function() error "called" end })
      local m, handle = rig:message {}
      m.magic = 1
      assert.is_nil(message.wrap(message.attach(rig.pool, rig.member), handle))
      rig:close()
   end)
end)

describe("functions on messages", function()
   it("are compiled: no trace is given up for the message object", function()
      local rig = rigs.rig({ name = "f", message = function(msg)
         if msg.path == "/x" and msg:header "accept" == "b" then msg:set_value(1, 1) end
         msg:set_header("X-Forwarded-For", msg.peer)
      end })
      local given_up, traces = {}, 0
      local function watch(what, _, fn, pc, code)
         if what == "stop" then traces = traces + 1 end
         if what ~= "abort" then return end
         local text = type(code) == "number" and vmdef.traceerr[code] or tostring(code)
         local place = util.funcinfo(fn, pc).loc or "?"
         if text:find "NYI" and not place:find "^message.lua" and not place:find "_spec.lua" then given_up[#given_up + 1] = place .. ": " .. text end
      end
      jit.attach(watch, "trace")
      local descs = ffi.new "struct tw_desc[64]"
      for _ = 1, 40 do
         for i = 0, 63 do descs[i].handle = select(2, rig:message { headers = { { "Accept", "b" } } }) end
         rig.runner:batch(descs, 64)
         for i = 0, 63 do C.tw_pool_free(rig.pool, descs[i].handle, rig.member) end
         rig.host.n_out = 0
      end
      jit.attach(watch)
      assert.same({}, given_up)
      assert.is_true(traces > 0)
      rig:close()
   end)

   it("hash names as headers' names are hashed", function()
      assert.equals(C.tw_header_hash("host", 4), C.tw_header_hash("HOST", 4))
      assert.not_equals(C.tw_header_hash("host", 4), C.tw_header_hash("hosu", 4))
   end)
end)
