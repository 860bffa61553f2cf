-- SPDX-License-Identifier: BSD-3-Clause
-- Instances that one CPU is not enough for: which one goes where, when it goes back, and that its process does.

local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local nf = require "tideway.nf"
local posix = require "tideway.posix"
local spread = require "tideway.gate.spread"
local workers = require "test.support.workers"

local C = abi.C

-- A chain whose functions use so much, all at home on CPU 0; `where` says which are elsewhere.
local function chain(loads, where, fixed)
   local list = {}
   for i, load in ipairs(loads) do
      list[i] = { worker = i, order = i, load = load, cpu = (where or {})[i] or 0, home = 0,
         fixed = (fixed or {})[i] or false }
   end
   return list
end

local function away(...)
   local one, cpu = spread.away(...)
   return { one and one.order, cpu }
end

local function back(...)
   local one = spread.back(...)
   return one and one.order
end

describe("spreading of instances", function()
   it("cuts the chain once: the last function goes first, to the CPU with the most room", function()
      assert.same({ 4, 2 }, away({ [0] = 0, 0.5, 0.9 }, chain { 0.2, 0.2, 0.2, 0.2 }))
      assert.same({ 3, 1 }, away({ [0] = 0.05, 0.7 }, chain({ 0.25, 0.25, 0.25, 0.25 }, { [4] = 1 })))
   end)

   it("leaves functions together that compute little, however busy their CPU is", function()
      assert.same({}, away({ [0] = 0, 1 }, chain { 0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04 }))
   end)

   it("leaves them where they are as long as their CPU has time, or when no other one has", function()
      assert.same({}, away({ [0] = 0.3, 1 }, chain { 0.2, 0.2, 0.2 }))
      assert.same({}, away({ [0] = 0, 0.2 }, chain { 0.3, 0.3 }))
      assert.same({}, away({ [0] = 0, 0.5 }, chain { 0.95 }))
      assert.same({ 1, 1 }, away({ [0] = 0, 0.9 }, chain { 0.95 }))
   end)

   it("moves neither idle instances nor those that the script gave a CPU", function()
      assert.same({ 1, 1 }, away({ [0] = 0, 1 }, chain({ 0.5, 0.3, 0 }, nil, { [2] = true })))
      assert.same({}, away({ [0] = 0, 1 }, chain({ 0.5 }, nil, { true })))
   end)

   it("brings them back, the first one first, when one CPU is enough for all of it", function()
      local idle = { [0] = 0.8, 0.8 }
      assert.equal(3, back(idle, chain({ 0.05, 0.05, 0.05, 0.05 }, { [3] = 1, [4] = 1 }), { [0] = 0.2 }))
      assert.is_nil(back(idle, chain({ 0.15, 0.15, 0.15, 0.15 }, { [3] = 1, [4] = 1 }), { [0] = 0.2 }))
      assert.is_nil(back({ [0] = 0.1, 0.8 }, chain({ 0.05, 0.05 }, { [2] = 1 }), { [0] = 0.1 }))
      assert.is_nil(back(idle, chain { 0.05, 0.05 }, { [0] = 0.1 }))
   end)

   it("never takes back at once what it has just moved", function()
      local list = chain({ 0.3, 0.3, 0.3 }, { [3] = 1 })
      assert.is_nil(back({ [0] = 0.3, 0.6 }, list, { [0] = 0.1 }))
   end)

   it("moves the process, with what it has in hand, and the one that follows it", function()
      local service = workers.service { { name = "step", nf = nf.instance("spec", { message = function(msg)
         if msg.path == "/end" then while true do end end -- until it is killed
      end }, 1) } }
      local ok, err = pcall(function()
         local cpus = affinity.cpus()
         local function allowed(pid)
            return posix.slurp(("/proc/%d/status"):format(pid)):match "\nCpus_allowed_list:%s*([^\n]+)"
         end
         local worker = service:add(1, { cpu = cpus[1] })
         local first = workers.running(worker)
         assert.equal(tostring(cpus[1]), allowed(first.pid))
         assert.equal(0, C.tw_worker_move(worker, cpus[#cpus]))
         workers.wait("it is moved", function() return allowed(first.pid) == tostring(cpus[#cpus]) end)
         assert.equal(cpus[#cpus], workers.info(worker).cpu)
         assert.equal(C.TW_V_NONE, service:round("/on").verdict)
         C.tw_supervisor_stuck(0, first.member, 1)
         local second = workers.running(worker, 1)
         assert.equal(tostring(cpus[#cpus]), allowed(second.pid))
         assert.is_true(C.tw_worker_move(worker, -1) < 0)
         assert.is_true(C.tw_worker_move(1000000, 0) < 0)
      end)
      service:close()
      if not ok then error(err, 0) end
   end)
end)
