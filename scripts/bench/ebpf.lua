-- SPDX-License-Identifier: BSD-3-Clause
-- Compiled NFs against clang, in the kernel: instructions, ns a packet, and how long compiling takes. Runs inside
-- the engine's binary, started by scripts/bench/run --only ebpf.

package.path = "scripts/bench/?.lua;" .. package.path
require("tideway.model").staged = false -- tables are the engine's at once
require("tideway.options").options { no_huge = true, memory_mb = 4096 }

local ffi = require "ffi"
local compiler = require "tideway.compiler"
local kernel_twin = require "test.support.kernel_twin"
local loader = require "tideway.bpf.load"
local packets = require "ebpf_packets"
local program = require "tideway.bpf.program"
local replay = require "replay"
local report = require "report"
local twin_pair = require "test.support.twin_pair"
local twins = require "test.support.twins"

ffi.cdef [[
void *tw_bench_program(const void *object, const char *name) __asm__("bpf_object__find_program_by_name");
size_t tw_bench_insns(const void *program) __asm__("bpf_program__insn_cnt");
]]

local MEAN, WORST = 1.0, 1.15 -- goals: geometric mean, and each NF
local COMPILE, CHAIN = 0.050, 0.200 -- seconds
local ABOUT_100_LINES = "vxlan"
local EIGHT = { "vlan", "ddos", "acl", "knock", "rate_limit", "nat44", "ttl", "ttl_router" }

local options = { rounds = 7, times = 200000 }
do
   local words, i = { ... }, 1
   while words[i] do
      local word, value = words[i], words[i + 1]
      if word == "--check" then
         options.check, i = true, i - 1
      elseif word == "--rounds" or word == "--times" then
         options[word:sub(3)] = tonumber(value)
      elseif word == "--nf" or word == "--json" then
         options[word:sub(3)] = value
      else
         error(("ebpf: cannot use '%s'; there are --rounds, --times, --nf, --json, --check"):format(word), 0)
      end
      i = i + 2
   end
end

local function geometric(list)
   local sum = 0
   for _, v in ipairs(list) do sum = sum + math.log(v) end
   return math.exp(sum / #list)
end

-- ---- one NF ----

-- What the two make of the frame must be the same, else there is nothing to compare.
local function same_work(pair, frame)
   local mine, out = pair:lua(frame)
   local its, c_out = pair:c(frame)
   assert(mine == its and out == c_out, pair.twin.name .. ": Lua and C give different packets; see test/twin_spec.lua")
   return out
end

local function prepare(pair, list)
   local places = {}
   for i, p in ipairs(list) do
      local frame = p[2]
      same_work(pair, frame)
      local out = same_work(pair, frame) -- once more: the first packet may add an entry
      places[i] = { name = p[1], lua = {}, c = {},
         replay = replay.new(frame, { changes = out ~= frame, resizes = #out ~= #frame and p.resizes or nil }) }
      assert(#out == #frame or p.resizes, pair.twin.name .. ": it resizes the packet, how is not said")
      local code, after = places[i].replay:run(pair.program.fd, 3)
      assert(code == pair:lua(frame) and after == out, pair.twin.name .. ": repeated runs do something else")
   end
   return places
end

-- One round: nothing, Lua, C; every second round the other way round.
local function measure(pair, place, round)
   local times, empty = options.times, place.replay:empty(options.times)
   local first, second = pair.program.fd, pair.kernel.fd
   if round % 2 == 0 then first, second = second, first end
   local _, _, a = place.replay:run(first, times)
   local _, _, b = place.replay:run(second, times)
   empty = math.min(empty, (place.replay:empty(times)))
   if round % 2 == 0 then a, b = b, a end
   place.lua[round], place.c[round] = math.max(a - empty, 0.1), math.max(b - empty, 0.1)
end

local function ratio_of(places, round)
   local lua, c = 0, 0
   for _, place in ipairs(places) do lua, c = lua + place.lua[round], c + place.c[round] end
   return lua / c
end

local function mean_of(places, which)
   local sum = 0
   for _, place in ipairs(places) do sum = sum + report.median(place[which]) end
   return sum / #places
end

local function result_of(pair, places)
   local ratios = {}
   for round = 1, options.rounds do ratios[round] = ratio_of(places, round) end
   local c_program = ffi.C.tw_bench_program(pair.kernel.object, "nf")
   local r = {
      name = pair.twin.name, insns = pair.compiled.object.count, c_insns = tonumber(ffi.C.tw_bench_insns(c_program)),
      jited = pair.program.jited, c_jited = program.info(pair.kernel.fd).jited, verified = pair.program.verified,
      c_verified = program.info(pair.kernel.fd).verified, ns = mean_of(places, "lua"), c_ns = mean_of(places, "c"),
      ns_ratio = report.median(ratios), low = math.min(unpack(ratios)), high = math.max(unpack(ratios)), packets = {},
   }
   r.insns_ratio = r.insns / r.c_insns
   for i, place in ipairs(places) do
      r.packets[i] = { name = place.name, ns = report.median(place.lua), c_ns = report.median(place.c) }
   end
   return r
end

local function measured(pair)
   local places = prepare(pair, assert(packets[pair.twin.name], pair.twin.name .. " has no packets"))
   for round = 1, options.rounds do
      for _, place in ipairs(places) do measure(pair, place, round) end
   end
   local result = result_of(pair, places)
   for _, place in ipairs(places) do place.replay:close() end
   pair:close()
   return result
end

-- ---- compile time ----

local function chain_of(names)
   local nfs = {}
   for i, name in ipairs(names) do nfs[i] = twins.make(twins.list[name]) end
   return nfs
end

local function wall()
   local t = ffi.new "struct tw_bench_time"
   ffi.C.tw_bench_clock(1, t)
   return tonumber(t.seconds) + tonumber(t.nanoseconds) * 1e-9
end

-- Seconds for source to loaded program: the first time in this process, and the median of those after it.
local function compile_time(label, names, goal)
   local seconds, compiling, first, program_of, insns = {}, {}, nil, nil, 0
   for i = 0, 5 do
      collectgarbage()
      local nfs = chain_of(names)
      local from = wall()
      local compiled, err = compiler.for_hook(label, nfs, "xdp", { counted = false, port = 0, ports = { [0] = 1 } })
      local compile, loaded = wall() - from, nil
      if compiled then loaded, err = loader.load(compiled) end
      local took = wall() - from
      for _, nf in ipairs(nfs) do twin_pair.free(nf) end
      if not loaded then return { name = label, why = tostring(err) } end
      program_of, insns = program.info(loaded.fd), compiled.object.count
      loaded:close()
      if i == 0 then first = took else seconds[i], compiling[i] = took, compile end
   end
   return { name = label, first = first, seconds = report.median(seconds), compile = report.median(compiling),
      verified = program_of.verified, insns = insns, goal = goal }
end

-- ---- report ----

local all_met = true
local function verdict(met)
   if not met then all_met = false end
   return met and "PASS" or "MISS"
end

local function print_table(results, refused)
   print(("\n%-11s %23s   %31s   %s"):format("", "instructions", "ns a packet", "verified insns, x86 bytes"))
   print(("%-11s %6s %6s %6s %4s  %7s %7s %6s %-13s %4s  %s"):format("NF", "Lua", "C", "ratio", "", "Lua", "C", "ratio",
      "(rounds)", "", "Lua / C"))
   for _, r in ipairs(results) do
      print(("%-11s %6d %6d %6.2f %4s  %7.1f %7.1f %6.2f (%.2f..%.2f)  %4s  %d / %d, %d / %d"):format(r.name, r.insns,
         r.c_insns, r.insns_ratio, verdict(r.insns_ratio <= WORST), r.ns, r.c_ns, r.ns_ratio, r.low, r.high,
         verdict(r.ns_ratio <= WORST), r.verified, r.c_verified, r.jited, r.c_jited))
   end
   for _, r in ipairs(refused) do
      print(("%-11s refused: %s  %s"):format(r.name, r.why:match "[^\n]+", verdict(false)))
   end
end

local function print_means(results)
   local insns, ns = {}, {}
   for i, r in ipairs(results) do insns[i], ns[i] = r.insns_ratio, r.ns_ratio end
   local means = { insns = geometric(insns), ns = geometric(ns) }
   print(("geometric mean of %d NFs: instructions %.3f %s, ns %.3f %s (goals: at most %.1f, no NF above %.2f)"):format(
      #results, means.insns, verdict(means.insns <= MEAN), means.ns, verdict(means.ns <= MEAN), MEAN, WORST))
   return means
end

local function print_times(times)
   print "\ncompile and load"
   for _, t in ipairs(times) do
      if t.why then
         print(("   %-22s refused: %s  %s"):format(t.name, t.why:match "[^\n]+", verdict(false)))
      else
         print(("   %-20s %6.1f ms, %.1f of them compiling; the first time in a process %6.1f ms  %s (goal: under %d "
            .. "ms); %d instructions, verified %d"):format(t.name, t.seconds * 1000, t.compile * 1000, t.first * 1000,
            verdict(t.first < t.goal), t.goal * 1000, t.insns, t.verified))
      end
   end
end

local function main()
   local why = kernel_twin.missing()
   if why then
      print("ebpf is skipped: " .. why)
      return 0
   end
   local times = { compile_time("NF of 122 lines", { ABOUT_100_LINES }, COMPILE),
      compile_time("chain of eight NFs", EIGHT, CHAIN) }
   local results, refused = {}, {}
   for _, twin in ipairs(twins.list) do
      if not options.nf or options.nf == twin.name then
         local pair, err = twin_pair.load(twin)
         if pair then
            results[#results + 1] = measured(pair)
         else
            refused[#refused + 1] = { name = twin.name, why = tostring(err) }
         end
      end
   end
   print_table(results, refused)
   local means = results[1] and print_means(results)
   print_times(times)
   if options.json then
      local file = assert(io.open(options.json, "w"))
      file:write(report.json { machine = report.machine(), rounds = options.rounds, times = options.times,
         nfs = results, refused = refused, means = means, compile = times }, "\n")
      file:close()
   end
   return all_met and 0 or options.check and 1 or 0
end

os.exit(main())
