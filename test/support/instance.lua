-- SPDX-License-Identifier: BSD-3-Clause
-- A running instance of the real binary with a run directory of its own, and its control socket.
--
--    local instance = require("test.support.instance").start { script = 'local tw = require "tideway" ...' }
--    local c = instance:client()
--    c:eval "1 + 1"
--    instance:stop()

local client = require "tideway.control.client"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local M = {}

--- A script whose engine has nothing to do.
M.IDLE = [[
local tw = require "tideway"
tw.options { idle = "sleep" }
local a = tw.port("a", "wire0")
tw.chain("c", a, tw.nf.count {}, a)
]]

---@class test.instance
---@field pid integer
---@field run_dir string TIDEWAY_RUN_DIR
---@field path string of the control socket
local Instance = {}
Instance.__index = Instance

--- Start one and wait until it is ready.
---@param options { script: string?, files: table<string, string>?, name: string?, options: string?, run_dir: string?,
--- prefix: string? } files: by name, beside the script; prefix: a command that runs the binary, such as taskset
---@return test.instance
function M.start(options)
   local name = options.name or "spec"
   local self = setmetatable({ name = name, own = not options.run_dir }, Instance)
   self.run_dir = options.run_dir or shell.directory()
   self.dir = self.run_dir .. "/" .. name
   self.path = self.dir .. "/control"
   self.files = shell.directory()
   shell.write(self.files .. "/script.lua", options.script or M.IDLE)
   for file, text in pairs(options.files or {}) do shell.write(self.files .. "/" .. file, text) end
   self.process = labs.spawn(("env TIDEWAY_RUN_DIR=%s %s %s run --json --name %s %s %s/script.lua"):format(self.run_dir,
      options.prefix or "", shell.binary, name, options.options or "", self.files))
   self.pid = self.process.pid
   if not self.process:says("ready:", 60) then
      local err = self.process:read "err"
      self:stop "KILL"
      error("the engine did not start: " .. err, 2)
   end
   return self
end

--- A new client that has said hello.
---@return tideway.control.client
function Instance:client()
   return assert(client.open({ name = self.name, dir = self.dir, pid = self.pid }, 60))
end

--- Evaluate, and fail with the error; a text or a number that comes back is given.
---@param code string
---@return any
function Instance:eval(code)
   local c = self:client()
   local reply = c:eval(code, { seconds = 60 })
   c:close()
   if not reply.ok then error(reply.error, 2) end
   return reply.view and reply.view.data
end

--- Run this binary as somebody else in this run directory.
---@param arguments string
---@param prefix? string "setpriv ..."
---@return {code: integer, out: string, err: string}
function Instance:tideway(arguments, prefix)
   return shell.tideway(arguments, ("env TIDEWAY_RUN_DIR=%s %s"):format(self.run_dir, prefix or ""))
end

--- The log so far.
---@return string
function Instance:log() return self.process:read "err" end

--- How many descriptors it has open.
---@return integer
function Instance:descriptors()
   local n = 0
   for entry in require("lfs").dir(("/proc/%d/fd"):format(self.pid)) do
      if tonumber(entry) then n = n + 1 end
   end
   return n
end

--- Memory in use, bytes.
---@return integer
function Instance:resident()
   return tonumber(posix.slurp(("/proc/%d/status"):format(self.pid)):match "VmRSS:%s*(%d+)") * 1024
end

--- End it and remove its files; the second time nothing happens.
---@param signal? string
---@return { code: integer?, out: string, err: string, counters: table? }
function Instance:stop(signal)
   if self.stopped then return self.stopped end
   self.process:signal(signal or "INT")
   self.process:wait(60) -- a busy machine may not run it for seconds
   local result = self.process:stop(signal)
   self.stopped = result
   shell.remove(self.files)
   if self.own then shell.remove(self.run_dir) end
   return result
end

return M
