-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in a worker's VM: builds an instance of a function from what the control VM packed, and is called by the
-- worker's loop (core/worker/). Loaded with the rights of who started the process, before anything of a user is there.

local ffi = require "ffi"
local abi = require "tideway.abi"
local guard = require "tideway.worker.guard"
local runner = require "tideway.message.runner"
local store = require "tideway.store"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

-- What functions find without a file being opened: everything `tideway` offers that does not need the engine.
for _, name in ipairs {
   "tideway", "tideway.nf", "tideway.message.lines", "tideway.packet", "tideway.packet.address", "tideway.hashing",
   "tideway.json", "tideway.text", "string.buffer", "table.new", "table.clear", "jit.util", "jit.vmdef",
} do require(name) end

local TICK_NS = 1e9
local LINE_MAX = 900

-- Faults go to the engine's log, with where they came from.
local function reporter(worker)
   return function(err, co)
      local text = err
      local ok, trace = pcall(debug.traceback, co or "", "")
      -- What the engine itself was about is left out.
      if ok and type(trace) == "string" then
         text = text .. trace:gsub("\n[^\n]*/tideway/message/runner%.lua[^\n]*", "")
      end
      C.tw_worker_say(worker, true, text:sub(1, LINE_MAX))
   end
end

-- A call of tick or stop; one that raises is reported, and is called again the next time.
local function guarded(worker, report, fn, now)
   C.tw_worker_begin(worker, 0, false)
   local ok, err = pcall(fn, now)
   C.tw_worker_done(worker)
   if not ok then report(tostring(err)) end
end

-- What the runner counts and sends by.
local function host_of(worker)
   local host = {}
   function host:begin(_, handle, again) return C.tw_worker_begin(worker, handle, again) == 0 end
   function host:done() C.tw_worker_done(worker) end
   function host:put(handle, exit, gate, key) C.tw_worker_put(worker, handle, exit, gate, key) end
   return host
end

--- Build everything the loop needs from this VM.
---@param blob string from tideway.transfer, a tideway.gate.function_blob
---@param address lightuserdata of struct tw_worker
---@return fun(n: integer) run so many descriptors are in worker.in, and what is due may run
---@return fun() stop
function M.build(blob, address)
   local worker = ffi.cast("struct tw_worker *", address)
   runner.tune()
   guard.redirect(function(text) C.tw_worker_say(worker, false, text:sub(1, LINE_MAX)) end)
   guard.close_library()
   if worker.n_fds > 0 then assert(store.adopt(worker.fds, worker.n_fds)) end
   local what = transfer.unpack(blob)
   guard.close_modules()
   local nf = what.nf
   local r = runner.new(worker.pool, worker.member, { runner.context(what, worker.board) }, host_of(worker))
   local report = reporter(worker)
   r.report = report
   local input = worker["in"]
   local tick, tick_due = nf.tick, nf.tick and tonumber(C.tw_now()) + TICK_NS or math.huge

   -- What is due: sleepers, tick.
   local function due(now)
      r:timers(now)
      if tick_due <= now then
         guarded(worker, report, tick, now)
         tick_due = now + TICK_NS
      end
   end

   local function set_due()
      local first = r:due()
      if not first or tick_due < first then first = tick_due end
      worker.next_due = first == math.huge and 0 or first
   end

   local function run(n)
      if n > 0 then r:batch(input, n) end
      if tonumber(worker.next_due) > 0 then due(tonumber(worker.now)) end
      set_due()
   end

   set_due()
   return run, function()
      if nf.stop then guarded(worker, report, nf.stop) end
   end
end

return M
