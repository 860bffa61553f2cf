-- SPDX-License-Identifier: BSD-3-Clause
-- How messages move between the members of a service: the same on every transport.
local abi = require "tideway.abi"
local posix = require "tideway.posix"
local support = require "test.support.fabric"

local ffi = require "ffi"
local C = abi.C
local repeated = support.repeated

local function files()
   collectgarbage()
   collectgarbage()
   local n = 0
   for fd = 0, 1023 do if posix.readlink("/proc/self/fd/" .. fd) then n = n + 1 end end
   return n
end

local function threads() return tonumber(posix.slurp("/proc/self/status"):match "Threads:%s*(%d+)") end

local function handles(list)
   local out = {}
   for i, m in ipairs(list) do out[i] = m[1] end
   return out
end

for _, transport in ipairs { "sk_msg", "rings" } do
   local live = support.live(transport, it, pending)

   describe("members over " .. transport, function()
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

      live("a request goes through the functions in order and back to its gate thread, a response the other way",
         function()
            fabric { functions = { { takes = "message response" }, { takes = "message" }, { takes = "message response" } },
               gates = 2 }
            local a, b, c = f:open(0), f:open(1), f:open(2)
            local m = f.gates[1]:new()
            assert.equal(1, f.gates[1]:enter(0, { { m, gate = 1 } }))
            for _, at in ipairs { a, b, c } do
               assert.is_true(at:ready())
               local got = at:receive()
               assert.equal(1, #got)
               assert.is_true(got[1][1] == m)
               assert.equal(1, got[1].gate)
               assert.same({ "held", at.number }, { f:owner(m) })
               assert.equal(1, at:send(got))
               assert.is_false(at:ready())
            end
            local got = f.gates[1]:receive()
            assert.equal(1, #got)
            assert.equal(c.number, got[1].from)
            assert.equal(C.TW_EXIT_NEXT, got[1].exit)
            assert.equal(0, #gate:receive())
            f.gates[1]:free(got)

            local r = f.gates[1]:new "response"
            assert.equal(1, f.gates[1]:enter(2, { { r, gate = 1 } }))
            assert.equal(1, c:send(c:receive()))
            assert.equal(0, #b:receive()) -- takes no responses
            assert.equal(1, a:send(a:receive()))
            got = f.gates[1]:receive()
            assert.equal(a.number, got[1].from)
            f.gates[1]:free(got)
            assert.equal(0, f:used())
         end)

      live("pieces of bodies go through those that take them, in their direction", function()
         fabric { functions = { { takes = "message data" }, { takes = "message" }, { takes = "data" } } }
         local a, c = f:open(0), f:open(2)
         f:open(1)
         local forward, back = gate:new "data", gate:new("data", true)
         assert.equal(1, gate:enter(0, { forward }))
         assert.equal(1, a:send(a:receive()))
         assert.equal(1, c:send(c:receive()))
         assert.equal(1, gate:enter(2, { back }))
         assert.equal(1, c:send(c:receive()))
         assert.equal(1, a:send(a:receive()))
         local got = gate:drain()
         assert.equal(2, #got)
         assert.same({ c.number, a.number }, { got[1].from, got[2].from })
      end)

      live("routes lead to functions aside, GATE back at once; nothing else leads anywhere", function()
         fabric { functions = { { routes = { 2, 3 } }, {}, { aside = true }, { aside = true } }, gates = 2 }
         local a, b, x, y = f:open(0), f:open(1), f:open(2), f:open(3)
         local list = repeated(5, function() return gate:new() end)
         assert.equal(5, gate:enter(0, list))
         assert.equal(5, #a:receive())
         assert.equal(5, a:send { { list[1], exit = C.TW_EXIT_ROUTE }, { list[2], exit = C.TW_EXIT_ROUTE + 1 },
            { list[3], exit = C.TW_EXIT_GATE, key = 77 }, { list[4], exit = C.TW_EXIT_NEXT },
            { list[5], exit = C.TW_EXIT_GATE, gate = 1 } })
         for member, m in pairs { [x] = list[1], [y] = list[2], [gate] = list[3], [b] = list[4], [f.gates[1]] = list[5] } do
            local got = member:drain()
            assert.equal(1, #got)
            assert.is_true(got[1][1] == m)
            if member == gate then assert.same({ 1, 77 }, { got[1].exit, got[1].key }) end
         end
         assert.equal(1, x:send { list[1] }) -- behind a function aside: the gate
         assert.equal(1, #gate:receive())
         -- b has no routes at all
         local before = b:stats().denied
         for i, bad in ipairs { { list[4], exit = 2 }, { list[4], exit = 15 }, { list[4], exit = 16 },
            { list[4], exit = 255 }, { list[4], exit = 256 }, { list[4], exit = 65535 },
            { list[4], exit = 1, gate = 2 }, { list[4], exit = 1, gate = 200 }, { list[4], exit = 0, gate = 65535 } } do
            assert.equal("EPERM", b:send { bad }, i)
            assert.equal(before + i, b:stats().denied)
            assert.same({ "held", b.number }, { f:owner(list[4]) })
         end
         assert.equal(1, b:send { list[4] })
      end)

      live("only gate threads enter, only functions send, and nobody sends what is not his", function()
         fabric { functions = { {}, {} } }
         local a, b = f:open(0), f:open(1)
         local m = gate:new()
         assert.equal("EPERM", gate:send { m })
         assert.equal("EPERM", gate:enter(2, { m })) -- no such function
         assert.equal("EPERM", gate:enter(23, { m }))
         assert.equal("EPERM", gate:enter(24, { m }))
         assert.equal("EPERM", gate:enter(1000, { m }))
         assert.equal(1, gate:enter(0, { m }))
         assert.equal("ESTALE", gate:enter(0, { m })) -- once more
         assert.equal("EPERM", a:enter(1, { m }))
         assert.equal("EPERM", a:direct(b, { m }))
         assert.equal("ESTALE", a:send { m }) -- not taken yet
         assert.equal("ESTALE", b:send { m })
         assert.equal(1, #a:receive())
         assert.equal("ESTALE", b:send { m })
         for _, nonsense in ipairs { 0ULL, 1ULL, m + 1ULL, m + 2ULL ^ 32, m + 2ULL ^ 56, 0x1ffffffffULL,
            0xffffffffffffffffULL, 0x100fffffULL } do
            assert.equal("ESTALE", a:send { nonsense })
         end
         assert.equal(0, #b:receive())
         assert.equal(0, #gate:receive())
         assert.equal(1, a:send { m })
         assert.equal("ESTALE", a:send { m })
         assert.equal(1, #b:receive())
         b:free { m }
         assert.equal("ESTALE", b:send { m })
         assert.equal(0, f:used())
      end)

      live("a batch goes to several places, in order, as far as it is good", function()
         fabric { functions = { { routes = { 1 } }, { aside = true } }, gates = 3 }
         local a, b = f:open(0), f:open(1)
         local list = repeated(64, function() return gate:new() end)
         assert.equal(64, gate:enter(0, list))
         assert.equal(64, #a:receive())
         local batch = {}
         for i, m in ipairs(list) do
            local ways = { { m, exit = 2 }, { m, exit = 1, gate = 0 }, { m, exit = 1, gate = 1 }, { m, exit = 0, gate = 2 } }
            batch[i] = ways[1 + math.floor(i / 3) % 4]
         end
         batch[41].exit = 9
         local foreign = gate:new()
         batch[50][1] = foreign
         assert.equal(40, a:send(batch))
         local rest = { unpack(batch, 41) }
         local denied = a:stats().denied
         assert.equal("EPERM", a:send(rest))
         table.remove(rest, 1)
         assert.equal(8, a:send(rest))
         rest = { unpack(rest, 9) }
         assert.equal("ESTALE", a:send(rest))
         assert.equal(denied + (transport == "rings" and 2 or 1), a:stats().denied)
         assert.equal("held", (f:owner(foreign)))
         table.remove(rest, 1)
         assert.equal(14, a:send(rest))
         local seen = {}
         for _, member in ipairs { b, f.gates[0], f.gates[1], f.gates[2] } do
            local last = 0
            for _, got in ipairs(member:drain()) do
               for i = last + 1, 64 do
                  if list[i] == got[1] then
                     seen[i], last = member, i
                     break
                  end
               end
            end
         end
         for i, way in ipairs(batch) do
            local to = way.exit == 2 and b or f.gates[way.gate or 0]
            if i == 41 or i == 50 then to = nil end
            assert.equal(to, seen[i], i)
         end
      end)

      live("nobody is sent anything before he is open, nor when he is shut, but by name", function()
         fabric { functions = { {}, {} } }
         local m, a = gate:new(), f:add(0)
         assert.equal("ENOTCONN", gate:enter(0, { m }))
         assert.equal("ENOTCONN", gate:enter(1, { m }))
         assert.equal("ENOTCONN", gate:direct(a, { m }))
         a:open()
         assert.equal(1, gate:enter(0, { m }))
         assert.equal(1, #a:receive())
         assert.equal("ENOTCONN", a:send { m }) -- function 1 has no instance
         a:shut()
         assert.equal(1, a:send { { m, exit = C.TW_EXIT_GATE } }) -- works off what it has
         gate:receive()
         assert.equal("ENOTCONN", gate:enter(0, { m }))
         assert.equal(1, gate:direct(a, { m }))
         assert.equal(1, #a:receive())
         a:free { m }
         a:remove()
         m = gate:new()
         assert.equal("ENOTCONN", gate:direct(a, { m }))
         assert.same({ "held", 0 }, { f:owner(m) })
      end)

      live("the same key goes to the same instance; when instances come and go few keys move", function()
         fabric { functions = { { sticky = true }, {} }, mb = 64 }
         local function where(members)
            local map = {}
            for key = 1, 200 do assert.equal(1, gate:enter(0, { { gate:new(), key = key } })) end
            for key = 1, 200 do assert.equal(1, gate:enter(0, { { gate:new(), key = key } })) end
            for _, member in ipairs(members) do
               for _, got in ipairs(member:drain()) do
                  assert.is_true(map[got.key] == nil or map[got.key] == member.number)
                  map[got.key] = member.number
                  member:free { got }
               end
            end
            return map
         end
         local function moved(a, b)
            local n = 0
            for key = 1, 200 do if a[key] ~= b[key] then n = n + 1 end end
            return n
         end
         local a, b, c = f:open(0), f:open(0), f:open(0)
         local three = where { a, b, c }
         local count = {}
         for key = 1, 200 do count[three[key]] = (count[three[key]] or 0) + 1 end
         for _, m in ipairs { a, b, c } do assert.is_true(count[m.number] > 20) end
         local d = f:open(0)
         local four = where { a, b, c, d }
         assert.is_true(moved(three, four) < 100 and moved(three, four) > 10)
         for key = 1, 200 do assert.is_true(four[key] == three[key] or four[key] == d.number) end
         d:shut()
         assert.equal(0, moved(three, where { a, b, c }))
         b:remove()
         local two = where { a, c }
         for key = 1, 200 do assert.is_true(two[key] == three[key] or three[key] == b.number) end
         -- who takes its place has its keys
         local again = f:open(0)
         local restored = where { a, c, again }
         for key = 1, 200 do
            assert.equal(three[key] == b.number and again.number or three[key], restored[key])
         end
      end)

      live("a batch with many keys is parted by them; where keys do not count it is not", function()
         fabric { functions = { { sticky = true }, {} }, mb = 64 }
         local members = { f:open(0), f:open(0), f:open(0) }
         local home, list = {}, repeated(64, function(i) return { gate:new(), key = i } end)
         for turn = 1, 3 do
            local at = 0
            while at < 64 do at = at + gate:enter(0, { unpack(list, at + 1) }) end
            local n = 0
            for _, member in ipairs(members) do
               local last = 0
               for _, got in ipairs(member:drain()) do
                  assert.is_true(got.key > last) -- in order
                  assert.is_true(home[got.key] == member or turn == 1)
                  home[got.key], last, n = member, got.key, n + 1
                  assert.equal(1, member:send { { got[1], exit = C.TW_EXIT_GATE } })
               end
            end
            assert.equal(64, n)
            assert.equal(64, #gate:drain())
         end
         -- function 1 counts no keys: the same one goes to whoever has least to do
         local a, b = f:open(1), f:open(1)
         for _ = 1, 4 do assert.equal(1, gate:enter(1, { { gate:new(), key = 5 } })) end
         assert.same({ 2, 2 }, { a:stats().queued, b:stats().queued })
      end)

      live("without a key the instance with least to do is chosen", function()
         fabric { functions = { {} } }
         local a, b, c = f:open(0), f:open(0), f:open(0)
         for _ = 1, 60 do assert.equal(1, gate:enter(0, { gate:new() })) end
         for _, m in ipairs { a, b, c } do assert.equal(20, m:stats().queued) end
         -- a has worked off what it had, b has it in hand, c has not looked
         local done, hand = a:drain(), b:receive()
         a:free(done)
         assert.equal(20, #hand)
         assert.same({ 0, 20, 20 }, { a:stats().queued, b:stats().queued, c:stats().queued })
         for _ = 1, 15 do assert.equal(1, gate:enter(0, { gate:new() })) end
         assert.same({ 15, 20, 20 }, { a:stats().queued, b:stats().queued, c:stats().queued })
         b:send(hand)
         assert.equal(0, b:stats().queued)
         -- batches are shared out as well
         assert.equal(0, #b:receive())
         assert.is_true(gate:enter(0, repeated(30, function() return gate:new() end)) > 0)
         assert.is_true(b:stats().queued > 0)
      end)

      live("a full queue takes no more, loses nothing and goes on when there is room", function()
         fabric { functions = { {} }, mb = 64 }
         local a, sent, m = f:open(0), {}, gate:new()
         while gate:enter(0, { m }) == 1 do
            sent[#sent + 1] = m
            m = gate:new()
         end
         assert.equal("EAGAIN", gate:enter(0, { m }))
         assert.same({ "held", 0 }, { f:owner(m) })
         assert.equal(1024, #sent)
         assert.equal(#sent, a:stats().queued)
         assert.is_true(gate:stats().full >= 2)
         local got = a:receive(10)
         a:free(got)
         a:free(a:receive(10))
         assert.is_true(gate:enter(0, { m }) == 1)
         sent[#sent + 1] = m
         local all = handles(got)
         for i, one in ipairs(all) do assert.is_true(one == sent[i]) end
         local rest = a:drain()
         assert.equal(#sent - 20, #rest)
         assert.is_true(rest[#rest][1] == m)
         a:free(rest)
         assert.equal(0, a:stats().queued)
         assert.equal(0, f:used())
         assert.equal(#sent, a:stats()["in"])
      end)

      live("what was taken back while it was in a queue does not arrive", function()
         fabric { functions = { {} } }
         local a = f:open(0)
         local list = repeated(70, function() return gate:new() end)
         assert.equal(64, gate:enter(0, list))
         assert.equal(6, gate:enter(0, { unpack(list, 65) }))
         local mine = {}
         for i = 1, 69 do
            mine[i] = C.tw_pool_seize(f.pool, list[i], 0, true)
            assert.is_true(mine[i] ~= 0ULL)
         end
         local got = a:receive()
         assert.equal(1, #got) -- behind a whole batch of stale ones
         assert.is_true(got[1][1] == list[70])
         a:free(got)
         gate:free(mine)
         assert.equal(0, f:used())
         assert.equal(0, #a:receive())
         assert.equal(0, a:stats().queued)
      end)

      live("routes change while members are there", function()
         fabric { functions = { {}, {} } }
         local a, b = f:open(0), f:open(1)
         local function pass()
            assert.equal(1, gate:enter(0, { gate:new() }))
            local got = a:receive()
            assert.equal(1, a:send(got))
            return got[1][1]
         end
         local m = pass()
         assert.equal(1, #b:receive())
         b:free { m }
         assert.equal(0, f:route { transport = transport, functions = { {}, { aside = true } } })
         pass()
         assert.equal(0, #b:receive())
         assert.equal(1, #gate:receive())
         assert.equal(0, f:route { transport = transport, functions = { { routes = { 1 } }, { aside = true } } })
         assert.is_false(C.tw_fabric_outdated(f.fabric, a.number)) -- it could send there before
         assert.equal(1, gate:enter(0, { gate:new() }))
         local got = a:receive()
         got[1].exit = C.TW_EXIT_ROUTE
         assert.equal(1, a:send(got))
         assert.equal(1, #b:receive())
      end)

      live("members come and go: numbers, queues and descriptors are used again", function()
         fabric { functions = { {}, {} } }
         local first, n = f:open(0), nil
         for i = 1, 250 do
            local a = f:open(0)
            assert.equal(1, a.join.instance)
            assert.equal(1, gate:direct(a, { gate:new() }))
            a:remove()
            if i == 20 then n = files() end
         end
         assert.equal(n, files())
         assert.equal(1, first.join.abi)
         -- as many as there may be
         for _ = 2, 32 do f:open(0) end
         assert.has_error(function() f:open(0) end)
         assert.matches("no more instances of f1, 32 of a function", abi.error())
         assert.equal(1, gate:enter(1, { gate:new() }) == "ENOTCONN" and 1 or 0)
      end)

      live("nothing is left behind: descriptors, threads, programs and maps of the kernel", function()
         fabric({ functions = { {} } }):free()
         local before, running = files(), threads()
         fabric { functions = { {}, {} }, gates = 4 }
         local a = f:open(0)
         f:open(1)
         gate:enter(0, { gate:new() })
         assert.is_true(files() > before)
         local map = ffi.new "struct tw_bpf_map_info"
         if transport == "sk_msg" then assert.equal(0, C.tw_bpf_map_get_info(a.fds[0], map)) end
         C.tw_link_close(a.link)
         f:free()
         f = nil
         assert.equal(before, files())
         assert.equal(running, threads())
         if transport == "sk_msg" then
            -- The program has the map, and sockets in its queue have the program, for a moment.
            local fd
            for _ = 1, 200 do
               fd = C.tw_bpf_map_by_id(map.id)
               if fd < 0 then break end
               posix.close(fd)
               posix.poll({}, 10)
            end
            assert.is_true(fd < 0)
         end
      end)
   end)
end

describe("a fabric", function()
   it("of functions that run inline has a pool and nobody in it", function()
      local f = support.new { transport = "inline", functions = { {} } }
      assert.is_true(f.pool ~= nil)
      assert.is_true(f.gate.link == nil)
      assert.has_error(function() f:open(0) end)
      assert.matches("spec runs inline: it has no instances", abi.error())
      f:free()
   end)

   it("that cannot be is refused in a sentence", function()
      assert.has_error(function() support.new { transport = "rings", functions = { {} }, gates = 17 } end)
      assert.matches("17 gate threads", abi.error())
      local f = support.new { transport = "rings", functions = { {} } }
      assert.has_error(function() f:open(1) end)
      assert.matches("spec has no function 1", abi.error())
      local none = ffi.new "struct tw_join"
      assert.is_true(C.tw_fabric_join(f.fabric, 77, none, ffi.new "int[32]") < 0)
      assert.is_true(C.tw_fabric_remove(f.fabric, 77) < 0)
      assert.is_true(C.tw_fabric_open(f.fabric, 0) < 0) -- a gate thread
      f:free()
   end)
end)
