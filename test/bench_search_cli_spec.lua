-- SPDX-License-Identifier: BSD-3-Clause
-- Searches run by `tideway bench`: the examples, entries of the JSON, goals that are missed, Ctrl-C.

local json = require "tideway.json"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local SCRIPT = [[
local tw = require "tideway"
local bench = tw.bench
local source = bench.source("in", bench.packets { size = 64, stamp = true })
local sink = bench.sink "out"
tw.chain("dut", source, %s sink)
local path = bench.path { source = source, sink = sink, catch_up = 2, warm_up = false }
bench.search("found", %s)
]]

describe("searches", function()
   local dir
   before_each(function() dir = shell.directory() end)
   after_each(function() shell.remove(dir) end)

   local function bench(arguments)
      return shell.tideway("bench --no-huge --json " .. dir .. "/out.json " .. arguments,
         ("env TIDEWAY_RUN_DIR=%s/run"):format(dir))
   end

   local function script(nf, options)
      shell.write(dir .. "/script.lua", SCRIPT:format(nf, options))
      return dir .. "/script.lua"
   end

   -- The entries of the document by name.
   local function results()
      local entries = {}
      local document = assert(json.decode(posix.slurp(dir .. "/out.json")))
      for _, entry in ipairs(document.results) do entries[entry.name] = entry end
      return entries, document
   end

   it("of the example run: no NIC is needed", function()
      local result = bench "--only latency --seconds 0.2 examples/bench/10-throughput.lua 20000"
      assert.equal(0, result.code, result.err)
      local entry = results().latency
      assert.equal(3, #entry.series)
      assert.equal("10 % (2.000 kpps)", entry.series[1].name)
      assert(entry.series[1].count > 0 and #entry.series[1].cdf > 1)
   end)

   it("of the examples load", function()
      for _, name in ipairs { "10-throughput", "11-rfc2544", "12-scale" } do
         local result = bench("--list examples/bench/" .. name .. ".lua")
         assert.same({ 0, "" }, { result.code, result.err })
      end
   end)

   it("that miss their goal say so, and --check fails", function()
      local path = script('function(pkt) return pkt:drop "all" end,', "{ path = path, low = 1000, high = 10000, seconds = 0.05 }")
      local result = bench("--check " .. path)
      assert.equal(1, result.code)
      assert.matches("nothing arrived, not even at .*: it was dropped %(.+ of dut: all%)", (result.out:gsub("%s+", " ")))
      local entries = results()
      assert.equal("not met", entries.found.verdict)
      assert.is_false(entries.found.rows[1].met)
   end)

   it("end with what they have at Ctrl-C, and leave nothing behind", function()
      local path = script("", '{ method = "soak", path = path, rate = 1000, seconds = 60, interval = 0.1, stop = false }')
      local process = labs.spawn(("env TIDEWAY_RUN_DIR=%s/run %s bench --no-huge --json %s/out.json %s"):format(dir,
         shell.binary, dir, path))
      assert(process:says("0 lost", 60), process:read "err")
      assert.equal(1, process:stop("INT").code)
      local entries, document = results()
      assert.is_true(document.interrupted)
      assert(#entries.found.rows >= 1)
      assert.matches("^interrupted; before: ", entries.found.why[1])
      local sent = 0
      for _, each in ipairs(entries.found.intervals) do sent = sent + each.sent end
      assert(sent > 0)
      assert.equal("", shell.run("ls " .. dir .. "/run").out)
   end)
end)
