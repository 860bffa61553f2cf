-- SPDX-License-Identifier: BSD-3-Clause
-- What specs of chains of messages need: ports nobody has, nginx as origin, figures of an instance.

local labs = require "test.support.lab"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local shell = require "test.shell"

local M = {}

--- Why specs with workers cannot run here.
---@param ... string programs that they need
---@return string?
function M.missing(...)
   if shell.run("id -u").out ~= "0\n" then return "workers that the kernel wakes need root" end
   for _, program in ipairs { ... } do
      if not shell.has(program) then return program .. " is not installed" end
   end
end

-- Below those that the kernel gives to who asks for any, so that nobody gets it meanwhile.
local FIRST, PORTS = 10000, 22000
local last = (posix.getpid() * 7919 + posix.now() % 1e9) % PORTS

--- A TCP port of loopback that nobody has.
---@return integer
function M.port()
   repeat
      last = math.floor(last + 1) % PORTS
      local fd = net.listen("127.0.0.1", FIRST + last)
      if fd then posix.close(fd) end
   until fd
   return FIRST + last
end

local NGINX = [[
user root;
daemon off;
master_process off;
worker_processes 1;
pid %DIR/nginx.pid;
error_log %DIR/error.log;
events { worker_connections 1024; }
http {
   access_log %DIR/access.log;
   keepalive_requests 1000000;
   client_body_temp_path %DIR/body;
   proxy_temp_path %DIR/proxy;
   fastcgi_temp_path %DIR/fastcgi;
   uwsgi_temp_path %DIR/uwsgi;
   scgi_temp_path %DIR/scgi;
   server {
      listen 127.0.0.1:%PORT;
      root %DIR/www;
      location /tag { return 200 "tag $http_x_tag\n"; }
      location /host { return 200 "$http_host\n"; }
      %LOCATIONS
   }
}
]]

---@class test.origin
---@field port integer
local Origin = {}
Origin.__index = Origin

--- nginx on loopback: /small, /large (1 MB, every line differs), /tag and /host, which say a header of the request.
---@param port? integer
---@param locations? string more of its configuration
---@return test.origin
function M.nginx(port, locations)
   local self = setmetatable({ port = port or M.port(), dir = shell.directory() }, Origin)
   local lines = {}
   for i = 1, 32768 do lines[i] = ("line %08d of the test page %5d"):format(i, i * i % 65521) end
   self.large = table.concat(lines, "\n")
   shell.write(self.dir .. "/www/index.html", "index\n")
   shell.write(self.dir .. "/www/small", "small\n")
   shell.write(self.dir .. "/www/large", self.large)
   shell.write(self.dir .. "/nginx.conf", (NGINX:gsub("%%LOCATIONS", ((locations or ""):gsub("%%", "%%%%")))
      :gsub("%%DIR", self.dir):gsub("%%PORT", self.port)))
   self.process = labs.spawn(("nginx -e %s/error.log -c %s/nginx.conf"):format(self.dir, self.dir))
   assert(labs.eventually(60, function()
      local fd = net.connect("127.0.0.1", self.port)
      if fd then posix.close(fd) end
      return fd ~= nil
   end), "nginx did not start: " .. (posix.slurp(self.dir .. "/error.log") or ""))
   return self
end

--- Requests that it has had for a path, as it logs them.
---@param path string
---@return integer
function Origin:count(path)
   local _, n = posix.slurp(self.dir .. "/access.log"):gsub('"%u+ ' .. path:gsub("%p", "%%%0") .. " ", "")
   return n
end

--- End it.
function Origin:stop()
   self.process:stop "TERM"
   shell.remove(self.dir)
end

--- What curl gets: body, status and headers.
---@param url string
---@param options? string
---@return { code: integer, status: integer, body: string, head: string }
function M.curl(url, options)
   local dir = shell.directory()
   local r = shell.run(("curl -s -m 60 -o %s/body -D %s/head -w '%%{http_code}' %s '%s'"):format(dir, dir,
      options or "", url), 75)
   local found = {
      code = r.code, status = tonumber(r.out), body = posix.slurp(dir .. "/body") or "",
      head = posix.slurp(dir .. "/head") or "",
   }
   shell.remove(dir)
   return found
end

--- The counters of an instance's gate.
---@param instance test.instance
---@return tideway.gate.snapshot
function M.gate(instance)
   local c = instance:client()
   local reply = c:call("gate", {}, { seconds = 60 })
   c:close()
   assert(reply.ok, reply.error)
   return reply.view.data
end

--- A chain's counters.
---@param instance test.instance
---@param name string
function M.service(instance, name)
   for _, s in ipairs(M.gate(instance).services) do
      if s.name == name then return s end
   end
end

--- Processes of the instances of a chain's functions.
---@param instance test.instance
---@param name string
---@return integer[]
function M.pids(instance, name)
   local list = {}
   for _, f in ipairs(M.service(instance, name).functions) do
      for _, i in ipairs(f.instances) do list[#list + 1] = i.pid end
   end
   return list
end

--- CPU time of processes, ticks of 10 ms.
---@param pids integer[]
---@return integer
function M.ticks(pids)
   local n = 0
   for _, pid in ipairs(pids) do
      local text = posix.slurp(("/proc/%d/stat"):format(pid)) or ""
      local user, system = text:match "^%d+ %(.*%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
      n = n + (tonumber(user) or 0) + (tonumber(system) or 0)
   end
   return n
end

return M
