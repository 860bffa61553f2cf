-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: DPDK with its drivers, LuaJIT, and what instances left behind.

local ffi = require "ffi"

-- Driver, Debian package without its ABI suffix, state when missing.
local DRIVERS = {
   { "net_af_packet", "librte-net-af-packet", "warn" },
   { "net_af_xdp", "librte-net-af-xdp", "warn" },
   { "net_tap", "librte-net-tap", "warn" },
   { "net_pcap", "librte-net-pcap", "warn" },
   { "net_memif", "librte-net-memif", "warn" },
   { "net_ring", "librte-net-ring", "warn" },
   { "net_null", "librte-net-null", "warn" },
}

-- EAL loads drivers from a directory named after its ABI, beside the libraries.
local function driver_dir(env)
   local libraries = { "/usr/local/lib", "/usr/lib", "/usr/lib64" }
   for _, base in ipairs { "/usr/local/lib", "/usr/lib" } do
      for _, name in ipairs(env.list(base)) do
         if name:match "linux%-gnu" then libraries[#libraries + 1] = base .. "/" .. name end
      end
   end
   for _, library in ipairs(libraries) do
      for _, name in ipairs(env.list(library .. "/dpdk")) do
         local abi = name:match "^pmds%-(%d+)"
         if abi then return library .. "/dpdk/" .. name, abi end
      end
   end
end

-- The version compiled in, when this runs inside the engine.
local function dpdk_version(abi)
   local ok, version = pcall(function() return ffi.string(require("tideway.abi").C.tw_dpdk_version()) end)
   return ok and version or abi and "DPDK ABI " .. abi
end

local function dpdk(env, add)
   local dir, abi = driver_dir(env)
   if not dir then
      return add("dpdk", "fail", "no DPDK drivers found: no port can be opened",
         "sudo apt-get install -y --no-install-recommends librte-meta-net dpdk")
   end
   local files = table.concat(env.list(dir), " ")
   local have, all = {}, 0
   for _, name in ipairs(env.list(dir)) do
      if name:match "^librte_net_.*%.so$" then all = all + 1 end
   end
   for _, d in ipairs(DRIVERS) do
      if files:find("librte_" .. d[1] .. ".so", 1, true) then
         have[#have + 1] = d[1]
      else
         add("dpdk", d[3], ("driver %s is missing in %s"):format(d[1], dir),
            ("sudo apt-get install -y --no-install-recommends %s%s"):format(d[2], abi))
      end
   end
   local state = #have > 0 and "ok" or "fail"
   add("dpdk", state, ("%s, drivers in %s: %s, and %d others"):format(dpdk_version(abi), dir,
      table.concat(have, " "), math.max(0, all - #have)))
end

local function luajit(add)
   if not jit.status() then
      add("lua", "fail", jit.version .. ": the JIT compiler is off: every packet would be interpreted",
         "unset LUAJIT_OPTIONS; and a LuaJIT built without LUAJIT_DISABLE_JIT")
   elseif not ffi.abi "gc64" and ffi.abi "64bit" then
      add("lua", "warn", jit.version .. " without GC64: all VMs together have 2 GB")
   else
      add("lua", "ok", ("%s, JIT on, GC64"):format(jit.version))
   end
end

-- Chains on lcores become machine code by way of it.
local function compiler(env, add)
   for dir in (os.getenv "PATH" or ""):gmatch "[^:]+" do
      if env.exists(dir .. "/cc") then return add("lua", "ok", dir .. "/cc compiles chains to machine code") end
   end
   add("lua", "warn", "no C compiler (cc): chains on lcores stay as LuaJIT compiles them, which is slower",
      "sudo apt-get install -y --no-install-recommends gcc libc6-dev")
end

-- What a running engine may still do.
local function rights(env, add, instance)
   local privilege = require "tideway.privilege"
   local state = privilege.state(instance.pid, env.read, env.list)
   if not state then return end -- ended meanwhile
   local text = ("%s (pid %d): %s"):format(instance.name, instance.pid,
      privilege.words(privilege.names(state.capabilities)))
   if state.no_new and state.filtered then
      add("instances", "ok", text .. ", no new ones, system calls filtered")
   else
      add("instances", "warn", ("%s, %s, %s"):format(text, state.no_new and "no new ones" or "more by running programs",
         state.filtered and "system calls filtered" or "every system call"),
         "tideway run SCRIPT   # without --privileges keep")
   end
end

-- What dead processes left: their counters, EAL's runtime directory and half compiled chains, named tideway-<pid>.
local function instances(env, add)
   local rundir = require "tideway.rundir"
   local running, dead = {}, {}
   for _, i in ipairs(rundir.instances()) do
      if i.alive then
         running[#running + 1] = i
      else
         dead[#dead + 1] = i.dir
      end
   end
   for _, name in ipairs(env.list "/run/dpdk") do
      local pid = name:match "^tideway%-(%d+)$"
      if pid and not env.exists("/proc/" .. pid) then dead[#dead + 1] = "/run/dpdk/" .. name end
   end
   for _, name in ipairs(env.list "/tmp") do -- chains that were being compiled
      local pid = name:match "^tideway%-(%d+)%-"
      if pid and not env.exists("/proc/" .. pid) then dead[#dead + 1] = "/tmp/" .. name end
   end
   for _, i in ipairs(running) do rights(env, add, i) end
   if #running == 0 then add("instances", "ok", "no instance runs") end
   if #dead > 0 then
      local list = table.concat(dead, " ")
      add("instances", "warn", ("left by instances that were killed: %s; the next start of the same name removes it")
         :format(list), "sudo rm -r " .. list)
   end
end

return function(env, add)
   dpdk(env, add)
   luajit(add)
   compiler(env, add)
   instances(env, add)
end
