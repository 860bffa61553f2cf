-- SPDX-License-Identifier: BSD-3-Clause
-- The control socket of a running engine: what clients ask, and those who are slow, silent, hostile, many, or may not.

local client = require "tideway.control.client"
local instances = require "test.support.instance"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local protocol = require "tideway.control.protocol"
local shell = require "test.shell"

local SESSION = 'local session = require "tideway.live.session"; '

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text and text:find(part, 1, true), ("no %q in:\n%s"):format(part, tostring(text)))
   end
end

describe("the control socket", function()
   local engine, clients

   setup(function() engine = instances.start {} end)
   teardown(function()
      if engine then engine:stop() end
   end)
   before_each(function() clients = {} end)
   after_each(function()
      for _, c in ipairs(clients) do c:close() end
   end)

   local function open()
      local c = engine:client()
      clients[#clients + 1] = c
      return c
   end

   -- Connected without a word.
   local function connect()
      local c = assert(client.connect(engine.path))
      clients[#clients + 1] = c
      return c
   end

   -- The engine answers somebody else at once, whatever goes on.
   local function serves_others()
      local c = open()
      assert.is_true(c:call("clients", {}, { seconds = 60 }).ok)
      c:close()
   end

   local function with_limits(module, limits, test)
      local old = {}
      for name, value in pairs(limits) do
         old[name] = engine:eval(("require(%q).limits.%s"):format(module, name))
         engine:eval(("require(%q).limits.%s = %s"):format(module, name, value))
      end
      local ok, err = pcall(test)
      for name, value in pairs(old) do engine:eval(("require(%q).limits.%s = %s"):format(module, name, value)) end
      if not ok then error(err, 0) end
   end

   -- Connections that are still open there, without the one that asks.
   local function connected() return #engine:eval("clients()") - 1 end

   local function closes(c, why)
      assert.is_truthy(labs.eventually(60, function() return not c:receive() end), "it is open still")
      has(c.closed, why)
   end

   describe("answers", function()
      it("hello with what it is and who we are", function()
         local hello = open().hello
         assert.equal("spec", hello.instance)
         assert.equal(engine.pid, hello.pid)
         assert.equal("admin", hello.role)
         assert.equal("root", hello.user)
         assert.same({ "c" }, hello.chains)
         assert.equal(require "tideway.version", hello.version)
      end)

      it("an expression with its values, statements with what they print", function()
         local c, out = open(), {}
         assert.same({ 3, "x" }, c:eval("1 + 2, 'x'").view.data)
         assert.is_nil(c:eval("").view)
         assert.is_nil(c:eval("local a = 1 -- comment").view)
         assert.equal(4, c:eval("2 * 2 -- comment").view.data)
         assert.equal(5, c:eval("local a = 5 return a").view.data)
         c:eval("for i = 1, 3 do print(i, 'x') end", {
            event = function(kind, data) out[#out + 1] = kind .. " " .. data end,
         })
         assert.same({ "out 1\tx\n", "out 2\tx\n", "out 3\tx\n" }, out)
      end)

      it("each client with globals of its own, that stay", function()
         local a, b = open(), open()
         a:eval "here = 17"
         assert.equal(17, a:eval("here").view.data)
         has(b:eval("here").error, '"here"')
      end)

      it("an error with its position; an incomplete line says so", function()
         local c = open()
         assert.equal("eval:2: bad", c:eval("\nerror 'bad'").error)
         assert.equal("eval:1: bad", c:eval("error 'bad'").error)
         local r = c:eval "for i = 1, 3 do"
         assert.is_true(r.incomplete)
         has(r.error, "<eof>")
         assert.is_false(c:eval("for for").incomplete)
         has(c:eval("1) print(2").error, "eval:1:")
         has(c:eval("x)(y").error, "eval:1:")
         has(c:request({ op = "eval", code = string.dump(function() end) }).error, "attempt to load")
      end)

      it("the call of a command; an unknown one with those there are", function()
         local c = open()
         assert.equal("table", c:call("log", { 5 }).view.view)
         has(c:call("nope").error, '"nope"', "clients", "log")
         has(c:call("log", { "x" }).error, "log: how many")
         has(c:request({ op = "call", name = "log", args = "x" }).error, "args is a list")
         has(c:request({ op = "nope" }).error, '"nope"', "hello, call, eval")
         has(c:request({ op = "eval" }).error, "code, a string")
      end)

      it("values of every kind", function()
         local c = open()
         for _, code in ipairs {
            "nil", "0/0", "1/0", "2^63", "-1ULL", "{}", "{ [1.5] = {} }", "print", "io.stdout", "coroutine.create(print)",
            "require'ffi'.new'struct tw_stats *'", "setmetatable({}, { __tostring = function() error 'x' end })", "'\\0\\255'",
            "_G", "tw", "setmetatable({}, { __index = error })",
         } do
            local r = c:eval(code, { seconds = 60 })
            assert.is_true(r.ok or type(r.error) == "string", code)
         end
         assert.equal(2, c:eval("1 + 1").view.data)
      end)

      it("a result that is too long with an error that says so", function()
         local c = open()
         has(c:eval("('x'):rep(2^20)").error, "the result cannot be sent", "at most 1048576")
         assert.equal(2, c:eval("1 + 1").view.data)
      end)

      it("requests that wait while others run", function()
         local a, b = open(), open()
         local slow = a:send { op = "eval", code = SESSION .. "session.sleep(1000); return 'slow'" }
         local next_one = a:send { op = "eval", code = "'quick'" }
         assert.equal("quick", a:wait(next_one).view.data)
         assert.equal(2, b:eval("1 + 1").view.data)
         assert.is_nil(a.replies[slow])
         a:cancel(slow)
         assert.equal("slow", a:wait(slow).view.data) -- it stops by itself
         local waiting = a:send {
            op = "eval", code = SESSION .. "return session.wait(function() return rawget(package.loaded, 'there') end, 60)",
         }
         posix.poll({}, 50)
         b:eval "rawset(package.loaded, 'there', 99)"
         assert.equal(99, a:wait(waiting, { seconds = 60 }).view.data)
         assert.is_nil(a:eval(SESSION .. "return (session.wait(function() end, 0.05))").view.data)
      end)
   end)

   describe("ends an evaluation", function()
      local LOOPS = {
         "while true do end", "repeat until false", "local function f() return f() end f()",
         "for i = 1, math.huge do pcall(function() while true do end end) end",
         "while true do xpcall(function() while true do end end, function() while true do end end) end",
         "coroutine.wrap(function() while true do end end)()", "loadstring 'while true do end' ()",
         "while true do pcall(coroutine.wrap(function() while true do pcall(error) end end)) end",
         "table.sort({ 1, 2, 3 }, function() while true do end end)",
         "('x'):gsub('x', function() while true do end end)",
         "setmetatable({}, { __index = function() while true do end end }).x = nil, _",
         SESSION .. "while true do session.sleep(1000) end", SESSION .. "while true do session.wait(function() end) end",
         SESSION .. "session.wait(function() while true do end end)",
         SESSION .. "while true do pcall(session.sleep, 0.01) end",
         "while true do print(('x'):rep(100)) end", SESSION .. "session.engine_code(function() while true do end end)",
      }
      for _, code in ipairs(LOOPS) do
         it("when its client says so, others are served meanwhile: " .. code:gsub("^local session.-; ", ""), function()
            local c = open()
            local id = assert(c:send { op = "eval", code = code })
            posix.poll({}, 30)
            c:receive()
            if code:find "__index" then return c:wait(id, { seconds = 60 }) end -- does not compile: it is over
            assert.is_nil(c.replies[id])
            serves_others()
            assert.is_nil(c.replies[id])
            c:cancel(id)
            assert.equal("stopped", c:wait(id, { seconds = 60 }).error)
         end)
      end

      it("that can stop by itself, with its result", function()
         local c = open()
         local id = c:send {
            op = "eval", code = SESSION .. "local n = 0; while not session.cancelled() do n = n + 1; session.sleep(0.01) end; "
               .. "return n > 0",
         }
         posix.poll({}, 100)
         c:cancel(id)
         assert.is_true(c:wait(id, { seconds = 60 }).view.data)
      end)

      it("and does what it left to be done", function()
         local c = open()
         local id = c:send {
            op = "eval", code = SESSION .. "session.defer(function() rawset(package.loaded, 'done', 1) end); while true do end",
         }
         posix.poll({}, 50)
         c:cancel(id)
         assert.equal("stopped", c:wait(id, { seconds = 60 }).error)
         assert.equal(1, c:eval("rawget(package.loaded, 'done')").view.data)
      end)

      it("but no step that must be whole", function()
         local c = open()
         local id = c:send {
            op = "eval", code = SESSION .. "session.uninterrupted(function() local stop = tw.now() + 3e8; "
               .. "while tw.now() < stop do end; rawset(package.loaded, 'whole', 1) end); while true do end",
         }
         posix.poll({}, 50)
         c:cancel(id)
         assert.equal("stopped", c:wait(id, { seconds = 60 }).error)
         assert.equal(1, c:eval("rawget(package.loaded, 'whole')").view.data)
      end)

      it("whose client left", function()
         local c = open()
         c:send { op = "eval", code = "rawset(package.loaded, 'left', 0) while true do rawset(package.loaded, 'left', rawget(package.loaded, 'left') + 1) end" }
         posix.poll({}, 100)
         c:close()
         assert.is_truthy(labs.eventually(60, function()
            return engine:log():find("left') + 1) end: stopped", 1, true)
         end))
         local n = engine:eval "rawget(package.loaded, 'left')"
         assert.is_true(n > 0)
         assert.equal(n, engine:eval "rawget(package.loaded, 'left')")
      end)

      it("that takes too much memory, and gives it back", function()
         engine:eval 'require("tideway.live.fence").memory_mb = 32'
         local before = engine:eval "collectgarbage() or collectgarbage 'count'"
         for _, code in ipairs {
            "local t = {} while true do t[#t + 1] = { #t } end",
            "local s = 'x' while true do s = s .. s:sub(1, 100000) end",
            "local t = {} while true do pcall(function() while true do t[#t + 1] = { #t } end end) end",
         } do
            has(open():eval(code, { seconds = 60 }).error, "more than 32 MB")
         end
         assert.equal(0, open():eval("local t for i = 1, 1e6 do t = { i } end return 0", { seconds = 60 }).view.data)
         local after = engine:eval "collectgarbage() or collectgarbage 'count'"
         engine:eval 'require("tideway.live.fence").memory_mb = 256'
         assert.is_true(after - before < 8192, ("%d KiB before, %d after"):format(before, after))
      end)

      it("that recurses for ever", function()
         has(open():eval("local function f() return 1 + f() end return f()").error, "stack overflow")
         has(open():eval("return string.rep('(', 1e5)").error or "", "")
      end)
   end)

   describe("is not held up by", function()
      it("half a request and then silence, which it ends", function()
         with_limits("tideway.control.connection", { half = 1 }, function()
            local c, d = connect(), connect()
            c:send_bytes "\0\0\1"
            d:send_bytes(protocol.encode({ id = 1, op = "hello" }):sub(1, -2))
            serves_others()
            closes(c, "no whole request came")
            closes(d, "no whole request came")
         end)
      end)

      it("one who connects and says nothing, which it ends", function()
         with_limits("tideway.control.connection", { half = 1 }, function()
            closes(connect(), "no whole request came")
         end)
      end)

      it("silence after a request, which it does not end", function()
         with_limits("tideway.control.connection", { half = 1 }, function()
            local c = open()
            posix.poll({}, 3000)
            assert.equal(2, c:eval("1 + 1").view.data)
         end)
      end)

      it("a request byte by byte", function()
         local c = connect()
         for byte in protocol.encode({ id = 1, op = "eval", code = "40 + 2" }):gmatch "." do assert(c:send_bytes(byte)) end
         assert.equal(42, c:wait(1, { seconds = 60 }).view.data)
      end)

      it("a line of 1 MB", function()
         local c = connect()
         c:send_bytes(("x"):rep(2 ^ 20))
         closes(c, "a frame of")
         serves_others()
      end)

      it("the longest requests, one after the other", function()
         local c, code = open(), "#[[" .. ("x"):rep(2 ^ 20 - 100) .. "]]"
         for _ = 1, 5 do assert.equal(2 ^ 20 - 100, c:eval(code, { seconds = 60 }).view.data) end
         has(c:eval("--" .. ("x"):rep(2 ^ 20)).error, "the request cannot be sent")
      end)

      it("JSON that is none, deep, or not a request", function()
         for _, text in ipairs {
            "{", "[[[[", ("["):rep(1e6), ("{\"a\":"):rep(1e5), "\"id\"", "nil", "{}", '{"id":"x","op":"eval"}', '{"id":-1}',
            '{"id":1.5}', '{"id":1e300}', '{"id":1}', '{"id":1,"op":{}}', '{"id":1,"op":"call","name":{}}',
            '{"id":1,"op":"call","name":"log","args":{"x":1}}', '{"id":1,"op":"eval","code":[1]}',
            '{"id":1,"op":"cancel","target":{}}', '{"id":1,"op":"cancel"}', '{"id":1,"op":"complete"}',
            '{"id":1,"op":"call","name":"log","args":[null,null,1]}', '{"id":1,"op":"complete","text":"a."}',
         } do
            local c = connect()
            local n = #text + 1
            c:send_bytes(string.char(0, math.floor(n / 65536), math.floor(n / 256) % 256, n % 256) .. "J" .. text)
            assert.is_truthy(labs.eventually(60, function() return not c:receive() or c.closed or next(c.replies) end), text)
            c:close()
         end
         serves_others()
      end)

      it("random bytes", function()
         math.randomseed(7)
         for n = 1, 300 do
            local bytes = {}
            for i = 1, math.random(1, 400) do bytes[i] = string.char(math.random(0, 255)) end
            local c = connect()
            if n % 3 == 0 then bytes[1] = "\0\0" .. string.char(0, math.random(1, 255)) .. "J" end
            c:send_bytes(table.concat(bytes))
            if n % 2 == 0 then c:receive() end
            c:close()
         end
         serves_others()
         assert.is_truthy(labs.eventually(60, function() return connected() == 0 end))
      end)

      it("one who sends the same number twice", function()
         local c = connect()
         local frame = protocol.encode { id = 5, op = "eval", code = SESSION .. "session.sleep(0.2); return 1" }
         c:send_bytes(frame .. frame)
         c:receive()
         has(c:wait(5, { seconds = 60 }).error, "served still")
         assert.equal(1, c:wait(5, { seconds = 60 }).view.data)
      end)

      it("one who does not read what it asked for: it is lost, counted and told", function()
         local c = open()
         local rss = engine:resident()
         local id = c:send { op = "eval", code = "for i = 1, 20000 do print(('x'):rep(1000)) end return 'end'" }
         assert.is_truthy(labs.eventually(60, function()
            serves_others()
            local list = engine:eval "clients()"
            for _, entry in ipairs(list) do
               if entry.dropped > 0 and entry.running == 0 then return true end
            end
         end))
         assert.is_true(engine:resident() - rss < 32e6)
         local lines, note = 0, nil
         local reply = c:wait(id, {
            event = function(kind, _, event)
               if kind == "out" then lines = lines + 1 else note = event.dropped end
            end,
         })
         assert.is_nil(note) -- what is lost at the end comes with the reply
         assert.equal("end", reply.view.data)
         assert.equal(20000, lines + reply.dropped)
         assert.is_true(reply.dropped > 1000)
      end)

      it("one who reads late: what was lost is told where it is missing", function()
         local c, first, dropped, later = open(), 0, 0, 0
         local id = c:send { op = "eval", code = SESSION .. [[
            for i = 1, 5000 do print(('x'):rep(1000)) end
            rawset(package.loaded, "filled", true)
            session.wait(function() return session.room() > 1e6 end, 60)
            for i = 1, 10 do print "later" end]] }
         assert.is_truthy(labs.eventually(60, function() return engine:eval "rawget(package.loaded, 'filled')" end))
         local reply = c:wait(id, {
            seconds = 60, event = function(kind, data, event)
               if kind == "note" then dropped = dropped + event.dropped
               elseif data == "later\n" then later = later + 1
               else first = first + 1 end
            end,
         })
         assert.is_true(reply.ok)
         assert.is_nil(reply.dropped)
         assert.equal(10, later)
         assert.equal(5000, first + dropped)
      end)

      it("one who never reads, which it ends", function()
         with_limits("tideway.control.connection", { stuck = 0.5 }, function()
            local c = open()
            c:send { op = "eval", code = "for i = 1, 5000 do print(('x'):rep(1000)) end" }
            local ended = labs.eventually(60, function() return connected() == 0 end)
            c:close()
            assert.is_truthy(ended)
         end)
      end)

      it("a flood of requests, each of which is answered", function()
         local c, frames, n = open(), {}, 20000
         for i = 1, n do frames[i] = protocol.encode { id = 1000 + i, op = "eval", code = "1" } end
         local socket = require "tideway.posix.socket"
         local bytes, at, answered = table.concat(frames), 0, 0
         local stop = posix.now() + 120e9
         while answered < n and posix.now() < stop do
            if at < #bytes then at = at + (socket.send(c.fd, bytes, at) or 0) end
            assert.is_true(c:receive())
            for id, reply in pairs(c.replies) do
               assert.is_true(reply.ok)
               c.replies[id], answered = nil, answered + 1
            end
         end
         assert.equal(n, answered)
      end)

      it("a flood of requests by one who does not read", function()
         local c, socket = open(), require "tideway.posix.socket"
         local rss = engine:resident()
         local bytes, sent = (protocol.encode { id = 7, op = "hello" }):rep(1000), 0
         local idle = 0
         while idle < 20 do -- until no more is taken
            local n = socket.send(c.fd, bytes, 0)
            if n == #bytes then sent, idle = sent + n, 0 else
               idle = idle + 1
               posix.poll({}, 10)
               if n then break end -- a part of it: enough
            end
            assert.is_true(sent < 64e6)
         end
         serves_others()
         assert.is_true(engine:resident() - rss < 32e6)
      end)
   end)

   describe("with many clients", function()
      it("answers a hundred at once", function()
         local list = {}
         for i = 1, 100 do list[i] = connect() end
         for i, c in ipairs(list) do c:send { op = "eval", code = tostring(i) .. " * 1" } end -- all ready in one turn
         for i, c in ipairs(list) do assert.equal(i, c:wait(1, { seconds = 60 }).view.data) end
         for _, c in ipairs(list) do c:close() end
      end)

      it("takes 128 and tells the next one why not", function()
         assert.is_truthy(labs.eventually(60, function() return connected() == 0 end))
         local list = {}
         for i = 1, 128 do list[i] = open() end
         local c = connect()
         closes(c, "128 clients are connected")
         list[1]:close()
         assert.is_truthy(labs.eventually(60, function()
            local d = connect()
            return d:request({ op = "hello" }, { seconds = 60 }).ok
         end))
      end)

      it("comes through a storm of connections with what it had before", function()
         for _, c in ipairs(clients) do c:close() end
         assert.is_truthy(labs.eventually(60, function() return connected() == 0 end))
         local fds = engine:descriptors()
         local heap = engine:eval "collectgarbage() or collectgarbage 'count'"
         for i = 1, 3000 do
            local c = client.connect(engine.path)
            if c then
               if i % 3 == 0 then c:send { op = "hello" } end
               if i % 5 == 0 then c:send { op = "eval", code = "while true do end" } end
               c:close()
            end
         end
         assert.is_truthy(labs.eventually(60, function() return connected() == 0 end))
         assert.is_truthy((labs.eventually(60, function() return engine:descriptors() <= fds end)), "descriptors are left")
         assert.is_true(engine:eval "collectgarbage() or collectgarbage 'count'" - heap < 4096)
      end)

      it("waits, and does not burn a CPU, when there are no descriptors left", function()
         if not shell.has "prlimit" then return pending "prlimit is missing" end
         local function limit(n) assert.equal(0, shell.run(("prlimit --pid %d --nofile=%s:"):format(engine.pid, n)).code) end
         local function spent()
            local stat = posix.slurp(("/proc/%d/stat"):format(engine.pid)):match "%) (.*)"
            local words = {}
            for word in stat:gmatch "%S+" do words[#words + 1] = word end
            return (tonumber(words[12]) + tonumber(words[13])) / 100
         end
         local c = open()
         local used, most, left = {}, 0, 3
         for entry in require("lfs").dir(("/proc/%d/fd"):format(engine.pid)) do used[tonumber(entry) or -1] = true end
         while left > 0 do
            if not used[most] then left = left - 1 end
            most = most + 1
         end
         limit(most) -- three more
         local list = {}
         for i = 1, 20 do list[i] = connect() end
         local before = spent()
         posix.poll({}, 1000)
         local burnt = spent() - before
         assert.equal(2, c:eval("1 + 1").view.data)
         limit(1024)
         for _, d in ipairs(list) do assert.is_true(d:request({ op = "hello" }, { seconds = 60 }).ok) end
         assert.is_true(burnt < 0.5, ("%g s of a CPU"):format(burnt))
         labs.eventually(60, function() return engine:log():find "no client can be taken" end)
         has(engine:log(), "no client can be taken for now: Too many open files")
      end)
   end)

   it("logs changes with who, what and result, and no reads", function()
      local other = instances.start { name = "logs" }
      local ok, err = pcall(function()
         local c = other:client()
         c:eval "changed = 4711"
         c:eval "error('oops ' .. 4711)"
         c:call "clients"
         c:eval "clients()"
         local list = c:call("log").view.data
         c:close()
         assert.equal(2, #list)
         assert.equal("changed = 4711", list[1].what)
         assert.equal("ok", list[1].result)
         assert.equal("root", list[1].who)
         assert.equal(posix.getpid(), list[1].pid)
         assert.equal("eval:1: oops 4711", list[2].result)
         local line = "control: root (uid 0, pid %d): error('oops ' .. 4711): eval:1: oops 4711"
         assert.is_truthy(labs.eventually(60, function() return other:log():find(line:format(posix.getpid()), 1, true) end))
      end)
      other:stop()
      if not ok then error(err, 0) end
   end)

   it("lets go of everything when the engine stops while many wait", function()
      local other = instances.start { name = "stops" }
      local list = {}
      for i = 1, 20 do
         list[i] = other:client()
         list[i]:send { op = "eval", code = i % 2 == 0 and "while true do end" or SESSION .. "session.sleep(100)" }
      end
      posix.poll({}, 100)
      local result = other:stop "TERM"
      for _, c in ipairs(list) do c:close() end
      assert.equal(0, result.code, result.err)
   end)
end)
