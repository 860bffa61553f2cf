-- SPDX-License-Identifier: BSD-3-Clause
-- firewall: ordered rules in readable text over IPv4 and IPv6, with connection tracking; see firewall.md.

local tw = require "tideway"
local bit = require "bit"
local compile = require "tideway.nf.firewall.compile"
local flow = require "tideway.nf.firewall.flow"
local parse = require "tideway.nf.firewall.parse"
local reject = require "tideway.nf.firewall.reject"
local track = require "tideway.nf.firewall.track"
local words = require "tideway.nf.firewall.words"

local PARAMS = {
   rules = { type = "string", doc = "the rules, one a line" },
   file = { type = "string", doc = "name of a file with the rules, instead of rules" },
   default = { type = "string", default = "drop", one_of = { "allow", "drop", "reject" }, doc = "no rule matches" },
   ports = { type = "table", default = {}, doc = "ports by the names the rules use: { lan = lan, wan = wan }" },
   connections = { type = "number", default = 65536, min = 1, max = 2 ^ 24, doc = "per IP version" },
   timeouts = { type = "table", default = {}, doc = "seconds: { established = 7440, udp = 120, ... }" },
   loose = { type = "boolean", default = false, doc = "take up TCP connections in their middle" },
   fragments = { type = "string", default = "drop", one_of = { "drop", "follow", "allow" }, doc = "later fragments" },
   non_ip = { type = "string", default = "pass", one_of = { "pass", "drop" }, doc = "ARP and other frames" },
   reject_rate = { type = "number", default = 1000, min = 0, max = 1e6, doc = "answers a second and lcore" },
   name = { type = "string", doc = "prefix of the table names, to tell two firewalls apart" },
}

local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local n = 1
   while taken[base .. (n > 1 and n or "") .. ".rules"] do n = n + 1 end
   return base .. (n > 1 and n or "")
end

-- ---- configuration ----

local function port_indexes(ports)
   local out = {}
   for name, port in pairs(ports) do
      local index = type(port) == "table" and port.index or port
      if type(name) ~= "string" or type(index) ~= "number" then
         error(("firewall: ports.%s is %s; write ports = { lan = lan, wan = wan } with ports of tw.port")
            :format(tostring(name), tostring(port)), 0)
      end
      out[name] = index
   end
   return out
end

local function timeouts_of(given)
   local out = {}
   for name, seconds in pairs(track.timeouts) do out[name] = seconds end
   for name, seconds in pairs(given) do
      if not out[name] then
         error(("firewall: timeouts.%s does not exist; there are: %s"):format(tostring(name), words.list(out)), 0)
      elseif type(seconds) ~= "number" or seconds <= 0 or seconds > 1e7 then
         error(("firewall: timeouts.%s is %s; it must be a number of seconds from above 0 to 10000000")
            :format(name, tostring(seconds)), 0)
      end
      out[name] = seconds
   end
   return out
end

-- A file is looked for as named, then beside the script.
local function read_file(name)
   local script = rawget(_G, "arg") and arg[0] or ""
   local beside = (script:match "^(.*/)[^/]*$" or "") .. name
   local file, err = io.open(name)
   if not file then file = io.open(beside) end
   if not file then error(("firewall: file %q: %s"):format(name, err), 0) end
   local text = file:read "*a"
   file:close()
   return text
end

local function rules_of(cfg)
   if (cfg.rules == nil) == (cfg.file == nil) then
      error("firewall: give rules = [[ ... ]] or file = \"name\", one of them", 0)
   end
   local source = cfg.file or "rules"
   local list = parse.parse(cfg.rules or read_file(cfg.file), port_indexes(cfg.ports), source)
   for _, rule in ipairs(list) do rule.source = source end
   return list
end

-- ---- tables ----

local function make_tables(cfg, compiled, name)
   local tables = {
      hits = tw.counters { name = name .. ".rules", names = compiled.names },
      acl4 = tw.acl { name = name .. ".acl4", key = compile.KEY4, rules = compiled.rows4 },
      acl6 = tw.acl { name = name .. ".acl6", key = compile.KEY6, rules = compiled.rows6 },
   }
   if compiled.tracks then
      tables.conns4 = tw.hash {
         name = name .. ".conns4", key = track.KEY4, value = track.VALUE, entries = cfg.connections, expire = true,
      }
      tables.conns6 = tw.hash {
         name = name .. ".conns6", key = track.KEY6, value = track.VALUE, entries = cfg.connections, expire = true,
      }
   end
   if cfg.fragments == "follow" then
      tables.frags4 = tw.lru {
         name = name .. ".frags4", key = "u32 src; u32 dst; u32 id; u8 proto", value = "ns expires", entries = 4096,
         expire = true,
      }
      tables.frags6 = tw.lru {
         name = name .. ".frags6", key = "ip6 src; ip6 dst; u32 id", value = "ns expires", entries = 4096,
         expire = true,
      }
   end
   return tables
end

-- ---- state for people ----

local function connections(conns, family, list)
   local now = tw.now()
   local text = family == 4 and tw.ip4_string or tw.ip6_string
   for key, value in conns:pairs() do
      local low, high = { text(key.low), key.low_port }, { text(key.high), key.high_port }
      local from, to = low, high
      if value.low == 0 then from, to = high, low end
      list[#list + 1] = {
         family = family, proto = key.proto, src = from[1], sport = from[2], dst = to[1], dport = to[2],
         state = track.state_names[value.state], rule = value.rule + 1, age = (now - value.since) / 1e9,
         expires_in = (value.expires - now) / 1e9,
      }
   end
end

local function make_export(tables)
   return function()
      local out = { rules = {}, connections = {} }
      for name, hits in tables.hits:pairs() do out.rules[#out.rules + 1] = { name = name, hits = hits } end
      if tables.conns4 then
         connections(tables.conns4, 4, out.connections)
         connections(tables.conns6, 6, out.connections)
      end
      return out
   end
end

--- A stateful packet filter. Parameters, the rule language and the drop reasons: firewall.md.
---@param cfg table  see PARAMS
return tw.nf("firewall", function(cfg)
   cfg = tw.args("firewall", cfg, PARAMS)
   local rules = rules_of(cfg)
   local timeouts = timeouts_of(cfg.timeouts)
   local compiled = compile.compile(rules)
   local tables = make_tables(cfg, compiled, cfg.name or free_name "firewall")
   local packet = flow.new {
      tables = tables,
      track = track.new(timeouts),
      tracks = compiled.tracks,
      established = compiled.established,
      default_rule = #rules,
      default_action = words.actions[cfg.default],
      loose = cfg.loose,
      fragments = cfg.fragments,
      pass_non_ip = cfg.non_ip == "pass",
      band = bit.band,
   }
   return {
      packet = packet,
      punt = reject.new(cfg.reject_rate),
      export = make_export(tables),
   }
end, { pure = true })
