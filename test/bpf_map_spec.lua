-- SPDX-License-Identifier: BSD-3-Clause
local bpf = require "tideway.bpf"
local abi = require "tideway.abi"
local packet = require "tideway.packet"
local posix = require "tideway.posix"
local asm = require "tideway.bpf.asm"
local shell = require "test.shell"

local ffi = require "ffi"

local root = posix.geteuid() == 0
local live = root and it or function(name) it(name, function() pending "needs root for bpf(2)" end) end

describe("BPF maps", function()
   local made = {}

   local function new(o)
      local m = assert(bpf.map.new(o))
      made[#made + 1] = m
      return m
   end

   after_each(function()
      for _, m in ipairs(made) do if m.fd >= 0 then m:free() end end
      made = {}
   end)

   for _, kind in ipairs { "hash", "lru_hash" } do
      live(("%s: the functions of a table"):format(kind), function()
         local m = new { kind = kind, key = "u32 src; u16 port", value = "u64 packets; u32 bytes", entries = 100 }
         assert.is_nil(m:get(1, 2))
         assert.is_true(m:set(1, 2, 3, 4))
         local v = m:get(1, 2)
         assert.is_true(v.packets == 3ULL)
         assert.equal(4, v.bytes)
         assert.equal("{packets=3ULL, bytes=4}", tostring(v))
         assert.equal(1, m:count())
         assert.is_true(m:del(1, 2))
         assert.is_false(m:del(1, 2))
         assert.is_nil(m:get(1, 2))
      end)
   end

   live("an entry writes one field through and leaves the others to whoever changes them", function()
      local m = new { kind = "hash", key = "u32", value = "u64 packets; u32 bytes", entries = 4 }
      local v = m:put(7)
      assert.equal(0, v.bytes)
      m:set(7, 100, 5) -- as a program might meanwhile
      v.bytes = 9
      assert.is_true(m:get(7).packets == 100ULL)
      assert.equal(9, m:get(7).bytes)
      m:del(7)
      v.bytes = 10 -- gone: nothing comes back
      assert.is_nil(m:get(7))
      assert.has_error(function() return v.nothing end, "map hash has no field 'nothing'")
   end)

   live("a full hash says so, and scalars add", function()
      local m = new { kind = "hash", key = "u32", value = "u32", entries = 2 }
      assert.is_true(m:add(1, 5))
      assert.is_true(m:add(1, 2))
      assert.equal(7, m:get(1))
      assert.is_true(m:set(2, 1))
      assert.is_false(m:set(3, 1))
      assert.equal(7, m:take(1))
      assert.is_nil(m:get(1))
   end)

   live("every field type comes back as it was stored", function()
      local m = new { kind = "hash", key = "ip6", entries = 4,
         value = "u8 a; u16 b; u32 c; u64 d; i32 e; i64 f; ns g; mac h; ip6 i" }
      local key = packet.ip6 "2001:db8::1"
      assert.is_true(m:set(key, 255, 65535, 4294967295, 2 ^ 40, -5, -6, 2 ^ 52, 0xffffffffffff, packet.ip6 "fe80::1"))
      local v = m:get(key)
      assert.same({ 255, 65535, 4294967295, -5, 2 ^ 52, 0xffffffffffff }, { v.a, v.b, v.c, v.e, v.g, v.h })
      assert.is_true(v.d == 2 ^ 40 + 0ULL and v.f == -6LL)
      assert.equal("fe80::1", packet.ip6_string(v.i))
   end)

   live("pairs, clear and count go through every entry, more than a batch", function()
      local m = new { kind = "hash", key = "u32", value = "u32", entries = 2000 }
      for i = 1, 1000 do m:set(i, i * 2) end
      local seen, sum = {}, 0
      for k, v in m:pairs() do
         assert.equal(k * 2, v)
         assert.is_nil(seen[k])
         seen[k], sum = true, sum + 1
      end
      assert.equal(1000, sum)
      assert.equal(1000, m:count())
      assert.equal(1000, m:stats().count)
      assert.equal(1000, m:clear())
      assert.equal(0, m:count())
      assert.is_nil(m:pairs()())
   end)

   live("array: entries from 0, in memory or by system call", function()
      for _, mmapable in ipairs { false, true } do
         local m = new { kind = "array", value = "u32 a; u64 b", entries = 3, mmapable = mmapable }
         assert.is_true(m:set(2, 1, 2))
         assert.is_false(m:set(3, 1, 2))
         assert.is_nil(m:get(3))
         m:get(2).a = 77
         assert.equal(77, m:get(2).a)
         local n = 0
         for i, v in m:pairs() do
            assert.equal(i == 2 and 77 or 0, v.a)
            n = n + 1
         end
         assert.equal(3, n)
         assert.equal(3, m:clear())
         assert.equal(0, m:get(2).a)
         local s = new { kind = "array", value = "u64", entries = 2, mmapable = mmapable }
         s:add(1, 5)
         s:add(1, 6)
         assert.is_true(s:get(1) == 11ULL)
         assert.is_false(s:add(2, 1))
      end
   end)

   live("per-CPU: a value for each CPU, and their sum", function()
      local cpus = abi.C.tw_bpf_cpus()
      for _, kind in ipairs { "percpu_hash", "percpu_array", "lru_percpu_hash" } do
         local m = new { kind = kind, key = kind ~= "percpu_array" and "u32" or nil, value = "u32 a; u64 b",
            entries = 4 }
         assert.is_true(m:set(1, 3, 4))
         local list = m:get(1)
         assert.equal(cpus, #list)
         assert.equal(3, list[cpus].a)
         assert.equal(3 * cpus, m:sum(1).a)
         assert.is_true(m:sum(1).b == 4ULL * cpus)
         for k, values in m:pairs() do
            assert.equal(k == 1 and 3 or 0, values[cpus].a)
         end
      end
   end)

   live("lpm_trie: prefixes as texts, longest match", function()
      local m = new { kind = "lpm_trie", value = "u32", entries = 10 }
      assert.is_true(m:set("10.0.0.0/8", 1))
      assert.is_true(m:set(packet.ip4 "10.1.0.0", 16, 2))
      assert.equal(1, m:get(packet.ip4 "10.2.3.4"))
      assert.equal(2, m:get(packet.ip4 "10.1.3.4"))
      assert.is_nil(m:get(packet.ip4 "11.1.3.4"))
      local list = {}
      for k, v in m:pairs() do list[#list + 1] = tostring(k) .. "=" .. v end
      table.sort(list)
      assert.same({ "10.0.0.0/8=1", "10.1.0.0/16=2" }, list)
      assert.equal(1, m:find "10.0.0.0/8")
      assert.is_nil(m:find "10.0.0.0/9")
      assert.is_true(m:set("10.9.9.9/8", 3)) -- the same prefix as 10.0.0.0/8
      assert.equal(3, m:find "10.0.0.0/8")
      assert.equal(2, m:count())
      assert.is_true(m:del "10.1.0.0/16")
      assert.equal(3, m:get(packet.ip4 "10.1.3.4"))
      assert.has_error(function() m:set("10.0.0.0/33", 1) end)
      assert.has_error(function() m:set(5, nil, 1) end)

      local six = new { kind = "lpm_trie", family = 6, value = "u32 a; u32 b", entries = 10 }
      assert.is_true(six:set("2001:db8::/32", 1, 2))
      assert.equal(2, six:get(packet.ip6 "2001:db8::9").b)
      assert.is_nil(six:get(packet.ip6 "2001:db9::9"))
      assert.equal("2001:db8::/32", tostring((six:pairs()())))
   end)

   live("queue, stack and bloom filter", function()
      local q = new { kind = "queue", value = "u32", entries = 2 }
      local s = new { kind = "stack", value = "u32 a; u32 b", entries = 2 }
      assert.is_true(q:push(1) and q:push(2))
      assert.is_false(q:push(3))
      assert.equal(1, q:peek())
      assert.same({ 1, 2 }, { q:pop(), q:pop() })
      assert.is_nil(q:pop())
      s:push(1, 2)
      s:push(3, 4)
      assert.equal(4, s:pop().b)
      assert.equal(1, s:clear())
      local b = new { kind = "bloom_filter", value = "u32 a; u32 b", entries = 100, hashes = 5 }
      local padded = new { kind = "bloom_filter", value = "u8 a; u32 b", entries = 100, hashes = 5 }
      padded.env.raw[0] = -1LL -- whatever lay there
      assert.is_true(padded:push(1, 2))
      padded.env.raw[0] = 0
      assert.is_true(padded:has(1, 2))
      assert.is_true(b:push(1, 2))
      assert.is_true(b:has(1, 2))
      assert.is_false(b:has(2, 1))
   end)

   live("maps of programs, interfaces, CPUs and sockets take objects and names", function()
      local a = asm.new()
      a:mov("r0", 2)
      a:exit()
      local pass = assert(bpf.program.load(a:spec { name = "pass", type = "xdp" }))
      local progs = new { kind = "prog_array", entries = 2 }
      assert.is_true(progs:set(1, pass))
      assert.equal(pass.id, progs:get(1))
      assert.is_true(progs:del(1))
      for _, kind in ipairs { "devmap", "devmap_hash" } do
         local dev = new { kind = kind, entries = 4 }
         assert.is_true(dev:set(1, "lo"))
         assert.equal(1, dev:get(1).ifindex)
         assert.equal(1, dev:count())
      end
      assert.is_true(new({ kind = "cpumap", entries = 1 }):set(0, 192))
      assert.has_error(function() new({ kind = "xskmap", entries = 1 }):set(0, 1000) end)
      new { kind = "sockmap", entries = 1 }
      new { kind = "sockhash", key = "u32 a; u16 b", entries = 1 }
      new { kind = "reuseport_sockarray", entries = 1 }
      pass:close()
   end)

   live("a ring buffer gives records in order, and waits for them", function()
      local ring = new { kind = "ringbuf", entries = 4096, value = "u32 a; u64 b" }
      local a = asm.new()
      a:store(32, "r10", -16, 5)
      a:store(32, "r10", -12, 0)
      a:call(5)
      a:store(64, "r10", -8, "r0")
      a:map("r1", ring)
      a:mov("r2", "r10")
      a:add("r2", -16)
      a:mov("r3", 16)
      a:mov("r4", 0)
      a:call(130) -- ringbuf_output
      a:mov("r0", 2)
      a:exit()
      local p = assert(bpf.program.load(a:spec { name = "out", type = "xdp" }))
      local reader = assert(ring:reader())
      assert.is_false(reader:poll(0))
      assert.is_nil(reader:next())
      local total = 0
      for _ = 1, 100 do -- more than the ring holds at once: records must be given back
         assert(p:test(("\0"):rep(60)))
         assert(p:test(("\0"):rep(60)))
         assert.is_true(reader:poll(1000))
         local first, second = reader:next(), reader:next()
         assert.equal(5, first.a)
         assert.is_true(second.b > first.b)
         assert.is_nil(reader:next())
         total = total + 2
      end
      assert.equal(200, total)
      assert.is_false(reader:poll(0))
      reader:close()
      p:close()
   end)

   live("types are in the kernel, so that tools show names", function()
      if not shell.has "bpftool" then pending "bpftool is missing (make deps)" end
      local m = new { kind = "hash", name = "flows", key = "u32 src; u16 port", value = "u64 packets; u32 mark",
         entries = 10, lock = true }
      m:set(1, 2, 3, 4)
      local text = shell.run("bpftool map dump id " .. m.id).out
      for _, word in ipairs { '"src": 1', '"port": 2', '"packets": 3', '"mark": 4', "lock" } do
         assert.truthy(text:find(word, 1, true), word .. " is not in " .. text)
      end
      local lpm = new { kind = "lpm_trie", name = "routes", value = "u32", entries = 10 }
      lpm:set("10.0.0.0/8", 5)
      assert.truthy(shell.run("bpftool map dump id " .. lpm.id).out:find('"prefixlen": 8', 1, true))
   end)

   live("pairs of values with a lock, of prefixes, of more than a batch", function()
      local m = new { kind = "hash", key = "u32", value = "u64 a; u64 b", entries = 1000, lock = true }
      for i = 1, 700 do m:set(i, i, i * 2) end
      local n = 0
      for k, v in m:pairs() do
         assert.is_true(v.a == k + 0ULL and v.b == 2ULL * k)
         n = n + 1
      end
      assert.equal(700, n)
      local t = new { kind = "lpm_trie", value = "u32", entries = 1000 }
      for i = 1, 700 do t:set(0x0a000000 + i * 256, 24, i) end
      n = 0
      for k, v in t:pairs() do
         assert.equal(0x0a000000 + v * 256, k.address)
         n = n + 1
      end
      assert.equal(700, n)
      assert.equal(700, t:clear())
      assert.equal(0, t:count())
   end)

   live("a spin lock lies behind the fields; values keep their layout", function()
      local m = new { kind = "hash", key = "u32", value = "u8 a", entries = 10, lock = true }
      assert.equal(4, m.lock_offset)
      assert.equal(8, m.value_size)
      assert.is_true(m:set(1, 9))
      assert.equal(9, m:get(1).a)
   end)

   live("freeze: user space changes no more", function()
      local m = new { kind = "array", value = "u32", entries = 1 }
      m:set(0, 4)
      m:freeze()
      assert.is_true(m:info().frozen)
      assert.has_error(function() m:set(0, 5) end)
      assert.equal(4, m:get(0))
   end)

   live("another VM, or a later run, makes the same object from the descriptor", function()
      local m = new { kind = "lpm_trie", family = 6, name = "routes", value = "u32", entries = 10 }
      m:set("::/0", 6)
      local module, f, arguments = getmetatable(m).__transfer(m)
      local same = require(module)[f](unpack(arguments))
      assert.equal(6, same:get(packet.ip6 "::1"))
      assert.equal(m.id, same.id)
      local again, err = bpf.map.from_fd(m.fd, { value = "u64" })
      assert.is_nil(again)
      assert.equal("map routes has keys of 20 and values of 4 bytes, not 20 and 8 as declared", err)
   end)

   it("refuses a wrong declaration with a sentence", function()
      local function refused(o)
         local m, err = bpf.map.new(o)
         assert.is_nil(m)
         return err
      end
      assert.equal("map x: 'bag' is not a kind of map", refused { kind = "bag", name = "x" })
      assert.equal("map hash: entries is nil, not a whole number from 1", refused { kind = "hash" })
      assert.equal("map hash: key type nil: it is a nil, not a string such as \"u32\"",
         refused { kind = "hash", entries = 1 })
      assert.equal("map array: only an array without a lock can be mmapable",
         refused { kind = "array", entries = 1, value = "u32", mmapable = true, lock = true })
      assert.equal("map ringbuf: entries of a ring buffer are bytes, a power of two and whole pages; 5000 is not",
         refused { kind = "ringbuf", entries = 5000 })
      assert.equal("map hash: size is not an option of a map", refused { kind = "hash", size = 5 })
      assert.equal("map percpu_hash: a percpu_hash cannot have a spin lock; hash and array can",
         refused { kind = "percpu_hash", key = "u32", value = "u32", entries = 1, lock = true })
   end)

   live("pins come and go in several processes at once", function()
      local dir = shell.directory()
      finally(function() shell.remove(dir) end)
      shell.write(dir .. "/pins.lua", [[
         local bpf, pin = require "tideway.bpf", require "tideway.bpf.pin"
         local map = assert(bpf.map.new { kind = "array", value = "u32", entries = 1, name = "pinned" })
         for _ = 1, 1000 do
            local path = pin.path(("spec-pins-%d-%s"):format(require("tideway.posix").getpid(), ...), "map", "m")
            assert(pin.pin(map.fd, path))
            assert(pin.unpin(path))
         end
         print "all pinned"]])
      local commands = {}
      for i = 1, 3 do commands[i] = ("%s check %s/pins.lua %d 2>&1 &"):format(shell.binary, dir, i) end
      local out = shell.run(table.concat(commands, "\n") .. "\nwait").out
      assert.equal(3, select(2, out:gsub("all pinned", "")), out)
   end)

   live("a freed map says so", function()
      local m = new { kind = "hash", key = "u32", value = "u32", entries = 1 }
      local fd = m.fd
      m:free()
      assert.has_error(function() m:get(1) end, "this map was freed")
      local info = ffi.new "struct tw_bpf_map_info"
      assert.is_true(abi.C.tw_bpf_map_get_info(fd, info) < 0)
   end)
end)
