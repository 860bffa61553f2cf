-- SPDX-License-Identifier: BSD-3-Clause
-- Several spec files: each in a process of its own, some at a time, and none for ever.

local posix = require "tideway.posix"
local process = require "tideway.posix.process"

local M = {}

local function out(text)
   io.stdout:write(text)
   io.stdout:flush()
end

-- One that looks at times, or wants all CPUs, says so in a comment at its head.
local function runs_alone(file)
   local f = io.open(file)
   local head = f and f:read(2000) or ""
   if f then f:close() end
   return head:find "\n%-%- Runs alone" ~= nil
end

---@class tideway.cli.test.job
---@field file string
---@field pid integer
---@field output string path
---@field began number

-- Its process, and what it starts, is ended when it takes too long, and when this process ends.
local function start(file, options)
   local output = os.tmpname()
   local words = { "timeout", "-k", "10", tostring(options.limit), "sh", "-c", 'exec "$@" >"$0" 2>&1', output,
      posix.readlink "/proc/self/exe", "test" }
   if options.filter then words[#words + 1], words[#words + 2] = "--filter", options.filter end
   words[#words + 1] = file
   for i, word in ipairs { "setpriv", "--pdeathsig", "TERM" } do table.insert(words, i, word) end
   local pid, err = process.spawn(words)
   if not pid then error(err, 0) end
   return { file = file, pid = pid, output = output, began = posix.now() }
end

-- Notes in `failures` the lines that tell of a failure: the one that names it and the indented ones after it.
local function note_failure(line, failures)
   if line:find ": failed: " or line:find ": error: " then
      failures.open = true
   elseif not line:find "^   " then
      failures.open = false
   end
   if failures.open then failures[#failures + 1] = line end
end

-- A process has ended: prints what it said, adds to the counts.
local function finish(job, code, options, count, failures)
   local found = false
   for line in io.lines(job.output) do
      note_failure(line, failures)
      local passed, failed, skipped = line:match "^(%d+) passed, (%d+) failed, (%d+) skipped$"
      if passed then
         found = true
         count.passed, count.failed = count.passed + passed, count.failed + failed
         count.skipped = count.skipped + skipped
      elseif not (options.filter and line:find "^%S+_spec%.lua  0 in 0%.0 s$") then
         out(line .. "\n")
      end
   end
   os.remove(job.output)
   if found then return end
   count.failed = count.failed + 1
   local late = posix.now() - job.began >= options.limit * 1e9
   failures[#failures + 1] = ("%s: failed: %s"):format(job.file, late
      and ("it did not end within %d s, and was ended; labs that it left are in `ip netns`"):format(options.limit)
      or ("its process ended before its tests did, with code %d"):format(code))
   out(failures[#failures] .. "\n")
end

local function run(files, most, options, count, failures)
   local running, next_file = {}, 1
   while next_file <= #files or #running > 0 do
      while #running < most and next_file <= #files do
         running[#running + 1] = start(files[next_file], options)
         next_file = next_file + 1
      end
      for i = #running, 1, -1 do
         local code = process.ended(running[i].pid)
         if code then finish(table.remove(running, i), code, options, count, failures) end
      end
      posix.poll({}, 10)
   end
end

--- Run spec files, those that run alone at the end, and print what they say.
---@param files string[]
---@param options { filter: string?, jobs: integer, limit: integer } limit: seconds that a file may take
---@return { passed: integer, failed: integer, skipped: integer } count
---@return string[] failures their lines again
function M.run(files, options)
   local count, failures, beside, alone = { passed = 0, failed = 0, skipped = 0 }, {}, {}, {}
   for _, file in ipairs(files) do table.insert(runs_alone(file) and alone or beside, file) end
   run(beside, options.jobs, options, count, failures)
   run(alone, 1, options, count, failures)
   return count, failures
end

return M
