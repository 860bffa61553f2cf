-- SPDX-License-Identifier: BSD-3-Clause
-- A reverse proxy: paths are rewritten, answers kept, requests spread over two servers and written to a log.
--
--    cd /usr/share/doc && python3 -m http.server --bind 127.0.0.1 9001 &     # two servers with the same files
--    cd /usr/share/doc && python3 -m http.server --bind 127.0.0.1 9002 &
--    sudo build/tideway run examples/11-reverse-proxy.lua
--    curl -i http://127.0.0.1:8080/docs/base-files/README                    # in another terminal: /base-files/README
--    curl -i http://127.0.0.1:8080/docs/base-files/README                    # from the cache: see Age
--    curl -i http://127.0.0.1:8080/old                                       # a redirect
--
-- Arguments: where it listens, and its servers: `11-reverse-proxy.lua http://0.0.0.0:80 10.0.0.1:80 10.0.0.2:80`.
--
-- Each function is a process of its own. While it runs, in `sudo build/tideway repl`:
--
--    chains.web                                   -- the functions: processes, messages, times
--    chains.web:scale("log", 2)                   -- two of one function
--    upstreams.app:drain "127.0.0.1:9002"         -- no new requests there
--    reload()                                     -- this script again; only what is different changes

local tw = require "tideway"

local address = ... or "http://127.0.0.1:8080"
local servers = { select(2, ...) }
if #servers == 0 then servers = { "127.0.0.1:9001", "127.0.0.1:9002" } end

local web = tw.listen("web", address, { body_bytes = 10 * 1048576, idle = 30 })

local app = tw.upstream("app", {
   servers = servers,
   balance = "least",
   retries = 1,                                  -- the other one, when a server fails before it answers
   fails = 2, fail_time = 5,                     -- two failures within 5 s: left out for 5 s
})

local rewrite = tw.nf.url_rewrite {
   rules = {
      { exact = "/old", to = "/docs/", redirect = 301 },
      { prefix = "/docs/", to = "/" },
   },
}

-- Who asked: the servers hear it in X-Forwarded-For; what they run on is nobody's business.
local headers = tw.nf.headers { forwarded = true, response_remove = { "Server" } }

tw.chain("web", web, tw.nf.log { format = "combined" }, rewrite, headers, tw.nf.cache { megabytes = 32 }, app)
   :pin {
      worker = "sk_msg",                         -- or "rings", or "inline"
      pool_mb = 128, whole_bytes = 8 * 1048576,  -- the cache takes answers whole: the largest that pass
   }
