-- SPDX-License-Identifier: BSD-3-Clause
-- The other end of the control socket, for commands and specs: find an instance, ask, take what is streamed.
--
--    local c = assert(client.open())            -- the instance started last; client.open "edge"
--    local reply = c:call("graph", { "dot" })   -- { ok, value or view, error }
--    c:eval("for i = 1, 3 do print(i) end", { event = function(kind, data) ... end })

local posix = require "tideway.posix"
local protocol = require "tideway.control.protocol"
local rundir = require "tideway.rundir"
local socket = require "tideway.posix.socket"

local M = {}

---@class tideway.control.client
---@field fd integer
---@field instance tideway.instance?
local Client = {}
Client.__index = Client

--- The instance of this name, or the youngest that runs.
---@param name? string
---@return tideway.instance? instance
---@return string? error
function M.find(name)
   local names = {}
   for _, instance in ipairs(rundir.instances()) do
      if instance.alive then
         if not name or instance.name == name then return instance end
         names[#names + 1] = instance.name
      end
   end
   if #names == 0 then
      return nil, ("no instance runs (looked in %s); start one: tideway run SCRIPT"):format(
         table.concat(rundir.bases(), ", "))
   end
   return nil, ("no instance named '%s' runs; these do: %s"):format(name, table.concat(names, ", "))
end

--- Connect to a socket.
---@param path string
---@return tideway.control.client? client
---@return string? error
---@return integer? errno
function M.connect(path)
   local fd, err, errno = socket.connect(path)
   if not fd then return nil, err, errno end
   return setmetatable({ fd = fd, decoder = protocol.decoder(), last = 0, replies = {}, events = {} }, Client)
end

local EACCES, ENOENT, ECONNREFUSED, EAGAIN = 13, 2, 111, 11

local REASONS = {
   [EACCES] = "you may not: only root and the engine's own user have a role; its script gives others one with "
      .. "tw.control { view = { \"name\" } }",
   [ENOENT] = "it has no control socket; it is starting, stopping, or an older version",
   [ECONNREFUSED] = "nobody listens; it is stopping, or it was killed",
   [EAGAIN] = "it does not answer",
}

--- Connect to an instance and say hello.
---@param which? string|tideway.instance default: the youngest that runs
---@param seconds? number for its answer, default 5
---@return tideway.control.client? client with `instance`, and `hello` as the instance said it
---@return string? error
---@return integer? errno when nobody listens there
function M.open(which, seconds)
   local instance, err = which, nil
   if type(which) ~= "table" then instance, err = M.find(which) end
   if not instance then return nil, err end
   local self, errno
   self, err, errno = M.connect(instance.dir .. "/control")
   if not self then
      return nil, ("cannot connect to instance '%s' (pid %d): %s"):format(instance.name, instance.pid,
         REASONS[errno] or err), errno ~= EACCES and errno or nil
   end
   self.instance = instance
   local reply = self:request({ op = "hello" }, { seconds = seconds or 5 })
   if not reply.ok then
      self:close()
      return nil, ("instance '%s' (pid %d): %s"):format(instance.name, instance.pid, reply.error)
   end
   self.hello = reply.value
   return self
end

--- Close the connection; what runs for it is stopped.
function Client:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

local function gone(self, why)
   self.closed = self.closed or why
   self:close()
end

--- Send a request and go on.
---@param message table with op; it gets an id
---@return integer? id
---@return string? error
function Client:send(message)
   self.last = self.last + 1
   message.id = self.last
   local frame, err = protocol.encode(message)
   if not frame then return nil, "the request cannot be sent: " .. err end
   return self:send_bytes(frame) and self.last, self.closed
end

--- Send bytes as they are.
---@param bytes string
---@return boolean ok
function Client:send_bytes(bytes)
   local from = 0
   while self.fd and from < #bytes do
      local n, err = socket.send(self.fd, bytes, from, true)
      if not n then
         self:receive() -- it may have said why
         gone(self, "the engine closed the connection: " .. err)
         return false
      end
      from = from + n
   end
   return self.fd ~= nil
end

local function take(self, message)
   if message.record then
      table.insert(self.events, { id = message.id, kind = "record", data = message.record })
   elseif message.event then
      table.insert(self.events, {
         id = message.id, kind = message.event, data = message.text or message.note, dropped = message.dropped,
      })
   elseif message.id then
      self.replies[message.id] = message
   else
      self.closed = message.error
   end
end

--- Take what has come, without waiting: replies to self.replies[id], what is streamed to self.events.
---@return boolean open
function Client:receive()
   while self.fd do
      local data, n, errno = socket.receive(self.fd)
      if not data then
         if errno ~= socket.EAGAIN then gone(self, "the engine closed the connection: " .. n) end
         break
      elseif n == 0 then
         gone(self, "the engine closed the connection")
         break
      end
      self.decoder:feed(data, n)
      while true do
         local message, err = self.decoder:next()
         if err then
            gone(self, "the engine does not speak this protocol: " .. err)
            break
         end
         if not message then break end
         take(self, message)
      end
   end
   return self.fd ~= nil
end

local function give_events(self, id, on_event)
   local list, others = self.events, {}
   self.events = {}
   for _, event in ipairs(list) do
      if event.id ~= id then
         others[#others + 1] = event
      elseif on_event then
         on_event(event.kind, event.data, event)
      end
   end
   for _, event in ipairs(self.events) do others[#others + 1] = event end
   self.events = others
end

---@class tideway.control.wait
---@field event? fun(kind: "out"|"record"|"note", data: any, event: table) takes what is streamed
---@field seconds? number wait at most so long, then cancel
---@field fds? integer[] other descriptors to wait for
---@field ready? fun(ready: table<integer, boolean>) one of them can be read, or 0.2 s are over

--- Wait for the reply to a request.
---@param id integer
---@param options? tideway.control.wait
---@return table reply { ok, value or view, error }
function Client:wait(id, options)
   options = options or {}
   local due = options.seconds and posix.now() + options.seconds * 1e9
   while true do
      self:receive()
      give_events(self, id, options.event)
      local reply = self.replies[id]
      if reply then
         self.replies[id] = nil
         return reply
      end
      if not self.fd then return { id = id, ok = false, error = self.closed, gone = true } end
      if due and posix.now() >= due then
         self:cancel(id)
         return { id = id, ok = false, error = ("no answer for %g s"):format(options.seconds) }
      end
      local fds = { self.fd, unpack(options.fds or {}) }
      local ready = posix.poll(fds, due and math.max(1, math.min(200, math.ceil((due - posix.now()) / 1e6))) or 200)
      if options.ready then options.ready(ready) end
   end
end

--- Ask, and wait for the reply.
---@param message table
---@param options? tideway.control.wait
---@return table reply
function Client:request(message, options)
   local id, err = self:send(message)
   if not id then return { ok = false, error = err, gone = self.fd == nil } end
   return self:wait(id, options)
end

--- Call a command.
---@param name string
---@param args? any[]
---@param options? tideway.control.wait
---@return table reply
function Client:call(name, args, options)
   return self:request({ op = "call", name = name, args = args }, options)
end

--- Evaluate Lua.
---@param code string
---@param options? tideway.control.wait
---@return table reply
function Client:eval(code, options) return self:request({ op = "eval", code = code }, options) end

--- What could stand at the end of a text.
---@param text string
---@return string[]
function Client:complete(text)
   local reply = self:request({ op = "complete", text = text }, { seconds = 2 })
   return reply.ok and reply.value or {}
end

--- Ask a request to stop; its own reply says that it did.
---@param id integer
function Client:cancel(id) self:send { op = "cancel", target = id } end

return M
