-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: a chain of NFs on an lcore, fused by the compiler, against the same NFs in C. No ports: bursts come from
-- memory, one that was filled at a time, in the control thread.

local lfs = require "lfs"
local input = require "input"
package.path = input.root .. "/?.lua;" .. package.path
local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local bench = require "tideway".bench
local chain_code = require "tideway.chain_code"
local clock = require "tideway.posix.clock"
local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local lcore = require "tideway.compiler.back.lcore"
local model = require "tideway.model"
local nfs = require "fuse.nfs"
local posix = require "tideway.posix"
local tw = require "tideway"

local C = abi.C
local FRAME, BURST, PACKETS = 64, 64, 500000
local NFS = { "parse", "firewall", "ttl", "nat", "mac" }
local GCC = "gcc -O3 -march=native -fwrapv -fno-strict-aliasing -shared -fPIC -Wall -Wextra -Werror -Icore -o %s %s"
local GCC_SECONDS = 60
local SLOT = 31 -- of the readers of tables; lcores count from 0
local ROUNDS, SECONDS = 7, 0.02

ffi.cdef [[
struct fuse_stage { struct tw_table *table; int32_t reasons[2]; uint8_t dst[6], src[6]; };
void fuse_separate(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages, uint32_t n,
   bool bulk);
void fuse_fused(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages);
void fuse_fused_bulk(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages);
void fuse_fill(struct tw_burst *burst, int32_t count, uint8_t *memory, const uint8_t *frames);
int tw_rcu_register(unsigned slot);
void tw_rcu_unregister(unsigned slot);
]]

-- ---- packets and tables ----

local function inside(i)
   return ("10.%d.%d.%d"):format(math.floor(i / 62500), math.floor(i / 250) % 250, i % 250 + 1)
end

local flows, frames = 0, nil -- their number, and a frame of each

local function make_frames(count)
   if flows == count then return end
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
local library

local function by_gcc()
   if library then return library end
   local object = os.tmpname()
   assert(os.execute(GCC:format(object, "scripts/bench/fuse/chain.c")) == 0, "gcc refused chain.c")
   library = ffi.load(object)
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

local function functions_of(n)
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

local thread = posix.getpid() -- the control thread's

-- The alignment that packet buffers have.
local address = ffi.cast("uint64_t", ffi.cast("uintptr_t", memory))
local buffers = ffi.cast("uint8_t *", bit.band(address + 63, bit.bnot(63ULL)))
kept.memory = memory

-- ns a packet, CPU time.
local function over_packets(packets, run)
   local at = 0
   local from = clock.thread(thread)
   for _ = 1, packets / BURST do
      library.fuse_fill(burst, BURST, buffers, frames + at * FRAME)
      run(BURST)
      at = (at + BURST) % flows
   end
   return (clock.thread(thread) - from) / packets
end

local function nothing() end

-- Frames and verdicts after the first flows: what every contender must agree on.
local function outcome(run)
   local list = {}
   for at = 0, flows - BURST, BURST do
      library.fuse_fill(burst, BURST, buffers, frames + at * FRAME)
      run(BURST)
      for i = 0, BURST - 1 do
         local pkt = burst.pkts[i]
         list[#list + 1] = ("%d %d %s"):format(pkt.verdict, pkt.out, frame.hex(ffi.string(pkt.data, pkt.len)))
      end
   end
   return table.concat(list, "\n")
end

-- As on an lcore: the tables' memory is not reused meanwhile, so look-ups need no further protection.
local function as_reader(fn, ...)
   assert(ffi.C.tw_rcu_register(SLOT) == 0, abi.error())
   local results = { pcall(fn, ...) }
   ffi.C.tw_rcu_unregister(SLOT)
   if not results[1] then error(results[2], 0) end
   return unpack(results, 2)
end

local made = {} -- by flows and number of NFs: the functions; made once, with one set of tables

local function functions(count, n)
   local key = count .. "/" .. n
   make_frames(count)
   if made[key] then return made[key] end
   jit.opt.start("maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000", "hotloop=28",
      "hotexit=6", "sizemcode=256", "loopunroll=100", "maxmcode=16384")
   by_gcc()
   local staged = model.staged
   model.staged = false -- tables are the engine's at once
   local ok, list = pcall(functions_of, n)
   model.staged = staged
   if not ok then error(list, 0) end
   as_reader(function()
      local wanted = outcome(list.separate)
      for name, run in pairs(list) do
         if type(run) == "function" then
            assert(outcome(run) == wanted, name .. " gives other packets than the separate functions")
            over_packets(PACKETS / 4, run) -- warm-up, for LuaJIT
         end
      end
   end)
   made[key] = list
   return list
end

local function missing()
   if not lfs.attributes "core/abi.h" then return "start it in the repository's folder: cd " .. input.root end
   if os.execute "command -v gcc >/dev/null" ~= 0 then return "gcc is not installed; try: apt-get install gcc" end
end

local TITLES = {
   separate = "C functions, one after the other (gcc -O3)", separate_bulk = "the same, look-ups in bulk",
   by_hand = "fused by hand in C", by_hand_bulk = "the same, look-ups in bulk", luajit = "tier 1: fused, LuaJIT",
   native = "tier 2: fused, native", plain = "Lua functions, one after the other",
}

local function contender(name, count, n)
   return bench.contender {
      name = name, apart = true, note = TITLES[name], missing = missing,
      start = function()
         local list = functions(count, n)
         if not list[name] then return nil, list.why or "the compiler made none" end
         return true
      end,
      measure = function(_, seconds)
         local run, sum, turns = functions(count, n)[name], 0, 0
         local from = clock.thread(thread)
         repeat
            local fill = as_reader(over_packets, PACKETS / 4, nothing)
            sum, turns = sum + as_reader(over_packets, PACKETS, run) - fill, turns + 1
            bench.sleep(0)
         until clock.thread(thread) - from >= seconds * 1e9
         return { value = sum / turns, unit = "ns", ns = sum / turns, cpu_time = true }
      end,
   }
end

local function contenders(names, count)
   local list = {}
   for i, name in ipairs(names) do list[i] = contender(name, count, #NFS) end
   return list
end

for _, count in ipairs { 1024, 65536 } do
   bench.group("fuse-" .. count, {
      title = ("parse, firewall, TTL, NAT, MAC over bursts of %d from memory, %d flows"):format(BURST, count),
      unit = "ns", better = "less", rounds = ROUNDS, seconds = SECONDS, reference = "separate",
      contenders = contenders({ "separate", "separate_bulk", "by_hand", "by_hand_bulk", "luajit", "native", "plain" },
         count),
      goals = { luajit = 1.0, native = 0.667 },
   })
   bench.group("fuse-by-hand-" .. count, {
      title = ("the same, native code against C fused by hand, %d flows"):format(count), unit = "ns", better = "less",
      rounds = ROUNDS, seconds = SECONDS, reference = "by_hand",
      contenders = contenders({ "by_hand", "native" }, count), goals = { native = 1.1 },
   })
end

bench.curve("fuse-length", {
   title = "the chain grows, 1,024 flows", x = { name = "NFs", values = { 1, 2, 4, 8, 12, 16 } }, unit = "ns",
   better = "less", rounds = 3, seconds = SECONDS, order = { "separate", "luajit", "native", "plain" },
   contenders = {
      separate = function(n) return contender("separate", 1024, n) end,
      luajit = function(n) return contender("luajit", 1024, n) end,
      native = function(n) return contender("native", 1024, n) end,
      plain = function(n) return contender("plain", 1024, n) end,
   },
})
