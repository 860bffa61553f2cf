-- SPDX-License-Identifier: BSD-3-Clause
-- napt44 and fragments: they follow their first one, whichever comes first.

local frame = require "test.support.frame"
local napt = require "test.support.napt"

local EXT, HOST, OTHER, SERVER = napt.EXT, napt.HOST, napt.OTHER, napt.SERVER
local MORE = 0x2000

local nat

local function close_rig()
   if nat then nat.rig:close() end
   nat = nil
end

-- A UDP datagram in pieces of `size` bytes of IP payload, as frames.
local function pieces(from, to, data, id, size)
   local i = { src = from:match "^[%d.]+", dst = to:match "^[%d.]+", proto = 17, id = id }
   local whole = frame.udp(i, { sport = tonumber(from:match ":(%d+)"), dport = tonumber(to:match ":(%d+)") }, data)
   local list = {}
   for at = 0, #whole - 1, size do
      local last = at + size >= #whole
      i.frag = at / 8 + (last and 0 or MORE)
      list[#list + 1] = frame.eth({}, frame.ipv4(i, whole:sub(at + 1, at + size)))
   end
   return list
end

-- Put decoded fragments together; their headers must agree. The datagram must have a right checksum.
local function whole(frames)
   local list, parts, first = {}, {}, nil
   for i, f in ipairs(frames) do
      list[i] = napt.decode(f)
      if list[i].offset == 0 then first = list[i] end
   end
   table.sort(list, function(a, b) return a.offset < b.offset end)
   for i, p in ipairs(list) do
      assert.same({ first.src, first.dst, first.id }, { p.src, p.dst, p.id })
      parts[i] = ""
   end
   for _, f in ipairs(frames) do
      local p = napt.decode(f)
      for i, q in ipairs(list) do
         if q.offset == p.offset then parts[i] = f:sub(35) end
      end
   end
   local packet = napt.decode_ip(frame.ipv4({ src = first.src, dst = first.dst, proto = 17 }, table.concat(parts)))
   assert.is_true(packet.l4_ok)
   return packet
end

for _, place in ipairs { "edge", "inline" } do
   describe("napt44, " .. place .. ", fragments", function()
      after_each(close_rig)

      local data = ("fragment"):rep(20)
      local orders = { in_order = { 1, 2, 3 }, last_first = { 3, 2, 1 }, first_in_the_middle = { 2, 1, 3 } }

      for name, order in pairs(orders) do
         it("go out " .. name, function()
            nat = napt[place] { ports = "20000-30000" }
            local list = pieces(HOST .. ":5000", SERVER .. ":53", data, 77, 64)
            for _, k in ipairs(order) do nat.rig:send(nat.rig.lan, list[k]) end
            local p = whole(nat.rig:collect(nat.rig.wan))
            assert.same({ EXT, SERVER, 53, data }, { p.src, p.dst, p.dport, p.data })
            assert.is_true(p.sport >= 20000)
         end)

         it("come in " .. name, function()
            nat = napt[place] { ports = "20000-30000" }
            local port = nat:up(napt.udp(HOST .. ":5000", SERVER .. ":53")).sport
            local list = pieces(SERVER .. ":53", EXT .. ":" .. port, data, 78, 64)
            for _, k in ipairs(order) do nat.rig:send(nat.rig.wan, list[k]) end
            local p = whole(nat.rig:collect(nat.rig.lan))
            assert.same({ HOST, 5000, SERVER, data }, { p.dst, p.dport, p.src, p.data })
         end)
      end

      it("that come all in one burst stay together", function()
         nat = napt[place]()
         local list = pieces(HOST .. ":5000", SERVER .. ":53", data, 77, 64)
         nat.rig:send(nat.rig.lan, list[2], list[1], list[3])
         nat.rig:advance(0.2) -- those before the first one follow with the next tick
         assert.equal(data, whole(nat.rig:collect(nat.rig.wan)).data)
      end)

      it("of two datagrams do not mix", function()
         nat = napt[place] { ports = "20000-30000" }
         local a = pieces(HOST .. ":5000", SERVER .. ":53", data, 77, 64)
         local b = pieces(OTHER .. ":5000", SERVER .. ":53", data:upper(), 77, 64)
         nat.rig:send(nat.rig.lan, a[2], b[3], b[2], b[1], a[3], a[1])
         nat.rig:advance(0.2)
         local one, two = {}, {}
         for _, f in ipairs(nat.rig:collect(nat.rig.wan)) do
            local list = (f:find("FRAG", 1, true) or f:find("MENT", 1, true)) and two or one
            list[#list + 1] = f
         end
         assert.same({ data, data:upper() }, { whole(one).data, whole(two).data })
      end)

      it("without a first one are dropped in the end, counted", function()
         nat = napt[place]()
         local list = pieces(HOST .. ":5000", SERVER .. ":53", data, 77, 64)
         nat.rig:send(nat.rig.lan, list[2], list[3])
         nat.rig:advance(3)
         assert.equal(0, #nat.rig:collect(nat.rig.wan))
         assert.equal(2, nat:drops().hold_timeout)
      end)

      it("forget their first one after a time", function()
         nat = napt[place] { timeouts = { fragment = 10 } }
         local list = pieces(HOST .. ":5000", SERVER .. ":53", data, 77, 64)
         nat.rig:send(nat.rig.lan, list[1])
         nat.rig:advance(9)
         nat.rig:send(nat.rig.lan, list[2])
         nat.rig:advance(2)
         nat.rig:send(nat.rig.lan, list[3])
         assert.equal(2, #nat.rig:collect(nat.rig.wan))
      end)

      it("of others pass as they are", function()
         nat = napt[place]()
         local list = pieces("192.0.2.5:5000", SERVER .. ":53", data, 77, 64)
         for _, f in ipairs { list[3], list[1], list[2] } do
            assert.equal(frame.hex(f), frame.hex(nat.rig:through(nat.rig.lan, f, nat.rig.wan)))
         end
      end)
   end)
end

describe("napt44, fragments", function()
   after_each(close_rig)

   it("for the router itself reach it", function()
      nat = napt.edge()
      for _, f in ipairs(pieces(SERVER .. ":53", EXT .. ":5000", ("x"):rep(100), 9, 64)) do
         nat.rig:send(nat.rig.wan, f)
      end
      assert.equal(2, nat:drops().for_router)
   end)

   it("are turned round, too", function()
      nat = napt.edge { ports = "20000-30000" }
      local port = nat:up(napt.udp(OTHER .. ":7000", SERVER .. ":53")).sport
      local data = ("fragment"):rep(20)
      for _, order in ipairs { { 1, 2, 3 }, { 3, 1, 2 } } do
         local list = pieces(HOST .. ":6000", EXT .. ":" .. port, data, 70 + order[1], 64)
         for _, k in ipairs(order) do nat.rig:send(nat.rig.lan, list[k]) end
         local p = whole(nat.rig:collect(nat.rig.lan))
         assert.same({ EXT, OTHER, 7000, data }, { p.src, p.dst, p.dport, p.data })
      end
   end)

   it("so small that the ports or the checksum are missing are dropped", function()
      nat = napt.inline()
      local tcp = frame.tcp({ src = HOST, dst = SERVER }, { sport = 5000, dport = 80 }, "data")
      nat.rig:send(nat.rig.lan, frame.eth({}, frame.ipv4({ src = HOST, dst = SERVER, proto = 6, frag = MORE },
         tcp:sub(1, 8))))
      assert.equal(0, #nat.rig:collect(nat.rig.wan))
      assert.equal(1, nat:drops().nat_malformed)
   end)
end)
