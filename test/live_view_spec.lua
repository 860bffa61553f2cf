-- SPDX-License-Identifier: BSD-3-Clause
-- Views: any Lua value as data and as aligned text; the engine's objects by name; help from the comments.

local frame = require "test.support.frame"
local render = require "tideway.live.render"
local rig = require "test.support.rig"
local tw = require "tideway"
local view = require "tideway.live.view"

local function text(value, width) return table.concat(view.lines(view.of(value), width), "\n") end

local function lines(...) return table.concat({ ... }, "\n") end

local function has(whole, part) assert.is_truthy(whole:find(part, 1, true), ("no %q in:\n%s"):format(part, whole)) end

describe("a view of a value", function()
   it("shows scalars as they are", function()
      assert.equal("12345678", text(12345678))
      assert.equal("1.5", text(1.5))
      assert.equal("-0.25", text(-0.25))
      assert.equal("nil", text(nil))
      assert.equal("true", text(true))
      assert.equal("a\nb", text "a\nb")
      assert.equal("inf", text(math.huge))
   end)

   it("keeps every digit of 64-bit integers", function()
      assert.equal("18446744073709551615", text(0xffffffffffffffffULL))
      assert.equal("-9223372036854775807", text(-0x7fffffffffffffffLL))
      assert.equal(7, view.of(7ULL).data)
      assert.equal("18446744073709551615", view.of(0xffffffffffffffffULL).data)
   end)

   it("lets no text steer a terminal", function()
      assert.equal([[a\x1b[31mred]], text "a\27[31mred")
      assert.equal([[x  a\x1b]2;title\x07]], text { x = "a\27]2;title\7" })
   end)

   it("shows a function by its parameters and place", function()
      has(text(function(a, b, ...) return a, b, ... end), "function (a, b, ...) at ")
      assert.equal("function (built in)", text(print))
   end)

   it("aligns a list of records, numbers to the right, counts readable, numbers that name things plain", function()
      assert.equal(lines(
         "NAME  PORT         RX  WHAT",
         "lan   5353  1,234,567  first",
         "wan     80          3"), text {
         { name = "lan", rx = 1234567, what = "first", port = 5353 }, { name = "wan", rx = 3, port = 80 },
      })
      assert.equal(lines("    ID", "123456"), text { { id = 123456 } })
   end)

   it("cuts cells to the terminal's width", function()
      local records = {
         { name = "lan", mode = "native XDP, zero copy and so on", rx = 123456 }, { name = "wan", mode = "x", rx = 1 },
      }
      local list = view.lines(view.of(records), 36)
      assert.equal("NAME  MODE                        RX", list[1])
      assert.equal("lan   native XDP, zero co...  123,456", list[2]:gsub("zero c%.", "zero co."))
      for _, line in ipairs(list) do assert.is_true(#line <= 36, line) end
      for _, line in ipairs(view.lines(view.of(records), 12)) do assert.is_true(#line <= 20, line) end
   end)

   it("breaks long headings where there is no room for them", function()
      local v = view.table({ "src_address", "packets_seen" }, { { "10.0.0.1", 5 } })
      assert.equal(lines("SRC ADDRESS  PACKETS SEEN", "10.0.0.1                5"), table.concat(view.lines(v, 80), "\n"))
      assert.equal(lines("SRC       PACKETS", "ADDRESS      SEEN", "10.0.0.1        5"),
         table.concat(view.lines(v, 22), "\n"))
   end)

   it("shows maps in two columns, short tables in a line, long ones below", function()
      assert.equal(lines("a  1", "b  x", "c  { 1, 2, 3 }", 'd  { k = "v" }'), text {
         a = 1, b = "x", c = { 1, 2, 3 }, d = { k = "v" },
      })
      local long = {}
      for i = 1, 30 do long[i] = i * 1000 end
      local shown = text { n = 5, long = long }
      has(shown, "n  5\n\nlong\n   1    1000\n")
      has(shown, "  30  30,000")
      assert.equal("{}", text {})
   end)

   it("is bounded in depth and size", function()
      local loop = {}
      loop.self = loop
      has(text(loop), "...")
      local many = {}
      for i = 1, 2500 do many[i] = { n = i } end
      local v = view.of(many)
      assert.equal(1000, #v.rows)
      assert.equal(1500, v.more)
      assert.equal("... and 1,500 more", view.lines(v)[1002])
      assert.is_string(require("tideway.json").encode(view.of(loop)))
   end)

   it("asks objects what they show", function()
      assert.equal("I am", text(setmetatable({}, { __tostring = function() return "I am" end })))
      assert.equal("k  1", text(setmetatable({ 9 }, { __view = function() return { k = 1 } end })))
      has(text(setmetatable({}, { __tostring = function() error "broken" end })), "broken")
   end)

   it("is data that can be sent as JSON", function()
      local json = require "tideway.json"
      local v = view.table({ "name", { name = "n", align = "right" } }, { { "a", 10000 }, { "b" } })
      local back = json.decode(json.encode(v, true))
      assert.equal(lines("NAME       N", "a     10,000", "b"), table.concat(view.lines(back), "\n"))
      assert.same({ { name = "a", n = 10000 }, { name = "b", n = "" } }, back.data)
   end)

   it("of several results shows one below the other, of none nothing", function()
      assert.is_nil(view.results(0, {}))
      assert.same({ "1", "nil", "x" }, view.lines(view.results(3, { 1, nil, "x" })))
   end)

   it("has numbers in few digits", function()
      assert.equal("9999", render.number(9999))
      assert.equal("10,000", render.number(10000))
      assert.equal("0.125", render.number(0.125))
      assert.equal("3.333", render.number(10 / 3))
   end)
end)

describe("the live objects", function()
   local r, env, guard

   local function eval(code)
      local chunk = setfenv(assert(loadstring("return " .. code, "=eval")), env)
      local value, more, even_more = chunk() -- no tail call: its line is in errors
      return value, more, even_more
   end

   local function fails(code, message)
      local ok, err = pcall(eval, code)
      assert.is_false(ok)
      assert.equal(message, err)
   end

   setup(function()
      r = rig.new { ports = { "lan", "wan" } }
      guard = tw.nf("guard", function(cfg)
         cfg = tw.args("guard", cfg, { least = { type = "number", default = 1, doc = "smallest TTL let through" } })
         local least = cfg.least
         return {
            packet = function(pkt)
               local ip = pkt:ipv4()
               if ip and ip.ttl < least then return pkt:drop "ttl_low" end
            end,
         }
      end)
      r:chain("up", r.lan, guard { least = 5 }, tw.nf.count { per = "flow" }, r.wan)
      r:start()
      for ttl = 1, 7 do
         r:send(r.lan, frame.udp4({}, { ttl = ttl, src = "10.0.0.1", dst = "10.0.0." .. ttl },
            { sport = 1000, dport = 53 }, "x"))
      end
      env = require("tideway.live.env").new()
   end)

   teardown(function() r:close() end)

   it("are there by name, and name what is near when they are not", function()
      assert.equal(r.lan, eval "ports.lan")
      assert.equal("lan -> guard -> count -> wan", eval("chains()").data[1].path)
      fails("chains.pu", 'eval:1: there is no chain "pu"; did you mean up?')
      fails("chians", 'eval:1: there is no "chians" here; did you mean chains?')
      fails("chains.up.gaurd", 'eval:1: chain up has no "gaurd"; did you mean guard?')
   end)

   it("have counters, NFs and their parameters", function()
      assert.equal(7, eval "chains.up.counters.rx")
      assert.equal("lcore step", eval "chains.up.place")
      assert.equal("guard", eval "chains.up.guard.name")
      local shown = text(eval "chains.up.guard")
      has(shown, "parameters\n  least  5")
      has(text(eval "chains.up"), lines(
         "NF     RECEIVED  DROPPED  BY REASON  STATE",
         "guard         7        4  ttl_low 4",
         "count         3        0"))
      has(text(eval "drops()"), lines("CHAIN  NF     REASON   COUNT", "up     guard  ttl_low      4"))
      has(text(eval "counters()"), "received 7 + originated 0 = sent 3 + dropped 4 + in flight 0: adds up")
   end)

   it("are tables with rows, addresses and times as such", function()
      assert.equal(3, eval "tables.count.flows4:count()")
      assert.equal(3, eval 'tonumber(tables["count.totals"]:sum "udp")')
      local shown = text(eval "tables.count.flows4")
      has(shown, "SRC       DST       SRC PORT  DST PORT  PROTOCOL  PACKETS  BYTES  LAST")
      has(shown, "10.0.0.1  10.0.0.5      1000        53        17        1     43  0.")
      has(shown, " s ago")
      assert.equal(4, select(2, shown:gsub("10%.0%.0%.1", "")) + 1)
      has(text(eval "tables.count.totals"), "packets            3")
      assert.is_nil(text(eval "tables.count.totals"):find("icmp", 1, true))
   end)

   it("are rows of a table for those who may only call commands", function()
      assert.equal(3, #eval 'rows "count.flows4"'.data)
      local some = eval 'rows("count.flows4", 2)'.items[2]
      assert.same({ 2, 1 }, { #some.rows, some.more })
      fails('rows "count.flow4"', 'there is no table "count.flow4"; did you mean count.flows4, count.flows6?')
   end)

   it("can be walked with pairs", function()
      local names = {}
      for name, port in eval "pairs(ports)" do
         names[#names + 1] = name
         assert.equal(name, port.name)
      end
      assert.same({ "lan", "wan" }, names)
      assert.same({ 2, 3 }, { eval "#ports", eval "#tables.count" })
   end)

   it("keep what a user assigns, apart from other users", function()
      setfenv(loadstring "mine = 5", env)()
      assert.equal(5, eval "mine")
      assert.is_nil(rawget(_G, "mine"))
      assert.has_error(function() return require("tideway.live.env").new().mine end)
      assert.has_error(function() env.ports.lan = 1 end, "ports are not assigned to: lan is declared with tw")
   end)

   describe("help", function()
      local help = require("tideway.live.help").help

      it("lists every command with its summary", function()
         local shown = text(help())
         for name, entry in pairs(require "tideway.live.commands") do
            has(shown, "  " .. name)
            has(shown, entry.summary)
         end
      end)

      it("of a command, by name or function, is its comment", function()
         local shown = text(help "drops")
         has(shown, "drops(chain): What was dropped")
         has(shown, "  chain?  string  of this chain only")
         assert.equal(shown, text(eval "help(drops)"))
         assert.equal(shown, text(eval 'help "drops"'))
      end)

      it("of every command there is one", function()
         for name in pairs(require "tideway.live.commands") do
            local shown = text(help(name))
            assert.is_true(#shown > 20, name)
            has(shown, "(role ")
            has(shown, ".lua:") -- the comment was found
         end
      end)

      it("of every command stands in README", function()
         local root = require("tideway.abi").root
         local page = require("tideway.posix").slurp(root .. "/tideway/live/README.md")
         for name in pairs(require "tideway.live.commands") do has(page, "`" .. name .. "(") end
      end)

      it("of every name of tw there is one", function()
         for _, name in ipairs(tw.names()) do
            if name ~= "version" then assert.is_true(#text(help("tw." .. name)) > 15, name) end
         end
         has(text(eval "help(tw.hash)"), "add(key..., n)")
         has(text(help "tw.port"), "devargs  string")
      end)

      it("of NFs is their page, or the parameters of one's own", function()
         has(text(eval "help(tw.nf.router)"), "| `icmp_rate`")
         has(text(help "count"), "# count")
         local shown = text(eval "help(chains.up.guard)")
         has(shown, "NF guard, declared at ")
         has(shown, "least      number  1        smallest TTL let through")
      end)

      it("of a header lists fields and methods", function()
         local shown = text(help "ipv4")
         has(shown, "header ipv4, 20 bytes; in an NF: local h = pkt:ipv4()")
         has(shown, "total_length  be16     2  bytes, header included")
         has(shown, ":update_checksum()  Compute the header checksum anew (RFC 1071).")
         has(text(help "pkt"), ":drop(reason)")
      end)

      it("of a table lists its methods", function()
         has(text(eval "help(tables.count.flows4)"), ":pairs()")
         has(text(eval "help(chains.up)"), ":pin(place)")
      end)

      it("names what is near", function()
         assert.has_error(function() help "ivp4" end, 'there is no help on "ivp4"; did you mean ipv4?')
      end)
   end)

   describe("completion", function()
      local complete = require("tideway.live.complete").complete

      local function of(typed)
         local found = complete(typed, env)
         return found.list, typed:sub(found.from)
      end

      it("knows globals, commands and words of Lua", function()
         assert.same({ "chains" }, (of "chai"))
         assert.same({ "while" }, (of "for i = 1, 2 do end whi"))
         assert.same({ "setfenv" }, (of "x = setf"))
      end)

      it("knows live objects, their fields and methods", function()
         assert.same({ "up" }, (of "chains."))
         assert.same({ "guard" }, (of "= chains.up.gu"))
         assert.same({ "pin" }, (of "chains.up:pi"))
         assert.same({ "count" }, (of "tables."))
         assert.same({ "flows4", "flows6" }, (of "tables.count.fl"))
         assert.same({ "get" }, (of "tables.count.flows4:ge"))
         assert.same({ "count.flows4", "count.flows6", "count.totals" }, (of 'tables["count.'))
         assert.same({ "lan", "wan" }, (of "f(ports."))
         assert.same({ "inject" }, (of "ports.lan:inj"))
         assert.same({ "format" }, (of "string.form"))
      end)

      it("knows the API, NFs and their parameters", function()
         assert.same({ "hash" }, (of "tw.has"))
         assert.same({ "count" }, (of "x = tw.nf.cou"))
         setfenv(loadstring "g = ...", env)(guard)
         assert.same({ "least = " }, (of "g { le"))
         assert.same({ "icmp_rate = " }, (of "tw.nf.router { strict_source = true, icm"))
         assert.same({ "name = " }, (of "tw.hash { na"))
         assert.same({ "lcore = ", "lwt = " }, (of "chains.up:pin { l"))
      end)

      it("knows names in the strings of commands", function()
         assert.same({ "up" }, (of 'drops "u'))
         assert.same({ "ipv6_extension", "ipv6_fragment" }, (of 'help("ipv6_'))
      end)

      it("says where the word begins, and nothing where nothing can be said", function()
         local list, word = of "print(chains.u"
         assert.same({ "up" }, list)
         assert.equal("u", word)
         assert.same({}, (of "-- cha"))
         assert.same({}, (of "[[ cha"))
         assert.same({}, (of "nothing.here."))
         assert.same({}, (of "f()."))
      end)
   end)
end)
