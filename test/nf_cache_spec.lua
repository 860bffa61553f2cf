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
location /files/ { alias %DIR/www/; add_header Cache-Control "max-age=600"; set $age 600;
   if ($http_if_none_match) { set $age ""; } add_header Age $age; }
location /typed/ { alias %DIR/www/; add_header Cache-Control "max-age=600"; set $age 600; set $coding "";
   if ($http_if_none_match) { set $age ""; set $coding gzip; } add_header Age $age;
   add_header Content-Encoding $coding; add_header X-Coding $coding; }
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
      -- What comes is as old as it may get; when it is asked about again it is new.
      for _, file in ipairs { "same", "news" } do
         shell.write(origin.dir .. "/www/" .. file, "old\n")
         assert.equal("old\n", (get("/files/" .. file)))
      end
      local body, hit = get "/files/same"
      assert.same({ "old\n", "REVALIDATED" }, { body, hit })
      assert.equal("HIT", (select(2, get "/files/same")))
      shell.write(origin.dir .. "/www/news", "newer\n")
      body, hit = get "/files/news"
      assert.same({ "newer\n" }, { body, hit })
   end)

   live("takes headers of a 304 over, but none that describes the body", "sk_msg", function()
      shell.write(origin.dir .. "/www/typed.txt", "plain\n")
      get "/typed/typed.txt"
      for _, word in ipairs { "REVALIDATED", "HIT" } do
         local body, hit, r = get "/typed/typed.txt"
         assert.same({ "plain\n", word }, { body, hit })
         assert.is_nil(r.head:lower():find("\ncontent-encoding:", 1, true))
         assert.truthy(r.head:find("\nX-Coding: gzip\r", 1, true))
      end
   end)

   live("keeps large bodies byte by byte, and lets larger ones pass", "sk_msg", function()
      for _, bytes in ipairs { 300000, 3000000 } do
         local path = origin.dir .. "/www/random"
         shell.run(("head -c %d /dev/urandom >%s-%d"):format(bytes, path, bytes))
         local want = posix.slurp(path .. "-" .. bytes)
         for i = 1, 2 do
            local body, hit = get("/long/random-" .. bytes)
            assert.is_true(body == want, ("a body of %d bytes came as %d others"):format(bytes, #body))
            if i == 1 or bytes ~= 300000 then
               assert.is_nil(hit)
            elseif not hit then -- the client has all of it a moment before the cache has
               assert.truthy(labs.eventually(60, function() return select(2, get("/long/random-" .. bytes)) == "HIT" end))
            end
         end
      end
   end)

   live("fetches once what many want at the same time", "sk_msg", function()
      local body, dir = ("many\n"):rep(5000), shell.directory()
      shell.write(origin.dir .. "/www/many", body)
      local before, commands = origin:count "/slow/many", {}
      for i = 1, 12 do commands[i] = ("curl -s -m 60 -o %s/%d '%s/slow/many' &"):format(dir, i, url) end
      shell.run(table.concat(commands, "\n") .. "\nwait", 90)
      for i = 1, 12 do assert.is_true(posix.slurp(dir .. "/" .. i) == body, "client " .. i) end
      shell.remove(dir)
      assert.equal(before + 1, origin:count "/slow/many")
   end, ", wait = 60")

   live("goes on when who fetches for others leaves", "sk_msg", function()
      shell.write(origin.dir .. "/www/drip", ("drip\n"):rep(8000))
      local before = origin:count "/slow/drip"
      local first = labs.spawn(("curl -s -o /dev/null %s/slow/drip"):format(url))
      assert.truthy(labs.eventually(60, function() return gateway.gate(engine).upstreams[1].servers[1].active == 1 end))
      first:stop "KILL"
      local body, hit, r = get("/slow/drip", "-m 60")
      assert.same({ 200, 40000 }, { r.status, #body })
      assert.is_nil(hit)
      assert.equal(before + 2, origin:count "/slow/drip")
      -- The client has all of it a moment before the cache has.
      assert.truthy(labs.eventually(60, function() return select(2, get("/slow/drip", "-m 60")) == "HIT" end))
   end, ", wait = 1")

   live("forgets what was written to", "inline", function()
      for i = 1, 2 do assert.equal(i == 2 and "HIT" or nil, (select(2, get "/write"))) end
      assert.equal(204, select(3, get("/write", "-X POST")).status)
      assert.is_nil((select(2, get "/write")))
   end)

   live("stands in for a server that fails", "inline", function()
      assert.equal("brief\n", (get "/brief"))
      posix.poll({}, 2100)
      origin:stop()
      local body, hit = get "/brief"
      origin = gateway.nginx(origin.port, LOCATIONS)
      assert.same({ "brief\n", "STALE" }, { body, hit })
   end)
end)
