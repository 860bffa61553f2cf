-- SPDX-License-Identifier: BSD-3-Clause
-- Instances that an audit starts, asks and stops.

local control = require "tideway.control.client"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

local M = {}

---@class tideway.audit.instance
---@field name string
---@field pid integer?
---@field output string path of the file with what it prints
---@field client table? of its control socket
local Instance = {}
Instance.__index = Instance

--- Start a script as an instance of its own, and wait until it is ready.
---@param o tideway.audit.options
---@param name string
---@param script string
---@param options string[] of tideway run
---@param arguments? string[] of the script
---@return tideway.audit.instance?
---@return string? err
function M.start(o, name, script, options, arguments)
   local self = setmetatable({ name = name, output = ("%s/%s.out"):format(o.dir, name) }, Instance)
   local argv = { "env", "TIDEWAY_RUN_DIR=" .. o.dir, o.binary, "run", "--name", name }
   for _, word in ipairs(options) do argv[#argv + 1] = word end
   argv[#argv + 1] = script
   for _, word in ipairs(arguments or {}) do argv[#argv + 1] = word end
   local err
   self.pid, err = process.spawn(argv, { output = self.output })
   if not self.pid then return nil, err end
   for _ = 1, 300 do
      local text = posix.slurp(self.output) or ""
      if text:find("\nready: ", 1, true) or text:find "^ready: " then
         self.client, err = control.open({ name = name, dir = o.dir .. "/" .. name, pid = self.pid }, 10)
         if not self.client then self:stop() end
         return self.client and self, err
      end
      if process.ended(self.pid) then
         self.pid = nil
         return nil, (text:gsub("%s+$", ""))
      end
      posix.poll({}, 50)
   end
   self:stop()
   return nil, "the instance did not start within 15 s"
end

--- Its figures; raises.
function Instance:gate()
   local reply = self.client:call("gate", {}, { seconds = 10 })
   return reply.ok and reply.view.data or error(reply.error or "the instance does not answer", 0)
end

--- Stop it, and wait for its end.
function Instance:stop()
   if self.client then self.client:close() end
   if not self.pid then return end
   process.terminate(self.pid, process.SIGINT)
   process.ended(self.pid, true)
   self.pid = nil
end

return M
