-- SPDX-License-Identifier: BSD-3-Clause
-- Network namespaces without a name: they end with their descriptor, so nothing stays when the process dies.

local ffi = require "ffi"
local posix = require "tideway.posix"

ffi.cdef [[
int tw_posix_setns(int fd, int type) __asm__("setns");
int tw_posix_unshare(int flags) __asm__("unshare");
unsigned tw_posix_if_nametoindex(const char *name) __asm__("if_nametoindex");
]]

local C = ffi.C
local M = {}

local O_RDONLY_CLOEXEC, CLONE_NEWNET = 0x80000, 0x40000000

local function failure(what)
   return nil, ("%s: %s"):format(what, ffi.string(C.tw_posix_strerror(ffi.errno())))
end

---@class tideway.posix.namespace
---@field fd integer
---@field path string for `ip link set ... netns PATH`, as long as it is not closed
local Namespace = {}
Namespace.__index = Namespace

local function own() return C.tw_posix_open("/proc/thread-self/ns/net", O_RDONLY_CLOEXEC) end

local home -- descriptor of the thread's own one

--- A new network namespace.
---@return tideway.posix.namespace? namespace
---@return string? error
function M.new()
   home = home or own()
   if home < 0 then return failure "the thread's network namespace" end
   if C.tw_posix_unshare(CLONE_NEWNET) < 0 then return failure "a new network namespace" end
   local fd = own()
   assert(C.tw_posix_setns(home, CLONE_NEWNET) == 0, "cannot leave a network namespace again")
   if fd < 0 then return failure "a new network namespace" end
   return setmetatable({ fd = fd, path = ("/proc/%d/fd/%d"):format(posix.getpid(), fd) }, Namespace)
end

--- Call fn with the calling thread in the namespace. What fn raises is raised when the thread is back; programs that fn
--- starts stay there.
---@param fn fun(...): any
---@return any ... two values of fn
function Namespace:within(fn, ...)
   assert(C.tw_posix_setns(self.fd, CLONE_NEWNET) == 0, "cannot enter a network namespace")
   local ok, value, more = pcall(fn, ...)
   assert(C.tw_posix_setns(home, CLONE_NEWNET) == 0, "cannot leave a network namespace again")
   if not ok then error(value, 0) end
   return value, more
end

--- The kernel's number of a network device, in the namespace of the calling thread.
---@param device string
---@return integer? index
function M.index(device)
   local index = C.tw_posix_if_nametoindex(device)
   return index > 0 and index or nil
end

--- Let it end, with what is in it, when no process is in it.
function Namespace:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

return M
