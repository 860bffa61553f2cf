-- SPDX-License-Identifier: BSD-3-Clause
-- Counters of another DPDK program, read from outside through its telemetry socket.

local lfs = require "lfs"
local json = require "tideway.json"
local posix = require "tideway.posix"
local runner = require "tideway.bench.runner"
local socket = require "tideway.posix.socket"

local M = {}

local RUNTIME = "/run/dpdk"
local PATIENCE = 5 -- seconds for an answer

---@class tideway.bench.telemetry
---@field fd integer
local Telemetry = {}
Telemetry.__index = Telemetry

local function receive(fd)
   local deadline = posix.now() + PATIENCE * 1e9
   while not posix.poll({ fd }, 1)[fd] do
      if posix.now() > deadline then return nil, ("no answer in %d s"):format(PATIENCE) end
      runner.sleep(0.005)
   end
   local bytes, count = socket.receive(fd)
   if not bytes then return nil, count end
   if count == 0 then return nil, "it has closed the connection" end
   return require("ffi").string(bytes, count)
end

-- Does the process listen there? The kernel says who does, without a word from it: one that is stopped, or a file that
-- a dead one left, costs no time.
local function connect(path, pid)
   local fd = socket.connect(path, true)
   if not fd then return nil end
   local peer = socket.peer(fd)
   if peer and peer.pid == pid then return fd end
   posix.close(fd)
end

local function entries(dir)
   local list = {}
   if lfs.attributes(dir, "mode") ~= "directory" then return list end
   for name in lfs.dir(dir) do
      if not name:find "^%.%.?$" then list[#list + 1] = name end
   end
   return list
end

local function sockets()
   local list = {}
   for _, prefix in ipairs(entries(RUNTIME)) do
      for _, name in ipairs(entries(RUNTIME .. "/" .. prefix)) do
         -- A second one with the same prefix and --in-memory has a number behind it.
         if name:find "^dpdk_telemetry%.v2" then list[#list + 1] = ("%s/%s/%s"):format(RUNTIME, prefix, name) end
      end
   end
   return list
end

--- Connect to the telemetry of a process, whatever its file prefix is.
---@param pid integer
---@return tideway.bench.telemetry? telemetry nil while there is none
---@return string? error
function M.open(pid)
   for _, path in ipairs(sockets()) do
      local fd = connect(path, pid)
      if fd then
         local greeting, err = receive(fd)
         if greeting then return setmetatable({ fd = fd, path = path, version = json.decode(greeting).version },
            Telemetry) end
         posix.close(fd)
         return nil, ("telemetry socket %s of process %d: %s"):format(path, pid, err)
      end
   end
   return nil, ("process %d has no telemetry socket below %s"):format(pid, RUNTIME)
end

--- Ask for something.
---@param command string e.g. "/ethdev/list", "/ethdev/stats,0"
---@return any answer
---@return string? error
function Telemetry:ask(command)
   local sent, err = socket.send(self.fd, command, 0)
   if not sent then return nil, err end
   local text
   text, err = receive(self.fd)
   if not text then return nil, err end
   local ok, answer = pcall(json.decode, text)
   if not ok or type(answer) ~= "table" then return nil, ("%s was answered with %q"):format(command, text) end
   return answer[command:match "^[^,]+"]
end

--- Find a device by its name.
---@param device string e.g. "net_null1"
---@return integer? port number of the device there
---@return string? error
function Telemetry:port(device)
   local list, err = self:ask "/ethdev/list"
   if not list then return nil, err end
   local names = {}
   for _, id in ipairs(list) do
      local info = self:ask("/ethdev/info," .. id)
      if info and info.name == device then return id end
      names[#names + 1] = info and info.name
   end
   return nil, ("it has no device %s; there are: %s"):format(device, table.concat(names, ", "))
end

--- Packets that a device has received and sent.
---@param port integer
---@return { received: number, sent: number, lost: number, time: number }? counters time in seconds, lost: missed,
---  erroneous and those it had no buffer for
---@return string? error
function Telemetry:counters(port)
   local before = posix.now()
   local stats, err = self:ask("/ethdev/stats," .. port)
   if not stats then return nil, err end
   return {
      received = stats.ipackets, sent = stats.opackets, lost = stats.imissed + stats.ierrors + stats.rx_nombuf,
      time = (before + posix.now()) / 2e9,
   }
end

function Telemetry:close() posix.close(self.fd) end

return M
