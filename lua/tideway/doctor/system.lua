-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: memory, CPUs and the rights of this process.

local bit = require "bit"
local posix = require "tideway.posix"

local HUGE = "/sys/kernel/mm/hugepages"

-- EAL falls back to normal memory below this much.
local ENOUGH_MB = 64

local function hugepages(env, add)
   local free_mb, total_mb, parts = 0, 0, {}
   for _, name in ipairs(env.list(HUGE)) do
      local kb = tonumber(name:match "^hugepages%-(%d+)kB$")
      local total = tonumber(env.read(HUGE .. "/" .. name .. "/nr_hugepages"))
      local free = tonumber(env.read(HUGE .. "/" .. name .. "/free_hugepages"))
      if kb and total and free and total > 0 then
         total_mb, free_mb = total_mb + total * kb / 1024, free_mb + free * kb / 1024
         parts[#parts + 1] = ("%d of %d pages of %d MB"):format(free, total, kb / 1024)
      end
   end
   local remedy = "echo 512 | sudo tee /proc/sys/vm/nr_hugepages"
   if total_mb == 0 then
      add("memory", "warn", "no hugepages: packets live in normal memory, which is slower", remedy)
   elseif free_mb < ENOUGH_MB then
      add("memory", "warn", ("hugepages: %d MB free, %d are needed: %s"):format(free_mb, ENOUGH_MB,
         table.concat(parts, ", ")), remedy)
   else
      add("memory", "ok", ("hugepages: %s free; no hugetlbfs mount is needed"):format(table.concat(parts, ", ")))
   end
end

-- Each node needs hugepages of its own: the ports of a node take their buffers there.
local function numa(env, add)
   local nodes = {}
   for _, name in ipairs(env.list "/sys/devices/system/node") do
      if name:match "^node%d+$" then nodes[#nodes + 1] = name end
   end
   if #nodes < 2 then return add("memory", "ok", "1 NUMA node") end
   for _, node in ipairs(nodes) do
      local dir, pages = "/sys/devices/system/node/" .. node .. "/hugepages", 0
      for _, size in ipairs(env.list(dir)) do
         pages = pages + (tonumber(env.read(dir .. "/" .. size .. "/free_hugepages")) or 0)
      end
      if pages > 0 then
         add("memory", "ok", ("NUMA %s: %d free hugepages"):format(node, pages))
      else
         add("memory", "warn", ("NUMA %s has no free hugepages: ports on it would use another node's"):format(node),
            ("echo 512 | sudo tee %s/hugepages-2048kB/nr_hugepages"):format(dir))
      end
   end
end

-- CPUs in a list like "0-3,8".
local function cpu_count(list)
   local n = 0
   for first, last in (list or ""):gmatch "(%d+)%-?(%d*)" do
      n = n + (last ~= "" and tonumber(last) - tonumber(first) + 1 or 1)
   end
   return n
end

local function cpus(env, add)
   local online = env.read "/sys/devices/system/cpu/online"
   local allowed = (env.read "/proc/self/status" or ""):match "Cpus_allowed_list:%s*(%S+)"
   local isolated = env.read "/sys/devices/system/cpu/isolated"
   local n = cpu_count(allowed or online)
   if n < 2 then
      add("cpu", "warn", "1 CPU: the lcore shares it with the control thread and the kernel")
   else
      add("cpu", "ok", ("%d CPUs usable (%s)"):format(n, allowed or online))
   end
   if isolated and isolated ~= "" then
      add("cpu", "ok", "isolated CPUs: " .. isolated .. "; pin lcores there")
   else
      add("cpu", "ok", "no isolated CPUs; for steady latency boot with isolcpus= nohz_full= rcu_nocbs= of some")
   end
end

-- Time a hypervisor gave to others, since boot.
local function steal(env, add)
   local values, total = {}, 0
   for v in ((env.read "/proc/stat" or ""):match "^cpu%s+([^\n]*)" or ""):gmatch "%d+" do
      values[#values + 1] = tonumber(v)
   end
   for i = 1, math.min(8, #values) do total = total + values[i] end
   if not values[8] or total == 0 then return end
   local share = 100 * values[8] / total
   if share > 1 then
      add("cpu", "warn", ("the hypervisor took %.1f %% of the CPU time (steal): rates will vary"):format(share))
   else
      add("cpu", "ok", ("steal time %.1f %%"):format(share))
   end
end

-- name, bit, state when missing, what is lost
local CAPABILITIES = {
   { "CAP_NET_RAW", 13, "fail", "af_packet and af_xdp ports cannot be opened" },
   { "CAP_NET_ADMIN", 12, "warn", "tap ports, XDP programs and promiscuous mode cannot be set" },
   { "CAP_IPC_LOCK", 14, "warn", "memory for DMA and AF_XDP is bounded by RLIMIT_MEMLOCK" },
   { "CAP_SYS_ADMIN", 21, "warn", "physical addresses for PCI devices without IOMMU cannot be read" },
   { "CAP_BPF", 39, "warn", "kernel programs cannot be loaded: no af_xdp port" },
}

-- Is bit n set in a hexadecimal number?
local function has_bit(hex, n)
   local digit = hex:sub(-(math.floor(n / 4) + 1), -(math.floor(n / 4) + 1))
   return bit.band(tonumber(digit, 16) or 0, bit.lshift(1, n % 4)) ~= 0
end

local function rights(env, add)
   local effective = (env.read "/proc/self/status" or ""):match "CapEff:%s*(%x+)" or "0"
   local have = {}
   for _, c in ipairs(CAPABILITIES) do
      -- Before CAP_BPF was split off, CAP_SYS_ADMIN held its rights, and it still does.
      if has_bit(effective, c[2]) or c[1] == "CAP_BPF" and has_bit(effective, 21) then
         have[#have + 1] = c[1]
      else
         add("rights", c[3], ("%s is missing: %s"):format(c[1], c[4]), "sudo tideway run SCRIPT")
      end
   end
   if #have > 0 then add("rights", "ok", "capabilities: " .. table.concat(have, " ")) end
   local RLIMIT_MEMLOCK = 8
   local limit = posix.rlimit(RLIMIT_MEMLOCK)
   if has_bit(effective, 14) then
      add("rights", "ok", "RLIMIT_MEMLOCK does not bind (CAP_IPC_LOCK)")
   elseif limit < 64 * 2 ^ 20 then
      add("rights", "warn", ("RLIMIT_MEMLOCK is %d KiB: AF_XDP needs about 16 MiB a port"):format(limit / 1024),
         "ulimit -l unlimited   # or LimitMEMLOCK=infinity in the service")
   else
      add("rights", "ok", "RLIMIT_MEMLOCK is large enough")
   end
end

return function(env, add)
   hugepages(env, add)
   numa(env, add)
   cpus(env, add)
   steal(env, add)
   rights(env, add)
end
