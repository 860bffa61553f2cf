-- SPDX-License-Identifier: BSD-3-Clause
-- A gateway: who may ask for what, and how often; what passes goes to one of two groups of servers.
--
--    python3 -m http.server --bind 127.0.0.1 9001 &                          # the application
--    python3 -m http.server --bind 127.0.0.1 9002 &                          # its files
--    sudo build/tideway run examples/12-gateway.lua
--    curl -i http://127.0.0.1:8080/                                          # in another terminal
--    curl -i http://127.0.0.1:8080/admin/                                    # 401
--    curl -i -u ann:secret http://127.0.0.1:8080/admin/                      # passes; 404: there is no such file
--    curl -i -X DELETE http://127.0.0.1:8080/                                # 405
--    for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/; done | sort | uniq -c
--
-- The passwords' hashes are those of `printf %s saltsecret | sha256sum`.

local tw = require "tideway"

local web = tw.listen("web", "http://127.0.0.1:8080")

local app = tw.upstream("app", { servers = { "127.0.0.1:9001" }, check = { path = "/", every = 5 } })
local files = tw.upstream("files", { servers = { "127.0.0.1:9002" } })

local access = tw.nf.access {
   methods = { "GET", "POST" },
   paths = {
      {
         prefix = "/admin/",
         allow = { "127.0.0.0/8", "10.0.0.0/8" },
         basic = { realm = "admin", users = {
            ann = "{SHA256}salt$bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35",
         } },
      },
   },
}

-- 10 requests a second of each client, 20 at once after a pause; more are answered 429.
local limit = tw.nf.rate_limit { rate = 10, burst = 20 }

local route = tw.nf.reverse_proxy { upstream = app, routes = { { path = "/static", upstream = files } } }

tw.chain("gateway", web, limit, access, route):pin { worker = "inline" }
