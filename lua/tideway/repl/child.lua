-- SPDX-License-Identifier: BSD-3-Clause
-- The REPL of `tideway run --repl`: a process of its own at the engine's terminal. Ctrl-C is the REPL's while it runs.

local loop = require "tideway.loop"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

local M = {}

local LEAVE_MS = 2000

---@class tideway.repl.child
---@field pid integer
---@field fd integer can be read when it has ended
---@field restore fun() gives the engine its signals back
local Child = {}
Child.__index = Child

--- Start it.
---@param name string the instance
---@return tideway.repl.child? child
---@return string? error
function M.start(name)
   -- A stopped REPL would leave the terminal to nobody: both ignore Ctrl-Z.
   local again = process.ignore(process.SIGTSTP)
   local pid, err = process.spawn({ "/proc/self/exe", "repl", "--here", name }, { ignore = { process.SIGTSTP } })
   local fd = pid and process.descriptor(pid)
   if not fd then
      again()
      return nil, err or "this kernel has no pidfd_open(2); start tideway repl in another terminal"
   end
   local interrupts = process.ignore(process.SIGINT)
   local function restore()
      interrupts()
      again()
   end
   return setmetatable({ pid = pid, fd = fd, restore = restore }, Child)
end

--- Call fn when it has ended.
---@param fn fun()
function Child:on_end(fn)
   loop.watch(self.fd, "r", function()
      loop.unwatch(self.fd)
      fn()
   end)
end

--- Wait for its end, which the engine's brings about.
function Child:stop()
   loop.unwatch(self.fd)
   posix.poll({ self.fd }, LEAVE_MS)
   if not process.ended(self.pid) then process.terminate(self.pid) end
   posix.close(self.fd)
   self.restore()
end

return M
