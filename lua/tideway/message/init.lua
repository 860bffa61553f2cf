-- SPDX-License-Identifier: BSD-3-Clause
-- The message object: what an NF's message(), response() and data() get. See README.md.

local ffi = require "ffi"
local abi = require "tideway.abi"
local block = require "tideway.message.block"
local body = require "tideway.message.body"
local build = require "tideway.message.build"
local facts = require "tideway.message.facts"
local head = require "tideway.message.head"
local headers = require "tideway.message.headers"
local verdict = require "tideway.message.verdict"

local C = abi.C
local M = {}
local bytes_p, msg_p = ffi.typeof "uint8_t *", ffi.typeof "struct tw_msg *"
local size_box = ffi.new "uint32_t[1]"
local NONE = ffi.new "uint64_t"

---@class tideway.message.verdict what a function returns

---@class tideway.message
---@field kind "request"|"response"|"data"|"open"|"datagram"
---@field method string as received; can be set (RFC 9110 9)
---@field target string path and query as received (RFC 9112 3.2); can be set
---@field path string percent-encoded; can be set, which leaves the query as it is
---@field plain_path string for rules: decoded, without dot segments and doubled slashes
---@field query string? behind the "?"; can be set, nil removes it
---@field args table<string, string> the query's names and values, decoded
---@field host string? authority: of the target or the Host header; can be set
---@field asked_target string target as the client sent it, whatever functions made of it
---@field asked_host string? the same of the host
---@field scheme "http"|"https"
---@field version "HTTP/1.0"|"HTTP/1.1"
---@field status integer? of a response; can be set
---@field reason string of a response
---@field body string? nil: it does not come this way (see `body = "whole"`)
---@field bytes string of data and datagrams
---@field has_body boolean
---@field trailers table<string, string> fields behind a chunked body, once it is whole; data: with the last piece
---@field peer string address of the client
---@field peer_port integer
---@field local_address string
---@field local_port integer
---@field listener string name of the listener (its number when that is not known)
---@field server integer responses: number of the server in its group
---@field retries integer responses: servers that were tried before it
---@field received number ns of the monotonic clock when the first byte came
---@field received_at number ns since 1970, the same moment
---@field id number of the exchange; no other one has it while the engine runs
---@field backward boolean data: from the upstream to the client
---@field last boolean data: nothing follows
---@field upgrade boolean asks for or agrees to another protocol
---@field request tideway.message? of a response or data: what it belongs to, which can only be read
---@field state table the same for all messages of an exchange, in this instance
local methods = {
   header = headers.header, headers_of = headers.headers_of, each_header = headers.each_header,
   set_header = headers.set_header, add_header = headers.add_header, remove_header = headers.remove_header,
   body_size = body.body_size, set_body = body.set_body, set_bytes = body.set_bytes,
   value = facts.value, set_value = facts.set_value,
   respond = verdict.respond, respond_message = verdict.respond_message, send = verdict.send, route = verdict.route,
   upstream = verdict.upstream, drop = verdict.drop, reply = verdict.reply, sleep = verdict.sleep,
   fetch = verdict.fetch,
}

local get, set = {}, head.set
for _, part in ipairs { head, body, facts } do
   for name, fn in pairs(part.get) do get[name] = fn end
end

local REQUEST_READONLY = "the request of a response can only be read"
local FUNCTION_READONLY = "this function is readonly: it cannot change messages"

-- Points an object at a block that somebody has lent.
local function point(self, memory, handle, size)
   local v = self.v
   v.m, v.b, v.handle, v.size = ffi.cast(msg_p, memory), ffi.cast(bytes_p, memory), handle, size
   self.args_parsed = false
end

local make

function get.request(self)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   local handle = v.m.request
   if handle == NONE or handle == v.handle then return nil end
   local memory = C.tw_pool_peek(self.pool, handle, size_box)
   if memory == nil or size_box[0] < block.HEAD then return nil end
   local request = self.asked
   if not request then
      request = make(self.pool, v.member)
      self.asked = request
   end
   request.readonly, request.fn = REQUEST_READONLY, self.fn
   point(request, memory, handle, size_box[0])
   return request
end

local Message = {}

function Message.__index(self, key)
   local getter = get[key]
   if getter then return getter(self) end
   local method = methods[key]
   if method then return method end
   block.raise(("a message has no %q"):format(tostring(key)))
end

function Message.__newindex(self, key, value)
   local setter = set[key]
   if setter then return setter(self, value) end
   block.raise(get[key] and ("msg.%s cannot be set"):format(key)
      or ("a message has no %q; msg.state is for what an NF wants to remember"):format(tostring(key)))
end

function Message.__tostring(self)
   if self.v.size == 0 then return "message (gone)" end
   return ("message %s of exchange %.0f"):format(self.kind, self.id)
end

local NO_FUNCTION = { name = "?", routes = {}, groups = {}, listeners = {}, states = facts.states() }

-- Fields are there from the start: what is not goes through __newindex.
function make(pool, member)
   local v = block.view_t()
   v.m, v.member = block.nothing, member
   local self = {
      v = v, pool = pool, readonly = false, args_parsed = false, iteration = false, made = false, has_made = false,
      asked = false, old = false, lent = false, mine = false, fn = NO_FUNCTION, make = make, runs = false,
      verdict_kind = 0, verdict_exit = 0, verdict = { "verdict" },
   }
   return setmetatable(self, Message)
end

--- What messages are made from in this VM: a pool, and which member of it we are.
---@param pool ffi.cdata* struct tw_pool *
---@param member integer
---@return table where for wrap() and the runner
function M.attach(pool, member) return { pool = pool, member = member } end

--- A message object that stands for nothing yet; used again and again.
---@param where table
---@return tideway.message
function M.object(where) return make(where.pool, where.member) end

--- Point an object at a message that this member holds.
---@param self tideway.message
---@param handle ffi.cdata* uint64_t
---@return boolean ok false: the handle is stale, somebody else's, or there is no message
function M.take(self, handle)
   local memory = C.tw_pool_at(self.pool, handle, self.v.member, size_box)
   if memory == nil or size_box[0] < block.HEAD then return false end
   point(self, memory, handle, size_box[0])
   return self.v.m.magic == C.TW_MSG_MAGIC
end

--- A new object for one message, for tests and tools; hot paths use object() and take().
---@param where table
---@param handle ffi.cdata*
---@param fn? table the function's context
---@return tideway.message? msg
function M.wrap(where, handle, fn)
   local self = M.object(where)
   if not M.take(self, handle) then return nil end
   if fn then M.enter(self, fn) end
   return self
end

--- The object is in this function's hands from now on.
---@param self tideway.message
---@param fn table see runner.lua
function M.enter(self, fn)
   self.fn, self.readonly, self.verdict_kind = fn, fn.readonly and FUNCTION_READONLY, 0
   if self.iteration then self.iteration.busy = false end
end

--- It stands for no message any more: what was made and not used is freed.
function M.leave(self)
   build.discard(self)
   local v = self.v
   v.m, v.b, v.size, v.handle = block.nothing, nil, 0, 0
   local asked = self.asked
   if asked then
      v = asked.v
      v.m, v.b, v.size, v.handle = block.nothing, nil, 0, 0
   end
end

return M
