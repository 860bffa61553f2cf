-- SPDX-License-Identifier: BSD-3-Clause
-- One client of the control socket: bytes to requests, replies and streams to bytes, everything bounded.
--
-- Who sends faster than is answered, or does not read what it asked for, is read no further; streams it does not take
-- are dropped and counted.

local abi = require "tideway.abi"
local loop = require "tideway.loop"
local posix = require "tideway.posix"
local protocol = require "tideway.control.protocol"
local session = require "tideway.live.session"
local socket = require "tideway.posix.socket"

local C = abi.C

local M = {
   limits = {
      requests = 8,             -- served at the same time for one client; those behind them wait in the socket
      output = 256 * 1024,      -- bytes it has not read when no more of its requests are read
      stream = 2 * 1024 * 1024, -- bytes it has not read when what is streamed is dropped
      half = 10,                -- seconds between the first and the last byte of a request; before the first one, too
      stuck = 60,               -- seconds in which it reads nothing of what waits for it
   },
}

local WRITE_TURN = 512 * 1024 -- bytes in one turn of the loop, so that one client does not hold the others

---@class tideway.control.connection
---@field fd integer
---@field peer { pid: integer, uid: integer, gid: integer, groups: integer[] }
---@field user string
---@field active table<integer, tideway.live.session> by request
---@field requests integer so far
---@field dropped integer events so far
---@field closed string? why
local Connection = {}
Connection.__index = Connection

local function now() return tonumber(C.tw_now()) / 1e9 end

--- A client that has connected.
---@param fd integer its socket, that does not wait
---@param peer table
---@param user string name of its user
---@param events { request: fun(connection, message: table), closed: fun(connection, why: string), longest: integer? }
--- longest: bytes of a request, default those of a frame
---@return tideway.control.connection
function M.new(fd, peer, user, events)
   local time = now()
   local self = setmetatable({
      fd = fd, peer = peer, user = user, uid = peer.uid, pid = peer.pid, events = events,
      decoder = protocol.decoder(events.longest), out = {}, first = 1, last = 0, sent = 0, waiting = 0,
      active = {}, busy = 0, lost = {}, requests = 0, dropped = 0, since = time, moved = time,
   }, Connection)
   self.on_ready = function(_, readable, writable) self:ready(readable, writable) end
   self:update()
   return self
end

local function may_read(self)
   local limits = M.limits
   return not self.last_words and self.busy < limits.requests and self.waiting < limits.output
end

-- Wait for what can be gone on with. Nothing at all: only its end is told.
function Connection:update()
   if self.closed then return end
   local interest = (may_read(self) and not self.decoder:complete() and "r" or "") .. (self.waiting > 0 and "w" or "")
   if interest == self.interest then return end
   self.interest = interest
   loop.watch(self.fd, interest, self.on_ready)
end

--- Close it now; what it had asked for is stopped.
---@param why string
function Connection:close(why)
   if self.closed then return end
   self.closed = why
   loop.unwatch(self.fd)
   posix.close(self.fd)
   self.out, self.waiting, self.decoder = {}, 0, protocol.decoder()
   for _, running in pairs(self.active) do session.cancel(running) end
   self.events.closed(self, why)
end

-- ---- output ----

local function flush(self)
   local budget = WRITE_TURN
   while not self.closed and self.waiting > 0 and budget > 0 do
      local text = self.out[self.first]
      local n, _, errno = socket.send(self.fd, text, self.sent)
      if not n then
         if errno ~= socket.EAGAIN and errno ~= socket.ENOBUFS then self:close "it is gone" end
         return
      end
      self.sent, self.waiting, budget, self.moved = self.sent + n, self.waiting - n, budget - n, now()
      if self.sent == #text then
         self.out[self.first], self.first, self.sent = nil, self.first + 1, 0
      end
   end
   if self.last_words and self.waiting == 0 then self:close(self.last_words) end
end

local function put(self, frame)
   if self.waiting == 0 then self.moved = now() end
   self.last = self.last + 1
   self.out[self.last] = frame
   self.waiting = self.waiting + #frame
   flush(self)
   self:update()
end

--- Send a reply. One that is too long becomes an error.
---@param message table
function Connection:reply(message)
   if self.closed or self.last_words then return end
   local lost = message.id and self.lost[message.id]
   if lost then
      message.dropped, self.lost[message.id] = lost, nil
   end
   local frame, err = protocol.encode(message)
   if not frame then
      frame = protocol.encode { id = message.id, ok = false, error = "the result cannot be sent: " .. err }
   end
   put(self, frame)
end

--- Bytes that stream() takes now.
---@return integer
function Connection:room()
   return self.closed and 0 or math.max(0, M.limits.stream - self.waiting)
end

local function event_frame(id, kind, data)
   if kind == "record" then return protocol.encode_record(id, data) end
   local message = { id = id, event = kind }
   if kind == "out" then message.text = data else message.note = data end
   return protocol.encode(message)
end

--- Send what a request streams, if there is room.
---@param id integer
---@param kind "out"|"record"|"note"
---@param data any
---@return boolean taken
function Connection:stream(id, kind, data)
   if self.closed or self.last_words then return false end
   local frame, err = event_frame(id, kind, data)
   if not frame then error(("what is streamed cannot be sent: %s"):format(err), 0) end
   if self.waiting + #frame > M.limits.stream then
      self.dropped, self.lost[id] = self.dropped + 1, (self.lost[id] or 0) + 1
      return false
   end
   local lost = self.lost[id]
   if lost then
      self.lost[id] = nil
      put(self, (protocol.encode { id = id, event = "note", dropped = lost }))
   end
   put(self, frame)
   return not self.closed
end

--- Say why, then close it.
---@param why string
function Connection:refuse(why)
   if self.closed or self.last_words then return end
   self.last_words = why
   put(self, (protocol.encode { ok = false, error = why }))
end

-- ---- input ----

--- Serve the requests that have come, as many as may run.
function Connection:advance()
   while not self.closed and may_read(self) do
      local message, err = self.decoder:next()
      if err then return self:refuse(err) end
      if not message then break end
      self.requests = self.requests + 1
      self.events.request(self, message)
   end
   if self.closed then return end
   if not self.decoder:partial() then
      self.since = nil
   else
      self.since = self.since or now()
   end
   self:update()
end

local function read(self)
   local data, n, errno = socket.receive(self.fd)
   if not data then
      if errno ~= socket.EAGAIN then self:close "it is gone" end
      return
   end
   if n == 0 then return self:close "it is gone" end
   if not self.decoder:partial() then self.since = now() end
   self.decoder:feed(data, n)
   self:advance()
end

-- Called by the loop.
function Connection:ready(readable, writable)
   if writable and self.waiting > 0 then
      flush(self)
      self:advance()
   end
   if self.closed or not readable then return end
   if self.interest:find "r" then
      read(self)
   elseif self.interest == "" then
      self:close "it is gone" -- nothing else is told without being asked for
   end
end

--- Look whether something has come, from within an evaluation of this client.
function Connection:poll()
   if not self.closed and may_read(self) and not self.decoder:complete() then read(self) end
end

--- Once a second: close it when it keeps others waiting.
function Connection:tick()
   local limits, time = M.limits, now()
   if self.closed then return end
   if self.waiting > 0 and time - self.moved > (self.last_words and 1 or limits.stuck) then
      return self:close(("it read nothing for %d s"):format(limits.stuck))
   end
   if self.since and self.interest:find "r" and time - self.since > limits.half then
      self:refuse(("no whole request came for %d s"):format(limits.half))
   end
end

return M
