-- SPDX-License-Identifier: BSD-3-Clause
-- Spin locks of entries: as plain Lua, the same on hooks and lcores, and what is refused.

local backends = require "test.support.backends"
local frame = require "test.support.frame"
local language = require "test.support.language"
local rigs = require "test.support.rig"
local tw = require "tideway"

local function frames(count)
   local list = {}
   for n = 1, count do
      list[n] = frame.udp4({}, { src = "10.0.0." .. n % 5, dst = "10.0.0.2", ttl = n % 3 + 1 },
         { sport = n * 7919 % 65536, dport = n * 104729 % 65536 }, ("x"):rep(20 + n % 9))
   end
   return list
end

local TABLES = [[
   local t = tw.hash {
      name = "lang_flows", key = "u32", value = "u64 bytes; u32 packets; u8 last[5]", entries = 64, lock = true }
   local a = tw.array { name = "lang_slots", value = "u16 n; u16 most", entries = 4, lock = true }
   local band, h = require("bit").band, tw.header("lang_bytes", "u8 bytes[8]")
]]

local function nf(body) return TABLES .. "return { tables = { t, a }, packet = function(pkt)\n" .. body .. "\nend }" end

local function same(body) language.same(nf(body), frames(40)) end
local function refused(body, hook) return language.refused(nf(body), hook) end

describe("a lock in plain Lua", function()
   local function entry()
      local t = tw.hash { key = "u32", value = "u64 n", entries = 4, lock = true }
      return t:put(1), t
   end

   it("is taken and given back", function()
      local e, t = entry()
      finally(function() t:free() end)
      e:lock()
      assert.equal(1, e.raw_lock)
      e.n = e.n + 1
      e:unlock()
      assert.equal(0, e.raw_lock)
   end)

   it("is one at a time, and of who holds it", function()
      local e, t = entry()
      finally(function() t:free() end)
      assert.error_matches(function() e:unlock() end, "this entry is not locked here")
      e:lock()
      local other = t:put(2)
      assert.error_matches(function() other:lock() end, "an entry is locked already")
      assert.equal(0, e.raw_lock)
      other:lock()
      other:unlock()
   end)

   it("is not waited for without end", function()
      local e, t = entry()
      finally(function() t:free() end)
      e.raw_lock = 1 -- some other thread
      assert.error_matches(function() e:lock() end, "another thread has held the lock of this entry for 200 ms")
      e.raw_lock = 0
      e:lock()
      e:unlock()
   end)

   it("is given back by the fence when its NF is taken out", function()
      local rig = rigs.new { ports = { "a", "b" } }
      finally(function() rig:close() end)
      local t = tw.hash { key = "u32", value = "u64 n", entries = 4, lock = true }
      local locker = tw.nf("lang_locker", function()
         return {
            packet = function(pkt)
               local e = t:put(1)
               e:lock()
               e.n = e.n + 1
               if pkt.len > 100 then error(("packet of %d bytes"):format(pkt.len)) end
               e:unlock()
            end,
         }
      end)
      rig:chain("c", rig.a, locker {}, rig.b)
      rig:start()
      local short, long = frames(1)[1], frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" },
         { sport = 1, dport = 2 }, ("x"):rep(200))
      rig:send(rig.a, short, long, short)
      assert.equal(1, #rig:collect(rig.b))
      local e = t:get(1)
      assert.equal(2, tonumber(e.n))
      assert.equal(0, e.raw_lock)
      e:lock()
      e:unlock()
   end)

   it("lies where the kernel has it", function()
      local t = tw.hash { name = "lang_layout", key = "u32", value = "u64 a; u8 b", entries = 4, lock = true }
      t:set(7, 5, 6)
      local map, err = require("tideway.bpf.backing").of(t)
      if not map then return pending(err) end
      finally(function()
         map:free()
         t:free()
      end)
      assert.same({ t.value_type.size, t.value_type.lock_offset }, { map.value_size, map.lock_offset })
      assert.equal(6, t:get(7).b)
      assert.error_matches(function() t:get(7):lock() end, "only programs hold the lock of a kernel map")
   end)

   it("is for values with fields in hash and array", function()
      for _, o in ipairs { { value = "u32" }, { value = "u32 lock" } } do
         o.key, o.entries, o.lock = "u32", 4, true
         assert.error_matches(function() tw.hash(o) end, "lock = true")
      end
      assert.error_matches(function() tw.lru { key = "u32", value = "u32 a", entries = 4, lock = true } end,
         "lock is not an option")
   end)
end)

describe("a lock everywhere", function()
   it("guards an entry", function()
      same [[
         local ip = pkt:ipv4()
         if not ip then return end
         local e = t:put(ip.src)
         if not e then return pkt:drop "lang_full" end
         e:lock()
         e.bytes = e.bytes + pkt.len
         e.packets = e.packets + 1
         e.last[e.packets % 5] = ip.ttl
         local n = e.packets
         e:unlock()
         if n > 5 then ip.ttl = n % 64 end ]]
   end)

   it("is taken on some paths, in loops and in functions", function()
      same [[
         local function count(e, by)
            e:lock()
            e.n = e.n + by
            if e.n > e.most then
               e.most = e.n
               e:unlock()
               return true
            end
            e:unlock()
            return false
         end
         local udp = pkt:udp()
         if not udp then return end
         for i = 0, 3 do
            local e = a:get(band(udp.src_port + i, 3))
            if e and udp.dst_port % 3 == i then
               if not count(e, udp.dst_port % 100) then return pkt:drop "lang_less" end
            end
         end ]]
   end)

   it("is given back where an access is outside of the frame", function()
      local instance = backends.instance(nf [[
         local e, v = t:put(1), pkt:header(h, 14)
         if not e or not v then return end
         e:lock()
         e.packets = e.packets + v.bytes[e.packets % 8]
         e:unlock() ]])
      finally(function() for _, t in ipairs(instance.tables) do t:free() end end)
      language.load(instance.packet):close()
   end)
end)

describe("a lock is refused", function()
   local OPEN = "local e = t:put(1)\nif not e then return end\ne:lock()\n"

   it("around calls of the kernel", function()
      local text = refused(OPEN .. "e.bytes = pkt:now()\ne:unlock()")
      assert.matches("no calls between lock%(%) and unlock%(%), and this calls bpf_ktime_get_ns", text)
      assert.matches("%(lock taken in line 8%)", text)
      assert.matches("called here .*:9:15", text)
      assert.matches("bpf_map_lookup_elem", (refused(OPEN .. "local x = a:get(1)\ne:unlock()")))
   end)

   it("when a way out leaves it", function()
      local text = refused(OPEN .. "if e.packets > 3 then return pkt:drop 'x' end\ne:unlock()")
      assert.matches(":9:%d+: the function is left with an entry locked %(taken in line 8%)", text)
      assert.matches("the function is left with an entry locked", (refused(OPEN .. "e.packets = 1")))
      assert.matches("may still be locked here", (refused(OPEN .. "if e.packets > 3 then e:unlock() end")))
   end)

   it("when another one is held, or none", function()
      assert.matches("an entry is locked already %(taken in line 8%)", (refused(OPEN .. "e:lock()")))
      assert.matches("this entry is not locked here", (refused(OPEN .. "e:unlock()\ne:unlock()")))
      assert.matches("may be nil", (refused "t:get(1):lock()"))
   end)

   it("in socket filters", function()
      assert.matches("no spin locks in socket filters", (refused(OPEN .. "e:unlock()", "socket_filter")))
   end)
end)
