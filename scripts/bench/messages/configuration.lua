-- SPDX-License-Identifier: BSD-3-Clause
-- Configuration files of nginx and haproxy for scripts/bench/messages.lua, as their own manuals advise for proxying:
-- kept connections on both sides, no access log, sendfile, one process.

local lfs = require "lfs"
local child = require "tideway.bench.child"

local M = {}

local dir

--- A directory of the benchmark's own; it goes when the benchmark does.
---@return string
function M.directory()
   if dir then return dir end
   dir = os.tmpname()
   os.remove(dir)
   assert(lfs.mkdir(dir))
   -- A finalizer: whatever way the benchmark ends.
   M.guard = newproxy(true)
   getmetatable(M.guard).__gc = function() child.run { "rm", "-rf", dir } end
   return dir
end

---@param path string
---@param text string
function M.write(path, text)
   local file = assert(io.open(path, "w"))
   file:write(text)
   file:close()
end

--- The command of an nginx that listens on a port.
---@param port integer
---@param body string what stands in its server block
---@param http? string what stands in front of that
---@return string[] argv
function M.nginx(port, body, http)
   local base = ("%s/nginx-%d"):format(M.directory(), port)
   M.write(base .. ".conf", ([[
daemon off; master_process off; worker_processes 1; pid %s.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
   access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 75; keepalive_requests 1000000000;
   client_body_temp_path %s.body; proxy_temp_path %s.proxy; fastcgi_temp_path %s.fcgi; uwsgi_temp_path %s.uwsgi;
   scgi_temp_path %s.scgi;
   %s
   server { listen 127.0.0.1:%d backlog=4096; %s }
}
]]):format(base, base, base, base, base, base, http or "", port, body))
   return { "nginx", "-c", base .. ".conf", "-e", "stderr" }
end

--- The command of a haproxy that listens on a port and passes on to another one.
---@param port integer
---@param to integer
---@param mode "http"|"tcp"
---@return string[] argv
function M.haproxy(port, to, mode)
   local path = ("%s/haproxy-%d.cfg"):format(M.directory(), port)
   M.write(path, ([[
global
   maxconn 8192
   nbthread 1
defaults
   mode %s
   timeout connect 5s
   timeout client 60s
   timeout server 60s
   timeout http-keep-alive 60s
   %s
listen bench
   bind 127.0.0.1:%d
   server origin 127.0.0.1:%d
]]):format(mode, mode == "http" and "http-reuse always" or "", port, to))
   return { "haproxy", "-db", "-f", path }
end

return M
