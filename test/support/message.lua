-- SPDX-License-Identifier: BSD-3-Clause
-- Messages in blocks of a pool, for specs of NFs: what the gate's parser would leave there, made byte by byte; and what
-- comes out behind the functions. The functions run as in a worker (tideway.message.runner).

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local message = require "tideway.message"
local runner = require "tideway.message.runner"

local C = abi.C
local M = {}

if not pcall(function() return C.tw_pool_create end) then
   ffi.cdef [[
      int tw_pool_create(struct tw_pool **pool, const char *name, uint32_t memory_mb, int owners_fd);
      void tw_pool_close(struct tw_pool *pool);
      tw_handle tw_pool_seize(struct tw_pool *pool, tw_handle handle, uint32_t member, bool lives);
      int tw_pool_take(struct tw_pool *pool, tw_handle handle, uint32_t member);
      uint64_t tw_pool_word(struct tw_pool *pool, uint32_t index);
   ]]
end

M.GATE, M.WORKER = 0, 16
local EXIT = { [0] = "next", [1] = "gate" }
local VERDICT = { [0] = "none", "respond", "upstream", "drop", "fetch", "reply", "fault" }

local Rig = {}
Rig.__index = Rig

--- A pool with a worker of one function.
---@param nf table an instance
---@param options? { routes?: table, groups?: table, member?: integer, memory_mb?: integer }
function M.rig(nf, options)
   options = options or {}
   local box = ffi.new "struct tw_pool *[1]"
   assert(C.tw_pool_create(box, "spec", options.memory_mb or 8, -1) == 0, abi.error())
   local self = setmetatable({ pool = box[0], member = options.member or M.WORKER, ids = 0, live = {} }, Rig)
   self.host = runner.host()
   self.context = runner.context({ nf = nf, name = nf.name, routes = options.routes, groups = options.groups })
   self.runner = runner.new(self.pool, self.member, { self.context }, self.host)
   return self
end

function Rig:close()
   C.tw_pool_close(self.pool)
   self.pool = nil
end

--- Blocks that are not free.
function Rig:blocks()
   local n = 0
   for i = 0, 100000 do
      local word = C.tw_pool_word(self.pool, i)
      if bit.band(bit.rshift(word, 16), 0xffff) ~= 0 then n = n + 1 end
   end
   return n
end

local size_box = ffi.new "uint32_t[1]"

local function put(at, b, text)
   ffi.copy(b + at, text, #text)
   return at + #text
end

local function set(text, at, len) text.at, text.len = at, len end

--- A message in a new block that the worker holds.
---@param spec table { kind, method, target, host, headers = { { name, value } }, body, peer = { a, b, c, d }, status,
--- room, request, flags, bytes }
---@return ffi.cdata* msg
---@return ffi.cdata* handle
function Rig:message(spec)
   local handle = C.tw_pool_new(self.pool, spec.room or 4096, self.member)
   assert(handle ~= 0, abi.error())
   local memory = C.tw_pool_at(self.pool, handle, self.member, size_box)
   local b = ffi.cast("uint8_t *", memory)
   local m = ffi.cast("struct tw_msg *", memory)
   ffi.fill(memory, size_box[0], 0xa5)
   ffi.fill(memory, ffi.sizeof "struct tw_msg")
   self.ids = self.ids + 1
   m.magic, m.kind, m.version, m.gate, m.size = C.TW_MSG_MAGIC, spec.kind or C.TW_MSG_REQUEST, 1, M.GATE, size_box[0]
   m.self, m.id, m.exchange, m.received_ns, m.wall_ns = handle, spec.id or self.ids, 7, C.tw_now(), 1700000000 * 1e9
   m.status, m.flags, m.request = spec.status or 0, spec.flags or 0, spec.request or 0
   local at = ffi.sizeof "struct tw_msg"
   local function text(where, value)
      set(where, at, #value)
      at = put(at, b, value)
   end
   if m.kind == C.TW_MSG_REQUEST then
      text(m.method, spec.method or "GET")
      text(m.target, spec.target or "/")
   end
   local list = spec.headers or {}
   if m.kind == C.TW_MSG_REQUEST and spec.host ~= false then
      list = { { "Host", spec.host or "example.org" }, unpack(list) }
   end
   m.asked = m.target
   local places = {}
   for i, pair in ipairs(list) do
      places[i] = at
      at = put(put(at, b, pair[1]), b, pair[2])
   end
   at = bit.band(at + 7, bit.bnot(7))
   m.headers, m.n_headers, m.max_headers = at, #list, #list + (spec.spare or 4)
   local rows = ffi.cast("struct tw_header *", b + at)
   for i, pair in ipairs(list) do
      local row = rows[i - 1]
      set(row.name, places[i], #pair[1])
      set(row.value, places[i] + #pair[1], #pair[2])
      row.hash = C.tw_header_hash(pair[1], #pair[1])
      if pair[1]:lower() == "host" then set(m.host, row.value.at, row.value.len) end
   end
   m.asked_host = m.host
   m.used = at + m.max_headers * ffi.sizeof "struct tw_header"
   local bytes = spec.body or spec.bytes
   if bytes then
      m.body[0].handle, m.body[0].at, m.body[0].len = 0, m.used, #bytes
      m.used = put(m.used, b, bytes)
      m.n_body, m.body_len = 1, #bytes
      if spec.body then m.flags = bit.bor(m.flags, C.TW_MSG_BODY, C.TW_MSG_WHOLE) end
   end
   local peer = spec.peer or { 192, 0, 2, 1 }
   m.family = #peer == 4 and 4 or 6
   for i, octet in ipairs(peer) do m.peer[i - 1] = octet end
   m["local"][0], m["local"][1], m["local"][2], m["local"][3] = 198, 51, 100, 1
   m.peer_port, m.local_port = 40000, 80
   return m, handle
end

-- Becomes the gate's, and is looked at as the gate sees it.
local function view(self, handle, member)
   if member ~= M.GATE then C.tw_pool_take(self.pool, handle, M.GATE) end
   return assert(message.wrap(message.attach(self.pool, M.GATE), handle))
end

--- What came out, as a table.
function Rig:outcome(desc)
   local handle = desc.handle + 0ULL
   assert(C.tw_pool_give(self.pool, handle, self.member, M.GATE) == 0)
   local msg = view(self, handle)
   local m = msg.v.m
   local out = {
      msg = msg, exit = EXIT[desc.exit] or desc.exit, verdict = VERDICT[m.verdict], group = m.group, key = m.key,
      handle = handle, raw = m, desc_key = desc.key,
   }
   if m.why.len > 0 then out.why = ffi.string(msg.v.b + m.why.at, m.why.len) end
   if out.verdict == "respond" then
      local answer = view(self, m.answer)
      out.answer, out.status, out.body = answer, answer.status, answer.body
      out.header = function(name) return answer:header(name) end
   end
   return out
end

--- Run the function on a message; what came out of it, or nil when it is held.
---@param spec table see message(), or the two values it returned
function Rig:run(spec)
   local _, handle = self:message(spec)
   return self:run_handle(handle)
end

function Rig:run_handle(handle)
   local descs = ffi.new "struct tw_desc[1]"
   descs[0].handle = handle
   self.host.n_out = 0
   self.runner:batch(descs, 1)
   return self:collect()
end

--- What the host was given, and is not taken yet.
function Rig:collect()
   local list = {}
   for i = 0, self.host.n_out - 1 do list[#list + 1] = self:outcome(self.host.out[i]) end
   self.host.n_out = 0
   return unpack(list)
end

--- Run it on a request and free what came out; the outcome's plain parts.
function Rig:request(spec)
   local out = self:run(spec)
   assert(out, "the message is held")
   return out
end

--- Free an outcome's blocks, as the gate does at the end of an exchange.
function Rig:free(out)
   for i = 0, C.TW_BODY_BLOCKS_MAX - 1 do self:free_block(out.raw.body[i].handle) end
   if out.answer then
      for i = 0, C.TW_BODY_BLOCKS_MAX - 1 do self:free_block(out.answer.v.m.body[i].handle) end
      self:free_block(out.answer.v.handle)
   end
   self:free_block(out.handle)
end

function Rig:free_block(handle)
   if handle == 0 then return end
   C.tw_pool_take(self.pool, handle, M.GATE)
   C.tw_pool_free(self.pool, handle, M.GATE)
end

return M
