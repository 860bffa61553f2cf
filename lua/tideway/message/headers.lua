-- SPDX-License-Identifier: BSD-3-Clause
-- Headers of a message: in order of arrival, found by name without regard to case (RFC 9110 5.1).

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local block = require "tideway.message.block"

local C = abi.C
local M = {}
local bytes, room, put, raise, checked = block.bytes, block.room, block.put, block.raise, block.checked
local header_p = ffi.typeof "struct tw_header *"
local HEADER = ffi.sizeof "struct tw_header"
local MAX = C.TW_HEADERS_MAX
local TOKEN, VALUE = C.TW_TEXT_TOKEN, C.TW_TEXT_VALUE
local GROWTH = 16

-- Names that NFs ask for: few, and the same again and again; what makes new ones all the time starts the table anew.
local KEYS_MAX = 1024
local keys, n_keys = {}, 0

-- Decide where a message ends: the gate's.
local FRAMING = { ["content-length"] = true, ["transfer-encoding"] = true }

---@return { lower: string, len: number, hash: number, name: string }
local function new_key(name)
   if type(name) ~= "string" or name == "" then
      raise(("a header's name must be a string, not %s"):format(name == "" and "empty" or type(name)))
   end
   checked("header name", name, TOKEN)
   if n_keys >= KEYS_MAX then keys, n_keys = {}, 0 end
   local lower = name:lower()
   local key = { name = name, lower = lower, len = #name, hash = C.tw_header_hash(lower, #lower) }
   keys[name], n_keys = key, n_keys + 1
   return key
end

--- The table of headers; checked with its number of entries.
local function rows(v)
   local m, size = v.m, v.size
   local at, n = m.headers, m.n_headers
   if n == 0 then return nil, 0 end
   if n > MAX or at > size or n * HEADER > size - at or bit.band(at, 3) ~= 0 then block.damaged(v) end
   return ffi.cast(header_p, v.b + at), n
end
M.rows = rows

local function find(v, key, from)
   local i = C.tw_msg_find(v.m, v.size, key.lower, key.len, key.hash, from)
   if i == -2 then block.damaged(v) end
   return i
end

local function value_at(v, i)
   local list, n = rows(v)
   if i >= n then block.damaged(v) end
   local text = list[i].value
   return bytes(v, text.at, text.len)
end

--- Value of the first header of that name.
---@param name string any case
---@return string? value nil: there is none
function M.header(self, name)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   local i = find(v, keys[name] or new_key(name), 0)
   if i < 0 then return nil end
   return value_at(v, i)
end

--- Values of all headers of that name, in order (RFC 9110 5.3).
---@param name string any case
---@return string[] a new table, empty when there is none
function M.headers_of(self, name)
   local v, key, list = self.v, keys[name] or new_key(name), {}
   if v.size == 0 then block.damaged(v) end
   local i = find(v, key, 0)
   while i >= 0 do
      list[#list + 1] = value_at(v, i)
      i = find(v, key, i + 1)
   end
   return list
end

-- ---- all of them ----

local function step(state)
   local self = state.self
   local v = self.v
   local list, n = rows(v)
   local i = state.i
   while i < n do
      local name = list[i].name
      local len = name.len
      if len > 0 then
         local value = list[i].value
         state.i = i + 1
         return bytes(v, name.at, len), bytes(v, value.at, value.len)
      end
      i = i + 1
   end
   state.busy = false
   return nil
end

--- All headers in order: `for name, value in msg:each_header() do`. Names as they were received.
---@return function, table
function M.each_header(self)
   local state = self.iteration
   if not state or state.busy then
      state = { self = self, i = 0 }
      self.iteration = state
   end
   state.i, state.busy = 0, true
   return step, state
end

-- ---- writing ----

local function edited(m) m.flags = bit.bor(m.flags, C.TW_MSG_EDITED) end

-- Throws removed entries out; the number of those that stay.
local function compact(list, n)
   local to = 0
   for from = 0, n - 1 do
      if list[from].name.len > 0 then
         if from ~= to then list[to] = list[from] end
         to = to + 1
      end
   end
   return to
end

-- Makes room for one more; the table, and the number of entries in use.
local function space(self)
   local v = self.v
   local m = v.m
   local list, n = rows(v)
   if n < m.max_headers and list then
      if (n + 1) * HEADER <= v.size - m.headers then return list, n end
   end
   if list then
      local left = compact(list, n)
      m.n_headers = left
      if left < n then return list, left end
   end
   if n >= MAX then raise(("too many headers: a message can have %d"):format(MAX)) end
   local max = math.min(n + math.max(n, GROWTH), MAX)
   -- the room in front may end at any byte, the table begins at a multiple of 8
   local at = room(self, max * HEADER + 7)
   at = bit.band(at + 7, bit.bnot(7))
   local moved = ffi.cast(header_p, v.b + at)
   for i = 0, n - 1 do moved[i] = list[i] end
   m.headers, m.max_headers = at, max
   return moved, n
end

local function value_of(name, value)
   if value == nil then raise(("header %s: the value is nil; msg:remove_header removes one"):format(name)) end
   return checked("header " .. name, value, VALUE)
end

local function put_host(m, key, at, len)
   if key.lower == "host" then m.host.at, m.host.len = at, len end
end

local function append(self, key, value)
   local v = self.v
   local name_at = put(self, key.name)
   local value_at_ = put(self, value)
   local list, n = space(self)
   local row = list[n]
   row.name.at, row.name.len = name_at, key.len
   row.value.at, row.value.len = value_at_, #value
   row.hash, row.spare = key.hash, 0
   v.m.n_headers = n + 1
   put_host(v.m, key, value_at_, #value)
   edited(v.m)
end

local function prepare(self, name)
   block.writable(self)
   if self.v.size == 0 then block.damaged(self.v) end
   local key = keys[name] or new_key(name)
   if FRAMING[key.lower] then
      raise(("%s is written by the gate; change the body with msg:set_body"):format(key.name))
   end
   return key
end

--- Add a header behind those that are there.
---@param name string a token (RFC 9110 5.6.2)
---@param value string|number without control characters (RFC 9110 5.5)
function M.add_header(self, name, value)
   append(self, prepare(self, name), value_of(name, value))
end

local function remove_from(v, key, from)
   local i, any = find(v, key, from), false
   while i >= 0 do
      local list, n = rows(v)
      if i >= n then block.damaged(v) end
      list[i].name.len, any = 0, true
      i = find(v, key, i + 1)
   end
   if any then edited(v.m) end
   return any
end

--- Give a header this value: the first one of that name keeps its place, others of it are removed.
---@param name string
---@param value string|number
function M.set_header(self, name, value)
   local key = prepare(self, name)
   value = value_of(name, value)
   local v = self.v
   local i = find(v, key, 0)
   if i < 0 then return append(self, key, value) end
   local at = put(self, value)
   local list, n = rows(v)
   if i >= n then block.damaged(v) end
   local text = list[i].value
   text.at, text.len = at, #value
   put_host(v.m, key, at, #value)
   edited(v.m)
   remove_from(v, key, i + 1)
end

--- Remove all headers of that name.
---@param name string
---@return boolean any there were some
function M.remove_header(self, name)
   block.writable(self)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   local key = keys[name] or new_key(name)
   if key.lower == "host" then raise "Host cannot be removed (RFC 9112 3.2); set msg.host" end
   return remove_from(v, key, 0)
end

--- For messages that are made here: no check of who may write.
M.append = function(self, name, value)
   append(self, keys[name] or new_key(name), value_of(name, value))
end

return M
