-- SPDX-License-Identifier: BSD-3-Clause
-- A chain of NFs on an lcore, fused by the compiler, against the same NFs in C. Runs inside the engine's binary,
-- started by scripts/bench/run --only fuse; no ports: bursts come from memory, one that was filled at a time.

package.path = "scripts/bench/?.lua;" .. package.path
require("tideway.model").staged = false -- tables are the engine's at once
require("tideway.options").options { no_huge = true, memory_mb = 4096 }

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local chain_code = require "tideway.chain_code"
local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local lcore = require "tideway.compiler.back.lcore"
local nfs = require "fuse.nfs"
local report = require "report"
local tw = require "tideway"

local C = abi.C
local FRAME = 64
local NFS = { "parse", "firewall", "ttl", "nat", "mac" }
local GCC = "gcc -O3 -march=native -fwrapv -fno-strict-aliasing -shared -fPIC -Wall -Wextra -Werror -Icore -o %s %s"
local TIER1, TIER2, BY_HAND = 1.0, 1.5, 1.1 -- goals: against the separate functions, and against the one by hand
local GCC_SECONDS = 60

ffi.cdef [[
struct fuse_stage { struct tw_table *table; int32_t reasons[2]; uint8_t dst[6], src[6]; };
void fuse_separate(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages, uint32_t n,
   bool bulk);
void fuse_fused(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages);
void fuse_fused_bulk(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages);
void fuse_fill(struct tw_burst *burst, int32_t count, uint8_t *memory, const uint8_t *frames);
int tw_rcu_register(unsigned slot);
struct fuse_time { long seconds, nanoseconds; };
int fuse_clock(int clock, struct fuse_time *time) __asm__("clock_gettime");
]]

local options = { rounds = 7, packets = 1000000, burst = 64, flows = { 1024, 65536 } }
do
   local words, i = { ... }, 1
   while words[i] do
      local word, value = words[i], words[i + 1]
      if word == "--check" then
         options.check, i = true, i - 1
      elseif word == "--rounds" or word == "--packets" or word == "--burst" then
         options[word:sub(3)] = tonumber(value)
      elseif word == "--flows" then
         options.flows = { tonumber(value) }
      elseif word == "--json" then
         options.json = value
      else
         error(("fuse: cannot use '%s'; there are --rounds, --packets, --burst, --flows, --json, --check"):format(word),
            0)
      end
      i = i + 2
   end
end

-- ---- packets and tables ----

local function inside(i)
   return ("10.%d.%d.%d"):format(math.floor(i / 62500), math.floor(i / 250) % 250, i % 250 + 1)
end

local flows, frames -- their number, and a frame of each

local function make_frames(count)
   flows, frames = count, ffi.new("uint8_t[?]", count * FRAME)
   for i = 0, count - 1 do
      local build, data = i % 2 == 0 and frame.udp4 or frame.tcp4, ("\0"):rep(i % 2 == 0 and 18 or 6)
      ffi.copy(frames + i * FRAME, build({}, { src = inside(i), dst = ("192.0.2.%d"):format(i % 64 + 1) },
         { sport = 1024 + i % 60000, dport = 80, flags = 0x10 }, data))
   end
end

-- Where a flow's source is after k translations.
local function source(i, k)
   if k == 0 then return tw.ip4(inside(i)), 1024 + i % 60000 end
   return tw.ip4(("203.%d.%d.%d"):format(k, math.floor(i / 40000), i % 200 + 1)), 20000 + math.floor(i / 200) % 200
end

local MAKE, DROPS = {}, {
   parse = { "fuse_not_ipv4", "fuse_no_ports" }, firewall = { "fuse_martian", "fuse_denied" }, ttl = { "fuse_expired" },
}

function MAKE.nat(number, nats)
   local mappings = tw.hash { name = "fuse_nat" .. number, key = "u32 address; u16 port; u8 proto",
      value = "u32 address; u16 port", entries = flows * 2 }
   for i = 0, flows - 1 do
      local address, port = source(i, nats)
      mappings:set(address, port, i % 2 == 0 and 17 or 6, source(i, nats + 1))
   end
   return { mappings = mappings }, mappings
end

function MAKE.mac() return { dst = "02:00:00:00:00:fe", src = "02:00:00:00:00:01" } end

-- n NFs, and what the C functions get of each.
local function make(n)
   local list, stages, nats = {}, ffi.new("struct fuse_stage[?]", n), 0
   for i = 1, n do
      local name = NFS[(i - 1) % #NFS + 1]
      local config, t = {}, nil
      if MAKE[name] then config, t = MAKE[name](("%d_%d_%d"):format(flows, n, i), nats) end
      if name == "nat" then nats = nats + 1 end
      list[i] = nfs[name](config)
      local stage = stages[i - 1]
      if t then stage.table = t.table end
      for k, reason in ipairs(DROPS[name] or {}) do
         stage.reasons[k - 1] = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id(reason), 8))
      end
      ffi.copy(stage.dst, frame.mac "02:00:00:00:00:fe" .. frame.mac "02:00:00:00:00:01", 12)
   end
   return list, stages
end

-- ---- contenders: functions over `count` packets of the burst ----

local burst, memory = ffi.new "struct tw_burst", ffi.new("uint8_t[?]", 64 * 2304 + 64)
local kept = {} -- what machine code points to

local function by_gcc()
   local object = os.tmpname()
   assert(os.execute(GCC:format(object, "scripts/bench/fuse/chain.c")) == 0, "gcc refused chain.c")
   local library = ffi.load(object)
   os.remove(object)
   return library
end

local function segment_of(list, label)
   local found = compiler.for_lcore { name = label, stages = list }
   for _, segment in ipairs(found) do assert(segment.ir, tostring(segment.raw)) end
   local segment = lcore.segment(found[1].ir, 1, #list, #list)
   segment.index = 0
   return segment
end

local function native(segment)
   local text = lcore.c_text { segment }
   local job = C.tw_native_compile(text, #text)
   assert(job ~= nil, abi.error())
   local stop = os.time() + GCC_SECONDS
   local rc = C.tw_native_poll(job)
   while rc == 0 and os.time() < stop do
      C.tw_sleep_ms(10)
      rc = C.tw_native_poll(job)
   end
   assert(rc == 1, abi.error())
   local word = ffi.new "struct tw_native_word"
   assert(C.tw_native_publish(job, "segment_0", word) == 0, abi.error())
   return function(count) word.fn(burst, count) end
end

local function contenders_of(n, library)
   local list, stages = make(n)
   local segment = segment_of(list, "fuse" .. n)
   kept[#kept + 1] = { list, stages, segment }
   local c = {
      separate = function(count) library.fuse_separate(burst, count, stages, n, false) end,
      separate_bulk = function(count) library.fuse_separate(burst, count, stages, n, true) end,
      plain = chain_code.build({ name = "plain" .. n }, list, 0, burst),
      native = native(segment),
   }
   if segment.lua then
      c.luajit = chain_code.build({ name = "fused" .. n, segments = { segment } }, list, 0, burst)
   else
      c.why = segment.why
   end
   if n == #NFS then
      c.by_hand = function(count) library.fuse_fused(burst, count, stages) end
      c.by_hand_bulk = function(count) library.fuse_fused_bulk(burst, count, stages) end
   end
   return c
end

-- ---- measuring ----

local clock = ffi.new "struct fuse_time"

local function now()
   ffi.C.fuse_clock(3, clock) -- CPU time of the thread
   return tonumber(clock.seconds) * 1e9 + tonumber(clock.nanoseconds)
end

-- The alignment that packet buffers have.
local address = ffi.cast("uint64_t", ffi.cast("uintptr_t", memory))
local buffers = ffi.cast("uint8_t *", bit.band(address + 63, bit.bnot(63ULL)))

local function over_packets(library, packets, run)
   local at, size = 0, options.burst
   local from = now()
   for _ = 1, packets / size do
      library.fuse_fill(burst, size, buffers, frames + at * FRAME)
      run(size)
      at = (at + size) % flows
   end
   return (now() - from) / packets
end

local function nothing() end

-- Frames and verdicts after the first flows: what every contender must agree on.
local function outcome(library, run)
   local list = {}
   for at = 0, flows - options.burst, options.burst do
      library.fuse_fill(burst, options.burst, buffers, frames + at * FRAME)
      run(options.burst)
      for i = 0, options.burst - 1 do
         local pkt = burst.pkts[i]
         list[#list + 1] = ("%d %d %s"):format(pkt.verdict, pkt.out, frame.hex(ffi.string(pkt.data, pkt.len)))
      end
   end
   return table.concat(list, "\n")
end

local ORDER = { "separate", "separate_bulk", "by_hand", "by_hand_bulk", "luajit", "native", "plain" }

-- ns a packet of every contender, by round; every second round backwards.
local function measure(library, contenders, rounds)
   local names, ns = {}, {}
   for _, name in ipairs(ORDER) do
      if contenders[name] then
         names[#names + 1], ns[name] = name, {}
         assert(outcome(library, contenders[name]) == outcome(library, contenders.separate),
            name .. " gives other packets than the separate functions")
      end
   end
   for round = 0, rounds do
      for position = 1, #names do
         local name = names[round % 2 == 0 and position or #names + 1 - position]
         local fill = over_packets(library, options.packets / 4, nothing)
         local taken = over_packets(library, options.packets, contenders[name]) - fill
         if round > 0 then ns[name][round] = taken end -- round 0 warms up
      end
   end
   return ns
end

-- ---- report ----

local all_met = true

local function verdict(met)
   if not met then all_met = false end
   return met and "PASS" or "MISS"
end

local TITLES = {
   separate = "five C functions (gcc -O3)", separate_bulk = "the same, look-ups in bulk",
   by_hand = "fused by hand in C", by_hand_bulk = "the same, look-ups in bulk", luajit = "tier 1: fused, LuaJIT",
   native = "tier 2: fused, native", plain = "five Lua functions",
}

-- How many times as fast as another contender, round by round.
local function speed(ns, name, reference)
   local list = {}
   for round, taken in ipairs(ns[name] or {}) do list[round] = ns[reference][round] / taken end
   return list[1] and report.median(list), list
end

local function print_chain(ns)
   print(("\nfuse: parse, firewall, TTL, NAT, MAC over bursts of %d, %d flows"):format(options.burst, flows))
   print(("   %-28s %8s   %s"):format("", "ns/pkt", "speed against the five C functions (rounds)"))
   for _, name in ipairs(ORDER) do
      if ns[name] then
         local median, list = speed(ns, name, "separate")
         print(("   %-28s %8.1f   %.2f (%.2f..%.2f)"):format(TITLES[name], report.median(ns[name]), median,
            math.min(unpack(list)), math.max(unpack(list))))
      end
   end
   local goals = {
      { "tier 1 against the five", speed(ns, "luajit", "separate") or 0, TIER1 },
      { "tier 2 against the five", speed(ns, "native", "separate") or 0, TIER2 },
      { "tier 2 against C fused by hand", (speed(ns, "native", "by_hand")), 1 / BY_HAND },
   }
   for _, g in ipairs(goals) do
      print(("   %-32s %.2f times as fast, goal %.2f  %s"):format(g[1], g[2], g[3], verdict(g[2] >= g[3])))
   end
   return goals
end

local function print_growth(rows)
   print "\n   NFs   separate C   tier 1   tier 2   plain Lua      ns a packet; in brackets: for each NF more"
   local before
   for _, row in ipairs(rows) do
      local cells = { ("   %3d"):format(row.n) }
      for _, name in ipairs { "separate", "luajit", "native", "plain" } do
         local more = before and row[name] and before[name] and (row[name] - before[name]) / (row.n - before.n)
         cells[#cells + 1] = row[name] and ("%8.1f%s"):format(row[name], more and (" [%.1f]"):format(more) or "")
            or ("%8s"):format "-"
      end
      print(table.concat(cells, "  "))
      before = row
   end
end

local function main()
   jit.opt.start("maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000", "hotloop=28",
      "hotexit=6", "sizemcode=256", "loopunroll=100", "maxmcode=16384")
   local library = by_gcc()
   assert(ffi.C.tw_rcu_register(0) == 0, abi.error()) -- tables treat this thread as an lcore's from now on
   local chains = {}
   for i, count in ipairs(options.flows) do
      make_frames(count)
      local ns = measure(library, contenders_of(#NFS, library), options.rounds)
      chains[i] = { flows = count, ns = ns, goals = print_chain(ns) }
   end
   make_frames(options.flows[1])
   local rows = {}
   for _, n in ipairs { 1, 2, 4, 8, 12, 16 } do
      local row, taken = { n = n }, measure(library, contenders_of(n, library), math.min(3, options.rounds))
      for name, list in pairs(taken) do row[name] = report.median(list) end
      rows[#rows + 1] = row
   end
   print_growth(rows)
   if options.json then
      local file = assert(io.open(options.json, "w"))
      file:write(report.json { machine = report.machine(), burst = options.burst, rounds = options.rounds,
         chains = chains, growth = rows }, "\n")
      file:close()
   end
   return all_met and 0 or options.check and 1 or 0
end

os.exit(main())
