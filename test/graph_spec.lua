-- SPDX-License-Identifier: BSD-3-Clause
-- The chains as a graph with rates: exact on ports turned by hand, drawn by graphviz, and of instances that run.

local tw = require "tideway"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local graph = require "tideway.live.graph"
local json = require "tideway.json"
local Lab = require "test.support.lab"
local Rig = require "test.support.rig"
local shell = require "test.shell"
local stats = require "tideway.stats"

local function udp(dport)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = dport }, "x")
end

describe("graph", function()
   local rig
   before_each(function() rig = Rig.new { ports = { "a", "b", "c" } } end)
   after_each(function() if rig then rig:close() end end)

   -- The graph of what happens in a second that begins now.
   local function observe(what)
      local before = engine.snapshot()
      what()
      local after = engine.snapshot()
      return graph.build(after, stats.rates(before, after, 1)), after
   end

   local function two_chains()
      local ring, c = tw.ring("mid", { size = 64 }), rig.c.index
      rig:chain("down", ring, tw.nf.count {}, rig.b) -- declared first, drawn second
      rig:chain("up", rig.a, tw.nf("guard", function()
         return { packet = function(pkt)
            local port = pkt:udp().dst_port
            if port == 1 then return pkt:drop "denied" end
            if port == 2 then return pkt:send(c) end
         end }
      end) {}, ring)
      rig:start()
   end

   it("shows ports, NFs with their drops, rings, and where packets leave", function()
      two_chains()
      local g = observe(function()
         for _ = 1, 4 do rig:send(rig.a, udp(1)) end
         for _ = 1, 3 do rig:send(rig.a, udp(2)) end
         for _ = 1, 5 do rig:send(rig.a, udp(3)) end
      end)
      local text = graph.text(g)
      local expected = [[
              +-----------------------------------+
a  --12 pps-->| up  lcore step, luajit            |--3.0 pps-->  c
              |   guard  12 pps  x denied 4.0     |--5.0 pps-->  ring mid
              +-----------------------------------+

                            +---------------------------+
ring mid (0/64)  --5.0 pps-->| down  lcore step, luajit |--5.0 pps-->  b
                            |   count  5.0 pps          |
                            +---------------------------+]]
      -- What NFs are compiled to is another matter.
      local function squeeze(s) return (s:gsub("[-]+", "-"):gsub(" +", " "):gsub(", lua%a*", "")) end
      assert.equal(squeeze(expected), squeeze(text))
   end)

   it("keeps every line of a box as long as the others", function()
      two_chains()
      for box in (graph.text(observe(function() rig:send(rig.a, udp(1)) end)) .. "\n\n"):gmatch "(.-)\n\n" do
         local left, right
         for line in box:gmatch "[^\n]+" do
            local a, b = line:find "[|+].*[|+]"
            assert.is_true((left or a) == a and (right or b) == b, box)
            left, right = a, b
         end
      end
   end)

   it("is what graphviz understands, whatever the names are", function()
      if not shell.has "dot" then return pending "graphviz is missing (make deps)" end
      rig:chain('<"up"&', rig.a, tw.nf('a<b&"c"\\', function()
         return { packet = function(pkt) return pkt:drop 'no "<&>"' end }
      end) {}, rig.b)
      rig:start()
      local g = observe(function() rig:send(rig.a, udp(1)) end)
      local dir = shell.directory()
      shell.write(dir .. "/g.dot", graph.dot(g, 'x"y'))
      local r = shell.run(("dot -Tsvg %s/g.dot"):format(dir))
      shell.remove(dir)
      assert.equal("", r.err)
      assert.equal(0, r.code)
      for _, part in ipairs { "&lt;&quot;up&quot;&amp;", "a&lt;b&amp;&quot;c&quot;", "1.0 pps", "drops no" } do
         assert.is_truthy(r.out:find(part, 1, true), part .. " is not in " .. r.out)
      end
   end)

   it("refuses a format it does not know", function()
      local ok, err = pcall(graph.graph, "png")
      assert.is_false(ok)
      assert.is_truthy(err:find("png is no format", 1, true))
   end)
end)

describe("tideway graph", function()
   local dir, run
   local function cli(arguments, more)
      return shell.tideway(arguments, ("env TIDEWAY_RUN_DIR=%s/run %s"):format(dir, more or ""))
   end

   setup(function()
      dir = shell.directory()
      shell.write(dir .. "/drawn.lua", [[
local tw = require "tideway"
tw.chain("main", tw.port("in", "net_null0"), tw.nf.count {}, tw.port("out", "net_null1"))
tw.options { burst = 1 }
]])
      run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/drawn.lua"):format(dir, shell.binary,
         dir))
      assert(run:says("ready:", 60), run:read "err")
   end)
   teardown(function()
      if run then run:stop() end
      shell.remove(dir)
   end)

   it("prints live rates of the instance", function()
      local r
      Lab.eventually(60, function() -- a busy machine may not run its lcore meanwhile
         r = cli "graph drawn --interval 0.2"
         return r.code ~= 0 or r.out:find "[kM]pps%-%->|"
      end)
      assert.equal(0, r.code, r.err)
      assert.is_truthy(r.out:find("in  %-%-[%d.]+ [kM]pps%-%->| main  lcore %d+, %a+"), r.out)
      assert.is_truthy(r.out:find("|%-%-[%d.]+ [kM]pps%-%->  out"), r.out)
   end)

   it("prints JSON with the same", function()
      local g
      Lab.eventually(60, function()
         g = json.decode(cli("graph --json --interval 0.2").out)
         return g[1].to[1].pps > 0
      end)
      assert.equal("main", g[1].name)
      assert.equal("port", g[1].from[1].kind)
      assert.is_true(g[1].to[1].pps > 0)
   end)

   it("draws with graphviz", function()
      if not shell.has "dot" then return pending "graphviz is missing (make deps)" end
      local r = cli(("graph --svg %s/g.svg --interval 0.2"):format(dir))
      assert.equal(0, r.code, r.err)
      assert.is_truthy(require("tideway.posix").slurp(dir .. "/g.svg"):find("<svg", 1, true))
   end)

   it("says how to get graphviz where it is missing", function()
      local r = cli(("graph --svg %s/g.svg --interval 0.2"):format(dir), "PATH=/nonexistent")
      assert.equal(1, r.code)
      assert.is_truthy(r.err:find("apt-get install -y --no-install-recommends graphviz", 1, true), r.err)
   end)
end)

describe("graph of chains in the kernel", function()
   it("marks hooks, and shows what they leave to the kernel", function()
      local reason = Lab.missing()
      if reason then return pending(reason) end
      local lab = Lab.up { mode = "l2" }
      finally(function() lab:down() end)
      shell.write(lab.files .. "/hooked.lua", [[
local tw = require "tideway"
local seen = tw.hash { name = "seen", key = "u32", value = "u64", entries = 100 }
tw.chain("look", {}, tw.nf("odd", function()
   return { packet = function(pkt)
      local ip = pkt:ipv4()
      if ip then seen:add(ip.src, 1) end
      if ip and ip.ttl == 9 then return pkt:drop "ttl" end
   end }
end) {}):pin { xdp = "tw-lan", mode = "generic" }
]])
      local engine_run = lab:launch(lab.files .. "/hooked.lua", {}, "")
      assert.is_true(engine_run:says("ready:", 60), engine_run:read "err")
      lab:run("client", "ip neigh replace 10.0.0.3 lladdr 02:00:00:00:02:02 dev eth0") -- nobody answers there
      lab:spawn("client", "ping -i 0.05 -t 9 10.0.0.3")
      lab:spawn("client", "ping -i 0.05 10.0.0.3")
      local r
      Lab.eventually(60, function() -- pings of both kinds come
         r = shell.tideway("graph --interval 1", "env TIDEWAY_RUN_DIR=" .. lab.run_dir)
         return r.code ~= 0 or r.out:find "odd +[1-9][%d.]* pps  x ttl [1-9]"
      end)
      assert.equal(0, r.code, r.err)
      assert.is_truthy(r.out:find("HOOK look  xdp on tw-lan", 1, true), r.out)
      assert.is_truthy(r.out:find("%-%-[1-9][%d.]* pps%-%->  the kernel"), r.out)
      assert.is_truthy(r.out:find "odd +[1-9][%d.]* pps  x ttl [1-9]", r.out)
      local metrics = shell.tideway("metrics", "env TIDEWAY_RUN_DIR=" .. lab.run_dir).out
      assert.is_truthy(metrics:find 'tideway_hook_verdict_packets_total{chain="look",place="[^"]*",verdict="pass"} [1-9]',
         metrics)
      -- Its table is a map of the kernel, whose entries are counted now and then.
      local counted = Lab.eventually(60, function()
         metrics = shell.tideway("metrics", "env TIDEWAY_RUN_DIR=" .. lab.run_dir).out
         return metrics:find('tideway_table_entries{table="seen",kind="hash"} 1\n', 1, true)
      end)
      assert.is_truthy(counted or nil, metrics)
      engine_run:stop()
   end)
end)
