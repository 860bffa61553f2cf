-- SPDX-License-Identifier: BSD-3-Clause
-- What a user should know of a program that was attached: interfaces that will drop what is redirected to them, or hand
-- to another CPU what is passed on.

local ffi = require "ffi"
local abi = require "tideway.abi"
local bit = require "bit"
local lfs = require "lfs"
local posix = require "tideway.posix"

local C = abi.C
local M = {}

-- May frames be redirected to this interface by XDP in native mode? nil: the kernel does not tell.
local function takes_frames(ifindex)
   local features = ffi.new "uint64_t[1]"
   if C.tw_xdp_features(ifindex, features) < 0 then return nil end
   return bit.band(features[0], C.TW_XDP_CAN_SEND) ~= 0
end

local function name_of(ifindex)
   local name = ffi.new "char[16]"
   return C.tw_bpf_ifname(ifindex, name, 16) == 0 and ffi.string(name) or tostring(ifindex)
end

local function remedy(name)
   if posix.net_driver(name) == "veth" then
      return "the other end of this veth must receive by NAPI: ethtool -K PEER gro on, where and when both are up"
   end
   return 'its driver cannot; pin to { xdp = ..., mode = "generic" } or { tc = ... }'
end

-- Interfaces that programs send to, by port index.
local function goals(exits, interfaces, flood, ingress)
   local set = {}
   for _, exit in ipairs(exits) do
      if exit.kind == "flood" then
         for index, ifindex in pairs(flood) do
            if index ~= ingress then set[ifindex] = true end
         end
      elseif exit.kind == "port" and exit.argument ~= ingress then
         set[interfaces[exit.argument] or false] = true
      end
   end
   set[false] = nil
   return set
end

--- Sentences about a program in native XDP mode; none when all is well.
---@param exits table[] ways out, of tideway.compiled
---@param interfaces table<integer, integer> ifindex by port index
---@param flood table<integer, integer> those that a flood goes to
---@param ingress integer? index of the port it is attached to
---@return string[]
function M.of_native_xdp(exits, interfaces, flood, ingress)
   local list = {}
   for ifindex in pairs(goals(exits, interfaces, flood, ingress)) do
      if takes_frames(ifindex) == false then
         local name = name_of(ifindex)
         list[#list + 1] = ("%s drops what XDP redirects to it: %s"):format(name, remedy(name))
      end
   end
   table.sort(list)
   return list
end

--- A passed frame that another CPU takes over (RPS) comes to the program when nobody waits for it any more.
---@param chain string
---@param iface string
---@return string[]
function M.of_steering(chain, iface)
   local queues, list = ("/sys/class/net/%s/queues"):format(iface), {}
   if lfs.attributes(queues, "mode") ~= "directory" then return list end
   for queue in lfs.dir(queues) do
      local cpus = queue:find "^rx" and posix.slurp(("%s/%s/rps_cpus"):format(queues, queue)) or ""
      if cpus:find "[1-9a-f]" then
         list[#list + 1] = ("chain %s: %s of %s has receive packet steering: what punt() passes to the kernel is "
            .. "punted again and again; echo 0 >%s/%s/rps_cpus"):format(chain, queue, iface, queues, queue)
      end
   end
   return list
end

return M
