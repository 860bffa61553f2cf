-- SPDX-License-Identifier: BSD-3-Clause
-- Dates of HTTP, and what RFC 9111 lets a shared cache keep and answer with.

local date = require "tideway.nf.cache.date"
local policy = require "tideway.nf.cache.policy"

local NOW = 784111777 -- Sun, 06 Nov 1994 08:49:37 GMT

local function date_of(seconds) return os.date("!%a, %d %b %Y %H:%M:%S GMT", seconds) end

describe("dates of HTTP", function()
   it("are read in all three forms", function()
      assert.equal(NOW, date.parse "Sun, 06 Nov 1994 08:49:37 GMT")
      assert.equal(NOW, date.parse "Sunday, 06-Nov-94 08:49:37 GMT")
      assert.equal(NOW, date.parse "Sun Nov  6 08:49:37 1994")
   end)

   it("with two digits lie at most 50 years ahead", function()
      assert.equal(date.parse "Sun, 06 Nov 2044 08:49:37 GMT", date.parse("Sunday, 06-Nov-44 08:49:37 GMT", NOW))
      assert.equal(date.parse "Mon, 06 Nov 1995 08:49:37 GMT",
         date.parse("Monday, 06-Nov-95 08:49:37 GMT", date.parse "Mon, 06 Nov 2040 00:00:00 GMT"))
   end)

   it("that are none are not taken for one", function()
      for _, text in ipairs { "", "0", "-1", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 24:49:37 GMT",
         "Sun, 30 Feb 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nox 1994 08:49:37 GMT",
         "06 Nov 1994 08:49:37 GMT" } do
         assert.is_nil(date.parse(text), text)
      end
      assert.is_nil(date.parse(nil))
   end)

   it("are read as the C library writes them", function()
      math.randomseed(7)
      for _ = 1, 2000 do
         local t = math.random(0, 4e9)
         assert.equal(t, date.parse(date_of(t)))
      end
   end)
end)

describe("Cache-Control", function()
   local function of(...) return policy.directives { ... } end

   it("is read over all its fields, whatever the case", function()
      assert.same({ ["max-age"] = 60, public = true, ["no-cache"] = "set-cookie" },
         of("Max-Age=60, PUBLIC", 'no-cache="set-cookie"'))
      assert.same({ ["max-age"] = 5 }, of(" , max-age=5 ,,"))
      assert.same({ ["max-stale"] = true }, of "max-stale")
   end)

   it("that makes no sense is read the careful way", function()
      assert.equal(0, of("max-age=abc")["max-age"])
      assert.equal(0, of("max-age=-5")["max-age"])
      assert.equal(7, of("max-age=9, max-age=7")["max-age"])
      assert.equal(2 ^ 31, of("max-age=99999999999999")["max-age"])
      assert.equal(30, of('max-age="30"')["max-age"])
   end)
end)

describe("a shared cache", function()
   local function request(over)
      local r = { method = "GET", authorization = false, control = {}, range = false }
      for k, v in pairs(over or {}) do r[k] = v end
      return r
   end
   local function response(control, over)
      local r = { status = 200, date = NOW, set_cookie = false, validator = false, control = policy.directives { control } }
      for k, v in pairs(over or {}) do r[k] = v end
      r.lifetime = policy.lifetime(r, r.control)
      return r
   end

   it("takes a lifetime from s-maxage, max-age, Expires, and the time of the last change, in this order", function()
      local expires = date_of(NOW + 100)
      assert.equal(10, response("s-maxage=10, max-age=20", { expires = expires }).lifetime)
      assert.equal(20, response("max-age=20", { expires = expires }).lifetime)
      assert.equal(100, response("", { expires = expires }).lifetime)
      assert.equal(0, response("", { expires = "0" }).lifetime)
      assert.equal(100, response("", { last_modified = date_of(NOW - 1000) }).lifetime)
      assert.equal(86400, response("", { last_modified = date_of(NOW - 1e8) }).lifetime)
      assert.equal(0, response("", { last_modified = date_of(NOW + 5) }).lifetime)
      assert.equal(0, response("", { status = 302, last_modified = date_of(NOW - 1000) }).lifetime)
   end)

   it("keeps what it may", function()
      local fine = { { "max-age=5" }, { "public, max-age=5" }, { "s-maxage=1" }, { "", { status = 404, validator = true } },
         { "max-age=5", { status = 302 } }, { "no-cache", { validator = true } }, { "public, max-age=5", { set_cookie = true } } }
      for _, r in ipairs(fine) do assert.is_true(policy.storable(request(), response(r[1], r[2])), r[1]) end
      assert.is_true(policy.storable(request { authorization = true }, response "public, max-age=5"))
      assert.is_true(policy.storable(request { authorization = true }, response "s-maxage=5"))
   end)

   it("keeps nothing else, and says why", function()
      local function why(asked, r)
         local may, reason = policy.storable(request(asked), r)
         assert.is_false(may)
         return reason
      end
      assert.equal("no-store", why(nil, response "no-store, max-age=5"))
      assert.equal("no-store", why({ control = { ["no-store"] = true } }, response "max-age=5"))
      assert.equal("private", why(nil, response "private, max-age=5"))
      assert.equal("vary", why(nil, response("max-age=5", { vary = "*" })))
      assert.equal("authorization", why({ authorization = true }, response "max-age=5"))
      assert.equal("set-cookie", why(nil, response("max-age=5", { set_cookie = true })))
      assert.equal("method", why({ method = "POST" }, response "max-age=5"))
      assert.equal("range", why({ range = true }, response "max-age=5"))
      assert.equal("status", why(nil, response("max-age=5", { status = 500 })))
      assert.equal("status", why(nil, response("", { status = 302, validator = true })))
      assert.equal("not fresh", why(nil, response ""))
   end)

   it("counts the age of a response as RFC 9111 does", function()
      assert.equal(7, policy.initial_age("5", NOW, NOW, NOW + 2))
      assert.equal(60, policy.initial_age(nil, NOW - 60, NOW, NOW))
      assert.equal(0, policy.initial_age("x", NOW + 60, NOW, NOW))
   end)

   it("answers with what is fresh, and asks about the rest", function()
      local function usable(control, age, asked)
         return policy.usable({ lifetime = 10, control = policy.directives { control } }, age,
            policy.directives { asked or "" })
      end
      assert.equal("fresh", usable("", 9))
      assert.equal("revalidate", usable("", 10))
      assert.equal("revalidate", usable("no-cache", 1))
      assert.equal("revalidate", usable("", 1, "no-cache"))
      assert.equal("revalidate", usable("", 5, "max-age=4"))
      assert.equal("revalidate", usable("", 5, "min-fresh=5"))
      assert.equal("fresh", usable("", 5, "min-fresh=4"))
      assert.equal("fresh", usable("", 12, "max-stale=2"))
      assert.equal("fresh", usable("", 1e6, "max-stale"))
      assert.equal("revalidate", usable("", 13, "max-stale=2"))
      assert.equal("revalidate", usable("must-revalidate", 11, "max-stale"))
      assert.equal("stale", usable("stale-while-revalidate=5", 15))
      assert.equal("revalidate", usable("stale-while-revalidate=5", 16))
      assert.equal("revalidate", usable("s-maxage=10, stale-while-revalidate=5", 11))
   end)

   it("lets a stale one stand in for an error only where nobody forbids it", function()
      local function stands_in(control, age, asked)
         return policy.stands_in({ lifetime = 10, control = policy.directives { control } }, age,
            policy.directives { asked or "" }, 20)
      end
      assert.is_true(stands_in("", 30))
      assert.is_false(stands_in("", 31))
      assert.is_true(stands_in("stale-if-error=100", 110))
      assert.is_true(stands_in("", 110, "stale-if-error=100"))
      assert.is_false(stands_in("must-revalidate", 11))
   end)

   it("tells variants apart by the named fields alone", function()
      local function variant(vary, fields) return policy.variant(vary, function(name) return fields[name] end) end
      local gzip, plain = { ["accept-encoding"] = "gzip,  br", accept = "a" }, { ["accept-encoding"] = "identity" }
      assert.equal("", variant(nil, gzip))
      assert.are_not.equal(variant("Accept-Encoding", gzip), variant("Accept-Encoding", plain))
      assert.equal(variant("accept-encoding", gzip), variant("Accept-Encoding", { ["accept-encoding"] = "gzip,br" }))
      assert.equal(variant("Accept, Accept-Encoding", gzip), variant("Accept-Encoding,Accept", gzip))
   end)

   it("says 304 to who has it", function()
      local function has(fields, etag, modified)
         return policy.not_modified(function(name) return fields[name] end, etag, modified)
      end
      assert.is_true(has({ ["if-none-match"] = '"a", W/"b"' }, '"b"'))
      assert.is_true(has({ ["if-none-match"] = "*" }, nil))
      assert.is_false(has({ ["if-none-match"] = '"a"', ["if-modified-since"] = date_of(NOW) }, '"b"', date_of(NOW)))
      assert.is_true(has({ ["if-modified-since"] = date_of(NOW) }, nil, date_of(NOW)))
      assert.is_false(has({ ["if-modified-since"] = date_of(NOW - 1) }, nil, date_of(NOW)))
      assert.is_false(has({}, '"b"', date_of(NOW)))
   end)
end)
