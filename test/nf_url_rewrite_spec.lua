-- SPDX-License-Identifier: BSD-3-Clause
-- url_rewrite on messages: patterns, prefixes, redirects, queries; rules that are refused.

local rigs = require "test.support.message"
local tw = require "tideway"

describe("url_rewrite", function()
   local rig
   after_each(function()
      if rig then rig:close() end
      rig = nil
   end)

   -- Target behind the rules, or status and Location.
   local function through(rules, spec)
      if rig then rig:close() end
      rig = rigs.rig(tw.nf.url_rewrite { rules = rules })
      local out = rig:run(type(spec) == "table" and spec or { target = spec })
      assert.is_nil(out.why)
      if out.verdict == "respond" then return out.status, out.header "location" end
      assert.equals("next", out.exit)
      return out.msg.target
   end

   it("changes paths by patterns, prefixes and whole paths", function()
      assert.equals("/new/a/b", through({ { "^/old/(.*)$", "/new/%1" } }, "/old/a/b"))
      assert.equals("/other", through({ { "^/old/(.*)$", "/new/%1" } }, "/other"))
      assert.equals("/x", through({ { prefix = "/api/", to = "/" } }, "/api/x"))
      assert.equals("/apix", through({ { prefix = "/api/", to = "/" } }, "/apix"))
      assert.equals("/index.html", through({ { exact = "/", to = "/index.html" } }, "/"))
      assert.equals("/a", through({ { exact = "/", to = "/index.html" } }, "/a"))
      assert.equals("/b/a", through({ { "^/(%w+)/(%w+)$", "/%2/%1" } }, "/a/b"))
   end)

   it("keeps the query, and puts its own first", function()
      assert.equals("/new/a?x=1&y", through({ { "^/old/(.*)$", "/new/%1" } }, "/old/a?x=1&y"))
      assert.equals("/p?id=7&x=1", through({ { "^/item/(%d+)$", "/p?id=%1" } }, "/item/7?x=1"))
   end)

   it("takes the first rule that fits, and goes on when it says so", function()
      local rules = { { prefix = "/a", to = "/b" }, { prefix = "/b", to = "/c" } }
      assert.equals("/b/1", through(rules, "/a/1"))
      rules[1].go_on = true
      assert.equals("/c/1", through(rules, "/a/1"))
   end)

   it("looks at host and method", function()
      local rules = { { prefix = "/", to = "/only/", host = "A.test", method = "GET" } }
      assert.equals("/only/x", through(rules, { target = "/x", host = "a.test:8080" }))
      assert.equals("/x", through(rules, { target = "/x", host = "b.test" }))
      assert.equals("/x", through(rules, { target = "/x", host = "a.test", method = "POST" }))
   end)

   it("redirects", function()
      assert.same({ 301, "/store/1?q" }, { through({ { prefix = "/shop", to = "/store", redirect = 301 } }, "/shop/1?q") })
      assert.same({ 308, "https://w.test/a" },
         { through({ { "^/(.*)$", "https://w.test/%1", redirect = 308 } }, "/a") })
   end)

   it("never redirects to another host by a path", function()
      assert.same({ 302, "/evil.test/x" }, { through({ { "^/r(.*)$", "%1", redirect = 302 } }, "/r//evil.test/x") })
   end)

   it("faults rather than write what is no path", function()
      rig = rigs.rig(tw.nf.url_rewrite { rules = { { "^/a$", "/b c" } } })
      local out = rig:run { target = "/a" }
      assert.equals("fault", out.verdict)
      assert.matches("byte 0x20", out.why)
   end)

   for what, case in pairs {
      ["no rules"] = { {}, "rules is empty" },
      ["a rule without a path"] = { { { to = "/x" } }, "rule 1: give a pattern" },
      ["two ways at once"] = { { { "^/a", prefix = "/b", to = "/x" } }, "one of them" },
      ["a rule that leads nowhere"] = { { { "^/a" } }, "to %(or the second value%)" },
      ["an open capture"] = { { { "^/a(", "/x" } }, "a %( without its %)" },
      ["a capture that is not open"] = { { { "^/a[)]%))", "/x" } }, "a %) without its %(" },
      ["an open set"] = { { { "^/[]a", "/x" } }, "a %[ without its %]" },
      ["a pattern that ends early"] = { { { "^/a%", "/x" } }, "ends with %%" },
      ["captures that are not there"] = { { { "^/a(.*)$", "/%2" } }, "names %%2" },
      ["a relative path"] = { { { "^/a", "x" } }, 'must begin with /' },
      ["a status that is no redirect"] = { { { "^/a", "/x", redirect = 304 } }, "301, 302, 303, 307 or 308" },
      ["an unknown key"] = { { { "^/a", "/x", redirekt = 301 } }, 'there is no "redirekt"' },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.url_rewrite, { rules = case[1] })
         assert.is_false(ok)
         assert.matches(case[2], err)
      end)
   end
end)
