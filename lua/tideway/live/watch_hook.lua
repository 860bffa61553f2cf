-- SPDX-License-Identifier: BSD-3-Clause
-- Watches on chains of hooks: programs with the observation compiled in (compiler/place/watch.lua) as a source of
-- tideway.live.watch. The records are those of lcores.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local backing = require "tideway.bpf.backing"
local hook_engine = require "tideway.hook"
local kernel = require "tideway.compiler.target.kernel"
local model = require "tideway.model"
local observe = require "tideway.hook.observe"
local place = require "tideway.compiler.place.watch.maps"
local ringbuf = require "tideway.bpf.ringbuf"
local punted = require "tideway.live.watch_punt"
local steps = require "tideway.live.watch_steps"

local C = abi.C
local M = {}

local RING_BYTES = 4 * 1024 * 1024
local CODE_MAX = 512 -- instructions of a filter
-- Headers that are cut behind layer 4 are looked for in so many bytes.
local HEADERS = 512
-- Steps of a packet whose end does not come are given out after so long.
local PATIENCE_NS = 1e9

local RECORD = ffi.typeof("const $ *", place.record)

---@class tideway.live.watch_hook
---@field wanted tideway.live.watch.wanted
---@field hooks table[] { hook, watch, received before, received now }
---@field maps table of tideway.place.watch
---@field reader table of the ring
---@field queue tideway.live.step[] to be given out
---@field user table counts of what the control thread saw
---@field open_packets table<integer, table[]> steps of packets whose end is not there yet
local Part = {}
Part.__index = Part

-- ---- start ----

-- Hooks whose packets have headers that everybody knows.
local function starts(hook)
   local name = hook.chain.place.hook
   local what = kernel.hook(name).starts
   if what == "l2" or what == "l3" then return what end
   error(("chain %s is on %s, where packets have no headers to be looked at; chains on xdp, tc, cgroup, lwt and lcores "
      .. "can be traced and captured"):format(hook.chain.name, name), 0)
end

-- The filter in classic BPF for packets that start so; nil: all match.
local function code_of(text, what)
   if not text or text == "" then return nil end
   local buffer = ffi.new("struct tw_filter_insn[?]", CODE_MAX)
   local n = C.tw_filter_code(text, what == "l3", buffer, CODE_MAX)
   if n < 0 then error(abi.error(), 0) end
   local code = {}
   for i = 1, n do
      local insn = buffer[i - 1]
      code[i] = { code = insn.code, jt = insn.jt, jf = insn.jf, k = insn.k }
   end
   if n > 0 then return code, buffer end
end

local function has(set, one) return bit.band(set, one) ~= 0 end

-- Which packets that leave are wanted, besides those that are followed.
local function leaves_of(wanted, stages)
   return function(exit)
      if exit.kind == "drop" then
         return has(wanted.edges, C.TW_EDGE_DROP) and (not wanted.reason or wanted.reason == exit.argument)
      elseif exit.kind == "punt" then
         return false
      elseif has(wanted.edges, C.TW_EDGE_NF) and stages[exit.stage] then
         return true
      end
      local port = wanted.out_port
      return has(wanted.edges, C.TW_EDGE_OUT)
         and (not port or exit.kind == "flood" or (exit.kind == "port" and exit.argument == port.index))
   end
end

local function stages_of(mask)
   local stages = {}
   for s = 0, 31 do
      if has(mask or 0, bit.lshift(1, s)) then stages[s] = true end
   end
   return stages
end

-- What the compiler is told for one chain.
local function watch_of(wanted, hook, stages, maps)
   local snap = math.min(wanted.snaplen, place.FRAME)
   local w = {
      programs = {}, chain = hook.chain, starts = starts(hook), follow = wanted.follow or false,
      snap = wanted.headers and math.min(snap, HEADERS) or snap, sample = wanted.sample, limit = wanted.limit,
      enter = has(wanted.edges, C.TW_EDGE_IN), behind = has(wanted.edges, C.TW_EDGE_NF) and stages or {},
      leaves = leaves_of(wanted, stages), in_port = wanted.in_port and wanted.in_port.index, fn = wanted.fn,
      stages = stages,
   }
   for key, value in pairs(maps) do w[key] = value end
   w.code, w.buffer = code_of(wanted.filter, w.starts)
   return w
end

local function hook_of(index)
   for _, hook in ipairs(hook_engine.list) do
      if hook.chain.index == index then return hook end
   end
   error("this chain runs on no hook", 0)
end

-- Packets that a chain received so far; nil when it is gone, and its counters are perhaps another's.
local function received(hook)
   if not hook_engine.has(hook) then return nil end
   hook:refresh()
   return tonumber(C.tw_stats().lcore[C.TW_LCORES_MAX - 1].chain[hook.chain.index].rx)
end

local function start(self)
   local wanted = self.wanted
   -- With a reason it is known at the end only whether a packet counts.
   local limit = wanted.limit and not (wanted.follow and wanted.reason)
   self.maps = place.new(RING_BYTES, limit)
   local err
   self.reader, err = ringbuf.open(assert(backing.of(self.maps.ring)))
   if not self.reader then error(err, 0) end
   for _, chain in ipairs(wanted.chains) do
      local hook = hook_of(chain.index)
      local w = watch_of(wanted, hook, stages_of(chain.stages), self.maps)
      local entry = { hook = hook, watch = w, received = received(hook) }
      w.seen = punted.listener(self, w)
      local ok
      ok, err = observe.start(hook, w)
      if not ok then error(err, 0) end
      self.hooks[#self.hooks + 1] = entry
   end
end

--- Watch chains on hooks.
---@param wanted tideway.live.watch.wanted
---@return tideway.live.watch_hook? part
---@return string? error
function M.open(wanted)
   local self = setmetatable({ wanted = wanted, hooks = {}, queue = {}, first = 1, open_packets = {},
      user = { looked = 0, matched = 0, packets = 0 } }, Part)
   local ok, err = pcall(start, self)
   if ok then return self end
   self:close()
   return nil, tostring(err)
end

-- ---- records ----

-- The program that a record comes from: what its exits mean.
function Part:program_of(record)
   for _, entry in ipairs(self.hooks) do
      local program = entry.watch.programs[record.program]
      if program then return program, entry.hook end
   end
end

function Part:push(steps_of_one)
   for _, step in ipairs(steps_of_one) do self.queue[#self.queue + 1] = step end
end

-- A followed packet has come to its end.
function Part:finish(packet, complete)
   local list = self.open_packets[packet]
   self.open_packets[packet] = nil
   local last = list[#list].record
   local reason = self.wanted.reason
   if reason and not (last.edge == C.TW_EDGE_DROP and bit.rshift(last.verdict, 8) == C.tw_reason_id(reason)) then
      return
   end
   if not complete then
      for _, step in ipairs(list) do step.record.flags = bit.bor(step.record.flags, C.TW_WATCH_INCOMPLETE) end
   end
   self:push(list)
end

-- The steps of a followed packet: as it came in, behind each NF, its end. One that was punted goes on (watch_punt.lua).
function Part:follow(list, ends, expected)
   local packet = list[1].record.packet
   local all = self.open_packets[packet]
   if not all then
      all = {}
      self.open_packets[packet] = all
   end
   for _, step in ipairs(list) do all[#all + 1] = step end
   if ends then all.torn = #all ~= expected end
   if ends == "left" then self:finish(packet, not all.torn) end
end

function Part:take(record)
   local program, hook = self:program_of(record)
   if not program then return end
   local list, ends, expected = steps.of(record, program, hook, self.wanted)
   if #list == 0 then return end
   if self.wanted.follow then self:follow(list, ends, expected) else self:push(list) end
end

-- What is in the ring, to the queue. Bounded: the control thread has other things to do.
function Part:drain()
   for _ = 1, 4096 do
      local p = self.reader and self.reader:look()
      if not p then break end
      self:take(ffi.cast(RECORD, p))
   end
   local late = tonumber(C.tw_now()) - PATIENCE_NS
   for packet, list in pairs(self.open_packets) do
      if tonumber(list[#list].record.time) < late then self:finish(packet, false) end
   end
end

--- The next record before a time.
---@param before ffi.cdata* uint64_t, ns as tw_now()
---@return ffi.cdata*? record const struct tw_watch_record *, until the next call
---@return ffi.cdata*? frame const uint8_t *
function Part:next(before)
   if self.first > #self.queue then
      self.queue, self.first = {}, 1
      self:drain()
   end
   local stop_at = self.wanted.stop_at
   while self.queue[self.first] do
      local step = self.queue[self.first]
      if step.record.time >= before then return nil end
      self.first = self.first + 1
      if not stop_at or step.record.time < stop_at then
         self.current = step -- its memory
         return step.record, step.frame
      end
   end
end

-- ---- figures ----

--- What it did so far.
---@return tideway.live.watch.counts
function Part:counts()
   local sum, list, user = backing.of(self.maps.tally):sum(0), {}, self.user
   for _, name in ipairs { "looked", "matched", "records", "packets", "missed" } do
      list[name] = tonumber(sum[name]) + (user[name] or 0)
   end
   list.records = list.records + user.packets
   local filter = sum.timed > 0 and tonumber(sum.clocked) / tonumber(sum.timed) * list.looked or 0
   list.ns, list.stepped, list.stepped_ns, list.chain_packets = tonumber(sum.spent) + filter, 0, 0, 0
   for _, entry in ipairs(self.hooks) do
      entry.now = received(entry.hook) or entry.now or entry.received
      list.chain_packets = list.chain_packets + entry.now - entry.received
   end
   return list
end

--- To be called now and then.
---@return string? over why nothing comes any more
function Part:refresh()
   for _, entry in ipairs(self.hooks) do
      if entry.watch.lost then return entry.watch.lost end
   end
end

--- Watch no more: the programs are again what they were. What was recorded can still be read.
function Part:stop()
   for _, entry in ipairs(self.hooks) do
      local ok, err = observe.stop(entry.hook, entry.watch)
      if not ok then table.insert(entry.hook.punts.messages, err) end
   end
end

--- Forget it.
function Part:close()
   self:stop()
   if self.reader then self.reader:close() end
   self.reader = nil
   for _, t in pairs(self.maps or {}) do
      local map = backing.of(t)
      if map then map:free() end
   end
   self.maps = nil
end

-- ---- names ----

local function port_name(index)
   for _, port in ipairs(model.ports) do
      if port.index == index then return port.name end
   end
end

--- The names of where a record's packet came from and went to.
---@param record ffi.cdata*
---@return string? from
---@return string? to
function Part.ways(_, record)
   local to = port_name(record.out)
   if not to and record.edge == C.TW_EDGE_OUT and bit.band(record.verdict, 0xff) == C.TW_PASS then to = "kernel" end
   return port_name(record.port), to
end

--- Where it was seen.
---@param record ffi.cdata*
---@return string
function Part:place(record)
   for _, entry in ipairs(self.hooks) do
      if entry.hook.chain.index == record.chain then return entry.hook:place_text() end
   end
   return "a hook"
end

return M
