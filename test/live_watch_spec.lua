-- SPDX-License-Identifier: BSD-3-Clause
-- Scripts that are saved while they run: `tideway run --watch`, `tideway reload`, SIGHUP. What is right runs, what is
-- wrong is said and changes nothing, whatever way an editor writes and whoever asks.

local instances = require "test.support.instance"
local json = require "tideway.json"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local FRAME = ("x"):rep(60)

-- Its NF lies in a file of its own; each says which version it is by the reason it drops for.
local SCRIPT = [[
local tw = require "tideway"
local mark = require "mark"
tw.options { idle = "sleep" }
tw.control { view = { 64001 }, operate = { 64002 } }
local a = tw.port("a", "wire0")
tw.chain("c", a, tw.nf.count {}, mark { reason = %q }, a)
]]

local MARK = [[
local tw = require "tideway"
return tw.nf("mark", function(cfg)
   return { packet = function(pkt) return pkt:drop(cfg.reason .. %q) end }
end)
]]

local engine, injected

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

local function start(options)
   injected = 0
   engine = instances.start {
      script = SCRIPT:format "one", files = { ["mark.lua"] = MARK:format "_a" }, options = options,
   }
end

local function file(name) return engine.files .. "/" .. name end
local function save(name, text) shell.write(file(name), text) end

-- Lines of the log in which a text stands.
local function lines_with(text)
   local list = {}
   for line in engine:log():gmatch "[^\n]+" do
      if line:find(text, 1, true) then list[#list + 1] = line end
   end
   return list
end

-- Waits until a text was logged so often, and no more.
local function logged(text, times)
   labs.eventually(60, function() return #lines_with(text) >= (times or 1) end)
   local lines = lines_with(text)
   assert.equal(times or 1, #lines, engine:log())
   return lines[#lines]
end

-- What is dropped from now on is dropped for this reason: what runs is this version.
local function drops_for(reason)
   local function count()
      for _, d in ipairs(engine:eval "drops()") do
         if d.reason == reason then return d.count end
      end
      return 0
   end
   local before = count()
   engine:eval(("for _ = 1, 5 do ports.a:inject(%q) end"):format(FRAME))
   injected = injected + 5
   labs.eventually(60, function() return count() >= before + 5 end)
   assert.equal(before + 5, count(), reason)
end

local function changes() return #engine:eval "changes()" end

-- Every packet is accounted for, whatever was saved meanwhile.
local function stop()
   local result = engine:stop()
   engine = nil
   assert.equal(0, result.code, result.err)
   assert.same({ injected, 0 }, { result.counters.totals.received, result.counters.totals.difference })
   assert.equal(injected, result.counters.totals.dropped)
end

after_each(function()
   if engine then engine:stop "KILL" end
   engine = nil
end)

describe("tideway run --watch", function()
   it("reloads a script that is saved, once", function()
      start "--watch"
      drops_for "one_a"
      save("script.lua", SCRIPT:format "two")
      has(logged("script.lua was saved", 1), "script.lua was saved: applied to 1/1 lcores in ", ", 0 packets lost")
      drops_for "two_a"
      posix.poll({}, 800) -- three looks more
      assert.equal(1, #lines_with "was saved")
      has(engine:tideway("call changes").out, "--watch", "reload: swap chain c on lcore ", "~ mark")
      stop()
   end)

   it("refuses what is wrong with file, line and reason, goes on with what ran, and takes the mended one", function()
      start "--watch"
      save("script.lua", "local x = = 1\n")
      has(logged("what runs goes on", 1), "script.lua was saved, and what runs goes on: ", "script.lua:1: unexpected symbol")
      drops_for "one_a"
      save("script.lua", SCRIPT:format "two" .. "error 'no such plan'\n")
      has(logged("what runs goes on", 2), "script.lua:7: no such plan")
      save("script.lua", SCRIPT:format("two"):gsub("tw.nf.count", "tw.nf.cuont"))
      has(logged("what runs goes on", 3), "script.lua:6:", '"cuont"', "count")
      save("script.lua", SCRIPT:format("two"):gsub('"wire0"', '"net_nonsense0"'))
      has(logged("what runs goes on", 4), "net_nonsense0")
      drops_for "one_a"
      assert.equal(0, changes())
      save("script.lua", SCRIPT:format "two")
      logged "script.lua was saved: applied to 1/1 lcores"
      drops_for "two_a"
      stop()
   end)

   it("reloads modules of the script, and refuses broken ones", function()
      start "--watch"
      save("mark.lua", MARK:format "_b")
      has(logged("mark.lua was saved", 1), "mark.lua was saved: applied to 1/1 lcores in ")
      drops_for "one_b"
      save("mark.lua", "return tw.nf(")
      logged("mark.lua was saved, and what runs goes on", 1)
      has(engine:log(), "mark.lua:1: unexpected symbol near '<eof>'")
      drops_for "one_b"
      save("mark.lua", MARK:format "_c")
      logged("mark.lua was saved: applied", 2)
      drops_for "one_c"
      stop()
   end)

   it("knows a module that comes, also one that the script was refused for", function()
      start "--watch"
      save("script.lua", (SCRIPT:format("one"):gsub('"mark"', '"other"')))
      has(logged("script.lua was saved, and what runs goes on", 1), "module 'other' not found")
      save("other.lua", "return tw.nf(")
      logged("other.lua was saved, and what runs goes on", 1)
      has(engine:log(), "other.lua:1: unexpected symbol near '<eof>'")
      drops_for "one_a"
      save("other.lua", MARK:format "_o")
      logged("other.lua was saved: applied", 1)
      drops_for "one_o"
      save("other.lua", MARK:format "_p")
      logged("other.lua was saved: applied", 2)
      drops_for "one_p"
      stop()
   end)

   it("reads a file when it is whole, however an editor writes it", function()
      start "--watch"
      -- By rename, with the old one kept beside it.
      shell.run(("cd %s && printf %%s %s >.script.swp && mv script.lua script.lua~ && sleep 0.4 && mv .script.swp script.lua")
         :format(engine.files, shell.quote(SCRIPT:format "two")))
      logged("was saved: applied", 1)
      drops_for "two_a"
      -- Rename over it.
      save("script.new", SCRIPT:format "three")
      os.rename(file "script.new", file "script.lua")
      logged("was saved: applied", 2)
      drops_for "three_a"
      -- In place and bit by bit: the first part alone would be an error. Once more, when this process did not run for
      -- so long that what was there might have been the whole.
      local applied = 2
      for try = 1, 20 do
         local text, longest, refused = SCRIPT:format("four" .. try), 0, #lines_with "what runs goes on"
         local last, f = posix.now(), assert(io.open(file "script.lua", "w"))
         for i = 1, #text, 60 do
            f:write(text:sub(i, i + 59))
            f:flush()
            longest, last = math.max(longest, posix.now() - last), posix.now()
            posix.poll({}, 60)
         end
         f:close()
         longest = math.max(longest, posix.now() - last)
         labs.eventually(60, function() return #lines_with "was saved: applied" > applied end)
         applied = #lines_with "was saved: applied"
         drops_for(("four%d_a"):format(try))
         if longest < 200e6 then
            assert.equal(refused, #lines_with "what runs goes on", engine:log())
            break
         end
      end
      stop()
   end)

   it("sees two files that are saved at once as one change, and one file that is saved twice in a moment", function()
      start "--watch"
      save("mark.new", MARK:format "_b")
      save("script.new", SCRIPT:format "two")
      os.rename(file "mark.new", file "mark.lua")
      os.rename(file "script.new", file "script.lua")
      logged("was saved: applied", 1)
      drops_for "two_b"
      posix.poll({}, 600)
      assert.equal(1, changes())
      -- As long as each other, within a second, in the same file: neither size, time nor inode tell them apart.
      for i, version in ipairs { "_c", "_d", "_e" } do
         local f = assert(io.open(file "mark.lua", "r+"))
         f:write(MARK:format(version))
         f:close()
         logged("was saved: applied", 1 + i)
      end
      drops_for "two_e"
      stop()
   end)

   it("does nothing for a file that says the same", function()
      start "--watch"
      os.execute("touch " .. file "script.lua" .. " " .. file "mark.lua")
      save("script.lua", SCRIPT:format "one")
      posix.poll({}, 900)
      assert.same({}, lines_with "was saved")
      save("script.lua", "-- a comment\n" .. SCRIPT:format "one")
      has(logged("script.lua was saved", 1), "nothing changed")
      assert.equal(0, changes())
      drops_for "one_a"
      stop()
   end)

   it("takes back what raises, and says it", function()
      start "--watch"
      save("mark.lua", (MARK:format("_b"):gsub("return pkt:drop", "if pkt.len == 60 then error 'not so' end return pkt:drop")))
      logged("mark.lua was saved: applied", 1)
      engine:eval(("ports.a:inject(%q)"):format(FRAME))
      injected = injected + 1
      has(logged("rolled back", 1), "NF mark (", "mark.lua:3:", "what was before runs again")
      drops_for "one_a"
      stop()
   end)
end)

describe("tideway reload", function()
   it("says what it did: 0 done, 1 refused, 2 wrong use", function()
      start()
      local r = engine:tideway "reload"
      assert.same({ 0, "nothing changed\n", "" }, { r.code, r.out, r.err })
      save("script.lua", SCRIPT:format "two")
      posix.poll({}, 600)
      drops_for "one_a" -- nobody watches
      r = engine:tideway "reload spec"
      assert.equal(0, r.code, r.err)
      assert.matches("^applied to 1/1 lcores in %d+%.%d ms, 0 packets lost\n$", r.out)
      drops_for "two_a"
      save("script.lua", "local x = = 1\n")
      r = engine:tideway "reload spec"
      assert.same({ 1, "" }, { r.code, r.out })
      assert.matches("^tideway reload: %S+/script.lua:1: unexpected symbol near '='\n$", r.err)
      drops_for "two_a"
      r = engine:tideway "reload nobody"
      assert.same({ 1, "" }, { r.code, r.out })
      assert.equal("tideway reload: no instance named 'nobody' runs; these do: spec\n", r.err)
      assert.equal(2, engine:tideway("reload spec --nonsense").code)
      assert.equal(2, engine:tideway("reload spec spec").code)
      r = engine:tideway "reload --json"
      assert.same({ 1, "" }, { r.code, r.out })
      save("script.lua", SCRIPT:format "three")
      assert.matches("^applied to 1/1", json.decode(engine:tideway("reload --json").out))
      stop()
   end)

   it("reads the file of one NF again", function()
      start()
      save("mark.lua", MARK:format "_b")
      save("script.lua", SCRIPT:format "two")
      local r = engine:tideway "reload --nf c.mark"
      assert.equal(0, r.code, r.err)
      has(r.out, "applied to 1/1 lcores")
      drops_for "one_b" -- its configuration is that of the script as it was
      save("mark.lua", "return 1 + nil")
      r = engine:tideway "reload --nf mark"
      assert.equal(1, r.code)
      has(r.err, "tideway reload: ", "mark.lua:1: ")
      r = engine:tideway "reload --nf bark"
      assert.equal(1, r.code)
      assert.equal('tideway reload: no chain has an NF "bark"; there are: c.count, c.mark\n', r.err)
      drops_for "one_b"
      stop()
   end)

   it("is taken back by tideway undo", function()
      start()
      save("script.lua", SCRIPT:format "two")
      assert.equal(0, engine:tideway("reload").code)
      drops_for "two_a"
      local r = engine:tideway "undo"
      assert.equal(0, r.code, r.err)
      has(r.out, "applied to 1/1 lcores")
      drops_for "one_a"
      r = engine:tideway "undo"
      assert.same({ 1, "tideway undo: there is nothing to undo\n" }, { r.code, r.err })
      stop()
   end)
end)

describe("SIGHUP", function()
   it("runs the script again, refuses a broken one, and does not end the engine", function()
      start()
      save("script.lua", SCRIPT:format "two")
      engine.process:signal "HUP"
      has(logged("reload (SIGHUP): ", 1), "applied to 1/1 lcores in ", "0 packets lost")
      drops_for "two_a"
      save("mark.lua", "return 1 + nil")
      engine.process:signal "HUP"
      has(logged("reload (SIGHUP): ", 2), "mark.lua:1: ", "arithmetic")
      drops_for "two_a"
      save("mark.lua", MARK:format "_b")
      for _ = 1, 5 do engine.process:signal "HUP" end
      assert.is_truthy(labs.eventually(60, function() return changes() == 2 end))
      drops_for "two_b"
      has(engine:tideway("call changes").out, "SIGHUP")
      stop()
   end)
end)

describe("who may reload:", function()
   local missing = posix.geteuid() ~= 0 and "needs root to become somebody else"
      or not shell.has "setpriv" and "setpriv is missing" or nil

   local function as(uid) return ("setpriv --reuid %d --regid %d --clear-groups"):format(uid, uid) end

   it("operators what is known, admins all, others nothing", function()
      if missing then return pending(missing) end
      start()
      os.execute(("chmod -R a+rX %s %s"):format(engine.run_dir, engine.files))
      local view, operate = as(64001), as(64002)
      save("script.lua", SCRIPT:format "two")
      local r = engine:tideway("reload spec", view)
      assert.same({ 1, "" }, { r.code, r.out })
      has(r.err, "tideway reload: ", "reload needs role operate", "has role view")
      drops_for "one_a"
      r = engine:tideway("reload spec", as(64003))
      assert.equal(1, r.code)
      has(r.err, "role")
      r = engine:tideway("reload spec", operate)
      assert.equal(0, r.code, r.err)
      drops_for "two_a"
      -- Not a file of their own, and nothing that is evaluated.
      shell.write("/tmp/tideway-spec-evil.lua", "os.exit(9)")
      finally(function() os.remove "/tmp/tideway-spec-evil.lua" end)
      r = engine:tideway("reload spec --nf /tmp/tideway-spec-evil.lua", operate)
      assert.equal(1, r.code)
      has(r.err, 'no chain has an NF "/tmp/tideway-spec-evil.lua"')
      for _, code in ipairs { "dofile '/tmp/tideway-spec-evil.lua'", "chains.c:remove(1)", "dry(reload)" } do
         r = engine:tideway(("repl spec -e %s"):format(shell.quote(code)), operate)
         assert.equal(1, r.code, code)
         has(r.err, "needs role admin")
      end
      r = engine:tideway("repl spec -e 'reload \"mark\"'", operate)
      assert.equal(0, r.code, r.err)
      r = engine:tideway([[repl spec -e 'set("c.mark", { reason = "three" })']], operate)
      assert.equal(0, r.code, r.err)
      drops_for "three_a"
      assert.equal(1, engine:tideway([[repl spec -e 'set("c.mark", { reason = "four" })']], view).code)
      local log = engine:tideway("call log").out
      has(log, "64002", "reload()", "applied to 1/1 lcores", "refused: needs role operate")
      drops_for "three_a"
      stop()
   end)
end)
