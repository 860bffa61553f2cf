-- SPDX-License-Identifier: BSD-3-Clause
-- Unix stream sockets: listen, accept, connect, who is at the other end, send and receive without waiting.

local ffi = require "ffi"
local bit = require "bit"
require "tideway.posix" -- declares socket(), close(), strerror()

local C = ffi.C
local M = {
   EINTR = 4, EAGAIN = 11, ENOMEM = 12, ENFILE = 23, EMFILE = 24, EPIPE = 32, ECONNABORTED = 103,
   ENOBUFS = 105,
}

ffi.cdef [[
struct tw_posix_sockaddr_un { uint16_t family; char path[108]; };
struct tw_posix_ucred { int pid; unsigned uid, gid; };
struct tw_posix_timeval { long sec, usec; };
int tw_posix_bind(int fd, const struct tw_posix_sockaddr_un *address, unsigned len) __asm__("bind");
int tw_posix_listen(int fd, int backlog) __asm__("listen");
int tw_posix_accept(int fd, void *address, unsigned *len, int flags) __asm__("accept4");
int tw_posix_connect(int fd, const struct tw_posix_sockaddr_un *address, unsigned len) __asm__("connect");
int tw_posix_getsockopt(int fd, int level, int name, void *value, unsigned *len) __asm__("getsockopt");
int tw_posix_setsockopt(int fd, int level, int name, const void *value, unsigned len) __asm__("setsockopt");
long tw_posix_send(int fd, const void *data, size_t len, int flags) __asm__("send");
long tw_posix_recv(int fd, void *data, size_t len, int flags) __asm__("recv");
int tw_posix_chmod(const char *path, unsigned mode) __asm__("chmod");
int tw_posix_unlink(const char *path) __asm__("unlink");
]]

local AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET, SOCK_NONBLOCK, SOCK_CLOEXEC = 1, 1, 5, 0x800, 0x80000
local SOL_SOCKET, SO_PEERCRED, SO_SNDTIMEO, SO_COOKIE, SO_PEERGROUPS = 1, 17, 21, 57, 59
local MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
local PATH_MAX = 107

local function failure(fd)
   local err = ffi.errno()
   if fd and fd >= 0 then C.tw_posix_close(fd) end
   return nil, ffi.string(C.tw_posix_strerror(err)), err
end

local function address_of(path)
   if #path > PATH_MAX then
      return nil, ("the path %s has %d bytes and that of a socket has at most %d; set TIDEWAY_RUN_DIR to a shorter one")
         :format(path, #path, PATH_MAX)
   end
   local address = ffi.new "struct tw_posix_sockaddr_un"
   address.family = AF_UNIX
   ffi.copy(address.path, path)
   return address
end

--- Make a socket that others can connect to, without waiting for them.
---@param path string a socket that is there already is replaced
---@param mode integer permissions
---@return integer? fd
---@return string? error
function M.listen(path, mode)
   local address, err = address_of(path)
   if not address then return nil, err end
   local fd = C.tw_posix_socket(AF_UNIX, SOCK_STREAM + SOCK_NONBLOCK + SOCK_CLOEXEC, 0)
   if fd < 0 then return failure() end
   C.tw_posix_unlink(path)
   -- Nobody gets in between: only a socket that listens can be connected to.
   if C.tw_posix_bind(fd, address, ffi.sizeof(address)) < 0 or C.tw_posix_chmod(path, mode) < 0
      or C.tw_posix_listen(fd, 128) < 0 then
      return failure(fd)
   end
   return fd
end

--- Change the permissions of a file.
---@param path string
---@param mode integer
---@return boolean? ok
---@return string? error
function M.chmod(path, mode)
   if C.tw_posix_chmod(path, mode) < 0 then return failure() end
   return true
end

--- The next one who connects; its socket does not wait.
---@param fd integer
---@return integer? fd
---@return string? error
---@return integer? errno M.EAGAIN: nobody
function M.accept(fd)
   local client
   repeat
      client = C.tw_posix_accept(fd, nil, nil, SOCK_NONBLOCK + SOCK_CLOEXEC)
   until client >= 0 or ffi.errno() ~= M.EINTR
   if client < 0 then return failure() end
   return client
end

--- Connect, waiting some seconds at most. What is sent and received later waits as the caller says.
---@param path string
---@param packets? boolean a socket of packets instead of a stream, and without waiting
---@return integer? fd
---@return string? error
---@return integer? errno
function M.connect(path, packets)
   local address, err = address_of(path)
   if not address then return nil, err end
   local kind = packets and SOCK_SEQPACKET + SOCK_NONBLOCK or SOCK_STREAM
   local fd = C.tw_posix_socket(AF_UNIX, kind + SOCK_CLOEXEC, 0)
   if fd < 0 then return failure() end
   local wait = ffi.new("struct tw_posix_timeval", 5, 0)
   C.tw_posix_setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, wait, ffi.sizeof(wait))
   local rc
   repeat rc = C.tw_posix_connect(fd, address, ffi.sizeof(address)) until rc == 0 or ffi.errno() ~= M.EINTR
   if rc < 0 then return failure(fd) end
   return fd
end

--- Who is at the other end, as the kernel saw it when it connected.
---@param fd integer
---@return { pid: integer, uid: integer, gid: integer, groups: integer[] }? peer
---@return string? error
function M.peer(fd)
   local cred, len = ffi.new "struct tw_posix_ucred", ffi.new "unsigned[1]"
   len[0] = ffi.sizeof(cred)
   if C.tw_posix_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, cred, len) < 0 then return failure() end
   local most = 65536 -- NGROUPS_MAX
   local list = ffi.new("unsigned[?]", most)
   len[0] = most * 4
   if C.tw_posix_getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, len) < 0 then return failure() end
   local groups = {}
   for i = 0, tonumber(len[0]) / 4 - 1 do groups[i + 1] = list[i] end
   return { pid = cred.pid, uid = cred.uid, gid = cred.gid, groups = groups }
end

--- The number that the kernel knows a socket by, no other one ever has it.
---@param fd integer
---@return ffi.cdata*? cookie uint64_t; nil: no socket
function M.cookie(fd)
   local cookie, len = ffi.new "uint64_t[1]", ffi.new("unsigned[1]", 8)
   return C.tw_posix_getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, len) == 0 and cookie[0] or nil
end

--- Send what the socket takes now. A peer that is gone is an error and not a signal.
---@param fd integer
---@param data string
---@param from integer bytes of it that were sent before
---@param wait? boolean until all that can be is sent
---@return integer? sent
---@return string? error
---@return integer? errno M.EAGAIN: nothing now
function M.send(fd, data, from, wait)
   local flags = bit.bor(MSG_NOSIGNAL, wait and 0 or MSG_DONTWAIT)
   local start = ffi.cast("const char *", data) + from
   local n
   repeat n = C.tw_posix_send(fd, start, #data - from, flags) until n >= 0 or ffi.errno() ~= M.EINTR
   if n < 0 then return failure() end
   return tonumber(n)
end

local SIZE = 65536
local chunk = ffi.new("char[?]", SIZE)

--- What has come, at most 64 KiB; valid until the next call.
---@param fd integer
---@return ffi.cdata*? bytes
---@return integer|string count_or_error 0 at the end
---@return integer? errno M.EAGAIN: nothing now
function M.receive(fd)
   local n
   repeat n = C.tw_posix_recv(fd, chunk, SIZE, MSG_DONTWAIT) until n >= 0 or ffi.errno() ~= M.EINTR
   if n < 0 then return failure() end
   return chunk, tonumber(n)
end

return M
