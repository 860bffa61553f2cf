-- SPDX-License-Identifier: BSD-3-Clause
-- What of this machine helps or hinders Tideway: findings, each with the command that mends it.
--
-- Reads /proc and /sys and tries system calls; starts no EAL, changes nothing, needs no root.

local lfs = require "lfs"
local posix = require "tideway.posix"

local M = {}

---@class tideway.doctor.finding
---@field area string "memory", "cpu", "rights", "kernel", "devices", "dpdk", "lua", "instances"
---@field state "ok"|"warn"|"fail" warn: slower or a feature less; fail: ports cannot be used
---@field what string
---@field remedy? string the exact command

---@class tideway.doctor.env what the checks see of the machine; tests give another
---@field read fun(path: string): string? text without the last newline
---@field list fun(dir: string): string[] sorted names, empty when there is no such directory
---@field link fun(path: string): string? last part of where a symbolic link points
---@field exists fun(path: string): boolean
---@field probe_bpf fun(program_type: integer): boolean, string?
---@field probe_socket fun(domain: integer, kind: integer): boolean, string?
---@field net_driver fun(name: string): string?

--- The real machine, or one whose /proc and /sys are below `root`.
---@param root? string
---@return tideway.doctor.env
function M.machine(root)
   root = root or ""
   return {
      read = function(path)
         local text = posix.slurp(root .. path)
         return text and (text:gsub("%s+$", ""))
      end,
      list = function(dir)
         local names = {}
         if lfs.attributes(root .. dir, "mode") == "directory" then
            local ok, iterator, state = pcall(lfs.dir, root .. dir)
            if ok then
               for name in iterator, state do
                  if name:sub(1, 1) ~= "." then names[#names + 1] = name end
               end
            end
         end
         table.sort(names)
         return names
      end,
      link = function(path)
         local target = posix.readlink(root .. path)
         return target and target:match "[^/]+$"
      end,
      exists = function(path) return lfs.attributes(root .. path) ~= nil end,
      probe_bpf = posix.probe_bpf,
      probe_socket = posix.probe_socket,
      net_driver = posix.net_driver,
   }
end

--- Look at everything.
---@param env? tideway.doctor.env default: this machine
---@return tideway.doctor.finding[]
function M.examine(env)
   env = env or M.machine()
   local findings = {}
   for _, part in ipairs { "system", "kernel", "workers", "devices", "software" } do
      require("tideway.doctor." .. part)(env, function(area, state, what, remedy)
         findings[#findings + 1] = { area = area, state = state, what = what, remedy = remedy }
      end)
   end
   return findings
end

--- How many findings of each state.
---@param findings tideway.doctor.finding[]
---@return {ok: integer, warn: integer, fail: integer}
function M.summary(findings)
   local n = { ok = 0, warn = 0, fail = 0 }
   for _, f in ipairs(findings) do n[f.state] = n[f.state] + 1 end
   return n
end

return M
