-- SPDX-License-Identifier: BSD-3-Clause
-- firewall: rules and their order, connection tracking, answers, fragments, malformed frames, thousands of rules.

local frame = require "test.support.frame"
local rigs = require "test.support.rig"
local tw = require "tideway"

local FIN, SYN, RST, ACK, PSH = 0x01, 0x02, 0x04, 0x10, 0x08
local C4, S4 = "10.0.0.5", "198.51.100.7"
local C6, S6 = "2001:db8:1::5", "2001:db8:2::7"
local MAC_C, MAC_S = "02:00:00:00:00:0c", "02:00:00:00:00:0d"

local function e(extra)
   local out = { src = MAC_C, dst = MAC_S }
   for k, v in pairs(extra or {}) do out[k] = v end
   return out
end

local function tcp6(i, t, data)
   i.next = 6
   return frame.eth(e { type = 0x86dd }, frame.ipv6(i, frame.tcp(i, t, data)))
end

-- One packet from client to server, or with `back` from server to client.
local function ends(src, dst, back)
   if back then return { src = dst, dst = src } end
   return { src = src, dst = dst }
end

local function tcp(back, flags, o)
   o = o or {}
   local c, s = o.c or C4, o.s or S4
   local t = { sport = o.sport or 1000, dport = o.dport or 80, flags = flags, seq = o.seq, ack = o.ack }
   if back then t.sport, t.dport = t.dport, t.sport end
   if c:find ":" then return tcp6(ends(c, s, back), t, o.data) end
   return frame.tcp4(e(), ends(c, s, back), t, o.data)
end

local function udp(back, o)
   o = o or {}
   local c, s = o.c or C4, o.s or S4
   local u = { sport = o.sport or 1000, dport = o.dport or 53 }
   if back then u.sport, u.dport = u.dport, u.sport end
   return (c:find ":" and frame.udp6 or frame.udp4)(e(), ends(c, s, back), u, o.data)
end

local function icmp(back, type, o)
   o = o or {}
   local c, s = o.c or C4, o.s or S4
   local m = { type = type, code = o.code, id = o.id or 7, seq = 1 }
   return (c:find ":" and frame.icmp6_6 or frame.icmp4)(e(), ends(c, s, back), m, o.data or "ping")
end

describe("firewall", function()
   local rig, fw

   -- Ports lan and wan; what passes leaves by out. Rules or a whole configuration.
   local function start(cfg)
      if type(cfg) == "string" then cfg = { rules = cfg } end
      rig = rigs.new { ports = { "lan", "wan", "out" } }
      cfg.ports = { lan = rig.lan, wan = rig.wan, out = rig.out.index }
      fw = tw.nf.firewall(cfg)
      rig:chain("c", { rig.lan, rig.wan }, fw, rig.out)
      rig:start()
   end

   after_each(function()
      if not rig then return end
      local r = rig
      rig = nil
      assert.same({}, r:log())
      r:close()
   end)

   local function passes(port, f)
      local out = rig:through(port, f, rig.out)
      if out then assert.equal(frame.hex(f), frame.hex(out)) end
      return out ~= nil
   end

   -- The reason for which the frame is dropped, or "passed".
   local function fate(port, f)
      local before = rig:drops()
      if passes(port, f) then return "passed" end
      for reason, count in pairs(rig:drops()) do
         if count > (before[reason] or 0) then return reason end
      end
      return "lost"
   end

   local function lan(f) return fate(rig.lan, f) end
   local function wan(f) return fate(rig.wan, f) end

   local function hits(name)
      for _, rule in ipairs(fw.export().rules) do
         if rule.name == name then return rule.hits end
      end
   end

   local function connections() return fw.export().connections end

   describe("rules", function()
      it("match in order, the first one decides, and the default comes last", function()
         start [[
            drop tcp from 10.0.0.5 to any port 81
            allow tcp from 10.0.0.0/24 to any port 80,81,5201-5210 count web
            allow udp
         ]]
         assert.equal("fw_denied", lan(tcp(false, SYN, { dport = 81 })))
         assert.equal("passed", lan(tcp(false, SYN, { dport = 81, c = "10.0.0.6" })))
         assert.equal("passed", lan(tcp(false, SYN, { dport = 5201 })))
         assert.equal("passed", lan(tcp(false, SYN, { dport = 5210 })))
         assert.equal("fw_default", lan(tcp(false, SYN, { dport = 5211 })))
         assert.equal("fw_default", lan(tcp(false, SYN, { dport = 5200 })))
         assert.equal("fw_default", lan(tcp(false, SYN, { c = "10.0.1.5" })))
         assert.equal("passed", lan(udp()))
         assert.equal(3, hits "web")
         assert.equal(1, hits "1: drop tcp from 10.0.0.5 to any port 81")
         assert.equal(3, hits "default")
         assert.same({ fw_denied = 1, fw_default = 3 }, rig:drops())
      end)

      it("can be none: the default policy is all there is", function()
         start { rules = "# nothing\n", default = "allow" }
         assert.equal("passed", lan(tcp(false, SYN)))
      end)

      it("know ingress ports by name", function()
         start "allow in lan udp\nallow in wan,out tcp"
         assert.equal("passed", lan(udp()))
         assert.equal("fw_default", wan(udp()))
         assert.equal("passed", wan(tcp(false, SYN)))
         assert.equal("fw_default", lan(tcp(false, SYN)))
      end)

      it("know the egress port that a router chose", function()
         rig = rigs.new { ports = { "lan", "wan", "out" } }
         local route = tw.nf("route", function(cfg)
            return { packet = function(pkt) pkt:route(pkt:udp().dst_port == 53 and cfg.wan or cfg.out) end }
         end)
         fw = tw.nf.firewall { rules = "allow out wan udp", ports = { wan = rig.wan } }
         rig:chain("c", { rig.lan }, route { wan = rig.wan.index, out = rig.out.index }, fw)
         rig:start()
         rig:send(rig.lan, udp(), udp(false, { dport = 54 }))
         assert.equal(1, #rig:collect(rig.wan))
         assert.equal(0, #rig:collect(rig.out))
         assert.same({ fw_default = 1 }, rig:drops())
      end)

      it("know IPv6 prefixes, and both families in one rule", function()
         start "allow udp from 10.0.0.0/8,2001:db8:1::/48 to any port 53\nallow udp to 2001:db8:2::7/128 port 9"
         assert.equal("passed", lan(udp()))
         assert.equal("passed", lan(udp(false, { c = C6, s = S6 })))
         assert.equal("fw_default", lan(udp(false, { c = "2001:db8:2::5", s = S6 })))
         assert.equal("passed", lan(udp(false, { c = "fe80::1", s = S6, dport = 9 })))
         assert.equal("fw_default", lan(udp(false, { c = "fe80::1", s = "2001:db8:2::8", dport = 9 })))
         assert.equal("fw_default", lan(udp(false, { c = "11.0.0.1" })))
      end)

      it("restrict to one IP version", function()
         start "allow ip6 udp\nallow ip4 tcp"
         assert.equal("passed", lan(udp(false, { c = C6, s = S6 })))
         assert.equal("fw_default", lan(udp()))
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("fw_default", lan(tcp(false, SYN, { c = C6, s = S6 })))
      end)

      it("know source ports", function()
         start "allow udp from any port 1000-1001 to any"
         assert.equal("passed", lan(udp()))
         assert.equal("fw_default", lan(udp(false, { sport = 1002 })))
         assert.equal("fw_default", lan(udp(true)))
      end)

      it("know ICMP types and codes of both families", function()
         start "allow icmp echo,13\nallow icmp unreachable code 4\nallow icmp6 echo-reply\nallow icmp6 1 code 0-1"
         assert.equal("passed", lan(icmp(false, 8)))
         assert.equal("passed", lan(icmp(false, 13)))
         assert.equal("fw_default", lan(icmp(false, 0)))
         assert.equal("passed", lan(icmp(false, 3, { code = 4 })))
         assert.equal("fw_default", lan(icmp(false, 3, { code = 3 })))
         assert.equal("passed", lan(icmp(false, 129, { c = C6, s = S6 })))
         assert.equal("fw_default", lan(icmp(false, 128, { c = C6, s = S6 })))
         assert.equal("passed", lan(icmp(false, 1, { c = C6, s = S6, code = 1 })))
         assert.equal("fw_default", lan(icmp(false, 1, { c = C6, s = S6, code = 2 })))
      end)

      it("know TCP flags", function()
         start "allow tcp flags S/SA\nallow tcp flags /FSRPAUEW"
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("passed", lan(tcp(false, SYN + PSH)))
         assert.equal("fw_default", lan(tcp(false, SYN + ACK)))
         assert.equal("passed", lan(tcp(false, 0)))
      end)

      it("know protocols by name and number", function()
         start "allow gre,esp\nallow proto 200-201,250"
         local function ip(proto)
            return frame.eth(e(), frame.ipv4({ src = C4, dst = S4, proto = proto }, ("x"):rep(20)))
         end
         for proto, result in pairs { [47] = "passed", [50] = "passed", [51] = "fw_default", [201] = "passed",
            [202] = "fw_default", [250] = "passed", [0] = "fw_default" } do
            assert.equal(result, lan(ip(proto)))
         end
      end)

      it("come from a file", function()
         local name = os.tmpname()
         local file = assert(io.open(name, "w"))
         file:write "allow udp\n   alow tcp\n"
         file:close()
         local ok, err = pcall(tw.nf.firewall, { file = name })
         assert.is_false(ok)
         assert.truthy(err:find(name .. ':2:4: unknown action "alow"; did you mean allow?', 1, true))
         file = assert(io.open(name, "w"))
         file:write "allow udp\n"
         file:close()
         start { file = name }
         os.remove(name)
         assert.equal("passed", lan(udp()))
         assert.equal("fw_default", lan(tcp(false, SYN)))
      end)
   end)

   describe("configuration errors", function()
      local function err(cfg)
         if type(cfg) == "string" then cfg = { rules = cfg, ports = { lan = 0, wan = 1 } } end
         local ok, message = pcall(tw.nf.firewall, cfg)
         assert.is_false(ok)
         return message
      end

      it("show line, column and a caret", function()
         assert.equal('firewall: rules:3:17: unknown protocol "tpc"; did you mean tcp?\n' ..
            "      allow in lan tpc from any\n" ..
            "                   ^", err "# c\n\n   allow in lan tpc from any")
      end)

      for rule, message in pairs {
         ["alow tcp"] = '1:1: unknown action "alow"; did you mean allow?',
         ["allow form 10.0.0.0/8"] = '1:7: unknown word "form"; did you mean from?',
         ["allow tcp from 10.0.0.1/8"] = '1:16: not a prefix: "10.0.0.1/8" has bits set after the first 8; ' ..
            "did you mean 10.0.0.0/8?",
         ["allow from 10.0.0.256"] = "1:12: not a prefix",
         ["allow port 80"] = "1:7: a port needs a protocol that has ports",
         ["allow icmp to any port 80"] = "1:19: a port needs a protocol that has ports",
         ["allow tcp to any port 65536"] = "1:23: 65536: a port goes from 0 to 65535",
         ["allow tcp to any port 9-1"] = "1:23: 9-1: the range is empty; write 1-9",
         ["allow tcp to any port 80,"] = "1:26: a port is missing",
         ["allow tcp from"] = "1:15: an address, a prefix or any is missing",
         ["allow in lna"] = '1:10: unknown port "lna"; did you mean lan?',
         ["allow icmp eco"] = '1:12: unknown ICMP type "eco"; did you mean echo?',
         ["allow tcp flags S"] = '1:17: "S": write the flags',
         ["allow tcp flags S/A"] = '1:17: "S/A": every flag before the /',
         ["allow udp flags S/S"] = "1:11: flags are those of tcp",
         ["allow from 10.0.0.0/8 to ::/0"] = "1:1: no packet can match",
         ["allow ip6 from 10.0.0.0/8"] = "1:7: the rule is for IPv6",
         ["allow tcp udp"] = "1:11: the rule has a protocol already",
         ["drop proto 300"] = "1:12: 300: a protocol number goes from 0 to 255",
         ["allow new,establshed"] = '1:11: unknown state "establshed"; did you mean established?',
         ["allow count 9"] = '1:13: "9" is no name',
      } do
         it("name what is wrong in: " .. rule, function()
            assert.truthy(err(rule):find("rules:" .. message, 1, true), err(rule))
         end)
      end

      it("name parameter and value", function()
         assert.truthy(err { rules = "", default = "deny" }:find('firewall: default is "deny"; it can be', 1, true))
         assert.truthy(err { rules = "", timeouts = { upd = 1 } }:find("timeouts.upd does not exist", 1, true))
         assert.truthy(err { rules = "", timeouts = { udp = -1 } }:find("timeouts.udp is -1", 1, true))
         assert.truthy(err { rules = "", ports = { lan = "x" } }:find("ports.lan is x", 1, true))
         assert.truthy(err { rules = "", connections = 0 }:find("connections is 0", 1, true))
         assert.truthy(err {}:find("give rules", 1, true))
         assert.truthy(err { file = "/does/not/exist" }:find("/does/not/exist", 1, true))
         assert.truthy(err { rule = "" }:find('no parameter "rule"', 1, true))
      end)

      it("refuse a rule whose lists explode", function()
         local ports = {}
         for i = 1, 100 do ports[i] = i * 3 end
         local list = table.concat(ports, ",")
         assert.truthy(err("allow tcp from any port " .. list .. " to any port " .. list)
            :find("rules:1: the rule's lists make 10000 combinations", 1, true))
      end)
   end)

   describe("connection tracking", function()
      local RULES = "allow established\nallow in lan tcp to any port 80\nallow in lan udp\nallow in lan icmp echo\n" ..
         "allow in lan icmp6 echo"

      for family, o in pairs { IPv4 = { c = C4, s = S4 }, IPv6 = { c = C6, s = S6 } } do
         it("follows a TCP connection from SYN to its end, " .. family, function()
            start(RULES)
            assert.equal("fw_not_syn", wan(tcp(true, SYN + ACK, o)))
            assert.equal("fw_default", wan(tcp(true, SYN, o)))
            assert.equal("passed", lan(tcp(false, SYN, o)))
            assert.equal("syn_sent", connections()[1].state)
            assert.equal("passed", wan(tcp(true, SYN + ACK, o)))
            assert.equal("syn_received", connections()[1].state)
            assert.equal("passed", lan(tcp(false, ACK, o)))
            local c = connections()[1]
            assert.same({ "established", 6, o.c, 1000, o.s, 80, 2 }, { c.state, c.proto, c.src, c.sport, c.dst, c.dport,
               c.rule })
            assert.is_true(c.expires_in > 7400 and c.expires_in <= 7440)
            for _ = 1, 3 do
               assert.equal("passed", lan(tcp(false, ACK + PSH, { c = o.c, s = o.s, data = "GET /" })))
               assert.equal("passed", wan(tcp(true, ACK + PSH, { c = o.c, s = o.s, data = "200" })))
            end
            assert.equal("passed", lan(tcp(false, FIN + ACK, o)))
            assert.equal("closing", connections()[1].state)
            assert.equal("passed", wan(tcp(true, ACK + PSH, o)))
            assert.equal("passed", wan(tcp(true, FIN + ACK, o)))
            assert.equal("passed", lan(tcp(false, ACK, o)))
            rig:advance(239)
            assert.equal("passed", lan(tcp(false, ACK, o)))
            rig:advance(241)
            assert.equal("fw_not_syn", lan(tcp(false, ACK, o)))
            assert.equal(0, #connections())
            assert.equal("fw_not_syn", wan(tcp(true, ACK, o)))
         end)

         it("lets UDP answers in until the connection expires, " .. family, function()
            start(RULES)
            assert.equal("fw_default", wan(udp(true, o)))
            assert.equal("passed", lan(udp(false, o)))
            assert.equal("passed", wan(udp(true, o)))
            rig:advance(119)
            assert.equal("passed", wan(udp(true, o)))
            rig:advance(119)
            assert.equal("passed", wan(udp(true, o)))
            assert.equal("fw_default", wan(udp(true, { c = o.c, s = o.s, sport = 1001 })))
            rig:advance(121)
            assert.equal("fw_default", wan(udp(true, o)))
            assert.equal("passed", lan(udp(false, o)))
         end)

         it("lets echo replies in, but no request from the other side, " .. family, function()
            local v6 = family == "IPv6"
            local ask, answer = v6 and 128 or 8, v6 and 129 or 0
            start(RULES)
            assert.equal("fw_default", wan(icmp(true, answer, o)))
            assert.equal("passed", lan(icmp(false, ask, o)))
            assert.equal("passed", wan(icmp(true, answer, o)))
            assert.equal("fw_default", wan(icmp(true, ask, o)))
            assert.equal("fw_default", lan(icmp(false, answer, o)))
            assert.equal("fw_default", wan(icmp(true, answer, { c = o.c, s = o.s, id = 8 })))
            rig:advance(61)
            assert.equal("fw_default", wan(icmp(true, answer, o)))
         end)
      end

      it("expires half-open connections and those that were reset", function()
         start { rules = RULES, timeouts = { syn = 5, closed = 3, established = 100 } }
         assert.equal("passed", lan(tcp(false, SYN)))
         rig:advance(4)
         assert.equal("passed", lan(tcp(false, SYN)))
         rig:advance(4)
         assert.equal("passed", wan(tcp(true, SYN + ACK)))
         assert.equal("passed", lan(tcp(false, ACK)))
         rig:advance(99)
         assert.equal("passed", wan(tcp(true, ACK)))
         assert.equal("passed", wan(tcp(true, RST + ACK)))
         assert.equal("closed", connections()[1].state)
         rig:advance(2)
         assert.equal("passed", lan(tcp(false, ACK))) -- still on its way when the RST came; does not keep it
         rig:advance(2)
         assert.equal("fw_not_syn", lan(tcp(false, ACK)))
      end)

      it("is not fooled by a forged RST", function()
         start(RULES)
         lan(tcp(false, SYN))
         wan(tcp(true, SYN + ACK))
         lan(tcp(false, ACK))
         assert.equal("passed", wan(tcp(true, RST)))
         assert.equal("closed", connections()[1].state)
         assert.equal("passed", wan(tcp(true, ACK)))
         assert.equal("established", connections()[1].state)
      end)

      it("judges a SYN anew when the old connection is over", function()
         start(RULES .. "\nallow in wan tcp to any port 1000")
         lan(tcp(false, SYN))
         lan(tcp(false, RST))
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("syn_sent", connections()[1].state)
         lan(tcp(false, RST))
         assert.equal("passed", wan(tcp(true, SYN))) -- now the server opens it
         local c = connections()
         assert.equal(1, #c)
         assert.same({ S4, 80, 6 }, { c[1].src, c[1].sport, c[1].rule })
      end)

      it("judges a SYN anew when both ends have sent FIN, not before", function()
         start(RULES)
         lan(tcp(false, SYN))
         wan(tcp(true, SYN + ACK))
         assert.equal("passed", wan(tcp(true, SYN + ACK))) -- again: the first was lost
         assert.equal("syn_received", connections()[1].state)
         lan(tcp(false, ACK))
         lan(tcp(false, FIN + ACK))
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("closing", connections()[1].state)
         wan(tcp(true, FIN + ACK))
         lan(tcp(false, ACK))
         assert.equal("closing", connections()[1].state)
         assert.equal("fw_default", wan(tcp(true, SYN))) -- the server may not open it
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("syn_sent", connections()[1].state)
      end)

      it("opens when both ends send SYN at once", function()
         start(RULES)
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal("passed", wan(tcp(true, SYN)))
         assert.equal("passed", lan(tcp(false, SYN + ACK)))
         assert.equal("passed", wan(tcp(true, SYN + ACK)))
         assert.equal("established", connections()[1].state)
      end)

      it("takes nothing but SYN for a new connection, unless it is loose", function()
         start "allow established\nallow tcp"
         for _, flags in ipairs { 0, ACK, FIN, RST, SYN + ACK, SYN + FIN, SYN + RST, FIN + PSH + 0x20, RST + ACK } do
            assert.equal("fw_not_syn", lan(tcp(false, flags)))
         end
         assert.equal(0, #connections())
         rig:close()
         start { rules = "allow established\nallow in lan tcp", loose = true }
         assert.equal("fw_not_syn", lan(tcp(false, RST + ACK)))
         assert.equal("passed", lan(tcp(false, ACK)))
         assert.equal("established", connections()[1].state)
         assert.equal("passed", wan(tcp(true, ACK)))
      end)

      it("keeps the order of rules before `established`", function()
         start "drop from 198.51.100.9\nallow established\nallow in lan"
         assert.equal("passed", lan(udp(false, { s = "198.51.100.9" })))
         assert.equal("fw_denied", wan(udp(true, { s = "198.51.100.9" })))
         assert.equal("passed", lan(udp()))
         assert.equal("passed", wan(udp(true)))
      end)

      it("tells new from established", function()
         start "drop new udp to any port 99\nallow established\nallow new in lan udp to any port 1-99"
         assert.equal("passed", lan(udp(false, { dport = 98 })))
         assert.equal("fw_denied", lan(udp(false, { dport = 99 })))
         assert.equal(1, hits "3: allow new in lan udp to any port 1-99")
         for _ = 1, 5 do lan(udp(false, { dport = 98 })) end
         assert.equal(1, hits "3: allow new in lan udp to any port 1-99")
         assert.equal(5, hits "2: allow established")
      end)

      it("tracks other protocols by their addresses", function()
         start "allow established\nallow in lan gre"
         local gre = function(back)
            local i = ends(C4, S4, back)
            i.proto = 47
            return frame.eth(e(), frame.ipv4(i, "\0\0\8\0" .. ("x"):rep(20)))
         end
         assert.equal("fw_default", wan(gre(true)))
         assert.equal("passed", lan(gre(false)))
         assert.equal("passed", wan(gre(true)))
      end)

      it("drops new connections when the table is full, and keeps the known ones", function()
         start { rules = RULES, connections = 8 }
         for i = 1, 8 do assert.equal("passed", lan(udp(false, { sport = i }))) end
         assert.equal("fw_state_full", lan(udp(false, { sport = 9 })))
         assert.equal("fw_state_full", lan(tcp(false, SYN)))
         for i = 1, 8 do assert.equal("passed", wan(udp(true, { sport = i }))) end
         rig:advance(121)
         for _ = 1, 5 do rig:advance(1) end -- the sweep goes in steps
         assert.equal("passed", lan(tcp(false, SYN)))
         assert.equal(2, rig:drops().fw_state_full)
      end)

      it("is off when no rule asks for a state", function()
         start "allow tcp"
         assert.equal("passed", lan(tcp(false, ACK)))
         assert.equal(0, #connections())
      end)
   end)

   describe("ICMP errors", function()
      -- An error about `f` (a frame of ours), from `router` to `to`.
      local function about(f, router, to, type, length)
         local inner = f:sub(15, 14 + (length or 28))
         return frame.icmp4(e(), { src = router, dst = to }, { type = type or 3, code = 1 }, inner)
      end

      it("about a known connection are let through", function()
         start "allow established\nallow in lan udp\nallow in lan tcp\nallow in lan icmp echo"
         local sent = { udp(), tcp(false, SYN), icmp(false, 8) }
         for _, f in ipairs(sent) do
            assert.equal("fw_default", wan(about(f, "203.0.113.1", C4)))
            assert.equal("passed", lan(f))
            for _, type in ipairs { 3, 11, 12 } do assert.equal("passed", wan(about(f, "203.0.113.1", C4, type))) end
            assert.equal("fw_default", wan(about(f, "203.0.113.1", C4, 5))) -- a redirect is none
            assert.equal("fw_default", wan(about(f, "203.0.113.1", "10.0.0.6"))) -- not for who sent it
         end
         assert.equal("fw_default", wan(about(udp(false, { dport = 54 }), "203.0.113.1", C4)))
         assert.equal("passed", wan(udp(true)))
         assert.equal("passed", lan(about(udp(true), C4, S4))) -- and in the other direction
      end)

      it("about a known IPv6 connection are let through", function()
         start "allow established\nallow in lan udp"
         local o = { c = C6, s = S6 }
         local function big(f, to)
            return frame.icmp6_6(e(), { src = "2001:db8:9::1", dst = to }, { type = 2, rest = frame.u32(1280) },
               f:sub(15, 90))
         end
         assert.equal("fw_default", wan(big(udp(false, o), C6)))
         assert.equal("passed", lan(udp(false, o)))
         assert.equal("passed", wan(big(udp(false, o), C6)))
         assert.equal("fw_default", wan(big(udp(false, o), "2001:db8:1::6")))
      end)

      it("that are cut short are only what the rules say", function()
         start "allow established\nallow in lan udp"
         lan(udp())
         for length = 0, 27 do assert.equal("fw_default", wan(about(udp(), "203.0.113.1", C4, 3, length))) end
         assert.equal("passed", wan(about(udp(), "203.0.113.1", C4, 3, 28)))
      end)
   end)

   describe("fragments", function()
      local function fragment(offset, more, o)
         o = o or {}
         local data = frame.udp({ src = C4, dst = S4 }, { sport = 1000, dport = 53 }, ("x"):rep(72))
         return frame.eth(e(), frame.ipv4({
            src = C4, dst = S4, proto = o.proto or 17, id = o.id or 1, frag = offset + (more and 0x2000 or 0),
         }, data:sub(offset * 8 + 1, offset * 8 + 40)))
      end
      local function fragment6(offset, more, id)
         local header = "\17\0" .. frame.u16(offset * 8 + (more and 1 or 0)) .. frame.u32(id or 1)
         local data = frame.udp({ src = C6, dst = S6 }, { sport = 1000, dport = 53 }, ("x"):rep(72))
         return frame.eth(e { type = 0x86dd }, frame.ipv6({ src = C6, dst = S6, next = 44 },
            header .. data:sub(offset * 8 + 1, offset * 8 + 40)))
      end
      local RULES = "allow established\nallow udp to any port 53"

      it("but the first are dropped by default", function()
         start(RULES)
         assert.equal("passed", lan(fragment(0, true)))
         assert.equal("fw_fragment", lan(fragment(5, false)))
         assert.equal("passed", lan(fragment6(0, true)))
         assert.equal("fw_fragment", lan(fragment6(5, false)))
         assert.equal(2, #connections())
      end)

      it("follow their first one", function()
         start { rules = RULES, fragments = "follow" }
         assert.equal("fw_fragment", lan(fragment(5, false)))
         assert.equal("passed", lan(fragment(0, true)))
         assert.equal("passed", lan(fragment(5, false)))
         assert.equal("fw_fragment", lan(fragment(5, false, { id = 2 })))
         assert.equal("fw_fragment", lan(fragment6(5, false)))
         assert.equal("passed", lan(fragment6(0, true)))
         assert.equal("passed", lan(fragment6(5, false)))
         assert.equal("fw_fragment", lan(fragment6(5, false, 2)))
         rig:advance(31)
         assert.equal("fw_fragment", lan(fragment(5, false)))
      end)

      it("are matched by rules without ports when allowed", function()
         start { rules = RULES .. "\nallow from 10.0.0.0/8\nallow tcp", fragments = "allow" }
         assert.equal("passed", lan(fragment(5, false)))
         assert.equal("fw_default", lan(fragment6(5, false)))
         assert.equal("fw_fragment", lan(fragment(1, false, { proto = 6 }))) -- RFC 3128
         rig:close()
         start { rules = "allow udp to any port 0-65535", fragments = "allow" }
         assert.equal("fw_default", lan(fragment(5, false)))
      end)
   end)

   describe("reject", function()
      local function answer(port, f)
         rig:send(port, f)
         assert.same({}, rig:collect(rig.out))
         local list = rig:collect(port)
         assert.is_true(#list <= 1)
         return list[1]
      end

      it("answers TCP with RST", function()
         start "reject tcp\nallow established"
         local back = answer(rig.lan, tcp(false, SYN, { seq = 4294967295, data = "hi" }))
         local i = { src = S4, dst = C4, proto = 6, df = true }
         assert.equal(frame.hex(frame.eth({ dst = MAC_C, src = MAC_S }, frame.ipv4(i, frame.tcp(i, {
            sport = 80, dport = 1000, seq = 0, ack = 2, flags = RST + ACK, window = 0,
         })))), frame.hex(back))
         back = answer(rig.lan, tcp(false, SYN, { c = C6, s = S6, seq = 5 }))
         i = { src = S6, dst = C6, next = 6 }
         assert.equal(frame.hex(frame.eth({ dst = MAC_C, src = MAC_S, type = 0x86dd }, frame.ipv6(i, frame.tcp(i, {
            sport = 80, dport = 1000, seq = 0, ack = 6, flags = RST + ACK, window = 0,
         })))), frame.hex(back))
         assert.equal(2, rig:drops().fw_rejected)
      end)

      it("takes the sequence number of the acknowledgment, and never answers RST", function()
         start "reject tcp"
         local back = answer(rig.lan, tcp(false, ACK, { seq = 5, ack = 77 }))
         local i = { src = S4, dst = C4, proto = 6, df = true }
         assert.equal(frame.hex(frame.eth({ dst = MAC_C, src = MAC_S }, frame.ipv4(i, frame.tcp(i, {
            sport = 80, dport = 1000, seq = 77, ack = 0, flags = RST, window = 0,
         })))), frame.hex(back))
         assert.is_nil(answer(rig.lan, tcp(false, RST)))
         assert.equal(2, rig:drops().fw_rejected)
      end)

      it("answers the rest with ICMP, by default policy too", function()
         start { rules = "", default = "reject" }
         local f = udp(false, { data = ("x"):rep(1000) })
         local i = { src = S4, dst = C4, proto = 1, df = true }
         assert.equal(frame.hex(frame.eth({ dst = MAC_C, src = MAC_S }, frame.ipv4(i,
            frame.icmp({ type = 3, code = 13 }, f:sub(15, 14 + 548))))), frame.hex(answer(rig.lan, f)))
         f = udp(false, { c = C6, s = S6, data = "short" })
         i = { src = S6, dst = C6 }
         assert.equal(frame.hex(frame.icmp6_6({ dst = MAC_C, src = MAC_S }, i, { type = 1, code = 1 }, f:sub(15))),
            frame.hex(answer(rig.lan, f)))
      end)

      it("keeps VLAN tags", function()
         start "reject udp"
         local i = { src = C4, dst = S4, proto = 17 }
         local vlan = { { 0x88a8, 7 }, { 0x8100, 0x2009 } }
         local packet = frame.ipv4(i, frame.udp(i, { sport = 1, dport = 2 }))
         local back = answer(rig.lan, frame.eth(e { vlan = vlan }, packet))
         assert.equal(frame.hex(frame.eth({ dst = MAC_C, src = MAC_S, vlan = vlan }, "")), frame.hex(back:sub(1, 22)))
         assert.equal("45", frame.hex(back:sub(23, 23)))
      end)

      it("does not answer errors, groups, broken checksums and fragments", function()
         start { rules = "", default = "reject" }
         assert.is_nil(answer(rig.lan, icmp(false, 3, { data = ("x"):rep(28) })))
         assert.is_nil(answer(rig.lan, udp(false, { s = "224.0.0.1" })))
         assert.is_nil(answer(rig.lan, udp(false, { c = "0.0.0.0" })))
         assert.is_nil(answer(rig.lan, udp(false, { c = C6, s = "ff02::1" })))
         local broken = tcp(false, SYN)
         assert.is_nil(answer(rig.lan, broken:sub(1, 50) .. "\1\2" .. broken:sub(53)))
         local i = { src = C4, dst = S4, proto = 17, frag = 0x2000 }
         local first = frame.ipv4(i, frame.udp(i, { sport = 1, dport = 2 }, "12345678"))
         assert.is_nil(answer(rig.lan, frame.eth(e(), first)))
         assert.is_nil(answer(rig.lan, frame.udp4(e { dst = "ff:ff:ff:ff:ff:ff" }, { src = C4, dst = S4 },
            { sport = 1, dport = 2 })))
         assert.truthy(answer(rig.lan, udp()))
      end)

      it("limits its answers", function()
         start { rules = "reject udp", reject_rate = 3 }
         local f = udp()
         rig:send(rig.lan, f, f, f, f, f)
         assert.equal(3, #rig:collect(rig.lan))
         assert.equal(5, rig:drops().fw_rejected)
         rig:advance(1)
         rig:send(rig.lan, f, f, f, f, f)
         assert.equal(3, #rig:collect(rig.lan))
      end)
   end)

   describe("odd frames", function()
      it("without IP pass, unless told otherwise", function()
         local arp = frame.arp({ dst = "ff:ff:ff:ff:ff:ff" }, {
            oper = 1, sha = MAC_C, spa = C4, tha = "00:00:00:00:00:00", tpa = S4,
         })
         start ""
         assert.equal("passed", lan(arp))
         rig:close()
         start { rules = "allow udp", non_ip = "drop" }
         assert.equal("fw_non_ip", lan(arp))
      end)

      it("truncated anywhere are dropped by name or judged, never more", function()
         start "allow established\nallow udp\nallow tcp\nallow icmp\nallow icmp6"
         local whole = {
            tcp(false, SYN), udp(), icmp(false, 8), tcp(false, SYN, { c = C6, s = S6 }), udp(false, { c = C6, s = S6 }),
            icmp(false, 128, { c = C6, s = S6 }), icmp(false, 3, { data = udp():sub(15) }),
         }
         local known = { eth_malformed = true, ip_malformed = true }
         for _, f in ipairs(whole) do
            for length = 1, #f - 1 do
               local result = lan(f:sub(1, length))
               assert.is_true(known[result], ("%s at %d of %d"):format(result, length, #f))
            end
            assert.equal("passed", lan(f))
         end
      end)

      it("whose IP length cuts the transport header are dropped", function()
         start "allow established\nallow udp\nallow tcp\nallow icmp\nallow icmp6\nallow sctp"
         for proto, size in pairs { [6] = 20, [17] = 8, [1] = 8, [132] = 12 } do
            for length = 0, size - 1 do
               local packet = frame.ipv4({ src = C4, dst = S4, proto = proto }, ("\80"):rep(length))
               assert.equal("l4_malformed", lan(frame.eth(e(), packet .. ("x"):rep(30))))
            end
         end
         for next_header, size in pairs { [6] = 20, [17] = 8, [58] = 8, [132] = 12 } do
            for length = 0, size - 1 do
               local f = frame.eth(e { type = 0x86dd }, frame.ipv6({ src = C6, dst = S6, next = next_header },
                  ("\80"):rep(length)) .. ("x"):rep(30))
               assert.equal("l4_malformed", lan(f))
            end
         end
      end)

      it("with IPv6 extension headers are judged by what is behind them", function()
         start "allow udp to any port 53"
         local i = { src = C6, dst = S6 }
         local function extended(dport, head, first)
            i.next = first
            return frame.eth(e { type = 0x86dd }, frame.ipv6(i, head .. frame.udp(i, { sport = 1, dport = dport })))
         end
         local hop_and_routing = "\43\0" .. ("\0"):rep(6) .. "\17\0" .. ("\0"):rep(6)
         assert.equal("passed", lan(extended(53, hop_and_routing, 0)))
         assert.equal("fw_default", lan(extended(54, hop_and_routing, 0)))
         assert.equal("ip_malformed", lan(extended(53, "\17\255" .. ("\0"):rep(6), 0)))
      end)

      it("with IPv4 options or VLAN tags are judged alike", function()
         start "allow udp to any port 53"
         local function optioned(dport, options, vlan)
            local i = { src = C4, dst = S4, proto = 17, options = options }
            return frame.eth(e { vlan = vlan }, frame.ipv4(i, frame.udp(i, { sport = 1, dport = dport })))
         end
         for _, dport in ipairs { 53, 54 } do
            local expected = dport == 53 and "passed" or "fw_default"
            assert.equal(expected, lan(optioned(dport, ("\1"):rep(40))))
            assert.equal(expected, lan(optioned(dport, nil, { { 0x8100, 5 } })))
            assert.equal(expected, lan(optioned(dport, "\1\1\1\0", { { 0x88a8, 5 }, { 0x8100, 6 } })))
         end
      end)

      it("of random bytes do no harm", function()
         start { rules = "allow established\nallow udp\nreject", fragments = "follow", default = "reject" }
         math.randomseed(11)
         local error_frame, v6 = icmp(false, 3, { data = udp():sub(15) }), udp(false, { c = C6, s = S6 })
         local whole = { tcp(false, SYN), udp(), error_frame, v6 }
         for _ = 1, 3000 do
            local f = whole[math.random(#whole)]
            for _ = 1, math.random(4) do
               local at = math.random(13, #f)
               f = f:sub(1, at - 1) .. string.char(math.random(0, 255)) .. f:sub(at + 1)
            end
            rig:send(rig.lan, f)
         end
         rig:collect(rig.out)
         rig:collect(rig.lan)
      end)
   end)

   -- ---- against a brute-force reference ----

   describe("thousands of rules", function()
      local random = math.random

      local function address()
         return random(10, 11) * 2 ^ 24 + random(0, 3) * 65536 + random(0, 3) * 256 + random(0, 3)
      end

      local function random_rule(n)
         local rule = { action = ({ "allow", "drop" })[random(2)] }
         local text = { rule.action }
         local function add(format, ...) text[#text + 1] = format:format(...) end
         if random(4) == 1 then
            rule.port = random(2)
            add("in %s", ({ "lan", "wan" })[rule.port])
         end
         local kind = random(5)
         if kind < 5 then
            rule.proto = ({ 6, 17, 1, 47 })[kind]
            add("%s", ({ "tcp", "udp", "icmp", "gre" })[kind])
         end
         for _, side in ipairs { "from", "to" } do
            if random(4) > 1 then
               local length = ({ 8, 14, 16, 23, 24, 30, 31, 32 })[random(8)]
               local a = address()
               rule[side] = { a - a % 2 ^ (32 - length), length }
               add("%s %s/%d", side, tw.ip4_string(rule[side][1]), length)
            else
               add("%s any", side)
            end
            if kind <= 2 and random(3) == 1 then
               local first = random(0, 40)
               rule[side .. "port"] = { first, first + random(0, 5) }
               add("port %d-%d", first, rule[side .. "port"][2])
            end
         end
         rule.text = table.concat(text, " ")
         if n % 7 == 0 then rule.text = rule.text .. "   # note" end
         return rule
      end

      local function matches(rule, p)
         local function inside(value, range) return not range or (value >= range[1] and value <= range[2]) end
         local function prefixed(value, prefix)
            return not prefix or value - value % 2 ^ (32 - prefix[2]) == prefix[1]
         end
         return (not rule.port or rule.port == p.port) and (not rule.proto or rule.proto == p.proto) and
            prefixed(p.src, rule.from) and prefixed(p.dst, rule.to) and inside(p.sport, rule.fromport) and
            inside(p.dport, rule.toport)
      end

      local function packet_frame(p)
         local i = { src = tw.ip4_string(p.src), dst = tw.ip4_string(p.dst), proto = p.proto }
         local ports = { sport = p.sport, dport = p.dport, flags = SYN }
         local payload = p.proto == 6 and frame.tcp(i, ports) or p.proto == 17 and frame.udp(i, ports) or
            p.proto == 1 and frame.icmp { type = 8 } or ("\0"):rep(8)
         return frame.eth(e(), frame.ipv4(i, payload))
      end

      it("decide as trying one after the other would", function()
         math.randomseed(42)
         local rules, texts = {}, {}
         for i = 1, 3000 do
            rules[i] = random_rule(i)
            texts[i] = rules[i].text
         end
         start { rules = table.concat(texts, "\n"), default = "drop" }
         local expected = {}
         for _ = 1, 10000 do
            local p = {
               port = random(2), proto = ({ 6, 17, 1, 47 })[random(4)], src = address(), dst = address(),
               sport = random(0, 45), dport = random(0, 45),
            }
            local found
            for i, rule in ipairs(rules) do
               if matches(rule, p) then
                  found = i
                  break
               end
            end
            local n = found or #rules + 1
            expected[n] = (expected[n] or 0) + 1
            rig:send(p.port == 1 and rig.lan or rig.wan, packet_frame(p))
            local out = rig:collect(rig.out)
            assert.equal(found and rules[found].action == "allow" and 1 or 0, #out, found and rules[found].text)
         end
         local counted = {}
         for i, rule in ipairs(fw.export().rules) do counted[i] = rule.hits > 0 and rule.hits or nil end
         assert.same(expected, counted)
      end)
   end)

   describe("compiled code", function()
      it("is made once: no aborts and no new traces in steady state", function()
         start "allow established\nallow in lan tcp to any port 80\nallow in lan udp"
         local frames = { lan = {}, wan = {} }
         local function add(port, f) table.insert(frames[port], f) end
         for i = 1, 40 do
            local o = { sport = i, c = i % 2 == 0 and C4 or "203.0.113.5" }
            add("lan", tcp(false, SYN, o))
            add("wan", tcp(true, SYN + ACK, o))
            add("lan", tcp(false, ACK, o))
            add("lan", udp(false, o))
            add("wan", udp(true, o))
            add("lan", udp(false, { sport = i, c = C6, s = S6 }))
            add("wan", udp(true, { sport = i, c = C6, s = S6 }))
         end
         local function round()
            for port, list in pairs(frames) do
               for i = 1, #list, 32 do
                  for k = i, math.min(#list, i + 31) do assert(rig[port]:inject(list[k])) end
                  rig:run()
               end
            end
            rig:collect(rig.out)
         end
         local traces, aborts = rig:steady(round)
         assert.equal(0, aborts)
         assert.is_true(traces <= 2)
      end)
   end)
end)
