-- SPDX-License-Identifier: BSD-3-Clause
-- HTTP load as a contender: wrk sends; this starts it, and reads what it found and what CPU time the server took.

local child = require "tideway.bench.child"
local json = require "tideway.json"
local posix = require "tideway.posix"
local runner = require "tideway.bench.runner"

local M = {}

local MARK = "tideway_wrk:"
local PATIENCE = 10 -- seconds that wrk may take longer than it was told
local PERCENTILES = { 50, 75, 90, 99, 99.9, 99.99 }

-- What wrk runs in each of its threads: the user's script, and behind its own done() one that prints everything as
-- a line of JSON. Times are microseconds.
local REPORT = [[
local users = ...
%s
local own = done
function done(summary, latency, requests)
   if own then own(summary, latency, requests) end
   local parts, values = {}, {}
   for _, name in ipairs { "duration", "requests", "bytes" } do
      parts[#parts + 1] = ('"%%s":%%.0f'):format(name, summary[name])
   end
   for name, count in pairs(summary.errors) do parts[#parts + 1] = ('"%%s":%%.0f'):format(name, count) end
   for _, name in ipairs { "min", "max", "mean", "stdev" } do
      parts[#parts + 1] = ('"latency_%%s":%%.1f'):format(name, latency[name])
   end
   for _, p in ipairs { %s } do values[#values + 1] = ('"%%s":%%.0f'):format(p, latency:percentile(p)) end
   local raw = {}
   for i = 1, #latency do raw[i] = ("[%%.0f,%%.0f]"):format(latency(i)) end
   io.write("\n%s{", table.concat(parts, ","), ',"percentiles":{', table.concat(values, ","), '},"raw":[',
      table.concat(raw, ","), "]}\n")
end
]]

---@class tideway.bench.http
---@field name string
---@field note string
local Http = {}
Http.__index = Http

local function inside(self, argv)
   if self.netns then return { "ip", "netns", "exec", self.netns, unpack(argv) } end
   return argv
end

local function wrapper(self)
   local path = os.tmpname()
   local file = assert(io.open(path, "w"))
   -- The user's script sees what it would without us: it is a chunk of its own.
   local users = self.script and ("assert(loadfile(%q))(...)"):format(self.script) or ""
   file:write(REPORT:format(users, table.concat(PERCENTILES, ","), MARK))
   file:close()
   return path
end

local function wrk_command(self, seconds, path)
   local argv = { "wrk", "--threads", self.threads, "--connections", self.connections, "--duration", seconds .. "s",
      "--timeout", self.timeout .. "s", "--script", path }
   for _, header in ipairs(self.headers) do
      argv[#argv + 1], argv[#argv + 2] = "--header", header
   end
   argv[#argv + 1] = self.url
   if #self.arguments > 0 then argv[#argv + 1] = "--" end
   for _, word in ipairs(self.arguments) do argv[#argv + 1] = word end
   if self.cpus then argv = { "taskset", "--cpu-list", self.cpus, unpack(argv) } end
   for i, word in ipairs(argv) do argv[i] = tostring(word) end
   return inside(self, argv)
end

-- wrk, at work.
local function start_wrk(self, seconds)
   local path = wrapper(self)
   local wrk, err = child.start(wrk_command(self, seconds, path))
   if wrk then return { child = wrk, path = path, seconds = seconds } end
   os.remove(path)
   return nil, err
end

-- What wrk found, when it is done; nil and why when it found nothing.
local function end_wrk(self, wrk)
   local limit = wrk.seconds + PATIENCE + self.timeout
   local ok, ended = pcall(runner.wait, function() return not wrk.child:running() end, limit)
   if not (ok and ended) then wrk.child:stop(1) end
   os.remove(wrk.path)
   if not ok then error(ended, 0) end
   local text = wrk.child:output():match(MARK .. "([^\n]+)")
   local epitaph = not text and wrk.child:epitaph()
   wrk.child:stop()
   if not text then return nil, epitaph end
   return json.decode(text)
end

local function run_wrk(self, seconds)
   local wrk, err = start_wrk(self, seconds)
   if not wrk then return nil, err end
   return end_wrk(self, wrk)
end

local function pids_of(self)
   local pids = self.processes
   if type(pids) == "function" then pids = pids() end
   pids = { unpack(pids or {}) }
   if self.child then pids[#pids + 1] = self.child.pid end
   return pids
end

local function answers(self)
   return child.run(inside(self, { "curl", "--silent", "--insecure", "--output", "/dev/null", "--max-time", "2",
      self.url }))
end

-- Starts the server, if it is ours to start, and warms both up.
local function start(self)
   if self.server then
      local err
      self.child, err = child.start(inside(self, self.server), self.log)
      if not self.child then return nil, ("%s: %s"):format(self.name, err) end
      local ready = runner.wait(function() return not self.child:running() or answers(self) end, self.start_limit, 0.05)
      if not ready or not self.child:running() then
         err = ("%s: %s is not answered %s; %s"):format(self.name, self.url,
            ready and "" or ("in %d s"):format(self.start_limit), self.child:epitaph())
         self:stop()
         return nil, err
      end
   end
   if self.warm_up <= 0 then return true end
   local found, err = run_wrk(self, self.warm_up)
   if found then return true end
   self:stop()
   return nil, ("%s: %s"):format(self.name, err)
end

--- Start the server and warm both up, unless that is done for each measurement.
---@return boolean? ok
---@return string? error
function Http:start()
   if self.alone then return true end
   return start(self)
end

local function histogram_of(raw)
   local ok, module = pcall(require, "tideway.bench.histogram")
   if not ok then return nil end
   local histogram = module.histogram()
   for _, pair in ipairs(raw) do histogram:record(pair[1] * 1000, pair[2]) end
   return histogram
end

local ERRORS = { { "connect", "connections refused" }, { "read", "failed reads" }, { "write", "failed writes" },
   { "timeout", "timeouts" }, { "status", "answers with status 400 or more" } }

local function errors_of(found)
   local list, count = {}, 0
   for _, e in ipairs(ERRORS) do
      local n = found[e[1]] or 0
      if n > 0 then list[#list + 1] = ("%d %s"):format(n, e[2]) end
      count = count + n
   end
   return count, list[1] and table.concat(list, ", ")
end

-- What a sample's value can be: of answers that are none of an error, what wrk found, and CPU time of the server.
local VALUES = {
   requests = function(good, found) return good / found.duration * 1e6, "requests/s" end,
   per_cpu = function(good, _, used) return good / used, "requests/CPU s" end,
   cpu = function(_, _, used, took) return used / took, "CPUs" end,
   p50 = function(_, found) return found.percentiles["50"], "us" end,
   p99 = function(_, found) return found.percentiles["99"], "us" end,
}

-- Load, from now on.
local function launch(self, seconds)
   local pids = pids_of(self)
   for _, pid in ipairs(pids) do
      if not posix.alive(pid) then return nil, ("%s: there is no process %d any more"):format(self.name, pid) end
   end
   local load = { pids = pids, before = child.cpu_time(pids), from = posix.now() }
   local err
   load.wrk, err = start_wrk(self, math.max(1, math.ceil(seconds)))
   if not load.wrk then return nil, ("%s: %s"):format(self.name, err) end
   return load
end

-- What came of it.
local function land(self, load)
   local found, err = end_wrk(self, load.wrk)
   local used, took = child.cpu_time(load.pids) - load.before, (posix.now() - load.from) / 1e9
   if found and self.child and not self.child:running() then found, err = nil, self.child:epitaph() end
   if not found then return nil, ("%s: %s"):format(self.name, err) end
   local good = found.requests - found.status
   local count, text = errors_of(found)
   if good <= 0 then
      return nil, ("%s: no request was answered well%s"):format(self.name, text and ": " .. text or "")
   end
   local extras = { errors = count, mbit = found.bytes * 8 / found.duration, rate = good / found.duration * 1e6 }
   for _, p in ipairs(PERCENTILES) do extras[("p%g_us"):format(p)] = found.percentiles[tostring(p)] end
   if #load.pids > 0 then extras.cpu_us = used / good * 1e6 end
   local value, unit = VALUES[self.value](good, found, used, took)
   return {
      value = value, unit = unit, note = text, extras = extras, cpu = #load.pids > 0 and used / took or nil,
      latency = histogram_of(found.raw),
   }
end

--- Begin to measure; others may begin meanwhile, and have their load at the same time.
---@param seconds number whole ones, at least 1
---@return boolean? ok
---@return string? error
function Http:begin(seconds)
   if self.alone and not self.child then
      local ok, err = start(self)
      if not ok then return nil, err end
   end
   local err
   self.load, err = launch(self, seconds)
   return self.load ~= nil or nil, err
end

--- Wait for the end of what began.
---@return table? sample value: as it was declared; latency; extras: rate: answers a second; percentiles in
---  microseconds, errors, cpu_us: CPU time of the server for an answer
---@return string? error
function Http:finish()
   local load = self.load
   self.load = nil
   return land(self, load)
end

--- Load for so long.
---@param seconds number whole ones, at least 1
---@return table? sample as of finish()
---@return string? error
function Http:measure(seconds)
   local called, sample, why = pcall(function()
      local ok, err = self:begin(seconds)
      if not ok then return nil, err end
      return self:finish()
   end)
   if self.alone then self:stop() end
   if not called then error(sample, 0) end
   return sample, why
end

--- End the server, if it was ours to start.
function Http:stop()
   if self.load then self.load.wrk.child:stop(1) end
   self.load = nil
   if self.child then self.child:stop(5, 15) end
   self.child = nil
end

--- Why it cannot run here.
---@return string?
function Http:missing()
   local reason = self.needs and self.needs()
   if reason then return reason end
   if not child.has "wrk" then return "wrk is not installed; try: apt-get install wrk" end
   if self.server and not child.has "curl" then return "curl is not installed; try: apt-get install curl" end
   if self.server and not child.has(self.server[1]) then return self.server[1] .. " is not installed" end
   if self.netns and posix.geteuid() ~= 0 then return "needs root to enter the network namespace " .. self.netns end
end

--- HTTP requests, as many as are answered: wrk keeps its connections and sends a request when the one before is
--- answered, so a slow server is asked less often. The latencies are those of this load and not of a given rate; wrk
--- adds those that requests would have had while it waited.
---@param o { url: string, name: string?, connections: integer?, threads: integer?, timeout: integer?, script: string?,
---  arguments: string[]?, headers: string[]?, server: string[]?, processes: (integer[]|fun(): integer[])?,
---  netns: string?, cpus: string?, warm_up: integer?, note: string?, missing: (fun(): string?)?, log: string?,
---  value: string?, alone: boolean? }
---  connections: default 64; threads: of wrk, default 1; timeout: seconds, default 2; script: a script of wrk's
---  (request(), response(), ...) with its arguments; headers: "Name: value"; server: a program that is started for the
---  measurement; processes: whose CPU time counts, besides the server's; netns: namespace that both run in; cpus:
---  CPUs of wrk, as taskset has them; warm_up: seconds, default 1; value = "requests" (a second), "per_cpu" (for
---  a second of the server's CPU time), "cpu" (CPUs that the server used), "p50", "p99" (us); alone: the server is
---  there only while it is measured, for one that polls
---@return tideway.bench.http contender
function M.http(o)
   local function wrong(...) error("bench.http: " .. string.format(...), 3) end
   if type(o) ~= "table" or type(o.url) ~= "string" or not o.url:find "^https?://[^/]" then
      wrong("url = \"http://host/path\" is needed, not %s", tostring(type(o) == "table" and o.url or o))
   end
   local connections, threads = o.connections or 64, o.threads or 1
   if type(connections) ~= "number" or type(threads) ~= "number" or connections < threads or threads < 1 then
      wrong("connections = %s, threads = %s: each thread needs a connection, and there is at least one", connections,
         threads)
   end
   local value = o.value or "requests"
   if not VALUES[value] then wrong("value is requests, per_cpu, cpu, p50 or p99, not %s", tostring(value)) end
   if value:find "cpu" and not (o.server or o.processes) then wrong("value = %q: no process is named", value) end
   if o.script and not posix.slurp(o.script) then wrong("script %s cannot be read", o.script) end
   return setmetatable({
      name = o.name or o.url, apart = true, url = o.url,
      connections = connections, threads = threads, timeout = o.timeout or 2,
      script = o.script, arguments = o.arguments or {}, headers = o.headers or {}, server = o.server,
      processes = o.processes, netns = o.netns, cpus = o.cpus, warm_up = o.warm_up or 1, needs = o.missing,
      log = o.log, start_limit = 10, value = value, alone = o.alone,
      note = o.note or ("wrk, %d connections in %d threads"):format(connections, threads),
   }, Http)
end

return M
