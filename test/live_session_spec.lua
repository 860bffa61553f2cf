-- SPDX-License-Identifier: BSD-3-Clause
-- The session of README.md, "A live dataplane in ten commands", typed into a real terminal exactly as printed there.
-- Runs alone: its screens show rates.

local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"
local terminal = require "test.support.terminal"
local transcript = require "test.support.transcript"

local HEADING = "A live dataplane in ten commands"
local root = require("tideway.abi").root:match "^(.*)/lua/?$" or "."

describe("the session in README", function()
   local dir, name, terminals
   local here -- in the directory of the session

   -- A checkout of its own: the session writes there.
   local function checkout()
      dir = shell.directory()
      name = ("spec-%d-session"):format(posix.getpid())
      os.execute(("cp -r %s/examples %s && mkdir %s/build %s/run && ln -s %s %s/build/tideway && ln -s %s/scripts %s")
         :format(root, dir, dir, dir, shell.binary, dir, root, dir))
      here = function(file) return posix.slurp(dir .. "/" .. file) or "" end
      terminals = {}
   end

   local function open()
      local t = terminal.open {
         cols = 110, rows = 45, directory = dir,
         env = { TIDEWAY_RUN_DIR = dir .. "/run", TIDEWAY_LAB = name, HOME = dir, PATH = os.getenv "PATH" },
      }
      terminals[#terminals + 1] = t
      return t
   end

   -- Types a step and gives what is shown for it, up to the next prompt.
   local function run(t, step, prompt)
      t:clear_scrollback()
      for _, line in ipairs(step.lines) do t:type(line .. "\n") end
      local typed = step.lines[#step.lines]
      local shown
      local done = labs.eventually(60, function()
         local screen = t:screen(true)
         local _, last = screen:find(typed, 1, true)
         while last and screen:find(typed, last + 1, true) do _, last = screen:find(typed, last + 1, true) end
         shown = last and screen:sub(last + 1) or ""
         return ("\n" .. shown):match "([^\n]*)$" == prompt and shown
      end)
      assert(done, ("no prompt %q after %q:\n%s"):format(prompt, typed, shown))
      return shown
   end

   setup(checkout)

   teardown(function()
      for _, t in ipairs(terminals) do t:close() end
      shell.run(("TIDEWAY_LAB=%s %s/scripts/lab down"):format(name, root))
      shell.remove(dir)
   end)

   local reason = labs.missing("tmux", "iperf3", "tshark")
   if reason then
      pending("shows what is printed there: " .. reason)
      return
   end

   local function ping_ttl()
      local ttl
      for found in here "live/ping":gmatch "ttl=(%d+)" do ttl = tonumber(found) end
      return ttl
   end

   -- What else must be so, by the beginning of the command; before(): what a person would have waited for.
   local before = {
      -- Before there is a way to it, and who listens, iperf3 gives up.
      ["scripts/lab exec client iperf3"] = function()
         assert(labs.eventually(60, function() return here "live/log":find "ready:" end), here "live/log")
         assert(labs.eventually(60, function()
            return shell.run(("ip netns exec %s-server ss -Hltn"):format(name)).out:find ":5201 "
         end))
      end,
      ["build/tideway repl"] = function()
         assert(labs.eventually(60, function() return here "live/log":find "ready:" end), here "live/log")
         assert(labs.eventually(60, function() return ping_ttl() == 63 end), here "live/ping")
      end,
      ["graph()"] = function() posix.poll({}, 1500) end,
      ["drops()"] = function() posix.poll({}, 1000) end,
      ["tail"] = function() labs.eventually(60, function() return ping_ttl() == 62 end) end,
   }
   local after = {
      ["trace"] = function(shown) assert.equal(3, select(2, shown:gsub("packet %d: 10%.0%.0%.[23] >", ""))) end,
      ["capture"] = function() assert.is_true(#here "live/ping.pcapng" > 500) end,
      ["chains.hop:insert"] = function(shown) assert.is_truthy(shown:find(" 0 packets lost", 1, true), shown) end,
      ["undo"] = function(shown)
         assert.is_truthy(shown:find(" 0 packets lost", 1, true), shown)
         local size = #here "live/ping"
         assert(labs.eventually(60, function() return #here "live/ping" > size + 100 end), "ping does not go on")
      end,
      ["build/tideway repl -e"] = function(shown) assert.is_truthy(shown:find(" 0 packets lost", 1, true), shown) end,
      ["tail"] = function(shown) assert.is_truthy(shown:find("ttl=62", 1, true), shown) end,
   }

   local function hook(list, step)
      local best
      for start in pairs(list) do
         if step.lines[1]:sub(1, #start) == start and (not best or #start > #best) then best = start end
      end
      return best and list[best] or function() end
   end

   it("shows what is printed there", function()
      local steps = transcript.read(root .. "/README.md", HEADING)
      local a, b, in_repl, commands = open(), nil, false, 0
      for _, step in ipairs(steps) do
         local t, prompt = a, "$"
         if step.prompt ~= "$" then
            assert.is_true(in_repl)
            prompt, commands = step.prompt, commands + 1
         elseif in_repl then
            b = b or open()
            t = b
         elseif step.lines[1] == "build/tideway repl" then
            in_repl, prompt = true, "hop>"
         end
         hook(before, step)()
         local shown = run(t, step, prompt)
         local missing = transcript.missing(step.output, shown)
         assert(#missing == 0, ("%s\nshows:%s\nnot:\n%s"):format(step.lines[1], shown, table.concat(missing, "\n")))
         hook(after, step)(shown)
      end
      assert.equal(9, commands) -- and reload from the shell
      a:wait "the engine closed the connection"
      local log = here "live/log"
      assert.is_truthy(log:find("in flight 0: adds up", 1, true), log)
      assert.is_nil(log:find("bug", 1, true), log)
   end)
end)
