-- SPDX-License-Identifier: BSD-3-Clause
-- For msg_worker_spec.lua: an engine with two workers, one of them in an endless loop, that is killed from outside.
-- Says in the file that it is given which processes they are, then waits for ever.

local ffi = require "ffi"
local abi = require "tideway.abi"
local nf = require "tideway.nf"
local workers = require "test.support.workers"

describe("an engine", function()
   it("that is killed", function()
      local loop = nf.instance("loop", { message = function(msg) while msg.path do msg:set_value(1, 1) end end }, 1)
      local service = workers.service({ { name = "loop", nf = loop } }, { transport = "rings" })
      local list = { service:add(1), service:add(1) }
      for i, w in ipairs(list) do list[i] = workers.running(w).pid end
      service:enter((service:request "/"))
      local file = assert(io.open(os.getenv "WORKER_CHILD_FILE", "w"))
      file:write(table.concat(list, " "), " ", abi.C.tw_helper_pid(), "\n")
      file:close()
      while ffi.C.tw_sleep_ms(1000) == 0 do end
   end)
end)
