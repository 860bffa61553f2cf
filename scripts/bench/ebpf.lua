-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: NFs of examples/nf compiled for XDP against their twins in C by clang, in the kernel with the same maps
-- and packets: ns a packet, instructions, and how long compiling takes.

local lfs = require "lfs"
local ffi = require "ffi"
local input = require "input"
package.path = input.root .. "/?.lua;" .. package.path
local bench = require "tideway".bench
local compiler = require "tideway.compiler"
local kernel_twin = require "test.support.kernel_twin"
local loader = require "tideway.bpf.load"
local model = require "tideway.model"
local packets = require "ebpf_packets"
local program = require "tideway.bpf.program"
local statistics = require "tideway.bench.statistics"
local twin_pair = require "test.support.twin_pair"
local twins = require "test.support.twins"

ffi.cdef [[
void *tw_bench_program(const void *object, const char *name) __asm__("bpf_object__find_program_by_name");
size_t tw_bench_insns(const void *program) __asm__("bpf_program__insn_cnt");
]]

local ROUNDS, SECONDS, REPEATS = 7, 0.01, 1000000 -- one turn of many runs: what is left of them may be 2 ns
local WORST = 1.15 -- goal: each NF against clang
local COMPILE, CHAIN = 50, 200 -- goals, ms
local ABOUT_100_LINES = "vxlan"
local EIGHT = { "vlan", "ddos", "acl", "knock", "rate_limit", "nat44", "ttl", "ttl_router" }

local function missing()
   if not lfs.attributes "bpf/twin" then return "start it in the repository's folder: cd " .. input.root end
   return kernel_twin.missing()
end

-- Tables are the engine's at once, not when it starts: both programs get their entries.
local function at_once(fn, ...)
   local staged = model.staged
   model.staged = false
   local results = { pcall(fn, ...) }
   model.staged = staged
   if not results[1] then error(results[2], 0) end
   return unpack(results, 2)
end

-- ---- each NF and its twin ----

local function frames_of(name)
   local list = {}
   for i, p in ipairs(packets[name]) do list[i] = p[2] end
   return list
end

local loaded -- one pair at a time: tables of NFs have the same names
local sizes = {} -- by NF: what the compilers made

local function close()
   if loaded then loaded:close() end
   loaded = nil
end

local function remember(pair)
   local c = assert(program.info(pair.kernel.fd))
   sizes[pair.twin.name] = {
      insns = pair.compiled.object.count, verified = pair.program.verified, x86 = pair.program.jited,
      c_insns = tonumber(ffi.C.tw_bench_insns(ffi.C.tw_bench_program(pair.kernel.object, "nf"))),
      c_verified = c.verified, c_x86 = c.jited,
   }
end

-- Both programs; they must make the same of each frame, else there is nothing to compare.
local function pair_of(twin)
   if loaded and loaded.twin == twin then return loaded end
   close()
   local pair, err = at_once(twin_pair.load, twin)
   if not pair then error(tostring(err), 0) end
   loaded = pair
   remember(pair)
   for _ = 1, 2 do -- the first packet may add an entry
      for _, frame in ipairs(frames_of(twin.name)) do
         local mine, out = pair:lua(frame)
         local its, c_out = pair:c(frame)
         assert(mine == its and out == c_out, "Lua and C give different packets; see test/twin_spec.lua")
      end
   end
   return pair
end

local medians = {} -- ns by NF and language, for the mean

-- Keeps what it measures.
local function kept(contender, name, which)
   local measure = contender.measure
   function contender:measure(seconds)
      local sample, err = measure(self, seconds)
      medians[name] = medians[name] or { lua = {}, c = {} }
      if sample then table.insert(medians[name][which], sample.value) end
      return sample, err
   end
   return contender
end

for _, twin in ipairs(twins.list) do
   local frames = frames_of(twin.name)
   bench.group("ebpf-" .. twin.name, {
      title = ("%s on XDP, in the kernel's test run, without its cost"):format(twin.name),
      unit = "ns", better = "less", rounds = ROUNDS, seconds = SECONDS, reference = "clang", goals = { lua = WORST },
      contenders = {
         kept(bench.hook {
            name = "clang", note = ("clang -O2 -mcpu=v3, bpf/twin/%s.bpf.c"):format(twin.name), packets = frames,
            repeats = REPEATS, missing = missing,
            program = function() return program.from_fd(pair_of(twin).kernel.fd) end,
         }, twin.name, "c"),
         kept(bench.hook {
            name = "lua", note = ("examples/nf/%s.lua"):format(twin.nf or twin.name), packets = frames,
            repeats = REPEATS, missing = missing,
            program = function() return pair_of(twin).program end,
         }, twin.name, "lua"),
      },
   })
end

-- ---- instructions ----

local function geometric(list)
   local sum = 0
   for _, v in ipairs(list) do sum = sum + math.log(v) end
   return #list > 0 and math.exp(sum / #list) or nil
end

local function size_row(twin)
   if not sizes[twin.name] then pair_of(twin) end
   local size, measured = sizes[twin.name], medians[twin.name]
   local ratio = size.insns / size.c_insns
   local row = { twin.name, size.insns, size.c_insns, ratio, size.verified, size.c_verified, size.x86, size.c_x86 }
   return row, ratio, measured and statistics.median(measured.lua) / statistics.median(measured.c)
end

bench.experiment {
   kind = "table", name = "ebpf-size", title = "what the compilers made: Lua against clang; goals: geometric means 1.0",
   run = function(context)
      local why, rows, insns, ns = missing(), {}, {}, {}
      if why then error(why, 0) end
      for i, twin in ipairs(twins.list) do
         context.progress(twin.name, i, #twins.list, true)
         rows[i], insns[i], ns[#ns + 1] = size_row(twin)
      end
      rows[#rows + 1] = { "geometric mean", nil, nil, geometric(insns) }
      if #ns == #twins.list then rows[#rows + 1] = { "geometric mean, ns", nil, nil, geometric(ns) } end
      return {
         columns = { "NF", "instructions", "of clang", "ratio", "verified", "of clang", "x86 bytes", "of clang" },
         rows = rows,
      }
   end,
}

-- ---- compile time ----

-- Milliseconds from source to loaded program, and those of them that are the compiler's; the program.
local function compile_once(label, names)
   local nfs = {}
   for i, name in ipairs(names) do nfs[i] = at_once(twins.make, twins.list[name]) end
   local from = bench.now()
   local compiled, err = compiler.for_hook(label, nfs, "xdp", { counted = false, port = 0, ports = { [0] = 1 } })
   local compile, object = bench.now() - from, nil
   if compiled then object, err = loader.load(compiled) end
   local took = bench.now() - from
   for _, nf in ipairs(nfs) do twin_pair.free(nf) end
   if not object then error(tostring(err), 0) end
   local verified = object.verified
   object:close()
   return took * 1000, compile * 1000, compiled.object.count, verified
end

local function compile_row(label, names, goal)
   local all, compiling = {}, {}
   local first, insns, verified
   close()
   for i = 0, 5 do
      collectgarbage()
      local took, compile
      took, compile, insns, verified = compile_once(label, names)
      if i == 0 then first = took else all[i], compiling[i] = took, compile end
   end
   return { label, insns, verified, first, goal, first < goal and "met" or "missed", statistics.median(all),
      statistics.median(compiling) }
end

bench.experiment {
   kind = "table", name = "ebpf-compile", title = "from source to loaded program; the goal is for the first time",
   run = function()
      local why = missing()
      if why then error(why, 0) end
      return {
         columns = { "program", "instructions", "verified", "first (ms)", "goal (ms)", "goal", "later (ms)",
            "compiling (ms)" },
         rows = {
            compile_row("NF of 122 lines", { ABOUT_100_LINES }, COMPILE),
            compile_row("chain of eight NFs", EIGHT, CHAIN),
         },
      }
   end,
}
