-- SPDX-License-Identifier: BSD-3-Clause
-- Captures as Wireshark's own programs read them.

local ffi = require "ffi"
local frame = require "test.support.frame"
local pcapng = require "tideway.pcapng"
local shell = require "test.shell"

local missing = not shell.has "tshark" and "tshark is missing (make deps)" or nil

-- 2026-11-22 03:04:05.123456789 UTC
local AT = ffi.cast("uint64_t", 1795316645) * 1000000000 + 123456789
local F = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 53 }, "hello")

describe("pcapng", function()
   local directory

   before_each(function() directory = shell.directory() end)
   after_each(function() shell.remove(directory) end)

   local function write(...)
      local path = directory .. "/capture.pcapng"
      local file = assert(io.open(path, "wb"))
      file:write(...)
      file:close()
      return path
   end

   local function fields(path, ...)
      local words = {}
      for i, name in ipairs { ... } do words[i] = "-e " .. name end
      local r = shell.run(("env TZ=UTC tshark -n -r %s -T fields %s"):format(path, table.concat(words, " ")))
      assert.equal(0, r.code, r.err)
      return r.out
   end

   local function has(text, ...)
      for _, part in ipairs { ... } do assert.is_truthy(text:find(part, 1, true), part .. " is not in\n" .. text) end
   end

   it("has times to the nanosecond, interfaces, directions and comments", function()
      if missing then return pending(missing) end
      local path = write(pcapng.section(), pcapng.interface { name = "lan" }, pcapng.interface { name = "wan" },
         pcapng.packet(0, AT, F, #F, #F, pcapng.INBOUND, "chain up: in"),
         pcapng.packet(1, AT + 1, F, 20, #F, pcapng.OUTBOUND, "chain up: out, ttl"), pcapng.packet(1, AT + 2, F, #F, #F))
      local lines = {}
      for line in fields(path, "frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment",
         "frame.cap_len", "frame.len"):gmatch "[^\n]+" do
         lines[#lines + 1] = line
      end
      local n = #F
      assert.same({
         ("1795316645.123456789\tlan\t0x00000001\tchain up: in\t%d\t%d"):format(n, n),
         ("1795316645.123456790\twan\t0x00000002\tchain up: out, ttl\t20\t%d"):format(n),
         ("1795316645.123456791\twan\t\t\t%d\t%d"):format(n, n),
      }, lines)
   end)

   it("keeps frames of all lengths as they are", function()
      if missing then return pending(missing) end
      local parts = { pcapng.section(), pcapng.interface { name = "x" } }
      for n = 14, 30 do parts[#parts + 1] = pcapng.packet(0, AT, F .. ("z"):rep(n), #F + n, #F + n) end
      local out = shell.run("capinfos -c -M " .. write(unpack(parts))).out
      has(out, "17")
      local path = write(pcapng.section(), pcapng.interface { name = "x" }, pcapng.packet(0, AT, F, #F, #F))
      has(shell.run("tshark -r " .. path .. " -x").out:gsub("%s", ""), "68656c6c6f")
   end)

   it("says on what it was made, of what, and what was lost", function()
      if missing then return pending(missing) end
      local path = write(pcapng.section { hardware = "a CPU", os = "Linux 6", comment = "tideway capture up" },
         pcapng.interface { name = "lan", description = "in", filter = "udp port 53", snaplen = 96 },
         pcapng.packet(0, AT, F, #F, #F),
         pcapng.statistics(0, AT + 5, { start = AT, received = 10, dropped = 3, accepted = 4, delivered = 1 }))
      local r = shell.run("capinfos " .. path)
      assert.equal(0, r.code, r.err)
      has(r.out, "a CPU", "Linux 6", "Tideway ", "tideway capture up", "Name = lan", "Description = in",
         "Filter string = udp port 53", "Capture length = 96", "nanoseconds (9)", "Number of stat entries = 1")
   end)

   it("has its statistics block byte by byte", function()
      local block = pcapng.statistics(7, AT, { dropped = 3 })
      local u32 = ffi.cast("const uint32_t *", block)
      assert.same({ 5, #block, 7 }, { u32[0], u32[1], u32[2] })
      assert.equal(AT, ffi.cast("uint64_t", u32[3]) * 2 ^ 32 + u32[4])
      assert.equal(#block, u32[#block / 4 - 1])
      assert.equal(0, #block % 4)
      has(block, "\5\0\8\0\3\0\0\0\0\0\0\0")
   end)

   it("takes long comments", function()
      if missing then return pending(missing) end
      local path = write(pcapng.section(), pcapng.interface { name = "x" },
         pcapng.packet(0, AT, F, #F, #F, nil, ("c"):rep(70000)))
      assert.equal(65535, #fields(path, "frame.comment") - 1)
   end)
end)
