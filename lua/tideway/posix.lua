-- SPDX-License-Identifier: BSD-3-Clause
-- The few system calls the commands need and Lua lacks: mmap, poll, terminals, signals, bpf(2).

local ffi = require "ffi"
local bit = require "bit"

local M = {}

-- Own names for C's, so that another module may declare the same functions in its own words.
ffi.cdef [[
struct tw_posix_pollfd { int fd; short events; short revents; };
struct tw_posix_termios {
   uint32_t iflag, oflag, cflag, lflag; uint8_t line; uint8_t cc[32]; uint32_t ispeed, ospeed;
};
struct tw_posix_winsize { uint16_t rows, cols, xpixel, ypixel; };
struct tw_posix_timespec { int64_t sec, nsec; };
struct tw_posix_rlimit { uint64_t soft, hard; };
int tw_posix_open(const char *path, int flags, ...) __asm__("open");
int tw_posix_close(int fd) __asm__("close");
int tw_posix_flock(int fd, int what) __asm__("flock");
long tw_posix_read(int fd, void *buf, size_t count) __asm__("read");
long tw_posix_readlink(const char *path, char *buf, size_t size) __asm__("readlink");
void *tw_posix_mmap(void *addr, size_t len, int prot, int flags, int fd, long off) __asm__("mmap");
int tw_posix_munmap(void *addr, size_t len) __asm__("munmap");
int tw_posix_poll(struct tw_posix_pollfd *fds, unsigned long n, int ms) __asm__("poll");
int tw_posix_tcgetattr(int fd, struct tw_posix_termios *t) __asm__("tcgetattr");
int tw_posix_tcsetattr(int fd, int how, const struct tw_posix_termios *t) __asm__("tcsetattr");
int tw_posix_ioctl(int fd, unsigned long request, ...) __asm__("ioctl");
int tw_posix_isatty(int fd) __asm__("isatty");
int tw_posix_clock_gettime(int clock, struct tw_posix_timespec *ts) __asm__("clock_gettime");
int tw_posix_getpid(void) __asm__("getpid");
unsigned tw_posix_geteuid(void) __asm__("geteuid");
int tw_posix_access(const char *path, int mode) __asm__("access");
int tw_posix_kill(int pid, int sig) __asm__("kill");
int tw_posix_socket(int domain, int type, int protocol) __asm__("socket");
int tw_posix_getrlimit(int resource, struct tw_posix_rlimit *r) __asm__("getrlimit");
int tw_posix_setrlimit(int resource, const struct tw_posix_rlimit *r) __asm__("setrlimit");
int tw_posix_sigprocmask(int how, const void *set, void *old) __asm__("sigprocmask");
int tw_posix_sigemptyset(void *set) __asm__("sigemptyset");
int tw_posix_sigaddset(void *set, int sig) __asm__("sigaddset");
int tw_posix_signalfd(int fd, const void *set, int flags) __asm__("signalfd");
long tw_posix_syscall(long number, ...) __asm__("syscall");
const char *tw_posix_strerror(int err) __asm__("strerror");
struct tw_posix_epoll_event { uint32_t events; int fd; uint32_t unused; } __attribute__((packed));
int tw_posix_epoll_create(int flags) __asm__("epoll_create1");
int tw_posix_epoll_ctl(int epoll, int op, int fd, struct tw_posix_epoll_event *event) __asm__("epoll_ctl");
int tw_posix_epoll_wait(int epoll, struct tw_posix_epoll_event *events, int max, int ms) __asm__("epoll_wait");
struct tw_posix_nameindex { unsigned index; const char *name; };
struct tw_posix_nameindex *tw_posix_if_nameindex(void) __asm__("if_nameindex");
void tw_posix_if_freenameindex(struct tw_posix_nameindex *list) __asm__("if_freenameindex");
]]
local C = ffi.C

local O_RDONLY, O_CLOEXEC = 0, 0x80000
local PROT_READ, MAP_SHARED = 1, 1
local POLLIN = 1
local EPERM, EINTR = 1, 4

local function failure()
   local err = ffi.errno()
   return nil, ffi.string(C.tw_posix_strerror(err)), err
end

--- Map a whole file read-only and shared.
---@param path string
---@param size number bytes; the caller knows the file has as many
---@return ffi.cdata*? address `const void *`; unmapped when it is collected
---@return string? error
---@return integer? errno
function M.map_file(path, size)
   local fd = C.tw_posix_open(path, O_RDONLY + O_CLOEXEC)
   if fd < 0 then return failure() end
   local address = C.tw_posix_mmap(nil, size, PROT_READ, MAP_SHARED, fd, 0)
   local _, message, err = failure()
   C.tw_posix_close(fd)
   if ffi.cast("intptr_t", address) == -1 then return nil, message, err end
   return ffi.gc(address, function(p) C.tw_posix_munmap(p, size) end)
end

--- Monotonic time in nanoseconds.
---@return number
function M.now()
   local ts = ffi.new "struct tw_posix_timespec"
   C.tw_posix_clock_gettime(1, ts)
   return tonumber(ts.sec) * 1e9 + tonumber(ts.nsec)
end

--- Time since 1970 in nanoseconds, exact.
---@return ffi.cdata* int64_t
function M.realtime()
   local ts = ffi.new "struct tw_posix_timespec"
   C.tw_posix_clock_gettime(0, ts)
   return ts.sec * 1000000000LL + ts.nsec
end

--- Is there a process with this id? One of another user counts too.
---@param pid integer
---@return boolean
function M.alive(pid)
   return pid > 0 and (C.tw_posix_kill(pid, 0) == 0 or ffi.errno() == EPERM)
end

---@return integer
function M.getpid() return C.tw_posix_getpid() end

---@return integer
function M.geteuid() return C.tw_posix_geteuid() end

--- May this process write there? (Directories: make entries.)
---@param path string
---@return boolean
function M.writable(path) return C.tw_posix_access(path, 2) == 0 end

--- Where a symbolic link points to.
---@param path string
---@return string?
function M.readlink(path)
   local buf = ffi.new("char[?]", 4096)
   local n = C.tw_posix_readlink(path, buf, 4096)
   return n >= 0 and ffi.string(buf, n) or nil
end

--- A file's whole text, nil when it cannot be read.
---@param path string
---@return string?
function M.slurp(path)
   local f = io.open(path)
   local text = f and f:read "*a"
   if f then f:close() end
   return text
end

---@param fd integer
---@return boolean
function M.isatty(fd) return C.tw_posix_isatty(fd) == 1 end

--- The resource "open descriptors", for rlimit() and raise_rlimit().
M.RLIMIT_NOFILE = 7

--- Soft limit of a resource (RLIMIT_*), math.huge for none.
---@param resource integer
---@return number
function M.rlimit(resource)
   local r = ffi.new "struct tw_posix_rlimit"
   C.tw_posix_getrlimit(resource, r)
   return r.soft == 0xffffffffffffffffULL and math.huge or tonumber(r.soft)
end

--- Raise the soft limit of a resource as far as it can be: to the hard one.
---@param resource integer
---@return number limit now, math.huge for none
function M.raise_rlimit(resource)
   local r = ffi.new "struct tw_posix_rlimit"
   C.tw_posix_getrlimit(resource, r)
   r.soft = r.hard
   C.tw_posix_setrlimit(resource, r)
   return M.rlimit(resource)
end

--- Can a socket of this kind be made here?
---@param domain integer
---@param kind integer
---@return boolean ok
---@return string? error
function M.probe_socket(domain, kind)
   local fd = C.tw_posix_socket(domain, bit.bor(kind, O_CLOEXEC), 0)
   if fd < 0 then
      local _, message = failure()
      return false, message
   end
   C.tw_posix_close(fd)
   return true
end

-- A request about a network device: the struct ifreq, with the pointer in it when there is one.
local function net_request(name, number, pointer)
   local AF_INET, SOCK_DGRAM = 2, 2
   if #name > 15 then return nil end
   local fd = C.tw_posix_socket(AF_INET, bit.bor(SOCK_DGRAM, O_CLOEXEC), 0)
   if fd < 0 then return nil end
   local request = ffi.new "char[40]"
   ffi.copy(request, name)
   if pointer then ffi.cast("void **", request + 16)[0] = pointer end
   local ok = C.tw_posix_ioctl(fd, number, ffi.cast("void *", request)) == 0
   C.tw_posix_close(fd)
   return ok and request or nil
end

--- Name of the kernel driver of a network device (ETHTOOL_GDRVINFO; virtual devices have one too).
---@param name string
---@return string? driver
function M.net_driver(name)
   local SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3
   local info = ffi.new "char[196]" -- struct ethtool_drvinfo
   ffi.cast("uint32_t *", info)[0] = ETHTOOL_GDRVINFO
   return net_request(name, SIOCETHTOOL, info) and ffi.string(info + 4) or nil
end

--- Ethernet address of a network device.
---@param name string
---@return string? address six bytes
function M.net_address(name)
   local SIOCGIFHWADDR = 0x8927
   local request = net_request(name, SIOCGIFHWADDR)
   return request and ffi.string(request + 18, 6) or nil
end

--- Names of the network devices of this network namespace. /sys may be that of another one.
---@return string[]
function M.net_devices()
   local list, names = C.tw_posix_if_nameindex(), {}
   local i = 0
   while list ~= nil and list[i].index ~= 0 do
      names[#names + 1] = ffi.string(list[i].name)
      i = i + 1
   end
   if list ~= nil then C.tw_posix_if_freenameindex(list) end
   return names
end

--- Load (and drop) the smallest BPF program there is: "r0 = 0; exit".
---@param program_type integer BPF_PROG_TYPE_*
---@return boolean ok
---@return string? error
function M.probe_bpf(program_type)
   local numbers = { x64 = 321, arm64 = 280, arm64be = 280 }
   local number = numbers[jit.arch]
   if not number then return false, "unknown number of bpf(2) on " .. jit.arch end
   local insns = ffi.new("uint64_t[2]", 0xb7ULL, 0x95ULL)
   local license = ffi.new("char[4]", "BSD")
   local attr = ffi.new "uint64_t[16]"
   local words = ffi.cast("uint32_t *", attr)
   words[0], words[1] = program_type, 2
   attr[1] = ffi.cast("uintptr_t", insns)
   attr[2] = ffi.cast("uintptr_t", license)
   local BPF_PROG_LOAD = 5
   local fd = tonumber(C.tw_posix_syscall(number, ffi.cast("int", BPF_PROG_LOAD),
      ffi.cast("void *", attr), ffi.cast("unsigned", 72)))
   if fd < 0 then
      local _, message = failure()
      return false, message
   end
   C.tw_posix_close(fd)
   return true
end

--- Wait until one of the descriptors can be read.
---@param fds integer[]
---@param milliseconds integer
---@return table<integer, boolean> ready by descriptor
function M.poll(fds, milliseconds)
   local set = ffi.new("struct tw_posix_pollfd[?]", #fds)
   for i, fd in ipairs(fds) do
      set[i - 1].fd, set[i - 1].events = fd, POLLIN
   end
   local ready = {}
   if C.tw_posix_poll(set, #fds, milliseconds) > 0 then
      for i, fd in ipairs(fds) do ready[fd] = set[i - 1].revents ~= 0 end
   end
   return ready
end

local EPOLL_ADD, EPOLL_DEL, EPOLL_MOD = 1, 2, 3
local EPOLLIN, EPOLLOUT = 1, 4
local INTEREST = { r = EPOLLIN, w = EPOLLOUT, rw = EPOLLIN + EPOLLOUT }

--- A set of descriptors to wait for (epoll). Itself a descriptor that can be waited for.
---@return integer? fd
---@return string? error
function M.epoll()
   local fd = C.tw_posix_epoll_create(O_CLOEXEC)
   if fd < 0 then return failure() end
   return fd
end

--- Put a descriptor into the set, change what it waits for, or take it out.
---@param epoll integer
---@param fd integer
---@param interest "r"|"w"|"rw"|nil nil: out
---@param known? boolean it is in the set
---@return boolean? ok
---@return string? error
function M.epoll_set(epoll, fd, interest, known)
   local event = ffi.new "struct tw_posix_epoll_event"
   event.events, event.fd = INTEREST[interest] or 0, fd
   local op = not interest and EPOLL_DEL or known and EPOLL_MOD or EPOLL_ADD
   if C.tw_posix_epoll_ctl(epoll, op, fd, event) < 0 then return failure() end
   return true
end

local events = ffi.new "struct tw_posix_epoll_event[64]"

--- Descriptors of the set that are ready, without waiting; hung-up ones are readable and writable.
---@param epoll integer
---@return { fd: integer, readable: boolean, writable: boolean }[]
function M.epoll_ready(epoll)
   local list = {}
   for i = 0, C.tw_posix_epoll_wait(epoll, events, 64, 0) - 1 do
      local bits = events[i].events
      local failed = bit.band(bits, bit.bnot(EPOLLIN + EPOLLOUT)) ~= 0
      list[#list + 1] = {
         fd = events[i].fd, readable = failed or bit.band(bits, EPOLLIN) ~= 0,
         writable = failed or bit.band(bits, EPOLLOUT) ~= 0,
      }
   end
   return list
end

--- Close a descriptor.
---@param fd integer
function M.close(fd) C.tw_posix_close(fd) end

local LOCK_EX_NB = 2 + 4

--- Hold a file or directory against others that hold it in the same way, flock(2).
---@param path string
---@param milliseconds integer how long to wait for who has it
---@return integer? fd closed, it is given back; nil: not in time, or there is none
function M.hold(path, milliseconds)
   local fd = C.tw_posix_open(path, O_RDONLY + O_CLOEXEC)
   if fd < 0 then return nil end
   local late = M.now() + milliseconds * 1e6
   while C.tw_posix_flock(fd, LOCK_EX_NB) ~= 0 do
      if M.now() > late then
         M.close(fd)
         return nil
      end
      C.tw_posix_poll(nil, 0, 5)
   end
   return fd
end

--- Up to `count` bytes from a descriptor; "" at its end.
---@param fd integer
---@param count integer
---@return string
function M.read(fd, count)
   local buf = ffi.new("char[?]", count)
   local n
   repeat n = C.tw_posix_read(fd, buf, count) until n >= 0 or ffi.errno() ~= EINTR
   return n > 0 and ffi.string(buf, n) or ""
end

--- Turn signals into a descriptor that can be polled; they no longer end the process.
---@param signals integer[]
---@return integer fd
---@return fun() restore closes the descriptor and gives the signals back
function M.signal_fd(signals)
   local set, old = ffi.new "uint64_t[16]", ffi.new "uint64_t[16]"
   C.tw_posix_sigemptyset(set)
   for _, s in ipairs(signals) do C.tw_posix_sigaddset(set, s) end
   C.tw_posix_sigprocmask(0, set, old)
   local fd = C.tw_posix_signalfd(-1, set, O_CLOEXEC)
   return fd, function()
      C.tw_posix_close(fd)
      C.tw_posix_sigprocmask(2, old, nil)
   end
end

--- The next signal of such a descriptor that can be read.
---@param fd integer
---@return integer signal
function M.signal_of(fd)
   return ffi.cast("const uint32_t *", M.read(fd, 128))[0] -- struct signalfd_siginfo
end

--- Keys arrive one by one and unseen; Ctrl-C stays a signal.
---@param fd integer terminal
---@return fun()? restore nil when fd is no terminal
function M.raw_terminal(fd)
   local saved = ffi.new "struct tw_posix_termios"
   if C.tw_posix_tcgetattr(fd, saved) ~= 0 then return nil end
   local raw = ffi.new("struct tw_posix_termios", saved)
   local ICANON, ECHO, TCSANOW = 2, 8, 0
   raw.lflag = bit.band(raw.lflag, bit.bnot(ICANON + ECHO))
   C.tw_posix_tcsetattr(fd, TCSANOW, raw)
   return function() C.tw_posix_tcsetattr(fd, TCSANOW, saved) end
end

--- Rows and columns of a terminal, 24 and 80 when unknown.
---@param fd integer
---@return integer rows
---@return integer cols
function M.terminal_size(fd)
   local size = ffi.new "struct tw_posix_winsize"
   local TIOCGWINSZ = 0x5413
   if C.tw_posix_ioctl(fd, TIOCGWINSZ, ffi.cast("void *", size)) ~= 0 or size.rows == 0 then
      return 24, 80
   end
   return size.rows, size.cols
end

return M
