-- SPDX-License-Identifier: BSD-3-Clause
-- A script for privilege_spec.lua: the engine runs it, gives up its rights, and then this tries what is left.
--
-- Arguments: the file for the results (JSON), what to try ("calls", "changes", "nothing"), interfaces.

local ffi = require "ffi"
local tw = require "tideway"
local abi = require "tideway.abi"
local json = require "tideway.json"
local loop = require "tideway.loop"

local results, what, spare, other = ...
local C = abi.C

ffi.cdef [[
long syscall(long number, ...);
int socket(int domain, int type, int protocol);
int mount(const char *source, const char *target, const char *kind, unsigned long flags, const void *data);
int setuid(unsigned uid);
int fork(void);
int unshare(int flags);
int chroot(const char *path);
int prctl(int option, ...);
]]

-- Numbers of x86-64; what each call is given is enough for root to get further than EPERM.
local CALLS = {
   ptrace = { 101, 0, 0, 0, 0 }, setresuid = { 117, 65534, 65534, 65534 }, keyctl = { 250, 0, -3, 1 },
   bpf_token = { 427, -1 }, userfaultfd = { 323, 0 }, io_uring_setup = { 425, 0, 0 }, kexec_load = { 246, 0, 0, 0, 0 },
   init_module = { 175, 0, 0, 0 }, perf_event_open = { 298, 0, 0, 0, -1, 0 }, pivot_root = { 155, 0, 0 },
   setns = { 308, -1, 0 }, process_vm_writev = { 311, 1, 0, 0, 0, 0, 0 }, capset = { 126, 0, 0 },
   iopl = { 172, 0 }, swapon = { 167, 0, 0 }, pidfd_getfd = { 438, -1, 0, 0 }, seccomp = { 317, 0, 0, 0 },
   open_by_handle_at = { 304, -1, 0, 0 }, execve = { 59, 0, 0, 0 }, mknod = { 133, 0, 0, 0 }, reboot = { 169, 0, 0, 0, 0 },
}
local EPERM = 1

local function refused(result) return result < 0 and ffi.errno() == EPERM end

local function calls()
   local got = {}
   for name, c in pairs(CALLS) do
      local n = {}
      for i = 2, 6 do n[i - 1] = ffi.cast("long", c[i] or 0) end
      got[name] = refused(tonumber(ffi.C.syscall(c[1], unpack(n, 1, 5))))
   end
   got.mount = refused(ffi.C.mount("none", "/mnt", "tmpfs", 0, nil))
   got.setuid = refused(ffi.C.setuid(65534))
   got.fork = refused(ffi.C.fork())
   got.unshare = refused(ffi.C.unshare(0x20000000))
   got.chroot = refused(ffi.C.chroot "/")
   got.vsock = refused(ffi.C.socket(40, 1, 0))
   got.dumpable = refused(ffi.C.prctl(4, ffi.cast("long", 1)))
   got.popen = io.popen "true" == nil
   got.execute = os.execute "true" ~= 0
   -- Another process's life and death; its own life may be asked for.
   got.kill = refused(ffi.C.syscall(62, ffi.cast("long", 1), ffi.cast("long", 15)))
   got.alive = ffi.C.syscall(62, ffi.cast("long", 1), ffi.cast("long", 0)) == 0
   local file = io.open "/proc/self/status"
   got.files = file ~= nil
   file:close()
   return got
end

-- Ports and programs that come and go in the running engine.
local function changes()
   local got = {}
   for i, devargs in ipairs { "net_af_packet7,iface=" .. spare, "net_af_xdp7,iface=" .. spare } do
      local index = 10 + i
      local ok = C.tw_port_open(index, "late" .. i, devargs) >= 0 and C.tw_port_start(index, 1, 1) >= 0
      got[devargs:match "^net_([a-z_]+)"] = ok or abi.error()
      if ok then C.tw_port_close(index) end
   end
   local bpf, asm = require "tideway.bpf", require "tideway.bpf.asm"
   for _, hook in ipairs { "xdp", "tc_ingress" } do
      local a, h = asm.new(), bpf.link.hooks[hook]
      local map = assert(bpf.map.new { kind = "array", value = "u64", entries = 1, name = "hits" })
      a:map("r1", map, 0)
      a:mov("r2", 1)
      a:atomic_add(64, "r1", 0, "r2")
      a:mov("r0", hook == "xdp" and 2 or -1)
      a:exit()
      local program, err = bpf.program.load(a:spec { name = "late", type = h.type, attach_type = h.attach_type })
      local link
      if program then link, err = bpf.link.attach { hook = hook, interface = spare, program = program } end
      got[hook] = link ~= nil or err
      if link then link:detach() end
   end
   -- An interface that another engine has: seen by the helper, and not taken.
   got.taken = C.tw_port_open(14, "taken", "net_af_xdp8,iface=" .. other) < 0 and abi.error()
   return got
end

local tries = { calls = calls, changes = changes, nothing = function() return {} end }

local a, b = tw.port("a", "wire1"), tw.port("b", "wire2")
tw.chain("c", a, tw.nf.count {}, b)
tw.options { memory_mb = 256 }

loop.after(0.05, function()
   local ok, got = pcall(tries[what])
   local file = assert(io.open(results .. ".new", "w"))
   file:write(json.encode(ok and got or { failed = tostring(got) }))
   file:close()
   os.rename(results .. ".new", results)
end)
