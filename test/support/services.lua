-- SPDX-License-Identifier: BSD-3-Clause
-- Real servers for live specs, in the server's namespace of a lab: nginx, dnsmasq, iperf3.

local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local M = { NAME = "www.tideway.example", ANSWER = "203.0.113.80" }

--- Programs that specs with these servers need, the clients among them.
M.PROGRAMS = { "iperf3", "nginx", "dnsmasq", "ss", "dig", "curl" }

local NGINX = [[
user root;
daemon off;
worker_processes 1;
pid %DIR/nginx.pid;
error_log %DIR/error.log;
events { worker_connections 64; }
http {
   log_format peer '$remote_addr';
   access_log %DIR/access.log peer;
   client_body_temp_path %DIR/body;
   proxy_temp_path %DIR/proxy;
   fastcgi_temp_path %DIR/fastcgi;
   uwsgi_temp_path %DIR/uwsgi;
   scgi_temp_path %DIR/scgi;
   server { listen 80; listen [::]:80; root %DIR/www; }
}
]]

-- 256 kB that no error goes unseen in: every line differs.
local function make_page()
   local lines = {}
   for i = 1, 8192 do lines[i] = ("line %08d of the test page %5d"):format(i, i * i % 65521) end
   return table.concat(lines, "\n")
end

--- What http://server/file gives.
M.page = make_page()

local function listening(lab)
   local r = lab:run("server", "ss -Hltun")
   return r.out:find ":80 " and r.out:find ":53 " and r.out:find ":5201 "
end

--- Start a web server (80), a name server (53: M.NAME is M.ANSWER) and an iperf3 server (5201).
---@param lab test.lab
---@return string page M.page
function M.start(lab)
   local dir = lab.files
   shell.write(dir .. "/www/file", M.page)
   shell.write(dir .. "/nginx.conf", (NGINX:gsub("%%DIR", dir)))
   lab:spawn("server", ("nginx -e %s/error.log -c %s/nginx.conf"):format(dir, dir))
   lab:spawn("server", ("dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root "
      .. "--pid-file= --log-facility=- --address=/%s/%s"):format(M.NAME, M.ANSWER))
   lab:spawn("server", "iperf3 -s")
   assert(labs.eventually(60, function() return listening(lab) end), "the servers did not start")
   return M.page
end

--- Addresses that the web server was asked from.
---@param lab test.lab
---@return table<string, true>
function M.http_peers(lab)
   local set = {}
   for address in (posix.slurp(lab.files .. "/access.log") or ""):gmatch "[^\n]+" do set[address] = true end
   return set
end

return M
