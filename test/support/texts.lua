-- SPDX-License-Identifier: BSD-3-Clause
-- The parsers of text that users write, and good examples to mutate. Whatever the text: a value, or an error that
-- is a sentence; never an error of Lua itself, never a hang.

local address = require "tideway.packet.address"
local compile = require "tideway.nf.firewall.compile"
local header = require "tideway.packet.header"
local layout = require "tideway.packet.layout"
local napt44 = require "tideway.nf.napt44.config"
local parser = require "tideway.cli.parser"
local posix = require "tideway.posix"
local rules = require "tideway.nf.firewall.parse"
local table_type = require "tideway.table.type"

local M = {}

-- FFI types are never freed: only so many may be made in one process.
local types_left = 500

local function round_trip(parse, format)
   return function(text)
      local value = parse(text)
      if value == nil then return end
      local again = format(value)
      if parse(again) ~= value then error(("internal: %q becomes %q"):format(text, again), 0) end
   end
end

local function words(text)
   local list = {}
   for word in text:gmatch "%S+" do list[#list + 1] = word end
   return list
end

---@type table<string, { seeds: string[], parse: fun(text: string) }>
M.parsers = {
   ip4 = {
      seeds = { "10.0.0.1", "255.255.255.255", "0.0.0.0" },
      parse = round_trip(address.parse_ip4, address.ip4_string),
   },
   ip6 = {
      seeds = { "2001:db8::1", "::", "::ffff:10.0.0.1", "1:2:3:4:5:6:7:8", "fe80::1%eth0", "1::8", "::1.2.3.4" },
      parse = round_trip(address.parse_ip6, address.ip6_string),
   },
   mac = {
      seeds = { "02:00:00:00:00:01", "ff-ff-ff-ff-ff-ff" },
      parse = round_trip(address.parse_mac, address.mac_string),
   },
   prefix = {
      seeds = { "10.0.0.0/8", "2001:db8::/32", "::/0", "0.0.0.0/0", "192.0.2.1", "2001:db8::1/128" },
      parse = round_trip(address.parse_prefix, tostring),
   },
   interface = { seeds = { "10.0.0.1/24", "2001:db8::1/64", "10.0.0.1" }, parse = address.interface },
   header = {
      seeds = {
         "u8 a; be16 b", "u4 version; u4 ihl; u8 tos { u6 dscp; u2 ecn }; be16 length", "mac dst, src; be16 type",
         "be16 tci { u3 pcp; u1 dei; u12 vid }; pad 3; ip6 a; ip4 b; le64 c",
         "be32 entry { u20 label; u3 tc; u1 bos; u8 ttl }",
      },
      parse = function(text)
         layout.parse("fuzz", text)
         if types_left <= 0 then return end
         types_left = types_left - 1
         header.define("fuzz", text)
      end,
   },
   table_type = {
      seeds = {
         "u32", "u32 src; u32 dst; u16 sport; u16 dport; u8 proto", "ip6 a; mac b; ns expires", "u64", "i32 x; i64 y",
      },
      parse = function(text)
         if types_left <= 0 then return end
         types_left = types_left - 1
         table_type.parse(text)
      end,
   },
   firewall = {
      seeds = {
         "allow established", "allow in lan\ndrop count unasked", "reject tcp port 23",
         "drop count x tcp flags SF/SF", "allow icmp echo to 198.51.100.1",
         "allow tcp from 10.0.0.0/8 to 192.0.2.1 port 80-90,443",
         "allow icmp6 neighbor-solicitation, neighbor-advertisement # neighbours", "allow udp from 2001:db8::/32",
         "drop in wan from { 10.0.0.0/8, 172.16.0.0/12 }", "allow tcp,udp new port 53",
      },
      parse = function(text) compile.compile(rules.parse(text, { lan = 0, wan = 1 }, "rules")) end,
   },
   napt44 = {
      seeds = {
         "1024-65535", "10.0.0.0/24", "198.51.100.1", "10.0.0.2:80", "198.51.100.0/30", "tcp", "2000-3000,4000",
      },
      parse = function(text)
         local way = #text % 4
         local cfg = { outside = 1, address = "198.51.100.1", inside = "10.0.0.0/24" }
         if way == 3 then
            cfg.forward = { { proto = "tcp", port = 8080, to = text } }
         else
            cfg[({ [0] = "ports", "inside", "address" })[way]] = text
         end
         napt44.check(cfg)
      end,
   },
   command_line = {
      seeds = {
         "run --for 10 --json edge.lua", "run --name x --burst 32 --idle sleep s.lua a b", "top --once --json",
         "check x.lua", "doctor", "help run", "completion bash", "run -- x", "--version",
         "run --memory 512 --no-huge -q x.lua --for",
      },
      parse = function(text) parser.parse(require("tideway.cli").commands(), words(text)) end,
   },
}

M.names = {}
for name in pairs(M.parsers) do M.names[#M.names + 1] = name end
table.sort(M.names)

-- What Lua says of mistakes in a program.
local INTERNAL = {
   "attempt to ", "bad argument", "malformed pattern", "invalid capture", "unfinished capture", "stack overflow",
   "invalid option", "internal:", "table overflow", "not enough memory", "string length overflow", "assertion failed",
   "expected near", "%[string \"",
}

--- Parse a text.
---@param name string
---@param text string
---@return string? fault nil when it was parsed, or refused in a sentence
function M.try(name, text)
   local before = posix.now()
   local ok, err = pcall(M.parsers[name].parse, text)
   local took = (posix.now() - before) / 1e9
   if took > 1 then return ("it took %.1f s"):format(took) end
   if ok then return nil end
   if type(err) ~= "string" or err == "" then return "raised a " .. type(err) end
   local said = err:gsub('%b""', '""') -- what the user wrote, quoted
   for _, pattern in ipairs(INTERNAL) do
      if said:find(pattern) then return err end
   end
end

return M
