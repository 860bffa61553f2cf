-- SPDX-License-Identifier: BSD-3-Clause
-- Sockets of this process, for specs of programs that are attached to sockets.

local ffi = require "ffi"
local bit = require "bit"
local posix = require "tideway.posix"

local M = {}

ffi.cdef [[
struct tw_test_sockaddr_in { uint16_t family, port; uint32_t address; uint8_t zero[8]; };
int tw_test_socket(int domain, int type, int protocol) __asm__("socket");
int tw_test_bind(int fd, const struct tw_test_sockaddr_in *a, uint32_t n) __asm__("bind");
int tw_test_connect(int fd, const struct tw_test_sockaddr_in *a, uint32_t n) __asm__("connect");
int tw_test_listen(int fd, int backlog) __asm__("listen");
int tw_test_accept(int fd, void *a, void *n) __asm__("accept");
int tw_test_getsockname(int fd, struct tw_test_sockaddr_in *a, uint32_t *n) __asm__("getsockname");
int tw_test_setsockopt(int fd, int level, int name, const void *value, uint32_t n) __asm__("setsockopt");
long tw_test_send(int fd, const void *data, size_t n, int flags) __asm__("send");
long tw_test_sendto(int fd, const void *data, size_t n, int flags, const struct tw_test_sockaddr_in *a,
   uint32_t size) __asm__("sendto");
long tw_test_recv(int fd, void *data, size_t n, int flags) __asm__("recv");
int tw_test_close(int fd) __asm__("close");
]]
local C = ffi.C

local AF_INET, STREAM, DGRAM, NOSIGNAL, DONTWAIT = 2, 1, 2, 0x4000, 0x40
local SOL_SOCKET, SO_REUSEADDR, SO_REUSEPORT = 1, 2, 15

local Socket = {}
Socket.__index = Socket

local function check(rc, what)
   if rc < 0 then error(("%s: errno %d"):format(what, ffi.errno()), 3) end
   return rc
end

local function address(port)
   return ffi.new("struct tw_test_sockaddr_in", AF_INET, bit.rshift(bit.bswap(port), 16), 0x0100007f)
end

local function new(fd)
   local a, n = ffi.new "struct tw_test_sockaddr_in", ffi.new("uint32_t[1]", 16)
   C.tw_test_getsockname(fd, a, n)
   return setmetatable({ fd = fd, port = bit.rshift(bit.bswap(a.port), 16) }, Socket)
end

local function bound(kind, port, reuseport)
   local fd = check(C.tw_test_socket(AF_INET, kind, 0), "socket")
   local one = ffi.new("int[1]", 1)
   C.tw_test_setsockopt(fd, SOL_SOCKET, reuseport and SO_REUSEPORT or SO_REUSEADDR, one, 4)
   check(C.tw_test_bind(fd, address(port or 0), 16), "bind")
   return fd
end

--- A UDP socket on 127.0.0.1.
---@param o? table  { port = 0, reuseport = bool }
function M.udp(o) return new(bound(DGRAM, o and o.port, o and o.reuseport)) end

--- A packet socket: IPv4 packets of all interfaces, with their Ethernet headers.
function M.packets() return new(check(C.tw_test_socket(17, 3, 0x0008), "socket")) end -- AF_PACKET, SOCK_RAW, ETH_P_IP

--- A listening TCP socket on 127.0.0.1.
function M.listener()
   local fd = bound(STREAM)
   check(C.tw_test_listen(fd, 8), "listen")
   return new(fd)
end

--- Two ends of a TCP connection over loopback.
function M.pair()
   local listener = M.listener()
   local fd = check(C.tw_test_socket(AF_INET, STREAM, 0), "socket")
   check(C.tw_test_connect(fd, address(listener.port), 16), "connect")
   local accepted = check(C.tw_test_accept(listener.fd, nil, nil), "accept")
   listener:close()
   return new(fd), new(accepted)
end

function Socket:send_to(port, data)
   check(C.tw_test_sendto(self.fd, data, #data, 0, address(port), 16), "sendto")
end

--- nil and errno when it is refused.
function Socket:send(data)
   local n = C.tw_test_send(self.fd, data, #data, NOSIGNAL)
   if n < 0 then return nil, ffi.errno() end
   return tonumber(n)
end

--- What comes within some time, or nil. What the kernel redirects comes by one of its own threads.
function Socket:receive(ms)
   local buffer = ffi.new "uint8_t[2048]"
   for _ = 0, (ms or 60000) / 5 do
      local n = tonumber(C.tw_test_recv(self.fd, buffer, 2048, DONTWAIT))
      if n > 0 then return ffi.string(buffer, n) end
      posix.poll({}, 5)
   end
end

function Socket:connects_to(port)
   return C.tw_test_connect(self.fd, address(port), 16) == 0
end

--- A new TCP socket, connected to a port of 127.0.0.1; nil when nobody listens.
function M.connect(port)
   local fd = check(C.tw_test_socket(AF_INET, STREAM, 0), "socket")
   if C.tw_test_connect(fd, address(port), 16) == 0 then return new(fd) end
   C.tw_test_close(fd)
end

function Socket:close() C.tw_test_close(self.fd) end

return M
