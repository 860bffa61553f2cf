-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway bench --runs N`: the script in N processes, one after another, and what they measured as one result. What
-- differs from start to start, such as where code and memory lie, is in its intervals then.

local abi = require "tideway.abi"
local json = require "tideway.json"
local log = require "tideway.log"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local progress = require "tideway.bench.progress"
local result = require "tideway.bench.result"
local rows = require "tideway.bench.rows"
local statistics = require "tideway.bench.statistics"

local C = abi.C
local LOOK_MS, PATIENCE_NS = 20, 3e9
local M = {}

-- ---- many results as one ----

local function append(to, from)
   for _, value in ipairs(from or {}) do to[#to + 1] = value end
   return to
end

local function joined(list, key)
   local out = {}
   for _, item in ipairs(list) do append(out, item[key]) end
   return #out > 0 and out or nil
end

-- Reasons of several runs, each kind once, where it was worst.
local function reasons(list)
   local order, worst = {}, {}
   for _, item in ipairs(list) do
      for _, text in ipairs(item.why or {}) do
         local kind, figure = text:gsub("%d+", "#"):gsub("rounds", "round"), tonumber(text:match "%d+") or 0
         if not worst[kind] then order[#order + 1] = kind end
         if not worst[kind] or figure > worst[kind].figure then worst[kind] = { figure = figure, text = text } end
      end
   end
   local out = {}
   for _, kind in ipairs(order) do
      if not worst[kind].text:find "^the rounds spread" then out[#out + 1] = worst[kind].text end
   end
   return out
end

-- Values of several runs with their median, interval and verdict: unstable when they spread, or when most runs were.
local function pool(list)
   local values, unstable = joined(list, "values"), 0
   if not values then return nil end
   local out = statistics.summary(values)
   for _, item in ipairs(list) do
      if item.verdict == "unstable" then unstable = unstable + 1 end
   end
   out.values, out.verdict = values, "stable"
   local wide = out.spread and out.spread > rows.SPREAD
   if not wide and unstable <= #list / 2 then return out end
   out.verdict, out.why = "unstable", reasons(list)
   if wide then table.insert(out.why, 1, ("the rounds spread by %.0f %%"):format(out.spread * 100)) end
   return out
end

local function parts(list, key)
   local out = {}
   for _, item in ipairs(list) do out[#out + 1] = item[key] end
   return out
end

local function copy(t)
   local out = {}
   for key, value in pairs(t) do out[key] = value end
   return out
end

-- A row of a group, or a point of a curve, of all runs that have it.
local function merge_row(list, group)
   local out = copy(list[1])
   local whole = pool(list)
   if not whole then return out end
   for key, value in pairs(whole) do out[key] = value end
   out.why, out.missing = whole.why, nil
   out.cpu_ns, out.ratio = joined(list, "cpu_ns"), pool(parts(list, "ratio"))
   local net = parts(list, "net")
   if #net > 0 then out.net = { ns = pool(parts(net, "ns")), cycles = pool(parts(net, "cycles")) } end
   if out.goal then rows.judge(out, out.goal, group) end
   return out
end

-- Lists of things with names, all of one name together, in the order of the first list.
local function by_name(lists, key)
   local order, found = {}, {}
   for _, list in ipairs(lists) do
      for _, item in ipairs(list) do
         local name = item[key]
         if not found[name] then found[name], order[#order + 1] = {}, name end
         table.insert(found[name], item)
      end
   end
   local out = {}
   for i, name in ipairs(order) do out[i] = found[name] end
   return out
end

local MERGE = {}

function MERGE.group(list, out)
   out.rows, out.speeds = {}, joined(list, "speeds")
   for i, same in ipairs(by_name(parts(list, "rows"), "name")) do out.rows[i] = merge_row(same, out) end
end

function MERGE.curve(list, out)
   out.series = {}
   for i, same in ipairs(by_name(parts(list, "series"), "name")) do
      out.series[i] = copy(same[1])
      out.series[i].points = {}
      for k, points in ipairs(by_name(parts(same, "points"), "x")) do
         out.series[i].points[k] = merge_row(points, out)
      end
   end
end

--- Documents of several runs of one script as one; what has no rounds, such as a search, is that of the first.
---@param documents table[]
---@return table document
function M.merge(documents)
   local out = copy(documents[1])
   out.results, out.runs, out.seconds = {}, #documents, 0
   for _, d in ipairs(documents) do
      out.seconds = out.seconds + (d.seconds or 0)
      out.interrupted = out.interrupted or d.interrupted
   end
   for i, same in ipairs(by_name(parts(documents, "results"), "name")) do
      local good = {}
      for _, entry in ipairs(same) do
         if not entry.error then good[#good + 1] = entry end
      end
      local entry = copy(good[1] or same[1])
      if MERGE[entry.kind] and #good > 0 then
         MERGE[entry.kind](good, entry)
         entry.runs = #good
      end
      out.results[i] = entry
   end
   return out
end

-- ---- the runs ----

local PASSED = { "rounds", "seconds", "only", "name", "memory", "log_level" }

local function quoted(word) return "'" .. tostring(word):gsub("'", "'\\''") .. "'" end

local function command_of(path, args, opts)
   local words = { quoted(posix.readlink "/proc/self/exe"), "bench", "--json", "-" }
   for _, key in ipairs(PASSED) do
      if opts[key] then append(words, { "--" .. key:gsub("_", "-"), quoted(opts[key]) }) end
   end
   for _, key in ipairs { "quick", "no_huge", "quiet" } do
      if opts[key] then words[#words + 1] = "--" .. key:gsub("_", "-") end
   end
   words[#words + 1] = quoted(path)
   for _, word in ipairs(args) do words[#words + 1] = quoted(word) end
   return table.concat(words, " ")
end

-- What later runs need not do again.
local function with_rounds(document)
   local names = {}
   for _, entry in ipairs(document.results) do
      if MERGE[entry.kind] then names[#names + 1] = entry.name end
   end
   return #names > 0 and table.concat(names, ",") or nil
end

-- Until it ends. A terminal's Ctrl-C reaches it too; a signal that was for this process alone is passed on.
local function await(pid)
   local since
   while not process.ended(pid) do
      posix.poll({}, LOOK_MS)
      if C.tw_signal_pending() ~= 0 then
         since = since or posix.now()
         if posix.now() - since > PATIENCE_NS then
            process.terminate(pid)
            since = math.huge
         end
      end
   end
end

local function one(path, args, opts)
   local file = os.tmpname()
   local pid, err = process.spawn { "sh", "-c", ("exec %s >%s"):format(command_of(path, args, opts), quoted(file)) }
   if not pid then return nil, err end
   await(pid)
   local text = posix.slurp(file) or ""
   os.remove(file)
   if text == "" then return nil end
   return json.decode(text)
end

--- Run a script so many times.
---@param path string
---@param args string[]
---@param opts table the command's options
---@return integer exit code
function M.run(path, args, opts)
   local documents, rest = {}, copy(opts)
   C.tw_sleep_ms(0) -- from here on the first Ctrl-C is for the run, which ends with what it has
   for n = 1, opts.runs do
      progress.line(("run %d of %d"):format(n, opts.runs))
      local document = one(path, args, rest)
      if not document then break end -- it has said why
      documents[n] = document
      rest.only = with_rounds(document)
      if document.interrupted or not rest.only then break end
   end
   if #documents == 0 then return 2 end
   if #documents < opts.runs then log.error("%d of %d runs", #documents, opts.runs) end
   local document = #documents > 1 and M.merge(documents) or documents[1]
   document.command = opts.command
   local code = result.finish(document, opts)
   return #documents < opts.runs and 1 or code
end

return M
