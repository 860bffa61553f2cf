-- SPDX-License-Identifier: BSD-3-Clause
-- Functions in worker processes: what goes through them, what they may not do, how they end, and what is left then.

local ffi = require "ffi"
local lfs = require "lfs"
local abi = require "tideway.abi"
local nf = require "tideway.nf"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local shell = require "test.shell"
local transfer = require "tideway.transfer"
local tw = require "tideway"
local workers = require "test.support.workers"

local C = abi.C

pcall(ffi.cdef, [[
   struct tw_spec_sockaddr { uint16_t family; char path[108]; };
   int socket(int domain, int type, int protocol);
   int connect(int fd, const void *address, unsigned len);
   long recv(int fd, void *to, size_t size, int flags);
   int close(int fd);
   int kill(int pid, int sig);
]])

local function read(path)
   local file = io.open(path, "rb")
   if not file then return nil end
   local text = file:read "*a"
   file:close()
   return text
end

local function status(pid, field)
   local text = read(("/proc/%d/status"):format(pid))
   return text and text:match("\n" .. field .. ":[ \t]*([^\n]*)")
end

local function lines()
   local list, buf = {}, ffi.new "char[512]"
   while C.tw_log_next(buf, 512) == 1 do list[#list + 1] = ffi.string(buf) end
   return table.concat(list, "\n")
end

local function count_fds()
   local n = 0
   for _ in lfs.dir "/proc/self/fd" do n = n + 1 end
   return n
end

local function instance(functions) return nf.instance("spec", functions, 1) end

-- Pids of processes whose parent is that one.
local function children(parent)
   local list = {}
   for name in lfs.dir "/proc" do
      local pid = tonumber(name)
      if pid and status(pid, "PPid") == tostring(parent) and not (status(pid, "State") or "Z"):find "^Z" then
         list[#list + 1] = pid
      end
   end
   return list
end

-- The helper keeps one ready for a moment behind the last worker.
local function nothing_left() return #children(C.tw_helper_pid()) == 0 end

for _, transport in ipairs { "sk_msg", "rings" } do
   describe("workers by " .. transport, function()
      local service

      local function start(functions, options, ...)
         options = options or {}
         options.transport = transport
         local list = {}
         for i, f in ipairs(functions) do list[i] = { name = "function" .. i, nf = instance(f) } end
         service = workers.service(list, options)
         return service, ...
      end

      before_each(lines)
      after_each(function()
         if service then service:close() end
         service = nil
         if C.tw_helper_pid() ~= 0 then workers.wait("no process is left", nothing_left) end
      end)

      it("run functions one behind the other on the same block", function()
         start {
            { message = function(msg) msg.path = msg.path .. "/one" msg:set_value(1, 7) end },
            { message = function(msg) msg.path = msg.path .. "/two" msg:set_value(2, msg:value(1) + 1) end },
         }
         local one, two = service:add(1), service:add(2)
         workers.running(one)
         workers.running(two)
         local out = service:round "/start"
         assert.same({ true, "/start/one/two", { 7, 8 }, C.TW_V_NONE }, { out.same, out.target, out.values, out.verdict })
         assert.equal(1, tonumber(workers.info(one).board.done))
         assert.equal(1, tonumber(workers.info(two).board.done))
         assert.equal(0, service:used())
      end)

      it("answer in a block of their own, which becomes the gate's", function()
         start { { message = function(msg) return msg:respond(403, {}, "no") end } }
         workers.running(service:add(1))
         local out = service:round()
         assert.same({ C.TW_V_RESPOND, 403 }, { out.verdict, out.status }, out.why)
         assert.equal(0, service:used())
      end)

      it("go on after a function that raises, which costs its message nothing but its verdict", function()
         start { { message = function(msg) if msg.path == "/bad" then error "broken here" end end } }
         local w = service:add(1)
         local pid = workers.running(w).pid
         local out = service:round "/bad"
         assert.equal(C.TW_V_FAULT, out.verdict)
         assert.matches("msg_worker_spec.lua:%d+: broken here", out.why)
         assert.equal(C.TW_V_NONE, service:round("/good").verdict)
         local info = workers.info(w)
         assert.same({ pid, 1, 0 }, { info.pid, tonumber(info.board.faults), tonumber(info.restarts) })
         local text
         workers.wait("the log says so", function()
            text = (text or "") .. lines()
            return text:find "broken here"
         end)
         assert.matches("traceback", text)
      end)

      it("refuse what blocks, with what to do instead", function()
         start { {
            message = function(msg)
               local calls = {
                  open = function() io.open "/etc/passwd" end, execute = function() os.execute "true" end,
                  popen = function() io.popen "true" end, exit = function() os.exit(1) end,
                  require = function() require "no.such.module" end,
               }
               calls[msg.path:sub(2)]()
            end,
         } }
         local w = service:add(1)
         workers.running(w)
         for name, text in pairs { open = "io.open blocks", execute = "os.execute blocks", popen = "io.popen blocks",
            exit = "os.exit blocks", require = "a worker cannot open files" } do
            local out = service:round("/" .. name)
            assert.equal(C.TW_V_FAULT, out.verdict)
            assert.matches(text, out.why, 1, true)
         end
         assert.equal(0, tonumber(workers.info(w).restarts))
      end)

      it("may do nothing but compute and talk", function()
         start { {
            message = function(msg)
               local f = require "ffi"
               local results = {}
               pcall(f.cdef, [[
                  int open(const char *path, int flags, ...); int socket(int domain, int type, int protocol);
                  int fork(void); int execve(const char *path, char **argv, char **envp); int kill(int pid, int sig);
                  int ptrace(long request, ...);
               ]])
               results[1] = f.C.open("/etc/passwd", 0)
               results[2] = f.C.socket(1, 1, 0)
               results[3] = f.C.fork()
               results[4] = f.C.execve("/bin/true", nil, nil)
               results[5] = f.C.kill(1, 0)
               results[6] = f.C.ptrace(0)
               local refused = 0
               for i = 1, 6 do refused = refused + (results[i] == -1 and 1 or 0) end
               msg:set_value(1, refused)
            end,
         } }
         local info = workers.running(service:add(1))
         local pid = info.pid
         assert.equal(6, service:round().values[1])
         assert.is_true(info.uid > 2000000000)
         assert.equal(("%d\t%d\t%d\t%d"):format(info.uid, info.uid, info.uid, info.uid), status(pid, "Uid"))
         assert.equal(("%d\t%d\t%d\t%d"):format(info.uid, info.uid, info.uid, info.uid), status(pid, "Gid"))
         assert.equal("", status(pid, "Groups"):gsub("%s", ""))
         for _, set in ipairs { "CapInh", "CapPrm", "CapEff", "CapAmb" } do
            assert.matches("^0+$", status(pid, set), set)
         end
         assert.equal("1", status(pid, "NoNewPrivs"))
         assert.equal("2", status(pid, "Seccomp"))
         assert.equal("1", status(pid, "Threads"))
         local limits = read(("/proc/%d/limits"):format(pid))
         assert.matches("Max core file size%s+0%s+0", limits)
         assert.matches("Max processes%s+0%s+0", limits)
         assert.is_true(tonumber(limits:match "Max address space%s+(%d+)") > 0)
         for fd in lfs.dir(("/proc/%d/fd"):format(pid)) do
            if tonumber(fd) then
               local to = lfs.symlinkattributes(("/proc/%d/fd/%s"):format(pid, fd), "target")
               assert.is_true(to == "/dev/null" or to:find "^socket:" ~= nil or to:find "^/memfd:" ~= nil or
                  to:find "^anon_inode:bpf" ~= nil or to:find "huge" ~= nil, fd .. " is " .. to)
            end
         end
      end)

      it("do not live on without the helper, whatever they ask for while they are built", function()
         local asked = {}
         -- Called as soon as it is unpacked.
         local early = setmetatable({}, { __transfer = function()
            return "_G", "pcall", { function()
               local f = require "ffi"
               f.cdef "int prctl(int option, ...);"
               asked.to_live, asked.to_be_read = f.C.prctl(1, 0), f.C.prctl(4, 1)
            end }
         end })
         start { { message = function(msg)
            msg:set_value(1, early == true and asked.to_live == -1 and asked.to_be_read == -1 and 1 or 0)
         end } }
         workers.running(service:add(1))
         assert.equal(1, service:round().values[1])
      end)

      it("hold one message while others go on", function()
         start { { message = function(msg) if msg.path == "/slow" then msg:sleep(0.3) end end } }
         local w = service:add(1)
         workers.running(w)
         local slow, quick = service:request "/slow", service:request "/quick"
         assert.is_true((service:enter(slow)))
         assert.is_true((service:enter(quick)))
         assert.equal(quick, (service:back()))
         assert.equal(slow, (service:back()))
         assert.equal(0, tonumber(workers.info(w).board.held))
         service:free(slow)
         service:free(quick)
      end)

      it("are killed in an endless loop, while others work, and started anew", function()
         start {
            { message = function(msg) while msg.path == "/loop" do msg:set_value(1, 1) end end },
            { message = function() end },
         }
         local bad, good = service:add(1), service:add(2)
         local before = workers.running(bad)
         local member, pid = before.member, before.pid
         workers.running(good)
         local handle = service:request "/loop"
         assert.is_true((service:enter(handle, 1)))
         workers.wait("it begins", function() return workers.info(bad).board.current == handle end)
         assert.equal(C.TW_V_NONE, service:round("/", 2).verdict)
         -- What the gate's patrol does: its CPU time grows, the message stays.
         local cpu = C.tw_supervisor_cpu(0, member)
         workers.wait("it burns", function() return C.tw_supervisor_cpu(0, member) - cpu > 40000000ULL end)
         C.tw_supervisor_stuck(0, member, 40)
         local after = workers.running(bad, 1)
         assert.are_not.equal(pid, after.pid)
         assert.equal("stuck for 40 ms in function1", ffi.string(after.last))
         assert.equal(0, service:used())
         assert.equal(C.TW_V_NONE, service:round("/", 1).verdict)
         assert.equal(0, tonumber(workers.info(good).restarts))
      end)

      it("that are killed with messages in hand and in their queue leave no block behind", function()
         start { { message = function(msg) while msg.path == "/wait" do msg:set_value(1, 1) end end } }
         local w = service:add(1)
         local pid = workers.running(w).pid
         local first = service:request "/wait"
         assert.is_true((service:enter(first)))
         workers.wait("it begins", function() return workers.info(w).board.current == first end)
         for _ = 1, 5 do assert.is_true((service:enter((service:request "/next")))) end
         assert.equal(6, service:used())
         ffi.C.kill(pid, 9)
         local info = workers.running(w, 1)
         assert.equal(0, service:used())
         local last = ffi.string(info.last) -- a busy machine tells of the end of its socket first
         assert.truthy(last:find "signal 9" or last:find "closed its socket", last)
         assert.equal(C.TW_V_NONE, service:round("/").verdict)
         -- What was begun with before counts on: one and one.
         assert.equal(2, tonumber(workers.info(w).board.started))
         assert.equal(7, tonumber(workers.info(w)["in"]))
      end)

      it("whose memory is full fail their message, and start anew when they let nothing go", function()
         local kept = {}
         start { {
            message = function(msg)
               local n = #kept
               while msg.path == "/eat" do
                  n = n + 1
                  kept[n] = ("x"):rep(1000) .. n
               end
            end,
         } }
         local w = service:add(1, { memory_mb = 16 })
         workers.running(w)
         local out = service:round "/eat"
         assert.equal(C.TW_V_FAULT, out.verdict)
         assert.matches("not enough memory", out.why)
         local info = workers.running(w, 1)
         assert.matches("heap", ffi.string(info.last))
         assert.equal(C.TW_V_NONE, service:round("/").verdict)
         assert.equal(0, service:used())
      end)

      it("leave when they are removed, after what they have is done", function()
         start { { message = function(msg) msg:sleep(0.5) end } }
         local w = service:add(1)
         local pid = workers.running(w).pid
         local handle = service:request()
         assert.is_true((service:enter(handle)))
         workers.wait("it is held", function() return workers.info(w).board.held == 1 end)
         assert.equal(0, C.tw_worker_remove(w, 5000))
         assert.equal(handle, (service:back()))
         workers.wait("it is gone", function() return not workers.info(w) end)
         workers.wait("its process too", function() return not status(pid, "PPid") end)
         service:free(handle)
         assert.equal(0, service:used())
      end)
   end)
end

describe("workers", function()
   local service
   before_each(lines)
   after_each(function()
      if service then service:close() end
      service = nil
   end)

   local function start(...)
      local list = {}
      for i, f in ipairs { ... } do list[i] = { name = "function" .. i, nf = instance(f) } end
      service = workers.service(list, { transport = "rings" })
   end

   it("that cannot be built say why, and are tried again later and later", function()
      local strange = setmetatable({}, { __transfer = function() return "no.such.module", "make", {} end })
      start { message = function() return strange.x end }
      local w = service:add(1)
      local began = posix.now()
      workers.wait("some starts", function() return workers.info(w).restarts >= 4 end)
      assert.matches("no.such.module", ffi.string(workers.info(w).last), 1, true)
      -- The first one at once, then after 0.1 and 0.2 s at least.
      assert.is_true(posix.now() - began >= 0.3e9)
   end)

   -- As a process that is no worker; true: it was sent away without a word.
   local function intrude(info)
      local name = read(("/proc/%d/cmdline"):format(info.pid)):match "^tideway%-worker%z(%x+)%z"
      local address = ffi.new("struct tw_spec_sockaddr", { 1 })
      ffi.copy(address.path + 1, name, #name)
      local fd = ffi.C.socket(1, 5, 0)
      assert.equal(0, ffi.C.connect(fd, address, 2 + 1 + #name))
      local byte = ffi.new "char[1]"
      local n = tonumber(ffi.C.recv(fd, byte, 1, 0))
      ffi.C.close(fd)
      return n == 0
   end

   it("are none of others: a stranger at the registration socket is refused and counted", function()
      start { message = function() end }
      local w = service:add(1)
      local info = workers.running(w)
      local before = C.tw_worker_strangers()
      assert.is_true(intrude(info))
      assert.equal(1, tonumber(C.tw_worker_strangers() - before))
      assert.matches(("process %d of user 0 wants to be a worker and is none"):format(
         tonumber(read "/proc/self/stat":match "^%d+")), lines())
      assert.equal(info.pid, workers.info(w).pid)
      assert.equal(C.TW_V_NONE, service:round().verdict)
   end)

   -- An instance whose process is stopped before it has registered.
   local function awaited()
      for _ = 1, 50 do
         local w = service:add(1)
         local info = workers.wait("its process is there", function()
            local now = workers.info(w)
            return now.pid > 0 and (read(("/proc/%d/cmdline"):format(now.pid)) or ""):find "^tideway%-worker" and now
         end)
         ffi.C.kill(info.pid, 19)
         workers.wait("it stands", function() return (status(info.pid, "State") or "T"):find "^T" end)
         if workers.info(w).state == C.TW_WORKER_STARTS then return w, info end
         ffi.C.kill(info.pid, 18)
         C.tw_worker_remove(w, 0)
      end
      error "they are too quick"
   end

   it("are not who comes first: a stranger gets no place that a worker is awaited for", function()
      start { message = function() end }
      local w, info = awaited()
      local away = intrude(info)
      ffi.C.kill(info.pid, 18)
      assert.is_true(away)
      workers.running(w)
      assert.equal(C.TW_V_NONE, service:round().verdict)
   end)

   it("do not outlive the helper process, which is started anew", function()
      start { message = function() end }
      local w = service:add(1)
      local pid, helper = workers.running(w).pid, C.tw_helper_pid()
      ffi.C.kill(helper, 9)
      workers.wait("the worker is gone", function() return not status(pid, "PPid") or status(pid, "State"):find "^Z" end)
      workers.wait("its end is seen", function() return workers.info(w).pid == 0 end)
      local other = service:add(1)
      workers.running(other)
      assert.are_not.equal(helper, C.tw_helper_pid())
      workers.running(w, 1) -- and the first one as soon as its time has come
   end)

   it("do not outlive an engine that is killed, not even in an endless loop", function()
      local dir = shell.directory()
      local path = dir .. "/pids"
      local pid = assert(process.spawn({ "env", "WORKER_CHILD_FILE=" .. path, "TIDEWAY_RUN_DIR=" .. dir,
         lfs.symlinkattributes("/proc/self/exe", "target"), "test", "test/support/worker_child.lua" },
         { output = dir .. "/out" }))
      local text = workers.wait("it says who its workers are", function()
         local written = read(path)
         return written and written:find "\n" and written
      end)
      ffi.C.kill(pid, 9)
      local n = 0
      for one in text:gmatch "%d+" do
         n = n + 1
         workers.wait("process " .. one .. " ends", function()
            return not status(tonumber(one), "PPid") or status(tonumber(one), "State"):find "^Z"
         end)
      end
      assert.equal(3, n)
      shell.remove(dir)
   end)

   it("that say to the engine what it does not want to hear are ended, and nothing else is", function()
      start { message = function(msg)
         local f = require "ffi"
         pcall(f.cdef, "long send(int fd, const void *from, size_t size, int flags);")
         local text = ("\255"):rep(msg.path == "/much" and 1008 or 3)
         if msg.path == "/ready" then text = ("\1\0\0\0"):rep(252) end
         for _ = 1, msg.path == "/much" and 1000 or 1 do
            for fd = 3, 20 do f.C.send(fd, text, #text, 0x4040) end
         end
      end }
      local w = service:add(1)
      local pid = workers.running(w).pid
      service:round "/little"
      service:round "/ready"
      assert.same({ C.TW_WORKER_RUNS, pid }, { workers.info(w).state, workers.info(w).pid })
      local handle = service:request "/much"
      assert.is_true((service:enter(handle)))
      local info = workers.running(w, 1)
      assert.equal("it says too much to the engine", ffi.string(info.last))
      local back = service:take()
      if back then service:free(back) end
      assert.equal(0, service:used())
   end)

   it("that close their socket are ended", function()
      start { message = function()
         local f = require "ffi"
         pcall(f.cdef, "int close(int fd);")
         for fd = 3, 60 do f.C.close(fd) end
      end }
      local w = service:add(1)
      workers.running(w)
      assert.is_true((service:enter((service:request "/"))))
      assert.equal(1, tonumber(workers.running(w, 1).restarts))
   end)

   it("keep what goes to a function that has no instance for a moment, then hand it to the gate", function()
      start({ message = function() end }, { message = function(msg) msg:set_value(2, 2) end })
      local one = service:add(1)
      workers.running(one)
      local early = service:request()
      assert.is_true((service:enter(early)))
      local two = service:add(2)
      workers.running(two)
      local back, m = service:back()
      assert.equal(early, back)
      assert.is_true(m.verdict == C.TW_V_NONE and m.value[1] == 2 or m.verdict == C.TW_V_FAULT)
      service:free(back)
      assert.equal(2, service:round().values[2])
      assert.equal(0, C.tw_worker_remove(two, 0))
      workers.wait("it is gone", function() return not workers.info(two) end)
      local out = service:round()
      assert.same({ C.TW_V_FAULT, "nobody takes what this function sends" }, { out.verdict, out.why })
   end)

   it("call tick once a second, and stop when they are removed", function()
      start {
         message = function(msg) msg:set_value(1, 1) end, tick = function(now) print("tick", now > 0) end,
         stop = function() print "stopped" end,
      }
      local w = service:add(1)
      workers.running(w)
      local text = ""
      workers.wait("it ticks", function()
         text = text .. lines()
         return text:find "instance 0: tick true"
      end)
      assert.equal(0, C.tw_worker_remove(w, 0))
      workers.wait("it is gone", function() return not workers.info(w) end)
      workers.wait("its last words", function()
         text = text .. lines()
         return text:find "instance 0: stopped"
      end)
   end)

   it("share a tw.store, and are refused a table of the engine", function()
      local shared = tw.store { name = "spec", bytes = 2 ^ 16, entries = 64 }
      start { message = function(msg) msg:set_value(1, (shared:incr("seen", 1, 0))) end }
      workers.running(service:add(1))
      service:round()
      assert.equal(2, service:round().values[1])
      assert.equal(2, shared:get "seen")
      local own = tw.hash { name = "engine_table", key = "u32", value = "u32", entries = 16 }
      local ok, err = pcall(transfer.pack, instance { message = function() return own[1] end }, "function x", true)
      assert.is_false(ok)
      assert.matches('the table "engine_table"', err, 1, true)
      assert.matches("tw.store", err, 1, true)
   end)

   it("use no CPU time and no wake-ups while there is nothing to do", function()
      service = workers.service({ { name = "idle", nf = instance { message = function() end } } }, { transport = "sk_msg" })
      local w = service:add(1)
      local info = workers.running(w)
      service:round()
      local cpu, wakeups
      local function used()
         local before, woken = cpu, wakeups
         cpu, wakeups = C.tw_supervisor_cpu(0, info.member), workers.info(w).board.wakeups
         return cpu ~= before or wakeups ~= woken
      end
      workers.wait("it has come to rest", function() -- a busy machine may let it wait
         C.tw_sleep_ms(50)
         return not used()
      end)
      C.tw_sleep_ms(2000)
      assert.equal(0, tonumber(C.tw_supervisor_cpu(0, info.member) - cpu))
      assert.equal(0, tonumber(workers.info(w).board.wakeups - wakeups))
   end)

   it("are limited in CPU time by a cgroup, or run without and say so", function()
      start { message = function() end }
      local info = workers.running(service:add(1, { cpu_percent = 50 }))
      assert.equal(C.TW_V_NONE, service:round().verdict)
      local group = (read(("/proc/%d/cgroup"):format(info.pid)) or ""):match "0::[^\n]*tideway%-"
      assert.is_true(group ~= nil or lines():find("no limit of CPU time", 1, true) ~= nil)
   end)

   it("leave no descriptor and no process in the engine", function()
      local function once()
         start { message = function() end }
         for _ = 1, 3 do workers.running(service:add(1)) end
         service:round()
         service:close()
         service = nil
      end
      once()
      local before = count_fds()
      for _ = 1, 3 do once() end
      workers.wait("no descriptor is left", function() return count_fds() == before end)
      workers.wait("no process is left", nothing_left)
   end)

   it("are replaced by a process that has been ready before", function()
      start { message = function(msg) msg:set_value(1, 7) end }
      local w = service:add(1)
      local before = workers.running(w)
      local spare = workers.wait("one is kept ready", function()
         for _, pid in ipairs(children(C.tw_helper_pid())) do
            if read(("/proc/%d/comm"):format(pid)) == "tideway-spare\n" then return pid end
         end
      end)
      assert.not_equal(before.pid, spare)
      ffi.C.kill(before.pid, 9)
      local after = workers.wait("another one runs", function()
         local now = workers.info(w)
         return now.state == C.TW_WORKER_RUNS and now.pid ~= before.pid and now
      end)
      assert.equal(spare, after.pid)
      assert.equal("tideway-worker\n", read(("/proc/%d/comm"):format(spare)))
      workers.wait("the other one is gone", function() return not status(before.pid, "Uid") end)
      assert.equal(after.uid, tonumber(status(spare, "Uid"):match "^%d+"))
      assert.equal(7, service:round().values[1])
   end)

   it("that are gone leave none that waits for the next", function()
      start { message = function() end }
      local w = service:add(1)
      workers.running(w)
      workers.wait("one is kept ready", function() return #children(C.tw_helper_pid()) == 2 end)
      C.tw_worker_remove(w, 0)
      workers.wait("no process is left", nothing_left)
   end)

   it("that cannot be started for want of descriptors take none", function()
      local NOFILE, limit = posix.RLIMIT_NOFILE, ffi.new "struct tw_posix_rlimit"
      start { message = function() end }
      C.tw_supervisor_stop()
      local before, all = count_fds(), posix.rlimit(NOFILE)
      C.tw_posix_getrlimit(NOFILE, limit)
      local tries = 0
      for most = 3, 300 do
         limit.soft = most
         C.tw_posix_setrlimit(NOFILE, limit)
         local ok, err = pcall(service.add, service, 1)
         limit.soft = all
         C.tw_posix_setrlimit(NOFILE, limit)
         -- The supervisor is there, and keeps what it has.
         if ok or tostring(err):find "no memory for a function" then break end
         tries = tries + 1
         assert.equal(before, count_fds(), tostring(err))
      end
      assert.is_true(tries > 3)
      workers.running(service:add(1))
   end)

   it("are started anew by an engine that has given up its rights", function()
      start { message = function() end }
      local w = service:add(1)
      local member = workers.running(w).member
      local all = ffi.new("uint32_t", 0)
      assert.equal(0, C.tw_privileges_drop(0, all))
      C.tw_supervisor_stuck(0, member, 1)
      workers.running(w, 1)
      workers.running(service:add(1))
      assert.equal(C.TW_V_NONE, service:round().verdict)
   end)

   it("become nobody that there is", function()
      start { message = function() end }
      local w = service:add(1, { uid = 1 })
      workers.wait("it is refused", function() return workers.info(w).state == C.TW_WORKER_WAITS end)
      assert.matches("user id 1; workers run under ids that no account has", ffi.string(workers.info(w).last))
   end)

   it("are refused when there is no such service or function", function()
      start { message = function() end }
      local spec = ffi.new "struct tw_worker_spec"
      spec.service, spec.blob, spec.blob_len = 9, "", 0
      assert.is_true(C.tw_worker_add(spec) < 0)
      assert.matches("no service 9", abi.error())
      spec.service, spec["function"] = 0, 5
      assert.is_true(C.tw_worker_add(spec) < 0)
      assert.matches("no function 5", abi.error())
      assert.is_true(C.tw_worker_remove(100, 0) < 0)
   end)
end)
