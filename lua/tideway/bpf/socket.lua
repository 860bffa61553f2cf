-- SPDX-License-Identifier: BSD-3-Clause
-- Sockets of programs that run, for hooks and maps of sockets: found by protocol and port, a copy of the descriptor.
-- And sockets in maps: one keeps the programs that the map had when it was added, so they are added anew to others.

local ffi = require "ffi"
local descriptor = require "tideway.posix.descriptor"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

---@class tideway.bpf.Socket
---@field fd integer a copy of the descriptor in this process
---@field pid integer whose it is
---@field port integer? local port
local Socket = {}
Socket.__index = Socket

--- Gives the copy back; the program's own descriptor stays.
function Socket:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

function Socket:__tostring()
   return ("socket of process %d%s"):format(self.pid, self.port and (", port %d"):format(self.port) or "")
end

-- States of /proc/net: a TCP socket listens or is connected, a UDP socket is connected or not.
local LISTENS, CONNECTED, UNCONNECTED = "0A", "01", "07"

local KEYS = { tcp = "number", udp = "number", pid = "number", fd = "number", remote = "number", connected = "boolean" }

local function check(what)
   if type(what) ~= "table" then
      error(("tw.bpf.socket(%s): it takes a table, as { tcp = 80 } or { pid = 1, fd = 3 }"):format(tostring(what)), 4)
   end
   for key, value in pairs(what) do
      if type(value) ~= KEYS[key] then
         error(("tw.bpf.socket: %s = %s; it takes tcp, udp, remote (ports), connected (true), pid and fd (numbers)")
            :format(tostring(key), tostring(value)), 4)
      end
   end
   if what.fd and not what.pid or not what.fd and (what.tcp ~= nil) == (what.udp ~= nil) then
      error("tw.bpf.socket: it takes tcp = PORT, udp = PORT, or pid and fd together", 4)
   end
end

-- Inodes of the sockets that are asked for, with their ports, in the network namespace of a process.
local function wanted(what, pid)
   local protocol = what.tcp and "tcp" or "udp"
   local port, connected = what.tcp or what.udp, what.connected or what.remote ~= nil
   local state = connected and CONNECTED or what.tcp and LISTENS or UNCONNECTED
   local inodes = {}
   for _, family in ipairs { "", "6" } do
      local text = posix.slurp(("/proc/%s/net/%s%s"):format(pid or "thread-self", protocol, family)) or ""
      for near, far, is, inode in text:gmatch "%d+: %x+:(%x+) %x+:(%x+) (%x%x) %S+ %S+ %S+ +%d+ +%d+ (%d+)" do
         near, far = tonumber(near, 16), tonumber(far, 16)
         if near == port and is == state and far == (what.remote or far) then inodes[tonumber(inode)] = near end
      end
   end
   return inodes
end

local function copy(list, pid, fd, port)
   local own, err = descriptor.copy(pid, fd)
   if not own then error("tw.bpf.socket: " .. err .. "; it takes root, while a script is loaded", 4) end
   list[#list + 1] = setmetatable({ fd = own, pid = pid, port = port }, Socket)
end

local function find(what)
   check(what)
   local list = {}
   if what.fd then
      copy(list, what.pid, what.fd)
      return list
   end
   local inodes = wanted(what, what.pid)
   if not next(inodes) then return list end
   for _, pid in ipairs(what.pid and { what.pid } or descriptor.processes()) do
      for inode, fd in pairs(descriptor.sockets(pid)) do
         if inodes[inode] then
            copy(list, pid, fd, inodes[inode])
            inodes[inode] = nil -- others that have it open have the same socket
         end
      end
   end
   return list
end

--- All sockets with a local port: those that listen, or wait for datagrams; with `connected` or `remote` the connected
--- ones. Those of the network namespace we are in, or that of `pid`. The order is that of the processes' numbers.
---@param what { tcp: integer?, udp: integer?, remote: integer?, connected: boolean?, pid: integer?, fd: integer? }
---@return tideway.bpf.Socket[] sockets
function M.all(what) return find(what) end

--- One of them; an error when there is none.
---@param what table see all()
---@return tideway.bpf.Socket
function M.one(what)
   local list = find(what)
   for i = 2, #list do list[i]:close() end
   if list[1] then return list[1] end
   error(("tw.bpf.socket: no %s socket%s with port %d in %s; is the program running?"):format(
      what.tcp and "TCP" or "UDP", (what.connected or what.remote) and " that is connected" or "",
      what.tcp or what.udp, what.pid and ("process %d"):format(what.pid) or "this network namespace"), 3)
end

-- ---- in maps ----

--- Lets a sockmap or sockhash remember what is put into it.
---@param map tideway.bpf.Map
function M.remember(map)
   local set, del, known = map.set, map.del, {}
   local function key() return ffi.string(map.env.kptr, map.key_size) end
   function map.set(m, ...)
      local n = select("#", ...)
      local given, ok = (select(n, ...)), set(m, ...)
      local fd = type(given) == "table" and given.fd or given
      known[key()] = { n = n, fd = fd, cookie = socket.cookie(fd), ... }
      return ok
   end
   function map.del(m, ...)
      local ok = del(m, ...)
      known[key()] = nil
      return ok
   end
   -- A program came to the map: its sockets are put into it again, to have it.
   function map.renew()
      for bytes, entry in pairs(known) do
         local there = map:get(unpack(entry, 1, entry.n - 1))
         if not entry.cookie or there ~= entry.cookie or socket.cookie(entry.fd) ~= entry.cookie then
            known[bytes] = nil -- closed, or taken out
         else -- set() over itself would end the new program on it again
            del(map, unpack(entry, 1, entry.n - 1))
            if not pcall(set, map, unpack(entry, 1, entry.n)) then known[bytes] = nil end
         end
      end
   end
end

return M
