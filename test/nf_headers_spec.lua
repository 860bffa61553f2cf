-- SPDX-License-Identifier: BSD-3-Clause
-- headers on messages: edits in both directions, and what servers are told of the client.

local abi = require "tideway.abi"
local rigs = require "test.support.message"
local tw = require "tideway"

local C = abi.C

describe("headers", function()
   local rig
   after_each(function()
      if rig then rig:close() end
      rig = nil
   end)

   local function list(msg)
      local out = {}
      for name, value in msg:each_header() do out[#out + 1] = name .. ": " .. value end
      return out
   end

   local function through(cfg, spec)
      if rig then rig:close() end
      rig = rigs.rig(tw.nf.headers(cfg))
      local out = rig:run(spec)
      assert.is_nil(out.why)
      assert.equals("next", out.exit)
      return out.msg
   end

   it("removes, sets and adds in requests, in this order", function()
      local msg = through({ set = { ["X-A"] = "new" }, add = { ["X-B"] = { "2", "3" } }, remove = { "x-c", "x-d" } },
         { headers = { { "x-a", "1" }, { "X-B", "1" }, { "X-A", "2" }, { "X-C", "1" }, { "X-C", "2" } } })
      assert.same({ "Host: example.org", "x-a: new", "X-B: 1", "X-B: 2", "X-B: 3" }, list(msg))
   end)

   it("does the same in responses, and leaves the other direction alone", function()
      local cfg = { response_set = { Server = "x" }, response_add = { ["X-B"] = "2" }, response_remove = { "X-C" } }
      local msg = through(cfg, { kind = C.TW_MSG_RESPONSE, status = 200, headers = { { "X-C", "1" }, { "Server", "y" } } })
      assert.same({ "Server: x", "X-B: 2" }, list(msg))
      assert.same({ "Host: example.org", "X-C: 1" }, list(through(cfg, { headers = { { "X-C", "1" } } })))
   end)

   it("tells servers who the client is, and believes nobody else", function()
      local spec = { peer = { 192, 0, 2, 7 }, host = "web.test", headers = { { "X-Forwarded-For", "1.2.3.4" },
         { "X-Forwarded-Proto", "https" }, { "X-Forwarded-Host", "evil.test" }, { "Via", "1.0 front" } } }
      local msg = through({ forwarded = true }, spec)
      assert.same({ "192.0.2.7", "http", "web.test", "1.0 front, 1.1 tideway" }, {
         msg:header "x-forwarded-for", msg:header "x-forwarded-proto", msg:header "x-forwarded-host", msg:header "via",
      })
   end)

   it("keeps what a trusted proxy says, and appends", function()
      local spec = { peer = { 10, 0, 0, 1 }, host = "web.test", headers = { { "X-Forwarded-For", "1.2.3.4" },
         { "X-Forwarded-For", "5.6.7.8" }, { "X-Forwarded-Proto", "https" } } }
      local msg = through({ forwarded = true, trusted = { "10.0.0.0/8" } }, spec)
      assert.same({ "1.2.3.4, 5.6.7.8, 10.0.0.1", "https", "web.test" },
         { msg:header "x-forwarded-for", msg:header "x-forwarded-proto", msg:header "x-forwarded-host" })
      assert.same({ "1.2.3.4, 5.6.7.8, 10.0.0.1" }, msg:headers_of "x-forwarded-for")
   end)

   it("writes Forwarded as RFC 7239 has it", function()
      local msg = through({ forwarded = "rfc7239" }, { host = "web.test:81", headers = { { "Forwarded", "for=evil" } } })
      assert.equals('for=192.0.2.1;proto=http;host="web.test:81"', msg:header "forwarded")
      msg = through({ forwarded = "rfc7239", trusted = { "2001:db8::/32" } }, { host = "w",
         peer = { 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9 }, headers = { { "Forwarded", "for=a" } } })
      assert.equals('for=a, for="[2001:db8::9]";proto=http;host="w"', msg:header "forwarded")
   end)

   for what, case in pairs {
      ["nothing to do"] = { {}, "nothing to do" },
      ["names that are none"] = { { set = { ["a b"] = "x" } }, '"a b" is not the name of a header' },
      ["values with line ends"] = { { response_set = { A = "x\r\nB: y" } }, "control characters" },
      ["other words for forwarded"] = { { forwarded = "yes" }, 'true or "rfc7239"' },
      ["spaces in via"] = { { forwarded = true, via = "a b" }, "without spaces" },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.headers, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err, 1, true)
      end)
   end
end)
