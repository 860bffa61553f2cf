-- SPDX-License-Identifier: BSD-3-Clause
-- Traffic of sources at real hosts, over veth: pings and DNS queries are answered, TCP connections of tcp_client are
-- served by nginx, and clients of the kernel are served by tcp_server.

local json = require "tideway.json"
local labs = require "test.support.lab"
local services = require "test.support.services"
local shell = require "test.shell"

local OURS, OUR_MAC = "10.0.0.9", "02:00:00:00:00:01"

-- What scripts begin with: the port to the host, and how a source meets it.
local HEAD = [[
local tw = require "tideway"
local bench = tw.bench
local mac = ...
local wan = tw.port("wan", "net_af_packet1,iface=tw-wan")
local eth, ipv4 = { src = "02:00:00:00:00:01", dst = mac }, { src = "10.0.0.9", dst = "10.0.0.3" }
local function finish(counts, n, seconds)
   return function()
      local waited = 0
      repeat
         bench.sleep(0.05)
         waited = waited + 0.05
      until waited > seconds or counts().done >= n
      bench.sleep(0.2)
      local rows = {}
      for name, value in pairs(counts()) do rows[#rows + 1] = { name, value } end
      return { columns = { { name = "name" }, { name = "count" } }, rows = rows }
   end
end
]]

local ANSWERS = [[
local totals = tw.counters { name = "answers", names = { "done", "other" } }
local function counts()
   local out = {}
   for name, n in totals:pairs() do out[name] = tonumber(n) end
   return out
end
]]

local PINGS = HEAD .. ANSWERS .. [[
local source = bench.source(bench.presets.icmp_echo { eth = eth, ipv4 = ipv4 })
tw.chain("out", source, wan)
tw.chain("in", wan, function(pkt)
   local icmp = pkt:icmp()
   if not icmp then return pkt:drop "other" end
   totals:add((icmp.type == 0 and icmp.id == 1 and pkt:valid_l4_checksum()) and 0 or 1, 1)
   return pkt:drop "answer"
end)
local done = finish(counts, 500, 60)
bench.experiment { kind = "table", name = "counts", run = function()
   source:start { rate = 5000, count = 500 }
   return done()
end }
]]

local QUERIES = HEAD .. ANSWERS .. [[
local source = bench.source(bench.presets.dns_queries {
   eth = eth, ipv4 = ipv4, dns = { name = "www.tideway.example" },
})
tw.chain("out", source, wan)
tw.chain("in", wan, function(pkt)
   local udp = pkt:udp()
   if not udp or udp.src_port ~= 53 then return pkt:drop "other" end
   local at = pkt:payload_offset()
   if not at then return pkt:drop "other" end
   local questions, answers = pkt:u16(at + 4), pkt:u16(at + 6) -- one of each
   totals:add((questions == 1 and answers == 1) and 0 or 1, 1)
   return pkt:drop "answer"
end)
local done = finish(counts, 300, 60)
bench.experiment { kind = "table", name = "counts", run = function()
   source:start { rate = 400, count = 300 } -- a socket holds some two hundred while dnsmasq does not run
   return done()
end }
]]

local CLIENT = HEAD .. [[
local syns = bench.source(bench.packets {
   eth = eth, flows = 200, ipv4 = ipv4, tcp = { src = bench.flow(32768, 65535), dst = 80, flags = "syn", mss = 1460 },
})
local client = bench.tcp_client { port = 80 }
tw.chain("client", { syns, wan }, client, wan)
local done = finish(function()
   local counts = client.counts()
   counts.done = counts.closed
   return counts
end, 200, 60)
bench.experiment { kind = "table", name = "counts", run = function()
   syns:start { rate = 1000, count = 200 }
   return done()
end }
]]

local SERVER = HEAD .. [[
local server = bench.tcp_server { response = 10000, port = 80 }
tw.chain("server", wan, server, wan)
local done = finish(function()
   local counts = server.counts()
   counts.done = counts.closed
   return counts
end, 5, 60)
bench.experiment { kind = "table", name = "counts", run = done }
]]

describe("traffic of sources, at real hosts:", function()
   local lab, mac
   local why = labs.missing(unpack(services.PROGRAMS))

   setup(function()
      if why then return end
      lab = labs.up { mode = "l2" }
      services.start(lab)
      mac = lab:run("server", "cat /sys/class/net/eth0/address").out:match "%S+"
      local r = lab:run("server", ("ip neigh replace %s lladdr %s dev eth0 nud permanent"):format(OURS, OUR_MAC))
      assert(r.code == 0, r.err)
   end)
   teardown(function() if lab then lab:down() end end)

   -- A script as a benchmark that runs, to its end when nothing is to be done meanwhile.
   local function bench(text)
      local script = lab.files .. "/script.lua"
      shell.write(script, text)
      return lab:spawn("dut", ("env TIDEWAY_RUN_DIR=%s %s bench --json - %s %s"):format(lab.run_dir, shell.binary, script,
         mac))
   end

   local function counts_of(process)
      assert(process:wait(100) == 0, process:read "err")
      local counts = {}
      for _, row in ipairs(json.decode(process:read "out").results[1].rows) do counts[row[1]] = row[2] end
      assert.same({}, lab:left_by(process.pid))
      return counts
   end

   it("pings are answered", function()
      if why then return pending(why) end
      assert.same({ done = 500, other = 0 }, counts_of(bench(PINGS)))
   end)

   it("DNS queries are answered", function()
      if why then return pending(why) end
      assert.same({ done = 300, other = 0 }, counts_of(bench(QUERIES)))
   end)

   it("connections of tcp_client are served by nginx", function()
      if why then return pending(why) end
      local counts = counts_of(bench(CLIENT))
      for _, name in ipairs { "started", "established", "requests", "closed" } do
         assert.equal(200, counts[name], name)
      end
      assert.equal(0, counts.resets)
      local states = lab:run("server", "ss -Htan dst " .. OURS).out
      assert.is_nil(states:find "ESTAB", states)
   end)

   it("clients of the kernel are served by tcp_server", function()
      if why then return pending(why) end
      local process = bench(SERVER)
      local client = ("exec 3<>/dev/tcp/%s/80 && printf %%0100d 0 >&3 && head -c 10000 <&3 | wc -c"):format(OURS)
      -- The first one knocks until the chain runs.
      assert.is_truthy(labs.eventually(60, function()
         return lab:run("server", ("bash -c %s"):format(shell.quote(client))).out:match "^10000\n"
      end), process:read "err")
      for _ = 2, 5 do
         assert.equal("10000\n", lab:run("server", ("bash -c %s"):format(shell.quote(client))).out)
      end
      local counts = counts_of(process)
      assert.equal(5, counts.closed)
      assert.equal(5, counts.requests)
      assert.equal(5, counts.responses)
      assert.equal(0, counts.resets)
      assert.is_nil(lab:run("server", ("ss -Htan dst %s"):format(OURS)).out:find "ESTAB")
   end)
end)
