-- SPDX-License-Identifier: BSD-3-Clause
-- Changes of chains on hooks: programs are exchanged with what they count and know, in one change with lcores, taken
-- back, and refused. On an XDP hook of a veth, with real packets.

local ffi = require "ffi"
local tw = require "tideway"
local abi = require "tideway.abi"
local change = require "tideway.change"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local history = require "tideway.change.history"
local hooks = require "tideway.hook"
local link = require "tideway.bpf.link"
local loop = require "tideway.loop"
local model = require "tideway.model"
local options = require "tideway.options"
local posix = require "tideway.posix"
local reload = require "tideway.change.reload"
local stats = require "tideway.stats"

local C = abi.C
local missing = posix.geteuid() ~= 0 and "needs root for veth and programs" or nil

local function udp(dport)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = dport or 1 }, "x")
end

-- Drops a port, and counts what it saw in a table of the kernel.
local guard = tw.nf("guard", function(cfg)
   local seen = tw.hash { name = "seen", key = "u16", value = "u32", entries = 64 }
   return { packet = function(pkt)
      local l4 = pkt:udp()
      if not l4 then return end
      seen:add(l4.dst_port, 1)
      if l4.dst_port == cfg.port then return pkt:drop "guarded" end
   end }
end)

local marker = tw.nf("marker", function() return { packet = function(pkt)
   if pkt:udp() then pkt:udp().dst_port = 77 end
end } end)

-- Its user half drops what it is given.
local asks = tw.nf("asks", function(cfg)
   return {
      packet = function(pkt)
         local l4 = pkt:udp()
         if l4 and l4.dst_port == cfg.port then return pkt:punt() end
      end,
      punt = function(pkt)
         if cfg.bad then error "punt is broken" end
         return pkt:drop "asked"
      end,
   }
end)

describe("a change of a chain on a hook", function()
   local near, far, socket, chain, port

   local function ip(...) assert(os.execute("ip link " .. string.format(...)) == 0) end

   setup(function()
      if missing then return end
      near, far = "tws" .. posix.getpid(), "twp" .. posix.getpid()
      ip("add %s type veth peer name %s", near, far)
      for _, name in ipairs { near, far } do -- the kernel has nothing to say there
         local f = io.open(("/proc/sys/net/ipv6/conf/%s/disable_ipv6"):format(name), "w")
         if f then
            f:write "1"
            f:close()
         end
         ip("set %s up", name)
      end
      socket = C.tw_inject_open(true)
   end)
   teardown(function()
      if missing then return end
      C.tw_bpf_close(socket)
      ip("del %s", near)
   end)
   before_each(function()
      if missing then return end
      engine.close()
      C.tw_stats_close()
      assert(C.tw_stats_open(nil, "spec", "spec") == 0)
      options.probation, options.compile = 0, "luajit"
      port = tw.port("near", near)
   end)
   after_each(function()
      options.probation, options.compile = 1, "native"
      if missing then return end
      hooks.stop()
      C.tw_engine_stop()
      local snapshot = stats.snapshot(C.tw_stats())
      engine.close()
      assert.is_true(stats.adds_up(snapshot))
   end)

   local function live(name, fn) it(name, missing and function() pending(missing) end or fn) end

   local function start(...)
      chain = tw.chain("hook", port, ...):pin { xdp = true, mode = "generic" }
      engine.start()
   end

   local function apply(fn) return select(2, change.transaction(fn, "spec")) end

   local function turn(n)
      for _ = 1, n or 4 do loop.turn(5) end
   end

   local function send(...)
      for _, f in ipairs { ... } do
         assert(C.tw_inject(socket, C.tw_bpf_ifindex(far), ffi.cast("const uint8_t *", f), #f) == 0)
      end
      turn()
   end

   local function row() return engine.snapshot().chains[1] end

   local function counts()
      local list = {}
      for i, nf in ipairs(row().nfs) do list[i] = nf.name .. "=" .. nf.received end
      return table.concat(list, " ")
   end

   local function drops()
      local list = {}
      for _, nf in ipairs(row().nfs) do
         for _, d in ipairs(nf.drops) do list[#list + 1] = ("%s:%s=%d"):format(nf.name, d.reason, d.count) end
      end
      return table.concat(list, " ")
   end

   local function seen(p)
      for t in pairs(model.running.tables) do
         if t.name == "seen" then return t:get(p) end
      end
   end

   local function program() return hooks.list[1].parts[1].link:info().program end

   live("puts NFs in and takes them out; counters and tables go on", function()
      start(guard { port = 5 })
      send(udp(1), udp(5), udp(6))
      assert.equal("guard=3", counts())
      local report = apply(function() chain:insert(marker {}, { before = "guard" }) end)
      assert.truthy(report:find "^applied to 1 hook in %d+%.%d ms, 0 packets lost$", report)
      send(udp(5), udp(6))
      assert.equal("marker=2 guard=5", counts())
      assert.equal("guard:guarded=1", drops())
      assert.equal(2, seen(77))
      apply(function()
         chain:remove "marker"
         chain:insert(tw.nf.count {})
      end)
      send(udp(5), udp(6), udp(7))
      assert.equal("guard=8 count=2 (removed)=2", counts())
      assert.equal("guard:guarded=2", drops())
      assert.equal(2, seen(6))
      assert.equal(0, row().difference)
      reload.undo(2)
      send(udp(5))
      assert.equal("guard:guarded=3", drops())
   end)

   live("gives an NF other parameters and leaves its state", function()
      start(guard { port = 5 }, tw.nf.count {})
      send(udp(1), udp(5))
      local count = chain.stages[2]
      reload.set("guard", { port = 6 })
      send(udp(5), udp(6))
      assert.equal("guard=4 count=2", counts())
      assert.equal("guard:guarded=2", drops())
      assert.equal(2, seen(5))
      assert.equal(count, chain.stages[2])
      local id = program()
      assert.is_nil(apply(function() chain:pin { xdp = true, mode = "generic" } end))
      assert.equal(id, program())
   end)

   live("is made at once with lcores", function()
      local a, b = tw.port("a", "wire1"), tw.port("b", "wire2")
      local up = tw.chain("up", a, guard { port = 9 }, b):pin { step = true }
      start(tw.nf.count {})
      local report = apply(function()
         up:insert(marker {})
         chain:insert(marker {})
      end)
      assert.truthy(report:find "^applied to 1/1 lcores and 1 hook in %d+%.%d ms, 0 packets lost$", report)
      send(udp(3))
      assert.equal(1, engine.snapshot().chains[2].nfs[2].received)
   end)

   live("detaches a chain, attaches one, and takes both back", function()
      start(guard { port = 5 })
      apply(function()
         chain:delete()
         tw.chain("other", port, marker {}):pin { xdp = true, mode = "generic" }
      end)
      assert.equal("other", hooks.list[1].chain.name)
      send(udp(5))
      reload.undo()
      assert.equal("hook", hooks.list[1].chain.name)
      send(udp(5))
      assert.equal("guard:guarded=1", drops())
      apply(function() chain:delete() end)
      assert.equal(0, #hooks.list)
      reload.undo()
      send(udp(5))
      assert.equal("guard:guarded=1", drops(), "what went and came back counts anew")
      local gone = engine.snapshot().chains
      gone = gone[#gone]
      assert.same({ "(removed)", 2, 1 }, { gone.name, gone.rx, gone.dropped })
   end)

   live("leaves everything as it was when it cannot be made", function()
      start(guard { port = 5 })
      local id, generation = program(), history.generation
      local ok, err = pcall(apply, function()
         tw.chain("up", tw.port("a", "wire1"), tw.port("b", "wire2")):pin { step = true }
         chain:insert(tw.nf("wrong", function()
            return { packet = function(pkt) local t = { pkt } return pkt:drop(t) end }
         end) {})
      end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("change_hook_spec.lua", 1, true), tostring(err))
      local attach = link.attach
      link.attach = function(o)
         if o.hook == "tc_ingress" then return nil, "no room" end
         return attach(o)
      end
      ok, err = pcall(apply, function()
         chain:insert(marker {})
         tw.chain("up", port, marker {}):pin { tc = near }
      end)
      link.attach = attach
      assert.is_false(ok)
      assert.truthy(tostring(err):find("no room", 1, true), tostring(err))
      ok, err = pcall(apply, function()
         chain:insert(marker {})
         tw.chain("second", {}, marker {}):pin { tc = near .. "x" }
      end)
      assert.is_false(ok)
      assert.truthy(tostring(err):find(near .. "x", 1, true), tostring(err))
      assert.equal(generation, history.generation)
      assert.equal(id, program())
      send(udp(5))
      assert.equal("guard:guarded=1", drops())
      assert.equal(1, #model.chains)
   end)

   live("is taken back when the user half of its NF fails", function()
      options.probation = 5
      start(guard { port = 5 }, asks { port = 8 })
      send(udp(8))
      assert.equal("asks:asked=1", drops())
      local id = program()
      apply(function()
         chain:replace("asks", asks { port = 9, bad = true })
         chain:insert(marker {}, { at = 1 })
      end)
      send(udp(5))
      chain = model.chains[1]
      assert.equal(3, #chain.stages)
      apply(function() chain:remove "marker" end)
      apply(function() chain:replace("asks", asks { port = 7, bad = true }) end)
      send(udp(7))
      turn(10)
      local log = table.concat(engine.log(), "\n")
      assert.truthy(log:find("rolled back", 1, true), log)
      assert.truthy(log:find("NF asks (", 1, true), log)
      assert.truthy(log:find("punt() failed", 1, true), log)
      assert.truthy(log:find("change_hook_spec.lua:", 1, true), log)
      assert.equal("rolled back", history.entries()[3].state)
      send(udp(7), udp(8))
      assert.equal(0, row().difference)
      assert.are_not.equal(id, program())
   end)
end)
