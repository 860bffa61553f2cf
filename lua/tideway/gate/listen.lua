-- SPDX-License-Identifier: BSD-3-Clause
-- Listeners: addresses that clients connect to, each the source of one chain of messages.

local abi = require "tideway.abi"
local addresses = require "tideway.gate.address"
local fields = require "tideway.gate.fields"
local model = require "tideway.model"

local C = abi.C
local M = {}

---@class tideway.listener
---@field name string
---@field index integer
---@field address tideway.gate.address
---@field options table<string, any>
---@field where string file:line of its declaration
local Listener = model.class()

function Listener:__tostring()
   local state = model.state(self)
   return ("listener %s%s"):format(rawget(self, "name"), state and (" (%s://%s)"):format(state.protocol,
      state.address.text) or "")
end

local HOUR, DAY = 3600, 86400

--- What a listener may be told, with nginx's defaults where it has one.
---@type table<string, tideway.gate.field>
M.FIELDS = {
   proxy = { kind = "flag", default = false, doc = "connections begin with a PROXY protocol header, version 1 or 2" },
   only_v6 = { kind = "flag", default = true, doc = "[::] does not take IPv4" },
   backlog = { kind = "count", default = 511, min = 1, max = 65535, doc = "connections that wait to be accepted" },
   connections = { kind = "count", default = 16384, min = 1, max = 4194304, doc = "at most open at the same time" },
   requests = { kind = "count", default = 1000, min = 0, max = 2 ^ 31, doc = "of one connection, 0: any number" },
   head_bytes = { kind = "bytes", default = 16384, min = 256, max = 1048576, doc = "of a request's head; 431" },
   body_bytes = { kind = "bytes", default = 1048576, min = 0, max = 2 ^ 52, doc = "of a request's body; 413" },
   idle = { kind = "seconds", default = 75, min = 0.01, max = DAY,
      doc = "from a response to the next request; streams and datagrams: without a byte either way" },
   head_timeout = { kind = "seconds", default = 60, min = 0.01, max = HOUR, doc = "for a request's head; 408" },
   body_timeout = { kind = "seconds", default = 60, min = 0.01, max = HOUR, doc = "between two pieces of a body; 408" },
   send_timeout = { kind = "seconds", default = 60, min = 0.01, max = HOUR, doc = "the client takes nothing; closed" },
   request_timeout = { kind = "seconds", default = 60, min = 0.01, max = DAY,
      doc = "in the hands of functions and upstreams; 504" },
}

-- What is different for what is not HTTP.
local DEFAULTS = { http = {}, tcp = { idle = 600 }, udp = { idle = 30 } }

local PROTOCOL = { http = "TW_LISTEN_HTTP", tcp = "TW_LISTEN_TCP", udp = "TW_LISTEN_UDP" }

local function overlap(a, b)
   if a.port ~= b.port or (a.protocol == "udp") ~= (b.protocol == "udp") then return false end
   return a.family == b.family and a.bytes == b.bytes and a.scope == b.scope
end

-- The handle of a name: that of the listener which runs there and is declared anew, or a new one.
local function handle_of(name, address)
   local running = model.find(model.running.listeners, "name", name)
   if running then
      local state = model.running.state[running]
      if state.protocol == address.protocol and overlap(state.address, address) then return running end
   end
   local index = model.free_index("listeners", C.TW_LISTENERS_MAX)
   return index and setmetatable({ name = name, index = index }, Listener)
end

--- Is it a name for a listener, a group, a chain?
---@param name any
---@return string? err
function M.wrong_name(name)
   if type(name) == "string" and name:find "^[%w_][%w_%-%.]*$" and #name < C.TW_NAME_LEN then return nil end
   return ("the name is a word of letters, digits, _ - and . (at most %d), not %s"):format(C.TW_NAME_LEN - 1,
      type(name) == "string" and ("%q"):format(name) or tostring(name))
end

--- Declare a listener: `tw.listen("web", "http://0.0.0.0:8080")`, `"http://[::]:80"`, `"tcp://127.0.0.1:5000"`,
--- `"udp://0.0.0.0:53"`. It is the source of one chain, whose functions get its requests, connections or datagrams.
---@param name string name in counters and messages
---@param address string protocol, address and port; names are not resolved
---@param options? table in seconds and bytes: proxy, only_v6, backlog, connections, requests, head_bytes, body_bytes,
--- idle, head_timeout, body_timeout, send_timeout, request_timeout
---@return tideway.listener
function M.listen(name, address, options)
   local function fail(...) error(("tw.listen: %s"):format(string.format(...)), 3) end
   local wrong = M.wrong_name(name)
   if wrong then fail("%s", wrong) end
   model.writable(("tw.listen(%q, ...)"):format(name))
   local parsed, err = addresses.parse(address)
   if not parsed then fail("listener %s: %s", name, err) end
   if not parsed.protocol then
      fail("listener %s: %q does not say what is spoken there; write \"http://%s\", \"tcp://%s\" or \"udp://%s\"",
         name, address, address, address, address)
   end
   local checked
   checked, err = fields.check(options, M.FIELDS, DEFAULTS[parsed.protocol])
   if not checked then fail("listener %s: %s", name, err) end
   for _, other in ipairs(model.listeners) do
      if other.name == name then fail("the name %q is taken by the listener declared at %s", name, other.where) end
      if overlap(other.address, parsed) then
         fail("listener %s: %s is that of listener %s (%s)", name, address, other.name, other.where)
      end
   end
   local listener = handle_of(name, parsed)
   if not listener then fail("%d listeners are the limit", C.TW_LISTENERS_MAX) end
   model.declare("listeners", listener, {
      address = parsed, protocol = parsed.protocol, options = checked, where = model.where(2),
   })
   return listener
end

--- Take the listener away: it takes no more connections, and what is under way ends within tw.options { drain = }.
function Listener:delete() model.remove("listeners", self) end

--- Change options: `listeners.web:set { idle = 10 }`; those that are not named stay as they are.
---@param options table as in tw.listen()
---@return tideway.listener self
function Listener:set(options)
   local checked, err = fields.change(self.options, options, M.FIELDS)
   if not checked then error(("listener %s: %s"):format(self.name, err), 2) end
   model.edit(self).options = checked
   return self
end

local function ms(seconds) return math.max(1, math.floor(seconds * 1000 + 0.5)) end

--- What the gate is told of a listener.
---@param listener tideway.listener
---@param state table
---@param service integer its chain's number
---@param out ffi.cdata* struct tw_listener_spec, all zero
function M.fill(listener, state, service, out)
   local o = state.options
   require("ffi").copy(out.name, listener.name)
   addresses.fill(out.address, state.address)
   out.protocol, out.service = C[PROTOCOL[state.protocol]], service
   out.proxy, out.only_v6 = o.proxy and 1 or 0, o.only_v6 and 1 or 0
   out.backlog, out.connections, out.requests = o.backlog, o.connections, o.requests
   out.head_bytes, out.body_bytes = o.head_bytes, o.body_bytes
   out.idle_ms, out.head_ms, out.body_ms = ms(o.idle), ms(o.head_timeout), ms(o.body_timeout)
   out.send_ms, out.request_ms = ms(o.send_timeout), ms(o.request_timeout)
end

--- Is it a listener?
function M.is_listener(value) return getmetatable(value) == Listener end

return M
