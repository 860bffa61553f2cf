-- SPDX-License-Identifier: BSD-3-Clause
-- kill -9 at every marked point of a change (TIDEWAY_KILL_AT): programs that persist forward on meanwhile, nothing else
-- stays, and the next start works with no manual step.

local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local missing = labs.missing "tc" or not shell.has "nsenter" and "nsenter is missing" or nil

-- A chain in the kernel that persists, and one on an lcore; a reload changes both.
local SCRIPT = [[
   local tw = require "tideway"
   tw.options { idle = "sleep" }
   local lan, wan = tw.port "tw-lan", tw.port "tw-wan"
   local nf = tw.nf("nf", function(cfg)
      local seen = tw.array { name = cfg.name, value = "u64", entries = 2 }
      return { packet = function(pkt)
         seen:add(0, 1)
         local ip = pkt:ipv4()
         if ip and ip.ttl == cfg.low then return pkt:drop "too_old" end
      end }
   end)
   local place = { xdp = true, persist = %q }
   tw.chain("up", lan, nf { name = "up", low = %d }, wan):pin(place)
   tw.chain("down", wan, nf { name = "down", low = 1 }, lan):pin(place)
   local a = tw.port("a", "wire0")
   tw.chain("there", a, nf { name = "there", low = %d }, a)
]]

local MARKS = { "prepare", "hooks_loaded", "prepared", "switch", "published", "hooks", "switched", "finished" }

describe("kill -9 in the middle of a change", function()
   local lab, dir, path, name

   setup(function()
      if missing then return end
      lab, dir = labs.up { mode = "l2", napi = true }, shell.directory()
      path, name = dir .. "/script.lua", "spec-kill-" .. posix.getpid()
   end)
   teardown(function()
      if not lab then return end
      os.execute("rm -rf /sys/fs/bpf/tideway/" .. name)
      os.execute "rmdir /sys/fs/bpf/tideway 2>/dev/null"
      lab:down()
      shell.remove(dir)
   end)

   local function write(low) shell.write(path, SCRIPT:format(name, low, low)) end

   local function works()
      local r = lab:run("client", "ping -n -c 3 -i 0.02 -W 1 10.0.0.3")
      assert.equal(0, r.code, r.out .. r.err)
   end

   -- `ip netns exec` would give it a /sys of its own, and take the pins away at its end.
   local function start(mark)
      local engine = labs.spawn(("nsenter --net=/run/netns/%s-dut env TIDEWAY_RUN_DIR=%s TIDEWAY_KILL_AT=%s %s run "
         .. "--json --no-huge --name kill %s"):format(lab.name, lab.run_dir, mark, shell.binary, path))
      assert(engine:says("ready:", 60), engine:read "err")
      return engine
   end

   local function reload()
      return shell.run(("env TIDEWAY_RUN_DIR=%s %s repl kill -e 'reload()'"):format(lab.run_dir, shell.binary))
   end

   for i, mark in ipairs(MARKS) do
      it("at " .. mark, function()
         if missing then return pending(missing) end
         write(i + 1)
         local engine = start(mark)
         works()
         write(i + 2)
         local asked = reload()
         -- What is left over when a change has proved good comes a moment later.
         assert(labs.eventually(60, function() return not posix.alive(engine.pid) end),
            "the engine was not killed at " .. mark .. ": " .. asked.out .. asked.err)
         engine:wait(60)
         works()
         engine = start "nowhere"
         assert.falsy(engine:read "err":find("remove", 1, true))
         works()
         local again = reload()
         assert.equal(0, again.code, again.err)
         local result = engine:stop()
         assert.equal(0, result.code, result.err)
         assert.equal(0, result.counters.totals.difference)
         local programs = 0 -- those that persist, one for each chain
         for _, line in ipairs(lab:left_by(engine.pid)) do
            assert.truthy(line:find("prog/xdp", 1, true), line)
            programs = programs + 1
         end
         assert.equal(2, programs)
         works()
      end)
   end
end)
