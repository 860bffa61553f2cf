-- SPDX-License-Identifier: BSD-3-Clause
-- System calls of processes, counted by strace: which, and on what kind of socket.

local descriptor = require "tideway.posix.descriptor"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

local M = {}

local SEND = { sendto = true, sendmsg = true, sendmmsg = true, write = true, writev = true, sendfile = true,
   splice = true }
local RECEIVE = { recvfrom = true, recvmsg = true, recvmmsg = true, read = true, readv = true }

---@class tideway.audit.calls
---@field all integer system calls
---@field external integer sends and receives on sockets of TCP with data, datagrams sent and received on those of UDP:
---  passes through the TCP/IP stack
---@field internal integer sends and receives on other sockets with data
---@field waits integer epoll_wait, poll, futex, ... that blocked or not

local WAIT = { epoll_wait = true, epoll_pwait = true, epoll_pwait2 = true, poll = true, ppoll = true, futex = true,
   nanosleep = true, clock_nanosleep = true }

--- Is strace there?
---@return boolean
function M.available() return os.execute "command -v strace >/dev/null 2>&1" == 0 end

local function new() return { all = 0, external = 0, internal = 0, waits = 0 } end

-- A line of strace -f -yy: "123 recvfrom(7<TCP:[127.0.0.1:80->127.0.0.1:5]>, ..., 64, 0, NULL, NULL) = 64". A call that
-- another thread interrupts comes in two lines; the second has what it returned.
local function count(calls, name, line)
   calls.all = calls.all + 1
   if WAIT[name] then calls.waits = calls.waits + 1 end
   if not SEND[name] and not RECEIVE[name] then return end
   local socket = line:match "^[%w_]+%(%d+<(.-%])>"
   local result = tonumber(line:match "%) += (%-?%d+)")
   if not socket or not result or result <= 0 then return end
   -- Sockets of a chain are in a network namespace of their own, whose addresses are not seen from here.
   if socket:find "^TCPv?6?:%[.-%->" then
      calls.external = calls.external + 1
   elseif socket:find "^UDPv?6?:%[.*:%d" then
      calls.external = calls.external + (name:find "mmsg$" and result or 1)
   elseif not socket:find "^anon_inode" then
      calls.internal = calls.internal + 1
   end
end

--- Count what strace wrote, by thread.
---@param text string
---@return table<integer, tideway.audit.calls>
function M.parse(text)
   local threads, open = {}, {}
   for line in text:gmatch "[^\n]+" do
      local tid, rest = line:match "^(%d+) +(.*)$"
      tid = tonumber(tid)
      if tid then
         threads[tid] = threads[tid] or new()
         local resumed, more = rest:match "^<%.%.%. ([%w_]+) resumed>(.*)$"
         if resumed and open[tid] then
            count(threads[tid], resumed, open[tid] .. more)
            open[tid] = nil
         elseif rest:find "<unfinished %.%.%.>$" then
            open[tid] = rest:gsub(" *<unfinished %.%.%.>$", "")
         else
            local name = rest:match "^([%a_][%w_]*)%("
            if name then count(threads[tid], name, rest) end
         end
      end
   end
   return threads
end

-- Have all threads of these processes a tracer?
local function traced(pids)
   for _, pid in ipairs(pids) do
      for _, tid in ipairs(descriptor.threads(pid)) do
         local status = posix.slurp(("/proc/%d/task/%d/status"):format(pid, tid))
         if status and status:match "TracerPid:%s*(%d+)" == "0" then return false end
      end
   end
   return true
end

local ATTACH_MS, LOOK_MS = 20000, 20

--- Count the calls of processes while fn runs; raises what it raises.
---@param pids integer[]
---@param fn fun()
---@return table<integer, tideway.audit.calls>? calls by thread
---@return string? err strace cannot be started
function M.during(pids, fn)
   local file, said = os.tmpname(), os.tmpname()
   local argv = { "strace", "-f", "-yy", "-s", "0", "-o", file }
   for _, pid in ipairs(pids) do
      argv[#argv + 1] = "-p"
      argv[#argv + 1] = tostring(pid)
   end
   local pid, err = process.spawn(argv, { output = said })
   if not pid then return nil, err end
   for _ = 1, ATTACH_MS / LOOK_MS do
      if process.ended(pid) or traced(pids) then break end
      posix.poll({}, LOOK_MS)
   end
   posix.poll({}, 200) -- until they run on
   local ok, problem = pcall(fn)
   process.terminate(pid, process.SIGINT)
   process.ended(pid, true)
   local text = posix.slurp(file) or ""
   os.remove(file)
   os.remove(said)
   if not ok then error(problem, 0) end
   return M.parse(text)
end

return M
