-- SPDX-License-Identifier: BSD-3-Clause
-- The C programs of bpf/twin in the kernel, by clang and libbpf and none of our own code: what compiled NFs, and
-- NFs on lcores, are compared with.
--
--    local k = kernel_twin.load(twin)          -- built when needed, below build/twin
--    k:fill(nf.tables)                         -- maps get the entries of the tables of the same name
--    local code, out = k:run(frame)            -- XDP_DROP 1, XDP_PASS 2, XDP_TX 3
--    k:get("nat_out", key, size)               -- value bytes or nil; k:sum("acl_hits", i) for counters
--    k:close()

local ffi = require "ffi"
local twins = require "test.support.twins"

local M = {}
local Kernel = {}
Kernel.__index = Kernel

ffi.cdef [[
struct twin_run_opts {
   size_t sz;
   const void *data_in;
   void *data_out;
   uint32_t data_size_in, data_size_out;
   const void *ctx_in;
   void *ctx_out;
   uint32_t ctx_size_in, ctx_size_out, retval;
   int repeat_;
   uint32_t duration, flags, cpu, batch_size;
};
]]

-- Under names of our own: others may declare the same functions with other types.
local function declare()
   ffi.cdef [[
   void *twin_open(const char *path, const void *opts) asm("bpf_object__open_file");
   int twin_object_load(void *object) asm("bpf_object__load");
   void twin_object_close(void *object) asm("bpf_object__close");
   void *twin_program(const void *object, const char *name) asm("bpf_object__find_program_by_name");
   int twin_program_fd(const void *program) asm("bpf_program__fd");
   int twin_map_fd(const void *object, const char *name) asm("bpf_object__find_map_fd_by_name");
   int twin_update(int fd, const void *key, const void *value, uint64_t flags) asm("bpf_map_update_elem");
   int twin_lookup(int fd, const void *key, void *value) asm("bpf_map_lookup_elem");
   int twin_next_key(int fd, const void *key, void *next) asm("bpf_map_get_next_key");
   int twin_cpus(void) asm("libbpf_num_possible_cpus");
   int twin_test_run(int fd, struct twin_run_opts *opts) asm("bpf_prog_test_run_opts");
   void *twin_print(void *fn) asm("libbpf_set_print");
   ]]
   local lib = ffi.load "bpf"
   lib.twin_print(nil) -- what goes wrong is told by assertions
   return lib
end

local lib

local function output(command)
   local pipe = io.popen(command)
   local text = pipe:read "*a"
   pipe:close()
   return (text:gsub("%s+$", ""))
end

--- Why the twins cannot run here; nil when they can.
---@return string?
function M.missing()
   if output "command -v clang" == "" then return "clang is not installed" end
   if output "id -u" ~= "0" then return "needs root to load programs" end
   local ok, err = pcall(function() lib = lib or declare() end)
   if not ok then return "libbpf: " .. tostring(err) end
end

-- The command stands in bpf/README.md, too.
local function build(name)
   local object = ("build/twin/%s.o"):format(name)
   local source = ("bpf/twin/%s.bpf.c"):format(name)
   local newer = "test %s -nt bpf/twin/twin.h -a %s -nt bpf/twin/lb.h -a %s -nt %s"
   if os.execute(newer:format(object, object, object, source)) == 0 then return object end
   os.execute "mkdir -p build/twin"
   local command = "clang -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 -I/usr/include/$(gcc -dumpmachine)"
   local status = os.execute(("%s -c %s -o %s"):format(command, source, object))
   assert(status == 0, "clang refused " .. source)
   return object
end

--- Compiles and loads the C program of a twin.
---@param twin twins.twin
function M.load(twin)
   assert(not M.missing(), M.missing())
   local object = lib.twin_open(build(twin.name), nil)
   assert(object ~= nil and lib.twin_object_load(object) == 0, "the kernel refused bpf/twin/" .. twin.name .. ".bpf.c")
   local program = lib.twin_program(object, "nf")
   return setmetatable({ object = object, fd = lib.twin_program_fd(program), out = ffi.new "uint8_t[4096]" }, Kernel)
end

--- File descriptor of a map.
function Kernel:map(name)
   local fd = lib.twin_map_fd(self.object, name)
   assert(fd >= 0, "the program has no map " .. name)
   return fd
end

--- Give the maps the entries of tables of the same names.
---@param tables table<string, tideway.Table>
function Kernel:fill(tables)
   for _, t in pairs(tables or {}) do
      local fd = self:map(t.name)
      for key, value in twins.entries(t) do
         assert(lib.twin_update(fd, key, value, 0) == 0, t.name .. ": the map does not take an entry")
      end
   end
end

--- Set one entry.
---@param name string
---@param key string bytes
---@param value string bytes
function Kernel:set(name, key, value) assert(lib.twin_update(self:map(name), key, value, 0) == 0) end

--- Run the program on a frame of 14 bytes or more.
---@return integer code
---@return string frame
function Kernel:run(frame)
   local o = ffi.new("struct twin_run_opts", ffi.sizeof "struct twin_run_opts", frame, self.out, #frame, 4096)
   assert(lib.twin_test_run(self.fd, o) == 0, "BPF_PROG_TEST_RUN failed")
   return o.retval, ffi.string(self.out, o.data_size_out)
end

--- Value of an entry as bytes, nil when there is none.
---@param name string
---@param key string bytes
---@param size integer of the value
function Kernel:get(name, key, size)
   local value = ffi.new("uint8_t[?]", size)
   if lib.twin_lookup(self:map(name), key, value) ~= 0 then return nil end
   return ffi.string(value, size)
end

--- Sum of a counter over all CPUs.
function Kernel:sum(name, index)
   local values = ffi.new("uint64_t[?]", lib.twin_cpus())
   assert(lib.twin_lookup(self:map(name), ffi.new("uint32_t[1]", index), values) == 0)
   local sum = 0
   for cpu = 0, lib.twin_cpus() - 1 do sum = sum + tonumber(values[cpu]) end
   return sum
end

--- Number of entries of a map.
function Kernel:count(name)
   local fd, key, next_key, count = self:map(name), nil, ffi.new "uint8_t[64]", 0
   while lib.twin_next_key(fd, key, next_key) == 0 do
      count = count + 1
      key = key or ffi.new "uint8_t[64]"
      ffi.copy(key, next_key, 64)
   end
   return count
end

function Kernel:close() lib.twin_object_close(self.object) end

return M
