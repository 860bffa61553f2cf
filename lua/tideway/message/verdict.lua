-- SPDX-License-Identifier: BSD-3-Clause
-- What a function decides about a message. Each of these returns the verdict, which the function returns in turn; the
-- runner writes it into the message.

local bit = require "bit"
local coroutine = require "coroutine"
local ffi = require "ffi"
local abi = require "tideway.abi"
local block = require "tideway.message.block"
local body = require "tideway.message.body"
local build = require "tideway.message.build"

local C = abi.C
local M = {}
local raise, put, checked = block.raise, block.put, block.checked
local yield, running = coroutine.yield, coroutine.running

--- Why a coroutine of the runner gives way.
M.SLEEP, M.FETCH, M.IDLE = 1, 2, 3

local function here(self)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   return v.m
end

-- Notes the verdict; the token to return.
local function decide(self, kind, exit)
   self.verdict_kind, self.verdict_exit = kind, exit
   return self.verdict
end

local function answerable(self, what, otherwise)
   block.writable(self)
   local kind = here(self).kind
   if kind ~= C.TW_MSG_REQUEST and kind ~= C.TW_MSG_RESPONSE then
      raise(("%s is for requests and responses%s"):format(what, otherwise))
   end
end

--- Answer the request (or replace the response) and end the chain.
---@param status integer 200 to 599
---@param list? table headers: { Name = "value", Other = { "two", "values" }, { "Name", "value" } }; those of one
--- connection and Content-Length are left out, the gate writes its own
---@param text? string body
---@return tideway.message.verdict
function M.respond(self, status, list, text)
   answerable(self, "msg:respond", "; streams and datagrams have msg:reply")
   build.response(self, status, list, text)
   return decide(self, C.TW_V_RESPOND, C.TW_EXIT_GATE)
end

--- A response to fill: `local r = msg:respond_message(200); r:add_header(...); r:set_body(...); return msg:send(r)`.
---@param status integer
---@return tideway.message response
function M.respond_message(self, status)
   answerable(self, "msg:respond_message", "")
   return build.response(self, status, nil, nil)
end

--- Answer with what respond_message() made.
---@param response tideway.message
---@return tideway.message.verdict
function M.send(self, response)
   if not self.has_made or response ~= self.made then
      raise "msg:send wants what the same message's msg:respond_message returned, once"
   end
   return decide(self, C.TW_V_RESPOND, C.TW_EXIT_GATE)
end

local function names(list)
   local out = {}
   for name in pairs(list) do out[#out + 1] = name end
   table.sort(out)
   return #out > 0 and table.concat(out, ", ") or "none"
end

--- To a function that the chain declared aside: chain:route("name", nf).
---@param name string
---@return tideway.message.verdict
function M.route(self, name)
   here(self)
   local exit = self.fn.routes[name]
   if not exit then
      raise(("there is no route %q; there are: %s"):format(tostring(name), names(self.fn.routes)))
   end
   return decide(self, C.TW_V_NONE, exit)
end

local function key_of(key)
   if type(key) == "number" then key = tostring(key) end
   if type(key) ~= "string" then raise(("the key must be a string or a number, not %s"):format(type(key))) end
   return C.tw_text_key(key, #key)
end

local function group_of(self, name)
   if type(name) == "table" and type(name.index) == "number" then return name.index end
   local group = self.fn.groups[name]
   if not group then
      raise(("there is no upstream group %q; there are: %s"):format(tostring(name), names(self.fn.groups)))
   end
   return group
end

--- To a server of an upstream group, past the functions behind this one.
---@param group string|table a tw.upstream, or its name
---@param key? string|number for balance = "hash"
---@return tideway.message.verdict
function M.upstream(self, group, key)
   block.writable(self)
   local m = here(self)
   if m.kind == C.TW_MSG_RESPONSE or m.kind == C.TW_MSG_DATA then
      raise "msg:upstream is for requests, connections and datagrams"
   end
   m.group = group_of(self, group)
   if key ~= nil then m.key = key_of(key) end
   return decide(self, C.TW_V_UPSTREAM, C.TW_EXIT_GATE)
end

-- As much of a reason as there is room for.
local function put_why(self, text)
   local v = self.v
   local m = v.m
   local used, size = m.used, v.size
   local left = used <= size and size - used or 0
   if #text > left then text = text:sub(1, left) end
   m.why.len = 0
   if #text == 0 or used < block.HEAD then return end
   m.why.at, m.why.len = put(self, text), #text
end
M.put_why = put_why

--- Close the connection without a word; a datagram is thrown away.
---@param reason? string for the counters and the log
---@return tideway.message.verdict
function M.drop(self, reason)
   here(self)
   if not self.readonly then put_why(self, reason == nil and "" or tostring(reason):sub(1, 200)) end
   return decide(self, C.TW_V_DROP, C.TW_EXIT_GATE)
end

--- Bytes back to who sent the datagram or stream. Without `on` nothing goes on.
---@param bytes string
---@param on? string of a piece of a stream: bytes that go on, to the functions behind and the other end; "": none
---@return tideway.message.verdict
function M.reply(self, bytes, on)
   block.writable(self)
   local m = here(self)
   local kind = m.kind
   if kind ~= C.TW_MSG_DATAGRAM and kind ~= C.TW_MSG_DATA and kind ~= C.TW_MSG_OPEN then
      raise "msg:reply is for datagrams and streams; a request is answered with msg:respond"
   end
   if on == nil then
      m.n_on = 0
      body.set_bytes(self, bytes)
   else
      if kind ~= C.TW_MSG_DATA then raise "msg:reply: only of a piece of a stream something can go on besides" end
      body.set_reply(self, bytes, on)
   end
   return decide(self, C.TW_V_REPLY, C.TW_EXIT_GATE)
end

-- ---- holding ----

local function suspended(self, what)
   here(self)
   local runner = self.runs
   if not runner or not running() then raise(("%s works only inside of an NF's functions"):format(what)) end
   if runner.n_held >= runner.HELD_MAX then
      raise(("%s: %d messages are held already"):format(what, runner.n_held))
   end
end

--- Hold this message for so long; others go on meanwhile.
---@param seconds number 0 to 3600
function M.sleep(self, seconds)
   suspended(self, "msg:sleep")
   if type(seconds) ~= "number" or not (seconds >= 0 and seconds <= 3600) then
      raise(("msg:sleep: %s seconds; it can be from 0 to 3600"):format(tostring(seconds)))
   end
   yield(M.SLEEP, seconds)
end

local FETCH_KEYS = { upstream = true, key = true, method = true, path = true, host = true, headers = true, body = true }

--- Ask an upstream group while this message is held.
---@param ask { upstream: string, key?: string, method?: string, path?: string, host?: string, headers?: table,
--- body?: string } GET / unless it says otherwise; the host is the request's
---@return { status: integer, headers: table<string, string>, body: string }? answer headers by name in lower case, the
--- first of a name
---@return string? err why there is none
function M.fetch(self, ask)
   suspended(self, "msg:fetch")
   block.writable(self)
   if type(ask) ~= "table" then raise "msg:fetch { upstream = \"group\", path = \"/\", ... }" end
   for name in pairs(ask) do
      if not FETCH_KEYS[name] then raise(("msg:fetch: there is no %q; there are: %s"):format(tostring(name),
         names(FETCH_KEYS))) end
   end
   local group = group_of(self, ask.upstream)
   local key = ask.key ~= nil and key_of(ask.key) or 0
   local made = build.request(self, {
      method = checked("method", ask.method or (ask.body and "POST" or "GET"), C.TW_TEXT_TOKEN),
      path = checked("path", ask.path or "/", C.TW_TEXT_TARGET),
      host = checked("host", ask.host or (here(self).kind == C.TW_MSG_REQUEST and self.host) or "", C.TW_TEXT_HOST),
      headers = ask.headers, body = ask.body,
   })
   local m = made.v.m
   m.verdict, m.group, m.key, m.request = C.TW_V_FETCH, group, key, self.v.handle
   return yield(M.FETCH)
end

--- What the gate's answer to a fetch says.
---@param answer tideway.message
---@return table? answer
---@return string? err
function M.read_answer(answer)
   local m = answer.v.m
   if bit.band(m.flags, C.TW_MSG_NO_BODY) ~= 0 and m.why.len > 0 then
      return nil, block.bytes(answer.v, m.why.at, m.why.len)
   end
   local list = {}
   for name, value in answer:each_header() do
      name = name:lower()
      if list[name] == nil then list[name] = value end
   end
   return { status = tonumber(ffi.cast("uint32_t", m.status)), headers = list, body = answer.body or "" }
end

return M
