-- SPDX-License-Identifier: BSD-3-Clause
-- dns_filter: answers DNS queries for names that are blocked itself, and lets the others pass to a resolver.

local bit = require "bit"
local tw = require "tideway"
local names = require "tideway.nf.dns_filter.names"
local queries = require "tideway.nf.dns_filter.query"
local streams = require "tideway.nf.dns_filter.stream"

local PARAMS = {
   block = { type = "table", doc = "names; \"*.example\" is all below example" },
   allow = { type = "table", doc = "names that pass, blocked or not" },
   file = { type = "any", doc = "a file of names to block, or a list of files: one name a line, or as /etc/hosts" },
   answer = { type = "any", default = "nxdomain",
      doc = "\"nxdomain\", \"refused\", \"drop\", or an address, or a list of one for each IP version" },
   ttl = { type = "number", default = 60, min = 0, max = 86400, doc = "of such an address, seconds" },
   types = { type = "table", doc = "types of queries that are blocked: { \"A\", \"AAAA\" }; default: all" },
   name = { type = "string", default = "dns_filter", doc = "of its counters, tables.NAME" },
}

local band, rshift = bit.band, bit.rshift
local byte, char, sub, concat = string.byte, string.char, string.sub, table.concat

local COUNTED = { "queries", "blocked", "passed", "malformed", "connections", "bad_length", "too_long", "half", "lost" }

-- Queries of a piece of a stream, before others have their turn.
local TURN = 256

local function fail(...) error("dns_filter: " .. string.format(...), 0) end

local function add_all(what, set, list)
   for i, text in ipairs(list or {}) do
      local name, below = names.parse(text)
      if not name then fail("%s[%d]: %s", what, i, below) end
      names.add(set, name, below)
   end
end

local function add_files(set, files)
   if files == nil then return end
   for _, path in ipairs(type(files) == "table" and files or { files }) do
      if type(path) ~= "string" then fail("file must be a path or a list of paths, not %s", tostring(path)) end
      local ok, err = names.load(set, path)
      if not ok then fail("file: %s", err) end
   end
end

-- Network order, as a string.
local function bytes_of(text)
   local four, six, ok
   ok, four = pcall(tw.ip4, text)
   if ok then
      return string.char(rshift(four, 24), band(rshift(four, 16), 255), band(rshift(four, 8), 255), band(four, 255))
   end
   ok, six = pcall(tw.ip6, text)
   if not ok then
      fail("answer is %s; it can be \"nxdomain\", \"refused\", \"drop\", an address, or a list of addresses",
         tostring(text))
   end
   local out = {}
   for i = 0, 15 do
      out[i + 1] = string.char(tonumber(band(rshift(i < 8 and six.q0 or six.q1, i % 8 * 8), 0xffULL)))
   end
   return table.concat(out)
end

local RCODES = { nxdomain = queries.NXDOMAIN, refused = queries.REFUSED }

-- How names that are blocked are answered: an rcode, or nothing for "drop", and data of addresses by type of query.
local function answer_of(answer)
   if RCODES[answer] then return RCODES[answer], {} end
   if answer == "drop" then return nil, {} end
   local data = {}
   for _, text in ipairs(type(answer) == "table" and answer or { answer }) do
      local bytes = bytes_of(text)
      data[#bytes == 4 and queries.A or queries.AAAA] = bytes
   end
   data[queries.ANY] = data[queries.A] or data[queries.AAAA]
   if not data[queries.ANY] then fail "answer is an empty list" end
   return queries.NOERROR, data
end

local function types_of(list)
   if not list then return nil end
   local set = { [queries.ANY] = true }
   for i, name in ipairs(list) do
      local number = queries.TYPES[tostring(name):upper()] or (type(name) == "number" and name)
      if not number then fail("types[%d]: there is no type %q", i, tostring(name)) end
      set[number] = true
   end
   return set
end

return tw.nf("dns_filter", function(cfg)
   cfg = tw.args("dns_filter", cfg, PARAMS)
   local block, allow = names.set(), names.set()
   add_all("block", block, cfg.block)
   add_all("allow", allow, cfg.allow)
   add_files(block, cfg.file)
   local rcode, data = answer_of(cfg.answer)
   local types, ttl, allows = types_of(cfg.types), math.floor(cfg.ttl), allow.count > 0
   local counts = tw.store { name = cfg.name, bytes = 2 ^ 16, entries = 32, shards = 1 }
   local by_name = tw.store { name = cfg.name .. ".names", bytes = 2 ^ 18, entries = 256, shards = 4, piece = 128 }

   local function is_blocked(query)
      if query.class ~= queries.IN and query.class ~= queries.ANY then return false end
      if types and not types[query.type] then return false end
      return names.has(block, query.name) and not (allows and names.has(allow, query.name))
   end

   -- Does the query pass? Else its answer, if it gets one, or why not.
   local function judge(bytes)
      counts:incr("queries", 1, 0)
      local query, err, wrong = queries.read(bytes)
      if err then
         counts:incr("malformed", 1, 0)
         if not wrong then return false, nil, err end
         return false, queries.respond(bytes, query, wrong)
      end
      if not is_blocked(query) then
         counts:incr("passed", 1, 0)
         return true
      end
      counts:incr("blocked", 1, 0)
      by_name:incr(query.name, 1, 0)
      if not rcode then return false, nil, "blocked" end
      return false, queries.respond(bytes, query, rcode, data[query.type], ttl)
   end

   -- ---- over TCP ----

   local connections = streams.connections()

   local function close(msg, c, why, counted)
      if c then streams.close(connections, c) end
      if counted then counts:incr(why, 1, 0) end
      return msg:drop(why)
   end

   -- Messages of a piece; nil and the verdict when there can be none.
   local function whole_of(msg, c, way, most)
      local whole, why = streams.take(connections, way, msg.bytes, most)
      if whole and msg.last and way.bytes > 0 then whole, why = nil, "half" end
      if not whole then return nil, close(msg, c, why, true) end
      if msg.last then streams.ended(connections, c, way) end
      return whole
   end

   local function asked(msg, c)
      local whole, closed = whole_of(msg, c, c.asks, streams.QUERY_MAX)
      if not whole then return closed end
      local on, back, at, n = {}, {}, 1, 0
      while at < #whole do
         local high, low = byte(whole, at, at + 1)
         local stop = at + 1 + high * 256 + low
         local passes, answer, why = judge(sub(whole, at + 2, stop))
         if passes then
            on[#on + 1] = sub(whole, at, stop)
         elseif answer then
            back[#back + 1] = char(rshift(#answer, 8), band(#answer, 255))
            back[#back + 1] = answer
         elseif why ~= "blocked" then
            return close(msg, c, why)
         end
         at, n = stop + 1, n + 1
         if n % TURN == 0 then msg:sleep(0) end
      end
      on = concat(on)
      if #back > 0 then return msg:reply(concat(back), on) end
      if on ~= msg.bytes then msg:set_bytes(on) end
   end

   local function answered(msg, c)
      local whole, closed = whole_of(msg, c, c.answers, streams.ANSWER_MAX)
      if not whole then return closed end
      if whole ~= msg.bytes then msg:set_bytes(whole) end
   end

   return {
      name = "dns_filter", sticky = "exchange",
      message = function(msg)
         if msg.kind == "open" then
            counts:incr("connections", 1, 0)
            streams.open(connections, msg.id)
            return nil
         end
         local passes, answer, why = judge(msg.bytes)
         if passes then return nil end
         if not answer then return msg:drop(why) end
         return msg:reply(answer)
      end,
      data = function(msg)
         local c = streams.find(connections, msg.id)
         if not c then return close(msg, nil, "lost", not streams.was_closed(connections, msg.id)) end
         if msg.backward then return answered(msg, c) end
         return asked(msg, c)
      end,
      --- What it has counted; `names`: how often each was blocked, as far as there was room.
      export = function()
         local out = { names = {} }
         for _, name in ipairs(COUNTED) do out[name] = counts:get(name) or 0 end
         for name, n in by_name:pairs() do out.names[name] = n end
         return out
      end,
   }
end)
