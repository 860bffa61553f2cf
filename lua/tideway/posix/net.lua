-- SPDX-License-Identifier: BSD-3-Clause
-- TCP sockets that listen on loopback or connect, UDP sockets that do, and datagrams to a Unix socket.

local ffi = require "ffi"
local bit = require "bit"
require "tideway.posix.socket" -- declares bind(), listen(), struct sockaddr_un

local C = ffi.C
local M = {}

ffi.cdef [[
struct tw_posix_sockaddr_in { uint16_t family, port; uint8_t address[4]; uint8_t zero[8]; };
struct tw_posix_sockaddr_in6 { uint16_t family, port; uint32_t flow; uint8_t address[16]; uint32_t scope; };
int tw_posix_getsockname(int fd, void *address, unsigned *len) __asm__("getsockname");
long tw_posix_sendto(int fd, const void *data, size_t len, int flags, const void *address, unsigned size)
   __asm__("sendto");
]]

ffi.cdef [[
int tw_posix_connect_to(int fd, const void *address, unsigned len) __asm__("connect");
]]

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC = 1, 2, 0x800, 0x80000
local SOL_SOCKET, SO_REUSEADDR, MSG_NOSIGNAL = 1, 2, 0x4000

local function failure(fd)
   local err = ffi.errno()
   if fd and fd >= 0 then C.tw_posix_close(fd) end
   return nil, ffi.string(C.tw_posix_strerror(err)), err
end

local function swap16(n) return bit.bor(bit.lshift(bit.band(n, 255), 8), bit.rshift(n, 8)) end

local function address_of(host, port)
   if host == "::1" then
      local a = ffi.new "struct tw_posix_sockaddr_in6"
      a.family, a.port, a.address[15] = AF_INET6, swap16(port), 1
      return a, AF_INET6
   end
   local a = ffi.new "struct tw_posix_sockaddr_in"
   a.family, a.port = AF_INET, swap16(port)
   local i = 0
   for byte in host:gmatch "%d+" do
      a.address[i], i = tonumber(byte), i + 1
   end
   return a, AF_INET
end

--- Listen on a loopback address, without waiting for those who connect.
---@param host string 127.x.y.z or ::1
---@param port integer 0: any that is free
---@return integer? fd
---@return string|integer error_or_port
function M.listen(host, port)
   local address, family = address_of(host, port)
   local fd = C.tw_posix_socket(family, SOCK_STREAM + SOCK_NONBLOCK + SOCK_CLOEXEC, 0)
   if fd < 0 then return failure() end
   local one = ffi.new("int[1]", 1)
   C.tw_posix_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, one, 4)
   local len = ffi.new("unsigned[1]", ffi.sizeof(address))
   if C.tw_posix_bind(fd, ffi.cast("const struct tw_posix_sockaddr_un *", address), len[0]) < 0
      or C.tw_posix_listen(fd, 16) < 0 or C.tw_posix_getsockname(fd, address, len) < 0 then
      return failure(fd)
   end
   return fd, swap16(address.port)
end

--- Connect to an IPv4 address or ::1 and wait until it is there; what is sent and received waits, too.
---@param host string
---@param port integer
---@param datagrams? boolean over UDP: nothing is waited for
---@return integer? fd
---@return string? error
function M.connect(host, port, datagrams)
   local address, family = address_of(host, port)
   local fd = C.tw_posix_socket(family, (datagrams and SOCK_DGRAM or SOCK_STREAM) + SOCK_CLOEXEC, 0)
   if fd < 0 then return failure() end
   if C.tw_posix_connect_to(fd, address, ffi.sizeof(address)) < 0 then return failure(fd) end
   return fd
end

--- Does nobody receive datagrams at this port of a loopback address?
---@param host string 127.x.y.z or ::1
---@param port integer
---@return boolean
function M.free_datagrams(host, port)
   local address, family = address_of(host, port)
   local fd = C.tw_posix_socket(family, SOCK_DGRAM + SOCK_CLOEXEC, 0)
   if fd < 0 then return false end
   local rc = C.tw_posix_bind(fd, ffi.cast("const struct tw_posix_sockaddr_un *", address), ffi.sizeof(address))
   C.tw_posix_close(fd)
   return rc == 0
end

--- Send one datagram to a Unix socket; it does not wait.
---@param path string "@name" in the abstract namespace
---@param data string
---@return boolean? ok
---@return string? error
function M.datagram(path, data)
   local address = ffi.new "struct tw_posix_sockaddr_un"
   if #path >= ffi.sizeof(address.path) then return nil, ("the path %s is too long for a socket"):format(path) end
   address.family = AF_UNIX
   ffi.copy(address.path, path)
   if path:sub(1, 1) == "@" then address.path[0] = 0 end
   local fd = C.tw_posix_socket(AF_UNIX, SOCK_DGRAM + SOCK_NONBLOCK + SOCK_CLOEXEC, 0)
   if fd < 0 then return failure() end
   local size = ffi.offsetof("struct tw_posix_sockaddr_un", "path") + #path
   if C.tw_posix_sendto(fd, data, #data, MSG_NOSIGNAL, address, size) < 0 then return failure(fd) end
   C.tw_posix_close(fd)
   return true
end

return M
