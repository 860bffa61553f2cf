-- SPDX-License-Identifier: BSD-3-Clause
-- The control socket of an instance: who connects, who may, how many.

local abi = require "tideway.abi"
local connection = require "tideway.control.connection"
local loop = require "tideway.loop"
local posix = require "tideway.posix"
local protocol = require "tideway.control.protocol"
local requests = require "tideway.control.requests"
local roles = require "tideway.control.roles"
local session = require "tideway.live.session"
local socket = require "tideway.posix.socket"
local user = require "tideway.posix.user"

local M = {
   limits = {
      clients = 128,
      others = 96,         -- those who are no admins: somebody who can put things right always gets in
      each_user = 32,      -- clients of one user who is no admin
      request = 64 * 1024, -- bytes of a request of one who is no admin: a command and literals
   },
}

local ACCEPT_TURN, PAUSE = 32, 0.5

local listener, path, timer, paused
local clients, count = {}, 0
local names = {} -- of users with a role, by number
local complained = {}

local function now() return tonumber(abi.C.tw_now()) / 1e9 end

-- At most one line of a kind in a second: who makes trouble must not fill the log.
local function complain(kind, ...)
   if now() < (complained[kind] or 0) then return end
   complained[kind] = now() + 1
   loop.note("control: " .. string.format(kind, ...))
end

local function too_many(peer, role)
   local limits = M.limits
   if count >= limits.clients then return ("%d clients are connected, no more are taken"):format(count) end
   if role == "admin" then return nil end
   local others, same = 0, 0
   for client in pairs(clients) do
      if roles.of(client.peer) ~= "admin" then others = others + 1 end
      if client.uid == peer.uid then same = same + 1 end
   end
   if others >= limits.others then return ("%d clients are connected, no more are taken"):format(count) end
   if same >= limits.each_user then return ("you are connected %d times, no more are taken"):format(same) end
end

-- One who does not get in: told why, nothing of it is read.
local function turn_away(fd, why)
   socket.send(fd, protocol.encode { ok = false, error = why }, 0)
   posix.close(fd)
end

local function closed(client)
   clients[client] = nil
   count = count - 1
end

local function admit(fd)
   local peer, err = socket.peer(fd)
   if not peer then return turn_away(fd, "the system does not say who you are: " .. err) end
   local role = roles.of(peer)
   if not role then
      complain("a client of uid %d (pid %d) has no role and is refused", peer.uid, peer.pid)
      return turn_away(fd, roles.refusal("user " .. peer.uid, nil, "view", "the control socket"))
   end
   local why = too_many(peer, role)
   if why then
      complain("a client of uid %d (pid %d) is refused: %s", peer.uid, peer.pid, why)
      return turn_away(fd, why)
   end
   names[peer.uid] = names[peer.uid] or user.name(peer.uid)
   local client = connection.new(fd, peer, names[peer.uid], {
      request = requests.request, closed = closed, longest = role ~= "admin" and M.limits.request or nil,
   })
   clients[client], count = true, count + 1
end

local accept

-- Without descriptors, memory: those who wait are taken later.
local function pause(err)
   complain("no client can be taken for now: %s", err)
   loop.unwatch(listener)
   paused = loop.after(PAUSE, function()
      paused = nil
      loop.watch(listener, "r", accept)
   end)
end

function accept()
   for _ = 1, ACCEPT_TURN do
      local fd, err, errno = socket.accept(listener)
      if fd then
         admit(fd)
      elseif errno == socket.EAGAIN then
         return
      elseif errno ~= socket.ECONNABORTED then
         return pause(err)
      end
   end
end

local function tick()
   local list = {}
   for client in pairs(clients) do list[#list + 1] = client end
   for _, client in ipairs(list) do client:tick() end
end

--- Listen in an instance's run directory.
---@param dir string
---@return boolean? ok
---@return string? error
function M.start(dir)
   local file = dir .. "/control"
   local fd, err = socket.listen(file, roles.mode())
   if not fd then return nil, ("no control socket: %s"):format(err) end
   listener, path = fd, file
   loop.watch(listener, "r", accept)
   timer = loop.every(1, tick)
   roles.changed = function() socket.chmod(path, roles.mode()) end
   return true
end

--- Close every client and the socket, and remove it.
function M.stop()
   if not listener then return end
   roles.changed = nil
   for client in pairs(clients) do client:close "the engine stops" end
   session.stop()
   loop.cancel(timer)
   loop.cancel(paused)
   loop.unwatch(listener)
   posix.close(listener)
   os.remove(path)
   listener, path, timer, paused = nil, nil, nil, nil
   clients, count = {}, 0
end

--- How many clients there are.
---@return integer
function M.count() return count end

--- The command `clients`: who is connected.
---@return tideway.view
function M.clients()
   local rows = {}
   for client in pairs(clients) do
      rows[#rows + 1] = {
         client.user, client.pid, roles.of(client.peer) or "none", client.requests, client.busy, client.waiting,
         client.dropped,
      }
   end
   table.sort(rows, function(a, b) return a[2] < b[2] end)
   local columns = { "user", "pid", "role", "requests", "running", "unread", "dropped" }
   return require("tideway.live.view").table(columns, rows)
end

return M
