-- SPDX-License-Identifier: BSD-3-Clause
-- doctor: network devices of the kernel, and NICs that DPDK could drive itself.

local NET, PCI = "/sys/class/net", "/sys/bus/pci/devices"

local function set(words)
   local t = {}
   for word in words:gmatch "%S+" do t[word] = true end
   return t
end

-- Drivers with native XDP, and those of them with AF_XDP zero-copy, in Linux 6.12.
local NATIVE_XDP = set [[veth virtio_net tun i40e ice ixgbe ixgbevf igb igc mlx4_en mlx5_core bnxt_en ena gve
   nfp qede sfc hv_netvsc mvneta mvpp2 stmmac dpaa fsl_dpa fsl_dpaa2_eth fsl_enetc thunder-nicvf nicvf bonding
   xen_netfront vmxnet3 atlantic tsnep am65-cpsw cpsw funeth mana lan966x]]
local ZERO_COPY = set "i40e ice ixgbe igb igc mlx5_core stmmac nfp gve virtio_net tsnep fsl_dpaa2_eth"

local function count(env, dir, prefix)
   local n = 0
   for _, name in ipairs(env.list(dir)) do
      if name:sub(1, #prefix) == prefix then n = n + 1 end
   end
   return n
end

local function xdp_note(driver)
   if ZERO_COPY[driver] then return "native XDP, zero-copy where queues allow" end
   if NATIVE_XDP[driver] then return "native XDP, copy mode" end
   return "generic XDP only"
end

local function interface(env, add, name)
   local dir = NET .. "/" .. name
   local driver = env.net_driver(name) or env.link(dir .. "/device/driver") or "unknown driver"
   local speed = tonumber(env.read(dir .. "/speed") or "")
   local text = ("%s: %s%s, %s, %d rx and %d tx queues, MTU %s, %s"):format(name, driver,
      speed and speed > 0 and (" %d Mbit/s"):format(speed) or "", env.read(dir .. "/operstate") or "?",
      count(env, dir .. "/queues", "rx-"), count(env, dir .. "/queues", "tx-"), env.read(dir .. "/mtu") or "?",
      xdp_note(driver))
   add("devices", "ok", text)
end

local function pci_nic(env, add, address)
   local driver = env.link(PCI .. "/" .. address .. "/driver")
   local text = ("PCI NIC %s (%s:%s)"):format(address, (env.read(PCI .. "/" .. address .. "/vendor") or "?"):sub(3),
      (env.read(PCI .. "/" .. address .. "/device") or "?"):sub(3))
   if driver == "vfio-pci" then
      add("devices", "ok", text .. ": bound to vfio-pci, use its address as a port")
   elseif #env.list "/sys/class/iommu" == 0 then
      add("devices", "ok", ("%s: driver %s; no IOMMU here, so binding it needs vfio's no-IOMMU mode"):format(text,
         driver or "none"))
   else
      add("devices", "ok", ("%s: driver %s; to give it to DPDK (the kernel loses it): dpdk-devbind.py -b vfio-pci %s")
         :format(text, driver or "none", address))
   end
end

return function(env, add)
   local found = false
   for _, name in ipairs(env.list(NET)) do
      if name ~= "lo" and env.exists(NET .. "/" .. name .. "/ifindex") then
         interface(env, add, name)
         found = true
      end
   end
   if not found then
      add("devices", "warn", "no network device but lo; the lab makes some", "sudo scripts/lab up")
   end
   for _, address in ipairs(env.list(PCI)) do
      local class = env.read(PCI .. "/" .. address .. "/class") or ""
      if class:sub(1, 6) == "0x0200" then pci_nic(env, add, address) end
   end
end
