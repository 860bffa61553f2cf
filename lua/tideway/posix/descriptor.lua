-- SPDX-License-Identifier: BSD-3-Clause
-- Descriptors of other processes: which there are, and copies of them.

local ffi = require "ffi"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

ffi.cdef [[
struct tw_posix_dirent { uint64_t inode; int64_t offset; unsigned short size; unsigned char type; char name[256]; };
void *tw_posix_opendir(const char *path) __asm__("opendir");
struct tw_posix_dirent *tw_posix_readdir(void *directory) __asm__("readdir");
int tw_posix_closedir(void *directory) __asm__("closedir");
]]

local C = ffi.C
local M = {}

local PIDFD_GETFD = 438

-- The numbers among the names in a directory, in order.
local function numbers(path)
   local directory, list = C.tw_posix_opendir(path), {}
   if directory == nil then return list end
   while true do
      local entry = C.tw_posix_readdir(directory)
      if entry == nil then break end
      list[#list + 1] = tonumber(ffi.string(entry.name))
   end
   C.tw_posix_closedir(directory)
   table.sort(list)
   return list
end

--- All processes, by number.
---@return integer[]
function M.processes() return numbers "/proc" end

--- The threads of a process, by number.
---@param pid integer
---@return integer[] tids none when it has ended
function M.threads(pid) return numbers(("/proc/%d/task"):format(pid)) end

--- The inodes of the sockets that a process has open.
---@param pid integer
---@return table<integer, integer> descriptors by inode; empty when we may not look
function M.sockets(pid)
   local of = {}
   for _, fd in ipairs(numbers(("/proc/%d/fd"):format(pid))) do
      local inode = (posix.readlink(("/proc/%d/fd/%d"):format(pid, fd)) or ""):match "^socket:%[(%d+)%]$"
      if inode then of[tonumber(inode)] = fd end
   end
   return of
end

--- A copy of a process's descriptor, in this process (pidfd_getfd, Linux 5.6).
---@param pid integer
---@param fd integer
---@return integer? fd ours to close
---@return string? error
function M.copy(pid, fd)
   local holder = process.descriptor(pid)
   if not holder then return nil, ("there is no process %d"):format(pid) end
   local copied = tonumber(C.tw_posix_syscall(PIDFD_GETFD, ffi.cast("int", holder), ffi.cast("int", fd),
      ffi.cast("unsigned", 0)))
   local err = ffi.errno()
   posix.close(holder)
   if copied >= 0 then return copied end
   return nil, ("descriptor %d of process %d can't be copied: %s"):format(fd, pid, ffi.string(C.tw_posix_strerror(err)))
end

return M
