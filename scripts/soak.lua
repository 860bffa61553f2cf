-- SPDX-License-Identifier: BSD-3-Clause
-- scripts/soak, run inside the engine's binary: an engine of its own, clients that compare, clients that attack.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local socket = require "tideway.posix.socket"
local swarm = require "test.support.swarm"

local options = { seconds = 60, seed = os.time() % 1000000 }
do
   local words, i = { ... }, 1
   while i <= #words do
      local key = words[i]:match "^%-%-(%a+)$"
      if key == "seed" or key == "idle" then
         i = i + 1
         options[key] = tonumber(words[i])
         if not options[key] then error(("scripts/soak: --%s wants a number"):format(key), 0) end
      elseif tonumber(words[i]) then
         options.seconds = tonumber(words[i])
      else
         error(("scripts/soak: %s: see scripts/soak --help"):format(words[i]), 0)
      end
      i = i + 1
   end
end
local say = function(...)
   print(string.format(...))
   io.stdout:flush()
end

local function now() return tonumber(posix.now()) / 1e9 end

local SCRIPT = [[
local tw = require "tideway"
tw.options { drain = 2 }
local hostile = tw.nf("hostile", function()
   return {
      body = "whole",
      message = function(msg)
         local path, token = msg.path, msg:header "X-Token"
         if path == "/fast" then
            return msg:respond(200, { ["X-Token"] = token }, token)
         elseif path == "/echo" then
            return msg:respond(200, { ["X-Token"] = token }, msg.body)
         elseif path == "/hold" then
            msg:sleep(0.02)
            return msg:respond(200, { ["X-Token"] = token }, token)
         elseif path == "/big" then
            return msg:respond(200, { ["X-Token"] = token }, (token .. "\n"):rep(math.floor(1500000 / (#token + 1))))
         elseif path == "/fetch" then
            local answer, err = msg:fetch { upstream = "app", path = "/token", headers = { ["X-Token"] = token } }
            if not answer then return msg:respond(503, nil, err) end
            return msg:respond(200, { ["X-Token"] = token }, answer.body)
         elseif path == "/raise" then
            msg:set_body(("x"):rep(100000))
            error "on purpose"
         elseif path == "/nonsense" then
            return { status = 200 }
         elseif path == "/loop" then
            while true do end
         elseif path == "/memory" then
            local list = {}
            for i = 1, 1e9 do list[i] = ("x"):rep(100000) .. i end
         elseif path == "/forever" then
            msg:sleep(3600)
         elseif path == "/down" then
            return msg:upstream "down"
         elseif path == "/drop" then
            return msg:drop "on purpose"
         end
         if msg.body and #msg.body > 0 then msg:set_body(msg.body .. "") end
      end,
      response = function(msg) msg:set_header("X-By", "hostile") end,
   }
end, { pure = true })
local tag = tw.nf("tag", function()
   return { message = function(msg) msg:set_header("X-Tag", msg:header "X-Token" or "none") end, on_fault = "retry" }
end, { pure = true })
local app = tw.upstream("app", { servers = { "127.0.0.1:%d" } })
local down = tw.upstream("down", { servers = { "127.0.0.1:%d" } })
local function chain(name, port, worker, instances)
   local web = tw.listen(name, "http://127.0.0.1:" .. port, { request_timeout = 3, head_timeout = %g, body_timeout = 1,
      idle = %g, body_bytes = 4000000, connections = 100000, requests = 0 })
   local c = tw.chain(name, web, tag {}, hostile {}, app)
   c:pin { worker = worker, instances = instances, whole_bytes = 2000000, pool_mb = 32, memory_mb = 32 }
end
chain("inline", %d, "inline")
chain("sk_msg", %d, "sk_msg", { hostile = 2 })
chain("rings", %d, "rings")
]]

local origin = gateway.nginx(nil, [[
location /token { add_header X-Token $http_x_token; return 200 "$http_x_token"; }
]])
local ports = { inline = gateway.port(), sk_msg = gateway.port(), rings = gateway.port() }
local ORDER = { "inline", "sk_msg", "rings" }
local down = gateway.port()

local failures = {}
local function fail(...)
   failures[#failures + 1] = string.format(...)
   say("FAILED: %s", failures[#failures])
end

-- ---- requests that are compared ----

local random = math.random

local function get(path)
   return function(token)
      return {
         text = ("GET %s HTTP/1.1\r\nHost: soak\r\nX-Token: %s\r\n\r\n"):format(path, token),
         check = function(r)
            if r.status == 200 and r.body ~= token then return ("the body is %q"):format(r.body:sub(1, 80)) end
         end,
      }
   end
end

local function echo(token)
   local body = (token .. ","):rep(random(1, 5000))
   return {
      text = ("POST /echo HTTP/1.1\r\nHost: soak\r\nX-Token: %s\r\nContent-Length: %d\r\n\r\n%s"):format(token, #body,
         body),
      check = function(r)
         if r.status == 200 and r.body ~= body then return "the body came back as another one" end
      end,
   }
end

local function chunks(token)
   local parts = {}
   for i = 1, random(1, 40) do
      local text = (token .. i):rep(random(1, 300))
      parts[i] = text
   end
   local body, out = table.concat(parts), {}
   for i, text in ipairs(parts) do out[i] = ("%x\r\n%s\r\n"):format(#text, text) end
   return {
      text = ("POST /echo HTTP/1.1\r\nHost: soak\r\nX-Token: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n")
         :format(token, table.concat(out)),
      check = function(r)
         if r.status == 200 and r.body ~= body then return "the body came back as another one" end
      end,
   }
end

local function big(token)
   local request = get "/big"(token)
   local body = (token .. "\n"):rep(math.floor(1500000 / (#token + 1)))
   request.check = function(r)
      if r.status == 200 and r.body ~= body then return ("%d bytes of another body"):format(#r.body) end
   end
   return request
end

local function must(status, path)
   local make = get(path)
   return function(token)
      local request = make(token)
      request.check = function(r)
         -- 504: so much to do that its time was over before its turn came.
         if r.status ~= status and (r.status < 502 or r.status > 504) then
            return ("%s for %s"):format(r.status, path)
         end
      end
      return request
   end
end

-- { weight, request }; what a gate thread cannot take is for workers alone.
local MIX = {
   { 400, get "/fast" }, { 200, get "/token" }, { 60, echo }, { 40, chunks }, { 60, get "/hold" }, { 60, get "/fetch" },
   { 6, big }, { 10, must(502, "/raise") }, { 10, must(502, "/nonsense") }, { 10, must(502, "/down") },
   { 1, must(504, "/forever") },
   { 1, must(502, "/loop"), true }, { 1, must(502, "/memory"), true },
}

local function mixed(workers)
   local list = {}
   for _, entry in ipairs(MIX) do
      for _ = 1, (workers or not entry[3]) and entry[1] or 0 do list[#list + 1] = entry[2] end
   end
   return function(token) return list[random(#list)](token) end
end

-- ---- clients that attack ----

local ATTACKS = {
   function() return "\0\1\2\3garbage\r\n\r\n" end,
   function() return ("\255"):rep(random(1, 5000)) end,
   function() return "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" end,
   function() return "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" end,
   function() return "GET /" .. ("a"):rep(40000) .. " HTTP/1.1\r\nHost: a\r\n\r\n" end,
   function() return "GET / HTTP/1.1\r\nHost: a\r\nX: " .. ("a"):rep(40000) .. "\r\n\r\n" end,
   function() return "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nshort" end, -- and never more
   function() return "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" end,
   function() return "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3999999\r\n\r\n" .. ("x"):rep(200000) end,
   function() return "GET /big HTTP/1.1\r\nHost: a\r\nX-Token: tttttttttttttttttttt\r\n\r\n" end, -- and does not read
   function() return "GET /hold HTTP/1.1\r\nHost: a\r\nX-Token: a\r\n\r\n" end,
   function() return "GET /token HTTP/1.1\r\nHost: a\r\nX-Tok" end,
   function() return ("GET /fast HTTP/1.1\r\nHost: a\r\nX-Token: a\r\n\r\n"):rep(random(1, 50)) end,
   function() return "GET /drop HTTP/1.1\r\nHost: a\r\n\r\n" end,
   function() return "" end,
}

local attackers, attacked = {}, 0
local LINGER = require("ffi").new("int[2]", 1, 0)

local function attack()
   while #attackers < 60 do
      local fd = net.connect("127.0.0.1", ports[ORDER[random(3)]])
      if not fd then break end
      attacked = attacked + 1
      socket.send(fd, ATTACKS[random(#ATTACKS)](), 0)
      if random(4) == 1 then require("ffi").C.shutdown(fd, 1) end
      local patience = random(10) == 1 and 3 or random() * 0.3
      attackers[#attackers + 1] = { fd = fd, at = now() + patience, read = random(2) == 1 }
   end
   for i = #attackers, 1, -1 do
      local a = attackers[i]
      if a.read then socket.receive(a.fd) end
      if now() >= a.at then
         if random(2) == 1 then require("ffi").C.tw_posix_setsockopt(a.fd, 1, 13, LINGER, 8) end
         posix.close(a.fd)
         table.remove(attackers, i)
      end
   end
end

-- ---- the engine ----

pcall(require("ffi").cdef, "int shutdown(int fd, int how);")
posix.raise_rlimit(posix.RLIMIT_NOFILE)
local engine = instances.start { script = SCRIPT:format(origin.port, down, options.idle and 600 or 1,
   options.idle and 600 or 2, ports.inline, ports.sk_msg, ports.rings),
   name = "soak" }

local function figures()
   local all, list = {}, gateway.gate(engine).services
   for _, s in ipairs(list) do all[s.name] = s end
   return all
end

local function workers()
   local list = {}
   for _, s in pairs(figures()) do
      for _, f in ipairs(s.functions) do
         for _, i in ipairs(f.instances) do
            if i.pid > 0 then list[#list + 1] = i.pid end
         end
      end
   end
   return list
end

local function exchanges_end()
   local last
   local ok = labs.eventually(15, function()
      last = nil
      for name, s in pairs(figures()) do
         if s.in_flight ~= 0 then last = ("%s: %d requests are still under way"):format(name, s.in_flight) end
         if s.pool.used ~= 0 then last = ("%s: %d blocks are not back in the pool"):format(name, s.pool.used) end
         if s.difference ~= 0 then last = ("%s: the counters differ by %d"):format(name, s.difference) end
      end
      return last == nil
   end)
   if not ok then fail("%s", last) end
end

-- Sockets that are kept to servers are no leak.
local function descriptors()
   local n = engine:descriptors()
   for _, group in ipairs(gateway.gate(engine).upstreams) do
      for _, server in ipairs(group.servers) do n = n - server.idle end
   end
   return n
end

local function end_engine()
   if os.getenv "TIDEWAY_SOAK_LOG" then
      local f = assert(io.open(os.getenv "TIDEWAY_SOAK_LOG", "w"))
      f:write(engine:log())
      f:close()
   end
   local result = engine:stop()
   if result.code ~= 0 then fail("the engine ended with %s: %s", tostring(result.code), result.err:sub(-400)) end
   origin:stop()
end

-- ---- memory of connections ----

local function idle(count)
   local port = ports.sk_msg
   local function measure(name, before, n)
      posix.poll({}, 1000)
      local rss = engine:resident()
      say("%-28s %8.1f MB, %6.0f bytes a connection", name, rss / 2 ^ 20, (rss - before) / n)
      return rss
   end
   local fds, before = {}, engine:resident()
   say("%-28s %8.1f MB", "nothing open", before / 2 ^ 20)
   for i = 1, count do
      local fd, err = net.connect("127.0.0.1", port)
      if not fd then fail("connection %d: %s", i, err) break end
      fds[i] = fd
   end
   measure(("%d open, nothing sent"):format(#fds), before, #fds)
   local answered = 0
   for i = 1, #fds do
      socket.send(fds[i], "GET /fast HTTP/1.1\r\nHost: a\r\nX-Token: a\r\n\r\n", 0)
      if posix.poll({ fds[i] }, 2000)[fds[i]] then
         local _, n = socket.receive(fds[i])
         if type(n) == "number" and n > 0 then answered = answered + 1 end
      end
   end
   measure(("%d answered once, kept"):format(answered), before, #fds)
   for _, fd in ipairs(fds) do socket.send(fd, "GET /fast HTTP/1.1\r\nHost:", 0) end
   measure(("%d in the middle of a head"):format(#fds), before, #fds)
   for _, fd in ipairs(fds) do posix.close(fd) end
   exchanges_end()
   measure("all closed", before, math.max(1, #fds))
end

-- ---- the soak ----

local killed = 0

local function progress(load, seconds)
   local sent, lost, wrong, used = 0, 0, 0, {}
   for _, s in ipairs(load) do sent, lost, wrong = sent + s.sent, lost + s.lost, wrong + s.n_wrong end
   for i, name in ipairs(ORDER) do used[i] = figures()[name].pool.used end
   say("%6.0f s  %8d requests, %d lost, %d wrong, %d attacks, %d kills, %5.1f MB, %d fds, blocks %s", seconds, sent,
      lost, wrong, attacked, killed, engine:resident() / 2 ^ 20, engine:descriptors(), table.concat(used, " "))
end

-- Clients, attackers and kills for so long; what the engine had of memory when it was warm.
local function attack_for(load, seconds)
   local start, warm = now(), nil
   local next_kill, next_line = start + 1, start + 10
   while now() < start + seconds do
      for _, s in ipairs(load) do s:step(1) end
      attack()
      if now() >= next_kill then
         local list = workers()
         if #list > 0 then
            process.terminate(list[random(#list)], 9)
            killed = killed + 1
         end
         next_kill = now() + 1 + random() * 4
      end
      if not posix.alive(engine.pid) then
         fail("the engine has died: %s", engine:log():sub(-2000))
         break
      end
      if not warm and now() > start + math.max(10, seconds * 0.2) then warm = engine:resident() end
      if now() >= next_line then
         next_line = next_line + 10
         progress(load, now() - start)
      end
   end
   return warm
end

local function finish(load)
   for i, s in ipairs(load) do
      s:finish(20)
      say("%-8s %s", ORDER[i], s:summary())
      for _, text in ipairs(s.wrong) do fail("%s: %s", ORDER[i], text) end
      if s.lost > 0 then fail("%s: %d requests had no answer", ORDER[i], s.lost) end
      if s.sent ~= s.answered + s.lost + s.under_way then fail("%s: the clients' own sums differ", ORDER[i]) end
   end
   for _, a in ipairs(attackers) do posix.close(a.fd) end
end

-- Memory, descriptors and workers as before; `warm` and `fds` are what there was.
local function is_given_back(warm, fds)
   exchanges_end()
   local rss = engine:resident()
   if warm and rss > warm * 1.2 + 16 * 2 ^ 20 then
      fail("memory grew from %.1f MB to %.1f MB", warm / 2 ^ 20, rss / 2 ^ 20)
   end
   if not labs.eventually(10, function() return descriptors() <= fds + 4 end) then
      fail("%d descriptors were open before, %d are now", fds, descriptors())
   end
   if not labs.eventually(15, function() return #workers() == 5 end) then fail("%d of 5 workers run", #workers()) end
   for name, s in pairs(figures()) do
      say("%-8s %d requests = %d answered + %d closed, pool %d blocks used, empty %d times", name, s.requests,
         s.responses, s.closed, s.pool.used, s.pool.empty)
   end
   say("memory %.1f MB when warm, %.1f MB now; descriptors %d before, %d now", (warm or 0) / 2 ^ 20, rss / 2 ^ 20, fds,
      descriptors())
end

local function soak()
   math.randomseed(options.seed)
   say("soak: %d s, seed %d, engine %d, ports %d %d %d", options.seconds, options.seed, engine.pid, ports.inline,
      ports.sk_msg, ports.rings)
   local load = {}
   for i, name in ipairs(ORDER) do
      load[i] = swarm.new { port = ports[name], connections = 8, name = name, make = mixed(name ~= "inline") }
   end
   local fds = descriptors()
   local warm = attack_for(load, options.seconds)
   finish(load)
   if not posix.alive(engine.pid) then return end
   posix.poll({}, 2500)
   is_given_back(warm, fds)
end

local ok, err = pcall(options.idle and idle or soak, options.idle)
if not ok then fail("%s", tostring(err)) end
pcall(end_engine)
say(#failures == 0 and "everything is given back" or "%d failures", #failures)
io.stdout:flush()
os.exit(#failures == 0 and 0 or 1)
