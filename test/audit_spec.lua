-- SPDX-License-Identifier: BSD-3-Clause
-- What an audit counts: system calls as strace writes them. The whole of it is in live_gate_spec.

local calls = require "tideway.audit.calls"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

describe("system calls", function()
   it("are counted by thread, and by what kind of socket they move data on", function()
      local threads = calls.parse(table.concat({
         "11 epoll_wait(4<anon_inode:[eventpoll]>, [], 64, 0) = 1",
         '11 recvfrom(7<TCP:[127.0.0.1:80->127.0.0.1:5]>, ""..., 64, 0, NULL, NULL) = 64',
         '11 sendto(7<TCPv6:[[::1]:80->[::1]:5]>, ""..., 9, 0, NULL, 0) = 9',
         '11 recvfrom(7<TCP:[127.0.0.1:80->127.0.0.1:5]>, 0x7, 64, 0, NULL, NULL) = -1 EAGAIN (x)',
         '11 sendto(9<TCP:[31337]>, ""..., 16, 0, NULL, 0) = 16',
         '11 read(5<anon_inode:[eventfd]>, ""..., 8) = 8',
         "12 recvfrom(9<TCP:[31338]>,  <unfinished ...>",
         "11 close(7<TCP:[127.0.0.1:80->127.0.0.1:5]>) = 0",
         '12 <... recvfrom resumed>""..., 1024, MSG_DONTWAIT, NULL, NULL) = 32',
         "12 +++ exited with 0 +++",
         "no line of strace",
      }, "\n"))
      assert.same({ all = 7, external = 2, internal = 1, waits = 1 }, threads[11])
      assert.same({ all = 1, external = 0, internal = 1, waits = 0 }, threads[12])
   end)

   it("are counted no longer when the load fails", function()
      if not calls.available() then return pending "strace is not installed" end
      local pid = assert(process.spawn { "sleep", "60" })
      local ok, err = pcall(calls.during, { pid }, function() error("on purpose", 0) end)
      local tracer = posix.slurp(("/proc/%d/status"):format(pid)):match "TracerPid:%s*(%d+)"
      process.terminate(pid, 9)
      process.ended(pid, true)
      assert.same({ false, "on purpose", "0" }, { ok, err, tracer })
   end)
end)
