-- SPDX-License-Identifier: BSD-3-Clause
-- What is known of a message besides head and body: the connection, times, and what functions leave for each other.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local address = require "tideway.packet.address"
local block = require "tideway.message.block"
local in6 = require "tideway.packet.in6"

local C = abi.C
local M = { get = {} }
local get = M.get
local raise, damaged = block.raise, block.damaged
local in6_p = ffi.typeof "const struct tw_in6 *"

-- Addresses as text, those seen last. Their keys are no integers: LuaJIT does not compile tables that have both few
-- and far ones.
local TEXTS_MAX = 4096
local texts, n_texts = {}, 0

local function ip4_text(raw)
   local number = raw[0] * 2 ^ 24 + raw[1] * 65536 + raw[2] * 256 + raw[3] + 0.5
   local text = texts[number]
   if text then return text end
   if n_texts >= TEXTS_MAX then texts, n_texts = {}, 0 end
   text = address.ip4_string(number - 0.5)
   texts[number], n_texts = text, n_texts + 1
   return text
end

local function text_of(family, raw)
   if family == 4 then return ip4_text(raw) end
   if family ~= 6 then return nil end
   return in6.format(ffi.cast(in6_p, raw)[0])
end

local function view(self)
   local v = self.v
   if v.size == 0 then damaged(v) end
   return v.m
end

function get.peer(self)
   local m = view(self)
   return text_of(m.family, m.peer)
end

function get.local_address(self)
   local m = view(self)
   return text_of(m.family, m["local"])
end

function get.peer_port(self) return view(self).peer_port end
function get.local_port(self) return view(self).local_port end
function get.listener(self)
   local number = view(self).listener
   return self.fn.listeners[number] or number
end
function get.received(self) return (tonumber(view(self).received_ns)) end
function get.received_at(self) return (tonumber(view(self).wall_ns)) end
function get.id(self) return (tonumber(view(self).id)) end
function get.retries(self) return view(self).retries end
function get.server(self) return view(self).server end
function get.backward(self) return bit.band(view(self).flags, C.TW_MSG_BACKWARD) ~= 0 end
function get.last(self) return bit.band(view(self).flags, C.TW_MSG_LAST) ~= 0 end
function get.upgrade(self) return bit.band(view(self).flags, C.TW_MSG_UPGRADE) ~= 0 end
function get.has_body(self) return bit.band(view(self).flags, C.TW_MSG_BODY) ~= 0 end

local FIXED = { __newindex = function() raise "msg.trailers cannot be written to" end }

--- Fields behind a chunked body (RFC 9110 6.5), by name in lower case; those of one name joined by ", ".
function get.trailers(self)
   local text, fields = view(self).trailers, {}
   if text.len > 0 then
      for name, value in block.bytes(self.v, text.at, text.len):gmatch "([^:\r\n]+):[ \t]*([^\r\n]-)[ \t]*\r\n" do
         name = name:lower()
         fields[name] = fields[name] and fields[name] .. ", " .. value or value
      end
   end
   return setmetatable(fields, FIXED)
end

-- ---- numbers that functions leave for each other ----

local VALUES = C.TW_MSG_VALUES

local function slot(i)
   if type(i) ~= "number" or i < 1 or i > VALUES or i % 1 ~= 0 then
      raise(("value %s: a message has values 1 to %d"):format(tostring(i), VALUES))
   end
   return i - 1
end

--- A number that a function before left in this message.
---@param i integer 1 to 8
---@return number 0 when none did
function M.value(self, i) return (tonumber(view(self).value[slot(i)])) end

--- Leave a number for the functions behind this one.
---@param i integer 1 to 8
---@param number integer 0 to 2^53
function M.set_value(self, i, number)
   block.writable(self)
   if type(number) ~= "number" or not (number >= 0 and number <= 2 ^ 53) or number % 1 ~= 0 then
      raise(("value %s: it must be an integer from 0 to 2^53, not %s"):format(tostring(i), tostring(number)))
   end
   view(self).value[slot(i)] = number
end

-- ---- what an instance keeps for an exchange ----

local STATES_MAX = 4096

--- Tables by exchange, of one function; the oldest goes when there are too many.
function M.states() return { of = {}, ring = {}, at = 0 } end

-- The new one goes in before the old one goes out, and one whose exchange is over is `false` until then: a table of
-- LuaJIT that is full to the last place is sorted anew for each name that comes (80 us with so many).
function get.state(self)
   local states = self.fn.states
   local id = get.id(self) + 0.5
   local state = states.of[id]
   if state then return state end
   state = {}
   local at = states.at % STATES_MAX + 1
   local old = states.ring[at]
   states.ring[at], states.at, states.of[id] = id, at, state
   if old and old ~= id then states.of[old] = nil end
   return state
end

--- The exchange is over for this function.
---@param states table
---@param id number
function M.forget(states, id)
   id = id + 0.5
   if states.of[id] then states.of[id] = false end
end

return M
