-- SPDX-License-Identifier: BSD-3-Clause
-- A hundred hostile clients of the control socket, and an lcore that forwards meanwhile: it never waits, and never
-- spends long between two bursts.
--
-- The gaps are taken in the lcore's own CPU time. In wall-clock time a machine that runs other programs has gaps of
-- milliseconds, with clients and without: there the kernel gives the CPU to somebody else, which is counted as an
-- involuntary switch. What the engine could do to an lcore is seen all the same: waiting for a lock or a system call is
-- a voluntary switch; work that is forced on it is CPU time; a thread on its CPU is one that may run there.
-- Runs alone: it measures the gaps between bursts.

local affinity = require "tideway.affinity"
local client = require "tideway.control.client"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local protocol = require "tideway.control.protocol"
local scheduler = require "tideway.posix.scheduler"
local socket = require "tideway.posix.socket"

local CLIENTS, PHASES, SECONDS = 100, 5, 0.6
local LIMIT_US = 100

local SCRIPT = [[
local tw = require "tideway"
tw.options { idle = "spin", compile = "luajit" }
local gaps = tw.counters { name = "gaps", names = { "short", "long" } }
local trouble = tw.array { name = "trouble", value = "u32", entries = 1 } -- made on purpose
local watch = tw.nf("watch", function()
   local last, lib, time
   local function cpu_time()
      lib.C.tw_posix_clock_gettime(3, time) -- CLOCK_THREAD_CPUTIME_ID
      return tonumber(time.sec) * 1e9 + tonumber(time.nsec)
   end
   return {
      burst = function()
         if not lib then
            require "tideway.posix"
            lib = require "ffi"
            time = lib.new "struct tw_posix_timespec"
         end
         local now, made = cpu_time(), trouble:get(0)
         gaps:add(now - (last or now) < LIMIT * 1000 and "short" or "long")
         last = now
         if made == 0 then return end
         trouble:set(0, 0)
         if made == 1 then
            while cpu_time() - now < 2 * LIMIT * 1000 do end
         else
            require("tideway.abi").C.tw_sleep_ms(1)
         end
      end,
   }
end)
local port = tw.port("n", "net_null0")
tw.chain("c", port, watch {}, port):pin { lcore = CPU }
package.loaded.gaps, package.loaded.trouble = gaps, trouble
]]

-- Every thread of the engine: name, CPUs, switches.
local function threads(pid)
   local list = {}
   for task in require("lfs").dir(("/proc/%d/task"):format(pid)) do
      local status = tonumber(task) and posix.slurp(("/proc/%d/task/%s/status"):format(pid, task))
      if status then
         list[#list + 1] = {
            name = status:match "Name:%s*([^\n]+)", cpus = status:match "Cpus_allowed_list:%s*([^\n]+)",
            voluntary = tonumber((status:match "\nvoluntary_ctxt_switches:%s*(%d+)")),
         }
      end
   end
   return list
end

local function lcore_of(pid)
   for _, thread in ipairs(threads(pid)) do
      if thread.name:find "^tw%-lcore%-" then return thread end
   end
end

local function median(list)
   table.sort(list)
   return list[math.ceil(#list / 2)]
end

local function request(op, code) return protocol.encode { id = math.random(0, 99), op = op, code = code, name = code } end

-- What each sends, as much of it as is taken at once.
local function words()
   return {
      "\0\0\1", ("x"):rep(2 ^ 20), "random bytes \200\0\255 of somebody", request "hello", request("call", "clients"),
      request("eval", "local t = {} for i = 1, 1000 do t[i] = { i } end return 1"), request("eval", "while true do end"),
      request("eval", "for i = 1, 1000 do print(('x'):rep(1000)) end"),
   }
end

describe("an lcore beside a hundred hostile clients", function()
   it("never waits, and is never kept from its packets", function()
      local cpus = affinity.cpus()
      if #cpus < 2 then return pending "needs two CPUs" end
      local cpu = cpus[#cpus]
      local engine = instances.start { script = (SCRIPT:gsub("CPU\n", cpu .. "\n"):gsub("CPU }", cpu .. " }")
         :gsub("LIMIT", LIMIT_US)) }
      local deeds = 0

      local function long_gaps()
         local c = engine:client()
         local reply = c:eval("require('gaps'):sum 'long'", { seconds = 60 })
         c:close()
         return assert(reply.ok and tonumber(reply.view.data), reply.error)
      end
      local function quiet() posix.poll({}, SECONDS * 1000) end
      local function hostile()
         local list, stop = {}, posix.now() + SECONDS * 1e9
         local texts = words()
         while posix.now() < stop do
            for i = 1, CLIENTS do
               if not list[i] or not list[i].fd then list[i] = client.connect(engine.path) end
               local c, what = list[i], math.random(#texts + 2)
               if c and texts[what] then
                  socket.send(c.fd, texts[what], 0)
               elseif c and what == #texts + 1 then
                  c:receive()
               elseif c then
                  c:close()
               end
               deeds = deeds + 1
            end
         end
         for i = 1, CLIENTS do
            if list[i] then list[i]:close() end
         end
      end
      local function count(work)
         local before = long_gaps()
         work()
         return long_gaps() - before
      end

      local ok, err = pcall(function()
         posix.poll({}, 1000) -- until its code is compiled
         for _, thread in ipairs(threads(engine.pid)) do
            local on_it = (("," .. thread.cpus .. ","):find("," .. cpu .. ",", 1, true) or thread.cpus:find "%-") ~= nil
            assert.equal(thread.name:find "^tw%-lcore%-" ~= nil, on_it, thread.name .. " may use CPU " .. thread.cpus)
         end
         scheduler.set_cpus(0, { cpus[1] }) -- these clients, too, run elsewhere
         local fds, memory = engine:descriptors(), engine:resident()
         local waited, without, with = lcore_of(engine.pid).voluntary, {}, {}
         for i = 1, PHASES do without[i], with[i] = count(quiet), count(hostile) end
         assert.equal(waited, lcore_of(engine.pid).voluntary)
         assert.is_true(deeds > 1000)
         assert.is_truthy((labs.eventually(60, function() return engine:descriptors() <= fds end)), "descriptors are left")
         local grown = engine:resident() - memory
         assert.is_true(grown < 128e6, ("%.0f MB more memory"):format(grown / 1e6))
         local text = ("gaps of %d us and more: %s without clients, %s with %d of them"):format(LIMIT_US,
            table.concat(without, " "), table.concat(with, " "), CLIENTS)
         if os.getenv "SPEC_VERBOSE" then print(text, deeds .. " deeds", ("%.0f MB more"):format(grown / 1e6)) end
         assert.is_true(median(with) <= median(without) + 2, text)
         -- That it would be seen: ten times work on the lcore, ten times waiting.
         local function ten(kind)
            for _ = 1, 10 do
               engine:eval(("require('trouble'):set(0, %d)"):format(kind))
               assert.is_truthy(labs.eventually(60, function() return engine:eval "require('trouble'):get(0)" == 0 end))
            end
         end
         local function seen(condition) assert.is_truthy((labs.eventually(60, condition))) end
         local before = long_gaps()
         ten(1)
         seen(function() return long_gaps() >= before + 10 end)
         ten(2)
         seen(function() return lcore_of(engine.pid).voluntary >= waited + 10 end)
      end)
      scheduler.set_cpus(0, cpus)
      local result = engine:stop()
      if not ok then error(err, 0) end
      assert.equal(0, result.code, result.err)
   end)
end)
