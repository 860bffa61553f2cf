-- SPDX-License-Identifier: BSD-3-Clause
-- Many HTTP clients in one process, which believe nothing: each request has a token, each answer is compared, and what
-- was sent and not answered is counted. And an origin that notes every request that reaches it.
--
--    local s = swarm.new { port = 8080, connections = 16, make = function(token) return { text = "GET ..." } end }
--    s:run(3)                       -- seconds; s:step(10) for one turn
--    s:finish(10)                   -- no new ones; waits for what is under way
--    s.sent, s.answered, s.lost, s.wrong, s.status[200]

local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

-- Seconds that a kept connection is trusted: less than any server here waits for the next request.
local RESTS = 1

local function now() return tonumber(posix.now()) / 1e9 end

-- ---- responses ----

local function chunked(got, from)
   local parts, at = {}, from
   while true do
      local _, stop, hex = got:find("^(%x+)[^\r\n]*\r\n", at)
      if not stop then return nil end
      local size = tonumber(hex, 16)
      if #got < stop + size + 2 then return nil end
      if size == 0 then return table.concat(parts), stop + 3 end
      parts[#parts + 1] = got:sub(stop + 1, stop + size)
      at = stop + size + 3
   end
end

--- The first response in these bytes, when it is there whole.
---@param got string
---@param method? string
---@return { status: integer, headers: table<string, string>, body: string }? response
---@return integer? next where the one behind it begins
function M.response(got, method)
   local _, head_end = got:find("\r\n\r\n", 1, true)
   if not head_end then return nil end
   local headers = {}
   for name, value in got:sub(1, head_end):gmatch "\r\n([%w-]+): *([^\r]*)" do headers[name:lower()] = value end
   local r = { status = tonumber(got:match "^HTTP/1%.1 (%d%d%d) "), headers = headers, body = "" }
   if r.status and r.status < 200 and r.status ~= 101 then return M.response(got:sub(head_end + 1), method) end
   if method == "HEAD" or r.status == 204 or r.status == 304 then return r, head_end + 1 end
   if headers["transfer-encoding"] then
      local body, behind = chunked(got, head_end + 1)
      if not body then return nil end
      r.body = body
      return r, behind
   end
   local length = tonumber(headers["content-length"]) or 0
   if #got < head_end + length then return nil end
   r.body = got:sub(head_end + 1, head_end + length)
   return r, head_end + length + 1
end

-- ---- clients ----

---@class test.swarm
---@field sent integer requests that were begun
---@field answered integer
---@field lost integer without an answer
---@field wrong string[] what is not as it should be
---@field status table<integer, integer>
local Swarm = {}
Swarm.__index = Swarm

local function note(self, text)
   self.n_wrong = self.n_wrong + 1
   if #self.wrong < 10 then self.wrong[#self.wrong + 1] = text end
end

local function close(self, c)
   if c.fd then
      posix.epoll_set(self.epoll, c.fd, nil, true)
      posix.close(c.fd)
      self.by_fd[c.fd] = nil
   end
   c.fd, c.out = nil, nil
end

local function open(self, c)
   local fd, err = net.connect("127.0.0.1", self.port)
   if not fd then
      self.refused = self.refused + 1
      self.refused_why = err
      c.again = now() + 0.05
      return false
   end
   c.fd, c.parts, c.served, c.rests = fd, {}, 0, now()
   self.by_fd[fd] = c
   assert(posix.epoll_set(self.epoll, fd, "r"))
   c.interest = "r"
   return true
end

local function wants(self, c, interest)
   if c.interest ~= interest then posix.epoll_set(self.epoll, c.fd, interest, true) end
   c.interest = interest
end

local function push(self, c)
   while c.out do
      local n, _, err = socket.send(c.fd, c.out, c.at)
      if not n then
         if err == socket.EAGAIN then wants(self, c, "rw") end
         return
      end
      c.at = c.at + n
      if c.at >= #c.out then c.out = nil end
   end
   wants(self, c, "r")
end

local function begin(self, c)
   self.token = self.token + 1
   c.token = ("%s-%d"):format(self.name, self.token)
   c.request = self.make(c.token, self.token)
   c.out, c.at, c.got = c.request.text, 0, ""
   c.since = now()
   self.sent = self.sent + 1
   self.under_way = self.under_way + 1
   push(self, c)
end

local function ended(self, c)
   self.under_way = self.under_way - 1
   c.request = nil
end

local function lose(self, c, why)
   if c.request then
      self.lost = self.lost + 1
      self.lost_why = ("%s behind %d bytes of an answer to: %s"):format(why, #c.got, c.request.text:sub(1, 60))
      ended(self, c)
   end
   close(self, c)
end

local function answer(self, c, r)
   self.answered = self.answered + 1
   self.status[r.status or 0] = (self.status[r.status or 0] or 0) + 1
   local took = now() - c.since
   if took > self.slowest then self.slowest = took end
   local wrong = c.request.check and c.request.check(r)
   if not wrong and r.status == 200 and r.headers["x-token"] ~= c.token then
      wrong = ("the answer is that of %s"):format(tostring(r.headers["x-token"]))
   end
   if wrong then note(self, ("%s (%s): %s"):format(c.token, c.request.text:match "^[^\r]*", wrong)) end
   ended(self, c)
   c.served, c.rests = c.served + 1, now()
   if r.headers.connection == "close" then close(self, c) end
end

local function take(self, c)
   local parts = c.parts
   while true do
      local bytes, n = socket.receive(c.fd)
      if not bytes then
         if n ~= "Resource temporarily unavailable" then return lose(self, c, n) end
         break
      end
      if n == 0 then
         c.closed = true
         break
      end
      parts[#parts + 1] = ffi.string(bytes, n)
   end
   local got = table.concat(parts)
   c.parts = { got }
   c.got = got
   if not c.request then
      if #got > 0 then note(self, ("bytes that belong to no request: %q"):format(got:sub(1, 80))) end
      return close(self, c)
   end
   local r, behind = M.response(got, c.request.method)
   if r then
      c.parts = { got:sub(behind) }
      if behind <= #got then note(self, ("bytes behind an answer: %q"):format(got:sub(behind, behind + 80))) end
      local fd = c.fd
      answer(self, c, r)
      if c.fd == fd and c.closed then close(self, c) end
   elseif c.closed then
      lose(self, c, "closed")
   end
   c.closed = false
end

--- One turn: what is ready, for at most so long.
---@param milliseconds integer
function Swarm:step(milliseconds)
   for _, c in ipairs(self.clients) do
      if not c.request and not self.stopping then
         -- Servers close what rests too long, maybe while the next request is on its way (RFC 9112 9.3.1).
         if c.fd and now() - c.rests > RESTS then close(self, c) end
         if not c.fd and now() >= c.again then open(self, c) end
         if c.fd then begin(self, c) end
      end
   end
   posix.poll({ self.epoll }, milliseconds)
   for _, event in ipairs(posix.epoll_ready(self.epoll)) do
      local c = self.by_fd[event.fd]
      if c and event.writable and c.out then push(self, c) end
      if c and c.fd == event.fd and event.readable then take(self, c) end
   end
end

--- Turn for so many seconds.
---@param seconds number
---@param also? fun(): boolean? called in each turn; true: it is enough
function Swarm:run(seconds, also)
   local stop = now() + seconds
   repeat self:step(5) until also and also() or now() > stop
end

--- Begin nothing new, and wait for what is under way.
---@param seconds number
---@return boolean all of it has ended
function Swarm:finish(seconds)
   self.stopping = true
   local stop = now() + seconds
   while self.under_way > 0 and now() < stop do self:step(5) end
   local stuck = self.under_way
   if stuck > 0 then note(self, ("%d requests are not answered within %d s"):format(stuck, seconds)) end
   for _, c in ipairs(self.clients) do close(self, c) end
   return stuck == 0
end

--- What there is to say of it.
---@return string
function Swarm:summary()
   local list = {}
   for status, n in pairs(self.status) do list[#list + 1] = ("%d: %d"):format(status, n) end
   table.sort(list)
   return ("%d sent, %d answered (%s), %d lost%s, %d wrong, slowest %.2f s"):format(self.sent, self.answered,
      table.concat(list, ", "), self.lost, self.lost_why and " (" .. self.lost_why .. ")" or "", self.n_wrong,
      self.slowest)
end

--- Clients that are not open yet.
---@param options { port: integer, connections: integer, name: string?, make: fun(token: string, n: integer): table }
--- make: { text, method?, check?: fun(response): string? }; an answer 200 must have the header X-Token
---@return test.swarm
function M.new(options)
   local self = setmetatable({
      port = options.port, make = options.make, name = options.name or "t", epoll = assert(posix.epoll()), by_fd = {},
      clients = {}, token = 0, sent = 0, answered = 0, lost = 0, refused = 0, n_wrong = 0, wrong = {}, status = {},
      under_way = 0, slowest = 0, stopping = false,
   }, Swarm)
   for i = 1, options.connections do self.clients[i] = { again = 0 } end
   return self
end

--- No turn follows.
function Swarm:close()
   for _, c in ipairs(self.clients) do close(self, c) end
   if self.epoll then posix.close(self.epoll) end
   self.epoll = nil
end

-- ---- an origin that notes what it gets ----

---@class test.swarm.origin
---@field port integer
---@field seen string[] heads of requests, in order
local Origin = {}
Origin.__index = Origin

-- The length of the first request in these bytes, as the strictest reader would see it.
local function request_of(got)
   local _, stop = got:find("\r\n\r\n", 1, true)
   if not stop then return nil end
   local head = got:sub(1, stop)
   local lower = head:lower()
   if lower:find "\r\ntransfer%-encoding: chunked\r\n" then
      local body, behind = chunked(got, stop + 1)
      if not body then return nil end
      return head, body, behind
   end
   local length = tonumber(lower:match "\r\ncontent%-length: (%d+)\r\n") or 0
   if #got < stop + length then return nil end
   return head, got:sub(stop + 1, stop + length), stop + length + 1
end

function Origin:step()
   while true do
      local fd = socket.accept(self.fd)
      if not fd then break end
      self.connections[fd] = ""
   end
   for fd, got in pairs(self.connections) do
      local bytes, n = socket.receive(fd)
      if bytes and n > 0 then
         got = got .. ffi.string(bytes, n)
         local head, body, behind = request_of(got)
         while head do
            self.seen[#self.seen + 1] = head
            self.bodies[#self.seen] = body
            local text = "origin " .. body
            socket.send(fd, ("HTTP/1.1 200 OK\r\nX-Token: %s\r\nContent-Length: %d\r\n\r\n%s"):format(
               head:match "\r\n[Xx]%-[Tt]oken: ([^\r]*)" or "none", #text, text), 0)
            got = got:sub(behind)
            head, body, behind = request_of(got)
         end
         self.connections[fd] = got
      elseif bytes or n ~= "Resource temporarily unavailable" then
         if #got > 0 then self.cut[#self.cut + 1] = got end
         posix.close(fd)
         self.connections[fd] = nil
      end
   end
end

--- Bytes that are no whole request, at this moment.
---@return string[]
function Origin:rest()
   local list = {}
   for _, got in pairs(self.connections) do
      if #got > 0 then list[#list + 1] = got end
   end
   return list
end

function Origin:close()
   for fd in pairs(self.connections) do posix.close(fd) end
   if self.fd then posix.close(self.fd) end
   self.fd, self.connections = nil, {}
end

--- An origin on a port of loopback; origin:step() lets it work.
---@return test.swarm.origin
function M.origin()
   local fd, port = net.listen("127.0.0.1", 0)
   assert(fd, port)
   return setmetatable({ fd = fd, port = port, connections = {}, seen = {}, bodies = {}, cut = {} }, Origin)
end

return M
