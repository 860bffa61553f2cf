-- SPDX-License-Identifier: BSD-3-Clause
-- Upstream groups: servers that requests go to, how one is chosen, and when one is taken for down.

local ffi = require "ffi"
local abi = require "tideway.abi"
local addresses = require "tideway.gate.address"
local fields = require "tideway.gate.fields"
local listen = require "tideway.gate.listen"
local model = require "tideway.model"

local C = abi.C
local M = {}

---@class tideway.gate.server
---@field name string
---@field address tideway.gate.address
---@field weight integer
---@field given? any as the script gave it, of a host that has a name

---@class tideway.upstream
---@field name string
---@field index integer the group's number in messages
---@field servers tideway.gate.server[]
---@field options table<string, any>
---@field check table<string, any>? active checks
---@field where string file:line of its declaration
local Group = model.class()

function Group:__tostring() return "upstream " .. rawget(self, "name") end
-- In functions a group is its name and number.
function Group:__transfer()
   return "tideway.gate.group_ref", "new", { rawget(self, "name"), rawget(self, "index") }
end

local HOUR = 3600
local BALANCE = { round_robin = "TW_BALANCE_ROUND_ROBIN", least = "TW_BALANCE_LEAST", hash = "TW_BALANCE_HASH" }
local PROTOCOL = { http = "TW_LISTEN_HTTP", tcp = "TW_LISTEN_TCP", udp = "TW_LISTEN_UDP" }

--- What a group may be told, with nginx's defaults where it has one.
---@type table<string, tideway.gate.field>
M.FIELDS = {
   balance = { kind = "choice", default = "round_robin", choices = { "round_robin", "least", "hash" },
      doc = "how a server is chosen: in turn by weight, least connections, consistent hash of the message's key" },
   protocol = { kind = "choice", choices = { "http", "tcp", "udp" }, doc = "what its servers speak" },
   keepalive = { kind = "count", default = 256, min = 0, max = 65535,
      doc = "idle connections kept, per server and gate thread" },
   connections = { kind = "count", default = 1024, min = 1, max = 65535, doc = "at most per server and gate thread" },
   queue = { kind = "seconds", default = 1, min = 0, max = HOUR, doc = "a request waits for one of them; 503" },
   connect_timeout = { kind = "seconds", default = 60, min = 0.001, max = HOUR, doc = "504" },
   response_timeout = { kind = "seconds", default = 60, min = 0.001, max = HOUR, doc = "to the response's head; 504" },
   idle = { kind = "seconds", default = 60, min = 0.001, max = HOUR, doc = "between two pieces of a response; 502" },
   retries = { kind = "count", default = 1, min = 0, max = 16,
      doc = "other servers tried when one fails before it answers and nothing is lost by it" },
   fails = { kind = "count", default = 1, min = 0, max = 1000,
      doc = "so many failures within fail_time take a server out for fail_time; 0: never" },
   fail_time = { kind = "seconds", default = 10, min = 0.001, max = HOUR, doc = "see fails" },
   proxy = { kind = "choice", default = false, choices = { false, 1, 2 }, doc = "sends a PROXY protocol header" },
   resolve = { kind = "seconds", min = 1, max = 24 * HOUR,
      doc = "names of hosts are looked for again so often; default: by a reload only" },
   host = { kind = "text", default = "", pattern = "^[%g]*$", doc = "Host of checks; default: as it is given here" },
}

--- What active checks may be told.
---@type table<string, tideway.gate.field>
M.CHECK = {
   path = { kind = "text", pattern = "^/%g*$", form = "a path that begins with /",
      doc = "HTTP: asked for; without it a connection is enough" },
   every = { kind = "seconds", default = 5, min = 1, max = HOUR, doc = "between two checks" },
   timeout = { kind = "seconds", default = 1, min = 0.001, max = HOUR, doc = "a check that takes longer has failed" },
   rise = { kind = "count", default = 1, min = 1, max = 1000, doc = "so many in a row bring a server back" },
   fall = { kind = "count", default = 1, min = 1, max = 1000, doc = "so many failures in a row take it out" },
   status = { kind = "count", default = 0, min = 0, max = 599, doc = "expected; 0: any of 200 to 399" },
}

local SERVER = {
   name = { kind = "text", pattern = "^%g+$", form = "a word", doc = "in counters; default: its address" },
   weight = { kind = "count", default = 1, min = 0, max = 65535, doc = "0: takes no new requests" },
}

-- What a server is called: one of several of the same host by its address, too. Of a long path it is the end.
local function name_of(given, address, alone)
   local most = C.TW_NAME_LEN - 1
   if not given then
      local long = address.path and #address.text > most
      return long and "unix:..." .. address.path:sub(8 - most) or address.text
   end
   local name = alone and given or ("%s/%s"):format(given, address.text)
   return (alone or #name <= most) and name or address.text
end

-- Servers as one is given: "10.0.0.1:80" or { "10.0.0.1:80", weight = 2, name = "a" }. A name of a host can be several.
-- `known`: the numbers of its host, when they were asked for.
local function servers_at(value, known)
   local text = value
   if type(value) == "table" then text = value[1] end
   local list, err = addresses.servers(text, known)
   if not list then return nil, err end
   local options
   options, err = fields.check(type(value) == "table" and value or {}, SERVER, nil, { [1] = true })
   if not options then return nil, ("server %s: %s"):format(list[1].host or list[1].text, err) end
   local servers = {}
   for i, address in ipairs(list) do
      local name = name_of(options.name, address, #list == 1)
      if #name >= C.TW_NAME_LEN then
         return nil, ("server %s: the name %q is too long"):format(address.text, name)
      end
      servers[i] = { name = name, address = address, weight = options.weight, given = address.host and value }
   end
   return servers
end

local function add_servers(servers, added)
   for _, server in ipairs(added) do
      for _, other in ipairs(servers) do
         if other.name == server.name then
            local why = (server.address.host or other.address.host) and (" (%s and %s)"):format(
               other.address.host or other.address.text, server.address.host or server.address.text) or ""
            return nil, ("there are two servers %q%s"):format(server.name, why)
         end
      end
      if #servers >= C.TW_SERVERS_MAX then return nil, ("%d servers are the limit"):format(C.TW_SERVERS_MAX) end
      servers[#servers + 1] = server
   end
   return true
end

local function servers_of(list)
   if type(list) ~= "table" or #list == 0 then
      return nil, "servers is a list such as { \"10.0.0.1:80\", { \"10.0.0.2:80\", weight = 2 } }"
   end
   local servers, protocol = {}, nil
   for _, value in ipairs(list) do
      local added, err = servers_at(value)
      if not added then return nil, err end
      local said = added[1].address.protocol
      if said and protocol and said ~= protocol then
         return nil, ("server %s speaks %s and one before it %s; a group speaks one protocol"):format(added[1].name,
            said, protocol)
      end
      protocol = protocol or said
      local ok
      ok, err = add_servers(servers, added)
      if not ok then return nil, err end
   end
   return servers, protocol
end

--- The first of these servers that can't speak the protocol: a socket in the file system takes no datagrams.
---@param servers { address: tideway.gate.address }[]
---@param protocol string?
---@return string? server
function M.no_datagrams(servers, protocol)
   for _, server in ipairs(protocol == "udp" and servers or {}) do
      if server.address.path then return server.address.text end
   end
end

local function state_of(options)
   if type(options) ~= "table" then return nil, "its options are a table with servers = { ... }" end
   local servers, said = servers_of(options.servers)
   if not servers then return nil, said end
   local checked, err = fields.check(options, M.FIELDS, nil, { servers = true, check = true })
   if not checked then return nil, err end
   local protocol = said or checked.protocol
   if said and checked.protocol and said ~= checked.protocol then
      return nil, ("protocol is %q, and its servers say %s"):format(checked.protocol, said)
   end
   local path = M.no_datagrams(servers, protocol)
   if path then return nil, ("server %s: no datagrams go to sockets in the file system"):format(path) end
   local check
   if options.check ~= nil then
      if type(options.check) ~= "table" then
         return nil, "check is a table such as { path = \"/health\", every = 5 }"
      end
      check, err = fields.check(options.check, M.CHECK)
      if not check then return nil, "check: " .. err end
   end
   return { servers = servers, options = checked, check = check, protocol = protocol }
end

--- Declare an upstream group: `tw.upstream("app", { servers = { "10.0.0.1:80", { "10.0.0.2:80", weight = 2 } } })`. It
--- is the sink of chains, and what `msg:upstream(group)` sends to. Servers are addresses, names of hosts with a port
--- (all addresses that they have now), or sockets in the file system: "unix:/run/app.sock".
---@param name string name in counters and messages
---@param options table servers, and in seconds: balance = "round_robin"|"least"|"hash", protocol, keepalive,
--- connections, queue, connect_timeout, response_timeout, idle, retries, fails, fail_time, proxy, resolve, host,
--- check = { path, every, timeout, rise, fall, status }
---@return tideway.upstream
function M.upstream(name, options)
   local function fail(...) error(("tw.upstream: %s"):format(string.format(...)), 3) end
   local wrong = listen.wrong_name(name)
   if wrong then fail("%s", wrong) end
   model.writable(("tw.upstream(%q, ...)"):format(name))
   local other = model.find(model.groups, "name", name)
   if other then fail("the name %q is taken by the group declared at %s", name, other.where) end
   local state, err = state_of(options)
   if not state then fail("group %s: %s", name, err) end
   local group = model.handle(Group, "groups", name, C.TW_GROUPS_MAX)
   if not group then fail("%d groups are the limit", C.TW_GROUPS_MAX) end
   state.where = model.where(2)
   model.declare("groups", group, state)
   return group
end

-- ---- while it runs ----

-- The places of a server, by its name or address; of all of a host by the host's name.
local function find(self, name, level)
   local found, names = {}, {}
   for i, server in ipairs(self.servers) do
      local address = server.address
      if server.name == name or address.text == name or address.host == name then found[#found + 1] = i end
      names[i] = server.name
   end
   if #found > 0 then return found end
   error(("upstream %s has no server %s%s"):format(self.name, tostring(name),
      require("tideway.live.nearest").hint(tostring(name), names)), level + 1)
end

local function edit_servers(self)
   local list = {}
   for i, server in ipairs(self.servers) do list[i] = server end
   model.edit(self).servers = list
   return list
end

--- Add a server: `upstreams.app:add("10.0.0.3:80")`. A name of a host is resolved: all of its addresses.
---@param server string|table its address, or { address, weight =, name = }
---@return tideway.upstream self
function Group:add(server)
   local added, err = servers_at(server)
   local said = added and added[1].address.protocol
   if said and said ~= (self.protocol or "http") then
      added, err = nil, ("server %s speaks %s"):format(added[1].name, said)
   end
   local path = added and M.no_datagrams(added, self.protocol)
   if path then added, err = nil, ("server %s: no datagrams go to sockets in the file system"):format(path) end
   local ok = added
   if added then ok, err = add_servers(edit_servers(self), added) end
   if not ok then error(("upstream %s: %s"):format(self.name, err), 2) end
   return self
end

--- Take a server away: requests that it has go on to their end, it gets no more.
---@param name string its name or address, or the name of its host for all that have it
---@return tideway.upstream self
function Group:remove(name)
   local found = find(self, name, 2)
   if #found == #self.servers then
      error(("upstream %s: %s is its last server; drain it, or declare the group anew"):format(self.name, name), 2)
   end
   local list = edit_servers(self)
   for i = #found, 1, -1 do table.remove(list, found[i]) end
   return self
end

--- Give a server another weight; 0 drains it.
---@param name string its name or address, or the name of its host for all that have it
---@param weight integer 0 to 65535
---@return tideway.upstream self
function Group:weight(name, weight)
   local found = find(self, name, 2)
   local checked, err = fields.check({ weight = weight }, SERVER)
   if not checked then error(("upstream %s: server %s: %s"):format(self.name, name, err), 2) end
   local list = edit_servers(self)
   for _, i in ipairs(found) do
      local server = list[i]
      list[i] = { name = server.name, address = server.address, weight = weight, given = server.given }
   end
   return self
end

--- A server gets no new requests: weight 0.
---@param name string its name or address, or the name of its host for all that have it
---@return tideway.upstream self
function Group:drain(name)
   find(self, name, 2)
   return self:weight(name, 0)
end

--- Change options: `upstreams.app:set { balance = "least" }`; those that are not named stay as they are.
---@param options table as in tw.upstream()
---@return tideway.upstream self
function Group:set(options)
   local checked, err = fields.change(self.options, options, M.FIELDS)
   if checked and checked.protocol ~= self.options.protocol then
      checked, err = nil, "its protocol stays what it is; declare another group"
   end
   if not checked then error(("upstream %s: %s"):format(self.name, err), 2) end
   model.edit(self).options = checked
   return self
end

-- A server that stays: as it is, whatever was done to it.
local function kept(servers, server)
   for _, other in ipairs(servers) do
      if other.given == server.given and other.address.text == server.address.text then return other end
   end
   return server
end

--- The servers that a group has when its hosts have these addresses.
---@param servers tideway.gate.server[]
---@param numbers table<string, string[]> by the host's name; those of others stay as they are
---@return tideway.gate.server[]? servers
---@return string? err
function M.renewed(servers, numbers)
   local list, done = {}, {}
   for _, server in ipairs(servers) do
      local given, known = server.given, numbers[M.host_of(server)]
      local added, err = { server }, nil
      if known and done[given] then
         added = {}
      elseif known then
         done[given] = true
         added, err = servers_at(given, known)
         for i, new in ipairs(added or {}) do added[i] = kept(servers, new) end
      end
      local ok
      if added then ok, err = add_servers(list, added) end
      if not ok then return nil, err end
   end
   return list
end

--- The name of a server's host; nil: it was given by its address.
---@param server tideway.gate.server
---@return string?
function M.host_of(server)
   return server.address.host and server.address.host:match "^(.*):"
end

--- Take the group away. No chain may end in it any more when the change is applied.
function Group:delete() model.remove("groups", self) end

local function ms(seconds) return math.floor(seconds * 1000 + 0.5) end

local function fill_check(out, check)
   if not check then return end
   out.check_ms, out.check_timeout_ms = ms(check.every), math.max(1, ms(check.timeout))
   out.rise, out.fall, out.check_status = check.rise, check.fall, check.status
   if check.path then ffi.copy(out.check_path, check.path:sub(1, 255)) end
end

--- What the gate is told of a group.
---@param group tideway.upstream
---@param state table
---@param out ffi.cdata* struct tw_group_spec, all zero
function M.fill(group, state, out)
   local o = state.options
   ffi.copy(out.name, group.name)
   out.balance, out.protocol = C[BALANCE[o.balance]], C[PROTOCOL[state.protocol or "http"]]
   out.keepalive, out.connections, out.queue_ms = o.keepalive, o.connections, ms(o.queue)
   out.connect_ms, out.response_ms, out.idle_ms = ms(o.connect_timeout), ms(o.response_timeout), ms(o.idle)
   out.retries, out.fails, out.fail_ms, out.proxy = o.retries, o.fails, ms(o.fail_time), o.proxy or 0
   ffi.copy(out.host, o.host:sub(1, 255))
   fill_check(out, state.check)
   out.n_servers = #state.servers
   for i, server in ipairs(state.servers) do
      local s = out.server[i - 1]
      ffi.copy(s.name, server.name)
      addresses.fill(s.address, server.address)
      ffi.copy(s.host, server.address.host or server.address.path and "localhost" or "")
      s.weight = server.weight
   end
end

--- Is it an upstream group?
function M.is_upstream(value) return getmetatable(value) == Group end

return M
