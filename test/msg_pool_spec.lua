-- SPDX-License-Identifier: BSD-3-Clause
-- The shared memory of a service: blocks, their owners, and handles of all kinds.
local abi = require "tideway.abi"
local posix = require "tideway.posix"

local ffi = require "ffi"
local C = abi.C

local ESTALE, EPERM, GATE = -116, -1, 0
local FREE, HELD, SENT, BUSY, LOST = 0, 1, 2, 3, 4

local function index_of(handle) return tonumber(handle % 2ULL ^ 32) end
local function generation_of(handle) return tonumber(handle / 2ULL ^ 32) end

local function files()
   collectgarbage()
   collectgarbage()
   local n = 0
   for fd = 0, 1023 do if posix.readlink("/proc/self/fd/" .. fd) then n = n + 1 end end
   return n
end

describe("the pool of a service", function()
   local pool, size

   local function create(mb)
      local out = ffi.new "struct tw_pool *[1]"
      assert.equal(0, C.tw_pool_create(out, "spec", mb, -1), abi.error())
      return out[0]
   end

   local function attach(of, readonly)
      local fds, out = ffi.new "struct tw_pool_fds", ffi.new "struct tw_pool *[1]"
      C.tw_pool_descriptors(of, fds)
      assert.equal(0, C.tw_pool_attach(out, fds.owners, readonly and fds.blocks_readonly or fds.blocks,
         readonly or false),
         abi.error())
      return out[0]
   end

   -- The owners as every member has them mapped, how many words there are, and what lies behind them.
   local function owners_of(of)
      local blocks, boards, words = ffi.new "uint32_t[1]", ffi.new "uint32_t[1]", ffi.new "uint32_t[1]"
      C.tw_pool_places(16, blocks, boards, words)
      return ffi.cast("uint64_t *", C.tw_pool_board(of, 0)) - boards[0], blocks[0], boards[0]
   end

   local function state(handle)
      local word = C.tw_pool_word(pool, index_of(handle))
      return tonumber(word / 65536ULL % 65536ULL), tonumber(word % 65536ULL)
   end

   local function stats()
      local s = ffi.new "struct tw_pool_stats"
      C.tw_pool_get_stats(pool, s)
      return s
   end

   local function used()
      local s, n = stats(), 0
      for c = 0, C.TW_POOL_CLASSES - 1 do n = n + tonumber(s.used[c]) end
      return n
   end

   local function new(bytes, member)
      local handle = C.tw_pool_new(pool, bytes, member or GATE)
      assert.is_true(handle ~= 0ULL, abi.error())
      return handle
   end

   before_each(function() pool, size = create(16), ffi.new "uint32_t[1]" end)
   after_each(function() C.tw_pool_close(pool) end)

   it("gives a block of the smallest class that is large enough, and it is the caller's", function()
      for want, got in pairs { [1] = 4096, [4096] = 4096, [4097] = 16384, [65536] = 65536, [65537] = 262144,
         [1048576] = 1048576 } do
         local handle = new(want, 20)
         local at = C.tw_pool_at(pool, handle, 20, size)
         assert.equal(got, size[0])
         assert.equal(0, tonumber(ffi.cast("uintptr_t", at) % 64))
         ffi.fill(at, size[0], 0x5a)
         assert.same({ HELD, 20 }, { state(handle) })
         assert.equal(0, C.tw_pool_free(pool, handle, 20))
      end
      assert.equal(0, used())
      assert.is_true(C.tw_pool_new(pool, 1048577, 20) == 0ULL)
      assert.matches("no block has 1048577 bytes", abi.error())
   end)

   it("gives every block once, none that overlap, larger ones when a class is empty, and then says so", function()
      local s, all, byte = stats(), {}, ffi.new "uint8_t *[1]"
      local total = 0
      for c = 0, C.TW_POOL_CLASSES - 1 do
         assert.is_true(s.blocks[c] > 0ULL)
         total = total + tonumber(s.blocks[c])
      end
      while true do
         local handle = C.tw_pool_new(pool, 100, GATE)
         if handle == 0ULL then break end
         all[#all + 1] = handle
         byte[0] = C.tw_pool_at(pool, handle, GATE, size)
         ffi.cast("uint32_t *", byte[0])[0], ffi.cast("uint32_t *", byte[0] + size[0] - 4)[0] = #all, #all
      end
      assert.equal(total, #all)
      assert.matches("no free block of 100 bytes; more memory_mb%?", abi.error())
      assert.is_true(stats().empty > 0ULL)
      for i, handle in ipairs(all) do
         byte[0] = C.tw_pool_at(pool, handle, GATE, size)
         assert.equal(i, ffi.cast("uint32_t *", byte[0])[0])
         assert.equal(i, ffi.cast("uint32_t *", byte[0] + size[0] - 4)[0])
         assert.equal(0, C.tw_pool_free(pool, handle, GATE))
      end
      assert.equal(0, used())
      new(1048576)
   end)

   it("refuses what is free already, somebody else's, of another generation, or nonsense", function()
      local handle = new(100, 20)
      assert.equal(EPERM, C.tw_pool_free(pool, handle, 21))
      assert.is_true(C.tw_pool_at(pool, handle, 21, size) == nil)
      assert.equal(ESTALE, C.tw_pool_give(pool, handle, 21, 22))
      assert.equal(ESTALE, C.tw_pool_begin(pool, handle, 21))
      assert.equal(ESTALE, C.tw_pool_take(pool, handle, 20)) -- nobody has sent it
      assert.equal(0, C.tw_pool_free(pool, handle, 20))
      assert.equal(ESTALE, C.tw_pool_free(pool, handle, 20))
      assert.is_true(C.tw_pool_at(pool, handle, 20, size) == nil)
      assert.is_true(C.tw_pool_peek(pool, handle, size) == nil)
      local again
      repeat again = new(100, 20) until index_of(again) == index_of(handle)
      assert.is_true(generation_of(again) == generation_of(handle) + 1)
      assert.equal(ESTALE, C.tw_pool_free(pool, handle, 20))
      assert.same({ HELD, 20 }, { state(again) })
      local before = stats().refused
      for _, nonsense in ipairs { 0ULL, 1ULL, 0xffffffffULL, 0x1ffffffffULL, 0xffffffffffffffffULL,
         again + 2ULL ^ 56, again + 2ULL ^ 63, 0x100000000ULL + 1e6, again + 100000ULL } do
         assert.is_true(C.tw_pool_at(pool, nonsense, 20, size) == nil)
         assert.is_true(C.tw_pool_peek(pool, nonsense, size) == nil)
         assert.is_true(C.tw_pool_free(pool, nonsense, 20) < 0)
         assert.is_true(C.tw_pool_give(pool, nonsense, 20, 21) < 0)
         assert.is_true(C.tw_pool_take(pool, nonsense, 20) < 0)
         assert.is_true(C.tw_pool_begin(pool, nonsense, 20) < 0)
         assert.is_true(C.tw_pool_seize(pool, nonsense, 20, false) == 0ULL)
      end
      assert.is_true(stats().refused >= before + 9 * 5)
   end)

   it("a random handle is never good, whatever is in the owners", function()
      math.randomseed(7)
      local other = attach(pool)
      local first = ffi.cast("uint8_t *", C.tw_pool_peek(pool, new(1048576, 20), nil))
      -- The words and the hints, as a function that went mad would leave them.
      local owners, _, boards = owners_of(other)
      for i = 0, boards - 1 do
         owners[i] = math.random(0, 2 ^ 31) * 2ULL ^ 33 + math.random(0, 4) * 65536 + math.random(0, 255)
      end
      for _ = 1, 20000 do
         local index = math.random(0, 1200)
         local generation = math.random() < 0.5 and math.random(0, 2 ^ 25) or C.tw_pool_word(pool, index) / 2ULL ^ 40
         local handle = generation * 2ULL ^ 32 + index
         local at = C.tw_pool_at(pool, handle, math.random(0, 300), size)
         if at ~= nil then
            local offset = tonumber(ffi.cast("uint8_t *", at) - first)
            assert.is_true(offset > -2 ^ 24 and offset < 2 ^ 24)
         end
         C.tw_pool_free(pool, handle, math.random(0, 300))
         C.tw_pool_new(pool, math.random(1, 1048576), math.random(0, 255))
         C.tw_pool_seize(pool, handle, math.random(0, 255), math.random() < 0.5)
      end
      C.tw_pool_mend(pool)
      C.tw_pool_close(other)
   end)

   it("a block goes from member to member by its word alone", function()
      local handle = new(100, 20)
      assert.equal(0, C.tw_pool_begin(pool, handle, 20))
      assert.same({ BUSY, 20 }, { state(handle) })
      assert.equal(0, C.tw_pool_give(pool, handle, 20, 21))
      assert.same({ SENT, 21 }, { state(handle) })
      assert.is_true(C.tw_pool_at(pool, handle, 20, size) == nil)
      assert.is_true(C.tw_pool_at(pool, handle, 21, size) == nil) -- not before it is taken
      assert.is_true(C.tw_pool_peek(pool, handle, size) ~= nil)
      assert.is_true(C.tw_pool_free(pool, handle, 21) < 0)
      assert.equal(ESTALE, C.tw_pool_give(pool, handle, 20, 22)) -- twice
      assert.equal(ESTALE, C.tw_pool_take(pool, handle, 20))
      assert.equal(0, C.tw_pool_take(pool, handle, 21))
      assert.equal(ESTALE, C.tw_pool_take(pool, handle, 21))
      assert.equal(0, C.tw_pool_give(pool, handle, 21, 22))
      assert.equal(0, C.tw_pool_ungive(pool, handle, 21, 22))
      assert.same({ HELD, 21 }, { state(handle) })
      assert.equal(0, C.tw_pool_free(pool, handle, 21))
      assert.same({ FREE, 0 }, { state(handle) })
   end)

   it("taken back from a member that is gone, in every state; its old handle is no good", function()
      for _, how in ipairs { "held", "busy", "sent", "lost" } do
         local handle = new(100, 30)
         if how == "busy" then C.tw_pool_begin(pool, handle, 30) end
         if how == "sent" then C.tw_pool_give(pool, handle, 30, 31) end
         if how == "lost" then assert.is_true(C.tw_pool_seize(pool, handle, GATE, true) == 0ULL) end
         local mine = C.tw_pool_seize(pool, handle, GATE, false)
         assert.is_true(mine ~= 0ULL and mine ~= handle, how)
         assert.same({ HELD, GATE }, { state(mine) })
         assert.equal(ESTALE, C.tw_pool_take(pool, handle, 31))
         assert.equal(ESTALE, C.tw_pool_give(pool, handle, 30, GATE))
         assert.equal(ESTALE, C.tw_pool_free(pool, handle, 30))
         assert.is_true(C.tw_pool_seize(pool, handle, GATE, false) == 0ULL)
         assert.equal(0, C.tw_pool_free(pool, mine, GATE))
      end
      assert.equal(0, used())
   end)

   it("taken back from a member that lives it is lost, and free when that one lets go", function()
      for _, busy in ipairs { false, true } do
         local handle = new(100, 30)
         if busy then C.tw_pool_begin(pool, handle, 30) end
         assert.is_true(C.tw_pool_seize(pool, handle, GATE, true) == 0ULL)
         assert.same({ LOST, 30 }, { state(handle) })
         assert.equal(ESTALE, C.tw_pool_give(pool, handle, 30, GATE))
         assert.equal(ESTALE, C.tw_pool_begin(pool, handle, 30))
         assert.is_true(C.tw_pool_at(pool, handle, 30, size) == nil)
         assert.equal(EPERM, C.tw_pool_free(pool, handle, GATE))
         assert.equal(0, C.tw_pool_free(pool, handle, 30))
      end
      -- What it has not taken yet comes back at once.
      local handle = new(100, GATE)
      assert.equal(0, C.tw_pool_give(pool, handle, GATE, 30))
      local mine = C.tw_pool_seize(pool, handle, GATE, true)
      assert.same({ HELD, GATE }, { state(mine) })
      assert.equal(ESTALE, C.tw_pool_take(pool, handle, 30))
      assert.equal(0, C.tw_pool_free(pool, mine, GATE))
      assert.equal(0, used())
   end)

   it("another mapping sees the same blocks; one for reading cannot be written, nor made to be", function()
      local handle, other = new(100, 20), attach(pool)
      ffi.copy(C.tw_pool_at(pool, handle, 20, nil), "hello")
      assert.equal("hello", ffi.string(C.tw_pool_at(other, handle, 20, size)))
      assert.equal(0, C.tw_pool_free(other, handle, 20))
      assert.equal(ESTALE, C.tw_pool_free(pool, handle, 20))
      C.tw_pool_close(other)

      local fds = ffi.new "struct tw_pool_fds"
      C.tw_pool_descriptors(pool, fds)
      local reader = attach(pool, true)
      handle = new(100, 20)
      ffi.copy(C.tw_pool_at(pool, handle, 20, nil), "read")
      assert.equal("read", ffi.string(C.tw_pool_peek(reader, handle, size)))
      C.tw_pool_close(reader)
      local out = ffi.new "struct tw_pool *[1]"
      assert.is_true(C.tw_pool_attach(out, fds.owners, fds.blocks_readonly, false) < 0)
      assert.matches("cannot be mapped", abi.error())
      -- Owner only: another user cannot open the file behind the descriptor for writing.
      local mode = io.popen(("stat -L -c %%a /proc/%d/fd/%d"):format(posix.getpid(), fds.blocks_readonly)):read "*l"
      assert.equal("600", mode)
   end)

   it("descriptors that are no pool are refused", function()
      local fds, out = ffi.new "struct tw_pool_fds", ffi.new "struct tw_pool *[1]"
      C.tw_pool_descriptors(pool, fds)
      assert.is_true(C.tw_pool_attach(out, fds.owners, fds.owners, false) < 0)
      assert.matches("is not a pool", abi.error())
      assert.is_true(C.tw_pool_attach(out, fds.owners, 999, false) < 0)
      assert.is_true(C.tw_pool_attach(out, 999, fds.blocks, false) < 0)
      assert.is_true(out[0] == nil)
   end)

   it("hints that are lost come back", function()
      local other = attach(pool)
      local owners, blocks, boards = owners_of(other)
      for i = blocks, boards - 1 do owners[i] = 0 end
      assert.is_true(C.tw_pool_new(pool, 100, GATE) ~= 0ULL)
      C.tw_pool_close(other)
   end)

   it("blocks whose words somebody wrote over are free again, others stay whose they are", function()
      local mine = new(100)
      local other = attach(pool)
      local owners, blocks = owners_of(other)
      for i = 0, blocks - 1 do
         if i ~= index_of(mine) then owners[i] = i % 2 == 0 and 0xffffffffffffffffULL or 0x0000000000010007ULL end
      end
      C.tw_pool_mend(pool)
      assert.equal(1, used())
      assert.same({ HELD, GATE }, { state(mine) })
      for _ = 1, blocks - 1 do new(100) end
      C.tw_pool_close(other)
   end)

   it("who has a block finds its memory whatever its word says, and only the memory", function()
      local handle = new(100)
      local at = C.tw_pool_at(pool, handle, GATE, size)
      C.tw_pool_free(pool, handle, GATE)
      assert.is_true(C.tw_pool_peek(pool, handle, size) == nil)
      assert.is_true(C.tw_pool_block(pool, handle, size) == at)
      assert.equal(4096, size[0])
      for _, none in ipairs { 0ULL, 0xffffffffULL, 0x1ffffffffULL, 7ULL } do
         assert.is_true(C.tw_pool_block(pool, none, size) == nil)
         assert.equal(0, size[0])
      end
   end)

   it("leaves no descriptor behind", function()
      local before = files()
      local one = create(4)
      local two = attach(one)
      assert.is_true(files() > before)
      C.tw_pool_close(two)
      C.tw_pool_close(one)
      assert.equal(before, files())
   end)
end)
