-- SPDX-License-Identifier: BSD-3-Clause
-- VLAN tags on TC by the kernel's helpers: those in the frame, and the one that the kernel keeps outside of it.

local tw = require "tideway"
local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local load = require "tideway.bpf.load"
local posix = require "tideway.posix"

local missing = posix.geteuid() ~= 0 and "needs root to load programs" or nil

-- What comes out of an NF on TC: code and frame.
local function run(f, text)
   local nf = tw.nf("vlan", function() return { packet = f } end) {}
   local program = assert(load.load(assert(compiler.for_hook("vlan", { nf }, "tc", { counted = false }))))
   local code, out = program:test(text)
   program:close()
   return code, out
end

local plain = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2", ttl = 64 }, { sport = 9, dport = 1 }, "x")
local function tagged(...)
   local tags = ""
   for _, vid in ipairs { ... } do tags = tags .. ("\x81\0\0%c"):format(vid) end
   return plain:sub(1, 12) .. tags .. plain:sub(13)
end

describe("VLAN tags on TC", function()
   local function live(name, f) it(name, missing and function() pending(missing) end or f) end

   live("are popped: the next one is then outside of the frame", function()
      local function pop(pkt)
         local v = pkt:vlan()
         if not v or v.vid ~= 5 then return pkt:drop "first" end
         if tw.bpf.skb_vlan_pop() ~= 0 then return pkt:drop "pop" end
         if pkt:vlan() or pkt.vlan_present ~= 1 or pkt.vlan_tci % 4096 ~= 6 then return pkt:drop "second" end
         if not pkt:ipv4() then return pkt:drop "ip" end
         if tw.bpf.skb_vlan_pop() ~= 0 or pkt.vlan_present ~= 0 then return pkt:drop "second pop" end
         local ip = pkt:ipv4()
         if not ip then return pkt:drop "ip" end
         ip.tos = 4
         ip:update_checksum()
      end
      local code, out = run(pop, tagged(5, 6))
      assert.equal(plain:sub(1, 15) .. "\4", out:sub(1, 16))
      assert.equal(#plain, #out)
      local dropped = run(pop, tagged(7))
      assert.not_equal(code, dropped)
   end)

   live("are pushed: the one before goes into the frame", function()
      local code, out = run(function(pkt)
         if tw.bpf.skb_vlan_push(0x8100, 9) ~= 0 then return pkt:drop "first" end
         if pkt:vlan() or pkt.vlan_tci % 4096 ~= 9 then return pkt:drop "outside" end
         if tw.bpf.skb_vlan_push(0x88a8, 10) ~= 0 then return pkt:drop "second" end
         local v = pkt:vlan()
         if not v or v.vid ~= 9 or pkt.vlan_tci % 4096 ~= 10 then return pkt:drop "inside" end
      end, plain)
      assert.equal(tagged(9), out)
      assert.not_equal(2, code) -- TC_ACT_SHOT
   end)

   it("make views of before useless, and are no helpers of XDP", function()
      local function refused(hook, f)
         local nf = tw.nf("vlan", function() return { packet = f } end) {}
         local _, err = compiler.for_hook("vlan", { nf }, hook, { counted = false })
         return tostring(err)
      end
      assert.truthy(refused("tc", function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         tw.bpf.skb_vlan_pop()
         ip.ttl = 3
      end):find("before the packet was resized", 1, true))
      assert.truthy(refused("xdp", function() tw.bpf.skb_vlan_pop() end):find("skb_vlan_pop is there on tc", 1, true))
      assert.truthy(refused("tc", function(pkt) pkt:pop_vlan() end):find("tw.bpf.skb_vlan_pop()", 1, true))
   end)
end)
