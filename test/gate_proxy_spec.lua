-- SPDX-License-Identifier: BSD-3-Clause
-- PROXY protocol headers: what is read, what is refused, what is written; mutations of valid ones.

local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local EPROTO, EINVAL, EMSGSIZE = -71, -22, -90
local facts = ffi.new "struct proxy_facts"

local function read(bytes) return C.tw_proxy_read(ffi.cast("const uint8_t *", bytes), #bytes, facts) end

local function unhex(text) return (text:gsub("%s", ""):gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)) end

local function address(field) return ffi.string(field, facts.family == 4 and 4 or 16) end

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"

local function v2(command, family, body, len)
   len = len or #body
   return SIGNATURE .. string.char(command, family, math.floor(len / 256), len % 256) .. body
end

local INET = unhex "c0000201 c6336402 8235 01bb"
local INET6 = unhex "20010db8000000000000000000000001 20010db8000000000000000000000002 8235 01bb"

describe("a PROXY header", function()
   it("of version 1 says who is connected", function()
      local line = "PROXY TCP4 192.0.2.1 198.51.100.2 33333 443\r\n"
      assert.equal(#line, read(line .. "GET / HTTP/1.1\r\n"))
      assert.same({ 4, 0, 33333, 443 }, { facts.family, facts.datagram, facts.peer_port, facts.local_port })
      assert.equal("\192\0\2\1", address(facts.peer))
      assert.equal("\198\51\100\2", address(facts["local"]))
      line = "PROXY TCP6 2001:db8::1 ::ffff:1.2.3.4 0 65535\r\n"
      assert.equal(#line, read(line))
      assert.same({ 6, 0, 65535 }, { facts.family, facts.peer_port, facts.local_port })
      assert.equal(unhex "20010db8000000000000000000000001", address(facts.peer))
      -- the longest there can be
      local long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
      line = ("PROXY UNKNOWN %s %s 65535 65535\r\n"):format(long, long)
      assert.equal(107, #line)
      assert.equal(107, read(line .. "more"))
      assert.equal(0, facts.family)
      line = ("PROXY TCP6 %s %s 65535 65535\r\n"):format(long, long)
      assert.equal(#line, read(line))
      assert.equal(15, read "PROXY UNKNOWN\r\n")
      assert.equal(0, facts.family)
   end)

   it("of version 2 says who is connected", function()
      assert.equal(28, read(v2(0x21, 0x11, INET) .. "more"))
      assert.same({ 4, 0, 33333, 443 }, { facts.family, facts.datagram, facts.peer_port, facts.local_port })
      assert.equal("\192\0\2\1", address(facts.peer))
      assert.equal(52, read(v2(0x21, 0x21, INET6)))
      assert.same({ 6, 0, 33333, 443 }, { facts.family, facts.datagram, facts.peer_port, facts.local_port })
      assert.equal(28, read(v2(0x21, 0x12, INET)))
      assert.equal(1, facts.datagram)
      -- TLVs are passed over: authority, and one without a value
      assert.equal(28 + 9, read(v2(0x21, 0x11, INET .. "\2\0\3abc" .. "\4\0\0")))
      assert.equal(4, facts.family)
      -- what says nothing about addresses of ours
      for _, header in ipairs { v2(0x20, 0, ""), v2(0x20, 0x11, INET), v2(0x20, 0xff, "whatever"),
         v2(0x21, 0, ""), v2(0x21, 0, "ignored"), v2(0x21, 0x10, INET), v2(0x21, 0x31, ("u"):rep(216)) } do
         assert.equal(#header, read(header))
         assert.equal(0, facts.family)
      end
   end)

   it("is waited for until it is whole", function()
      for _, header in ipairs { "PROXY TCP4 192.0.2.1 198.51.100.2 33333 443\r\n", "PROXY UNKNOWN\r\n",
         v2(0x21, 0x11, INET), v2(0x21, 0x21, INET6 .. "\2\0\3abc"), v2(0x20, 0, "") } do
         for len = 0, #header - 1 do assert.equal(0, read(header:sub(1, len))) end
         assert.equal(#header, read(header))
      end
   end)

   it("is refused when it is not one", function()
      for _, bytes in ipairs {
         "G", "GET / HTTP/1.1\r\n", "PROXX", "\r\n\r\nX", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n",
         "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\rX", "PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
         "PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
         "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "PROXY TCP4\r\n",
         "PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", "PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", "PROXY TCP4 ::1 ::1 1 1\r\n",
         "PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
         "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
         "PROXY TCP4 1.2.3.4 1.2.3.4 1 1x\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 100000000000 1\r\n",
         "PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", "PROXY UNKNOWNX\r\n",
         "PROXY \r\n", "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n", "PROXY UNKNOWN " .. ("x"):rep(93),
         "PROXY UNKNOWN " .. ("x"):rep(92) .. "\r\n",
         v2(0x11, 0x11, INET), v2(0x31, 0x11, INET), v2(0x22, 0x11, INET), v2(0x21, 0x41, INET), v2(0x21, 0x13, INET),
         v2(0x21, 0x11, INET:sub(1, 11)), v2(0x21, 0x21, INET), v2(0x21, 0x31, ("u"):rep(215)),
         v2(0x21, 0x11, INET .. "\2\0"), v2(0x21, 0x11, INET .. "\2\0\4abc"), v2(0x21, 0x11, "", 65535),
         v2(0x21, 0x11, "", 4081),
      } do
         assert.equal(EPROTO, read(bytes), bytes)
         assert.equal(0, facts.family)
         assert.is_true(#abi.error() > 20)
      end
   end)

   it("is written as it is read", function()
      local to = ffi.new "char[128]"
      local cases = { { 1, 4, 0 }, { 1, 6, 0 }, { 2, 4, 0 }, { 2, 6, 0 }, { 2, 4, 1 }, { 2, 6, 1 }, { 1, 0, 0 }, { 2, 0, 0 } }
      for _, case in ipairs(cases) do
         local version, family, datagram = unpack(case)
         local given = ffi.new("struct proxy_facts", { family = family, datagram = datagram })
         if family > 0 then
            given.peer_port, given.local_port = 1, 65535
            for i = 0, (family == 4 and 4 or 16) - 1 do given.peer[i], given["local"][i] = 255 - i, i end
         end
         local n = C.tw_proxy_write(version, given, to, 107)
         assert.is_true(n > 0)
         for size = 0, n - 1 do assert.equal(EMSGSIZE, C.tw_proxy_write(version, given, to, size)) end
         assert.equal(n, read(ffi.string(to, n)))
         assert.equal(ffi.string(given, ffi.sizeof(given)), ffi.string(facts, ffi.sizeof(facts)))
      end
      assert.equal(EINVAL, C.tw_proxy_write(1, ffi.new("struct proxy_facts", { 4, 1 }), to, 107))
      assert.equal(EINVAL, C.tw_proxy_write(3, facts, to, 107))
      local four = ffi.new("struct proxy_facts", { family = 4, peer_port = 33333, local_port = 443,
         peer = { 192, 0, 2, 1 }, ["local"] = { 198, 51, 100, 2 } })
      local n = C.tw_proxy_write(1, four, to, 107)
      assert.equal("PROXY TCP4 192.0.2.1 198.51.100.2 33333 443\r\n", ffi.string(to, n))
      n = C.tw_proxy_write(2, four, to, 107)
      assert.equal(v2(0x21, 0x11, INET), ffi.string(to, n))
   end)

   it("that was mutated is read, waited for or refused, and nothing behind it is touched", function()
      local guard = require "test.support.guard"
      local base = guard.new(1)
      math.randomseed(3)
      local seeds = { "PROXY TCP4 192.0.2.1 198.51.100.2 33333 443\r\nrest", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
         "PROXY UNKNOWN\r\n", v2(0x21, 0x11, INET .. "\2\0\3abc"), v2(0x21, 0x21, INET6), v2(0x20, 0, "") }
      local seen = { read = 0, waits = 0, refused = 0 }
      for _ = 1, 40000 do
         local bytes = seeds[math.random(#seeds)]
         for _ = 1, math.random(3) do
            local at = math.random(#bytes)
            local how = math.random(4)
            local other = string.char(math.random(0, 255))
            if how == 1 then bytes = bytes:sub(1, at - 1) .. other .. bytes:sub(at + 1)
            elseif how == 2 then bytes = bytes:sub(1, at - 1) .. other .. bytes:sub(at)
            elseif how == 3 and #bytes > 1 then bytes = bytes:sub(1, at - 1) .. bytes:sub(at + 1)
            elseif how == 4 then bytes = bytes:sub(1, at) end
         end
         local at = guard.place(base, 0, #bytes)
         ffi.copy(at, bytes, #bytes)
         local n = C.tw_proxy_read(at, #bytes, facts)
         local what = n > 0 and "read" or n == 0 and "waits" or "refused"
         seen[what] = seen[what] + 1
         assert.is_true(n <= #bytes and (n >= 0 or n == EPROTO))
         assert.is_true(facts.family == 0 or (n > 0 and (facts.family == 4 or facts.family == 6)))
      end
      assert.is_true(seen.read > 1000 and seen.waits > 1000 and seen.refused > 1000)
   end)
end)
