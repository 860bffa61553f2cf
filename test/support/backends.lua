-- SPDX-License-Identifier: BSD-3-Clause
-- Runs one NF over the same packets everywhere: by LuaJIT from its own source, whose word counts, and compiled for
-- hooks of the kernel (BPF_PROG_TEST_RUN) and for lcores (as LuaJIT source, as C). Verdicts, bytes and tables must be equal.
--
--    local outcome = backends.run { { text = "...", frames = { ... } } }[1]
--    outcome.failure          -- nil, or { kind = "differs" | "verifier" | "crash" | "raised", where = "xdp", text = ... }
--    outcome.refused          -- { xdp = diagnostic, ... }
--
-- The text is a chunk: `tw` is there, and it returns { packet = function(pkt) ... end, tables = { ... }?, fill = function()? }.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local compiler = require "tideway.compiler"
local diagnostic = require "tideway.compiler.diagnostic"
local frame = require "test.support.frame"
local lcore_ir = require "test.support.lcore_ir"
local verify = require "tideway.compiler.ir.verify"
require "tideway.packet"

local M = {}

local C = abi.C
local HEADROOM, ROOM = 256, 4096
local STEPS = 2e7 -- instructions of LuaJIT for all packets of a program
local PORT, PORTS = 1, { [0] = 1, [1] = 1, [2] = 1 } -- index of the ingress port; ifindex by port: all "lo"
local START = { verdict = 0, out = C.TW_PORT_NONE, port = PORT, hash = 0, mark = 0, stage = 0, resume = 0 }

M.all = { "xdp", "tc", "luajit", "c" }

-- ---- packets without an engine ----

-- struct rte_mbuf as far as resizing looks at it (DPDK 22.11).
local mbuf_t = ffi.typeof [[struct {
   uint8_t *buf_addr; uint64_t iova; uint16_t data_off, refcnt, nb_segs, port; uint64_t flags;
   uint32_t packet_type, pkt_len; uint16_t data_len, vlan_tci; uint32_t hash[2]; uint16_t vlan_tci_outer, buf_len;
   void *pool, *next; uint64_t rest[7]; } __attribute__((aligned(64)))]]
assert(ffi.sizeof(mbuf_t) == 128)

local MOST = 64
local burst = ffi.new "struct tw_burst"
local mbufs = ffi.new(ffi.typeof("$[?]", mbuf_t), MOST)
local memory = ffi.new("uint8_t[?]", MOST * ROOM)

-- Puts frames into the burst.
local function fill(frames)
   ffi.fill(memory, ffi.sizeof(memory))
   ffi.fill(mbufs, ffi.sizeof(mbufs))
   burst.now, burst.count, burst.stage, burst.odd, burst.lcore = C.tw_now(), #frames, 0, 0, 0
   for i, bytes in ipairs(frames) do
      local pkt, mbuf, start = burst.pkts[i - 1], mbufs[i - 1], memory + (i - 1) * ROOM
      ffi.fill(pkt, ffi.sizeof(pkt))
      mbuf.buf_addr, mbuf.data_off, mbuf.buf_len, mbuf.nb_segs, mbuf.refcnt = start, HEADROOM, ROOM, 1, 1
      mbuf.data_len, mbuf.pkt_len = #bytes, #bytes
      ffi.copy(start + HEADROOM, bytes, #bytes)
      for name, value in pairs(START) do pkt[name] = value end
      pkt.data, pkt.len, pkt.mbuf = start + HEADROOM, #bytes, ffi.cast("void *", mbufs + (i - 1))
   end
end

local function bytes_of(pkt) return ffi.string(pkt.data, pkt.len) end

-- What became of the packets of the burst: { word, out, mark, data } each.
local function collect(count, results)
   for i = 0, count - 1 do
      local pkt = burst.pkts[i]
      local word = pkt.verdict
      if word == C.TW_NEXT then word = C.TW_SINK end
      results[#results + 1] = { word = word, out = pkt.out, mark = pkt.mark, data = bytes_of(pkt) }
   end
end

-- Burst by burst.
local function over(frames, run)
   local results = {}
   for first = 1, #frames, MOST do
      local part = { unpack(frames, first, math.min(#frames, first + MOST - 1)) }
      fill(part)
      run(#part)
      collect(#part, results)
   end
   return results
end

-- ---- tables ----

local function scalar_text(v)
   if type(v) == "number" then return ("%.0f"):format(v) end
   return (tostring(v):gsub("U?LL$", ""))
end

local function value_text(t, v)
   if t.scalar then return scalar_text(v) end
   local list = {}
   for i, field in ipairs(t.fields) do list[i] = field.name .. "=" .. scalar_text(v[field.name]) end
   return table.concat(list, " ")
end

-- A trace that reads a field of a struct with a metatype has no guard on its name.
jit.off(value_text)

local function key_text(t, key)
   if t.kind == "lpm" then return scalar_text(key.address) .. "/" .. key.length end
   return value_text(t.key_type, key)
end

local function table_text(t)
   local list = {}
   if t.kind == "counters" then
      for i = 0, t.entries - 1 do list[i + 1] = ("%d: %s"):format(i, scalar_text(t:sum(i))) end
      return table.concat(list, "\n")
   end
   for key, value in t:pairs() do list[#list + 1] = key_text(t, key) .. ": " .. value_text(t.value_type, value) end
   table.sort(list)
   return table.concat(list, "\n")
end

local function tables_of(instance)
   local out = {}
   for _, t in ipairs(instance.tables or {}) do out[t.name] = table_text(t) end
   return out
end

local function reset(instance)
   for _, t in ipairs(instance.tables or {}) do t:clear() end
   if instance.fill then instance.fill() end
end

local function free(instance)
   for _, t in ipairs(instance.tables or {}) do
      local map = rawget(t, "map")
      t:free()
      if map then map:free() end
   end
end

-- ---- from source ----

local instances, headers = 0, {}

-- Names of tables are the process's: those of each instance get a number. Types are for ever, so one of each.
local function numbered(tw)
   instances = instances + 1
   local own, number = {}, instances
   for _, kind in ipairs { "hash", "lru", "lpm", "array", "counters", "meter" } do
      own[kind] = function(options)
         options.name = ("%s_%d"):format(options.name, number)
         return tw[kind](options)
      end
   end
   function own.header(name, declaration)
      headers[declaration] = headers[declaration] or tw.header(name, declaration)
      return headers[declaration]
   end
   return setmetatable(own, { __index = tw })
end

--- An instance of an NF from a text.
function M.instance(text)
   local chunk = assert(loadstring(text))
   setfenv(chunk, setmetatable({ tw = numbered(require "tideway") }, { __index = _G }))
   local instance = chunk()
   instance.name = "nf"
   return instance
end

local function raw(instance, frames)
   reset(instance)
   jit.off() -- traces have bugs of their own
   debug.sethook(function() error "the NF runs for too long" end, "", STEPS)
   local ok, results = pcall(over, frames, function(count)
      local packet = instance.run_by_luajit or instance.packet
      for i = 0, count - 1 do packet(burst.pkts[i]) end
   end)
   debug.sethook()
   jit.on()
   if not ok then return nil, results end
   return { packets = results, tables = tables_of(instance) }
end

-- ---- lcores ----

-- What the optimiser leaves behind is to be right, also where a back-end would not notice.
local function well_formed(program)
   local ok, why = verify.verify(program)
   if not ok then error("optimised IR: " .. why) end
end

local function compile_lcore(instance)
   local segments = compiler.for_lcore { name = "nf", stages = { instance } }
   if segments[1].raw then return nil, segments[1].raw end
   well_formed(segments[1].ir)
   return segments[1].ir
end

local function run_lcore(instance, frames, fn)
   reset(instance)
   local results = over(frames, fn)
   return { packets = results, tables = tables_of(instance) }
end

-- ---- hooks ----

local function exits_of(compiled)
   local counts = {}
   if not compiled.exit_table then return counts end
   local map = require("tideway.bpf.backing").of(compiled.exit_table)
   for i, exit in ipairs(compiled.exits) do
      local total = tonumber(map:sum(i - 1).packets)
      local key = ("%s %s"):format(exit.kind, tostring(exit.argument))
      counts[key] = (counts[key] or 0) + total
   end
   map:free()
   return counts
end

local function compile_hook(instance, hook)
   local compiled, why = compiler.for_hook("nf", { instance }, hook, { ports = PORTS, port = PORT, counted = true })
   if compiled then well_formed(compiled.ir) end
   return compiled, why
end

local function run_hook(instance, frames, compiled)
   local program, err = require("tideway.bpf.load").load(compiled)
   if not program then return nil, err end
   reset(instance)
   local results = {}
   for i, bytes in ipairs(frames) do
      local code, data = program:test(bytes)
      if not code then return nil, data end
      results[i] = { code = bit.tobit(code), data = data }
   end
   program:close()
   return { packets = results, tables = tables_of(instance), exits = exits_of(compiled) }
end

-- ---- what a hook makes of a verdict ----

local CODE = {
   xdp = { pass = 2, drop = 1, back = 3, redirect = 4 },
   tc = { pass = -1, drop = 2, redirect = 7 },
}

local function port_code(hook, port)
   if not PORTS[port] then return CODE[hook].drop, "drop no_such_port" end
   if port == PORT and CODE[hook].back then return CODE[hook].back, "port " .. port end
   return CODE[hook].redirect, "port " .. port
end

-- Return code and name of the exit.
local function expected_code(hook, result)
   local kind, argument = bit.band(result.word, 0xff), bit.rshift(result.word, 8)
   if kind == C.TW_SINK then
      if result.out ~= C.TW_PORT_NONE then return port_code(hook, result.out) end
      return CODE[hook].pass, "pass nil"
   elseif kind == C.TW_DROP then
      return CODE[hook].drop, "drop " .. ffi.string(abi.C.tw_stats().reason[argument])
   elseif kind == C.TW_PORT then
      return port_code(hook, argument)
   elseif kind == C.TW_PASS then
      return CODE[hook].pass, "pass nil"
   end
   error(("a verdict of kind %d"):format(kind))
end

-- ---- comparing ----

local function sentence(i, bytes, what, want, got)
   return ("packet %d: %s is %s, LuaJIT: %s\n   in  %s"):format(i, what, got, want, frame.hex(bytes))
end

local function compare_tables(want, got)
   for name, text in pairs(want) do
      if got[name] ~= text then
         return ("table %s is\n%s\nLuaJIT:\n%s"):format(name, got[name], text)
      end
   end
end

local function compare_data(i, bytes, want, got)
   if want == got then return nil end
   return sentence(i, bytes, "frame", frame.hex(want) .. "\n  ", frame.hex(got) .. "\n  ")
end

local function compare_lcore(frames, want, got)
   for i, w in ipairs(want.packets) do
      local g = got.packets[i]
      if w.word ~= g.word then return sentence(i, frames[i], "verdict", bit.tohex(w.word), bit.tohex(g.word)) end
      for _, field in ipairs { "out", "mark" } do
         if w[field] ~= g[field] then return sentence(i, frames[i], field, w[field], g[field]) end
      end
      local why = compare_data(i, frames[i], w.data, g.data)
      if why then return why end
   end
   return compare_tables(want.tables, got.tables)
end

local function compare_exits(want, got)
   for key, n in pairs(want) do
      if (got[key] or 0) ~= n then return ("%d packets left by '%s', LuaJIT: %d"):format(got[key] or 0, key, n) end
   end
end

local function compare_hook(hook, frames, want, got)
   local exits = {}
   for i, w in ipairs(want.packets) do
      local g = got.packets[i]
      local code, exit = expected_code(hook, w)
      exits[exit] = (exits[exit] or 0) + 1
      if code ~= g.code then
         return sentence(i, frames[i], "code", ("%d (%s)"):format(code, exit), g.code)
      end
      local why = compare_data(i, frames[i], w.data, g.data)
      if why then return why end
   end
   return compare_exits(exits, got.exits) or compare_tables(want.tables, got.tables)
end

-- ---- all of them ----

---@class test.backends.outcome
---@field failure { kind: string, where: string, text: string }?
---@field refused table<string, table> diagnostics by back-end
---@field ran table<string, boolean>

local function fail(outcome, kind, where, text)
   outcome.failure = outcome.failure or { kind = kind, where = where, text = tostring(text) }
end

-- Calls f; an error that is no diagnostic is a crash.
local function guarded(outcome, where, f, ...)
   local ok, result, err = xpcall(f, function(e)
      if diagnostic.is(e) then return e end
      return debug.traceback(tostring(e), 2)
   end, ...)
   if not ok then
      fail(outcome, "crash", where, result)
      return nil
   end
   return result, err
end

local function compiled_or_refused(outcome, where, result, why)
   if result or outcome.failure then return result end
   if diagnostic.is(why) then
      outcome.refused[where] = why
   else
      fail(outcome, "crash", where, why)
   end
end

local function lcore_part(job, outcome, wanted)
   local program, why = guarded(outcome, "lcore", compile_lcore, job.instance)
   program = compiled_or_refused(outcome, "lcore", program, why)
   if not program then return end
   if wanted.c then outcome.ir = program end
   if not wanted.luajit then return end
   local fn, anchor = guarded(outcome, "luajit", lcore_ir.lua, program, { guard = false }, burst)
   if not fn then return end
   local got = guarded(outcome, "luajit", run_lcore, job.instance, job.frames, function(n) fn(n) end)
   outcome.anchor = anchor
   if not got then return end
   outcome.ran.luajit = true
   local why_not = compare_lcore(job.frames, outcome.want, got)
   if why_not then fail(outcome, "differs", "luajit", why_not) end
end

-- The kernel takes no test run of IP packets on tc that are shorter than their header.
local function fit_for_tc(frames)
   local list = {}
   for _, bytes in ipairs(frames) do
      if #bytes >= 54 then list[#list + 1] = bytes end
   end
   return list
end

local function hook_part(job, outcome, hook)
   local frames, want = job.frames, outcome.want
   if hook == "tc" then
      frames = fit_for_tc(frames)
      want = raw(job.instance, frames)
   end
   local compiled, why = guarded(outcome, hook, compile_hook, job.instance, hook)
   compiled = compiled_or_refused(outcome, hook, compiled, why)
   if not compiled then return end
   local got, err = guarded(outcome, hook, run_hook, job.instance, frames, compiled)
   if not got then
      local text = tostring(err)
      -- The kernel gives up after a million steps, or 8192 open branches: limits, not errors of the program.
      if text:find("more than the 1000001 steps", 1, true)
         or text:find("more paths than the verifier follows", 1, true) then
         outcome.refused[hook] = err
      elseif err then
         fail(outcome, "verifier", hook, text)
      end
      return
   end
   outcome.ran[hook] = true
   local why_not = compare_hook(hook, frames, want, got)
   if why_not then fail(outcome, "differs", hook, why_not) end
end

-- All C of a batch is one library: what costs is starting the compiler.
local function c_part(jobs, outcomes)
   local programs, index = {}, {}
   for i in ipairs(jobs) do
      if outcomes[i].ir then
         programs[#programs + 1] = outcomes[i].ir
         index[i] = #programs
      end
   end
   if #programs == 0 then return end
   local ok, list = pcall(lcore_ir.c, programs)
   for i, job in ipairs(jobs) do
      local outcome = outcomes[i]
      if index[i] and not outcome.failure then
         local alone = ok and list or guarded(outcome, "c", lcore_ir.c, { outcome.ir })
         if alone then
            local fn = alone[ok and index[i] or 1]
            local got = guarded(outcome, "c", run_lcore, job.instance, job.frames, function(n) fn(burst, n) end)
            if got then
               outcome.ran.c = true
               local why_not = compare_lcore(job.frames, outcome.want, got)
               if why_not then fail(outcome, "differs", "c", why_not) end
            end
         end
      end
   end
end

--- Run programs on back-ends and compare each with LuaJIT's own run.
---@param jobs { text: string, frames: string[] }[]
---@param names string[]? of M.all
---@return test.backends.outcome[]
function M.run(jobs, names)
   local wanted = {}
   for _, name in ipairs(names or M.all) do wanted[name] = true end
   assert(abi.C.tw_stats() ~= nil or abi.C.tw_stats_open(nil, "spec", "spec") == 0)
   local outcomes = {}
   for i, job in ipairs(jobs) do
      local outcome = { refused = {}, ran = {} }
      outcomes[i] = outcome
      job.instance = M.instance(job.text)
      local why
      outcome.want, why = raw(job.instance, job.frames)
      if not outcome.want then
         fail(outcome, "raised", "source", why)
      elseif wanted.luajit or wanted.c then
         lcore_part(job, outcome, wanted)
      end
   end
   if wanted.c then c_part(jobs, outcomes) end
   for i, job in ipairs(jobs) do
      for _, hook in ipairs { "tc", "xdp" } do -- from then on tables are maps
         if wanted[hook] and not outcomes[i].failure then
            guarded(outcomes[i], hook, hook_part, job, outcomes[i], hook)
         end
      end
      free(job.instance)
      job.instance, outcomes[i].ir = nil, nil
   end
   return outcomes
end

--- What the comparison says when `other` of an NF is compiled in the place of `packet`.
---@param text string a chunk as for run; the NF has a function `other`, too
---@param frames string[]
---@return table<string, string> failures by back-end
function M.differs(text, frames)
   local out = {}
   for _, name in ipairs(M.all) do
      local job = { text = text, frames = frames, instance = M.instance(text) }
      local outcome = { refused = {}, ran = {}, want = raw(job.instance, frames) }
      job.instance.run_by_luajit, job.instance.packet = job.instance.packet, job.instance.other
      if name == "xdp" or name == "tc" then
         hook_part(job, outcome, name)
      else
         lcore_part(job, outcome, { [name] = true })
         if name == "c" then c_part({ job }, { outcome }) end
      end
      free(job.instance)
      out[name] = outcome.failure and outcome.failure.text
   end
   return out
end

return M
