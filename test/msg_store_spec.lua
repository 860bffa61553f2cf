-- SPDX-License-Identifier: BSD-3-Clause
-- Stores: entries, expiry, eviction; other processes, those that die and those that damage it.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local model = require "tideway.model"
local posix = require "tideway.posix"
local shell = require "test.shell"
local store_lib = require "tideway.store"

local C = abi.C
local HEAD = 4096 -- in front of the first shard

local n_stores, run_dir = 0, nil

local function new(o)
   n_stores = n_stores + 1
   o = o or {}
   o.name = o.name or "spec" .. n_stores
   return store_lib.store(o)
end

local function close_all()
   model.reset()
   collectgarbage()
   collectgarbage()
   collectgarbage()
end

-- The store's memory, as anybody sees it who has the descriptor.
local function memory_of(store)
   local size = store:stats().bytes
   local at = C.tw_posix_mmap(nil, size, 3, 1, C.tw_store_fd(store.number), 0)
   assert(ffi.cast("intptr_t", at) ~= -1)
   return ffi.gc(ffi.cast("uint8_t *", at), function(p) C.tw_posix_munmap(p, size) end), size
end

local function child(store, what, n)
   return ("env TIDEWAY_RUN_DIR=%s %s run test/support/store_child.lua %d %d %d %s %s"):format(run_dir, shell.binary,
      posix.getpid(), C.tw_store_fd(store.number), store.number, what, n or "")
end

describe("tw.store", function()
   setup(function() run_dir = shell.directory() end)
   teardown(function() shell.remove(run_dir) end)
   before_each(close_all)
   after_each(close_all)

   it("keeps strings, numbers and booleans", function()
      local s = new()
      assert.is_nil(s:get "a")
      assert.is_true(s:set("a", "hello", nil, 7))
      assert.same({ "hello", 7 }, { s:get "a" })
      assert.is_true(s:set("a", ""))
      assert.same({ "", 0 }, { s:get "a" })
      assert.is_true(s:set("n", -1.5))
      assert.equal(-1.5, s:get "n")
      assert.is_true(s:set("yes", true) and s:set("no", false))
      assert.is_true(s:get "yes")
      assert.is_false((s:get "no"))
      assert.is_true(s:set(12, "number as a key"))
      assert.equal("number as a key", s:get "12")
      assert.equal(5, s:count())
      assert.is_true(s:set("a", nil))
      assert.is_nil(s:get "a")
      assert.is_false(s:delete "a")
      assert.is_true(s:delete "n")
      assert.equal(3, s:count())
      assert.equal(3, s:flush())
      assert.equal(0, s:count())
      assert.equal(0, s:stats().used)
   end)

   it("keeps values of any length that fits, byte by byte", function()
      local s = new { bytes = 2 ^ 20, shards = 1 }
      for _, len in ipairs { 0, 1, 3, 251, 252, 253, 503, 504, 505, 4096, 65537, 300000 } do
         local bytes = {}
         for i = 1, len do bytes[i] = string.char((i * 7 + len) % 256) end
         local text = table.concat(bytes)
         local key = ("k"):rep(len % 512 + 1)
         assert.is_true(s:set(key, text))
         assert.is_true(s:get(key) == text)
      end
      local longest = s:stats().largest - 1
      assert.is_true(s:set("k", ("x"):rep(longest)))
      assert.equal(longest, #s:get "k")
      local ok, err = s:set("k", ("x"):rep(longest + 1))
      assert.is_nil(ok)
      assert.matches("does not fit", err)
      assert.equal(longest, #s:get "k")
      assert.equal(1, s:stats().full)
   end)

   it("refuses what is no key, value or time", function()
      local s = new()
      assert.has_error(function() s:get {} end)
      assert.has_error(function() s:set("a", {}) end)
      assert.has_error(function() s:set("a", 1, -1) end)
      assert.has_error(function() s:set("a", 1, 0 / 0) end)
      assert.matches("key of 0 bytes", select(2, s:set("", 1)))
      assert.matches("key of 513 bytes", select(2, s:set(("k"):rep(513), 1)))
      assert.is_true(s:set(("k"):rep(512), 1))
   end)

   it("adds, replaces and counts", function()
      local s = new()
      assert.same({ false, "not found" }, { s:replace("a", 1) })
      assert.is_true(s:add("a", 1))
      assert.same({ false, "exists" }, { s:add("a", 2) })
      assert.is_true(s:replace("a", 3))
      assert.equal(3, s:get "a")
      assert.same({ nil, "not found" }, { s:incr("n", 1) })
      assert.equal(6, s:incr("n", 1, 5))
      assert.equal(4, s:incr("n", -2, 5))
      assert.is_true(s:set("text", "x"))
      assert.matches("no number", select(2, s:incr("text", 1)))
   end)

   it("lets entries expire", function()
      local s = new()
      s:set("a", "old", 10)
      s:set("b", "stays")
      s:incr("n", 1, 0, 10)
      assert.is_true(s:ttl "a" > 9 and s:ttl "a" <= 10)
      assert.equal(math.huge, s:ttl "b")
      assert.is_nil(s:ttl "none")
      C.tw_clock_advance(11e9)
      assert.is_nil(s:get "a")
      assert.is_nil(s:ttl "a")
      assert.same({ "old", 0, true }, { s:get_stale "a" })
      assert.same({ "stays", 0, false }, { s:get_stale "b" })
      assert.is_false(s:delete "a")
      assert.equal(1, s:incr("n", 1, 0, 10))
      assert.is_true(s:add("a", "new", 5))
      assert.is_true(s:expire("a"))
      C.tw_clock_advance(11e9)
      assert.equal("new", s:get "a")
      assert.is_false(s:expire("n", 1))
      assert.equal(1, s:flush_expired())
      assert.equal(2, s:count())
   end)

   it("evicts what was not used for longest", function()
      local s = new { bytes = 2 ^ 18, entries = 100, shards = 1 }
      local room = s:stats().capacity
      for i = 1, room do assert.is_true(s:set(i, i)) end
      assert.equal(0, s:stats().evictions)
      assert.equal(1, s:get(1))
      assert.is_true(s:set("one more", 1))
      assert.equal(1, s:get(1))
      assert.is_nil(s:get(2))
      assert.equal(3, s:get(3))
      assert.equal(1, s:stats().evictions)
      assert.equal(room, s:count())
   end)

   it("stays within its memory, and counts exactly, whatever is done", function()
      local s = new { bytes = 2 ^ 18, entries = 400, shards = 2, piece = 64 }
      math.randomseed(1)
      local known, dropped = {}, 0
      for i = 1, 30000 do
         local key, op = "k" .. math.random(600), math.random(10)
         if op <= 5 then
            local value = string.char(math.random(0, 255)):rep(math.random(0, 3000))
            if s:set(key, value) then known[key] = value end
         elseif op <= 8 then
            local value = s:get(key)
            assert.is_true(value == nil or value == known[key])
            if value == nil and known[key] then dropped = dropped + 1 end
         elseif op == 9 then
            s:delete(key)
            known[key] = nil
         elseif i % 1000 == 0 then
            s:flush()
            known = {}
         end
      end
      local keys, used = 0, 0
      for key, value in s:pairs() do
         keys, used = keys + 1, used + #key + #value
         assert.is_true(known[key] == value)
      end
      local stats = s:stats()
      assert.equal(keys, stats.count)
      assert.equal(used, stats.used)
      assert.equal(keys, #s:keys())
      assert.is_true(stats.evictions > 0 and dropped > 0)
      assert.same({ 0, 0, 0 }, { stats.broken, stats.emptied, stats.busy })
   end)

   it("copies between its memory and others' without strings", function()
      local s = new { bytes = 2 ^ 20, shards = 1 }
      local block = ffi.new("uint8_t[?]", 10000)
      for i = 0, 9999 do block[i] = i % 251 end
      assert.is_true(s:put_block("b", block, 10000, 60, 9))
      local to = ffi.new("uint8_t[?]", 4000)
      local parts, version = {}, nil
      for from = 0, 9999, 4000 do
         local n, len, v, user, ttl = s:read("b", to, 4000, from)
         assert.equal(10000, len)
         assert.equal(9, user)
         assert.is_true(ttl > 59 and (not version or version == v))
         version = v
         parts[#parts + 1] = ffi.string(to, n)
      end
      assert.is_true(table.concat(parts) == ffi.string(block, 10000))
      assert.equal(0, (s:read("b", to, 4000, 10000)))
      assert.is_nil(s:read("none", to, 4000))
      local pieces = ffi.new "struct tw_store_piece[3]"
      for i = 0, 2 do pieces[i].at, pieces[i].len = block + i * 100, 100 end
      assert.is_true(s:put_blocks("b", pieces, 3))
      assert.is_true(s:get "b" == ffi.string(block, 300))
      local _, _, changed = s:read("b", to, 4000)
      assert.is_true(changed ~= version)
   end)

   it("is one store under one name", function()
      local a = new { name = "same", bytes = 2 ^ 18 }
      assert.equal(a, store_lib.store { name = "same", bytes = 2 ^ 18 })
      assert.has_error(function() store_lib.store { name = "same", bytes = 2 ^ 19 } end)
      a:set("k", 1)
      model.reset() -- a script that is loaded again
      assert.equal(1, store_lib.store { name = "same", bytes = 2 ^ 18 }:get "k")
      local transfer = require "tideway.transfer"
      local blob, fds = store_lib.noting(transfer.pack, { store = a }, "spec")
      assert.same({ C.tw_store_fd(a.number) }, fds)
      assert.equal(1, transfer.unpack(blob).store:get "k")
      local listed
      for _, entry in ipairs(store_lib.list()) do listed = listed or entry.name == "same" and entry end
      assert.equal(1, listed.count)
   end)

   it("says what is wrong with its options", function()
      for _, case in ipairs {
         { { name = "x", bytes = 100 }, "at least" }, { { name = "x", size = 1 }, "not an option" },
         { { name = "x", piece = 100 }, "power of two" }, { { name = "x", shards = 3 }, "power of two" },
         { {}, "name" }, { { name = "x", bytes = 2 ^ 50 }, "whole number" }, { { name = "x", entries = "1" }, "number" },
      } do
         local ok, err = pcall(store_lib.store, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err)
      end
   end)

   -- ---- other processes ----

   it("is the same store in another process", function()
      local s = new { name = "shared" }
      s:set("greeting", "hello")
      assert.equal("hello\tshared\n", shell.run(child(s, "get")).out)
   end)

   it("counts exactly while four processes write", function()
      local s = new { bytes = 2 ^ 18 }
      local one = child(s, "count", 5000)
      local r = shell.run(("for i in 1 2 3 4; do %s & done; wait"):format(one))
      assert.equal("", r.err)
      assert.equal(20000, s:get "sum")
      assert.same({ 0, 0, 0 }, { s:stats().broken, s:stats().emptied, s:stats().busy })
   end)

   it("gives no torn values", function()
      local s = new { bytes = 2 ^ 20 }
      local r = shell.run(("%s & %s & %s; wait"):format(child(s, "write", 5000), child(s, "read", 5000),
         child(s, "read", 5000)))
      assert.equal("", r.err)
      assert.is_not_nil(s:get "letters")
   end)

   it("empties a part whose user died in the middle of a change", function()
      local s = new { bytes = 2 ^ 18, shards = 1 }
      s:set("other", 1)
      s:set("victim", "whole")
      shell.run("ulimit -c 0; " .. child(s, "die"))
      assert.is_nil(s:get "victim")
      assert.is_nil(s:get "other")
      assert.equal(1, s:stats().emptied)
      assert.is_true(s:set("other", 2))
      assert.equal(2, s:get "other")
      assert.equal(1, s:count())
   end)

   it("waits once for who does not give a lock back, and goes on when it is given", function()
      local s = new { shards = 1 }
      s:set("a", 1)
      local lock = ffi.cast("uint32_t *", memory_of(s) + HEAD)
      assert.equal(0, lock[0])
      lock[0] = 1 -- the first process: it lives
      local value, err = s:get "a"
      assert.is_nil(value)
      assert.matches("locked and does not give it back", err)
      local before = posix.now()
      for _ = 1, 100 do assert.is_nil(s:set("b", 1)) end
      assert.is_true(posix.now() - before < 10e9) -- each for itself would take 30 s
      assert.equal(101, s:stats().busy)
      -- Nor when it says each time that somebody else has it.
      before = posix.now()
      for i = 1, 100 do
         lock[0] = 1 + i % 2
         assert.is_nil(s:set("b", 1))
      end
      assert.is_true(posix.now() - before < 10e9)
      assert.equal(201, s:stats().busy)
      lock[0] = 0
      assert.equal(1, s:get "a")
      lock[0] = 0x3ffffff0 -- no process at all
      assert.is_nil(s:get "a")
      assert.equal(1, s:stats().emptied)
      assert.is_true(s:set("a", 2))
   end)

   it("survives what anybody writes into it", function()
      local s = new { bytes = 2 ^ 17, entries = 60, shards = 1, piece = 64 }
      local at, size = memory_of(s)
      local words = ffi.cast("uint32_t *", at)
      math.randomseed(2)
      local broken = 0
      for round = 1, 400 do
         for i = 1, 80 do s:set("k" .. i, ("v"):rep(math.random(0, 900))) end
         for _ = 1, math.random(1, 40) do
            local near = math.random(2) == 1 and 8192 or size
            words[math.random(HEAD / 4, near / 4 - 1)] = math.random(2) == 1 and math.random(0, 300)
               or bit.tobit(math.random(0, 2 ^ 31))
         end
         words[HEAD / 4] = 0 -- of locks there is a test of its own
         for i = 1, 100 do
            local key = "k" .. math.random(90)
            s:get(key)
            s:get_stale(key)
            if i % 3 == 0 then s:set(key, ("w"):rep(math.random(0, 2000))) end
            if i % 5 == 0 then s:delete(key) end
            if i % 7 == 0 then s:incr(key, 1, 0) end
            if i % 50 == 0 then s:keys(50) end
         end
         if round % 10 == 0 then s:flush_expired() end
         broken = s:stats().broken
      end
      assert.is_true(broken > 10)
      s:flush()
      assert.equal(0, s:count())
      assert.is_true(s:set("k", "v"))
      assert.equal("v", s:get "k")
   end)

   it("walks no bucket that somebody has made long", function()
      local s = new { bytes = 2 ^ 18, entries = 500, shards = 1, piece = 64 }
      for i = 1, 400 do assert.is_true(s:set("k" .. i, i)) end
      local buckets = ffi.cast("uint32_t *", memory_of(s) + HEAD + 192)
      local entries = ffi.cast("uint32_t *", buckets + 512)
      for i = 0, 511 do buckets[i] = 1 end
      for i = 1, 400 do entries[(i - 1) * 16 + 8] = i < 400 and i + 1 or 0 end -- in_bucket
      assert.is_nil(s:get "none")
      assert.equal(1, s:stats().broken)
      assert.equal(0, s:count())
   end)

   it("does not take what is not a store, and cannot be cut short", function()
      local s = new { bytes = 2 ^ 18 }
      local copy = ffi.string(memory_of(s))
      assert.is_not_nil(copy)
      local path = os.tmpname()
      for _, text in ipairs { "", ("x"):rep(100), ("x"):rep(10000) } do
         shell.write(path, text)
         assert.is_nil(store_lib.adopt(ffi.new("int[1]", C.tw_posix_open(path, 2)), 1))
      end
      -- a head that says more than there is
      local at, size = memory_of(s)
      for offset = 8, 55, 4 do
         local forged = ffi.new("uint8_t[?]", size)
         ffi.copy(forged, at, size)
         ffi.cast("uint32_t *", forged + offset)[0] = 0x7fffff00
         shell.write(path, ffi.string(forged, size))
         local ok = store_lib.adopt(ffi.new("int[1]", C.tw_posix_open(path, 2)), 1)
         assert.is_true(ok == nil or offset == 52)
      end
      os.remove(path)
      local cut = shell.run(("truncate -s 4096 /proc/%d/fd/%d"):format(posix.getpid(), C.tw_store_fd(s.number)))
      assert.not_equal(0, cut.code)
      assert.is_true(s:set("a", 1))
   end)
end)
