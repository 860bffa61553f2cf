-- SPDX-License-Identifier: BSD-3-Clause
-- The user half of hybrid NFs on hooks: packets that their programs punted, frames that they make, packets that they
-- hold. Runs in the control thread; the NFs behind the one that punted run here as the Lua that they are.
--
-- A packet that a program punted was received there and is accounted for here: received = sent + dropped + held.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local advice = require "tideway.hook.advice"
local backing = require "tideway.bpf.backing"
local counters = require "tideway.hook.counters"
local frames = require "tideway.hook.frame"
local hold = require "tideway.hold"
local observe = require "tideway.hook.observe"
local place = require "tideway.compiler.place.punt"
local ringbuf = require "tideway.bpf.ringbuf"
local way_out = require "tideway.hook.way_out"

local C = abi.C
local M = {}

local NEXT, PUNT, HOLD, PORT = C.TW_NEXT, C.TW_PUNT, C.TW_HOLD, C.TW_PORT
local RECORD = ffi.typeof("const $ *", place.record)
local BATCH = 256 -- packets in one go

---@class tideway.hook.punts
---@field hook tideway.hook.chain
---@field sources { ring: table, reader: table?, at: (fun(stage: integer): integer)? }[] rings; all but the last one are
--- of programs that ran before, with other numbers of the stages
---@field taken integer records read
---@field held integer packets in hold queues
---@field counts tideway.hook.row what became of them, as counters.lua adds it up
---@field messages string[]
local Punts = {}
Punts.__index = Punts

-- Rings of chains: the program of another target, or one that comes later, uses the same.
local rings = setmetatable({}, { __mode = "k" })

--- The ring of a chain.
---@param chain tideway.chain
---@return table
function M.ring(chain) return rings[chain].ring end

--- Another one, for programs whose stages have other numbers.
---@return table
function M.new_ring() return place.ring() end

--- What the compiler needs to know for a chain's program.
---@param chain tideway.chain
---@param target? tideway.hook.target
---@return table options
function M.options(chain, target)
   local o = rings[chain]
   if not o then
      o = { ring = place.ring(), again = way_out.again_table() }
      rings[chain] = o
   end
   local link = target and target.link or {}
   local again = link.hook == "tc_ingress" or link.mode == "generic" or target and target.generic
   return { punt_ring = o.ring, again = again and o.again or nil }
end

--- The user half of a chain on a hook.
---@param hook tideway.hook.chain
---@return tideway.hook.punts
function M.new(hook)
   M.options(hook.chain)
   local self = setmetatable({
      hook = hook, sources = { { ring = rings[hook.chain].ring } }, taken = 0, held = 0, messages = {},
      frame = frames.new(),
      counts = {
         originated = 0, sent = 0, sent_bytes = 0, passed = 0, dropped = 0, punted = 0, faults = 0, stage_in = {},
         drops = {},
      },
   }, Punts)
   return self
end

-- ---- accounting ----

function Punts:drop(stage, reason)
   local c = self.counts
   local id = type(reason) == "number" and reason or C.tw_reason_id(reason)
   if stage >= #self.hook.stages and stage ~= C.TW_STAGE_GONE then stage = C.TW_STAGE_ENGINE end
   c.drops[stage] = c.drops[stage] or {}
   c.drops[stage][id] = (c.drops[stage][id] or 0) + 1
   c.dropped = c.dropped + 1
end

--- A packet ends here.
---@param frame tideway.hook.frame
---@param stage integer
---@param reason string|integer
function Punts:lose(frame, stage, reason)
   local id = type(reason) == "number" and reason or C.tw_reason_id(reason)
   observe.seen(self.hook, C.TW_EDGE_DROP, frame, stage, bit.bor(C.TW_DROP, bit.lshift(id, 8)))
   self:drop(stage, id)
end

--- A packet has left by a port; nil: on in the kernel.
---@param frame tideway.hook.frame
---@param port? integer
function Punts:sent(frame, port)
   local c = self.counts
   observe.seen(self.hook, C.TW_EDGE_OUT, frame, frame.pkt.stage, frame.pkt.verdict, port)
   c.sent, c.sent_bytes = c.sent + 1, c.sent_bytes + frame.pkt.len
end

-- ---- NFs ----

-- Whose function runs: tw.emit() asks.
local current = {}

--- Call a function of the NF at a stage; it may make frames.
---@param stage integer from 0
---@param fn function
---@return boolean ok
---@return any err
function Punts:call(stage, fn, ...)
   local before = current
   current = { punts = self, stage = stage }
   local ok, err = pcall(fn, ...)
   current = before
   return ok, err
end

--- A function of an NF failed: perhaps the change that brought it is taken back.
---@param nf tideway.nf.instance
---@param method string
---@param err any
function Punts:failed(nf, method, err)
   require("tideway.change.probation").failed(nf, self.hook.chain, method, tostring(err))
end

-- The NF failed on this very packet.
function Punts:fault(nf, method, pkt, err)
   self.counts.faults = self.counts.faults + 1
   self:failed(nf, method, err)
   self.faulted = self.faulted or {}
   if not self.faulted[nf] then
      self.faulted[nf] = true
      self.messages[#self.messages + 1] = ("NF %s of chain %s: %s() failed: %s (said once; every such packet is %s)")
         :format(nf.name, self.hook.chain.name, method, tostring(err),
         nf.on_fault == "bypass" and "sent on" or "dropped as nf_fault")
   end
   pkt.verdict = nf.on_fault == "bypass" and NEXT or bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "nf_fault", 8))
end

-- Runs a packet from a stage to its verdict. Returns the stage that gave it.
function Punts:walk(frame, stage, method)
   local pkt = frame.pkt
   local stages, stage_in = self.hook.stages, self.counts.stage_in
   while stage < #stages do
      local nf = stages[stage + 1]
      local fn = nf[method]
      if not fn then
         pkt.verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "no_punt", 8))
         return stage
      end
      if method == "packet" then stage_in[stage] = (stage_in[stage] or 0) + 1 end
      pkt.verdict, pkt.stage, pkt.resume = NEXT, C.TW_STAGE_ENGINE, stage + 1
      local watched = observe.begin(self.hook)
      local ok, err = self:call(stage, fn, pkt)
      if not ok then self:fault(nf, method, pkt, err) end
      if watched then observe.behind(self.hook, frame, stage, method, watched) end
      local kind = bit.band(pkt.verdict, 0xff)
      if kind == PUNT and method == "packet" then
         self.counts.punted = self.counts.punted + 1
         method = "punt"
      elseif kind == NEXT then
         stage, method = stage + 1, "packet"
      else
         pkt.stage = stage
         return stage
      end
   end
   pkt.verdict, pkt.stage = C.TW_SINK, stage
   return stage
end

function Punts:run(frame, stage, method)
   stage = self:walk(frame, stage, method)
   if bit.band(frame.pkt.verdict, 0xff) == HOLD then
      self:hold(frame, stage)
   else
      way_out.settle(self, frame, stage)
   end
end

-- ---- packets that wait ----

local waiting, ready = {}, {} -- lists of { punts, frame, stage, queue, key, deadline }

function Punts:hold(frame, stage)
   local pkt = frame.pkt
   local id = bit.rshift(pkt.verdict, 8)
   local queue, key = hold.queue(id), tonumber(pkt.key)
   local all, same = 0, 0
   for _, w in ipairs(waiting) do
      if w.queue == id then
         all = all + 1
         if w.key == key then same = same + 1 end
      end
   end
   if not queue or all >= queue.slots or same >= queue.per_key then return self:lose(frame, stage, "hold_full") end
   waiting[#waiting + 1] = {
      punts = self, frame = frames.copy(frame), stage = stage, queue = id, key = key,
      deadline = tonumber(C.tw_now()) + queue.timeout,
   }
   self.held = self.held + 1
   observe.seen(self.hook, C.TW_EDGE_HELD, frame, stage, pkt.verdict)
end

-- Takes those out of the list of packets that wait of which `which` is true.
local function take(which)
   local taken, kept = {}, {}
   for _, w in ipairs(waiting) do
      local list = which(w) and taken or kept
      list[#list + 1] = w
   end
   if #taken > 0 then waiting = kept end
   return taken
end

--- queue:release(key) in the control thread.
---@return integer released
function M.release(queue, key)
   local list = take(function(w) return w.queue == queue.id and w.key == key end)
   for _, w in ipairs(list) do ready[#ready + 1] = w end
   return #list
end

local function drop_waiting(reason, which)
   for _, w in ipairs(take(which)) do
      w.punts.held = w.punts.held - 1
      w.punts:lose(w.frame, w.stage, reason)
   end
end

-- ---- frames that NFs make ----

local made = {}

--- tw.emit() in the control thread.
---@return tideway.pkt? nil where no NF of a hook runs, or for a port or length that cannot be
function M.emit(port, len, onward)
   local punts = current.punts
   if not punts or not punts:interfaces()[port] or len > place.FRAME then return nil end
   local frame = frames.new(len)
   local pkt = frame.pkt
   pkt.out, pkt.port, pkt.stage = port, C.TW_PORT_NONE, C.TW_STAGE_ENGINE
   pkt.verdict = onward and NEXT or bit.bor(PORT, bit.lshift(port, 8))
   made[#made + 1] = { punts = punts, frame = frame, stage = onward and current.stage + 1 }
   return pkt
end

-- What came up meanwhile: frames that were made, packets that were released. Bounded: these make more of them.
local function follow_up()
   for _ = 1, 64 do
      if #made == 0 and #ready == 0 then return end
      local frames_made, released = made, ready
      made, ready = {}, {}
      for _, m in ipairs(frames_made) do
         m.punts.counts.originated = m.punts.counts.originated + 1
         if m.stage then
            m.punts:run(m.frame, m.stage, "packet")
         else
            way_out.to_port(m.punts, m.frame, m.frame.pkt.out, C.TW_STAGE_ENGINE)
         end
      end
      for _, w in ipairs(released) do
         w.punts.held = w.punts.held - 1
         w.punts:run(w.frame, w.stage, "packet")
      end
   end
end
M.follow_up = follow_up

-- ---- packets that were punted ----

--- Network interfaces by port index.
---@return table<integer, integer>
function Punts:interfaces() return self.hook.parts[1] and self.hook.parts[1].interfaces or {} end

--- Those that a flood goes to.
---@return table<integer, integer>
function Punts:flood_ports() return self.hook.parts[1] and self.hook.parts[1].flood or {} end

local function uses_ring(hook)
   for _, part in ipairs(hook.parts) do
      for _, p in ipairs(part.split.parts) do
         if p.compiled.punt_table then return true end
      end
   end
end

--- Opens the ring once a program has it; raises what is wrong.
function Punts:open()
   local source = self.sources[#self.sources]
   if source.reader or not uses_ring(self.hook) then return end
   local why = way_out.missing()
   if why then
      error(("%s: chain %s: its NFs punt packets, and what punt() passes can't be given to the kernel (%s); this needs "
         .. "Linux 5.18: pin the chain to an lcore"):format(self.hook.chain.where, self.hook.chain.name, why), 0)
   end
   local err
   source.reader, err = ringbuf.open(assert(backing.of(source.ring)))
   if not source.reader then error(err, 0) end
end

-- The first NF that punts may come when the chain runs already.
function Punts:open_late()
   if self.sources[#self.sources].reader or self.closed then return end
   local ok, err = pcall(self.open, self)
   if not ok then
      self.closed = true
      self.messages[#self.messages + 1] = tostring(err)
   end
end

--- The programs are attached. One that the driver could not take sees again what is passed, and has to know.
function Punts:attached()
   self:open()
   if not self.sources[#self.sources].reader then return end
   local fell_back = false
   for _, part in ipairs(self.hook.parts) do
      if part.link.mode == "generic" and part.target.link.mode ~= "generic" then
         part.target.generic, fell_back = true, true
      end
   end
   if fell_back then
      local ok, err = self.hook:replace(self.hook.stages)
      if not ok then error(err, 0) end
   end
   for _, part in ipairs(self.hook.parts) do
      if M.options(self.hook.chain, part.target).again and part.target.interface then
         for _, text in ipairs(advice.of_steering(self.hook.chain.name, part.target.interface)) do
            self.messages[#self.messages + 1] = text
         end
      end
   end
end

--- The table by which a program knows a packet that it sees again when it is passed; nil when it does not.
---@param frame tideway.hook.frame
---@return table?
function Punts:marks_passed(frame)
   for _, part in ipairs(self.hook.parts) do
      local options = M.options(self.hook.chain, part.target)
      if options.again and (part.link and part.link.ifindex or frame.ifindex) == frame.ifindex then
         return options.again
      end
   end
end

--- Handle packets that were punted.
---@param most integer
---@return integer handled
function Punts:drain(most)
   local n = 0
   for _, source in ipairs(self.sources) do n = n + self:drain_one(source, most - n) end
   return n
end

function Punts:drain_one(source, most)
   local n = 0
   while n < most and source.reader do
      local p = source.reader:look()
      if p == nil then break end
      local record = ffi.cast(RECORD, p)
      local stage = source.at and source.at(record.stage) or record.stage
      self.taken, n = self.taken + 1, n + 1
      if stage == C.TW_STAGE_GONE then
         self:drop(stage, "nf_removed")
      else
         frames.fill(self.frame, record)
         self:run(self.frame, stage, "punt")
         follow_up()
      end
   end
   return n
end

--- Give back what is open, drop what waits.
---@param reason? string default: the engine stops
function Punts:close(reason)
   drop_waiting(reason or "engine_stopped", function(w) return w.punts == self end)
   for _, source in ipairs(self.sources) do
      if source.reader then source.reader:close() end
      source.reader = nil
   end
end

-- ---- changes ----

-- Counts by stage, with the numbers that stages have now.
local function renumbered(list, map, add)
   local out = {}
   for stage, value in pairs(list) do
      local now = map(stage)
      out[now] = add(out[now], value)
   end
   return out
end

local function add_numbers(a, b) return (a or 0) + b end

local function add_drops(a, b)
   a = a or {}
   for id, n in pairs(b) do a[id] = (a[id] or 0) + n end
   return a
end

local function composed(first, second)
   if not first then return second end
   return function(stage) return second(first(stage)) end
end

--- Other programs run: the stages have other numbers, if there is another ring.
---@param change tideway.hook.change
function Punts:renumber(change)
   if change.ring then
      local map, counts, known = counters.mapping(change.from), self.counts, nil
      counts.stage_in = renumbered(counts.stage_in, map, add_numbers)
      counts.drops = renumbered(counts.drops, map, add_drops)
      for _, w in ipairs(waiting) do
         if w.punts == self then w.stage = map(w.stage) end
      end
      drop_waiting("nf_removed", function(w) return w.punts == self and w.stage == C.TW_STAGE_GONE end)
      for i = #self.sources, 1, -1 do
         local source = self.sources[i]
         if source.ring == change.ring then
            known = table.remove(self.sources, i)
            known.at = nil
         else
            source.at = composed(source.at, map)
         end
      end
      self.sources[#self.sources + 1] = known or { ring = change.ring }
      rings[self.hook.chain].ring = change.ring
   end
   self.closed = nil
   self:open_late()
end

--- The programs that use this ring run no more.
---@param ring table
function Punts:forget(ring)
   for i, source in ipairs(self.sources) do
      if source.ring == ring and i < #self.sources then
         self:drain_one(source, math.huge)
         if source.reader then source.reader:close() end
         source.reader, source.gone = nil, true
      end
   end
   for i = #self.sources, 1, -1 do
      if self.sources[i].gone then table.remove(self.sources, i) end
   end
end

-- ---- all chains ----

--- One round over the chains on hooks.
---@param hooks tideway.hook.chain[]
---@return boolean more there may be more
function M.turn(hooks)
   local more = false
   for _, hook in ipairs(hooks) do
      hook.punts:open_late()
      more = hook.punts:drain(BATCH) == BATCH or more
   end
   local now = tonumber(C.tw_now())
   drop_waiting("hold_timeout", function(w) return now >= w.deadline end)
   follow_up()
   return more
end

--- What becomes readable when a packet is punted.
---@param hooks tideway.hook.chain[]
---@return integer[] descriptors
function M.descriptors(hooks)
   local list = {}
   for _, hook in ipairs(hooks) do
      for _, source in ipairs(hook.punts.sources) do
         if source.reader then list[#list + 1] = source.reader.fd end
      end
   end
   return list
end

hold.control = M

return M
