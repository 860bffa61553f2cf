-- SPDX-License-Identifier: BSD-3-Clause
-- Ports in NFs: by themselves wherever an index may stand, on all back-ends; in chains that run.

local frame = require "test.support.frame"
local language = require "test.support.language"
local Rig = require "test.support.rig"
local tw = require "tideway"

local function udp(port)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = port, dport = 2 }, ("payload"):rep(4))
end

-- With the ports 0 to 2 (the ones of backends.lua) by themselves.
local function nf(body)
   return ([[
      local port = require("tideway.port").attach
      local lan, wan, dmz = port("lan", 0, "x"), port("wan", 1, "y"), port("dmz", 2, "z")
      local ways = { up = wan, down = lan }
      local function leave(pkt, by) return pkt:send(by) end
      return { packet = function(pkt)
         local u = pkt:udp()
         if not u then return end
         local n = u.src_port %% 3
         %s
      end }]]):format(body)
end

local FRAMES = { udp(3), udp(4), udp(5), udp(6) }
local function same(body) language.same(nf(body), FRAMES) end
local function refused(body) return language.refused(nf(body)) end

describe("a port in an NF", function()
   it("is sent and routed to", function()
      same "return pkt:send(wan)"
      same "pkt:route(dmz)"
      same "return pkt:send(ways.down)"
      same "return leave(pkt, wan)"
   end)

   it("is one of several on each path", function()
      same "return pkt:send(n == 0 and lan or wan)"
      same "pkt:route(n == 0 and lan or n == 1 and wan or dmz)"
      same [[
         local by = dmz
         if n == 1 then by = ways.up end
         if pkt.len > 60 then return leave(pkt, by) end
         pkt:route(by)]]
   end)

   it("has an index, which a packet's port is", function()
      same "if pkt.port == wan.index then return pkt:send(lan) end"
      same "local by = n == 0 and lan or wan; if by.index == 0 then pkt:drop 'first' end"
      same "local by = n == 0 and lan or wan; if by.name == 'lan' then return pkt:drop 'first' end"
   end)

   it("may be an index by itself", function()
      same "return pkt:send(wan.index)"
      same "pkt:route(n)"
   end)

   it("is refused in a sentence where it is a number on another path, or found at run time", function()
      assert.matches("'by' can't be used here: it is a different thing on each path",
         refused "local by = wan; if n == 1 then by = 2 end return pkt:send(by)")
      assert.matches("a Lua table can't be indexed at run time", refused "return pkt:send(ways[n])")
   end)
end)

describe("a port in a chain that runs", function()
   local rig

   after_each(function()
      if rig then rig:close() end
      rig = nil
      tw.options { compile = "native" }
   end)

   for _, tier in ipairs { "luajit", "off" } do
      it("takes packets, with compile = " .. tier, function()
         rig = Rig.new { ports = { "lan", "wan", "dmz" } }
         tw.options { compile = tier }
         local lan, wan, dmz = rig.lan, rig.wan, rig.dmz
         rig:chain("c", lan, tw.nf("choose", function(cfg)
            return { packet = function(pkt)
               local u = pkt:udp()
               if u.src_port == 1 then return pkt:send(cfg.to) end
               pkt:route(u.src_port == 2 and dmz or lan)
            end }
         end) { to = wan }, wan)
         rig:start()
         rig:send(lan, udp(1), udp(2), udp(3), udp(1))
         assert.same({ udp(1), udp(1) }, rig:collect(wan))
         assert.same({ udp(2) }, rig:collect(dmz))
         assert.same({ udp(3) }, rig:collect(lan))
      end)
   end

   it("takes packets of punt(), and frames that an NF makes", function()
      rig = Rig.new { ports = { "lan", "wan" } }
      local lan, wan = rig.lan, rig.wan
      rig:chain("c", lan, tw.nf("answer", function()
         return {
            packet = function(pkt) return pkt:punt() end,
            punt = function(pkt)
               tw.emit(wan, 60)
               return pkt:send(lan)
            end,
         }
      end) {}, wan)
      rig:start()
      rig:send(lan, udp(1))
      assert.same({ udp(1) }, rig:collect(lan))
      assert.same({ ("\0"):rep(60) }, rig:collect(wan))
   end)

   it("is what a sandbox was given, and no table of the sandbox's own", function()
      local path = os.tmpname()
      local function load(body)
         local f = assert(io.open(path, "w"))
         f:write(('return tw.nf("boxed", function(cfg) return { packet = function(pkt) %s end } end)'):format(body))
         f:close()
         return tw.sandbox(path)
      end
      local function start(body)
         rig = Rig.new { ports = { "lan", "wan" } }
         rig:chain("c", rig.lan, load(body) { to = rig.wan, back = rig.lan }, rig.wan)
         return pcall(rig.start, rig)
      end
      assert.is_true(start "return pkt:send(pkt.len > 65 and cfg.to or cfg.back)")
      rig:send(rig.lan, udp(1), udp(1):sub(1, 60))
      assert.equal(1, #rig:collect(rig.lan))
      assert.equal(1, #rig:collect(rig.wan))
      for body, why in pairs {
         ["return pkt:send({ index = 1 })"] = "",
         ["return pkt:send(pkt.len > 65 and cfg.to or cfg)"] = "a table or function of the sandbox",
         ["if (pkt.len > 65 and cfg.to or cfg.back).devargs then return end"] = "can't be read in a sandbox",
         ["if cfg.to.devargs then return end"] = "not for a sandbox",
      } do
         rig:close()
         local ok, err = start(body)
         assert.is_false(ok, body)
         assert.is_truthy(tostring(err):find(why, 1, true), tostring(err))
      end
      os.remove(path)
   end)
end)
