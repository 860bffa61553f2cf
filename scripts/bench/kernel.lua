-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: what a kernel forwards between two interfaces (veth): its own routing, nftables, and Tideway's chains on
-- XDP and TC, all with the same frames.

local bench = require "tideway".bench
local input = require "input"

local ROUNDS, SECONDS = 5, 0.5

local LAN, NEAR, FAR = "\2\0\0\0\1\1", "\2\0\0\0\1\2", "02:00:00:00:02:02"
local frames = input.frames(LAN, NEAR)
local files = input.files()

local function path() return bench.live { name = "path", note = "all frames are dropped at lan", packets = frames,
   shut = true } end

local function tideway(name, hook, what)
   return bench.live {
      name = name, packets = frames, ready = "ready:", log = ("%s/%s.log"):format(input.dir, name),
      note = ("scripts/bench/chains/kernel.lua on %s"):format(hook:upper()),
      command = function(ctx)
         return { "env", "TIDEWAY_RUN_DIR=" .. input.dir, ctx.tideway, "run", input.root
            .. "/scripts/bench/chains/kernel.lua", hook, what, files.routes4 }
      end,
   }
end

local ROUTER = {
   "ip address add 198.18.255.254/15 dev lan",
   "ip address add 198.51.100.254/24 dev wan",
   ("ip neighbour add 198.51.100.1 lladdr %s dev wan"):format(FAR),
   "echo 1 > /proc/sys/net/ipv4/ip_forward",
   -- The sources of the flows are on lan: nothing is asked for them.
   "echo 0 > /proc/sys/net/ipv4/conf/lan/rp_filter",
}

local function kernel(name, note, ...)
   local setup = { unpack(ROUTER) }
   for _, line in ipairs { ... } do setup[#setup + 1] = line end
   return bench.live { name = name, note = note, packets = frames, setup = setup }
end

local DEFAULT_ROUTE = "ip route add default via 198.51.100.1"
local ALL_ROUTES = ("sed -n 's/^R\\([^ ]*\\) .*/route replace \\1 via 198.51.100.1/p' %s | ip -batch -"):format(
   files.routes4)

-- The list of chains/kernel.lua, as a set, which is how nftables has many rules of one kind.
local function rules()
   local blocked = {}
   for i = 1, 100 do blocked[i] = ("203.0.113.%d . tcp . 80"):format(i) end
   return ([[nft -f - <<'END'
table ip bench {
   set blocked {
      type ipv4_addr . inet_proto . inet_service
      elements = { %s }
   }
   chain forward {
      type filter hook forward priority filter; policy accept;
      ip saddr 198.18.0.0/15 ip daddr . meta l4proto . th dport @blocked counter drop
   }
}
END]]):format(table.concat(blocked, ", "))
end

-- The ingress hook: nothing of the stack but this rule is between the two interfaces.
local FWD = [[nft -f - <<'END'
table netdev bench {
   chain ingress {
      type filter hook ingress device "lan" priority 0;
      fwd to "wan"
   }
}
END]]

local function group(name, spec)
   spec.unit, spec.rounds, spec.seconds, spec.base = "ns", ROUNDS, SECONDS, "path"
   bench.group(name, spec)
end

local function nft(contender)
   contender.needs = function()
      if os.execute "command -v nft >/dev/null" ~= 0 then
         return "nft is not installed; try: apt-get install nftables"
      end
   end
   return contender
end

group("kernel-forward", {
   title = "interface to interface (veth), packets untouched",
   contenders = {
      path(), nft(kernel("nftables-fwd", "nftables, netdev family, fwd at ingress", FWD)),
      tideway("tideway-xdp-forward", "xdp", "forward"), tideway("tideway-tc-forward", "tc", "forward"),
   },
   reference = "nftables-fwd",
})

group("kernel-route", {
   title = "routing between interfaces (veth), 10,000 prefixes",
   contenders = {
      path(), kernel("kernel", "the kernel's routing, its defaults", ALL_ROUTES),
      tideway("tideway-xdp-route", "xdp", "route"), tideway("tideway-tc-route", "tc", "route"),
   },
   reference = "kernel",
})

group("kernel-filter", {
   title = "a list of 100 blocked services and a default route (veth)",
   contenders = {
      path(), nft(kernel("nftables", "the kernel's routing, the list as a set of nftables", DEFAULT_ROUTE, rules())),
      tideway("tideway-xdp-filter", "xdp", "filter"), tideway("tideway-tc-filter", "tc", "filter"),
   },
   reference = "nftables",
})
