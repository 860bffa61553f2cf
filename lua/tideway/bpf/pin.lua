-- SPDX-License-Identifier: BSD-3-Clause
-- Names under bpffs: what is pinned there stays when the process goes, and a later run opens it again.
-- Layout: /sys/fs/bpf/tideway/INSTANCE/KIND/NAME.

local abi = require "tideway.abi"

local M = {}

local C = abi.C
local ENOENT = -2

--- Where bpffs is, or is mounted when it is not.
M.root = "/sys/fs/bpf"

-- bpffs takes no dots in names.
local function word(text)
   return (tostring(text):gsub("[^%w_-]", function(c) return ("%%%02x"):format(c:byte()) end))
end

--- The path of a pin.
---@param instance string
---@param kind string  "map", "link" or "program"
---@param name string
---@return string
function M.path(instance, kind, name)
   return ("%s/tideway/%s/%s/%s"):format(M.root, word(instance), kind, word(name))
end

--- Pins an object. Mounts bpffs when it is not there.
---@param fd integer
---@param path string
---@return boolean? ok
---@return string? err  or, when ok, a note that bpffs was mounted
function M.pin(fd, path)
   local rc = C.tw_bpf_mount(M.root)
   if rc < 0 then return nil, abi.error() end
   local note = rc == 1 and ("bpffs was not mounted; it is now, at %s"):format(M.root) or nil
   if C.tw_bpf_pin(fd, path) < 0 then return nil, abi.error() end
   return true, note
end

--- Opens what is pinned.
---@param path string
---@return integer? fd  nil when there is no such pin
---@return string? err  when there is one that cannot be opened
function M.open(path)
   local fd = C.tw_bpf_open(path)
   if fd >= 0 then return fd end
   if fd == ENOENT then return nil end
   return nil, abi.error()
end

--- Removes a pin, and the directories above it that are empty then.
---@param path string
---@return boolean? ok
---@return string? err
function M.unpin(path)
   if C.tw_bpf_unpin(path) < 0 then return nil, abi.error() end
   return true
end

return M
