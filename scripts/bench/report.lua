-- SPDX-License-Identifier: BSD-3-Clause
-- What the rounds of a benchmark add up to: medians, ratios within a round, the machine.

local M = {}

---@param values number[] at least one
---@return number
function M.median(values)
   local sorted = {unpack(values)}
   table.sort(sorted)
   local half = math.floor(#sorted / 2)
   if #sorted % 2 == 1 then return sorted[half + 1] end
   return (sorted[half] + sorted[half + 1]) / 2
end

local function low(values) return math.min(unpack(values)) end
local function high(values) return math.max(unpack(values)) end

--- Pairs two contenders' rates of the same round, because rates drift between rounds.
---@param rates table<integer, number> by round; rounds may be missing
---@param reference table<integer, number>
---@param combine fun(own: number, other: number): number
---@return number[]
local function paired(rates, reference, combine, rounds)
   local values = {}
   for round = 1, rounds do
      if rates[round] and reference[round] then
         values[#values + 1] = combine(rates[round], reference[round])
      end
   end
   return values
end

local function ratio(own, other) return own / other end
local function extra_ns(own, other) return 1000 / own - 1000 / other end

local function present(rates, rounds)
   return paired(rates, rates, function(own) return own end, rounds)
end

---@class bench.Row
---@field contender string
---@field mpps {median: number, min: number, max: number}?
---@field ratio {median: number, min: number, max: number}?
---@field extra_ns {median: number, min: number, max: number}?
---@field goal string?
---@field met boolean?
---@field missing string?

local function spread(values)
   if #values == 0 then return nil end
   return {median = M.median(values), min = low(values), max = high(values)}
end

-- A row that is computed round by round from the rates of several contenders.
local function derived_row(derived, rates, rounds)
   local values = {}
   for round = 1, rounds do
      local whole = true
      local ns = derived.ns(function(name)
         local rate = rates[name] and rates[name][round]
         whole = whole and rate ~= nil
         return rate or 1
      end)
      if whole then values[#values + 1] = ns end
   end
   local row = {contender = derived.name, extra_ns = spread(values), derived = true}
   row.goal = ("under %.1f ns a packet"):format(derived.most)
   row.met = row.extra_ns and row.extra_ns.median < derived.most
   return row
end

---@param group bench.Group
---@param rates table<string, table<integer, number>> Mpps by contender and round
---@param missing table<string, string> why a contender has no rates
---@param rounds integer
---@return bench.Row[]
function M.rows(group, rates, missing, rounds)
   local rows = {}
   local reference = rates[group.members[1]] or {}
   for i, name in ipairs(group.members) do
      local own = rates[name] or {}
      local row = {contender = name, mpps = spread(present(own, rounds)), missing = missing[name]}
      if i > 1 then
         row.ratio = spread(paired(own, reference, ratio, rounds))
         row.extra_ns = spread(paired(own, reference, extra_ns, rounds))
      end
      local least, most = group.goals[name], group.extra_ns and group.extra_ns[name]
      if least then
         row.goal = ("at least %.2f"):format(least)
         row.met = row.ratio and row.ratio.median >= least
      elseif most then
         row.goal = ("under %.1f ns more a packet"):format(most)
         row.met = row.extra_ns and row.extra_ns.median < most
      end
      rows[i] = row
   end
   if group.derived then rows[#rows + 1] = derived_row(group.derived, rates, rounds) end
   return rows
end

local function goal_text(row)
   if not row.goal then return "" end
   if row.met == nil then return row.goal .. ": not measured" end
   return row.goal .. (row.met and ": met" or ": MISSED")
end

---@param group bench.Group
---@param rows bench.Row[]
---@return string
function M.table(group, rows)
   local out = {("\n%s - %s"):format(group.name, group.title)}
   out[2] = ("   %-17s %7s %7s %7s   %-21s %-24s %s"):format("contender", "Mpps", "min", "max",
      "ratio (rounds)", "ns a packet more", "goal")
   for _, row in ipairs(rows) do
      local line
      if row.derived and row.extra_ns then
         local more = row.extra_ns
         line = ("   %-65s %-24s %s"):format(row.contender,
            ("%+.2f (%+.2f..%+.2f)"):format(more.median, more.min, more.max), goal_text(row))
      elseif not row.mpps then
         line = ("   %-17s skipped: %s"):format(row.contender, row.missing or "no round succeeded")
      else
         local rel, more = row.ratio, row.extra_ns
         line = ("   %-17s %7.2f %7.2f %7.2f   %-21s %-24s %s"):format(row.contender,
            row.mpps.median, row.mpps.min, row.mpps.max,
            rel and ("%.3f (%.3f..%.3f)"):format(rel.median, rel.min, rel.max) or "reference",
            more and ("%+.2f (%+.2f..%+.2f)"):format(more.median, more.min, more.max) or "",
            goal_text(row))
      end
      out[#out + 1] = (line:gsub("%s+$", ""))
   end
   return table.concat(out, "\n")
end

local function first_match(path, pattern)
   local file = io.open(path)
   if not file then return nil end
   local found = file:read("*a"):match(pattern)
   file:close()
   return found
end

local function output(command)
   local pipe = assert(io.popen(command .. " 2>/dev/null"))
   local line = pipe:read "*l"
   pipe:close()
   return line
end

---@return {cpu: string, cpus: string, kernel: string, dpdk: string, hypervisor: string}
function M.machine()
   local cpuinfo = io.open("/proc/cpuinfo"):read "*a"
   return {
      cpu = cpuinfo:match "model name%s*:%s*([^\n]+)" or "unknown",
      mhz = cpuinfo:match "cpu MHz%s*:%s*([^\n]+)" or "unknown",
      cpus = output "nproc" or "unknown",
      kernel = first_match("/proc/sys/kernel/osrelease", "%S+") or "unknown",
      dpdk = output "pkg-config --modversion libdpdk" or "unknown",
      virtual = cpuinfo:match "flags[^\n]* hypervisor" and "yes" or "no",
      load = first_match("/proc/loadavg", "%S+") or "unknown",
   }
end

---@return string
function M.machine_text(machine)
   return ("machine: %s, %s MHz, %s CPUs, virtual: %s; Linux %s; DPDK %s; load at start %s"):format(
      machine.cpu, machine.mhz, machine.cpus, machine.virtual, machine.kernel, machine.dpdk,
      machine.load)
end

-- Enough JSON for the report: strings, numbers, booleans, lists and string-keyed tables.
---@param value any
---@return string
function M.json(value)
   local kind = type(value)
   if kind == "string" then
      return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
   elseif kind ~= "table" then
      return kind == "number" and ("%.6g"):format(value) or tostring(value)
   end
   local parts = {}
   if #value > 0 or next(value) == nil then
      for i, item in ipairs(value) do parts[i] = M.json(item) end
      return "[" .. table.concat(parts, ",") .. "]"
   end
   for key, item in pairs(value) do
      parts[#parts + 1] = M.json(tostring(key)) .. ":" .. M.json(item)
   end
   table.sort(parts)
   return "{" .. table.concat(parts, ",") .. "}"
end

return M
