-- SPDX-License-Identifier: BSD-3-Clause
-- What a benchmark ran on, written into its document: processor, kernel, libraries, memory, load.

local ffi = require "ffi"
local abi = require "tideway.abi"
local native = require "tideway.native"
local posix = require "tideway.posix"

local C = abi.C
local M = {}

local function first(path, pattern)
   local text = posix.slurp(path)
   return text and text:match(pattern)
end

local function capture(command)
   local pipe = io.popen(command .. " 2>/dev/null")
   local line = pipe and pipe:read "*l"
   if pipe then pipe:close() end
   return line ~= "" and line or nil
end

local function cpus()
   local text, n = posix.slurp "/proc/cpuinfo" or "", 0
   for _ in text:gmatch "\nprocessor%s*:" do n = n + 1 end
   return text:find "^processor" and n + 1 or n
end

-- The hypervisor says so in the processor's flags; its name where systemd knows it.
local function virtual()
   if not first("/proc/cpuinfo", "\nflags[^\n]* (hypervisor)") then return false end
   return capture "systemd-detect-virt --vm" or "yes"
end

-- Of the checkout that Tideway runs from, with a mark when files of it were changed.
local function commit()
   return capture(("git -C '%s' describe --always --dirty --abbrev=12"):format(abi.root))
end

local function hugepages()
   local text = posix.slurp "/proc/meminfo" or ""
   local total, free = text:match "HugePages_Total:%s*(%d+)", text:match "HugePages_Free:%s*(%d+)"
   local size = text:match "Hugepagesize:%s*(%d+)"
   if not total then return "none" end
   return ("%s of %d kB, %s free"):format(total, size or 0, free)
end

-- Those of the kernel's command line that say how much a measurement is disturbed.
local function kernel_options()
   local list = {}
   for word in (posix.slurp "/proc/cmdline" or ""):gmatch "%S+" do
      for _, name in ipairs { "isolcpus", "nohz_full", "rcu_nocbs", "mitigations", "intel_pstate", "idle", "nosmt" } do
         if word == name or word:sub(1, #name + 1) == name .. "=" then list[#list + 1] = word end
      end
   end
   return #list > 0 and table.concat(list, " ") or nil
end

local function load() return tonumber(first("/proc/loadavg", "^(%S+)")) end

--- What can be said before anything runs.
---@return table<string, any>
function M.describe()
   return {
      cpu = first("/proc/cpuinfo", "\nmodel name%s*:%s*([^\n]+)") or first("/proc/cpuinfo", "\nCPU part%s*:%s*(%S+)"),
      cpus = cpus(), mhz = tonumber(first("/proc/cpuinfo", "\ncpu MHz%s*:%s*(%S+)")),
      tsc_mhz = tonumber(C.tw_tsc_hz()) / 1e6, virtual = virtual(),
      kernel = first("/proc/sys/kernel/osrelease", "%S+"), kernel_options = kernel_options(),
      distribution = first("/etc/os-release", "PRETTY_NAME=\"?([^\"\n]+)"),
      dpdk = ffi.string(C.tw_dpdk_version()):gsub("^DPDK ", ""), luajit = jit.version, compiler = native.compiler(),
      flags = ffi.string(C.tw_native_command()), commit = commit(), hugepages_before = hugepages(),
      governor = first("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "%S+"),
      turbo = first("/sys/devices/system/cpu/intel_pstate/no_turbo", "%d") or first(
         "/sys/devices/system/cpu/cpufreq/boost", "%d"),
      load_before = load(),
   }
end

--- What is known once it has run.
---@param environment table
function M.complete(environment)
   local info = C.tw_eal_info()
   if info.started then
      environment.memory = ffi.string(info.note)
      environment.hugepages = info.hugepages
   end
   environment.load_after = load()
end

return M
