-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: what functions of messages need as processes of their own: sk_msg programs, users, limits.

local BPF_PROG_TYPE_SK_MSG = 16
local FIRST_UID, UIDS = 2010000000, 2 ^ 22 -- of workers, see core/worker/worker.h

local function sk_msg(env, add)
   local ok, err = env.probe_bpf(BPF_PROG_TYPE_SK_MSG)
   if ok then return add("kernel", "ok", "BPF: an sk_msg program loads: workers are woken by the kernel") end
   add("kernel", "warn", ("BPF: an sk_msg program does not load (%s): pin chains of messages to worker = \"rings\" or "
      .. "\"inline\""):format(err), (err:match "permitted" or err:match "denied") and "sudo tideway doctor"
      or "zgrep CONFIG_BPF_STREAM_PARSER /proc/config.gz   # the kernel needs it")
end

local function limits(env, add)
   local controllers
   for _, dir in ipairs { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" } do
      controllers = controllers or env.read(dir .. "/cgroup.controllers")
   end
   if controllers and (" " .. controllers .. " "):find "%scpu%s" then
      add("kernel", "ok", "cgroups of version 2 limit the CPU time of workers (cpu_percent)")
   else
      add("kernel", "warn", "no cgroup of version 2 with the cpu controller: cpu_percent of workers has no effect; "
         .. "their heaps are limited all the same")
   end
end

-- In a container only some users may exist.
local function users(env, add)
   local map = env.read "/proc/self/uid_map"
   if not map then return end
   for first, count in (map .. "\n"):gmatch "%s*(%d+)%s+%d+%s+(%d+)%s*\n" do
      if tonumber(first) <= FIRST_UID and tonumber(first) + tonumber(count) >= FIRST_UID + UIDS then
         return add("rights", "ok", ("every worker gets a user of its own, from uid %d on"):format(FIRST_UID))
      end
   end
   add("rights", "warn", ("users from uid %d on do not exist in this container: all workers run as nobody"):format(
      FIRST_UID))
end

return function(env, add)
   sk_msg(env, add)
   limits(env, add)
   users(env, add)
end
