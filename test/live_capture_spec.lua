-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway trace` and `tideway capture` with real traffic: what tshark reads, pipes, Ctrl-C, roles.

local json = require "tideway.json"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local missing = labs.missing("tshark", "capinfos")

local SCRIPT = [[
local tw = require "tideway"
local lan, wan = tw.port("lan", "net_af_packet0,iface=tw-lan"), tw.port("wan", "net_af_packet1,iface=tw-wan")
local guard = tw.nf("ttl_guard", function(cfg)
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl < cfg.least then return pkt:drop "ttl_low" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end,
   }
end)
tw.control { operate = { "nobody" } }
tw.chain("up", lan, guard { least = 5 }, tw.nf.count {}, wan)
tw.chain("down", wan, lan)
]]

local HOOK = [[
local tw = require "tideway"
tw.control { operate = { "nobody" } }
tw.chain("hooked", {}, function(pkt) return pkt:pass() end):pin { xdp = "tw-lan" }
]]

describe("live capture", function()
   local lab, engine, file

   setup(function()
      if missing then return end
      lab = labs.up { mode = "l2" }
      file = lab.files .. "/guard.lua"
      for path, text in pairs { [file] = SCRIPT, [lab.files .. "/hook.lua"] = HOOK } do
         local f = assert(io.open(path, "w"))
         f:write(text)
         f:close()
      end
      engine = lab:engine(file)
   end)

   teardown(function()
      if lab then lab:down() end
   end)

   local function command(words) return ("env TZ=UTC TIDEWAY_RUN_DIR=%s %s %s"):format(lab.run_dir, shell.public(), words) end

   -- A command of the engine, with pings meanwhile.
   local function with_pings(words, options)
      local process = labs.spawn(command(words))
      local pings = lab:spawn("client", ("ping -q -n -i 0.01 -w 600 %s 10.0.0.3"):format(options or ""))
      local code = process:wait(60)
      pings:stop()
      local result = process:stop()
      assert.equal(0, code, result.out .. result.err)
      return result
   end

   local function fields(path, ...)
      local words, rows = {}, {}
      for i, name in ipairs { ... } do words[i] = "-e " .. name end
      local r = shell.run(("tshark -n -r %s -T fields %s"):format(path, table.concat(words, " ")))
      assert.equal(0, r.code, r.err)
      for line in r.out:gmatch "[^\n]+" do
         rows[#rows + 1] = line
      end
      return rows
   end

   local function has(text, ...)
      for _, part in ipairs { ... } do assert.is_truthy(text:find(part, 1, true), part .. " is not in\n" .. text) end
   end

   it("writes what Wireshark reads: interfaces, directions, comments, times", function()
      if missing then return pending(missing) end
      local path = lab.files .. "/x.pcapng"
      local from = os.time()
      -- More than a burst: on a busy machine all of one comes in before any of it leaves.
      local r = with_pings(("capture up icmp -c 80 -w %s --json"):format(path))
      assert.same({ 80, "count" }, { json.decode(r.out).packets, json.decode(r.out).ended })
      local rows = fields(path, "frame.interface_name", "frame.packet_flags_direction", "frame.comment", "ip.ttl")
      local into, out = "lan\t0x00000001\tchain up: in from lan\t64", "wan\t0x00000002\tchain up: out to wan\t63"
      local kinds = { [into] = 0, [out] = 0 }
      for _, row in ipairs(rows) do kinds[row] = kinds[row] + 1 end
      assert.equal(80, kinds[into] + kinds[out])
      assert.equal(into, rows[1])
      assert.is_true(kinds[out] > 0)
      for _, time in ipairs(fields(path, "frame.time_epoch")) do
         assert.is_true(tonumber(time) >= from - 1 and tonumber(time) <= os.time() + 1, time)
         assert.matches("%.%d%d%d%d%d%d%d%d%d$", time)
      end
      has(shell.run("capinfos " .. path).out, "Tideway", "tideway capture up icmp", "Name = lan", "Name = wan")
   end)

   it("pipes into tshark, with drop reasons", function()
      if missing then return pending(missing) end
      local sh = ("sh -c '%s | tshark -n -r - -T fields -e frame.comment -e frame.interface_name'"):format(
         command "capture up:drop -c 3 -w -")
      local process = labs.spawn(sh)
      local pings = lab:spawn("client", "ping -q -n -t 3 -i 0.02 -w 600 10.0.0.3")
      process:wait(60)
      pings:stop()
      local out = process:stop().out
      assert.equal(("chain up: dropped by ttl_guard: ttl_low\tup:drop\n"):rep(3), out)
   end)

   it("is text without a file, and ends after its time", function()
      if missing then return pending(missing) end
      local pings = lab:spawn("client", "ping -n -i 0.01 -w 600 10.0.0.3")
      assert.is_true(pings:says("icmp_seq=", 60), pings:read "out") -- they are under way when it begins
      local r = shell.run(command "capture lan:rx icmp --seconds 0.5")
      pings:stop()
      assert.equal(0, r.code, r.err)
      has(r.out, "10.0.0.2 > 10.0.0.3 icmp type 8, 98 bytes; chain up: in from lan")
      has(r.err, "its time is over", "cost: ")
   end)

   it("is never larger than it may be", function()
      if missing then return pending(missing) end
      local path = lab.files .. "/small.pcapng"
      local r = with_pings(("capture up -w %s --bytes 3000"):format(path))
      has(r.err, "that is the size asked for")
      local size = require("lfs").attributes(path, "size")
      assert.is_true(size <= 3000 and size > 2500, size)
      has(shell.run("capinfos -c " .. path).out, "packets")
   end)

   it("ends with Ctrl-C, with a whole file, and the engine goes on unwatched", function()
      if missing then return pending(missing) end
      local path = lab.files .. "/y.pcapng"
      local process = labs.spawn(command(("capture up -w %s"):format(path)))
      local pings = lab:spawn("client", "ping -q -n -i 0.01 -w 600 10.0.0.3")
      assert.is_truthy(labs.eventually(60, function()
         return (require("lfs").attributes(path, "size") or 0) > 2000
      end))
      process:signal "INT"
      assert.equal(0, process:wait(60))
      pings:stop()
      local r = process:stop()
      has(r.err, "stopped")
      assert.is_true(#fields(path, "frame.number") > 5)
      local out = shell.run(command "call --json rates")
      assert.equal(0, out.code, out.err)
   end)

   it("ends when its reader is gone", function()
      if missing then return pending(missing) end
      local pings = lab:spawn("client", "ping -q -n -i 0.01 -w 600 10.0.0.3")
      local r = shell.run(("timeout 60 sh -c '%s | head -c 300 >/dev/null'"):format(command "capture up -w -"))
      pings:stop()
      assert.equal(0, r.code, r.err)
      assert.is_nil(engine:code())
      assert.is_truthy(labs.eventually(60, function()
         return #json.decode(shell.run(command "call --json clients").out) == 1 -- the one that asks
      end))
   end)

   it("shows operators headers, and nothing to those without a role", function()
      if missing then return pending(missing) end
      local path = lab.files .. "/headers.pcapng"
      os.execute(("chmod -R a+rX %s %s; touch %s; chmod a+w %s"):format(lab.run_dir, lab.files, path, path))
      local sh = ("capture up:in icmp -c 2 -w %s"):format(path)
      local process = labs.spawn(("setpriv --reuid nobody --clear-groups %s"):format(command(sh)))
      local pings = lab:spawn("client", "ping -q -n -i 0.01 -w 600 10.0.0.3")
      process:wait(60)
      pings:stop()
      local r = process:stop()
      assert.equal(0, r.code, r.err)
      assert.same({ "42\t98", "42\t98" }, fields(path, "frame.cap_len", "frame.len"))
      r = shell.run(("setpriv --reuid daemon --clear-groups %s"):format(command "capture up:in -c 1"))
      assert.equal(1, r.code)
      has(r.err, "role")
   end)

   it("lets operators ask nothing about payload, on hooks either", function()
      if missing then return pending(missing) end
      local hook = lab:engine(lab.files .. "/hook.lua")
      os.execute(("chmod -R a+rX %s"):format(lab.run_dir))
      local pings = lab:spawn("client", "ping -q -n -i 0.01 -p ab -w 600 10.0.0.3")
      local function count(user, edge, filter, seconds)
         local name = edge:find "hooked" and "hook" or "guard"
         local r = shell.run(("setpriv --reuid %s --clear-groups %s"):format(user,
            command(("capture --name %s %s '%s' --seconds %s -c 2 --json -w /dev/null"):format(name, edge, filter,
               seconds))))
         assert.equal(0, r.code, r.err)
         return json.decode(r.out).packets
      end
      for _, edge in ipairs { "hooked:in", "up:in" } do
         assert.equal(2, count("root", edge, "icmp[30] = 0xab", 60))
         assert.equal(0, count("nobody", edge, "icmp[30] = 0xab", 0.3))
         assert.equal(2, count("nobody", edge, "icmp[0] = 8", 60))
      end
      pings:stop()
      assert.equal(0, hook:stop().code)
   end)

   it("traces pings through every NF", function()
      if missing then return pending(missing) end
      local r = with_pings "trace -n 2 icmp --chain up"
      has(r.out, "10.0.0.2 > 10.0.0.3 icmp type 8, 98 bytes from lan, chain up on lcore", "sent to wan", "ttl_guard",
         "ipv4.ttl 64 -> 63", "count", "as plain Lua", "cost: ")
      r = with_pings("trace -n 1 --reason ttl_low --json", "-t 2")
      local p = json.decode(r.out).packets[1]
      assert.same({ "dropped", "ttl_guard", "ttl_low", 1 }, { p.result, p.by, p.reason, #p.steps })
   end)

   it("runs while the counters stay exact", function()
      if missing then return pending(missing) end
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      assert.same({}, lab:left_by(engine.pid))
      assert.is_nil(posix.slurp(lab.run_dir .. "/guard/control"))
   end)
end)
