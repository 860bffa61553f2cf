-- SPDX-License-Identifier: BSD-3-Clause
-- trace(n, filter): packets followed through every NF of their chain: verdict, fields before and after, time in each.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local decode = require "tideway.live.decode"
local edges = require "tideway.live.edge"
local engine = require "tideway.engine"
local filters = require "tideway.live.filter"
local model = require "tideway.model"
local nearest = require "tideway.live.nearest"
local nfs = require "tideway.nf"
local view = require "tideway.live.view"
local watch = require "tideway.live.watch"

local C = abi.C
local M = {}

local PACKETS_MAX = 1000
local SNAPLEN = 256
local SURE = 1000 -- packets that make a mean of their times
local RECORDS = 100 -- at a time: each is taken apart
local EDGES = bit.bor(C.TW_EDGE_IN, C.TW_EDGE_NF, C.TW_EDGE_OUT, C.TW_EDGE_DROP)

local OPTIONS = {
   chain = { type = "string", doc = "name of a chain; default: all" },
   reason = { type = "string", doc = "only packets that are dropped for it" },
   seconds = { type = "number", min = 0.001, doc = "at most so long" },
   sample = { type = "number", min = 1, default = 1, doc = "one in so many that match" },
}

---@class tideway.live.trace.step
---@field nf string
---@field punt? boolean its punt()
---@field verdict string
---@field argument? string reason or port of the verdict
---@field ns integer
---@field changes tideway.live.change[]

---@class tideway.live.trace.packet
---@field chain string
---@field place string
---@field from? string port
---@field length integer as it came in
---@field summary string
---@field time number seconds since 1970
---@field steps tideway.live.trace.step[]
---@field result string "sent", "dropped", "held"
---@field to? string port or ring
---@field reason? string
---@field by? string NF that dropped it or holds it, nil: the engine

-- ---- from records to packets ----

-- What of a record is compared with the next one.
local function sight_of(record, frame, part)
   local _, out = part:ways(record)
   local headers = decode.headers(filters.packet(record, frame))
   local payload = decode.payload_offset(headers)
   return {
      headers = headers, length = record.len, mark = record.mark, out = out,
      payload = record.caplen > payload and ffi.string(frame + payload, record.caplen - payload) or "",
   }
end

local function differing(a, b)
   local count = 0
   for i = 1, math.min(#a, #b) do
      if a:byte(i) ~= b:byte(i) then count = count + 1 end
   end
   return count
end

local function changes_between(before, after)
   local changes = decode.changes(before.headers, after.headers)
   local function add(field, a, b)
      if a ~= b then
         changes[#changes + 1] = { field = field, before = a and tostring(a), after = b and tostring(b) }
      end
   end
   add("length", before.length, after.length)
   add("mark", before.mark, after.mark)
   add("out", before.out, after.out)
   local bytes = differing(before.payload, after.payload)
   if bytes > 0 then changes[#changes + 1] = { field = "payload", after = ("%d bytes differ"):format(bytes) } end
   return changes
end

local function begin(record, frame, part)
   local from = part:ways(record)
   local sight = sight_of(record, frame, part)
   return {
      sight = sight,
      packet = {
         chain = watch.chain_name(record), place = part:place(record), from = from, length = record.len,
         summary = decode.summary(sight.headers), steps = {},
         time = tonumber(ffi.cast("int64_t", record.time) + watch.epoch()) / 1e9,
      },
   }
end

local function add_step(open, record, frame, part)
   local sight = sight_of(record, frame, part)
   local verdict, argument = watch.verdict(record)
   local steps = open.packet.steps
   steps[#steps + 1] = {
      nf = watch.stage_name(record) or "?", punt = bit.band(record.flags, C.TW_WATCH_PUNT) ~= 0 or nil,
      verdict = verdict, argument = argument, ns = record.spent, changes = changes_between(open.sight, sight),
   }
   open.sight = sight
end

local function finish(open, record, part)
   local packet, _ = open.packet, nil
   packet.incomplete = bit.band(record.flags, C.TW_WATCH_INCOMPLETE) ~= 0 or nil
   if record.edge == C.TW_EDGE_OUT then
      packet.result = "sent"
      _, packet.to = part:ways(record)
      return packet
   end
   packet.by = watch.stage_name(record)
   if record.edge == C.TW_EDGE_DROP then
      packet.result = "dropped"
      _, packet.reason = watch.verdict(record)
   else
      packet.result = "held"
   end
   return packet
end

-- Puts records together; calls `done` with each packet that is complete.
local function assembler(w, done)
   local open = {}
   return function(record, frame, part)
      local of_part = open[part] or {}
      open[part] = of_part
      local number = record.packet
      if record.edge == C.TW_EDGE_IN then
         if w:accepts(record, frame) then of_part[number] = begin(record, frame, part) end
      elseif of_part[number] and record.edge == C.TW_EDGE_NF then
         add_step(of_part[number], record, frame, part)
      elseif of_part[number] then
         local packet = finish(of_part[number], record, part)
         of_part[number] = nil
         done(packet)
      end
   end
end

-- ---- as a view ----

local function result_text(p)
   if p.result == "sent" then return p.to and "sent to " .. p.to or "sent" end
   if p.result == "dropped" then return ("dropped by %s: %s"):format(p.by or "the engine", p.reason or "?") end
   return ("held by %s"):format(p.by or "the engine")
end

local function change_text(c)
   if c.field == "payload" then return "payload: " .. c.after end
   return ("%s %s -> %s"):format(c.field, c.before or "none", c.after or "none")
end

local function rows_of(p)
   local rows = {}
   for _, step in ipairs(p.steps) do
      local nf = step.punt and step.nf .. " (punt)" or step.nf
      local verdict = step.argument and ("%s %s"):format(step.verdict, step.argument) or step.verdict
      rows[#rows + 1] = { nf, verdict, step.ns, step.changes[1] and change_text(step.changes[1]) or "" }
      for i = 2, #step.changes do rows[#rows + 1] = { "", "", "", change_text(step.changes[i]) } end
   end
   return rows
end

local function view_of(p, number)
   local v = view.table({ "NF", "verdict", { name = "ns", align = "right" }, "changed" }, rows_of(p), p)
   v.title = ("packet %d: %s, %d bytes%s, chain %s on %s: %s%s"):format(number, p.summary, p.length,
      p.from and " from " .. p.from or "", p.chain, p.place, result_text(p),
      p.incomplete and " (not all of its steps are here)" or "")
   return v
end

local ENDS = { count = false, time = "the time is over", stopped = "stopped" }

-- What packets of these chains take when nobody follows them.
local function usual(packets, before)
   local lines, seen = {}, {}
   for _, p in ipairs(packets) do seen[p.chain] = true end
   for _, c in ipairs(before.chains) do
      if seen[c.name] and c.rx >= SURE and not c.hook then
         local ns = c.cycles_per_packet * 1e9 / tonumber(C.tw_tsc_hz())
         lines[#lines + 1] = ("chain %s otherwise runs as %s, in %.0f ns a packet"):format(c.name, c.tier, ns)
      end
   end
   return lines
end

local function shown(packets, w, count, before)
   local items, lines = {}, watch.cost(w:counts())
   for _, line in ipairs(usual(packets, before)) do lines[#lines + 1] = line end
   for i, p in ipairs(packets) do items[i] = view_of(p, i) end
   local why = ENDS[w.over]
   if why == nil then why = w.over end
   if why then table.insert(lines, 1, ("%d of %d packets: %s"):format(#packets, count, why)) end
   items[#items + 1] = view.text(table.concat(lines, "\n"))
   return view.list(items, { packets = packets, ended = w.over, cost = w:counts() })
end

-- ---- the command ----

local function chains_of(name)
   local list = {}
   if model.find(model.services, "name", name) or (not name and #model.chains == 0 and #model.services > 0) then
      error(("trace follows packets, and %s takes messages; `tideway top` shows what its functions do"):format(
         name and "chain " .. name or "every chain here"), 0)
   end
   for _, c in ipairs(model.chains) do
      if watch.can(c) then list[#list + 1] = c end
   end
   if not name then return list end
   local chain = model.find(model.chains, "name", name)
   if chain then return { chain } end
   local known = {}
   for i, c in ipairs(model.chains) do known[i] = c.name end
   error(("there is no chain %q%s"):format(name, nearest.hint(name, known)), 0)
end

--- Follow n packets that match a filter through every NF of their chain: what each NF said and changed, and how long it
--- took. The filter is a text in pcap-filter language or a function(pkt). Traced packets run their NFs one by one as
--- plain Lua, so the times compare NFs with each other, not with compiled chains. Ctrl-C ends it with what there is.
--- Options: chain = "up", reason = "ttl_low" (only those that are dropped for it), seconds = 10, sample = 100.
---@param n? integer default 1: trace "icmp"
---@param filter? string|fun(pkt: tideway.pkt): any
---@param options? table
---@return tideway.view
function M.trace(n, filter, options)
   if type(n) ~= "number" then n, filter, options = 1, n, filter end -- trace "icmp"
   if type(filter) == "table" and options == nil then filter, options = nil, filter end
   if type(n) ~= "number" or n < 1 or n > PACKETS_MAX or n % 1 ~= 0 then
      error(("trace(n, filter): n is a number of packets from 1 to %d, not %s"):format(PACKETS_MAX, tostring(n)), 0)
   end
   local o = nfs.args("trace", options or {}, OPTIONS)
   if o.reason then edges.check_reason(o.reason) end
   local w = watch.open({ name = "trace", chains = chains_of(o.chain), edges = EDGES }, {
      filter = filter, count = n, seconds = o.seconds, sample = o.sample, reason = o.reason, snaplen = SNAPLEN,
      headers = watch.headers_only(), follow = true,
   })
   local packets, before = {}, engine.snapshot()
   local take = assembler(w, function(packet)
      if w.over == "count" then return end
      packets[#packets + 1] = packet
      w.taken = #packets
      if #packets == n then w.over = "count" end
   end)
   w:run(take, RECORDS)
   local result = shown(packets, w, n, before)
   w:close()
   return result
end

return M
