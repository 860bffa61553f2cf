-- SPDX-License-Identifier: BSD-3-Clause
-- l4_proxy: who may connect, how often, and where to.

local abi = require "tideway.abi"
local flow = require "test.support.flow"
local tw = require "tideway"
local upstream = require "test.support.upstream"

local C = abi.C

describe("l4_proxy", function()
   local service, app, other

   local function start(config, transport)
      app, other = flow.server(), flow.server()
      local nf = tw.nf.l4_proxy(config)
      service = flow.start({ { name = "l4_proxy", nf = nf, message = nf.message } }, { protocol = C.TW_LISTEN_TCP,
         servers = { app.port }, others = { other.port }, transport = transport })
      for i, server in ipairs { app, other } do
         upstream.group(i - 1, { servers = { server.port }, protocol = C.TW_LISTEN_TCP })
      end
      return nf
   end

   after_each(function()
      local ended = service
      service = nil
      if ended then ended:finish(app, other) end
   end)

   local function passes(to)
      local c = flow.client()
      c:send "x"
      local s = assert(to:accept(), "no connection at the server")
      assert.equal("x", s:bytes(1))
      c:close()
      s:close()
   end

   local function is_refused()
      local c = flow.client()
      assert.is_false(c:more())
      c:close()
   end

   for _, transport in ipairs { "inline", "sk_msg" } do
      it("sends connections to its group, so many of a client, by " .. transport, function()
         local nf = start({ upstream = "other", max_per_client = 3, window = 60, name = "l4_" .. transport }, transport)
         for _ = 1, 3 do passes(other) end
         is_refused()
         is_refused()
         assert.is_nil(app:accept(0.05))
         assert.same({ connections = 5, denied = 0, not_allowed = 0, limited = 2 }, nf.export())
      end)
   end

   it("asks deny before allow, and refuses everybody else", function()
      local nf = start { allow = { "127.0.0.0/8", "2001:db8::/32" }, deny = { "127.0.0.2" }, name = "l4_a" }
      passes(app)
      assert.same({ 1, 0, 0 }, { nf.export().connections, nf.export().denied, nf.export().not_allowed })
      service:settle()
      service:close()
      nf = start { allow = { "10.0.0.0/8", "::/0" }, name = "l4_b" }
      is_refused()
      assert.equal(1, nf.export().not_allowed)
      service:settle()
      service:close()
      nf = start { allow = { "0.0.0.0/0" }, deny = { "127.0.0.1", "fd00::/8" }, name = "l4_c" }
      is_refused()
      assert.equal(1, nf.export().denied)
   end)

   it("lets a client in again when its window is over", function()
      start { max_per_client = 1, window = 1, name = "l4_window" }
      passes(app)
      is_refused()
      assert.is_true(upstream.eventually(function()
         local c = flow.client()
         local s = app:accept(0.1)
         c:close()
         if s then s:close() end
         return s ~= nil
      end))
   end)

   it("says what is wrong with its parameters", function()
      for _, case in ipairs {
         { { allow = { "10.0.0.1/8" } }, "allow%[1%]" }, { { deny = { "x" } }, "deny%[1%]" },
         { { upstream = 7 }, "upstream must be" }, { { key = "cookie" }, "client" }, { { max_per_client = 0 }, "max_per" },
      } do
         local ok, err = pcall(tw.nf.l4_proxy, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err)
      end
   end)
end)
