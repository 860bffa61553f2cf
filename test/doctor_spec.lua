-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: what it finds on a machine made of files, and on this one with and without root.

local doctor = require "tideway.doctor"
local json = require "tideway.json"
local lfs = require "lfs"
local posix = require "tideway.posix"
local shell = require "test.shell"

local ALL_CAPABILITIES = "000001ffffffffff"

-- A machine: two CPUs, 512 free hugepages, all rights, DPDK with the drivers.
local function machine(root, changes)
   local files = {
      ["/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"] = "512\n",
      ["/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"] = "500\n",
      ["/sys/devices/system/node/node0/cpulist"] = "0-1\n",
      ["/sys/devices/system/cpu/online"] = "0-1\n",
      ["/sys/devices/system/cpu/isolated"] = "\n",
      ["/proc/self/status"] = "CapEff:\t" .. ALL_CAPABILITIES .. "\nCpus_allowed_list:\t0-1\n",
      ["/proc/stat"] = "cpu  100 0 100 800 0 0 0 0 0 0\n",
      ["/proc/sys/kernel/osrelease"] = "6.1.0-13-amd64\n",
      ["/proc/sys/net/core/bpf_jit_enable"] = "1\n",
      ["/sys/kernel/btf/vmlinux"] = "",
      ["/sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io memory pids\n",
      ["/proc/self/uid_map"] = "         0          0 4294967295\n",
      ["/usr/bin/cc"] = "",
      ["/dev/net/tun"] = "",
      ["/sys/class/net/eth0/ifindex"] = "2\n",
      ["/sys/class/net/eth0/queues/rx-0/x"] = "",
      ["/sys/class/net/eth0/queues/rx-1/x"] = "",
      ["/sys/class/net/eth0/queues/tx-0/x"] = "",
   }
   for _, driver in ipairs { "af_packet", "af_xdp", "tap", "pcap", "memif", "ring", "null" } do
      files["/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_" .. driver .. ".so.23"] = ""
   end
   for path, text in pairs(changes or {}) do files[path] = text or nil end
   for path, text in pairs(files) do
      if text then shell.write(root .. path, text) end
   end
   local env = doctor.machine(root)
   env.probe_bpf = function() return true end
   env.probe_socket = function() return true end
   env.net_driver = function() return "veth" end
   return env
end

describe("doctor on a machine made of files", function()
   local root
   before_each(function() root = shell.directory() end)
   after_each(function() shell.remove(root) end)

   local function find(env, pattern)
      for _, f in ipairs(doctor.examine(env)) do
         if f.what:find(pattern) then return f end
      end
      error("no finding matches " .. pattern)
   end

   it("says that chains stay LuaJIT's without a C compiler", function()
      local f = find(machine(root, { ["/usr/bin/cc"] = false }), "C compiler")
      assert.equal("warn", f.state)
      assert.truthy(f.remedy:find("install .* gcc"))
   end)

   it("finds nothing to mend on a good one", function()
      for _, f in ipairs(doctor.examine(machine(root))) do
         if f.area ~= "instances" then assert.equal("ok", f.state, f.what) end
      end
   end)

   it("says how to get hugepages", function()
      local f = find(machine(root, { ["/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"] = "0\n" }), "hugepages")
      assert.equal("warn", f.state)
      assert.equal("echo 512 | sudo tee /proc/sys/vm/nr_hugepages", f.remedy)
   end)

   it("counts free hugepages, not all", function()
      local env = machine(root, { ["/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"] = "31\n" })
      local f = find(env, "hugepages")
      assert.equal("warn", f.state)
      assert.is_truthy(f.what:find("62 MB free", 1, true))
   end)

   it("finds a NUMA node without hugepages", function()
      local node = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/"
      local env = machine(root, {
         [node .. "free_hugepages"] = "0\n",
         ["/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages"] = "5\n",
      })
      assert.equal("ok", find(env, "NUMA node0").state)
      local f = find(env, "NUMA node1")
      assert.equal("warn", f.state)
      assert.equal("echo 512 | sudo tee " .. node .. "nr_hugepages", f.remedy)
   end)

   it("fails without CAP_NET_RAW, and warns for the others", function()
      local env = machine(root, { ["/proc/self/status"] = "CapEff:\t0000000000000000\n" })
      assert.equal("fail", find(env, "CAP_NET_RAW is missing").state)
      for _, name in ipairs { "CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_SYS_ADMIN", "CAP_BPF" } do
         assert.equal("warn", find(env, name .. " is missing").state)
      end
   end)

   it("takes CAP_SYS_ADMIN for CAP_BPF", function()
      local env = machine(root, { ["/proc/self/status"] = "CapEff:\t0000000000200000\n" })
      assert.is_truthy(find(env, "^capabilities").what:find "CAP_BPF")
   end)

   it("sees the hypervisor take time", function()
      local f = find(machine(root, { ["/proc/stat"] = "cpu  100 0 100 700 0 0 0 100 0 0\n" }), "steal")
      assert.equal("warn", f.state)
      assert.is_truthy(f.what:find("10.0 %", 1, true))
   end)

   it("says how to switch the BPF JIT on", function()
      local f = find(machine(root, { ["/proc/sys/net/core/bpf_jit_enable"] = "0\n" }), "BPF JIT")
      assert.equal("warn", f.state)
      assert.equal("echo 1 | sudo tee /proc/sys/net/core/bpf_jit_enable", f.remedy)
   end)

   it("tells missing rights from a kernel without AF_XDP", function()
      local env = machine(root)
      env.probe_socket = function(domain) return domain ~= 44, "Operation not permitted" end
      assert.equal("sudo tideway doctor", find(env, "AF_XDP sockets cannot").remedy)
      env.probe_socket = function(domain) return domain ~= 44, "Address family not supported by protocol" end
      assert.is_truthy(find(env, "AF_XDP sockets cannot").remedy:find "CONFIG_XDP_SOCKETS")
   end)

   it("names the package of a driver that is missing", function()
      local xdp = "/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_af_xdp.so.23"
      local f = find(machine(root, { [xdp] = false }), "net_af_xdp is missing")
      assert.equal("sudo apt-get install -y --no-install-recommends librte-net-af-xdp23", f.remedy)
   end)

   it("describes devices with driver, queues and XDP", function()
      assert.is_truthy(find(machine(root), "^eth0").what:find("veth, .*2 rx and 1 tx queues.*native XDP"))
   end)
end)

describe("tideway doctor", function()
   local dir
   setup(function() dir = shell.directory() end)
   teardown(function() shell.remove(dir) end)

   local function report(command)
      local r = command and shell.run(command .. " doctor --json") or shell.tideway "doctor --json"
      local value = assert(json.decode(r.out))
      local count = { ok = 0, warn = 0, fail = 0 }
      for _, f in ipairs(value.findings) do count[f.state] = count[f.state] + 1 end
      assert.same(count, value.summary)
      assert.equal(value.summary.fail == 0 and 0 or 1, r.code)
      assert.equal("", r.err)
      return value, r
   end

   it("covers every area and exits by its findings", function()
      local areas = {}
      for _, f in ipairs(report().findings) do areas[f.area] = true end
      assert.same({
         memory = true, cpu = true, rights = true, kernel = true, devices = true, dpdk = true, lua = true,
         instances = true,
      }, areas)
   end)

   it("prints a remedy below each finding that has one", function()
      local r = shell.tideway("doctor")
      local _, arrows = r.out:gsub("\n        %-> ", "")
      local with = 0
      for _, f in ipairs(report().findings) do with = with + (f.remedy and 1 or 0) end
      assert.equal(with, arrows)
   end)

   it("works without root and says what is missing", function()
      if posix.geteuid() ~= 0 then return pending "needs root to drop it" end
      -- The checkout may lie where only root can read: run a copy, laid out as an installed one.
      local copy = "cd %s && chmod 755 . && mkdir -p bin share/tideway && cp %s bin/ && cp -r %s/lua share/tideway/"
      assert.equal(0, shell.run(copy:format(dir, shell.quote(shell.binary), shell.quote(lfs.currentdir()))).code)
      local value = report("setpriv --reuid 65534 --regid 65534 --clear-groups " .. dir .. "/bin/tideway")
      assert.is_true(value.summary.fail > 0)
      local found
      for _, f in ipairs(value.findings) do found = found or f.what:find "CAP_NET_RAW is missing" end
      assert.is_truthy(found)
   end)

   it("finds what killed instances left", function()
      local pid = shell.run("sh -c 'echo $$'").out:match "%d+"
      local ffi = require "ffi"
      shell.write(dir .. "/gone/stats", "tideway\0" .. ffi.string(ffi.new("uint32_t[2]", 1, tonumber(pid)), 8))
      local value = report("TIDEWAY_RUN_DIR=" .. dir .. " " .. shell.quote(shell.binary))
      local found
      for _, f in ipairs(value.findings) do
         if f.area == "instances" and f.state == "warn" then found = f end
      end
      assert.is_truthy(found and found.remedy:find(dir .. "/gone", 1, true))
   end)
end)
