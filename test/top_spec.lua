-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway top`: its pages exactly, on ports turned by hand; its keys and its screen through a real terminal (tmux).

local ffi = require "ffi"
local tw = require "tideway"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local json = require "tideway.json"
local Lab = require "test.support.lab"
local layout = require "tideway.cli.top_layout"
local pages = require "tideway.cli.top_pages"
local Rig = require "test.support.rig"
local screen = require "tideway.cli.top_screen"
local shell = require "test.shell"
local stats = require "tideway.stats"

local function udp(dport)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = dport }, "x")
end

local function text_of(page, width)
   local lines = {}
   for i, line in ipairs(layout.lines(page, width)) do lines[i] = line.text end
   return table.concat(lines, "\n")
end

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

-- The same with runs of blanks as one.
local function row(text, ...)
   local squeezed = text:gsub(" +", " ")
   for _, part in ipairs { ... } do
      assert.is_truthy(squeezed:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

describe("pages of top", function()
   local rig, state
   setup(function()
      rig = Rig.new { ports = { "a", "b", "c" } }
      local ring, c = tw.ring("mid", { size = 64 }), rig.c.index
      rig:chain("up", rig.a, tw.nf("guard", function()
         return { packet = function(pkt)
            local port = pkt:udp().dst_port
            if port == 1 then return pkt:drop "denied" end
            if port == 2 then return pkt:drop "late" end
            if port == 3 then return pkt:send(c) end
         end }
      end) {}, tw.nf.count {}, ring)
      rig:chain("down", ring, tw.nf.count {}, rig.b)
      rig:start()
      local before = engine.snapshot()
      for _ = 1, 6 do rig:send(rig.a, udp(1), udp(1), udp(2), udp(3), udp(4), udp(4)) end
      local after = engine.snapshot()
      state = { snap = after, rates = stats.rates(before, after, 1), order = "script" }
   end)
   teardown(function() rig:close() end)

   it("show everything at once", function()
      local text = text_of(pages.page(state, ""))
      row(text, "\na 36 ", "up lua", " 36 18 18 ", "\n guard 36 18 ", "denied 12, late 6.0", "\n count 12 0",
         "down lua", " 12 12 0 ", "\nb 0 0 12 ", "\nc 0 0 6.0 ", "\nmid 0 64", "count.totals counters", "adds up")
   end)

   it("show a chain: its NFs, their share, what they drop, where packets leave, sizes of bursts", function()
      local text = text_of(pages.page(state, "chain/up"))
      has(text, "from a, to mid", "dropped 18")
      row(text, "guard 36 100% 18 50.00% denied 12, late 6.0", "count 12 33% 0 0.00%", "\nc 6.0")
   end)

   it("show an NF: drops by reason with rates, sums and shares", function()
      local text = text_of(pages.page(state, "chain/up/guard"))
      row(text, "\ndenied 12 12 67%", "\nlate 6.0 6 33%", "in 36 pkt/s (100% of the chain's), dropped 18 a second")
   end)

   it("show a port: device counters, and the lcores that use it", function()
      local text = text_of(pages.page(state, "port/a"))
      row(text, "received 36 36", "missed by the device 0", "\n 0 36 0 0")
   end)

   it("show an lcore: its chains and LuaJIT", function()
      local text = text_of(pages.page(state, "lcore/0"))
      row(text, "up 36 18 18", "down 12 12 0", "given up, interpreted 0", "Lua heap")
   end)

   it("know nothing of what is not there", function()
      for _, path in ipairs { "chain/none", "chain/up/none", "port/none", "lcore/9", "nonsense", "x/y" } do
         assert.is_nil(pages.page(state, path) or nil, path)
      end
   end)

   it("can be ordered and filtered", function()
      local function chains_in(order, reverse, filter)
         local list = {}
         local page = pages.page({
            snap = state.snap, rates = state.rates, order = order, reverse = reverse, filter = filter,
         }, "")
         for _, line in ipairs(layout.lines(page)) do
            local name = (line.target or ""):match "^chain/([^/]+)$"
            if name then list[#list + 1] = name end
         end
         return table.concat(list, " ")
      end
      assert.equal("up down", chains_in "script")
      assert.equal("down up", chains_in "name")
      assert.equal("up down", chains_in "drops")
      assert.equal("down up", chains_in("packets", true))
      assert.equal("up", chains_in("script", false, "guard"))
      assert.equal("down", chains_in("script", false, "DOWN"))
      assert.equal("", chains_in("script", false, "nothing"))
   end)

   for _, width in ipairs { 20, 40, 60, 80, 100, 200 } do
      it(("fit %d columns"):format(width), function()
         for _, path in ipairs { "", "chain/up", "chain/up/guard", "port/a", "lcore/0" } do
            for _, line in ipairs(layout.lines(pages.page(state, path), width)) do
               assert.is_true(require("tideway.text").width(line.text) <= width, line.text)
            end
         end
      end)
   end

   it("keep the names and rates when it is narrow", function()
      row(text_of(pages.page(state, ""), 80), "CHAIN / NF", "IN pkt/s", "DROP/s", "DROPS/s BY REASON", "denied 12")
      row(text_of(pages.page(state, ""), 56), "CHAIN / NF", "IN pkt/s", "DROP/s DROPS/s BY", "denied 12")
   end)

   it("can be seen to their end on a small terminal", function()
      local s = screen.new({ names = {} }, { interval = 1 })
      s.state.snap, s.state.rates = state.snap, state.rates
      local seen = table.concat(s:render(12, 80), "\n")
      assert.is_nil(seen:find("adds up", 1, true))
      for _ = 1, 40 do
         s:press "down"
         seen = table.concat(s:render(12, 80), "\n")
      end
      has(seen, "adds up", "count.totals")
      for _ = 1, 60 do
         s:press "up"
         seen = table.concat(s:render(12, 80), "\n")
      end
      has(seen, "IN pkt/s")
   end)

   it("fill exactly the rows of a terminal, with the chosen row in sight", function()
      local s = screen.new({ names = {} }, { interval = 1 })
      s.state.snap, s.state.rates = state.snap, state.rates
      for _, rows in ipairs { 1, 3, 8, 12, 24, 60 } do
         for _ = 1, 30 do
            assert.equal(rows, #s:render(rows, 80))
            if rows < 8 then break end
            local shown = table.concat(s:render(rows, 80), "\n")
            assert.is_truthy(s.loose or shown:find("\27[7m" .. s.lines[s:here().at].text, 1, true), shown)
            s:press "down"
         end
         s:press "home"
      end
   end)
end)

describe("bursts that are timed", function()
   it("are one in 16, by size and time", function()
      local rig = Rig.new { ports = { "a", "b" } }
      rig:chain("c", rig.a, tw.nf.count {}, rig.b)
      rig:start()
      for _ = 1, 32 do
         rig:send(rig.a, udp(1), udp(1), udp(1), udp(1), udp(1))
         rig:collect(rig.b)
      end
      local timed, times = engine.snapshot().chains[1].sample, 0
      rig:close()
      assert.equal(10, timed.packets)
      assert.same({ 0, 0, 0, 2, 0, 0, 0 }, timed.size) -- two of at most 8
      for _, n in ipairs(timed.ns) do times = times + n end
      assert.equal(2, times)
   end)

   it("have bounds that a share of them does not pass", function()
      local quantile = require("tideway.stats_sample").quantile
      assert.equal(2, quantile({ 0, 3, 1 }, 0.5))
      assert.equal(2, quantile({ 0, 3, 1 }, 0.75))
      assert.equal(4, quantile({ 0, 3, 1 }, 0.99))
      assert.equal(4, quantile({ 0, 3, 1 }, 1))
      assert.is_nil(quantile({ 0, 0, 0 }, 0.5))
   end)
end)

describe("keys of top", function()
   it("are told apart", function()
      assert.same({ "up", "down", "enter", "back", "escape", "q", "?" }, screen.keys "\27[A\27OB\r\127\27q?")
      assert.same({ "pageup", "pagedown", "home", "end", "unknown" }, screen.keys "\27[5~\27[6~\27[H\27[4~\27[15~")
      assert.same({ "down", "up" }, screen.keys "jk")
      assert.same({ "j", "k", "ö" }, screen.keys("jkö", true))
   end)
end)

-- ---- through a real terminal ----

local SCRIPT = [[
local tw = require "tideway"
local odd = tw.nf("odd", function()
   return { packet = function(pkt)
      local ip = pkt:ipv4()
      if ip and ip.ttl == 9 then return pkt:drop "ttl" end
   end }
end)
tw.chain("main", tw.port("a", "net_pcap0,rx_pcap=%s"), odd {}, tw.nf.count {}, tw.port("b", "net_null0"))
]]

describe("tideway top in a terminal", function()
   local dir, run, tmux
   local function record(bytes) return ffi.string(ffi.new("uint32_t[4]", 0, 0, #bytes, #bytes), 16) .. bytes end
   setup(function()
      if not shell.has "tmux" then return end
      dir = shell.directory()
      local good = udp(1)
      local bad = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2", ttl = 9 }, { sport = 9, dport = 1 }, "x")
      shell.write(dir .. "/in.pcap", ffi.string(ffi.new("uint32_t[6]", 0xa1b2c3d4, 0x00040002, 0, 0, 65535, 1), 24)
         .. (record(good) .. record(bad)):rep(500))
      shell.write(dir .. "/watched.lua", SCRIPT:format(dir .. "/in.pcap"))
      run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/watched.lua"):format(dir,
         shell.binary, dir))
      assert(run:says("ready:", 60), run:read "err")
      tmux = ("tmux -f /dev/null -S %s/tmux"):format(dir)
      shell.run(("env TERM=xterm %s new-session -d -x 80 -y 24 'env TIDEWAY_RUN_DIR=%s/run %s top --interval 0.2; "
         .. "echo left with $?; sleep 600'"):format(tmux, dir, shell.binary))
   end)
   teardown(function()
      if not dir then return end
      shell.run(tmux .. " kill-server")
      run:stop()
      shell.remove(dir)
   end)

   local function pane() return shell.run(tmux .. " capture-pane -p").out end
   local function keys(...) shell.run(tmux .. " send-keys " .. table.concat({ ... }, " ")) end
   local function shows(...)
      local wanted = { ... }
      local ok = Lab.eventually(60, function()
         local seen = pane():gsub(" +", " ")
         for _, part in ipairs(wanted) do
            if not seen:find(part, 1, true) then return false end
         end
         return true
      end)
      assert.is_true(ok, table.concat(wanted, " | ") .. " is not in\n" .. pane())
   end
   local function there() return tmux and true or pending "tmux is missing (make deps)" end

   it("shows the overview, goes into a chain and an NF and back", function()
      if there() ~= true then return end
      shows("CHAIN / NF", "main ", " odd", "received 1,000 + originated 0 = sent 500 + dropped 500")
      keys("Down", "Down")
      shows "Enter: open"
      keys "Enter"
      shows("> chain/main", "LEAVES BY", "PACKETS A BURST SINCE THE START")
      keys "Enter"
      shows("odd of chain main", "ttl 0 500 100%")
      keys "Left"
      shows "LEAVES BY"
      keys "Escape"
      shows "LCORE"
   end)

   it("goes into a port and an lcore", function()
      if there() ~= true then return end
      keys("Home", "Enter")
      shows("> port/a", "received 1,000", "net_pcap")
      keys "Left"
      shows "CHAIN / NF"
      keys("End", "Enter")
      shows("> lcore/", "given up, interpreted 0")
      keys "BSpace"
      shows "CHAIN / NF"
   end)

   it("filters, orders, pauses, helps", function()
      if there() ~= true then return end
      keys("/", "count", "Enter")
      shows("/count", "count")
      assert.is_nil(pane():find(" odd", 1, true))
      keys "Escape"
      shows "odd"
      keys("s", "r")
      shows "order (s): packets, reversed"
      keys "p"
      shows "PAUSED"
      keys("p", "'?'")
      shows("KEYS", "the order reversed")
      keys "'?'"
      shows "CHAIN / NF"
   end)

   it("follows the size of the terminal", function()
      if there() ~= true then return end
      shell.run(tmux .. " resize-window -x 132 -y 40")
      shows("P99/BURST", "RUNS AS")
      shell.run(tmux .. " resize-window -x 60 -y 10")
      shows("CHAIN / NF", "v ?: help")
   end)

   it("gives the terminal back", function()
      if there() ~= true then return end
      keys "q"
      shows "left with 0"
   end)
end)

describe("tideway top --once", function()
   it("shows a page, and refuses one that is not there; JSON carries the same", function()
      local dir = shell.directory()
      shell.write(dir .. "/once.lua", 'local tw = require "tideway"\n'
         .. 'tw.chain("main", tw.port("a", "net_ring0"), tw.nf.count {}, tw.port("b", "net_null0"))\n')
      local run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/once.lua"):format(dir,
         shell.binary, dir))
      local prefix = "env TIDEWAY_RUN_DIR=" .. dir .. "/run"
      local ok = run:says("ready:", 60)
      local data, value
      Lab.eventually(60, function() -- its first figures come a moment later
         data = shell.tideway("top --once --interval 0.1 --json", prefix)
         value = data.code == 0 and json.decode(data.out)
         return value and value.lcores[1].jit.heap and value.rates.chains[1].sample
      end)
      local page = shell.tideway("top --once --interval 0.1 --page chain/main", prefix)
      local none = shell.tideway("top --once --interval 0.1 --page chain/mian", prefix)
      run:stop()
      shell.remove(dir)
      assert.is_true(ok)
      has(page.out, "OF CHAIN", "count")
      assert.equal(1, none.code)
      has(none.err, "there is no chain/mian")
      assert.equal("a", value.chains[1].sources[1])
      assert.is_number(value.lcores[1].jit.heap)
      assert.is_number(value.rates.chains[1].sample.packets)
      assert.equal("count.totals", value.tables[1].name)
   end)
end)
