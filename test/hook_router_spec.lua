-- SPDX-License-Identifier: BSD-3-Clause
-- The library's hybrid NFs on hooks with real traffic: plain packets in the kernel, the rest in punt().

local labs = require "test.support.lab"
local shell = require "test.shell"

local missing = labs.missing()

local SCRIPT = [[
   local tw = require "tideway"
   local lan, wan = tw.port("lan", "tw-lan"), tw.port("wan", "tw-wan")
   local router = tw.nf.router {
      ports = {
         { port = lan, addresses = { "10.0.0.1/24", "2001:db8:1::1/64" } },
         { port = wan, addresses = { "198.51.100.1/24", "2001:db8:2::1/64" } },
      },
   }
]]

local ROUTER = SCRIPT .. 'tw.chain("edge", { lan, wan }, router):pin { %s = { lan, wan } }'
local NAT = SCRIPT .. [[
   local nat = tw.nf.napt44 { outside = wan, address = "198.51.100.1", inside = "10.0.0.0/24" }
   tw.chain("edge", { lan, wan }, nat, router, nat):pin { %s = { lan, wan } }]]

describe("hybrid NFs on hooks:", function()
   local lab, dir

   setup(function()
      if missing then return end
      lab, dir = labs.up { mode = "l3", napi = true }, shell.directory()
   end)
   teardown(function()
      if not lab then return end
      lab:down()
      shell.remove(dir)
   end)

   local function live(name, test)
      it(name, function()
         if missing then return pending(missing) end
         test()
      end)
   end

   local function start(text, hook)
      shell.write(dir .. "/script.lua", text:format(hook))
      for _, role in ipairs { "client", "server" } do lab:run(role, "ip neigh flush dev eth0") end
      return lab:engine(dir .. "/script.lua")
   end

   local function stop(engine)
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      assert.falsy(result.err:find("failed", 1, true), result.err)
      local chain = result.counters.chains[1]
      assert.equal(0, result.counters.totals.difference)
      assert.equal(0, chain.difference)
      assert.equal(0, chain.faults)
      return chain
   end

   local function ping(role, to, options)
      return lab:run(role, ("ping -n -i 0.05 -W 2 %s %s"):format(options or "-c 3", to))
   end
   local function answers(role, to, options)
      local r = ping(role, to, options)
      assert.equal(0, r.code, r.out .. r.err)
   end
   local function says(text, ...)
      local r = ping(...)
      assert.truthy(r.out:find(text, 1, true), r.out .. r.err)
   end

   -- TCP both ways: the server sends back what it gets.
   local function tcp()
      local server = lab:spawn("server", "python3 " .. dir .. "/echo.py")
      assert.is_true(server:says("listening", 60), server:read "err")
      local r = lab:run("client", "python3 " .. dir .. "/talk.py")
      server:stop "KILL"
      assert.equal("300000\n", r.out, r.err)
   end

   local function write_talkers()
      shell.write(dir .. "/echo.py", [[
import socket
s = socket.create_server(("198.51.100.2", 7))
print("listening", flush=True)
c, peer = s.accept()
while True:
    data = c.recv(65536)
    if not data: break
    c.sendall(data)
]])
      shell.write(dir .. "/talk.py", [[
import socket, threading
s = socket.create_connection(("198.51.100.2", 7), timeout=60)
def send():
    s.sendall(bytes(300000))
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
n = 0
while True:
    data = s.recv(65536)
    if not data: break
    n += len(data)
print(n)
]])
   end

   for _, hook in ipairs { "xdp", "tc" } do
      live("the router on " .. hook, function()
         local engine = start(ROUTER, hook)
         answers("client", "198.51.100.2", "-c 20") -- the first waits for ARP
         answers("client", "10.0.0.1") -- its own address
         answers("client", "2001:db8:2::2", "-6 -c 5")
         answers("client", "198.51.100.2", "-c 2 -s 4000") -- fragments
         says("Time to live exceeded", "client", "198.51.100.2", "-c 1 -t 1")
         says("Destination Net Unreachable", "client", "203.0.113.9", "-c 1")
         says("Destination Host Unreachable", "client", "198.51.100.77", "-c 1 -W 30") -- held until ARP gives up
         if shell.has "python3" then
            write_talkers()
            tcp()
         end
         local chain = stop(engine)
         assert.is_true(chain.punted < 60, "punted " .. chain.punted)
         assert.is_true(chain.rx > 60, "received " .. chain.rx)
      end)

      live("napt44 before and behind the router on " .. hook, function()
         local engine = start(NAT, hook)
         local capture = lab:capture("server", "icmp")
         answers("client", "198.51.100.2", "-c 20")
         says("Time to live exceeded", "client", "198.51.100.2", "-c 1 -t 1")
         local seen = labs.seen(capture, 20)
         if shell.has "python3" then
            write_talkers()
            tcp()
         end
         local chain = stop(engine)
         assert.is_true(seen.packets >= 20, seen.text)
         assert.falsy(seen.text:find("10.0.0.2", 1, true), seen.text)
         assert.same({}, seen.bad)
         assert.is_true(chain.punted < 40, "punted " .. chain.punted)
      end)
   end
end)
