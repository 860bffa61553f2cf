-- SPDX-License-Identifier: BSD-3-Clause
-- A fabric with its members in this process or in children of it, for specs of core/msg.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local posix = require "tideway.posix"

local C = abi.C
local M = {}

ffi.cdef [[
int tw_test_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) __asm__("prctl");
int tw_test_fork(void) __asm__("fork");
void tw_test_exit(int status) __asm__("_exit");
int tw_test_kill(int pid, int signal) __asm__("kill");
void *tw_test_fabric_mmap(void *at, size_t size, int prot, int flags, int fd, long offset) __asm__("mmap");
int tw_test_waitpid(int pid, int *status, int options) __asm__("waitpid");
]]

local TRANSPORT = { sk_msg = C.TW_TRANSPORT_SK_MSG, rings = C.TW_TRANSPORT_RINGS, inline = C.TW_TRANSPORT_INLINE }
local ERROR = { [-1] = "EPERM", [-11] = "EAGAIN", [-107] = "ENOTCONN", [-116] = "ESTALE", [-22] = "EINVAL" }
M.KIND = { request = C.TW_MSG_REQUEST, response = C.TW_MSG_RESPONSE, data = C.TW_MSG_DATA }
M.STATE = { [0] = "free", "held", "sent", "busy", "lost" }

local children = {} -- those that were not waited for

local function result(n) return n < 0 and (ERROR[n] or n) or n end

--- What a handle's owner word says.
---@return string state, integer owner
local function owner(pool, handle)
   local word = C.tw_pool_word(pool, tonumber(handle % 2ULL ^ 32))
   return M.STATE[tonumber(word / 65536ULL % 65536ULL)], tonumber(word % 65536ULL)
end

-- ---- members ----

local Member = {}
Member.__index = Member

--- Messages to descriptors: { handle, exit =, gate =, key = } or handles alone.
local function descriptors(list)
   local d = ffi.new("struct tw_desc[?]", math.max(#list, 1))
   for i, m in ipairs(list) do
      if type(m) ~= "table" then m = { m } end
      d[i - 1].handle, d[i - 1].exit, d[i - 1].gate, d[i - 1].key = m[1], m.exit or 0, m.gate or 0, m.key or 0
   end
   return d, #list
end

--- Sends messages; how many were taken, or the name of the error.
function Member:send(list) return result(C.tw_link_send(self.link, descriptors(list))) end
function Member:enter(f, list) return result(C.tw_link_enter(self.link, f, descriptors(list))) end
function Member:direct(to, list) return result(C.tw_link_direct(self.link, to.number, descriptors(list))) end

--- All that has come: handles, and with them exit, gate, key, from.
function Member:receive(most)
   local d, got = ffi.new("struct tw_desc[?]", most or 64), {}
   local n = C.tw_link_receive(self.link, d, most or 64)
   for i = 0, n - 1 do
      got[i + 1] = { d[i].handle, exit = d[i].exit, gate = d[i].gate, key = d[i].key,
         from = C.tw_link_sender(self.link, i) }
   end
   return got
end

--- The same, until nothing comes any more.
function Member:drain()
   local all = {}
   while true do
      local got = self:receive()
      if #got == 0 then return all end
      for _, m in ipairs(got) do all[#all + 1] = m end
   end
end

function Member:new(kind, backward)
   local handle = C.tw_pool_new(self.pool, 2048, self.number)
   assert(handle ~= 0ULL, abi.error())
   local msg = ffi.cast("struct tw_msg *", C.tw_pool_at(self.pool, handle, self.number, nil))
   msg.kind, msg.flags = M.KIND[kind or "request"], backward and C.TW_MSG_BACKWARD or 0
   return handle
end

function Member:free(list)
   for _, m in ipairs(list) do
      local rc = C.tw_pool_free(self.pool, type(m) == "table" and m[1] or m, self.number)
      assert(rc == 0, "a block is not free: " .. rc)
   end
end

function Member:stats()
   local s = ffi.new "struct tw_member_stats"
   assert(C.tw_fabric_stats(self.fabric, self.number, s) == 0, abi.error())
   return { ["in"] = tonumber(s["in"]), out = tonumber(s.out), denied = tonumber(s.denied), full = tonumber(s.full),
      queued = tonumber(s.queued), sends = tonumber(s.sends) }
end

function Member:open() assert(C.tw_fabric_open(self.fabric, self.number) == 0, abi.error()) end
function Member:shut() assert(C.tw_fabric_shut(self.fabric, self.number) == 0, abi.error()) end

--- Its end is closed and its number free.
function Member:remove()
   if self.link then C.tw_link_close(self.link) end
   self.link = nil
   assert(C.tw_fabric_remove(self.fabric, self.number) == 0, abi.error())
end

--- Is there something to receive, by poll(2) where there is a descriptor?
function Member:ready()
   local fd = C.tw_link_fd(self.link)
   if fd < 0 then return C.tw_link_ready(self.link) end
   return posix.poll({ fd }, 0)[fd] == true
end

-- ---- fabrics ----

local Fabric = {}
Fabric.__index = Fabric

local TAKES = { message = C.TW_TAKES_MESSAGE, response = C.TW_TAKES_RESPONSE, data = C.TW_TAKES_DATA }

--- struct tw_service_spec of { transport, functions = { { takes = "message response", ... } }, mb = }.
function M.spec(o)
   local s = ffi.new "struct tw_service_spec"
   s.name, s.transport, s.n_functions, s.memory_mb = "spec", TRANSPORT[o.transport], #o.functions, o.mb or 8
   for i, f in ipairs(o.functions) do
      local to = s["function"][i - 1]
      to.name = "f" .. i
      for word in (f.takes or "message"):gmatch "%a+" do to.takes = bit.bor(to.takes, TAKES[word]) end
      to.sticky, to.aside, to.readonly = f.sticky and 1 or 0, f.aside and 1 or 0, f.readonly and 1 or 0
      for _, route in ipairs(f.routes or {}) do to.routes = bit.bor(to.routes, bit.lshift(1, route)) end
   end
   return s
end

--- A fabric; fails when it cannot be made.
---@param o table as M.spec, gates = 1
function M.new(o)
   local out = ffi.new "struct tw_fabric *[1]"
   local rc = C.tw_fabric_new(out, M.spec(o), o.gates or 1)
   if rc < 0 then error(abi.error(), 2) end
   local self = setmetatable({ fabric = out[0], pool = C.tw_fabric_pool(out[0]), gates = {} }, Fabric)
   for g = 0, (o.gates or 1) - 1 do
      self.gates[g] = setmetatable({ fabric = out[0], pool = self.pool, number = g,
         link = C.tw_fabric_gate(out[0], g) }, Member)
   end
   self.gate = self.gates[0]
   return self
end

--- A member of a function, with its end in this process when `here`.
function Fabric:add(f, here)
   local number = C.tw_fabric_add(self.fabric, f)
   if number < 0 then error(abi.error(), 2) end
   local join, fds = ffi.new "struct tw_join", ffi.new("int[?]", 32)
   if C.tw_fabric_join(self.fabric, number, join, fds) < 0 then error(abi.error(), 2) end
   local member = setmetatable({ fabric = self.fabric, pool = self.pool, number = number, join = join, fds = fds },
      Member)
   if here ~= false then member:attach(self.pool) end
   return member
end

--- The same, open.
function Fabric:open(f)
   local member = self:add(f)
   member:open()
   return member
end

function Member:attach(pool)
   local out = ffi.new "struct tw_link *[1]"
   if C.tw_link_open(out, self.join, self.fds, pool) < 0 then error(abi.error(), 2) end
   self.link = out[0]
end

--- Runs fn(member) with the member in a process of its own, with mappings of its own; its pid.
function Member:fork(fn)
   local pid = C.tw_test_fork()
   if pid ~= 0 then
      children[pid] = true
      return pid
   end
   C.tw_test_prctl(1, 9, 0, 0, 0) -- PR_SET_PDEATHSIG: not longer than the spec
   local ok, err = pcall(function()
      local out = ffi.new "struct tw_pool *[1]"
      assert(C.tw_pool_attach(out, self.fds[0], self.fds[1], self.join.readonly ~= 0) == 0, abi.error())
      self.pool = out[0]
      self:attach(out[0])
      fn(self)
   end)
   if not ok then io.stderr:write(tostring(err), "\n") end
   C.tw_test_exit(ok and 0 or 1)
end

--- The memory behind a descriptor that a member was given, as it may map it; its size.
function Member:memory(i, writable)
   local fd = self.fds[i]
   local size = tonumber(posix.slurp("/proc/self/fdinfo/" .. fd) and io.popen(("stat -L -c %%s /proc/%d/fd/%d")
      :format(posix.getpid(), fd)):read "*n")
   local at = C.tw_test_fabric_mmap(nil, size, writable and 3 or 1, 1, fd, 0)
   if ffi.cast("intptr_t", at) == -1 then return nil, ffi.errno() end
   return ffi.cast("uint8_t *", at), size
end

--- Ends a child and waits for it; its exit status or 128 + signal.
function M.reap(pid, signal)
   local status = ffi.new "int[1]"
   if signal then C.tw_test_kill(pid, signal) end
   C.tw_test_waitpid(pid, status, 0)
   children[pid] = nil
   local by = bit.band(status[0], 0x7f)
   return by ~= 0 and 128 + by or bit.rshift(bit.band(status[0], 0xff00), 8)
end

function Fabric:owner(handle) return owner(self.pool, handle) end
function Fabric:route(o) return result(C.tw_fabric_route(self.fabric, M.spec(o))) end

function Fabric:used()
   local s, n = ffi.new "struct tw_pool_stats", 0
   C.tw_pool_get_stats(self.pool, s)
   for c = 0, C.TW_POOL_CLASSES - 1 do n = n + tonumber(s.used[c]) end
   return n
end

--- With what children are left of a spec that has failed.
function Fabric:free()
   for pid in pairs(children) do M.reap(pid, 9) end
   C.tw_fabric_free(self.fabric)
end

-- ---- for all specs of members ----

--- A list of n things.
function M.repeated(n, make)
   local list = {}
   for i = 1, n do list[i] = make(i) end
   return list
end

--- it() of busted for a transport; one that cannot be had here is skipped with the reason. busted gives `it` and
--- `pending` to specs alone.
function M.live(transport, it, pending)
   if posix.geteuid() == 0 or transport == "rings" then return it end
   return function(name) it(name, function() pending "needs root for bpf(2)" end) end
end

return M
