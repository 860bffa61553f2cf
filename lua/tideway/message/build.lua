-- SPDX-License-Identifier: BSD-3-Clause
-- Messages that functions make: responses, and requests to upstreams; each in a new block.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local block = require "tideway.message.block"
local body = require "tideway.message.body"
local headers = require "tideway.message.headers"

local C = abi.C
local M = {}
local raise = block.raise
local bytes_p, msg_p = ffi.typeof "uint8_t *", ffi.typeof "struct tw_msg *"
local size_box = ffi.new "uint32_t[1]"
local HEAD = bit.band(block.HEAD + 7, bit.bnot(7))
local HEADER = ffi.sizeof "struct tw_header"
local SLACK = 512 -- what is added to it later
local BLOCK_MAX = body.BLOCK_MAX
local NONE = ffi.new "uint64_t"

-- Of one connection, or written by the gate: left out of headers that are given all at once (RFC 9110 7.6.1).
local LEFT_OUT = {
   ["connection"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["transfer-encoding"] = true,
   ["te"] = true, ["trailer"] = true, ["upgrade"] = true, ["content-length"] = true,
}

local function each(list, fn, a, b)
   if list == nil then return a, b end
   if type(list) ~= "table" then raise(("headers must be a table, not %s"):format(type(list))) end
   for name, value in pairs(list) do
      if type(name) == "number" then
         if type(value) ~= "table" then
            raise(("headers[%d] must be { name, value }, not %s"):format(name, type(value)))
         end
         a, b = fn(value[1], value[2], a, b)
      elseif type(value) == "table" then
         for _, one in ipairs(value) do a, b = fn(name, one, a, b) end
      else
         a, b = fn(name, value, a, b)
      end
   end
   return a, b
end

local function measure(name, value, count, size)
   if type(name) ~= "string" then raise(("a header's name must be a string, not %s"):format(type(name))) end
   return count + 1, size + #name + #tostring(value)
end

local function put_one(name, value, made, typed)
   local lower = name:lower()
   if not LEFT_OUT[lower] then headers.append(made, name, value) end
   return made, typed or lower == "content-type"
end

--- A message object for a message of this kind in a block of its own. It belongs to the message it was made from, and
--- is freed with it unless a verdict or fetch takes it.
---@param self tideway.message
---@param kind number enum tw_msg_kind
---@param room number bytes of texts and body
---@param n number headers
---@return tideway.message made
function M.new(self, kind, room, n)
   block.writable(self)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   M.discard(self)
   local max = n + 8
   local size = HEAD + max * HEADER + room + SLACK
   if size > BLOCK_MAX then size = HEAD + max * HEADER + SLACK end
   local handle = C.tw_pool_new(self.pool, size, v.member)
   if handle == NONE then raise("no room for another message: " .. abi.error()) end
   local memory = C.tw_pool_at(self.pool, handle, v.member, size_box)
   if memory == nil then raise("no room for another message: " .. abi.error()) end
   local made = self.made
   if not made then
      made = self.make(self.pool, v.member)
      made.mine = true
      self.made = made
   end
   local w, from = made.v, v.m
   w.m, w.b, w.handle, w.size = ffi.cast(msg_p, memory), ffi.cast(bytes_p, memory), handle, size_box[0]
   made.readonly, made.fn, made.args_parsed = false, self.fn, false
   ffi.fill(memory, block.HEAD)
   local m = w.m
   m.magic, m.kind, m.version, m.gate, m.size = C.TW_MSG_MAGIC, kind, 1, from.gate, size_box[0]
   m.exchange, m.id, m.self = from.exchange, from.id, handle
   m.request = from.kind == C.TW_MSG_RESPONSE and from.request or v.handle
   m.received_ns, m.wall_ns = from.received_ns, from.wall_ns
   m.headers, m.max_headers, m.used = HEAD, max, HEAD + max * HEADER
   m.flags = bit.bor(C.TW_MSG_WHOLE, C.TW_MSG_NO_BODY)
   self.has_made = true
   return made
end

--- Free what was made and not used.
function M.discard(self)
   if not self.has_made then return end
   self.has_made = false
   local w = self.made.v
   if self.made.lent then body.take_back(self.made) end
   C.tw_pool_free(self.pool, w.handle, w.member)
   w.m, w.b, w.size, w.handle = block.nothing, nil, 0, 0
end

--- What was made is not this message's any more.
---@return ffi.cdata* handle
function M.release(self)
   self.has_made = false
   local w = self.made.v
   local handle = w.handle
   if self.made.lent then body.give(self.made) end
   w.m, w.b, w.size, w.handle = block.nothing, nil, 0, 0
   return handle
end

--- What was made goes to the gate with the message that names it.
---@return ffi.cdata* handle
function M.hand_over(self)
   local w = self.made.v
   local gate = w.m.gate
   local handle = M.release(self)
   if gate ~= w.member then C.tw_pool_give(self.pool, handle, w.member, gate) end
   return handle
end

local function text_of(what, text)
   if not text then return "" end
   if type(text) == "number" then text = tostring(text) end
   if type(text) ~= "string" then raise(("%s must be a string, not %s"):format(what, type(text))) end
   return text
end

--- A response with these headers and body.
---@param status integer 200 to 599
---@param list table? { Name = "value", Other = { "two", "values" }, { "Name", "value" } }
---@param text string?
---@return tideway.message
function M.response(self, status, list, text)
   if type(status) ~= "number" or status < 200 or status > 599 or status % 1 ~= 0 then
      raise(("status %s: it must be from 200 to 599"):format(tostring(status)))
   end
   text = text_of("the body", text)
   local n, room = each(list, measure, 0, 0)
   local made = M.new(self, C.TW_MSG_RESPONSE, room + #text, n)
   made.v.m.status = status
   local _, typed = each(list, put_one, made, false)
   if #text > 0 then
      if not typed then headers.append(made, "Content-Type", "text/plain; charset=utf-8") end
      body.set_body(made, text)
   end
   return made
end

--- A request to an upstream group.
---@param ask table method, path, host, headers, body: all of them checked by who asks
---@return tideway.message
function M.request(self, ask)
   local text = text_of("body", ask.body)
   local n, room = each(ask.headers, measure, 0, 0)
   local made = M.new(self, C.TW_MSG_REQUEST, room + #text + #ask.path + #ask.host + #ask.method, n)
   local m = made.v.m
   m.method.at, m.method.len = block.put(made, ask.method), #ask.method
   m.target.at, m.target.len = block.put(made, ask.path), #ask.path
   if ask.method == "HEAD" then m.flags = bit.bor(m.flags, C.TW_MSG_HEAD) end
   if ask.host ~= "" then headers.append(made, "Host", ask.host) end
   each(ask.headers, put_one, made, true)
   if #text > 0 then body.set_body(made, text) end
   return made
end

return M
