-- SPDX-License-Identifier: BSD-3-Clause
-- Ports (any DPDK device by its devargs, or a network interface by its name) and rings between chains.
--
-- A port is declared by the script and opened by DPDK when a chain on an lcore needs it: chains on hooks need its
-- network interface only.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"
local posix = require "tideway.posix"

local C = abi.C
local M = {}

local PORTS_MAX = C.TW_PORTS_MAX - 1 -- one slot is for the counts of those that are gone

---@class tideway.port
---@field name string
---@field index integer index of the port in packets (pkt.port, pkt:send(), pkt:route())
---@field devargs string
---@field device string DPDK's name of the device
---@field iface string? network interface of the kernel that it stands for
---@field opened boolean? DPDK has it
---@field where string file:line of its declaration
local Port = {}
Port.__index = Port
Port.__tostring = function(self) return ("port %s (%s)"):format(self.name, self.devargs) end
Port.__transfer = function(self) return "tideway.port", "attach", { self.name, self.index, self.devargs } end

--- The same port in another VM (see tideway.transfer).
function M.attach(name, index, devargs)
   return setmetatable({ name = name, index = index, devargs = devargs }, Port)
end

--- Open the device, unless it is open. Starts DPDK.
---@return boolean? ok
---@return string? err
function Port:open()
   if self.opened then return true end
   if C.tw_port_open(self.index, self.name, self.devargs) < 0 then return nil, abi.error() end
   self.opened = true
   return true
end

--- Put a frame on a wire port, as if it came from the network.
---@param frame string
---@return boolean ok
---@return string? error
function Port:inject(frame)
   if C.tw_wire_inject(self.index, frame, #frame) < 0 then return false, abi.error() end
   return true
end

local collect_buffer = ffi.new("char[?]", 65536)

--- Take the next frame that the engine sent to a wire port.
---@return string? frame nil when there is none
function Port:collect()
   local n = C.tw_wire_collect(self.index, collect_buffer, 65536)
   if n <= 0 then return nil end
   return ffi.string(collect_buffer, n)
end

--- Ethernet address of the device as a 48-bit number.
---@return number
function Port:mac()
   local mac, value = not self.opened and self.iface and posix.net_address(self.iface), 0
   if not mac then
      if not model.dry and not self.opened then
         local ok, err = self:open()
         if not ok then error(("port %s: %s"):format(self.name, err), 2) end
      end
      mac = ffi.string(C.tw_stats().port[self.index].mac, 6)
   end
   for i = 1, 6 do value = value * 256 + mac:byte(i) end
   return value
end

--- What was really got, for example "native XDP, zero-copy". Empty before start.
---@return string
function Port:mode() return ffi.string(C.tw_stats().port[self.index].mode) end

-- Names that DPDK gives a meaning: drivers, PCI addresses, and our own: wires, sources and sinks of benchmarks. Any
-- other word is a network interface.
local function is_device(word)
   return word:find "," or word:find "^net_" or word:find "^eth_" or word:find "^wire%d" or word:find "^source%d+$"
      or word:find "^sink%d+$"
      or word:find "^%x+:%x+%.%x$" or word:find "^%x+:%x+:%x+%.%x$"
end

-- What another port has already, as a sentence.
local function taken(name, device, iface)
   local same = model.find(model.ports, "name", name)
   if same then return ("the name %q is taken by the port declared at %s"):format(name, same.where) end
   same = model.find(model.ports, "device", device)
   if same then
      return ("device %s is given twice, first at %s; number the second one differently"):format(device, same.where)
   end
   same = iface and model.find(model.ports, "iface", iface)
   return same and ("interface %s is given twice, first at %s"):format(iface, same.where)
end

-- The port that runs and is declared anew just as it is.
local function running(name, devargs)
   local port = model.find(model.running.ports, "name", name)
   return port and port.devargs == devargs and port or nil
end

--- Declare a port. When the engine runs this is part of a change; a port that was deleted in it, or all in a reload, go
--- on as they are when they are declared anew with the same devargs.
---@param name string name in counters and messages; may be left out
---@param devargs string DPDK devargs: net_af_packet0,iface=eth0 · net_af_xdp0,iface=eth0 · net_tap0 ·
--- net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap · net_memif0 · net_ring0 · net_null0 · a PCI address · wire0
--- (in-process, for tests) · or a network interface alone, eth0: on lcores it is opened by net_af_xdp
---@return tideway.port
---@overload fun(devargs: string): tideway.port
function M.port(name, devargs)
   if devargs == nil then name, devargs = nil, name end
   if type(devargs) ~= "string" or devargs == "" then
      error(("tw.port: devargs must be a string such as \"net_af_packet0,iface=eth0\", or the name of an interface, "
         .. "not %s"):format(tostring(devargs)), 2)
   end
   local iface = devargs:match ",iface=([^,]+)"
   if not is_device(devargs) then
      iface = devargs
      devargs = ("net_af_xdp_%s,iface=%s"):format(iface, iface)
   end
   name = name or iface or devargs:match "^[^,]+"
   model.writable(("tw.port(%q, ...)"):format(name))
   local device = devargs:match "^[^,]+"
   if device:find "^net_tap" then iface = nil end -- the device makes it
   local wrong = taken(name, device, iface)
   if wrong then error("tw.port: " .. wrong, 2) end
   local port = running(name, devargs)
   if not port then
      local index = model.free_index("ports", PORTS_MAX)
      if not index then error(("tw.port: %d ports are the limit"):format(PORTS_MAX), 2) end
      port = setmetatable({
         name = name, index = index, devargs = devargs, device = device, iface = iface, where = model.where(2),
      }, Port)
   end
   model.ports[#model.ports + 1] = port
   return port
end

-- Takes a handle out of the version that one sees.
local function delete(kind, handle)
   model.writable(tostring(handle))
   for i, other in ipairs(model[kind]) do
      if other == handle then return table.remove(model[kind], i) end
   end
   error(tostring(handle) .. " is not there any more", 3)
end

--- Take the port away. No chain may use it any more when the change is applied.
function Port:delete() delete("ports", self) end

---@class tideway.ring
---@field name string
---@field index integer
local Ring = {}
Ring.__index = Ring
Ring.__tostring = function(self) return "ring " .. self.name end

--- A ring: sink of one chain and source of another, on the same or another lcore.
---@param name string
---@param options? { size: integer } entries, a power of two (default 1024)
---@return tideway.ring
function M.ring(name, options)
   if type(name) ~= "string" then error("tw.ring: the name must be a string", 2) end
   model.writable(("tw.ring(%q)"):format(name))
   local same = model.find(model.rings, "name", name)
   if same then error(("tw.ring: the name %q is taken by the ring declared at %s"):format(name, same.where), 2) end
   local size = options and options.size or 1024
   if type(size) ~= "number" or size < 2 or size % 1 ~= 0 then
      error(("tw.ring: size %s is not a power of two"):format(tostring(size)), 2)
   end
   local ring = model.find(model.running.rings, "name", name)
   if not ring or ring.size ~= size then
      ring = setmetatable({ name = name, index = #model.rings, size = size, where = model.where(2) }, Ring)
      local ok, err = ring:open()
      if not ok then error("tw.ring: " .. err, 2) end
   end
   model.rings[#model.rings + 1] = ring
   return ring
end

--- Make the ring, unless it is there.
---@return boolean? ok
---@return string? err
function Ring:open()
   if self.opened or model.dry then return true end
   local index = C.tw_ring_open(self.name, self.size)
   if index < 0 then return nil, abi.error() end
   self.index, self.opened = index, true
   return true
end

--- Take the ring away.
function Ring:delete() delete("rings", self) end

--- Is it a port? a ring?
function M.is_port(value) return getmetatable(value) == Port end
function M.is_ring(value) return getmetatable(value) == Ring end

return M
