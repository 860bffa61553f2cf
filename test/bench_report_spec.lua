-- SPDX-License-Identifier: BSD-3-Clause
-- Reports of benchmarks: what tables, CSV, pictures and the page say is what the document has, whatever it has.

local csv = require "tideway.bench.report.csv"
local compare = require "tideway.bench.report.compare"
local document_lib = require "tideway.bench.report.document"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local json = require "tideway.json"
local page = require "tideway.bench.report.page"
local plot = require "tideway.bench.report.plot"
local report = require "tideway.bench.report"
local shell = require "test.shell"
local summary = require "tideway.bench.report.summary"
local table_report = require "tideway.bench.report.table"
local text = require "tideway.text"

-- A name that means something to shells, gnuplot, HTML, CSV and terminals.
local EVIL = [['q' %%d %%s "x" <script>alert(1)</script> `touch %s` $(touch %s) @x {\_} a,b & ]] .. "\27[31m\255"

local function group(more)
   local g = {
      kind = "group", name = "swap", title = "swap addresses", unit = "Mpps", better = "more", rounds = 3, seconds = 0.5,
      reference = "peer", base = "source", rows = {
         { name = "peer", note = "peer -l 1", values = { 50, 51, 49 }, median = 50, low = 49, high = 51, coverage = 0.75,
            spread = 0.02, verdict = "stable", ratio = { median = 1 }, extras = { ns = 20, cpu = 0.99 } },
         { name = "ours", values = { 40.22, 40.5, 41 }, median = 40.5, low = 40.22, high = 41, coverage = 0.75,
            spread = 0.0093, verdict = "stable", goal = 0.9, met = false,
            ratio = { median = 0.8123, low = 0.79, high = 0.83, verdict = "stable", values = { 0.8, 0.79, 0.83 } },
            net = { ns = { median = 3.25, low = 3, high = 3.5 } }, extras = { ns = 24.69, tier = "native" } },
         { name = "wild", values = { 30, 45, 36.125 }, median = 36.125, low = 30, high = 45, spread = 0.2, verdict = "unstable",
            why = { "steal time 4 % in 2 rounds", "the rounds spread by 20 %" } },
         { name = "absent", missing = "it is not installed: apt-get install absent" },
      },
   }
   for key, value in pairs(more or {}) do g[key] = value end
   return g
end

local function curve()
   local function points(factor)
      local list = {}
      for i, x in ipairs { 64, 128, 256, 1500 } do
         list[i] = { x = x, median = factor * (10 - i), low = factor * (9.9 - i), high = factor * (10.1 - i), verdict = "stable" }
      end
      return list
   end
   local c = {
      kind = "curve", name = "size", title = "sizes", x = { name = "frame size", unit = "B", log = true }, unit = "Mpps",
      better = "more", reference = "two", series = { { name = "one", points = points(1) }, { name = "two", points = points(2) },
         { name = "gone", missing = "no such thing", points = {} } },
   }
   c.series[1].points[2].verdict, c.series[1].points[2].why = "unstable", { "the clock changed" }
   for i, point in ipairs(c.series[1].points) do point.ratio = { median = 0.5 + i / 100, verdict = "stable" } end
   return c
end

local function latency()
   return {
      kind = "latency", name = "loop", title = "loop", unit = "ns", clock = "tsc", series = {
         { name = "ring", count = 1000, min = 810, mean = 1000, max = 42000, percentiles = { ["50"] = 980, ["99.9"] = 4321 },
            cdf = { { 810, 0.1 }, { 980, 0.5 }, { 4321, 0.999 }, { 42000, 1 } } },
         { name = "dead", count = 0 },
      },
   }
end

local function search()
   return {
      kind = "search", name = "ndr", title = "throughput", method = "binary", unit = "pps", columns = { "goal", "rate" },
      rows = { { "no loss", 23456789 } },
      trials = { { rate = 4e7, sent = 4e7, lost = 1e7, seconds = 1 }, { rate = 2e7, sent = 2e7, lost = 0, seconds = 1 } },
   }
end

local function document(results, more)
   local d = {
      tideway = "0.5", script = "bench/x.lua", command = "tideway bench --rounds 3 --only a,b --json o.json bench/x.lua 5",
      started = "2026-01-02T03:04:05Z", seconds = 12.5,
      environment = { cpu = "A CPU", cpus = 2, kernel = "6.1", virtual = true, load_before = 0.25 },
      results = results or { group(), curve(), search(), latency(),
         { kind = "table", name = "list", title = "a list", columns = { "what", "Mpps" }, rows = { { "fixed", 98.25 } } } },
   }
   for key, value in pairs(more or {}) do d[key] = value end
   return d
end

local function lines_of(d, width) return table.concat(table_report.lines(d, width), "\n") end

-- All parts, runs of blanks as one.
local function has(where, ...)
   local squeezed = where:gsub(" +", " ")
   for _, part in ipairs { ... } do
      assert.is_truthy(squeezed:find(part, 1, true), ("no %q in:\n%s"):format(part, where))
   end
end

local function hasnt(where, ...)
   for _, part in ipairs { ... } do
      assert.is_nil(where:find(part, 1, true), ("%q is in:\n%s"):format(part, where))
   end
end

describe("numbers for people", function()
   it("have three digits, and no more than a column needs", function()
      assert.same({ "0.810", "12.3", "123", "1234", "12,345", "1,234,567", "0", "-" }, {
         format.number(0.81), format.number(12.34), format.number(123.4), format.number(1234), format.number(12345),
         format.number(1234567.2), format.number(0), format.number(0 / 0) })
      assert.equal(2, format.decimals { 90.1, 4.25 })
      assert.equal(0, format.decimals { 1, 200 })
      assert.equal("-12,345.60", format.number(-12345.6, 2))
      assert.equal("0.00012", format.number(0.000123, 3))
   end)

   it("of shares, ratios and times", function()
      assert.same({ "0 %", "0.05 %", "1.2 %", "100 %" },
         { format.percent(0), format.percent(0.0005), format.percent(0.0123), format.percent(1) })
      assert.same({ "0.975", "12.35", "123.5" }, { format.ratio(0.975), format.ratio(12.346), format.ratio(123.46) })
      assert.same({ "0.5 s", "90 s", "8 min 20 s", "2 h 03 min" },
         { format.seconds(0.5), format.seconds(90), format.seconds(500), format.seconds(7420) })
   end)

   it("stand beside names that steer no terminal and are valid UTF-8", function()
      assert.equal("a b\\x1b[31m? ü?", format.name "a\n b\27[31m\255 ü\195")
      assert.equal("€ 𝄞 ??? ??", format.name "€ 𝄞 \237\160\128 \192\175")
   end)
end)

describe("tables", function()
   it("show medians, intervals, ratios, goals and what is left without the base", function()
      local out = lines_of(document { group() })
      has(out, "swap: swap addresses", "Mpps; more is better; 3 rounds of 0.5 s", "75 % INTERVAL SPREAD ratio to peer GOAL",
         "peer 50.0 49.0 .. 51.0 2.0 % reference", "ours 40.5 40.2 .. 41.0 0.93 % 0.812 (0.790 .. 0.830) >= 0.9: MISSED",
         "3.25 (3.00 .. 3.50)", "24.7", "native", "99 %", "1 goal missed: swap/ours", "A CPU, 2 CPUs, virtual: yes, Linux 6.1")
   end)

   it("have the word and the reason in place of a number", function()
      local out = lines_of(document { group() })
      has(out, "wild unstable: steal time 4 % in 2 rounds, the rounds spread by 20 %",
         "absent not measured: it is not installed: apt-get install absent", "1 verdict \"unstable\": swap/wild",
         "1 not measured: swap/absent")
      hasnt(out, "36.1", "45")
   end)

   it("keep a ratio that is stable while the rates are not", function()
      local g = group()
      g.rows[2].verdict, g.rows[2].why = "unstable", { "the clock changed" }
      local out = lines_of(document { g })
      has(out, "ours unstable 0.93 % 0.812 (0.790 .. 0.830)", "ours: unstable: the clock changed",
         "MISSED 3.25 (3.00 .. 3.50)", "ours unstable native")
      g.rows[2].net.ns.verdict = "unstable"
      has(lines_of(document { g }), ">= 0.9: MISSED unstable unstable")
      g.rows[2].ratio.verdict, g.rows[2].ratio.why, g.rows[2].undecided = "unstable", "so did it", "it is unstable"
      has(lines_of(document { g }), "ours unstable: the clock changed; goal >= 0.9: not decided")
      g.rows[2].verdict = "stable"
      has(lines_of(document { g }), "40.2 .. 41.0 0.93 % unstable >= 0.9: not decided", "ours: ratio unstable: so did it")
   end)

   it("say that less is better, and what a peer did before it died", function()
      local g = group { better = "less" }
      g.rows[2].met = true
      g.rows[1].missing = "pid 7 died"
      has(lines_of(document { g }), "<= 0.9: met", "peer failed after 3 rounds: pid 7 died")
   end)

   it("of one round have no interval", function()
      local g = group { rounds = 1, rows = { { name = "a", values = { 7.5 }, median = 7.5, low = 7.5, high = 7.5 } } }
      local out = lines_of(document { g })
      has(out, "1 round of 0.5 s: no interval", "a 7.50")
      hasnt(out, "7.50 ..", "INTERVAL", "SPREAD")
   end)

   it("of curves have a row for each x", function()
      local out = lines_of(document { curve() })
      has(out, "FRAME SIZE", "64 9.00 (8.90 .. 9.10) 18.0 (17.8 .. 18.2)", "128 unstable 16.0", "1500 6.00",
         "one at 128 B: unstable: the clock changed", "gone: not measured: no such thing", "1500 0.540")
   end)

   it("of few rounds say how sure an interval is", function()
      local c = curve()
      has(lines_of(document { c }), "median (95 % interval)")
      for _, point in ipairs(c.series[2].points) do point.values = { 1, 2, 3 } end
      has(lines_of(document { c }), "median (75 % interval)")
   end)

   it("of latencies name the clock and have the unit that suits", function()
      local out = lines_of(document { latency() })
      has(out, "clock: the CPU's time stamp counter", "50%", "99.9%", "ring 1000 810 1000 980 4321 42,000",
         "dead not measured: no packet with a stamp arrived")
      local slow = latency()
      slow.series[1].mean = 2e6
      has(lines_of(document { slow }), "MIN (us)", "ring 1000 0.810 2000 0.980 4.32 42")
   end)

   it("of searches and lists have the columns of the experiment", function()
      local out = lines_of(document { search(), { kind = "table", name = "t", columns = { { name = "n", unit = "B" }, "ok" },
         rows = { { n = 12345, ok = true }, { n = 1, ok = false } } } })
      has(out, "binary search; pps; 2 trials", "goal rate", "no loss 23,456,789", "n (B) ok", "12,345 yes", "1 no")
   end)

   it("of searches say whether the goal was met, also when they come from JSON", function()
      local s = search()
      s.verdict, s.why, s.columns = "not met", { "the sink loses", "and so on" }, { "goal", { name = "rate", unit = "pps" }, "x" }
      s.rows = { { "no loss", nil, 7, met = false }, { "half", 1234567, nil, met = true } }
      for _, d in ipairs { document { s }, (json.decode(json.encode(document { s }))) } do
         local out = lines_of(d)
         has(out, "goal rate (pps) x", "no loss 7", "half 1,234,567", "goal not met", "the sink loses\n", "and so on",
            "1 goal missed: ndr")
         assert.is_truthy(csv.text(d):find("half,,,rate,,1234567", 1, true))
      end
   end)

   it("fit the width, and lose nothing", function()
      local g = group()
      g.rows[2].name = ("verylongname"):rep(6)
      g.rows[3].why = { ("reason "):rep(40) }
      for _, width in ipairs { 100, 60, 40, 1 } do
         local d = document { g, curve(), latency(), search() }
         for _, line in ipairs(table_report.lines(d, width)) do
            assert.is_true(text.width(line) <= math.max(40, width), ("%d: %s"):format(width, line))
         end
         has(lines_of(d, width), "40.5", "0.812", "3.25", "native", "4321")
      end
   end)

   it("say what failed, what was interrupted, and when there is nothing", function()
      local broken = { kind = "curve", name = "b", rows = {}, error = "x.lua:1: oops" }
      has(lines_of(document { broken }), "failed: x.lua:1: oops", "1 experiment failed: b")
      has(lines_of(document({ group { interrupted = true }, { kind = "group", name = "c", rows = {}, error = "interrupted",
         interrupted = true } }, { interrupted = true })), "interrupted; what was measured until then is here",
         "interrupted: less was measured than asked for")
      has(lines_of(document {}), "0 experiments", "no experiment was run")
      has(lines_of(document { group { rows = {} } }), "nothing was measured")
      has(lines_of { results = {} }, "bench ?: 0 experiments")
   end)
end)

describe("a document that is none", function()
   local function refused(results, ...)
      local ok, err = document_lib.check(document(results))
      assert.is_nil(ok)
      has(err, ...)
   end

   it("is refused with the place and the value", function()
      has(select(2, document_lib.check "x"), "no result document")
      has(select(2, document_lib.check { results = 5 }), "no list `results`")
      refused({ { kind = "pie", name = "p" } }, "results[1] (p)", '"pie"', "group, curve, search, latency, table")
      refused({ { kind = "group" } }, "results[1]: it has no name")
      refused({ group { rows = { { name = "a", median = "fast" } } } }, "results[1] (swap).rows[1].median: a number", '"fast"')
      refused({ group { rows = { { name = "a", values = { 1, "2" } } } } }, "rows[1].values")
      refused({ { kind = "curve", name = "c", x = {}, series = { { name = "s", points = { { median = 1 } } } } } },
         "series[1].points[1].x")
      assert.has_error(function() table_report.lines { results = { {} } } end)
      assert.is_nil((page.write({}, "/tmp/never.html")))
   end)

   it("takes nothing from other results when one is wrong", function()
      local d = document { group(), { kind = "pie", name = "p" }, { kind = "group", name = "q", rows = "none" } }
      has(lines_of(d), "peer 50", 'failed: it cannot be shown: p: its kind "pie" is unknown',
         'failed: it cannot be shown: q.rows: a list is expected, it is "none"', "2 experiments failed: p, q")
      has(page.html(d), "<h2>p</h2>", "40.5")
      has(csv.text(d), "p,pie,,,,error", "ours,,,value,1,40.22")
      assert.is_nil(plot.of(d.results[2]))
   end)

   it("may lack what is optional", function()
      local d = { results = {
         { kind = "group", name = "g", rows = { { name = "a", median = 1 } } },
         { kind = "curve", name = "c", x = {}, series = { { name = "s", points = { { x = 1, median = 2 } } } } },
         { kind = "latency", name = "l", series = { { name = "s", count = 3 } } },
         { kind = "search", name = "s", columns = { "a" }, rows = { {} } },
      } }
      has(lines_of(d), "a 1", "everything was measured")
      has(page.html(d), "<h2>g</h2>")
      assert.is_truthy(#csv.text(d) > 100)
      for _, result in ipairs(d.results) do plot.of(result) end
   end)
end)

-- Fields of a CSV text, by RFC 4180.
local function parse_csv(s)
   local rows, row, at = {}, {}, 1
   while at <= #s do
      local value, stop
      if s:sub(at, at) == '"' then
         value, at = "", at + 1
         repeat
            local from, to = s:find('"', at, true)
            value, at = value .. s:sub(at, from - 1), to + 1
            if s:sub(at, at) ~= '"' then break end
            value, at = value .. '"', at + 1
         until false
         stop = s:match("^,", at) or s:match("^\r\n", at)
      else
         value, stop = s:match("^([^,\r\n\"]*)(,)", at)
         if not value then value, stop = s:match("^([^,\r\n\"]*)(\r\n)", at) end
         at = at + #value
      end
      row[#row + 1], at = value, at + #stop
      if stop ~= "," then rows[#rows + 1], row = row, {} end
   end
   local head, records = table.remove(rows, 1), {}
   for n, fields in ipairs(rows) do
      assert.equal(#head, #fields)
      records[n] = {}
      for i, name in ipairs(head) do records[n][name] = fields[i] end
   end
   return records
end

describe("CSV", function()
   local function find(records, wanted)
      local list = {}
      for _, r in ipairs(records) do
         local fits = true
         for key, value in pairs(wanted) do fits = fits and r[key] == value end
         if fits then list[#list + 1] = r.value end
      end
      return list
   end

   it("has every value, raw and derived", function()
      local records = parse_csv(csv.text(document()))
      assert.same({ "40.22", "40.5", "41" }, find(records, { contender = "ours", quantity = "value", unit = "Mpps" }))
      assert.same({ "0.8123" }, find(records, { contender = "ours", quantity = "ratio_median" }))
      assert.same({ "3.25" }, find(records, { contender = "ours", quantity = "net_median", unit = "ns" }))
      assert.same({ "0.9" }, find(records, { contender = "ours", quantity = "goal", note = "missed" }))
      assert.same({ "36.125" }, find(records, { contender = "wild", quantity = "median", verdict = "unstable" }))
      assert.same({ "8" }, find(records, { experiment = "size", contender = "one", x = "128", x_unit = "B", quantity = "median" }))
      assert.same({ "4321" }, find(records, { contender = "ring", quantity = "p99.9", unit = "ns", note = "clock tsc" }))
      assert.same({ "0.999" }, find(records, { quantity = "cdf", x = "4321" }))
      assert.same({ "10000000", "0" }, find(records, { quantity = "trial_lost" }))
      assert.same({ "98.25" }, find(records, { experiment = "list", contender = "fixed", quantity = "Mpps" }))
   end)

   it("keeps what has commas, quotes and lines in one field", function()
      local name = 'a "b", c\nd'
      local records = parse_csv(csv.text(document { group { rows = { { name = name, median = 1, missing = "x, y" } } } }))
      assert.same({ "1" }, find(records, { contender = name, quantity = "median" }))
      assert.same({ "" }, find(records, { contender = name, quantity = "missing", note = "x, y" }))
      for _, odd in ipairs { 'q"r', "x\ny", " x ", "z" } do
         assert.same({ "1" }, find(parse_csv(csv.text(document { group { rows = { { name = odd, median = 1 } } } })),
            { contender = odd, quantity = "median" }))
      end
      local failed = csv.text(document { { kind = "group", name = "g", error = "oops, no", rows = {} } })
      has(failed, 'g,group,,,,error,,,,,"oops, no"\r\n')
   end)
end)

-- As XML, which forgives nothing.
local no_xmllint = not shell.has "xmllint" and "xmllint is not installed: apt-get install -y libxml2-utils" or nil
local no_gnuplot = select(2, gnuplot.available())

local function well_formed(path)
   local r = shell.run("xmllint --noout " .. shell.quote(path))
   assert.equal(0, r.code, r.err)
end

describe("the page", function()
   local dir
   before_each(function() dir = shell.directory() end)
   after_each(function() shell.remove(dir) end)

   local function written(d, name)
      local path = ("%s/%s.html"):format(dir, name or "out")
      local ok, files = page.write(d, path)
      assert.is_true(ok, files)
      return io.open(path):read "*a", path, files
   end

   it("has the numbers, the reasons, the machine, the raw values and the commands", function()
      local html = page.html(document())
      has(html, "<td class=\"number\">40.5</td>", "0.812 (0.790 .. 0.830)", '<strong class="mark">MISSED</strong>',
         '<strong class="mark">unstable</strong>: steal time 4 %', "A CPU", "load before", "peer -l 1",
         "<summary>Values of all rounds</summary>", "36.1", "<summary>All 2 trials</summary>",
         "tideway bench --only swap --rounds 3 bench/x.lua 5")
      hasnt(html, "src=", "<script", "@import")
      assert.is_nil(html:match 'href="https?:')
   end)

   it("takes names as texts, and nothing in them as anything else", function()
      local bait = dir .. "/bait"
      local name = EVIL:format(bait, bait)
      local g, c, l = group(), curve(), latency()
      g.rows[1].name, g.rows[1].note, g.reference, g.title = name, name, name, name
      g.name, g.rows[3].why, g.rows[4].missing = name, { name }, name
      c.series[1].name, c.x.name, c.unit = name, name, name
      l.series[1].name = name
      local html, path = written(document({ g, c, l }, { script = name, command = name, environment = { [name] = name } }))
      hasnt(html, "<script", "\27", "\255")
      has(html, "&lt;script&gt;", "touch " .. bait)
      assert.is_nil(io.open(bait))
      if not no_gnuplot then
         hasnt(html, "is missing:")
         has(html, [[<text>'q' %d %s "x" &lt;script]])
      end
      if not no_xmllint then well_formed(path) end
      for _, line in ipairs(table_report.lines(document { g, c, l })) do hasnt(line, "\27", "\255") end
   end)

   it("is well-formed, with an id of its own for everything", function()
      if no_xmllint then return pending(no_xmllint) end
      local html, path = written(document { group(), group { name = "Swap!" }, group { name = "swap" }, curve(), search(), latency() })
      well_formed(path)
      local seen = {}
      for id in html:gmatch "%sid=['\"]([^'\"]+)" do
         assert.is_nil(seen[id], id)
         seen[id] = true
      end
      assert.is_truthy(seen.swap and seen["swap-2"] and seen["swap-3"])
      for id in html:gmatch "href=['\"]#([^'\"]+)" do assert.is_true(seen[id], id) end
   end)

   it("has a picture of each result that has something to draw, and its PNG beside it", function()
      if no_gnuplot then return pending(no_gnuplot) end
      local html, _, files = written(document(), "a b")
      local _, count = html:gsub("<svg ", "")
      assert.equal(4, count)
      local names = {}
      for i = 2, #files do
         names[i - 1] = files[i]:match "[^/]*$"
         assert.equal("\137PNG\r\n\26\n", io.open(files[i], "rb"):read(8))
      end
      assert.same({ "a b-swap.png", "a b-size.png", "a b-ndr.png", "a b-loop.png" }, names)
      has(html, 'href="a%20b-swap.png"', ">ours</text>", "unstable: steal time 4 %", ">frame size (B), logarithmic</text>")
      hasnt(html, "'black'", '"black"', "Gnuplot")
   end)

   it("names all contenders in the key of a picture, however many and long", function()
      if no_gnuplot then return pending(no_gnuplot) end
      for _, letters in ipairs { 3, 20, 40, 80 } do
         local c = curve()
         c.series = {}
         for i = 1, 9 do
            c.series[i] = { name = i .. ("w"):rep(letters), points = { { x = 1, median = i }, { x = 2, median = i } } }
         end
         local svg = assert(gnuplot.draw(plot.of(c), "t")).svg
         for _, s in ipairs(c.series) do has(svg, ">" .. s.name .. "</text>") end
      end
   end)

   it("draws ratios where these are stable and the rates are not", function()
      if no_gnuplot then return pending(no_gnuplot) end
      local g = group()
      assert.is_truthy(gnuplot.draw(plot.of(g), "t").svg:find(">40.5 (x 0.812)</text>", 1, true))
      g.rows[2].verdict, g.rows[2].why = "unstable", { "steal time" }
      local svg = gnuplot.draw(plot.of(g), "t").svg
      has(svg, ">0.812</text>", ">1.000</text>", ">ratio to peer, more is better</text>")
      hasnt(svg, "steal time")
      local c = curve()
      has(gnuplot.draw(plot.of(c), "t").svg, ">median (Mpps), more is better</text>")
      for _, point in ipairs(c.series[1].points) do point.verdict = "unstable" end
      has(gnuplot.draw(plot.of(c), "t").svg, ">ratio to two, more is better</text>")
   end)

   it("draws a soak over its time", function()
      if no_gnuplot then return pending(no_gnuplot) end
      local s = search()
      s.method, s.trials, s.columns = "soak", nil, { { name = "latency", title = "latency at 99 %" } }
      s.intervals = { { at = 1, sent = 10, lost = 0, latency = 5e3, longest = 7e3 }, { at = 2, sent = 10, lost = 1, latency = 6e3 } }
      local svg = assert(gnuplot.draw(plot.of(s), "t")).svg
      has(svg, ">latency at 99 %</text>", ">longest</text>", ">latency (ns), logarithmic</text>", ">lost (%)</text>", ">time (s)</text>")
      s.intervals = { { at = 1, sent = 10, lost = 0 } }
      assert.is_nil(plot.of(s))
   end)

   it("of nothing, of one round, of what was interrupted is a page as well", function()
      local one = { name = "a", values = { 7.5 }, median = 7.5, low = 7.5, high = 7.5, verdict = "stable" }
      local nothing = { name = "b", missing = "gone" }
      for name, d in pairs {
         empty = document {}, one = document { group { rounds = 1, rows = { one } } },
         none = document { group { rows = {} }, group { name = "n", rows = { nothing } } },
         zero = document { group { rows = { { name = "z", median = 0, low = 0, high = 0, values = { 0 } } } } },
         point = document { { kind = "curve", name = "c", x = { log = true }, series = { { name = "s", points = { { x = 0, median = 1 } } } } } },
         broken = document({ { kind = "latency", name = "l", error = "oops", rows = {} } }, { interrupted = true }),
         bare = { results = {} },
      } do
         local html, path = written(d, name)
         has(html, "</html>")
         if not no_gnuplot then hasnt(html, "is missing:") end
         if not no_xmllint then well_formed(path) end
      end
      has(page.html(document({}, { interrupted = true })), '<strong class="mark">interrupted</strong>')
   end)

   it("says which pictures are missing without gnuplot, and what to type", function()
      shell.write(dir .. "/r.json", json.encode(document()))
      local r = shell.tideway(("bench report %s/r.json --html %s/r.html"):format(dir, dir), "PATH=" .. dir)
      assert.equal(0, r.code, r.err)
      has(r.err, "4 pictures are missing", gnuplot.INSTALL)
      local html = io.open(dir .. "/r.html"):read "*a"
      has(html, "The picture of swap is missing: gnuplot", gnuplot.INSTALL, "The picture of loop is missing")
      hasnt(html, "<svg", ".png")
   end)

   it("that cannot be written is an error that names the file", function()
      local ok, err = page.write(document {}, dir .. "/no/such/place.html")
      assert.is_nil(ok)
      has(err, "cannot write", dir .. "/no/such/place.html")
   end)
end)

describe("a rerun", function()
   it("is the command with this experiment only, and no files", function()
      local d = document()
      assert.equal("tideway bench --only swap --rounds 3 bench/x.lua 5", summary.rerun(d, { name = "swap" }))
      assert.equal("tideway bench --only 'a b' x.lua", summary.rerun({ command = "tideway bench x.lua" }, { name = "a b" }))
      assert.equal("tideway bench --only a x.lua", summary.rerun({ command = "tideway bench --html 'a b.html' --csv=o x.lua" },
         { name = "a" }))
      assert.equal("tideway bench --only a x.lua", summary.rerun({ script = "x.lua" }, { name = "a" }))
      assert.equal("wrk -c 1", summary.rerun(d, { name = "a", command = "wrk -c 1" }))
      assert.is_nil(summary.rerun({}, { name = "a" }))
   end)
end)

describe("a comparison", function()
   it("shows each row with its change, or why there is none", function()
      local lines = table.concat(compare.lines({
         { group = "swap", name = "ours", verdict = "slower", ratio = 0.9, low = 0.88, high = 0.91, to = "peer", margin = 0.03 },
         { group = "swap", name = "peer", verdict = "same", ratio = 1.012, low = 0.99, high = 1.03, margin = 0.042 },
         { group = "swap", name = "gone", verdict = "missing", why = "after: not installed" },
      }, { "kernel was 6.1, is 6.2" }), "\n")
      has(lines, "swap/ours slower -10.0 % -12.0 % .. -9.0 % 3.0 % peer", "swap/peer same +1.2 % -1.0 % .. +3.0 % 4.2 %",
         "swap/gone missing: after: not installed", "note: kernel was 6.1, is 6.2",
         "3 rows: 0 faster, 1 slower, 1 the same beyond noise, 1 not told")
   end)
end)

describe("tideway bench report", function()
   local dir
   before_each(function() dir = shell.directory() end)
   after_each(function() shell.remove(dir) end)

   it("prints the tables of a result, or writes what is asked for", function()
      shell.write(dir .. "/r.json", json.encode(document()))
      local r = shell.tideway(("bench report %s/r.json"):format(dir))
      assert.equal(0, r.code, r.err)
      assert.equal(lines_of(document()), (r.out:gsub("\n$", "")))
      r = shell.tideway(("bench --csv %s/r.csv report %s/r.json --html=%s/r.html"):format(dir, dir, dir))
      assert.equal(0, r.code, r.err)
      has(r.out, dir .. "/r.csv\n", dir .. "/r.html\n")
      assert.equal(csv.text(document()), io.open(dir .. "/r.csv"):read "*a")
   end)

   it("writes CSV and PNG files alone", function()
      if no_gnuplot then return pending(no_gnuplot) end
      local files = assert(report.write(document(), { csv = dir .. "/o.csv", png = dir .. "/p" }))
      assert.same({ "/o.csv", "/p-swap.png", "/p-size.png", "/p-ndr.png", "/p-loop.png" },
         { files[1]:sub(#dir + 1), files[2]:sub(#dir + 1), files[3]:sub(#dir + 1), files[4]:sub(#dir + 1), files[5]:sub(#dir + 1) })
   end)

   it("refuses what is no result, in a sentence", function()
      shell.write(dir .. "/x.json", '{"results": [{"kind": "group", "name": "g"}], "tideway": "0"}')
      shell.write(dir .. "/y.json", "nonsense")
      for arguments, said in pairs {
         [""] = "the result is missing", ["a b"] = "cannot use 'b'", ["--html"] = "--html needs the name of a file",
         ["/nowhere.json"] = "cannot read /nowhere.json", [dir .. "/y.json"] = "no JSON",
         [dir .. "/x.json"] = "results[1] (g).rows: a list is expected",
      } do
         local r = shell.tideway("bench report " .. arguments)
         assert.equal(2, r.code)
         has(r.err, said)
      end
   end)
end)
