-- SPDX-License-Identifier: BSD-3-Clause
-- Users with and without roles on the control socket of a running engine, as processes of their own.

local instances = require "test.support.instance"
local json = require "tideway.json"
local posix = require "tideway.posix"
local shell = require "test.shell"

local missing = posix.geteuid() ~= 0 and "needs root to become somebody else"
   or not shell.has "setpriv" and "setpriv is missing" or nil

local SCRIPT = [[
tw.control {
   view = { 64001, "group:64100" }, operate = { "group:64200" }, admin = { 64003 },
}
-- A command that changes something, for these specs.
package.preload["spec.command"] = function()
   return { touch = function(...) return select("#", ...) .. ":" .. tostring((...)) end }
end
local commands = require "tideway.live.commands"
commands.touch = { module = "spec.command", fn = "touch", role = "operate", summary = "Does nothing." }
commands.forbidden = { module = "spec.command", fn = "touch", role = "admin", summary = "Does nothing." }
]]

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text and text:find(part, 1, true), ("no %q in:\n%s"):format(part, tostring(text)))
   end
end

local function as(uid, groups)
   return ("setpriv --reuid %d --regid %d %s"):format(uid, uid, groups and "--groups " .. groups or "--clear-groups")
end

-- What a user gets for one request, from a process of its own.
local REQUEST = [[
local client, json = require "tideway.control.client", require "tideway.json"
it("asks", function()
   local c, err = client.connect(os.getenv "SPEC_SOCKET")
   local request, reply = json.decode(os.getenv "SPEC_REQUEST"), { refused = err }
   for _ = 1, c and request.times or 1 do reply = c and c:request(request, { seconds = 60 }) or reply end
   io.open(os.getenv "SPEC_REPLY", "w"):write(json.encode(reply)):close()
end)
]]

-- Connects often and says what came of it.
local CROWD = [[
local client, json = require "tideway.control.client", require "tideway.json"
it("crowds", function()
   local list, result = {}, { inside = 0 }
   for i = 1, 40 do
      list[i] = assert(client.connect(os.getenv "SPEC_SOCKET"))
      local reply = list[i]:request({ op = "hello" }, { seconds = 60 })
      if reply.ok then result.inside = result.inside + 1 else result.error = reply.error end
   end
   io.open(os.getenv "SPEC_REPLY", "w"):write(json.encode(result)):close()
end)
]]

describe("on the control socket", function()
   if missing then return it("roles", function() pending(missing) end) end
   local engine, dir

   setup(function()
      engine = instances.start { script = instances.IDLE .. SCRIPT }
      dir = shell.directory()
      shell.write(dir .. "/ask_spec.lua", REQUEST)
      shell.write(dir .. "/crowd_spec.lua", CROWD)
      os.execute("chmod 777 " .. dir)
   end)
   teardown(function()
      if engine then engine:stop() end
      if dir then shell.remove(dir) end
   end)

   local function run(spec, prefix, request, path)
      os.remove(dir .. "/reply")
      local r = shell.tideway(("test %s/%s_spec.lua"):format(dir, spec), ("env SPEC_SOCKET=%s SPEC_REPLY=%s/reply "
         .. "SPEC_REQUEST=%s %s"):format(path or engine.path, dir, shell.quote(json.encode(request, true)), prefix))
      local text = posix.slurp(dir .. "/reply")
      assert(text, r.out .. r.err)
      return json.decode(text)
   end
   local function ask(...) return run("ask", ...) end

   local function eval(code) return { op = "eval", code = code } end

   for _, case in ipairs {
      { "a user who may view", as(64001), "view" },
      { "a user of a group that may view", as(64002, "7,64100"), "view" },
      { "a user of a group that may operate", as(64002, "64200,64100"), "operate" },
      { "a user who may view of a group that may operate", as(64001, "64200"), "operate" },
      { "a user who is admin", as(64003), "admin" },
      { "root", "env", "admin" },
   } do
      local name, prefix, role = case[1], case[2], case[3]
      local rank = { view = 1, operate = 2, admin = 3 }
      local may_operate, may_all = rank[role] >= 2, rank[role] >= 3

      it(name .. " can do that, and no more", function()
         assert.equal(role, ask(prefix, { op = "hello" }).value.role)
         assert.is_true(ask(prefix, { op = "call", name = "log", args = { 1 } }).ok)
         assert.is_true(ask(prefix, eval "log(1)").ok)
         assert.is_true(ask(prefix, eval "log { } " ).ok == false) -- a table is no count
         local r = ask(prefix, { op = "call", name = "touch", args = { "a", 2 } })
         assert.equal(may_operate, r.ok)
         if may_operate then assert.equal("2:a", r.value) else
            has(r.error, "touch needs role operate", "has role " .. role, "tw.control { operate = {")
         end
         assert.equal(may_operate, ask(prefix, eval "touch 'x'").ok)
         r = ask(prefix, { op = "call", name = "forbidden" })
         assert.equal(may_all, r.ok)
         if not may_all then has(r.error, "forbidden needs role admin", "has role " .. role) end
         r = ask(prefix, eval "1 + 1")
         assert.equal(may_all, r.ok)
         if not may_all then has(r.error, "evaluating Lua needs role admin", "literal arguments: ", "log") end
      end)
   end

   it("who may not evaluate gets nothing of it run, however it is written", function()
      for _, code in ipairs {
         "rawset(_G, 'x', 1)", "touch(rawset(_G, 'x', 1))", "log((function() rawset(_G, 'x', 1) end)())", "log() x = 1",
         "touch{[rawset(_G, 'x', 1)] = 1}", "x = touch()", "touch(_G)", "touch(tw)", "tw.now()", "require 'ffi'",
         "log.x()", "(touch)()", "touch():rep(2)", "x",
      } do
         local r = ask(as(64002, "64200"), eval(code))
         assert.is_false(r.ok, code)
         has(r.error, "needs role admin")
      end
      assert.is_nil(engine:eval "rawget(_G, 'x')")
      assert.is_false(ask(as(64001), { op = "complete", text = "tw." }).value ~= nil
         and #ask(as(64001), { op = "complete", text = "tw." }).value > 0)
   end)

   it("who may not evaluate sends short requests only", function()
      local r = ask(as(64001), eval("log(" .. (" "):rep(70000) .. ")"))
      has(r.error, "a frame of 70", "1 to 65536 are possible")
      assert.is_true(ask(as(64001), eval("log(" .. (" "):rep(60000) .. ")")).ok)
   end)

   it("who has no role is told so at once, and how to get one", function()
      for _, prefix in ipairs { as(65534), as(64002), as(64002, "64003") } do
         local r = ask(prefix, { op = "hello" })
         assert.is_false(r.ok)
         has(r.error, "the control socket needs role view", "has none", "tw.control { view = {")
      end
      local r = engine:tideway("call log", as(65534))
      assert.equal(1, r.code)
      has(r.err, "tideway call: instance 'spec'", "needs role view", "tw.control { view = { 65534 } }")
   end)

   it("without tw.control only root gets in, and others are told why", function()
      local other = instances.start { name = "closed" }
      local r = other:tideway("call log", as(64001))
      local mode = shell.run("stat -c %a " .. other.path).out
      assert.equal("admin", other:client().hello.role)
      other:stop()
      assert.equal("600\n", mode)
      assert.equal(1, r.code)
      has(r.err, "you may not", "tw.control { view = {")
   end)

   it("roles can be given while it runs", function()
      local other = instances.start { name = "later" }
      local before = ask(as(64001), { op = "hello" }, other.path)
      other:eval "tw.control { view = { 64001 } }"
      local after = ask(as(64001), { op = "hello" }, other.path)
      other:eval "tw.control { view = { 64002 } }"
      local taken = ask(as(64001), { op = "hello" }, other.path)
      other:stop()
      has(before.refused, "Permission denied")
      assert.equal("view", after.value.role)
      has(taken.error, "needs role view")
   end)

   it("what was refused is logged, too, once a second", function()
      posix.poll({}, 1100)
      local many = eval "os.exit()"
      many.times = 500
      has(ask(as(64001), many).error, "needs role admin")
      local list = engine:client():call("log", { 50 }).view.data
      local found = 0
      for i = #list, 1, -1 do
         if list[i].uid ~= 64001 then break end
         found = found + 1
      end
      assert.is_true(found <= 10, found .. " lines")
      local entry = list[#list]
      assert.equal(64001, entry.uid)
      assert.equal("evaluating Lua", entry.what)
      has(entry.result, "refused", "admin")
   end)

   it("one user without role admin cannot keep others out", function()
      local result = run("crowd", as(64001), {})
      assert.equal(32, result.inside)
      has(result.error, "you are connected 32 times")
      engine:client():close()
   end)
end)
