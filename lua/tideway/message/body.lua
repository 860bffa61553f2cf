-- SPDX-License-Identifier: BSD-3-Clause
-- The body of a message, or the bytes of a piece or datagram: joined when somebody asks, replaced as a whole.

local ffi = require "ffi"
local bit = require "bit"
local buffer = require "string.buffer"
local abi = require "tideway.abi"
local block = require "tideway.message.block"

local C = abi.C
local M = { get = {} }
local get = M.get
local raise, damaged = block.raise, block.damaged
local ffi_string, ffi_copy = ffi.string, ffi.copy
local bytes_p = ffi.typeof "uint8_t *"
local size_box = ffi.new "uint32_t[1]"
local LIMIT = C.TW_BODY_BLOCKS_MAX
local BLOCK_MAX = 1048576 -- bytes of the largest block of a pool
M.BLOCK_MAX = BLOCK_MAX
local NONE = ffi.new "uint64_t"

local function entries(m, v)
   local n = m.n_body
   if n > LIMIT then damaged(v) end
   return n
end

-- Memory of a piece, checked.
local function piece(self, v, i)
   local entry = v.m.body[i]
   local handle, at, len = entry.handle, entry.at, entry.len
   local base, size = v.b, v.size
   if handle ~= NONE and handle ~= v.handle then
      local memory = C.tw_pool_peek(self.pool, handle, size_box)
      if memory == nil then damaged(v) end
      base, size = ffi.cast(bytes_p, memory), size_box[0]
   end
   if at > size or len > size - at then damaged(v) end
   return base + at, len
end

--- Is all of it here? A message without a body has a whole one, which is empty.
local function is_whole(m)
   local flags, kind = m.flags, m.kind
   if kind == C.TW_MSG_DATA or kind == C.TW_MSG_DATAGRAM then return true end
   return bit.band(flags, C.TW_MSG_BODY) == 0 or bit.band(flags, C.TW_MSG_WHOLE) ~= 0
end

local function join(self)
   local v = self.v
   if v.size == 0 then damaged(v) end
   local m = v.m
   if not is_whole(m) then return nil end
   local n = entries(m, v)
   if n == 0 then return "" end
   if n == 1 then return (ffi_string(piece(self, v, 0))) end
   local out = buffer.new()
   for i = 0, n - 1 do out:putcdata(piece(self, v, i)) end
   return out:get()
end

get.body, get.bytes = join, join

--- Bytes of the body. Nil: not known before its end (chunked), or it does not come this way.
---@return number?
function M.body_size(self)
   local v = self.v
   if v.size == 0 then damaged(v) end
   local m = v.m
   if is_whole(m) then
      local sum = 0
      for i = 0, entries(m, v) - 1 do sum = sum + m.body[i].len end
      return sum
   end
   local len = m.body_len
   if len > 0x1fffffffffffffULL then return nil end
   return tonumber(len)
end

-- ---- writing ----

-- Blocks of the old body, which the gate frees with the rest as long as they are named behind the new one.
local function old_blocks(self, v)
   local list, n = self.old, 0
   if not list then
      list = ffi.new("uint64_t[?]", LIMIT)
      self.old = list
   end
   local body = v.m.body
   for i = 0, LIMIT - 1 do
      local handle = body[i].handle
      if handle ~= NONE and handle ~= v.handle then
         list[n] = handle
         n = n + 1
      end
   end
   return list, n
end

-- A new block with these bytes, still ours; nil and why.
local function filled(self, v, text, from, len)
   local handle = C.tw_pool_new(self.pool, len, v.member)
   if handle == NONE then return nil, abi.error() end
   local memory = C.tw_pool_at(self.pool, handle, v.member, size_box)
   if memory == nil or size_box[0] < len then
      C.tw_pool_free(self.pool, handle, v.member)
      return nil, "the pool gave a block that is too small"
   end
   ffi_copy(memory, ffi.cast("const uint8_t *", text) + from, len)
   return handle
end

--- Blocks of a body that was made here go to the gate, with the message that names them.
---@param self tideway.message
---@param n? integer the first n of them, those behind are the gate's already; nil: all
function M.give(self, n)
   self.lent = false
   local v = self.v
   local m = v.m
   local gate = m.gate
   if gate == v.member then return end
   for i = 0, (n or LIMIT) - 1 do
      local handle = m.body[i].handle
      if handle ~= NONE then C.tw_pool_give(self.pool, handle, v.member, gate) end
   end
end

--- Frees them: the message goes nowhere.
---@param self tideway.message
function M.take_back(self)
   self.lent = false
   local v = self.v
   for i = 0, LIMIT - 1 do
      local entry = v.m.body[i]
      if entry.handle ~= NONE then C.tw_pool_free(self.pool, entry.handle, v.member) end
      entry.handle = 0
   end
end

local function set_entry(entry, handle, at, len)
   entry.handle, entry.at, entry.len = handle, at, len
end

-- The bytes in blocks of their own, all of them or none.
local function put_blocks(self, v, text, n, n_old)
   local m, len = v.m, #text
   if n + n_old > LIMIT then raise(("a body of %d bytes is too large: it can have %d"):format(len,
      math.max(0, LIMIT - n_old) * BLOCK_MAX)) end
   local handles = {}
   for i = 0, n - 1 do
      local handle, err = filled(self, v, text, i * BLOCK_MAX, math.min(BLOCK_MAX, len - i * BLOCK_MAX))
      if not handle then
         for k = 0, i - 1 do C.tw_pool_free(self.pool, handles[k], v.member) end
         raise("no room for a body: " .. err)
      end
      handles[i] = handle
   end
   for i = 0, n - 1 do set_entry(m.body[i], handles[i], 0, math.min(BLOCK_MAX, len - i * BLOCK_MAX)) end
end

local ENTRIES = bit.bor(C.TW_MSG_WHOLE, C.TW_MSG_NO_BODY)

-- Requests and responses whose body does not come this way have none: what lies there is older than they are.
local function has_entries(m)
   local kind = m.kind
   return bit.band(m.flags, ENTRIES) ~= 0 or (kind ~= C.TW_MSG_REQUEST and kind ~= C.TW_MSG_RESPONSE)
end

local function write(self, text)
   local v = self.v
   local m = v.m
   local len = #text
   local old, n_old = nil, 0
   if has_entries(m) then old, n_old = old_blocks(self, v) end
   local used = m.used
   local n = 0
   if len > 0 and used <= v.size and len <= v.size - used then
      set_entry(m.body[0], 0, block.put(self, text), len)
      n = 1
   elseif len > 0 then
      n = math.ceil(len / BLOCK_MAX)
      put_blocks(self, v, text, n, n_old)
   end
   for i = 0, n_old - 1 do set_entry(m.body[n + i], old[i], 0, 0) end
   for i = n + n_old, LIMIT - 1 do m.body[i].handle = 0 end
   m.n_body, m.body_len = n, len
   if n > 0 and m.body[0].handle ~= NONE then
      self.lent = true
      -- What this function makes stays its own until it is sent.
      if not self.mine then M.give(self, n) end
   end
end

--- Replace the body by these bytes; nil or "": there is none any more. In a message whose body does not come this way,
--- what comes is thrown away.
---@param text string?
function M.set_body(self, text)
   block.writable(self)
   local v = self.v
   if v.size == 0 then damaged(v) end
   if type(text) == "number" then text = tostring(text) end
   if text ~= nil and type(text) ~= "string" then raise(("msg:set_body: the body must be a string, not %s")
      :format(type(text))) end
   local m = v.m
   write(self, text or "")
   m.trailers.at, m.trailers.len = 0, 0
   local flags = bit.bor(m.flags, C.TW_MSG_WHOLE, C.TW_MSG_EDITED)
   flags = bit.band(flags, bit.bnot(bit.bor(C.TW_MSG_CHUNKED, C.TW_MSG_BODY, C.TW_MSG_NO_BODY)))
   m.flags = bit.bor(flags, m.n_body > 0 and C.TW_MSG_BODY or C.TW_MSG_NO_BODY)
end

--- Replace the bytes of a piece of a body or stream, or of a datagram.
---@param text string
function M.set_bytes(self, text)
   block.writable(self)
   local v = self.v
   if v.size == 0 then damaged(v) end
   local kind = v.m.kind
   if kind ~= C.TW_MSG_DATA and kind ~= C.TW_MSG_DATAGRAM and kind ~= C.TW_MSG_OPEN then
      raise "msg:set_bytes is for data and datagrams; a request's or response's body is changed with msg:set_body"
   end
   if type(text) ~= "string" then raise(("msg:set_bytes: a string, not %s"):format(type(text))) end
   write(self, text)
   v.m.flags = bit.bor(v.m.flags, C.TW_MSG_EDITED)
end

-- These bytes, in n blocks of their own, before what the body has.
local function put_in_front(self, v, text, n)
   local body, used = v.m.body, v.m.n_body
   for i = used, LIMIT - 1 do
      if body[i].handle ~= NONE then used = i + 1 end
   end
   if n > LIMIT - used then raise(("a reply of %d bytes is too large"):format(#text)) end
   for i = used - 1, 0, -1 do body[i + n] = body[i] end
   for i = 0, n - 1 do set_entry(body[i], 0, 0, 0) end
   for i = 0, n - 1 do
      local len = math.min(BLOCK_MAX, #text - i * BLOCK_MAX)
      local handle, err = filled(self, v, text, i * BLOCK_MAX, len)
      if not handle then raise("no room for a reply: " .. err) end
      set_entry(body[i], handle, 0, len)
      if v.m.gate ~= v.member then C.tw_pool_give(self.pool, handle, v.member, v.m.gate) end
   end
end

--- Bytes that go back to where a piece of a stream came from, and those that go on instead of it.
---@param back string
---@param on string
function M.set_reply(self, back, on)
   if type(back) ~= "string" then raise(("msg:reply: a string, not %s"):format(type(back))) end
   M.set_bytes(self, on)
   local v = self.v
   local m = v.m
   local n_on = m.n_body
   -- They are sent at another time than what goes on, so they lie in blocks of their own.
   local n = math.ceil(#back / BLOCK_MAX)
   if n > 0 then put_in_front(self, v, back, n) end
   m.n_body, m.n_on = n + n_on, n_on
end

return M
