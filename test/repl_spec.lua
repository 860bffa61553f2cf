-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway repl` on a running engine: -e, scripts, JSON, errors, Ctrl-C, the terminal, run --repl.

local json = require "tideway.json"
local labs = require "test.support.lab"
local shell = require "test.shell"
local terminal = require "test.support.terminal"

local SCRIPT = [[
local tw = require "tideway"
tw.control { view = { 65534 } }
local lan, wan = tw.port("lan", "wire0"), tw.port("wan", "wire1")
local guard = tw.nf("guard", function(cfg)
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if eth and eth.type == 0x0806 then return pkt:drop "no_arp" end
      end,
   }
end)
script_says = "hello"
tw.chain("up", lan, guard {}, tw.nf.count {}, wan)
]]

local function has(text, part) assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text)) end

describe("tideway repl", function()
   local dir, engine

   local function start()
      local process = labs.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --idle sleep %s/t.lua"):format(dir,
         shell.quote(shell.binary), dir))
      assert(process:says("ready:", 60), process:read "err")
      return process
   end

   local function repl(arguments, input)
      local command = ("HOME=%s TIDEWAY_RUN_DIR=%s/run %s repl %s"):format(dir, dir, shell.quote(shell.binary), arguments)
      if not input then return shell.run(command) end
      shell.write(dir .. "/input", input)
      return shell.run(command .. " < " .. dir .. "/input")
   end

   local function e(code) return repl("-e " .. shell.quote(code)) end

   setup(function()
      dir = shell.directory()
      shell.write(dir .. "/t.lua", SCRIPT)
      shell.write(dir .. "/run/.keep", "")
      engine = start()
      local frame = ("x"):rep(60)
      assert.equal(0, e(([[for i = 1, 12 do ports.lan:inject(("%s"):sub(1, 12) .. "\8" .. (i > 9 and "\6" or "\0")
         .. ("x"):rep(46)) end]]):format(frame)).code)
      labs.eventually(60, function() return e "chains.up.counters.rx".out == "12\n" end)
   end)

   teardown(function()
      local result = engine:stop()
      shell.remove(dir)
      assert.equal(0, result.code, result.err)
   end)

   describe("-e", function()
      it("prints the result", function()
         local r = e "1 + 1"
         assert.same({ 0, "2\n", "" }, { r.code, r.out, r.err })
         assert.equal("12\n", e "chains.up.counters.rx".out)
         assert.equal("hello\n", e "script_says".out)
         assert.equal("", e "local x = 1".out)
         assert.equal("1\nnil\nx\n", e "1, nil, 'x'".out)
      end)

      it("may be given several times; what is assigned stays", function()
         local r = repl "-e 'x = 20' -e '= x + 1' -e 'return x + 2'"
         assert.same({ 0, "21\n22\n" }, { r.code, r.out })
      end)

      it("shows tables aligned", function()
         has(e "drops()".out, "CHAIN  NF     REASON  COUNT\nup     guard  no_arp      3\n")
         has(e "chains".out, "lan -> guard -> count -> wan")
         has(e "tables.count.totals".out, "packets             9")
         has(e "print(drops())".out, "up     guard  no_arp      3\n")
      end)

      it("fails with 1 and the position in the text", function()
         local r = e "nothing_here()"
         assert.equal(1, r.code)
         assert.equal('tideway: -e:1: there is no "nothing_here" here\n', r.err)
         r = repl "-e 'a = 1' -e 'x = \n = 3' -e 'print(\"not reached\")'"
         assert.equal(1, r.code)
         has(r.err, "-e 2:2: unexpected symbol near '='")
         assert.equal("", r.out)
         r = e "local t = {}\nlocal function f() t.x.y = 1 end\nf()"
         has(r.err, "-e:2: attempt to index field 'x'")
         assert.equal('tideway: -e:1: there is no chain "pu"; did you mean up?\n', e "chains.pu".err)
      end)

      it("prints what the code prints as it comes", function()
         local r = e "for i = 1, 3 do print('line', i) end"
         assert.equal("line\t1\nline\t2\nline\t3\n", r.out)
      end)

      it("stops an endless loop after --timeout, and the engine goes on", function()
         local r = repl "--timeout 0.5 -e 'while true do end'"
         assert.equal(1, r.code)
         assert.equal("tideway: stopped: it took more than 0.5 s (--timeout)\n", r.err)
         assert.equal("2\n", e "1 + 1".out)
      end)

      it("prints a JSON value each with --json", function()
         local r = repl "--json -e 'drops()' -e 'nil' -e '1, 2' -e 'print \"x\"; return { a = 1 }' -e 'tables.count.totals'"
         assert.equal(0, r.code, r.err)
         local values = {}
         for line in r.out:gmatch "[^\n]+" do values[#values + 1] = line end
         assert.same({ { chain = "up", nf = "guard", reason = "no_arp", count = 3 } }, json.decode(values[1]))
         assert.equal("null", values[2])
         assert.equal("[1,2]", values[3])
         assert.equal('{"a":1}', values[4])
         assert.equal("x\n", r.err)
         assert.same({ name = "packets", count = 9 }, json.decode(values[5])[1])
         assert.equal(5, #values)
      end)

      it("calls commands for those who may only look, and says what they may not", function()
         local as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
         local command = ("%s env TIDEWAY_RUN_DIR=%s/run HOME=/ %s repl -e"):format(as_nobody, dir, shell.public())
         local r = shell.run(command .. " 'drops()' -e 'rows \"count.totals\"'")
         assert.equal(0, r.code, r.err)
         has(r.out, "up     guard  no_arp      3\n")
         has(r.out, "packets             9")
         r = shell.run(command .. " '1 + 1'")
         assert.equal(1, r.code)
         has(r.err, "tideway: evaluating Lua needs role admin and user nobody (uid 65534) has role view")
      end)

      it("names the instances when there is no such one", function()
         local r = repl "nobody -e 1"
         assert.equal(1, r.code)
         has(r.err, "no instance named 'nobody' runs; these do: t")
      end)
   end)

   describe("with a script on standard input", function()
      it("runs it as one piece", function()
         local r = repl("", "local t = {}\nfor name in pairs(ports) do t[#t + 1] = name end\nprint(table.concat(t, ' '))\n")
         assert.same({ 0, "lan wan\n", "" }, { r.code, r.out, r.err })
      end)

      it("prints what it returns, and says where it fails", function()
         assert.equal("3\n", repl("", "#!/usr/bin/env tideway\nlocal x = 1\nreturn x + 2\n").out)
         local r = repl("", "print 'a'\n\nerror 'broken'\n")
         assert.same({ 1, "a\n", "tideway: stdin:3: broken\n" }, { r.code, r.out, r.err })
      end)
   end)

   describe("at a terminal", function()
      local t

      before_each(function()
         local env = { TIDEWAY_RUN_DIR = dir .. "/run", HOME = dir, PATH = os.getenv "PATH", PAGER = "" }
         t = terminal.open { cols = 90, rows = 24, env = env }
      end)

      after_each(function() t:close() end)

      local function enter()
         t:type(shell.binary .. " repl t\n")
         t:wait_last "t> "
         t:clear()
         t:press "C-l"
      end

      it("greets, evaluates, and leaves with Ctrl-D", function()
         t:type(shell.binary .. " repl t\n")
         has(t:wait_last "t> ", "help() lists the commands, Tab completes, Ctrl-C stops an evaluation, Ctrl-D leaves.")
         t:type "chains.up.counters.sent\n"
         t:wait "chains.up.counters.sent\n9\nt>"
         t:press "C-d"
         t:wait_last "$"
      end)

      it("continues a chunk over several lines, and remembers it as one", function()
         enter()
         t:type "for i = 1, 2 do\n"
         t:wait_last ".> "
         t:type "print('round', i)\nend\n"
         t:wait "round   1\nround   2\nt>"
         t:press("Up")
         t:wait "t> for i = 1, 2 do print('round', i) end"
      end)

      it("clears the line with Ctrl-C, and stops an endless loop with it", function()
         enter()
         t:type "nonsense("
         t:wait "nonsense("
         t:press "C-c"
         t:wait "^C\nt>"
         t:type "while true do end\n"
         labs.eventually(60, function() return e "clients()".out:find " 2 " end)
         t:press "C-c"
         t:wait "tideway: stopped\nt>"
         t:type "6 * 7\n"
         t:wait "42\nt>"
      end)

      it("completes with Tab", function()
         enter()
         t:type "chains.u"
         t:press "Tab"
         t:wait "t> chains.up"
         t:type ".gu"
         t:press "Tab"
         t:wait "t> chains.up.guard"
         t:type ".na"
         t:press "Tab"
         t:wait "t> chains.up.guard.name"
         t:press "C-c"
         t:type "tw.l"
         t:press "Tab"
         t:wait "lpm         lru         lru_percpu\nt> tw.l"
      end)

      it("pages what is longer than the screen", function()
         enter()
         t:type "help(tw.nf.router)\n"
         local screen = t:wait "# router"
         assert.is_nil(screen:find("two routers", 1, true))
         assert.is_truthy(screen:match "\n:$" or screen:match "\nlines?.*$", screen)
         t:press "q"
         t:wait_last "t> "
      end)

      it("keeps the history for the next session, for its user alone", function()
         enter()
         t:type "'to be remembered'\n"
         t:wait "to be remembered\nt>"
         t:press "C-d"
         t:wait_last "$"
         has(require("tideway.posix").slurp(dir .. "/.tideway_history"), "'to be remembered'\n")
         assert.equal("rw-------", require("lfs").attributes(dir .. "/.tideway_history", "permissions"))
         enter()
         t:press "Up"
         t:wait "t> 'to be remembered'"
      end)

      it("shows the engine's messages above the line that is typed", function()
         enter()
         t:type "half a li"
         t:wait "half a li"
         assert.equal(0, e "require('tideway.log').warning 'the roof is on fire'".code)
         t:wait "tideway: the roof is on fire\nt> half a li"
      end)

      it("says when the engine is gone", function()
         shell.write(dir .. "/other.lua", SCRIPT)
         local other = labs.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --idle sleep %s/other.lua"):format(dir,
            shell.quote(shell.binary), dir))
         assert(other:says("ready:", 60))
         t:type(shell.binary .. " repl other\n")
         t:wait_last "other> "
         other:stop()
         t:wait "tideway: the engine closed the connection"
         t:type "echo code $?\n"
         t:wait "code 1"
      end)
   end)

   describe("of tideway run --repl", function()
      local t

      before_each(function()
         t = terminal.open {
            cols = 100, rows = 40, env = { TIDEWAY_RUN_DIR = dir .. "/run", HOME = dir, PATH = os.getenv "PATH" },
         }
         t:type(("cp %s/t.lua %s/own.lua; %s run --idle sleep %s/own.lua --repl\n"):format(dir, dir, shell.binary, dir))
         t:wait_last "own> "
      end)

      after_each(function() t:close() end)

      it("has the terminal; Ctrl-C and Ctrl-Z do not stop the engine, leaving does", function()
         t:press "C-c"
         t:press "C-z"
         t:type "'still ' .. 'here'\n"
         t:wait "still here\nown>"
         t:press "C-d"
         t:wait "received 0 + originated 0 = sent 0 + dropped 0 + in flight 0: adds up"
         t:wait_last "$"
      end)

      it("shows the engine's messages at the prompt, and ends with the engine", function()
         assert.equal(0, repl("own -e " .. shell.quote "require('tideway.log').warning 'something happened'").code)
         t:wait "tideway: something happened\nown>"
         t:clear()
         local pid = repl "own -e 'require(\"tideway.posix\").getpid()'".out:match "%d+"
         os.execute("kill -TERM " .. pid)
         t:wait "adds up"
         t:wait_last "$"
      end)
   end)
end)
