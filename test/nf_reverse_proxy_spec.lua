-- SPDX-License-Identifier: BSD-3-Clause
-- reverse_proxy on messages: groups, paths, hosts, keys, redirects of servers.

local abi = require "tideway.abi"
local rigs = require "test.support.message"
local tw = require "tideway"

local C = abi.C
local GROUPS = { app = 3, files = 5 }

local function key(text) return C.tw_text_key(text, #text) end

describe("reverse_proxy", function()
   local rig
   after_each(function()
      if rig then rig:close() end
      rig = nil
   end)

   local function use(cfg)
      if rig then rig:close() end
      rig = rigs.rig(tw.nf.reverse_proxy(cfg), { groups = GROUPS })
   end

   local function ask(spec)
      local out = rig:run(type(spec) == "table" and spec or { target = spec })
      assert.is_nil(out.why)
      return out
   end

   it("sends requests to its group", function()
      use { upstream = "app" }
      local out = ask "/x?y"
      assert.same({ "gate", "upstream", 3, "/x?y", "example.org" },
         { out.exit, out.verdict, out.group, out.msg.target, out.msg.host })
      assert.equals(0, out.key)
   end)

   it("takes a group's own object", function()
      use { upstream = require("tideway.gate.group_ref").new("elsewhere", 9) }
      assert.equals(9, ask("/").group)
   end)

   it("changes path and host", function()
      use { upstream = "app", strip = "/api/", prefix = "/v1", host = "app.internal:8080" }
      for before, after in pairs { ["/api/x?q"] = "/v1/x?q", ["/api"] = "/v1/", ["/apix"] = "/v1/apix", ["/"] = "/v1/" } do
         local out = ask(before)
         assert.equals(after, out.msg.target)
         assert.equals("app.internal:8080", out.msg:header "host")
      end
   end)

   it("chooses by path and host, the first that fits", function()
      use { upstream = "app", routes = {
         { path = "/static", upstream = "files", strip = "/static" },
         { when_host = "files.test", upstream = "files" },
         { path = "/x", when_host = "both.test", upstream = "files" },
      } }
      assert.same({ 5, "/a.css" }, { ask("/static/a.css").group, ask("/static/a.css").msg.path })
      assert.equals(3, ask("/statics").group)
      assert.equals(5, ask({ target = "/", host = "FILES.test:81" }).group)
      assert.equals(3, ask({ target = "/y", host = "both.test" }).group)
      assert.equals(5, ask({ target = "/x/1", host = "both.test" }).group)
   end)

   it("lets what no route takes go on without a group of its own", function()
      use { routes = { { path = "/a", upstream = "app" } } }
      assert.equals("next", ask("/b").exit)
   end)

   it("has keys for consistent hashing", function()
      for what, case in pairs {
         client = { {}, "192.0.2.1" },
         path = { { target = "/p?q" }, "/p" },
         host = { { host = "h.test" }, "h.test" },
         ["header:X-K"] = { { headers = { { "x-k", "v" } } }, "v" },
         ["cookie:sid"] = { { headers = { { "Cookie", "a=1; sid=abc; xsid=no" } } }, "abc" },
      } do
         use { upstream = "app", key = what }
         assert.equals(key(case[2]), ask(case[1]).key, what)
      end
      use { upstream = "app", key = "cookie:sid" }
      assert.equals(0, ask({ headers = { { "Cookie", "xsid=1" } } }).key)
      use { upstream = "app", key = function(msg) return msg.method end }
      assert.equals(key "GET", ask("/").key)
   end)

   it("mends redirects of servers that name themselves", function()
      local function location(cfg, target, given)
         cfg.upstream = "app"
         use(cfg)
         ask { target = target, id = 70, host = "web.test" }
         local out = ask { kind = C.TW_MSG_RESPONSE, id = 70, status = 302, headers = { { "Location", given } } }
         return out.msg:header "location"
      end
      local cfg = { host = "app.internal", strip = "/api" }
      assert.equals("http://web.test/api/login?x", location(cfg, "/api/a", "http://app.internal/login?x"))
      assert.equals("/api/login", location(cfg, "/api/a", "/login"))
      assert.equals("http://other.test/x", location(cfg, "/api/a", "http://other.test/x"))
      assert.equals("//other.test/x", location(cfg, "/api/a", "//other.test/x"))
      assert.equals("/x", location({ prefix = "/v1" }, "/a", "/v1/x"))
      assert.is_nil(tw.nf.reverse_proxy({ upstream = "app" }).response)
   end)

   it("sends connections and datagrams", function()
      use { upstream = "app", key = "client" }
      for _, kind in ipairs { C.TW_MSG_OPEN, C.TW_MSG_DATAGRAM } do
         local out = ask { kind = kind, bytes = "x" }
         assert.same({ "upstream", 3, key "192.0.2.1" }, { out.verdict, out.group, out.key })
      end
   end)

   it("faults when there is no such group", function()
      use { upstream = "nowhere" }
      local out = rig:run {}
      assert.matches('no upstream group "nowhere"; there are: app, files', out.why)
   end)

   for what, case in pairs {
      ["no group"] = { {}, "upstream is missing" },
      ["a group that is none"] = { { upstream = 7 }, "upstream is 7" },
      ["paths without a slash"] = { { upstream = "a", strip = "api" }, "begins with /" },
      ["hosts with a path"] = { { upstream = "a", host = "h/x" }, "host is" },
      ["keys that do not exist"] = { { upstream = "a", key = "session" }, "key is session" },
      ["routes that say nothing"] = { { routes = { { upstream = "a" } } }, "needs path or when_host" },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.reverse_proxy, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err, 1, true)
      end)
   end
end)
