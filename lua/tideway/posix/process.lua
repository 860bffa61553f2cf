-- SPDX-License-Identifier: BSD-3-Clause
-- Other programs: started with their own signals and standard input, waited for.

local ffi = require "ffi"
local bit = require "bit"
local posix = require "tideway.posix"

ffi.cdef [[
int tw_posix_spawnp(int *pid, const char *file, const void *actions, const void *attr, const char *const *argv,
   const char *const *envp) __asm__("posix_spawnp");
int tw_posix_spawnattr_init(void *attr) __asm__("posix_spawnattr_init");
int tw_posix_spawnattr_destroy(void *attr) __asm__("posix_spawnattr_destroy");
int tw_posix_spawnattr_setflags(void *attr, short flags) __asm__("posix_spawnattr_setflags");
int tw_posix_spawnattr_setsigdefault(void *attr, const void *set) __asm__("posix_spawnattr_setsigdefault");
int tw_posix_spawnattr_setsigmask(void *attr, const void *set) __asm__("posix_spawnattr_setsigmask");
int tw_posix_spawn_actions_init(void *actions) __asm__("posix_spawn_file_actions_init");
int tw_posix_spawn_actions_destroy(void *actions) __asm__("posix_spawn_file_actions_destroy");
int tw_posix_spawn_actions_dup2(void *actions, int fd, int to) __asm__("posix_spawn_file_actions_adddup2");
int tw_posix_spawn_actions_open(void *actions, int fd, const char *path, int flags, unsigned mode)
   __asm__("posix_spawn_file_actions_addopen");
int tw_posix_waitpid(int pid, int *status, int options) __asm__("waitpid");
int tw_posix_pipe(int *fds, int flags) __asm__("pipe2");
long tw_posix_write(int fd, const void *data, size_t count) __asm__("write");
void (*tw_posix_signal(int sig, void (*handler)(int)))(int) __asm__("signal");
extern const char *const *tw_posix_environ __asm__("environ");
]]

local C = ffi.C
local M = {}

local SETSIGDEF, SETSIGMASK, O_CLOEXEC = 4, 8, 0x80000
local WNOHANG, EINTR = 1, 4
local O_RDONLY, O_WRONLY_CREATE_TRUNCATE = 0, 0x241
local SIG_IGN = ffi.cast("void (*)(int)", 1)

M.SIGINT, M.SIGQUIT, M.SIGKILL, M.SIGTSTP = 2, 3, 9, 20

--- Start a program, found by PATH, with signals as a program expects them.
---@param argv string[]
---@param options? { stdin: integer?, output: string?, ignore: integer[]? } descriptor of its standard input; file that
--- gets what it prints, it has no input then; signals it keeps ignored
---@return integer? pid
---@return string? error
function M.spawn(argv, options)
   options = options or {}
   -- More room than any libc's types take.
   local attr, actions, set = ffi.new "uint64_t[128]", ffi.new "uint64_t[128]", ffi.new "uint64_t[16]"
   C.tw_posix_spawnattr_init(attr)
   C.tw_posix_spawnattr_setflags(attr, bit.bor(SETSIGDEF, SETSIGMASK))
   C.tw_posix_spawnattr_setsigmask(attr, set)
   local keep = {}
   for _, sig in ipairs(options.ignore or {}) do keep[sig] = true end
   for _, sig in ipairs { M.SIGINT, M.SIGQUIT, M.SIGTSTP, 13, 15 } do
      if not keep[sig] then C.tw_posix_sigaddset(set, sig) end
   end
   C.tw_posix_spawnattr_setsigdefault(attr, set)
   C.tw_posix_spawn_actions_init(actions)
   if options.stdin then C.tw_posix_spawn_actions_dup2(actions, options.stdin, 0) end
   if options.output then
      C.tw_posix_spawn_actions_open(actions, 0, "/dev/null", O_RDONLY, 0)
      C.tw_posix_spawn_actions_open(actions, 1, options.output, O_WRONLY_CREATE_TRUNCATE, 420)
      C.tw_posix_spawn_actions_dup2(actions, 1, 2)
   end
   local words, pid = ffi.new("const char *[?]", #argv + 1), ffi.new "int[1]"
   for i, word in ipairs(argv) do words[i - 1] = word end
   local err = C.tw_posix_spawnp(pid, argv[1], actions, attr, words, C.tw_posix_environ)
   C.tw_posix_spawn_actions_destroy(actions)
   C.tw_posix_spawnattr_destroy(attr)
   if err ~= 0 then return nil, ("cannot start %s: %s"):format(argv[1], ffi.string(C.tw_posix_strerror(err))) end
   return pid[0]
end

--- The exit code of a child that has ended, 128 + signal when one ended it.
---@param pid integer
---@param wait? boolean until it ends
---@return integer? code nil: it runs
function M.ended(pid, wait)
   local status = ffi.new "int[1]"
   local got
   repeat got = C.tw_posix_waitpid(pid, status, wait and 0 or WNOHANG) until got >= 0 or ffi.errno() ~= EINTR
   if got == 0 then return nil end
   if got < 0 then return 127 end
   local signal = bit.band(status[0], 0x7f)
   return signal ~= 0 and 128 + signal or bit.rshift(bit.band(status[0], 0xff00), 8)
end

--- Ask a process to end.
---@param pid integer
---@param signal? integer default SIGTERM
function M.terminate(pid, signal) C.tw_posix_kill(pid, signal or 15) end

--- A descriptor that can be read when a child has ended.
---@param pid integer
---@return integer? fd
function M.descriptor(pid)
   local PIDFD_OPEN = 434
   local fd = tonumber(C.tw_posix_syscall(PIDFD_OPEN, ffi.cast("int", pid), ffi.cast("int", 0)))
   return fd >= 0 and fd or nil
end

--- A pipe.
---@return integer? read nil: an error
---@return integer|string write
function M.pipe()
   local fds = ffi.new "int[2]"
   if C.tw_posix_pipe(fds, O_CLOEXEC) < 0 then return nil, ffi.string(C.tw_posix_strerror(ffi.errno())) end
   return fds[0], fds[1]
end

--- Write all of a text.
---@param fd integer
---@param text string
---@return boolean ok
function M.write(fd, text)
   local from = 0
   while from < #text do
      local n = tonumber(C.tw_posix_write(fd, ffi.cast("const char *", text) + from, #text - from))
      if n >= 0 then
         from = from + n
      elseif ffi.errno() ~= EINTR then
         return false
      end
   end
   return true
end

--- Ignore signals.
---@param ... integer
---@return fun() restore
function M.ignore(...)
   local saved = {}
   for _, sig in ipairs { ... } do saved[sig] = C.tw_posix_signal(sig, SIG_IGN) end
   return function()
      for sig, handler in pairs(saved) do C.tw_posix_signal(sig, handler) end
   end
end

--- Make an empty file that only its owner may read, unless there is one.
---@param path string
---@return boolean ok
function M.private_file(path)
   local O_WRONLY, O_CREAT = 1, 0x40
   local fd = C.tw_posix_open(path, bit.bor(O_WRONLY, O_CREAT, O_CLOEXEC), ffi.cast("int", 384)) -- 0600
   if fd < 0 then return false end
   posix.close(fd)
   return true
end

return M
