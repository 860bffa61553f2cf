-- SPDX-License-Identifier: BSD-3-Clause
-- Child processes, a clock and DPDK's telemetry socket over FFI, for the benchmark harness.

local ffi = require "ffi"
local C = ffi.C

ffi.cdef [[
typedef struct { long sec, nsec; } bench_timespec;
typedef struct { uint16_t family; char path[108]; } bench_sockaddr_un;
int clock_gettime(int clock, bench_timespec *ts);
int nanosleep(const bench_timespec *req, bench_timespec *rem);
int fork(void);
int execvp(const char *file, const char *const argv[]);
int waitpid(int pid, int *status, int options);
int kill(int pid, int sig);
int prctl(int option, unsigned long arg);
int open(const char *path, int flags, ...);
int dup2(int from, int to);
int close(int fd);
int flock(int fd, int operation);
unsigned int geteuid(void);
void _exit(int status);
int socket(int domain, int type, int protocol);
int connect(int fd, const bench_sockaddr_un *addr, unsigned int len);
int setsockopt(int fd, int level, int name, const void *value, unsigned int len);
ssize_t send(int fd, const void *data, size_t len, int flags);
ssize_t recv(int fd, void *data, size_t len, int flags);
]]

local CLOCK_MONOTONIC, WNOHANG = 1, 1
local O_RDONLY, O_WRONLY_CREATE_TRUNCATE = 0, 0x241
local PR_SET_PDEATHSIG, SIGINT, SIGKILL = 1, 2, 9
local AF_UNIX, SOCK_SEQPACKET, SOL_SOCKET, SO_RCVTIMEO = 1, 5, 1, 20
local MSG_NOSIGNAL = 0x4000
local LOCK_EX_NB = 6

local M = {}

---@return boolean
function M.is_root() return C.geteuid() == 0 end

---@return number seconds of the monotonic clock
function M.now()
   local ts = ffi.new "bench_timespec"
   C.clock_gettime(CLOCK_MONOTONIC, ts)
   return tonumber(ts.sec) + tonumber(ts.nsec) * 1e-9
end

---@param seconds number
function M.sleep(seconds)
   local whole = math.floor(seconds)
   C.nanosleep(ffi.new("bench_timespec", whole, (seconds - whole) * 1e9), nil)
end

--- Takes a lock that ends with this process.
---@param path string
---@return boolean held
function M.lock(path)
   local fd = C.open(path, O_WRONLY_CREATE_TRUNCATE, ffi.cast("int", 420))
   return fd >= 0 and C.flock(fd, LOCK_EX_NB) == 0
end

---@class bench.Process
---@field pid integer
local Process = {}
Process.__index = Process

--- Starts a program; it is killed should this process die first.
---@param argv string[] program, looked up in PATH, and arguments
---@param log string file for its output
---@return bench.Process
function M.start(argv, log)
   local c_argv = ffi.new("const char *[?]", #argv + 1)
   for i, word in ipairs(argv) do c_argv[i - 1] = word end
   local pid = C.fork()
   if pid == 0 then
      C.prctl(PR_SET_PDEATHSIG, SIGKILL)
      C.dup2(C.open("/dev/null", O_RDONLY), 0)
      local out = C.open(log, O_WRONLY_CREATE_TRUNCATE, ffi.cast("int", 420))
      C.dup2(out, 1)
      C.dup2(out, 2)
      C.execvp(argv[1], c_argv)
      C._exit(127)
   end
   assert(pid > 0, "fork failed")
   return setmetatable({pid = pid}, Process)
end

---@return boolean
function Process:running()
   if self.ended then return false end
   self.ended = C.waitpid(self.pid, nil, WNOHANG) ~= 0
   return not self.ended
end

--- Asks for a clean stop and waits for it; kills after `patience` seconds.
---@param patience number
---@return boolean clean
function Process:stop(patience)
   if not self:running() then return false end
   C.kill(self.pid, SIGINT)
   local deadline = M.now() + patience
   while self:running() do
      if M.now() > deadline then
         C.kill(self.pid, SIGKILL)
         C.waitpid(self.pid, nil, 0)
         self.ended = true
         return false
      end
      M.sleep(0.01)
   end
   return true
end

---@class bench.Telemetry counters of one DPDK process, read from outside
---@field fd integer
local Telemetry = {}
Telemetry.__index = Telemetry

local buffer = ffi.new("char[?]", 65536)

local function receive(fd)
   local n = tonumber(C.recv(fd, buffer, 65536, 0))
   return n > 0 and ffi.string(buffer, n) or nil
end

local function connect(path)
   if #path > 107 then return nil end
   local fd = C.socket(AF_UNIX, SOCK_SEQPACKET, 0)
   local addr = ffi.new "bench_sockaddr_un"
   addr.family = AF_UNIX
   ffi.copy(addr.path, path)
   C.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, ffi.new("bench_timespec", 2, 0), 16)
   if C.connect(fd, addr, ffi.sizeof(addr)) ~= 0 then
      C.close(fd)
      return nil
   end
   return fd, receive(fd)
end

--- Finds a process's socket by the pid in its greeting, so that no file prefix must be known.
---@param pid integer
---@return bench.Telemetry? nil while there is none
function M.telemetry(pid)
   local list = assert(io.popen "ls -d /run/dpdk/*/dpdk_telemetry.v2* 2>/dev/null")
   local found
   for path in list:lines() do
      local fd, greeting = connect(path)
      if fd and greeting and tonumber(greeting:match '"pid":%s*(%d+)') == pid then
         found = setmetatable({fd = fd, path = path}, Telemetry)
         break
      end
      if fd then C.close(fd) end
   end
   list:close()
   return found
end

---@param command string e.g. "/ethdev/list"
---@return string? answer JSON
function Telemetry:ask(command)
   if C.send(self.fd, command, #command, MSG_NOSIGNAL) ~= #command then return nil end
   return receive(self.fd)
end

--- Finds an ethdev by its device name.
---@param device string e.g. "net_null1"
---@return integer? port_id
function Telemetry:port(device)
   local list = self:ask "/ethdev/list"
   for id in (list or ""):gsub('^.-%[', ""):gmatch "%d+" do
      local info = self:ask("/ethdev/info," .. id)
      if info and info:match '"name":%s*"([^"]+)"' == device then return tonumber(id) end
   end
end

--- Packets that a port has received and sent, and when that was.
---@param port_id integer
---@return {received: number, sent: number, time: number}? counters time in seconds
function Telemetry:counters(port_id)
   local before = M.now()
   local answer = self:ask("/ethdev/stats," .. port_id)
   local after = M.now()
   local received = answer and answer:match '"ipackets":%s*(%d+)'
   local sent = answer and answer:match '"opackets":%s*(%d+)'
   if not sent then return nil end
   return {received = tonumber(received), sent = tonumber(sent), time = (before + after) / 2}
end

function Telemetry:close() C.close(self.fd) end

return M
