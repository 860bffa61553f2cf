-- SPDX-License-Identifier: BSD-3-Clause
-- The protocols that templates are made of: which header of the packet library each is, what a script may say about it,
-- and what stands there when it says nothing (addresses for benchmarks: RFC 2544 C.2.2, RFC 5180 8; RFC 6890).

local bit = require "bit"
local header = require "tideway.packet.header"
local nearest = require "tideway.live.nearest"
local variation = require "tideway.bench.traffic.variation"
require "tideway.packet"

local M = {}
local all = header.all

---@class tideway.bench.protocol
---@field header tideway.header
---@field defaults table<string, any>
---@field alias table<string, string> other names of fields
---@field made table<string, boolean> fields that are not the script's: lengths, checksums, the next protocol
---@field words? table<string, table<string, number>> names of values, by field
---@field read? table<string, fun(value: any): any>
---@field extra? table<string, boolean> what is no field but has a meaning: inner, mss

local function names_of(list)
   local set = {}
   for name in list:gmatch "%S+" do set[name] = true end
   return set
end

local FLAGS = { fin = 1, syn = 2, rst = 4, psh = 8, ack = 16, urg = 32, ece = 64, cwr = 128 }

local function tcp_flags(value)
   if type(value) ~= "string" then return value end
   local flags = 0
   for word in value:gmatch "%a+" do
      if not FLAGS[word] then
         error(("tcp.flags: %q is no flag; there are: fin, syn, rst, psh, ack, urg, ece, cwr, as in \"syn+ack\"")
            :format(word), 0)
      end
      flags = bit.bor(flags, FLAGS[word])
   end
   return flags
end

local PORTS = { src = "src_port", dst = "dst_port" }

--- By name.
---@type table<string, tideway.bench.protocol>
M.by_name = {
   eth = {
      header = all.eth, defaults = { src = "02:00:00:00:00:01", dst = "02:00:00:00:00:02" }, alias = {}, made = {},
   },
   vlan = { header = all.vlan, defaults = { vid = 1 }, alias = { id = "vid" }, made = {} },
   mpls = {
      header = all.mpls, defaults = { label = 16, ttl = 64 }, alias = {}, made = names_of "entry bos",
   },
   ipv4 = {
      header = all.ipv4, alias = {}, defaults = { ttl = 64, src = "198.18.0.1", dst = "198.19.0.1" },
      made = names_of "version ihl total_length checksum frag",
   },
   ipv6 = {
      header = all.ipv6, alias = { ttl = "hop_limit", protocol = "next_header" },
      defaults = { hop_limit = 64, src = "2001:2::1", dst = "2001:2:0:1::1" },
      made = names_of "version vtc_flow payload_length",
   },
   udp = {
      header = all.udp, alias = PORTS, defaults = { src_port = 49152, dst_port = 7 },
      made = names_of "length checksum",
   },
   tcp = {
      header = all.tcp, alias = PORTS, made = names_of "data_offset checksum reserved", extra = names_of "mss",
      defaults = { src_port = 49152, dst_port = 80, seq = 1, flags = 16, window = 65535 }, read = { flags = tcp_flags },
   },
   icmp = {
      header = all.icmp, alias = {}, made = names_of "checksum rest", defaults = { type = 8, id = 1, seq = 1 },
      words = { type = {
         echo = 8, echo_reply = 0, unreachable = 3, redirect = 5, time_exceeded = 11, parameter_problem = 12,
         timestamp = 13,
      } },
   },
   icmp6 = {
      header = all.icmp6, alias = {}, made = names_of "checksum rest", defaults = { type = 128, id = 1, seq = 1 },
      words = { type = {
         echo = 128, echo_reply = 129, unreachable = 1, packet_too_big = 2, time_exceeded = 3, parameter_problem = 4,
      } },
   },
   gre = {
      header = all.gre, alias = {}, defaults = {}, extra = names_of "key inner",
      made = names_of "flags has_checksum has_routing has_key has_seq version",
   },
   vxlan = {
      header = all.vxlan, alias = {}, defaults = { vni = 1 }, extra = names_of "inner", made = names_of "flags has_vni",
   },
   dns = {
      header = header.define("dns", "be16 id; be16 flags; be16 questions, answers, authorities, additional"),
      alias = {}, defaults = { id = 1, flags = 0x0100 }, made = names_of "questions answers authorities additional",
      extra = names_of "name type",
   },
   -- Parts of others: a TCP option, a GRE key.
   mss = {
      header = header.define("tcp_mss", "u8 kind, length; be16 mss"), alias = {}, defaults = {}, made = {},
   },
   key = { header = header.define("gre_key", "be32 key"), alias = {}, defaults = {}, made = {} },
}

--- Words of a script that are no protocol.
M.SETTINGS = names_of "size payload stamp flows fill seed"

local function sorted(...)
   local list = {}
   for _, set in ipairs { ... } do
      for name in pairs(set) do list[#list + 1] = name end
   end
   table.sort(list)
   return list
end

--- The protocols a script may name.
M.NAMED = names_of "eth vlan mpls ipv4 ipv6 udp tcp icmp icmp6 gre vxlan dns"

--- Refuses words that mean nothing.
---@param spec table
---@param label string "packets", "vxlan.inner"
---@param inner boolean inside of a tunnel
function M.check_words(spec, label, inner)
   for word in pairs(spec) do
      local known = M.NAMED[word] or word == "payload" or (not inner and M.SETTINGS[word])
      if not known then
         if inner and M.SETTINGS[word] then
            error(("%s: %s belongs to the whole packet, not to what is in a tunnel"):format(label, tostring(word)), 0)
         end
         error(("%s: there is no %q%s"):format(label, tostring(word),
            nearest.hint(tostring(word), sorted(M.NAMED, inner and { payload = true } or M.SETTINGS))), 0)
      end
   end
end

-- The names that a script may use for fields.
local function field_names(protocol)
   local set = {}
   for _, field in ipairs(protocol.header.fields) do
      if not protocol.made[field.name] then set[field.name] = true end
   end
   for name in pairs(protocol.alias) do set[name] = true end
   return sorted(set, protocol.extra or {})
end

local function field_of(protocol, label, name)
   local real = protocol.alias[name] or name
   local field = protocol.header.fields[real]
   if field and not protocol.made[real] then return real end
   if field then error(("%s.%s is made by the generator; it cannot be given"):format(label, name), 0) end
   error(("%s: there is no field %q%s"):format(label, tostring(name),
      nearest.hint(tostring(name), field_names(protocol))), 0)
end

-- The value of a field as a script gives it, names replaced.
local function plain(protocol, label, name, value)
   local list = variation.is(value) and value.values
   if list and (protocol.words or protocol.read) then
      for i, one in ipairs(list) do list[i] = plain(protocol, label, name, one) end
   end
   local words = protocol.words and protocol.words[name]
   if words and type(value) == "string" then
      if not words[value] then
         error(("%s.%s: there is no %q%s"):format(label, name, value, nearest.hint(value, sorted(words))), 0)
      end
      return words[value]
   end
   local read = protocol.read and protocol.read[name]
   return read and read(value) or value
end

--- What a script says about one header: by the real names of fields, with defaults where it says nothing.
---@param name string of the protocol
---@param given table|true
---@param label string
---@return table<string, any> values
---@return table<string, any> extra what is no field
function M.values(name, given, label)
   local protocol = M.by_name[name]
   if given == true then given = {} end
   if type(given) ~= "table" then
      error(("%s must be a table of fields, not %s"):format(label, tostring(given)), 0)
   end
   local values, extra = {}, {}
   for field, value in pairs(given) do
      if protocol.extra and protocol.extra[field] then
         extra[field] = value
      else
         local real = field_of(protocol, label, field)
         if values[real] ~= nil then error(("%s: %s stands twice"):format(label, real), 0) end
         values[real] = plain(protocol, label, real, value)
      end
   end
   for field, value in pairs(protocol.defaults) do
      if values[field] == nil then values[field] = value end
   end
   return values, extra
end

return M
