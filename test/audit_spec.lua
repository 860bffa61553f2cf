-- SPDX-License-Identifier: BSD-3-Clause
-- What an audit counts: system calls as strace writes them; what it asks in DNS. The whole of it is in live_gate_spec.

local calls = require "tideway.audit.calls"
local dns = require "tideway.audit.dns"
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
         "13 recvmmsg(9<UDP:[127.0.0.1:5353]>, [{msg_hdr={msg_name={sa_family=AF_INET, sin_port=htons(7), "
            .. 'sin_addr=inet_addr("127.0.0.1")}, msg_namelen=128 => 16}, msg_len=5}], 16, MSG_DONTWAIT, NULL) = 3',
         "13 sendmmsg(9<UDPv6:[[::1]:5353]>, [{msg_hdr={}, msg_len=5}], 1, MSG_DONTWAIT) = 1",
         '13 sendto(10<UDP:[127.0.0.1:5->127.0.0.1:53]>, ""..., 9, 0, NULL, 0) = 9',
         "13 recvmmsg(9<UDP:[0.0.0.0:5353]>, 0x7, 16, MSG_DONTWAIT, NULL) = -1 EAGAIN (x)",
         '13 sendto(11<UDP:[31339]>, ""..., 9, 0, NULL, 0) = 9',
         "no line of strace",
      }, "\n"))
      assert.same({ all = 5, external = 5, internal = 1, waits = 0 }, threads[13])
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

describe("a query of an audit", function()
   it("is one of DNS, and its answer is called by its code", function()
      assert.equal("\18\52\1\0\0\1\0\0\0\0\0\0\3www\2a1\4test\0\0\1\0\1", dns.query "www.a1.test.")
      assert.equal("\18\52\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1", dns.query ".")
      for _, name in ipairs { "a..b", ".a", ("x"):rep(64), ("x."):rep(200) } do
         local ok, err = pcall(dns.query, name)
         assert.is_false(ok)
         assert.matches("is no name", err)
      end
      for flags, kind in pairs { ["\129\128"] = "NOERROR", ["\129\131"] = "NXDOMAIN", ["\131\128"] = "NOERROR (truncated)",
         ["\129\143"] = "RCODE 15", ["\1\0"] = "no DNS" } do
         assert.equal(kind, dns.kind("\18\52" .. flags .. ("\0"):rep(8)))
      end
      assert.equal("no DNS", dns.kind "x")
   end)
end)
