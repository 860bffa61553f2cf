-- SPDX-License-Identifier: BSD-3-Clause
-- Users and groups of the system: numbers to names and back.

local ffi = require "ffi"

local C = ffi.C
local M = {}

-- The first members of glibc's structs are all that is needed.
ffi.cdef [[
struct tw_posix_passwd { char *name, *password; unsigned uid, gid; };
struct tw_posix_group { char *name, *password; unsigned gid; };
struct tw_posix_passwd *tw_posix_getpwnam(const char *name) __asm__("getpwnam");
struct tw_posix_passwd *tw_posix_getpwuid(unsigned uid) __asm__("getpwuid");
struct tw_posix_group *tw_posix_getgrnam(const char *name) __asm__("getgrnam");
]]

--- Number of a user.
---@param name string
---@return integer? uid
function M.uid(name)
   local user = C.tw_posix_getpwnam(name)
   return user ~= nil and user.uid or nil
end

--- Number of a group.
---@param name string
---@return integer? gid
function M.gid(name)
   local group = C.tw_posix_getgrnam(name)
   return group ~= nil and group.gid or nil
end

--- Name of a user, the number when it has none. May ask a directory service and wait for it.
---@param uid integer
---@return string
function M.name(uid)
   local user = C.tw_posix_getpwuid(uid)
   return user ~= nil and ffi.string(user.name) or tostring(uid)
end

return M
