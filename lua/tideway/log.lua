-- SPDX-License-Identifier: BSD-3-Clause
-- Messages of the engine for its user: levels, standard error or the journal, and a limit for messages that repeat.

local lfs = require "lfs"
local abi = require "tideway.abi"
local posix = require "tideway.posix"

local M = {
   --- Messages less urgent than this are counted and not printed.
   level = "info",
   --- Of messages that are alike: so many at once, then one in PERIOD seconds; the others are counted.
   BURST = 10,
   PERIOD = 1,
   --- Of all messages: so many at once, then ALL_RATE a second.
   ALL_BURST = 100,
   ALL_RATE = 20,
   --- Called with level and text of what is printed; one that returns true has shown it at the engine's terminal.
   ---@type table<fun(level: string, text: string): boolean?, true>
   listeners = {},
}

-- Names and numbers of syslog.
local LEVELS = { error = 3, warning = 4, info = 6, debug = 7 }
local NAMES = {}
for name, n in pairs(LEVELS) do NAMES[n] = name end

--- The levels, the most urgent first.
M.LEVELS = { "error", "warning", "info", "debug" }

-- Is standard error a stream of the journal? It says so by device and inode.
local function to_journal()
   local device, inode = (os.getenv "JOURNAL_STREAM" or ""):match "^(%d+):(%d+)$"
   local stat = device and lfs.attributes "/proc/self/fd/2"
   return stat ~= nil and stat.dev == tonumber(device) and stat.ino == tonumber(inode)
end

local journal

-- A line on the journal begins with its level, every line of a message.
local function write(level, text)
   local shown = false
   for listener in pairs(M.listeners) do shown = listener(level, text) or shown end
   if shown then return end
   if journal == nil then journal = to_journal() end
   local head = journal and ("<%d>"):format(LEVELS[level]) or "tideway: "
   if journal then text = text:gsub("\n", "\n" .. head) end
   io.stderr:write(head, text, "\n")
end

-- ---- the limit ----

---@class tideway.log.bucket
---@field tokens number messages that may be printed now
---@field at number when that was so, ns
---@field held integer messages held back since the last one printed
---@field text string the last of those
---@field level string

local buckets, n_buckets, BUCKETS_MAX = {}, 0, 256
local all

local function fill(bucket, burst, rate)
   local now = posix.now()
   bucket.tokens = math.min(burst, bucket.tokens + (now - bucket.at) / 1e9 * rate)
   bucket.at = now
   return bucket.tokens >= 1
end

local function new_bucket(burst) return { tokens = burst, at = posix.now(), held = 0 } end

-- Numbers apart, messages of one kind are alike.
local function bucket_of(level, text)
   local kind = level .. text:gsub("%d+", "#"):sub(1, 120)
   if not buckets[kind] then
      if n_buckets == BUCKETS_MAX then buckets, n_buckets = {}, 0 end
      buckets[kind], n_buckets = new_bucket(M.BURST), n_buckets + 1
   end
   return buckets[kind]
end

local function tell_held(bucket)
   if bucket.held == 0 then return end
   write(bucket.level, ("%d more like this were held back; the last: %s"):format(bucket.held, bucket.text))
   bucket.held = 0
end

local function count(level, held)
   local stats = abi.C.tw_stats()
   if held then stats.log_held = stats.log_held + 1 end
   stats.log_lines[LEVELS[level]] = stats.log_lines[LEVELS[level]] + 1
end

local function limited(level, text)
   local bucket = bucket_of(level, text)
   all = all or new_bucket(M.ALL_BURST)
   local own, room = fill(bucket, M.BURST, 1 / M.PERIOD), fill(all, M.ALL_BURST, M.ALL_RATE)
   bucket.level = level
   if not own or not room then
      bucket.held, bucket.text = bucket.held + 1, text
      return count(level, true)
   end
   bucket.tokens, all.tokens = bucket.tokens - 1, all.tokens - 1
   tell_held(bucket)
   count(level)
   write(level, text)
end

-- ---- messages ----

--- Print a message of a level, unless there are too many alike.
---@param level "error"|"warning"|"info"|"debug"
---@param text string
function M.print(level, text)
   if LEVELS[level] > LEVELS[M.level] then return count(level) end
   limited(level, text)
end

for _, level in ipairs(M.LEVELS) do
   --- Print a message, as string.format().
   M[level] = function(...) M.print(level, string.format(...)) end
end

--- Print a line of the engine: one that begins with "<3>" is an error, others are warnings.
---@param line string
function M.engine(line)
   local number, text = line:match "^<(%d)>(.*)"
   M.print(NAMES[tonumber(number)] or "warning", text or line)
end

--- Say what was held back of messages that come no more; to be called now and then.
function M.flush()
   for _, bucket in pairs(buckets) do
      if bucket.held > 0 and fill(bucket, M.BURST, 1 / M.PERIOD) then
         bucket.tokens = bucket.tokens - 1
         tell_held(bucket)
      end
   end
end

--- Forget what was held back, and look again where messages go.
function M.reset() buckets, n_buckets, all, journal = {}, 0, nil, nil end

return M
