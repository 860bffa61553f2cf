-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: the kernel's version, BPF and AF_XDP, each tried rather than guessed from its version.

local function version(env, add)
   local release = env.read "/proc/sys/kernel/osrelease" or "?"
   local major, minor = release:match "^(%d+)%.(%d+)"
   major, minor = tonumber(major), tonumber(minor)
   if not major then return add("kernel", "warn", "kernel version unknown: " .. release) end
   if major < 5 or major == 5 and minor < 10 then
      add("kernel", "warn", ("kernel %s; 5.10 or later is what Tideway is tested on"):format(release),
         "sudo apt-get install -y linux-image-amd64")
   else
      add("kernel", "ok", "kernel " .. release)
   end
end

-- Without the rights nothing is known; with them the kernel lacks it.
local function remedy(err, option)
   if err:match "permitted" or err:match "denied" then return "sudo tideway doctor" end
   return ("zgrep %s /proc/config.gz   # the kernel needs it"):format(option)
end

local function bpf(env, add)
   local BPF_PROG_TYPE_XDP = 6
   local ok, err = env.probe_bpf(BPF_PROG_TYPE_XDP)
   if ok then
      add("kernel", "ok", "BPF: an XDP program loads")
   else
      add("kernel", "warn", ("BPF: an XDP program does not load (%s): no af_xdp port"):format(err),
         remedy(err, "CONFIG_BPF_SYSCALL"))
   end
   local jit = env.read "/proc/sys/net/core/bpf_jit_enable"
   if jit == "1" or jit == "2" then
      add("kernel", "ok", "BPF JIT is on")
   elseif jit then
      add("kernel", "warn", "BPF JIT is off: kernel programs are interpreted",
         "echo 1 | sudo tee /proc/sys/net/core/bpf_jit_enable")
   end
   if env.exists "/sys/kernel/btf/vmlinux" then
      add("kernel", "ok", "BTF of the kernel is there")
   else
      add("kernel", "warn", "no BTF of the kernel (/sys/kernel/btf/vmlinux): a kernel built with "
         .. "CONFIG_DEBUG_INFO_BTF has it")
   end
end

local function af_xdp(env, add)
   local AF_XDP, SOCK_RAW = 44, 3
   local ok, err = env.probe_socket(AF_XDP, SOCK_RAW)
   if ok then
      add("kernel", "ok", "AF_XDP sockets can be made")
   else
      add("kernel", "warn", ("AF_XDP sockets cannot be made (%s): use net_af_packet ports"):format(err),
         remedy(err, "CONFIG_XDP_SOCKETS"))
   end
   local AF_PACKET = 17
   ok, err = env.probe_socket(AF_PACKET, SOCK_RAW)
   if ok then
      add("kernel", "ok", "packet sockets can be made")
   else
      add("kernel", "fail", ("packet sockets cannot be made (%s): no net_af_packet port"):format(err),
         remedy(err, "CONFIG_PACKET"))
   end
   if not env.exists "/dev/net/tun" then
      add("kernel", "warn", "no /dev/net/tun: no net_tap port", "sudo modprobe tun")
   end
end

return function(env, add)
   version(env, add)
   bpf(env, add)
   af_xdp(env, add)
end
