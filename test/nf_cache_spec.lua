-- SPDX-License-Identifier: BSD-3-Clause
-- The cache in the real binary: curl in front, nginx behind, on all transports. What it may keep is nf_cache_policy_spec.

local gateway = require "test.support.gateway"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local LOCATIONS = [[
location = /brief { add_header Cache-Control "max-age=1"; add_header ETag '"v1"'; return 200 "brief\n"; }
location = /fresh { add_header Cache-Control "max-age=600"; add_header ETag '"v1"'; return 200 "fresh $http_x_n\n"; }
location = /secret { add_header Cache-Control "private, max-age=600"; return 200 "secret\n"; }
location = /language { add_header Vary "Accept-Language"; add_header Cache-Control "max-age=600";
   return 200 "$http_accept_language\n"; }
location /files/ { alias %DIR/www/; add_header Cache-Control "max-age=1"; }
location /slow/ { alias %DIR/www/; add_header Cache-Control "max-age=600"; limit_rate 20000; }
location /long/ { alias %DIR/www/; add_header Cache-Control "max-age=600"; }
location = /write { add_header Cache-Control "max-age=600"; if ($request_method = POST) { return 204; } return 200 "w\n"; }
]]

local SCRIPT = [[
local tw = require "tideway"
tw.options { drain = 1 }
local web = tw.listen("web", "http://127.0.0.1:%d")
local app = tw.upstream("app", { servers = { "127.0.0.1:%d" }, retries = 0 })
tw.chain("web", web, tw.nf.cache { megabytes = 16, stale_if_error = 600%s }, app):pin { worker = "%s" }
]]

local function missing()
   if not labs.is_root and labs.missing() then return labs.missing() end
   for _, program in ipairs { "nginx", "curl" } do
      if not shell.has(program) then return program .. " is not installed" end
   end
end

describe("the cache, live:", function()
   local why = missing()
   local origin, engine, url

   setup(function() origin = not why and gateway.nginx(nil, LOCATIONS) or nil end)
   teardown(function()
      if origin then origin:stop() end
   end)
   after_each(function()
      if engine then engine:stop "KILL" end
      engine = nil
   end)

   local function get(path, options)
      local r = gateway.curl(url .. path, options)
      return r.body, r.head:match "X%-Cache: (%u+)", r
   end

   local function live(name, transport, test, options)
      it(name .. " (" .. transport .. ")", function()
         if why then return pending(why) end
         local port = gateway.port()
         url = "http://127.0.0.1:" .. port
         engine = instances.start { script = SCRIPT:format(port, origin.port, options or "", transport) }
         test()
         local result = engine:stop()
         engine = nil
         assert.equal(0, result.code, result.err)
      end)
   end

   for _, transport in ipairs { "inline", "sk_msg", "rings" } do
      live("answers with what is fresh, asks about what is not, keeps what it may alone", transport, function()
         local before = origin:count "/fresh"
         assert.equal("fresh 1\n", (get("/fresh", "-H 'X-N: 1'")))
         local body, hit, r = get("/fresh", "-H 'X-N: 2'")
         assert.same({ "fresh 1\n", "HIT" }, { body, hit })
         assert.truthy(r.head:find "Age: %d+\r\n")
         assert.equal(before + 1, origin:count "/fresh")
         assert.equal(304, select(3, get("/fresh", [[-H 'If-None-Match: "v1"']])).status)
         assert.equal(200, select(3, get("/fresh", [[-H 'If-None-Match: "v0"']])).status)
         local _, head, whole = get("/fresh", "-I")
         assert.same({ "HIT", 200 }, { head, whole.status })
         assert.truthy(whole.head:find "Content%-Length: 8\r\n")
         assert.equal("fresh 3\n", (get("/fresh", "-H 'X-N: 3' -H 'Cache-Control: no-cache'")))
         for _ = 1, 2 do assert.is_nil((select(2, get "/secret"))) end
         for _, language in ipairs { "de", "en" } do
            assert.equal(language .. "\n", (get("/language", "-H 'Accept-Language: " .. language .. "'")))
         end
         assert.same({ "de\n", "HIT" }, { (get("/language", "-H 'Accept-Language: de'")),
            (select(2, get("/language", "-H 'Accept-Language: de'"))) })
         assert.equal(504, select(3, get("/nowhere", "-H 'Cache-Control: only-if-cached'")).status)
      end)
   end

   live("asks whether a stale one changed, and takes a new one when it did", "sk_msg", function()
      local path = origin.dir .. "/www/news"
      shell.write(path, "old\n")
      assert.equal("old\n", (get "/files/news"))
      posix.poll({}, 2100)
      local body, hit = get "/files/news"
      assert.same({ "old\n", "REVALIDATED" }, { body, hit })
      assert.equal("HIT", (select(2, get "/files/news")))
      shell.write(path, "newer\n")
      posix.poll({}, 2100)
      assert.equal("newer\n", (get "/files/news"))
   end)

   live("keeps large bodies byte by byte, and lets larger ones pass", "sk_msg", function()
      for _, bytes in ipairs { 300000, 3000000 } do
         local path = origin.dir .. "/www/random"
         shell.run(("head -c %d /dev/urandom >%s-%d"):format(bytes, path, bytes))
         local want = posix.slurp(path .. "-" .. bytes)
         for i = 1, 2 do
            local body, hit = get("/long/random-" .. bytes)
            assert.is_true(body == want, ("a body of %d bytes came as %d others"):format(bytes, #body))
            assert.equal(i == 2 and bytes == 300000 and "HIT" or nil, hit)
         end
      end
   end)

   live("fetches once what many want at the same time", "sk_msg", function()
      local before = origin:count "/long/index.html?many"
      local commands = {}
      for i = 1, 12 do commands[i] = ("curl -s -m 10 '%s/long/index.html?many' &"):format(url) end
      local r = shell.run(table.concat(commands, "\n") .. "\nwait", 30)
      assert.equal(("index\n"):rep(12), r.out)
      assert.equal(before + 1, origin:count "/long/index.html?many")
   end)

   live("goes on when who fetches for others leaves", "sk_msg", function()
      shell.write(origin.dir .. "/www/drip", ("drip\n"):rep(8000))
      local before = origin:count "/slow/drip"
      assert.equal(28, select(3, get("/slow/drip", "-m 0.3")).code) -- of curl: took too long
      local from = posix.now()
      local body, hit, r = get "/slow/drip"
      assert.same({ 200, 40000 }, { r.status, #body })
      assert.is_nil(hit)
      assert.is_true(posix.now() - from < 8e9)
      assert.equal(before + 2, origin:count "/slow/drip")
      assert.equal("HIT", (select(2, get "/slow/drip")))
   end, ", wait = 1")

   live("forgets what was written to", "inline", function()
      for i = 1, 2 do assert.equal(i == 2 and "HIT" or nil, (select(2, get "/write"))) end
      assert.equal(204, select(3, get("/write", "-X POST")).status)
      assert.is_nil((select(2, get "/write")))
   end)

   live("stands in for a server that fails", "inline", function()
      assert.equal("brief\n", (get "/brief"))
      posix.poll({}, 2100)
      origin.process:signal "STOP"
      origin:stop()
      local body, hit = get "/brief"
      origin = gateway.nginx(origin.port, LOCATIONS)
      assert.same({ "brief\n", "STALE" }, { body, hit })
   end)
end)
