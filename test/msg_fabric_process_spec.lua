-- SPDX-License-Identifier: BSD-3-Clause
-- Members in processes of their own: they sleep, die at any moment, read only, and write nonsense.
local abi = require "tideway.abi"
local posix = require "tideway.posix"
local support = require "test.support.fabric"

local ffi = require "ffi"
local C = abi.C
local repeated = support.repeated

ffi.cdef [[
long tw_test_fabric_send(int fd, const void *data, size_t n, int flags) __asm__("send");
int tw_test_usleep(unsigned us) __asm__("usleep");
]]

local function until_true(what, fn)
   local deadline = posix.now() + 60e9
   repeat
      if fn() then return end
      C.tw_test_usleep(1000)
   until posix.now() > deadline
   error("not within a minute: " .. what, 2)
end

for _, transport in ipairs { "sk_msg", "rings" } do
   local live = support.live(transport, it, pending)

   describe("processes over " .. transport, function()
      local f, gate

      local function fabric(o)
         o.transport = transport
         f = support.new(o)
         gate = f.gate
         return f
      end

      after_each(function()
         if f then f:free() end
         f = nil
      end)

      live("a member that only reads has memory that only can be read, and passes messages on", function()
         fabric { functions = { { readonly = true }, {} } }
         local b, m = f:open(1), gate:new()
         local at = C.tw_pool_at(f.pool, m, 0, nil)
         local function run(fn)
            local a = f:add(0, false)
            assert.equal(1, a.join.readonly)
            local pid = a:fork(fn)
            a:open()
            assert.equal(1, gate:enter(0, { m }))
            local status = support.reap(pid)
            a:remove()
            return status
         end
         assert.equal(0, run(function(self)
            local got
            repeat got = self:receive() until #got > 0
            local msg = ffi.cast("struct tw_msg *", C.tw_pool_at(self.pool, got[1][1], self.number, nil))
            assert(msg.kind == C.TW_MSG_REQUEST)
            assert(self:send(got) == 1)
         end))
         assert.equal(1, #b:receive())
         assert.equal(1, b:send { { m, exit = C.TW_EXIT_GATE } })
         gate:receive()
         assert.equal(128 + 11, run(function(self)
            local got
            repeat got = self:receive() until #got > 0
            ffi.cast("struct tw_msg *", C.tw_pool_at(self.pool, got[1][1], self.number, nil)).kind = 7
         end))
         assert.equal(C.TW_MSG_REQUEST, ffi.cast("struct tw_msg *", at).kind)
      end)

      live("a process sleeps until something comes, and every message comes back", function()
         fabric { functions = { {} } }
         local a = f:add(0, false)
         local pid = a:fork(function(self)
            local fd, n = C.tw_link_fd(self.link), 0
            while n < 5000 do
               if fd >= 0 then posix.poll({ fd }, 5000) end
               local got = self:receive()
               n = n + #got
               while #got > 0 do
                  local sent = self:send(got)
                  assert(type(sent) == "number", sent)
                  got = { unpack(got, sent + 1) }
               end
            end
         end)
         a:open()
         local out, back, size = 0, 0, 1
         while back < 5000 do
            if out < 5000 and out - back < 200 then
               size = math.min(size % 64 + 1, 5000 - out)
               local list = repeated(size, function() return gate:new() end)
               local n = gate:enter(0, list)
               assert.is_true(type(n) == "number", tostring(n))
               gate:free { unpack(list, n + 1) }
               out = out + n
            end
            local fd = C.tw_link_fd(gate.link)
            if fd >= 0 and out - back >= 200 then posix.poll({ fd }, 5000) end
            local got = gate:receive()
            gate:free(got)
            back = back + #got
         end
         assert.equal(0, support.reap(pid))
         assert.equal(0, f:used())
         local s = a:stats()
         assert.same({ 5000, 5000, 0 }, { s["in"], s.out, s.denied })
      end)

      live("a process that dies leaves what it had, in every state; its successor gets none of it", function()
         fabric { functions = { {}, {} } }
         local a = f:add(0, false)
         local b = f:open(1)
         local pid = a:fork(function(self)
            local got
            repeat got = self:receive(4) until #got == 4
            assert(C.tw_pool_begin(self.pool, got[1][1], self.number) == 0)
            assert(self:send { got[4] } == 1)
            self:new() -- made by itself
            C.tw_pool_board(self.pool, self.number).spare[0] = 1
            while true do C.tw_test_usleep(1000000) end
         end)
         a:open()
         local list = repeated(6, function() return gate:new() end)
         assert.equal(6, gate:enter(0, list))
         until_true("the child has begun", function() return C.tw_pool_board(f.pool, a.number).spare[0] == 1ULL end)
         assert.equal(128 + 9, support.reap(pid, 9))
         a:remove()
         local states = {}
         for i, m in ipairs(list) do
            states[i] = table.concat({ f:owner(m) }, " ")
         end
         local mine = "%s " .. a.number
         assert.same({ mine:format "busy", mine:format "held", mine:format "held", "sent " .. b.number,
            mine:format "sent", mine:format "sent" }, states)
         local own, total = {}, tonumber(C.tw_pool_blocks_for(8))
         for i = 0, total - 1 do
            local word = C.tw_pool_word(f.pool, i)
            if word % 65536ULL == a.number + 0ULL and word / 65536ULL % 65536ULL ~= 0ULL then
               own[#own + 1] = C.tw_pool_seize(f.pool, (word / 2ULL ^ 40) * 2ULL ^ 32 + i, 0, false)
            end
         end
         assert.equal(6, #own)
         local next_one = f:open(0)
         assert.not_equal(a.number, next_one.number)
         assert.equal(6, gate:enter(0, own))
         assert.equal(6, #next_one:drain())
         assert.equal(1, #b:drain())
      end)

      live("processes are killed under load: no message is lost, none comes twice", function()
         fabric { functions = { {}, { sticky = true } }, mb = 16 }
         local blocks = ffi.new "uint32_t[1]"
         C.tw_pool_places(16, blocks, ffi.new "uint32_t[1]", ffi.new "uint32_t[1]")
         local function start(number)
            local member = f:add(number, false)
            member.pid = member:fork(function(self)
               local fd = C.tw_link_fd(self.link)
               while true do
                  if fd >= 0 then posix.poll({ fd }, 1000) end
                  local got = self:receive()
                  for _, m in ipairs(got) do m.exit = 0 end
                  while #got > 0 do
                     local n = self:send(got)
                     if n == "ENOTCONN" then
                        for _, m in ipairs(got) do m.exit = C.TW_EXIT_GATE end
                     elseif n == "ESTALE" then
                        table.remove(got, 1)
                     elseif type(n) == "number" then
                        got = { unpack(got, n + 1) }
                     end
                  end
               end
            end)
            member.function_number = number
            member:open()
            return member
         end
         local members, pending, known = { start(0), start(0), start(1), start(1) }, {}, {}
         for i = 1, 100 do
            pending[i] = gate:new()
            ffi.cast("struct tw_msg *", C.tw_pool_at(f.pool, pending[i], 0, nil)).id = i
         end
         math.randomseed(5)
         local function turn(more)
            while more and #pending > 0 do
               local batch = {}
               for i = 1, math.min(#pending, 20) do batch[i] = { pending[#pending - i + 1], key = math.random(0, 9) } end
               local n = gate:enter(0, batch)
               assert.is_true(type(n) == "number", n)
               for _ = 1, #batch do pending[#pending] = nil end
               for i = n + 1, #batch do pending[#pending + 1] = batch[i][1] end
            end
            for _, got in ipairs(gate:receive()) do pending[#pending + 1] = got[1] end
         end
         local taken = 0
         for kill = 1, 24 do
            for _ = 1, 200 do turn(true) end
            local which = kill % 4 + 1
            local dead = members[which]
            assert.equal(128 + 9, support.reap(dead.pid, 9))
            dead:remove()
            for i = 0, blocks[0] - 1 do
               local word = C.tw_pool_word(f.pool, i)
               if word % 65536ULL == dead.number + 0ULL and word / 65536ULL % 65536ULL ~= 0ULL then
                  pending[#pending + 1] = C.tw_pool_seize(f.pool, (word / 2ULL ^ 40) * 2ULL ^ 32 + i, 0, false)
                  taken = taken + 1
               end
            end
            members[which] = start(dead.function_number)
         end
         until_true("all have come back", function()
            turn(false)
            return #pending >= 100
         end)
         for _, member in ipairs(members) do support.reap(member.pid, 9) end
         assert.equal(100, #pending)
         for _, m in ipairs(pending) do
            local id = tonumber(ffi.cast("struct tw_msg *", C.tw_pool_at(f.pool, m, 0, nil)).id)
            assert.is_nil(known[id])
            known[id] = true
         end
         assert.is_true(taken > 0)
         gate:free(pending)
         assert.equal(0, f:used())
      end)

      live("a member that writes nonsense reaches nobody and breaks nothing", function()
         fabric { functions = { {}, {} } }
         local a, b = f:add(0, false), f:open(1)
         math.randomseed(3)
         local m = gate:new()
         local pid = a:fork(function(self)
            local junk = ffi.new "uint8_t[4096]"
            local fd = C.tw_link_fd(self.link)
            for _ = 1, 400 do
               for i = 0, 4095 do junk[i] = math.random(0, 255) end
               if fd >= 0 then
                  C.tw_test_fabric_send(fd, junk, math.random(1, 4096), 0x4040)
               else
                  -- the rings themselves: its own, those of function 1, those of the gate threads
                  local list = {}
                  for i = 1, 64 do
                     list[i] = { ffi.cast("uint64_t *", junk)[i], exit = math.random(0, 20), gate = math.random(0, 20) }
                  end
                  self:send(list)
               end
            end
         end)
         a:open()
         assert.equal(0, support.reap(pid))
         assert.equal(0, #b:drain())
         assert.equal(0, #gate:drain())
         assert.is_true(a:stats().denied > 100)
         a:remove()
         local c = f:open(0)
         assert.equal(1, gate:enter(0, { m }))
         assert.equal(1, c:send(c:receive()))
         assert.equal(1, b:send(b:receive()))
         assert.equal(1, #gate:receive())
      end)
   end)
end
