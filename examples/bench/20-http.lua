-- SPDX-License-Identifier: BSD-3-Clause
-- Requests to a web server: answers a second, percentiles, CPU time of the server for each. wrk makes the load.
--
--    build/tideway bench examples/bench/20-http.lua                                 # nginx, one worker and two
--    build/tideway bench examples/bench/20-http.lua http://192.0.2.1/index.html     # a server that is there

local bench = require "tideway".bench

local url = ...

-- nginx with so many workers. It runs while it is measured and ends behind that.
local function nginx(workers)
   local path = os.tmpname()
   local file = assert(io.open(path, "w"))
   file:write(([[
      daemon off; worker_processes %d; pid %s.pid; error_log stderr;
      events { worker_connections 1024; }
      http { access_log off; server { listen 127.0.0.1:8181; location / { return 200 "hello\n"; } } }
   ]]):format(workers, path))
   file:close()
   return { "nginx", "-c", path, "-e", "stderr" }
end

local contenders
if url then
   contenders = { bench.http { name = "server", url = url } }
else
   contenders = {}
   for workers = 1, 2 do
      contenders[workers] = bench.http {
         name = ("nginx, %d worker%s"):format(workers, workers == 1 and "" or "s"), url = "http://127.0.0.1:8181/",
         connections = 32, server = nginx(workers),
      }
   end
end

bench.group("http", {
   title = "a small answer over connections that are kept", unit = "requests/s", better = "more", rounds = 3,
   seconds = 2, contenders = contenders, reference = contenders[1].name,
})
