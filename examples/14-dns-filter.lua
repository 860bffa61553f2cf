-- SPDX-License-Identifier: BSD-3-Clause
-- A DNS filter: queries for blocked names are answered here, the others by the resolvers behind it; over UDP, and over
-- TCP for answers that a datagram has no room for.
--
--    sudo build/tideway run examples/14-dns-filter.lua 192.0.2.53:53       # the address of your resolver
--    dig @127.0.0.1 -p 5353 ads.example                                    # NXDOMAIN
--    dig @127.0.0.1 -p 5353 www.debian.org                                 # what the resolver says
--    dig @127.0.0.1 -p 5353 +tcp ads.example www.debian.org                # the same over TCP
--
-- `tables` and `help(tw.nf.dns_filter)` in `sudo build/tideway repl` say more; a list of names in a file is
-- `file = "/etc/hosts.blocked"`, and `reload()` reads it again.

local tw = require "tideway"

local resolver = ... or "9.9.9.9:53"

local filter = tw.nf.dns_filter {
   block = { "ads.example", "*.tracker.example" },
   allow = { "good.tracker.example" },
   answer = "nxdomain",                        -- or an address: { "127.0.0.1", "::1" }
}

tw.chain("dns", tw.listen("dns", "udp://127.0.0.1:5353"), filter,
   tw.upstream("resolvers", { protocol = "udp", servers = { resolver }, response_timeout = 5 })
):pin { worker = "sk_msg" }

tw.chain("dns_tcp", tw.listen("dns_tcp", "tcp://127.0.0.1:5353", { idle = 10 }), filter,
   tw.upstream("resolvers_tcp", { protocol = "tcp", servers = { resolver }, connect_timeout = 5 })
):pin { worker = "sk_msg" }
