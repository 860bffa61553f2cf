-- SPDX-License-Identifier: BSD-3-Clause
-- Metrics: the text by an independent parser, the endpoint with real and with bad clients, the dashboard's names.

local ffi = require "ffi"
local json = require "tideway.json"
local Lab = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"
local exposition = require "tideway.metrics.exposition"
local address = require "tideway.metrics.address"

local root = require("tideway.abi").root:match "^(.*)/lua/?$" or "."

-- What python3-prometheus-client makes of a text: { name = { type, unit, help, samples = { { name, labels, value } } } }.
local PARSER = [[
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {}
for f in text_string_to_metric_families(open(sys.argv[1]).read()):
    families[f.name] = dict(type=f.type, unit=f.unit, help=f.documentation,
        samples=[dict(name=s.name, labels=s.labels, value=s.value) for s in f.samples])
json.dump(families, sys.stdout)
]]

local has_parser = shell.run("/usr/bin/python3 -c 'import prometheus_client.openmetrics.parser'").code == 0

local function parse(text)
   local dir = shell.directory()
   shell.write(dir .. "/metrics", text)
   shell.write(dir .. "/parse.py", PARSER)
   local r = shell.run(("/usr/bin/python3 %s/parse.py %s/metrics"):format(dir, dir))
   shell.remove(dir)
   assert(r.code == 0, r.err .. text)
   return json.decode(r.out)
end

local function value(families, family, labels)
   for _, s in ipairs(assert(families[family], family .. " is missing").samples) do
      local same = true
      for name, wanted in pairs(labels or {}) do same = same and s.labels[name] == wanted end
      if same then return s.value end
   end
end

describe("OpenMetrics text", function()
   it("escapes labels, and closes with # EOF", function()
      local text = exposition.new()
      text:family("gauge", "a_bytes", "bytes", "What it is.")
      text:sample(exposition.labels("name", 'x"\\\n\255'), 1.5)
      assert.equal('# TYPE a_bytes gauge\n# UNIT a_bytes bytes\n# HELP a_bytes What it is.\n'
         .. 'a_bytes{name="x\\"\\\\\\n?"} 1.5\n# EOF\n', text:finish())
   end)

   it("writes all digits of a counter", function()
      local text = exposition.new()
      text:family("counter", "a", nil, "What it is.")
      text:sample("", 9007199254740991)
      assert.is_truthy(text:finish():find("a_total 9007199254740991\n", 1, true))
   end)
end)

describe("address of the metrics", function()
   for text, part in pairs {
      ["0.0.0.0:9464"] = "only loopback is possible", ["10.0.0.1:9464"] = "only loopback is possible",
      ["[::]:9464"] = "only loopback is possible", [":9464"] = "only loopback is possible",
      ["example.org:80"] = "only loopback is possible", ["127.0.0.1"] = "is no address for metrics",
      ["127.0.0.999:1"] = "only loopback is possible", ["127.0.0.1:70000"] = "ports are 0 (any) to 65535",
      ["unix:relative"] = "begins with /",
   } do
      it("refuses " .. text, function()
         local parsed, err = address.parse(text)
         assert.is_nil(parsed)
         assert.is_truthy(err:find(part, 1, true), err)
      end)
   end

   it("is refused by tideway run before anything starts, with the reason", function()
      local r = shell.tideway "run --metrics 0.0.0.0:9464 examples/01-reflect.lua"
      assert.equal(2, r.code)
      assert.is_truthy(r.err:find("only loopback is possible", 1, true), r.err)
   end)
end)

-- ---- a running engine ----

local SCRIPT = [[
local tw = require "tideway"
local flows = tw.lru { name = "flows", key = "u32", value = "u64", entries = 1024 }
local odd = tw.nf("odd", function()
   return { packet = function(pkt)
      local ip = pkt:ipv4()
      if not ip then return pkt:drop "no_ip" end
      flows:add(ip.src, 1)
      if ip.ttl == 9 then return pkt:drop 'ttl' end
   end }
end)
local a, b = tw.port("a", "net_pcap0,rx_pcap=%s"), tw.port("b", "net_null0")
tw.chain("main", a, odd {}, tw.nf.count {}, b)
tw.options { idle = "sleep", tx_retries = 0 }
]]

local frame = require "test.support.frame"

local PACKETS = 8000

-- A capture of packets of which every second one is dropped.
local function capture(path)
   local function record(bytes)
      local head = ffi.new("uint32_t[4]", 0, 0, #bytes, #bytes)
      return ffi.string(head, 16) .. bytes
   end
   local head = ffi.new("uint32_t[6]", 0xa1b2c3d4, 0x00040002, 0, 0, 65535, 1)
   local a = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = 1 }, "x")
   local b = frame.udp4({}, { src = "10.0.0.3", dst = "10.0.0.2", ttl = 9 }, { sport = 9, dport = 1 }, "x")
   shell.write(path, ffi.string(head, 24) .. (record(a) .. record(b)):rep(PACKETS / 2))
end

describe("metrics of a running engine", function()
   local dir, run, url
   local function curl(options) return shell.run(("curl -sS -m 60 %s"):format(options)) end

   setup(function()
      dir = shell.directory()
      capture(dir .. "/in.pcap")
      shell.write(dir .. "/metered.lua", SCRIPT:format(dir .. "/in.pcap"))
      run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 --metrics 127.0.0.1:0 %s/metered.lua")
         :format(dir, shell.binary, dir))
      assert(run:says("ready:", 60), run:read "err")
      url = run:read("out"):match "metrics: (%S+)"
   end)
   teardown(function()
      if run then run:stop() end
      shell.remove(dir)
   end)

   it("are answered over HTTP/1.1 with their content type", function()
      local r = curl("-i " .. url)
      assert.equal(0, r.code, r.err)
      assert.is_truthy(r.out:find("^HTTP/1.1 200 OK\r\n"), r.out:sub(1, 200))
      assert.is_truthy(r.out:find("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8", 1, true))
      assert.equal("# EOF\n", r.out:sub(-6))
   end)

   it("are what an independent parser understands, with units, help and the right numbers", function()
      if not has_parser then return pending "python3-prometheus-client is missing (make deps)" end
      Lab.eventually(60, function()
         local text = curl(url).out
         return text:find('tideway_table_entries{table="flows",kind="lru"} 2', 1, true)
            and text:find(('tideway_port_transmit_packets_total{port="b"} %d\n'):format(PACKETS / 2), 1, true)
      end)
      local f = parse(curl(url).out)
      for name, family in pairs(f) do
         assert.is_truthy(#family.help > 10, name)
         assert.is_truthy(family.unit == "" or name:sub(-#family.unit) == family.unit, name)
      end
      assert.equal(PACKETS, value(f, "tideway_port_receive_packets", { port = "a" }))
      assert.equal(PACKETS, value(f, "tideway_chain_receive_packets", { chain = "main" }))
      assert.equal(PACKETS / 2,
         value(f, "tideway_chain_dropped_packets", { chain = "main", nf = "odd", reason = "ttl" }))
      assert.equal(PACKETS / 2, value(f, "tideway_nf_receive_packets", { chain = "main", nf = "count" }))
      assert.equal(PACKETS / 2, value(f, "tideway_port_transmit_packets", { port = "b" }))
      assert.equal(PACKETS / 2, value(f, "tideway_chain_port_sent_packets", { chain = "main", port = "b" }))
      assert.equal("counter", f.tideway_chain_dropped_packets.type)
      assert.equal("packets", f.tideway_chain_dropped_packets.unit)
      assert.equal(2, value(f, "tideway_table_entries", { table = "flows" }))
      assert.equal(1024, value(f, "tideway_table_capacity_entries", { table = "flows" }))
      local busy = value(f, "tideway_lcore_busy_ratio")
      assert.is_true(busy > 0 and busy <= 1)
      assert.is_true(value(f, "tideway_lua_heap_bytes") > 100000)
   end)

   it("have histograms of time and size whose buckets only rise, of one burst in 16", function()
      if not has_parser then return pending "python3-prometheus-client is missing (make deps)" end
      local f = parse(curl(url).out)
      for _, name in ipairs { "tideway_chain_burst_duration_seconds", "tideway_chain_burst_size_packets" } do
         assert.equal("histogram", f[name].type)
         local last, count, sum = 0, nil, nil
         for _, s in ipairs(f[name].samples) do
            if s.name == name .. "_bucket" then
               assert.is_true(s.value >= last)
               last = s.value
            elseif s.name == name .. "_count" then
               count = s.value
            else
               sum = s.value
            end
         end
         assert.equal(last, count)
         local bursts = value(f, "tideway_chain_bursts", { chain = "main" })
         assert.is_true(count > 0 and count <= bursts / 16 + 1)
         assert.is_true(sum > 0)
      end
   end)

   it("are the same on the command line", function()
      local r = shell.tideway("metrics metered", "TIDEWAY_RUN_DIR=" .. dir .. "/run")
      assert.equal(0, r.code, r.err)
      assert.is_truthy(r.out:find('tideway_port_receive_packets_total{port="a"} %d+'))
      assert.equal("# EOF\n", r.out:sub(-6))
      if has_parser then assert.is_table(parse(r.out).tideway_chain_burst_duration_seconds) end
   end)

   for request, status in pairs {
      ["GET /nothing HTTP/1.1\r\n\r\n"] = "404", ["POST /metrics HTTP/1.1\r\n\r\n"] = "405",
      ["GET /metrics HTTP/3.0\r\n\r\n"] = "505", ["hello\r\n\r\n"] = "400",
      ["GET / HTTP/1.1\r\n\r\n"] = "200", ["GET /metrics?x=1 HTTP/1.0\n\n"] = "200",
      ["GET /metrics HTTP/1.1\r\nX: " .. ("x"):rep(9000) .. "\r\n"] = "431",
   } do
      it(("answer %q with %s"):format(request:sub(1, 30), status), function()
         shell.write(dir .. "/request", request)
         local port = url:match ":(%d+)/"
         local r = shell.run(("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; cat %s/request >&3; timeout 60 cat <&3'")
            :format(port, dir))
         assert.equal("HTTP/1.1 " .. status, r.out:sub(1, 12))
      end)
   end

   it("do without the body for HEAD", function()
      local r = curl("-I " .. url)
      assert.is_truthy(r.out:find "Content%-Length: %d%d%d+\r\n")
      assert.is_nil(r.out:find("# TYPE", 1, true))
   end)

   it("are there for others while clients connect and say nothing; those are let go", function()
      local port = url:match ":(%d+)/"
      local mute = {}
      for i = 1, 20 do
         mute[i] = Lab.spawn(("timeout 100 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; printf GET >&3; cat <&3'"):format(port))
      end
      for _ = 1, 3 do assert.equal(0, curl(url .. " -o /dev/null").code) end
      local answered = 0
      for i = 1, 20 do
         assert.is_truthy(mute[i]:wait(60), "a mute client was kept")
         if mute[i]:read("out"):find("408 Request Timeout", 1, true) then answered = answered + 1 end
         mute[i]:stop()
      end
      -- Those that were there first had to make room.
      assert.is_true(answered >= 1 and answered <= 16)
   end)

   it("are made at most five times a second, however many ask", function()
      posix.poll({}, 250)
      local texts, different, last, start = 0, 0, nil, posix.now()
      for text in curl((url .. " "):rep(8)).out:gmatch "(.-)# EOF\n" do -- within some milliseconds
         texts = texts + 1
         if text ~= last then different = different + 1 end
         last = text
      end
      assert.equal(8, texts)
      assert.is_true(different <= 2 + (posix.now() - start) / 200e6, different .. " different texts")
      posix.poll({}, 250)
      assert.not_equal(last, (curl(url).out:gsub("# EOF\n$", "")))
   end)
end)

describe("metrics on a Unix socket", function()
   it("are answered, and the socket is gone afterwards", function()
      local dir = shell.directory()
      shell.write(dir .. "/s.lua", 'local tw = require "tideway"\ntw.options { metrics = "unix:' .. dir .. '/metrics" }\n'
         .. 'tw.chain("c", tw.port "net_null0", tw.nf.count {}, tw.port "net_null1")\n')
      local run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/s.lua"):format(dir,
         shell.binary, dir))
      assert.is_true(run:says("ready:", 60), run:read "err")
      local r = shell.run(("curl -sS -m 60 --unix-socket %s/metrics http://localhost/metrics"):format(dir))
      local result = run:stop()
      local left = posix.slurp(dir .. "/metrics") or require("lfs").attributes(dir .. "/metrics")
      shell.remove(dir)
      assert.equal("# EOF\n", r.out:sub(-6), r.err)
      assert.equal(0, result.code, result.err)
      assert.is_nil(left)
   end)
end)

describe("the Grafana dashboard", function()
   local PATH = root .. "/scripts/service/grafana-dashboard.json"

   -- Metric names in a PromQL expression: words that are no functions, keywords, labels or durations.
   local function names_in(expression)
      local names = {}
      local bare = expression:gsub("{[^}]*}", ""):gsub("%[[^%]]*%]", ""):gsub("by%s*%b()", ""):gsub('"[^"]*"', "")
      for name in bare:gmatch "[%a_:][%w_:]*" do
         if name:find "^tideway_" then names[#names + 1] = name end
      end
      return names
   end

   -- Labels that an expression sums by, or that its lines are named by. Those of the collector are not ours.
   local function labels_in(expression, legend)
      local names = {}
      for list in expression:gmatch "by%s*(%b())" do
         for name in list:gmatch "[%a_][%w_]*" do names[#names + 1] = name end
      end
      for name in (legend or ""):gmatch "{{%s*([%w_]+)%s*}}" do names[#names + 1] = name end
      return names
   end

   it("names only metrics and labels that there are", function()
      local dashboard = assert(json.decode(assert(posix.slurp(PATH), PATH)))
      local dir = shell.directory()
      shell.write(dir .. "/all.lua", SCRIPT:format(dir .. "/in.pcap"))
      capture(dir .. "/in.pcap")
      local run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 --metrics unix:%s/m %s/all.lua")
         :format(dir, shell.binary, dir, dir))
      assert.is_true(run:says("ready:", 60), run:read "err")
      posix.poll({}, 300)
      local text = shell.run(("curl -sS -m 60 --unix-socket %s/m http://localhost/metrics"):format(dir)).out
      run:stop()
      shell.remove(dir)
      local there, ids, checked = {}, {}, 0 -- labels by metric
      for line in text:gmatch "[^\n]+" do
         local name, labels = line:match "^([%w_]+)({?.*)"
         local family, kind = line:match "^# TYPE (%S+) (%S+)"
         if kind == "counter" then name, labels = family .. "_total", "" end
         if name then
            there[name] = there[name] or {}
            for label in labels:gmatch '([%w_]+)="' do there[name][label] = true end
         end
      end
      local function known(expression, where)
         local names = names_in(expression)
         assert.is_true(#names > 0, expression)
         for _, name in ipairs(names) do
            checked = checked + 1
            assert.is_true(there[name] ~= nil, name .. " in " .. where)
         end
         return names
      end
      for _, panel in ipairs(dashboard.panels) do
         assert.is_nil(ids[panel.id])
         ids[panel.id] = panel.gridPos.w > 0 and panel.gridPos.x + panel.gridPos.w <= 24
         assert.is_true(ids[panel.id] and #panel.targets > 0, panel.title)
         for _, target in ipairs(panel.targets) do
            local names = known(target.expr, panel.title)
            for _, label in ipairs(labels_in(target.expr, target.legendFormat)) do
               for _, name in ipairs(names) do
                  local has = next(there[name]) == nil or there[name][label] -- no sample: nothing of it happened yet
                  assert.is_truthy(has, ("label %s of %s in %s"):format(label, name, panel.title))
               end
            end
         end
      end
      for _, variable in ipairs(dashboard.templating.list) do
         if variable.type == "query" then known(variable.query.query, "variable " .. variable.name) end
      end
      assert.is_true(#ids >= 8 and checked >= 12)
   end)
end)
