-- SPDX-License-Identifier: BSD-3-Clause
-- Two operators at the control socket of a running engine: whoever changes what the other has changed meanwhile is told
-- what it was, and nothing is done before he knows.

local instances = require "test.support.instance"

local SCRIPT = [[
local tw = require "tideway"
tw.options { idle = "sleep" }
local a, b = tw.port("a", "wire0"), tw.port("b", "wire1")
least = tw.nf("least", function(cfg)
   return { packet = function(pkt) if pkt.len < cfg.bytes then return pkt:drop "short" end end }
end)
tw.chain("up", a, least { bytes = 10 }, b)
tw.chain("down", b, a)
]]

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(tostring(text):find(part, 1, true), ("no %q in:\n%s"):format(part, tostring(text)))
   end
end

describe("two operators", function()
   local engine, one, two

   before_each(function()
      engine = instances.start { script = SCRIPT }
      one, two = engine:client(), engine:client()
   end)
   after_each(function()
      one:close()
      two:close()
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      assert.equal(0, result.counters.totals.difference)
   end)

   local function eval(client, code) return client:eval(code, { seconds = 60 }) end
   local function applied(client, code)
      local reply = eval(client, code)
      has(reply.error or reply.report, "applied to 1/1 lcores in ", "0 packets lost")
   end
   local function refused(client, code, ...)
      local reply = eval(client, code)
      assert.is_false(reply.ok)
      has(reply.error, ...)
   end
   local function nfs() return engine:eval "#chains.up.nfs" end

   it("change one thing after the other: the second is told of the first, and does it when it still wants to", function()
      applied(one, "chains.up:insert(tw.nf.count {}, { at = 1 })")
      refused(two, "chains.up:remove 'least'", "not done: since you looked (generation 1) there came",
         "user root (uid 0), ", "swap chain up on lcore ", "+ count before least", "repeat it if it is still what you want")
      assert.equal(2, nfs())
      applied(two, "chains.up:remove 'least'")
      assert.equal(1, nfs())
      refused(one, "reload()", "not done: ", "- least")
      applied(one, "reload()")
      assert.equal(1, nfs())
      refused(two, "undo()", "not done: ", "reload: ")
      applied(two, "undo(2)")
      assert.equal(2, nfs())
   end)

   it("edit at the same time: who commits last is told what the other has committed", function()
      for _, c in ipairs { one, two } do assert.is_true(eval(c, "edit()").ok) end
      assert.is_true(eval(one, "chains.up:insert(least { bytes = 20 }, { at = 2 })").ok)
      assert.is_true(eval(two, "chains.up:insert(least { bytes = 30 }, { at = 1 })").ok)
      for _, c in ipairs { one, two } do assert.equal(2, eval(c, "#chains.up.nfs").view.data) end -- as it would be
      assert.equal(1, nfs())
      has(eval(one, "dry()").view.text, "swap chain up on lcore ", "+ least#2 at the end")
      applied(one, "commit()")
      refused(two, "commit()", "not done: ", "+ least#2 at the end")
      refused(two, "commit()", "there is nothing to commit: begin with edit()")
      assert.equal(2, nfs())
      assert.equal(1, #engine:eval "changes()")
      applied(two, "chains.up:insert(least { bytes = 30 }, { at = 1 })")
      assert.equal(3, nfs())
   end)

   it("edit in several lines: nothing is done before commit(), nothing by abandon()", function()
      assert.is_true(eval(one, "edit()").ok)
      assert.is_true(eval(one, "p = tw.port('c', 'wire2')").ok)
      refused(one, "tw.port('c', 'wire3')", 'the name "c" is taken')
      assert.is_true(eval(one, "tw.chain('side', p, least { bytes = 20 }, p)").ok)
      assert.equal(2, engine:eval "#chains")
      applied(one, "commit()")
      assert.equal(3, engine:eval "#chains")
      assert.is_true(eval(one, "edit()").ok)
      assert.is_true(eval(one, "chains.side:delete()").ok)
      assert.equal("forgotten", eval(one, "abandon()").report)
      refused(one, "abandon()", "there is nothing to forget")
      assert.equal(3, engine:eval "#chains")
      assert.is_true(eval(one, "edit()").ok)
      assert.is_true(eval(one, "chains.side:delete()").ok)
      refused(one, "commit() chains.down:delete()", "behind commit() or abandon() nothing more is declared")
      assert.equal(2, engine:eval "#chains")
      assert.equal(2, #engine:eval "changes()")
      has(engine:tideway("call log").out, "commit()", "applied to 1/1 lcores")
   end)

   it("who look at the changes know them, and he who leaves in the middle of an edit leaves nothing", function()
      assert.is_true(eval(two, "edit()").ok)
      assert.is_true(eval(two, "chains.up:delete()").ok)
      two:close()
      two = engine:client()
      applied(one, "set('up.least', { bytes = 99 })")
      assert.is_true(eval(two, "changes()").ok)
      applied(two, "set('up.least', { bytes = 98 })")
      assert.equal(98, engine:eval("chains.up.least").parameters.bytes)
   end)
end)
