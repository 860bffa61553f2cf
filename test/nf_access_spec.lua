-- SPDX-License-Identifier: BSD-3-Clause
-- access on messages: addresses, methods, passwords, paths that are written in other ways.

local abi = require "tideway.abi"
local basic = require "tideway.nf.access.basic"
local clients = require "tideway.nf.access.clients"
local rigs = require "test.support.message"
local sha256 = require "tideway.nf.access.sha256"
local tw = require "tideway"

local C = abi.C

describe("access", function()
   local rig
   after_each(function()
      if rig then rig:close() end
      rig = nil
   end)

   local function use(cfg)
      if rig then rig:close() end
      rig = rigs.rig(tw.nf.access(cfg))
   end

   -- Status, or "next".
   local function ask(spec)
      local out = rig:run(spec)
      assert.is_nil(out.why)
      return out.verdict == "respond" and out.status or out.exit, out
   end

   it("judges addresses: deny goes before allow", function()
      use { allow = { "192.0.2.0/24", "2001:db8::/32" }, deny = { "192.0.2.128/25" } }
      assert.equals("next", ask { peer = { 192, 0, 2, 1 } })
      assert.equals(403, (ask { peer = { 192, 0, 2, 200 } }))
      assert.equals(403, (ask { peer = { 198, 51, 100, 1 } }))
      local v6 = { 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 }
      assert.equals("next", ask { peer = v6 })
      v6[2] = 2
      assert.equals(403, (ask { peer = v6 }))
      local mapped = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1 }
      assert.equals("next", ask { peer = mapped })
      mapped[16] = 200
      assert.equals(403, (ask { peer = mapped }))
   end)

   it("takes an IPv4 address for one, also where it is written as an IPv6 one", function()
      local is_in = clients.among("spec", { "10.0.0.0/8", "2001:db8::/32" })
      for _, peer in ipairs { "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1" } do
         for _ = 1, 2 do assert.is_true(is_in(peer), peer) end
      end
      for _, peer in ipairs { "11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "::a01:203" } do
         assert.is_false(is_in(peer), peer)
      end
      assert.is_false(is_in(nil))
   end)

   it("closes connections and datagrams that may not", function()
      use { deny = { "192.0.2.1" } }
      for _, kind in ipairs { C.TW_MSG_OPEN, C.TW_MSG_DATAGRAM } do
         local out = rig:run { kind = kind, bytes = "x" }
         assert.same({ "gate", "drop" }, { out.exit, out.verdict })
         assert.equals("next", rig:run({ kind = kind, bytes = "x", peer = { 192, 0, 2, 2 } }).exit)
      end
   end)

   it("judges methods, and says which there are", function()
      use { methods = { "GET", "POST" } }
      assert.equals("next", ask { method = "GET" })
      assert.equals("next", ask { method = "HEAD" })
      local status, out = ask { method = "DELETE" }
      assert.same({ 405, "GET, POST, HEAD" }, { status, out.header "allow" })
   end)

   describe("with passwords", function()
      local users = { ann = "{SHA256}" .. sha256.hex "secret:with:colons",
         bob = "{SHA256}pepper$" .. sha256.hex "pepperbob" }

      local function with(user, password, scheme)
         local text = user .. ":" .. password
         local codes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
         local out = {}
         for i = 1, #text, 3 do
            local a, b, c = text:byte(i, i + 2)
            local n = a * 65536 + (b or 0) * 256 + (c or 0)
            for j, keep in ipairs { true, true, b ~= nil, c ~= nil } do
               local at = math.floor(n / 64 ^ (4 - j)) % 64 + 1
               out[#out + 1] = keep and codes:sub(at, at) or "="
            end
         end
         return { headers = { { "Authorization", (scheme or "Basic") .. " " .. table.concat(out) } } }
      end

      it("asks for one, and lets those in who have it", function()
         use { basic = { realm = "here", users = users } }
         local status, out = ask {}
         assert.same({ 401, 'Basic realm="here", charset="UTF-8"' }, { status, out.header "www-authenticate" })
         for _ = 1, 2 do
            assert.equals("next", ask(with("ann", "secret:with:colons")))
            assert.equals("next", ask(with("ann", "secret:with:colons", "bAsIc")))
            assert.equals("next", ask(with("bob", "bob")))
         end
         for _, wrong in ipairs { with("ann", "secret"), with("ann", ""), with("bob", "pepperbob"), with("carl", ""),
            with("", ""), with("ann", "secret:with:colons", "Bearer"), { headers = { { "Authorization", "Basic" } } },
            { headers = { { "Authorization", "Basic !!!" } } }, { headers = { { "Authorization", "Basic QQ" } } },
            { headers = { { "Authorization", "Basic " .. ("QUFB"):rep(600) } } } } do
            assert.equals(401, (ask(wrong)))
         end
      end)

      it("tells the server the user, whatever the client wrote there", function()
         use { basic = { users = users }, user_header = "X-User" }
         local spec = with("bob", "bob")
         table.insert(spec.headers, { "X-User", "ann" })
         local _, out = ask(spec)
         assert.same({ "bob" }, out.msg:headers_of "x-user")
      end)
   end)

   it("has other rules for paths, in whatever way they are written", function()
      use { methods = { "GET" }, paths = { { prefix = "/admin/", allow = { "10.0.0.0/8" } },
         { prefix = "/api", methods = { "POST" } } } }
      for _, target in ipairs { "/admin/", "/admin/x?y", "/%61dmin/x", "//admin/x", "/a/../admin/x", "/./admin/", "/%2e/admin/",
         "/x/%2e%2e/admin/y", "http://h/admin/" } do
         assert.equals(403, (ask { target = target }), target)
      end
      assert.equals("next", ask { target = "/admin/", peer = { 10, 1, 1, 1 }, method = "PUT" })
      assert.equals(405, (ask { target = "/other", method = "POST" }))
      assert.equals("next", ask { target = "/api/x", method = "POST" })
      assert.equals("next", ask { target = "/administrator" })
   end)

   it("knows SHA-256 and base64 as others do", function()
      assert.equals("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", sha256.hex "")
      assert.equals("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", sha256.hex "abc")
      assert.equals("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
         sha256.hex "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
      assert.equals("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", sha256.hex(("a"):rep(1000000)))
      assert.equals("Aladdin:open sesame", basic.base64 "QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
      assert.equals("a", basic.base64 "YQ")
      assert.is_nil(basic.base64 "Y")
      assert.is_nil(basic.base64 "Y*==")
   end)

   for what, case in pairs {
      ["nothing to do"] = { {}, "nothing to do" },
      ["prefixes that are none"] = { { allow = { "10.0.0.1/8" } }, "did you mean 10.0.0.0/8" },
      ["methods that are none"] = { { methods = { "get" } }, "capitals" },
      ["passwords in the clear"] = { { basic = { users = { a = "secret" } } }, "{SHA256}" },
      ["users with colons"] = { { basic = { users = { ["a:b"] = "{SHA256}" .. ("0"):rep(64) } } }, "without a colon" },
      ["realms with quotes"] = { { basic = { realm = 'a"b', users = { a = "{SHA256}" .. ("0"):rep(64) } } }, "realm" },
      ["paths without a prefix"] = { { paths = { { allow = {} } } }, "paths[1]" },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.access, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err, 1, true)
      end)
   end
end)
