-- SPDX-License-Identifier: BSD-3-Clause
-- Machine code that runs straight on mbufs: bursts whose packets go different ways, frames in several segments, faults.
-- What comes out must be what the Lua of the same chain makes.

local tw = require "tideway"
local abi = require "tideway.abi"
local frame = require "test.support.frame"
local json = require "tideway.json"
local labs = require "test.support.lab"
local native = require "tideway.native"
local options = require "tideway.options"
local Rig = require "test.support.rig"
local shell = require "test.shell"

local C = abi.C
local have_cc = native.compiler() ~= nil

-- The last byte of the destination says what becomes of a packet.
local function sorter(port)
   local other = port.index
   return tw.nf("sorter", function()
      return {
         packet = function(pkt)
            local ip = pkt:ipv4()
            if not ip then return pkt:drop "spec_not_ip" end
            local kind = ip.dst % 8
            if kind == 1 then return pkt:drop "spec_one" end
            if kind == 2 then return pkt:send(other) end
            if kind == 3 then return pkt:route(other) end
            if kind == 4 then ip.ttl = ip.ttl - 1 end
            if kind == 5 then return pkt:punt() end
         end,
         punt = function(pkt) pkt:ipv4().ttl = 7 end,
      }
   end) {}
end

local marked = tw.nf("marked", function()
   return { packet = function(pkt)
      if pkt.mark ~= 0 then return pkt:drop "spec_marked" end
      pkt.mark = 9
   end }
end)

local function udp(kind) return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0." .. 16 + kind }, { sport = 1, dport = kind }, "x") end

-- All frames that leave by each port, and the counters.
local function outcome(compile, bursts, sorter_last)
   options.compile = compile
   local rig = Rig.new { ports = { "a", "b", "c" } }
   local first, last = sorter(rig.c), marked {}
   if sorter_last then first, last = last, first end
   local chain = rig:chain("c", rig.a, first, last, rig.b)
   rig:start()
   if compile == "native" then
      native.finish(120)
      assert.equal(C.TW_TIER_NATIVE, C.tw_stats().chain[0].tier)
      assert.truthy(chain.segments[1].c:find("chain_mbufs(", 1, true), "the chain does not run on mbufs")
   end
   local result = {}
   for i, kinds in ipairs(bursts) do
      local frames = {}
      for k, kind in ipairs(kinds) do frames[k] = kind == 0 and "\255\255 no IP here and more" or udp(kind) end
      rig:send(rig.a, unpack(frames))
      result[i] = { b = rig:collect(rig.b), c = rig:collect(rig.c), drops = rig:drops() }
   end
   local nfs = rig:snapshot().chains[1].nfs
   result.received = { nfs[1].received, nfs[2].received }
   result.dropped = { nfs[1].dropped, nfs[2].dropped }
   rig:close()
   return result
end

describe("machine code on mbufs", function()
   after_each(function() options.compile = "native" end)

   it("makes of every burst what Lua makes of it", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local bursts = {
         { 6, 6, 6 }, { 3, 3 }, { 6, 3, 6 }, { 1, 1 }, { 2, 2 }, { 6, 1, 2, 3, 4, 5, 6, 0 }, { 5, 5 }, { 4 }, { 6 }, { 0 },
      }
      local random = 1
      for _ = 1, 40 do
         local burst = {}
         for k = 1, 1 + random % 50 do
            random = (random * 48271) % 2147483647
            burst[k] = random % 8
         end
         bursts[#bursts + 1] = burst
      end
      assert.same(outcome("off", bursts), outcome("native", bursts))
      -- What the last NF sends to a port is as good as routed there.
      assert.same(outcome("off", bursts, true), outcome("native", bursts, true))
   end)

   -- Through a pipe that the frames come out of when the machine code is there.
   it("leaves frames in several segments alone, which are dropped as too long", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local dir = shell.directory()
      local function record(f)
         local length = string.char(#f % 256, math.floor(#f / 256), 0, 0)
         return ("\0"):rep(8) .. length .. length .. f
      end
      local frames = { udp(6), udp(6) .. ("j"):rep(5000), udp(3), udp(1), udp(6) .. ("j"):rep(3000) }
      for i, f in ipairs(frames) do frames[i] = record(f) end
      shell.write(dir .. "/head", "\212\195\178\161\2\0\4\0" .. ("\0"):rep(8) .. "\255\255\0\0\1\0\0\0")
      shell.write(dir .. "/frames", table.concat(frames))
      shell.write(dir .. "/script.lua", ([[
         local tw = require "tideway"
         local a, b = tw.port("a", "net_pcap0,rx_pcap=%s/pipe"), tw.port("b", "net_null0,no-rx=1")
         tw.chain("c", a, function(pkt)
            local ip = pkt:ipv4()
            if ip and ip.dst %% 8 == 1 then return pkt:drop "spec_one" end
            if ip then ip.ttl = ip.ttl - 1 end
         end, b)
      ]]):format(dir))
      assert.equal(0, shell.run(("mkfifo %s/pipe"):format(dir)).code)
      local writer = labs.spawn(("sh -c 'cd %s; (cat head; until [ -e go ]; do sleep 0.05; done; cat frames) >pipe'")
         :format(dir))
      local prefix = ("env TIDEWAY_RUN_DIR=%s/run"):format(dir)
      local engine = labs.spawn(("%s %s run --json --no-huge %s/script.lua"):format(prefix, shell.binary, dir))
      finally(function()
         engine:stop "KILL"
         writer:stop "KILL"
         shell.remove(dir)
      end)
      assert.is_true(engine:says("ready:", 60), engine:read "err")
      assert.is_truthy(labs.eventually(60, function()
         return shell.tideway("metrics", prefix).out:find('tideway_chain_info{chain="c",[^\n]*tier="native"')
      end))
      shell.write(dir .. "/go", "")
      assert.is_truthy(labs.eventually(60, function()
         return json.decode(shell.tideway("top --once --json --interval 0.1", prefix).out).totals.received == #frames
      end))
      engine:signal "INT"
      assert.equal(0, engine:wait(60), engine:read "err")
      local snapshot = json.decode(engine:read "out")
      local chain, count = snapshot.chains[1], {}
      for _, d in ipairs(chain.engine.drops) do count[d.reason] = d.count end
      assert.equal("native", chain.tier)
      assert.equal(0, snapshot.totals.difference)
      assert.same({ 2, 1, 2 }, { count.frame_too_long, chain.nfs[1].dropped, chain.sent })
   end)
end)
