-- SPDX-License-Identifier: BSD-3-Clause
-- A function that has been taken over writes over all shared memory of its chain while traffic flows: the engine lives,
-- its sums are exact, other processes go on, and the chain serves again when that function is gone.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local SCRIPT = [[
local tw = require "tideway"
tw.options { drain = 2 }

local evil = tw.nf("evil", function()
   local kinds = { 0, 1, 65, 4095, 0x7fffffff, 0xffffffff }
   return {
      message = function(msg)
         local ffi, bit, C = require "ffi", require "bit", require("tideway.abi").C
         local n, boards, size = ffi.new "uint32_t[1]", ffi.new "uint32_t[1]", ffi.new "uint32_t[1]"
         C.tw_pool_places(16, n, boards, ffi.new "uint32_t[1]")
         local words = ffi.cast("uint64_t *", C.tw_pool_board(msg.pool, 0)) - boards[0]
         local blocks, own = n[0], C.tw_pool_board(msg.pool, msg.v.member)
         local how = msg.path:match "^/evil/(%a+)"
         while true do
            own.current = 0 -- "nothing in hand": nobody finds it stuck
            for i = 0, blocks - 1 do
               local word = words[i]
               if how == "words" then -- wrong for a moment, several times
                  for _ = 1, bit.band(word, 0xffff0000ULL) ~= 0ULL and 20 or 0 do
                     words[i] = bit.bxor(word, 0x0000010000000000ULL)
                     C.tw_now() -- else the compiler leaves this store out
                     words[i] = word
                  end
               elseif how == "junk" then
                  if math.random(1000) == 1 then words[i] = math.random(0, 2 ^ 31) * 2ULL ^ 33 + math.random(0, 2 ^ 31) end
               else
                  local handle = bit.bor(bit.lshift(bit.rshift(word, 40), 32), i)
                  local at = ffi.cast("uint32_t *", C.tw_pool_peek(msg.pool, handle, size))
                  if at ~= nil then at[math.random(0, 200)] = kinds[math.random(#kinds)] end
               end
            end
         end
      end,
   }
end, { pure = true })

local whole = tw.nf("whole", function()
   return {
      body = "whole",
      message = function(msg)
         if msg.path:find "^/evil" then return msg:route "evil" end
         if msg.path == "/respond" then return msg:respond(200, nil, "here") end
         if msg.path == "/fetch" then
            local answer = msg:fetch { upstream = "app", path = "/small" }
            return msg:respond(200, nil, answer and answer.body or "none")
         end
         msg:set_header("X-Seen", "yes")
      end,
      response = function(msg) msg:set_header("X-Back", "yes") end,
   }
end, { pure = true })
local pieces = tw.nf("pieces", function() return { data = function() end } end, { pure = true })

local web = tw.listen("web", "http://127.0.0.1:%PORT", { request_timeout = 2, body_timeout = 1, head_timeout = 1 })
local app = tw.upstream("app", { servers = { "127.0.0.1:%ORIGIN" }, response_timeout = 2 })
local c = tw.chain("web", web, whole {}, pieces {}, app)
c:route("evil", evil {})
c:pin { worker = "%WORKER", pool_mb = 16, memory_mb = 32 }
]]

-- All kinds of requests, one behind the other on each connection.
local MIX = [[
local paths, body, i = { "/small", "/fetch", "/respond", "/large", "/post" }, ("x"):rep(100000), 0
request = function()
   i = i + 1
   local path = paths[i % #paths + 1]
   return path == "/post" and wrk.format("POST", path, nil, body) or wrk.format("GET", path)
end
]]

for _, transport in ipairs { "sk_msg", "rings" } do
   describe("shared memory that a function writes over, on " .. transport .. ":", function()
      local why = gateway.missing("nginx", "curl", "wrk")
      local engine, origin, dir

      after_each(function()
         if engine then engine:stop "KILL" end
         if origin then origin:stop() end
         if dir then shell.remove(dir) end
         engine, origin, dir = nil, nil, nil
      end)

      local function evil_pid()
         for _, f in ipairs(gateway.service(engine, "web").functions) do
            if f.name == "evil" then return f.instances[1].pid end
         end
      end

      for _, how in ipairs { "words", "junk", "heads" } do
         it(how, function()
            if why then return pending(why) end
            local port = gateway.port()
            local url = "http://127.0.0.1:" .. port
            origin = gateway.nginx(nil, "location /post { return 200 posted; }")
            dir = shell.directory()
            shell.write(dir .. "/mix.lua", MIX)
            engine = instances.start { script = (SCRIPT:gsub("%%(%u+)",
               { PORT = port, ORIGIN = origin.port, WORKER = transport })) }
            assert.truthy(labs.eventually(60, function() return gateway.curl(url .. "/fetch").body == "small\n" end))
            local begun = labs.spawn(("curl -s -m 4 -o /dev/null %s/evil/%s"):format(url, how))
            shell.run(("wrk -t 1 -c 8 -d 3 -s %s/mix.lua %s"):format(dir, url))
            begun:stop "KILL"
            assert.truthy(posix.alive(engine.pid), engine:log():sub(-2000))
            shell.run("kill -9 " .. evil_pid())
            assert.truthy(labs.eventually(60, function()
               for _ = 1, 20 do
                  if gateway.curl(url .. "/fetch").body ~= "small\n" then return false end
               end
               return gateway.curl(url .. "/large").body == origin.large
            end), "it does not serve any more: " .. engine:log():sub(-1000))
            local result = engine:stop()
            assert.equal(0, result.code, result.err)
            local s = result.counters.gate.services[1]
            assert.equal(s.requests, s.responses + s.closed)
            assert.falsy(result.err:find("runtime error", 1, true) or result.err:find("AddressSanitizer", 1, true), result.err)
         end)
      end
   end)
end
