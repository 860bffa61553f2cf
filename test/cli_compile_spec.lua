-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway compile` and `tideway check`: where NFs can run, what is made of them, and what is said when they cannot.

local json = require "tideway.json"
local posix = require "tideway.posix"
local shell = require "test.shell"

local root = posix.geteuid() == 0

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

local function done(arguments)
   local r = shell.tideway(arguments)
   assert.equal(0, r.code, r.out .. r.err)
   return r.out
end

local function refused(arguments, ...)
   local r = shell.tideway(arguments)
   assert.equal(2, r.code, r.out .. r.err)
   assert.equal("", r.out)
   has(r.err, ...)
   assert.is_nil(r.err:find("stack traceback", 1, true), r.err)
end

describe("tideway", function()
   local dir, nf, script
   setup(function()
      dir = shell.directory()
      nf, script = dir .. "/nf.lua", dir .. "/script.lua"
      shell.write(nf, [[
local tw = require "tideway"
return tw.nf("guard", function(cfg)
   local port = cfg.port or 80
   local hits = tw.array { name = "hits", value = "u64", entries = 2 }
   local seen = tw.hash { name = "seen", key = "u32", value = "u64", entries = 8 }
   return { packet = function(pkt)
      local tcp = pkt:tcp()
      if not tcp or tcp.dst_port ~= port then return end
      hits:add(1, 1)
      seen:add(pkt:ipv4() and pkt:ipv4().src or 0, 1)
      return pkt:drop "guarded"
   end }
end)
]])
      shell.write(script, [[
local tw = require "tideway"
local lan, wan = tw.port "tw-lan", tw.port "tw-wan"
local guard = require "nf"
tw.chain("up", lan, guard {}, wan):pin { tc = true }
tw.chain("down", wan, tw.nf("wide", function() return { burst = function() end } end) {}, lan)
]])
      shell.write(dir .. "/bad.lua", [[
local tw = require "tideway"
tw.chain("c", tw.port "tw-lan", function(pkt)
   local t = { pkt }
   return pkt:drop(t)
end):pin { xdp = true }
]])
   end)
   teardown(function() shell.remove(dir) end)

   describe("compile", function()
      it("prints the eBPF program with its source lines", function()
         local text = done("compile " .. nf)
         has(text, "if not tcp or tcp.dst_port ~= port then return end", "call map_lookup_elem#1", "exit")
         has(done("compile --emit ebpf --hook tc " .. nf), "call skb_pull_data")
      end)

      it("prints IR, source, Lua and C", function()
         has(done("compile --emit ir " .. nf), 'program "guard" target xdp', "nf.lua:8:")
         has(done("compile --emit ir --hook lcore " .. nf), "target lcore")
         has(done("compile --emit source " .. nf), nf .. ":6", "local tcp = pkt:tcp()", nf .. ":12")
         has(done("compile --emit lua " .. nf), "local burst = ...")
         has(done("compile --emit c " .. nf), "struct tw_burst")
         local out = dir .. "/out.txt"
         assert.equal("", done(("compile --emit ir -o %s %s"):format(out, nf)))
         has(posix.slurp(out), 'program "guard"')
      end)

      it("takes a configuration, and refuses one that is wrong", function()
         has(done(("compile --emit ir --config 'port = 4711' %s"):format(nf)), " 26386") -- in network order
         has(done(("compile --emit ir --config '{ port = 4712 }' %s"):format(nf)), " 26642")
         refused(("compile --config 'port = =' %s"):format(nf), "--config port = =")
         refused("compile --config 'least = 0' examples/nf/ttl.lua", "least is 0")
      end)

      it("compiles a chain of a script for the hook it is pinned to", function()
         has(done(("compile --chain up --emit ir %s"):format(script)), "target tc")
         has(done(("compile --chain up --hook xdp --emit ir %s"):format(script)), "target xdp")
         refused("compile " .. script, "2 chains", "--chain: up, down")
         refused("compile --chain sideways " .. script, '"sideways"', "up, down")
         refused("compile --chain down " .. script, "script.lua:5", "works on bursts", "packet(pkt)")
      end)

      it("says what is wrong with file, line and caret", function()
         refused("compile " .. dir .. "/bad.lua", "bad.lua:", "^")
         refused("compile " .. dir .. "/none.lua", "none.lua")
         refused("compile --hook moon " .. nf, "must be one of", "moon")
         shell.write(dir .. "/nothing.lua", "return 7")
         refused("compile " .. dir .. "/nothing.lua", "declares no chain", "7")
      end)

      it("writes an ELF file with its maps", function()
         local object = dir .. "/guard.o"
         has(done(("compile -o %s %s"):format(object, nf)), "guard.o", "chain guard for xdp")
         assert.equal("\127ELF", posix.slurp(object):sub(1, 4))
         if not shell.has "readelf" then return pending "readelf is missing" end
         local r = shell.run(("readelf -SsW %s"):format(object))
         has(r.out, "xdp", ".maps", ".BTF", "license", "hits", "seen", "guard")
      end)

      it("writes an ELF file that bpftool loads", function()
         if not root then return pending "needs root to load programs" end
         if not shell.has "bpftool" then return pending "bpftool is missing (make deps)" end
         local object, pinned = dir .. "/guard.o", ("/sys/fs/bpf/tw-spec-%d"):format(posix.getpid())
         for _, hook in ipairs { "xdp", "tc", "cgroup_skb" } do
            done(("compile -o %s --hook %s %s"):format(object, hook, nf))
            local r = shell.run(("bpftool prog load %s %s && bpftool prog show pinned %s; rm -f %s"):format(object,
               pinned, pinned, pinned))
            assert.equal("", r.err)
            has(r.out, "name guard")
         end
      end)

      it("gives figures", function()
         if not root then return pending "needs root to load programs" end
         has(done("compile --stats " .. nf), "instructions", "spills", "verified", "machine code", "ms")
         local figures = json.decode(done("compile --stats --json " .. nf))
         assert.is_true(figures.instructions > 20 and figures.verified >= figures.instructions)
         assert.is_true(figures.machine_code > 100 and figures.stack < 512)
         assert.equal(3, figures.maps)
      end)

      it("starts no DPDK", function()
         local r = shell.run(("strace -f -e trace=mkdir,openat %s compile %s 2>&1 | grep -c /dpdk"):format(
            shell.binary, nf))
         if not shell.has "strace" then return pending "strace is missing" end
         assert.equal("0\n", r.out)
      end)
   end)

   describe("check", function()
      it("says where each NF and chain can run, and what prevents the rest", function()
         local text = done("check " .. script)
         has(text, "2 port(s), 2 chain(s)", "chain up", "lan -> tw-wan on tc ingress of tw-lan")
         has(text, "lcore: compiled", "xdp, tc", "yes", "the kernel has no bpf_redirect", "works on bursts")
         assert.is_nil(text:find("^", 1, true))
         has(done("check --verbose " .. script), "is there on")
      end)

      it("does so as JSON", function()
         local report = json.decode(done("check --json " .. script))
         assert.is_true(report.valid)
         local up, down = report.chains[1], report.chains[2]
         assert.equal("tc", up.hook)
         assert.same({ "tc ingress of tw-lan" }, up.targets)
         local can = {}
         for _, place in ipairs(up.nfs[1].places) do can[place.place] = place.can end
         assert.is_true(can.lcore and can.xdp and can.tc)
         assert.is_false(can.cgroup)
         assert.equal(12, #up.nfs[1].places)
         assert.is_nil(down.hook)
         for _, place in ipairs(down.nfs[1].places) do
            assert.equal(place.place == "lcore", place.can)
            if place.place ~= "lcore" then has(place.why, "works on bursts") end
         end
      end)

      it("refuses a chain that cannot run where it is pinned", function()
         refused("check " .. dir .. "/bad.lua", "bad.lua:", "^")
         local r = shell.tideway("check --json " .. dir .. "/bad.lua")
         assert.equal(2, r.code)
         assert.is_false(json.decode(r.out).valid)
      end)
   end)
end)
