-- SPDX-License-Identifier: BSD-3-Clause
-- For specs of streams and datagrams: sockets of UDP that the spec holds, half-closes, both ends of a stream at once.

local bit = require "bit"
local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"
local upstream = require "test.support.upstream"

local M = {}
local C = ffi.C

pcall(ffi.cdef, [[
struct tw_spec_in { uint16_t family, port; uint32_t address; uint8_t zero[8]; };
int tw_spec_bind(int fd, const void *address, unsigned len) __asm__("bind");
int tw_spec_connect(int fd, const void *address, unsigned len) __asm__("connect");
int tw_spec_name(int fd, void *address, unsigned *len) __asm__("getsockname");
int tw_spec_shutdown(int fd, int how) __asm__("shutdown");
long tw_spec_sendto(int fd, const void *p, size_t n, int flags, const void *to, unsigned len) __asm__("sendto");
long tw_spec_recvfrom(int fd, void *p, size_t n, int flags, void *from, unsigned *len) __asm__("recvfrom");
]])

local AF_INET, AF_INET6, SOCK_DGRAM, NONBLOCK = 2, 10, 2, 0x800
local room = ffi.new("uint8_t[?]", 65536)

local function swap(port) return bit.bor(bit.lshift(bit.band(port, 255), 8), bit.rshift(port, 8)) end

local function address(port, last)
   local a = ffi.new "struct tw_spec_in"
   a.family, a.port = AF_INET, swap(port)
   local bytes = ffi.cast("uint8_t *", a) + 4
   bytes[0], bytes[3] = 127, last or 1
   return a
end

--- The client says that nothing more comes from it.
function M.half_close(connection) C.tw_spec_shutdown(connection.fd, 1) end

-- ---- UDP ----

local Udp = {}
Udp.__index = Udp

--- A socket at a port of 127.0.0.1 (0: any), connected when `to` is a port.
function M.udp(port, to, last)
   local fd = C.tw_posix_socket(AF_INET, SOCK_DGRAM + NONBLOCK, 0)
   local a, len = address(port or 0), ffi.new("unsigned[1]", 16)
   assert(C.tw_spec_bind(fd, a, 16) == 0, "bind")
   if to then assert(C.tw_spec_connect(fd, address(to, last), 16) == 0, "connect") end
   C.tw_spec_name(fd, a, len)
   return setmetatable({ fd = fd, port = swap(a.port) }, Udp)
end

--- A socket at an address of loopback that is its own; nil: somebody has it.
function M.bound(host, port)
   local fd = C.tw_posix_socket(AF_INET, SOCK_DGRAM + NONBLOCK, 0)
   if C.tw_spec_bind(fd, address(port, tonumber(host:match "%d+$")), 16) == 0 then
      return setmetatable({ fd = fd, port = port }, Udp)
   end
   posix.close(fd)
end

--- To who it is connected to, or to who the last datagram came from.
function Udp:send(text, to)
   if to or self.from then return tonumber(C.tw_spec_sendto(self.fd, text, #text, 0, to or self.from, 16)) end
   return tonumber(C.tw_posix_send(self.fd, text, #text, 0))
end

--- The next datagram, nil when none comes in time; self.from says who has sent it, of a socket that is not connected.
function Udp:receive(seconds)
   local until_when = posix.now() + (seconds or 60) * 1e9
   repeat
      local from, len = ffi.new "struct tw_spec_in[2]", ffi.new("unsigned[1]", 32)
      local n = tonumber(C.tw_spec_recvfrom(self.fd, room, 65536, 0, from, len))
      if n >= 0 then
         self.sender = swap(from[0].port)
         if not self.connected then self.from = from end
         return ffi.string(room, n)
      end
      posix.poll({ self.fd }, 10)
   until posix.now() > until_when
end

function Udp:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

--- A client of the gate at an address, "::1" or "127.0.0.1".
function M.tcp(host, port) return upstream.wrap(assert(net.connect(host, port))) end

function M.udp_to(host, port)
   if host ~= "::1" then
      local u = M.udp(0, port, tonumber(host:match "%d+$"))
      u.connected = true
      return u
   end
   local fd = C.tw_posix_socket(AF_INET6, SOCK_DGRAM + NONBLOCK, 0)
   local a = ffi.new "struct tw_posix_sockaddr_in6"
   a.family, a.port, a.address[15] = AF_INET6, swap(port), 1
   assert(C.tw_spec_connect(fd, a, 28) == 0, "connect")
   return setmetatable({ fd = fd, connected = true }, Udp)
end

--- A client of the gate.
function M.udp_client(last)
   local u = M.udp(0, upstream.port, last)
   u.connected = true
   return u
end

-- ---- both ends at once ----

--- Bytes that are the same again only after a long time.
function M.pattern(n, seed)
   local parts, x = {}, seed
   for i = 1, math.ceil(n / 4096) do
      local words = ffi.new "uint32_t[1024]"
      for k = 0, 1023 do
         x = bit.bxor(x, bit.lshift(x, 13))
         x = bit.bxor(x, bit.rshift(x, 17))
         x = bit.bxor(x, bit.lshift(x, 5))
         words[k] = x
      end
      parts[i] = ffi.string(words, 4096)
   end
   return table.concat(parts):sub(1, n)
end

local function push(from)
   if from.at >= #from.text then return false end
   local n = socket.send(from.connection.fd, from.text, from.at)
   if not n then return false end
   from.at = from.at + n
   if from.at >= #from.text then M.half_close(from.connection) end
   return true
end

local function pull(to)
   if to.ended then return false end
   local bytes, n = socket.receive(to.connection.fd)
   if not bytes then return false end
   if n == 0 then
      to.ended = true
   else
      to.parts[#to.parts + 1] = ffi.string(bytes, n)
   end
   return true
end

--- Sends one text from each end at the same time, with a half-close behind it; what each end has received.
---@return string at_server
---@return string at_client
function M.exchange(client, server, up, down, seconds)
   local a = { connection = client, text = up, at = 0, parts = {} }
   local b = { connection = server, text = down, at = 0, parts = {} }
   local until_when = posix.now() + (seconds or 60) * 1e9
   while not (a.ended and b.ended) and posix.now() < until_when do
      local pushed_a, pushed_b, pulled_a, pulled_b = push(a), push(b), pull(a), pull(b)
      if not (pushed_a or pushed_b or pulled_a or pulled_b) then posix.poll({ client.fd, server.fd }, 2) end
   end
   return table.concat(b.parts), table.concat(a.parts)
end

return M
