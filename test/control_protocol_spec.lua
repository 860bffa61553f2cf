-- SPDX-License-Identifier: BSD-3-Clause
-- The control socket's parts without a socket: frames, lines of users who may not evaluate, roles, the log of changes.

local ffi = require "ffi"
local audit = require "tideway.control.audit"
local literal = require "tideway.control.literal"
local protocol = require "tideway.control.protocol"
local roles = require "tideway.control.roles"

local function feed(decoder, text) decoder:feed(ffi.cast("const char *", text), #text) end

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text and text:find(part, 1, true), ("no %q in:\n%s"):format(part, tostring(text)))
   end
end

local function refused(text)
   local decoder = protocol.decoder()
   feed(decoder, text)
   local message, err = decoder:next()
   assert.is_nil(message)
   return err
end

describe("a frame", function()
   it("gives what was sent, however its bytes come", function()
      local sent = { id = 7, op = "eval", code = "print('\\0\200')\n", args = { 1, { a = true } } }
      local frames = protocol.encode(sent) .. protocol.encode_record(2 ^ 32 - 1, "a\0b") .. protocol.encode { id = 8 }
      for _, step in ipairs { 1, 2, 3, 5, 7, #frames } do
         local decoder, got = protocol.decoder(), {}
         for at = 1, #frames, step do
            feed(decoder, frames:sub(at, at + step - 1))
            while true do
               local message, err = decoder:next()
               assert.is_nil(err)
               if not message then break end
               got[#got + 1] = message
            end
         end
         assert.same({ sent, { id = 2 ^ 32 - 1, record = "a\0b" }, { id = 8 } }, got)
         assert.equal(0, decoder:size())
      end
   end)

   it("is known to be there, whole or in part", function()
      local frame, decoder = protocol.encode { id = 1 }, protocol.decoder()
      assert.is_false(decoder:partial())
      feed(decoder, frame:sub(1, -2))
      assert.is_true(decoder:partial())
      assert.is_false(decoder:complete())
      feed(decoder, frame:sub(-1) .. frame:sub(1, 3))
      assert.is_true(decoder:complete())
      assert.is_false(decoder:partial())
      assert.equal(1, decoder:next().id)
      assert.is_true(decoder:partial())
   end)

   it("has at most 1 MiB, both ways", function()
      local most = protocol.LIMIT - #'{"a":""}' - 1
      feed(protocol.decoder(), assert(protocol.encode { a = ("x"):rep(most) }))
      local frame, err = protocol.encode { a = ("x"):rep(most + 1) }
      assert.is_nil(frame)
      has(err, "1048577 bytes", "at most 1048576")
      has(refused "\0\16\0\1", "1048577 bytes")
      has(refused "\255\255\255\255", "4294967295 bytes")
      has(refused "\0\0\0\0", "0 bytes")
   end)

   it("that cannot be understood is refused with the reason", function()
      has(refused "\0\0\0\1X", 'kind "X"')
      has(refused "\0\0\0\3B12", 'kind "B"')
      has(refused "\0\0\0\5J{\"a\"", "no message")
      has(refused "\0\0\0\5J1234", "not an object")
      local deep = ("["):rep(100000)
      has(refused("\0\1\134\161J" .. deep), "no message")
      has(refused "GET / HTTP/1.1\r\n", "a frame is its length in four bytes")
   end)

   it("of random bytes does no harm", function()
      math.randomseed(5)
      for _ = 1, 2000 do
         local bytes = {}
         for i = 1, math.random(1, 60) do bytes[i] = string.char(math.random(0, 255)) end
         -- Half of them with a length that fits, so that the rest is looked at, too.
         if math.random() < 0.5 then
            table.insert(bytes, 1, "\0\0\0" .. string.char(math.random(1, #bytes)) .. (math.random() < 0.7 and "J" or ""))
         end
         local decoder = protocol.decoder()
         feed(decoder, table.concat(bytes))
         for _ = 1, 10 do
            local message, err = decoder:next()
            assert.is_true(message == nil or type(message) == "table")
            assert.is_true(err == nil or type(err) == "string" and message == nil)
            if not message then break end
         end
      end
   end)
end)

describe("a line of a user who may not evaluate", function()
   it("may call a command with literal arguments", function()
      assert.same({ "graph", { n = 0 }, true }, { literal.call "graph" })
      assert.same({ "graph", { n = 0 }, false }, { literal.call "graph()" })
      assert.same({ "graph", { n = 1, "dot" }, false }, { literal.call "graph 'dot'" })
      local name, args = literal.call "trace(10, -2.5, nil, true, { reason = 'x', [3] = { 1, 2 }, ['a b'] = false })"
      assert.equal("trace", name)
      assert.same({ n = 5, 10, -2.5, nil, true, { reason = "x", [3] = { 1, 2 }, ["a b"] = false } }, args)
   end)

   it("may do nothing else, and nothing of it is run", function()
      for _, text in ipairs {
         "os.exit()", "a.b()", "a:b()", "f(g())", "f(x)", "f(1 + 1)", "f(...)", "f(function() end)", "f(#'x')", "f()()",
         "1", "'x'", "f(), g()", "x = 1", "f() g()", "return f()", "f(", "", "f{[nil] = 1}", "f{[0/0] = 1}", "f{g()}",
         "f(-'1')", "(f)()", "f{[{}] = g}", ("f("):rep(5000), "f(" .. ("{"):rep(1000) .. ("}"):rep(1000) .. ")",
      } do
         assert.is_nil((literal.call(text)), text)
      end
   end)
end)

describe("a role", function()
   after_each(roles.reset)

   local function peer(uid, gid, groups) return { uid = uid, gid = gid, groups = groups or {} } end

   it("is admin for root and nothing for others, without tw.control", function()
      assert.equal("admin", roles.of(peer(0, 0)))
      assert.is_nil(roles.of(peer(65534, 65534, { 1, 2 })))
      assert.equal(tonumber("600", 8), roles.mode())
   end)

   it("comes from the user, its group, the groups it is also in; the highest counts", function()
      roles.control { view = { 65534, "group:daemon" }, operate = { "daemon", "group:65533" }, admin = { "group:7777" } }
      assert.equal("view", roles.of(peer(65534, 1000)))
      assert.equal("view", roles.of(peer(5000, 1)))
      assert.equal("operate", roles.of(peer(1, 1)))
      assert.equal("operate", roles.of(peer(65534, 1, { 65533 })))
      assert.equal("admin", roles.of(peer(65534, 1, { 65533, 7777 })))
      assert.is_nil(roles.of(peer(5000, 5000, { 5001 })))
      assert.equal(tonumber("666", 8), roles.mode())
   end)

   it("allows what lower ones allow", function()
      local allowed = {}
      for _, have in ipairs { "view", "operate", "admin" } do
         for _, need in ipairs { "view", "operate", "admin" } do
            if roles.allows(have, need) then allowed[#allowed + 1] = have .. ">" .. need end
         end
      end
      assert.same({ "view>view", "operate>view", "operate>operate", "admin>view", "admin>operate", "admin>admin" },
         allowed)
      assert.is_false(roles.allows(nil, "view"))
   end)

   it("of nobody that there is, is refused", function()
      local function fails(config, ...)
         local ok, err = pcall(roles.control, config)
         assert.is_false(ok)
         has(err, "tw.control: ", ...)
      end
      fails({ view = { "no-such-user" } }, "view", '"no-such-user"')
      fails({ view = { "group:no-such-group" } }, '"no-such-group"')
      fails({ admin = { "tty" } }, '"tty"', 'write "group:tty"')
      fails({ root = { 0 } }, '"root"', "view, operate, admin")
      fails({ view = "alice" }, "view = {")
      fails({ view = { -1 } }, "-1")
      fails({ view = { true } }, "true")
      fails("alice", "alice")
   end)

   it("that is missing is named, with how to get it", function()
      has(roles.refusal("user alice (uid 1000)", "view", "operate", "reload"), "reload needs role operate",
         "user alice (uid 1000) has role view", 'tw.control { operate = { "alice" } }')
      has(roles.refusal("user 4711", nil, "view", "the control socket"), "has none", "tw.control { view = { 4711 } }")
   end)
end)

describe("the log of changes", function()
   local client = { user = "alice", uid = 1000, pid = 4711 }

   it("keeps the last thousand, oldest first", function()
      for i = 1, 1500 do audit.add(client, "change " .. i, "ok") end
      local list = audit.list(5000)
      assert.equal(1000, #list)
      assert.equal("change 501", list[1].what)
      assert.equal("change 1500", list[1000].what)
      assert.equal(20, #audit.log().rows)
      assert.equal("change 1500", audit.log(1).data[1].what)
   end)

   it("has one line for each, whatever was typed", function()
      audit.add(client, "a\nb\27[2J" .. ("x"):rep(5000), "error:\n\0")
      local entry = audit.list(1)[1]
      assert.is_nil((entry.what .. entry.result):find "[%c]")
      assert.is_true(#entry.what < 250)
      assert.equal("alice", entry.who)
   end)
end)
