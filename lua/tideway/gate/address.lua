-- SPDX-License-Identifier: BSD-3-Clause
-- Addresses of listeners and servers: "http://0.0.0.0:8080", "tcp://[::]:5000", "10.0.0.1:80", of servers also
-- "backend.example:80", "unix:/run/app.sock".

local ffi = require "ffi"
local abi = require "tideway.abi"
local packet_address = require "tideway.packet.address"
local resolve = require "tideway.gate.resolve"

local C = abi.C
local M = {}

local PROTOCOLS = { http = true, tcp = true, udp = true }
local LOCALHOST = "127.0.0.1"

---@class tideway.gate.address
---@field protocol? "http"|"tcp"|"udp"
---@field family integer 4, 6, TW_ADDRESS_UNIX
---@field bytes string in network order, 4 or 16
---@field path? string of a socket in the file system; bytes is empty then
---@field port integer
---@field scope integer index of the interface of a link-local address, else 0
---@field text string "10.0.0.1:80", "[::1]:80"
---@field host? string of a name that was resolved, with the port: "backend.example:80"

local function ip4(host)
   local value, err = packet_address.parse_ip4(host)
   if not value then return nil, err end
   return string.char(math.floor(value / 2 ^ 24), math.floor(value / 2 ^ 16) % 256, math.floor(value / 2 ^ 8) % 256,
      value % 256)
end

local function ip6(host)
   local address, zone = host:match "^(.-)%%(.+)$"
   local value, err = packet_address.parse_ip6(address or host)
   if not value then return nil, err end
   local scope = 0
   if zone then
      scope = require("tideway.posix.namespace").index(zone)
      if not scope then return nil, ("there is no network interface %q"):format(zone) end
   end
   return ffi.string(value, 16), scope
end

local function is_name(host) return host ~= "localhost" and not host:find ":" and host:find "%a" ~= nil end

local function numbers(host)
   if host == "localhost" then host = LOCALHOST end
   if host:find(":", 1, true) then
      local bytes, scope = ip6(host)
      return bytes, scope, 6
   end
   local bytes, err = ip4(host)
   return bytes, bytes and 0 or err, 4
end

-- "[::1]:80", "10.0.0.1:80", "::1:80" is none of them.
local function split(text)
   local host, port = text:match "^%[(.-)%]:(%d+)$"
   if host then
      if not host:find(":", 1, true) then return nil, ("%q: [ ] is for IPv6 addresses"):format(text) end
      return host, tonumber(port)
   end
   host, port = text:match "^([^:%[%]/]+):(%d+)$"
   if host then return host, tonumber(port) end
   if text:match "^[%x:]+:[%x:]*$" then
      return nil, ("%q: an IPv6 address stands in brackets, with its port behind them: \"[%s]:80\""):format(text, text)
   end
   if text:match "^%[.*%]$" or text:match "^[^:]+$" then
      return nil, ("%q has no port; write it behind a colon: \"%s:80\""):format(text, text)
   end
   return nil, ("%q is no address; write it as \"10.0.0.1:80\" or \"[2001:db8::1]:80\""):format(text)
end

local function path_of(text, protocol, path)
   if path:sub(1, 1) ~= "/" or path:find "%c" then
      return nil, ("%q: a socket in the file system is given by its whole path: \"unix:/run/app.sock\""):format(text)
   elseif #path >= C.TW_UNIX_LEN then
      return nil, ("%q: the path of a socket has %d bytes at most, not %d"):format(text, C.TW_UNIX_LEN - 1, #path)
   elseif protocol == "udp" then
      return nil, ("%q: no datagrams go to sockets in the file system"):format(text)
   end
   return { protocol = protocol, path = path }
end

-- What is in a text: protocol if there is one, host and port or a path.
local function parts(text)
   if type(text) ~= "string" then
      return nil, ("an address is a text such as \"10.0.0.1:80\", not %s"):format(tostring(text))
   end
   local protocol, rest = text:match "^(%w+)://(.*)$"
   if protocol == "https" then
      return nil, ("%q: TLS is not there yet; http, tcp and udp are"):format(text)
   elseif protocol and not PROTOCOLS[protocol] then
      return nil, ("%q: there is no protocol %q; there are http, tcp and udp"):format(text, protocol)
   end
   rest = rest or text
   if rest:find "^unix:" then return path_of(text, protocol, rest:sub(6)) end
   rest = rest:gsub("/$", protocol == "http" and "" or "/")
   if rest:find("/", 1, true) then return nil, ("%q: an address has no path"):format(text) end
   local host, port = split(rest)
   if not host then return nil, port end
   if port < 1 or port > 65535 then return nil, ("%q: %d is no port; ports are 1 to 65535"):format(text, port) end
   return { protocol = protocol, host = host, port = port }
end

-- The address of a host that is given by its number.
local function address_of(text, found, host)
   local bytes, scope, family = numbers(host)
   if not bytes then return nil, scope:find(text, 1, true) and scope or ("%q: %s"):format(text, scope) end
   return {
      protocol = found.protocol, family = family, bytes = bytes, port = found.port, scope = scope,
      text = (family == 6 and "[%s]:%d" or "%s:%d"):format(host == "localhost" and LOCALHOST or host, found.port),
   }
end

--- Parse an address with or without a protocol.
---@param text any
---@return tideway.gate.address? address
---@return string? err a sentence that has the value
function M.parse(text)
   local found, err = parts(text)
   if not found then return nil, err end
   if found.path then
      return nil, ("%q: sockets in the file system are for servers; give an address and a port"):format(text)
   elseif is_name(found.host) then
      return nil, ("%q is a name, and names are resolved for servers only; give its address (localhost is %s)")
         :format(found.host, LOCALHOST)
   end
   return address_of(text, found, found.host)
end

--- The addresses of a server: one, a path, or of a name all that it has now, for which the resolver is waited for.
---@param text any
---@param known? string[] numbers of its host, when somebody has asked for them
---@return tideway.gate.address[]? addresses
---@return string? err a sentence that has the value
function M.servers(text, known)
   local found, err = parts(text)
   if not found then return nil, err end
   if found.path then
      return { {
         protocol = found.protocol, family = tonumber(C.TW_ADDRESS_UNIX), bytes = "", path = found.path, port = 0,
         scope = 0, text = "unix:" .. found.path,
      } }
   elseif not is_name(found.host) then
      local address
      address, err = address_of(text, found, found.host)
      return address and { address }, err
   end
   local hosts = known
   if not hosts then hosts, err = resolve.now(found.host) end
   if not hosts then return nil, ("%q: %s"):format(text, err) end
   local list = {}
   for i, host in ipairs(hosts) do
      local address
      address, err = address_of(text, found, host)
      if not address then return nil, err end
      address.host = ("%s:%d"):format(found.host, found.port)
      list[i] = address
   end
   return list
end

--- Write it into a struct tw_endpoint_address.
---@param out ffi.cdata*
---@param address tideway.gate.address
function M.fill(out, address)
   out.family, out.port, out.scope = address.family, address.port, address.scope
   ffi.copy(out.bytes, address.bytes, #address.bytes)
   ffi.copy(out.path, address.path or "")
end

return M
