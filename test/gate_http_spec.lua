-- SPDX-License-Identifier: BSD-3-Clause
-- HTTP/1.1 as the gate reads and writes it, by itself: what is a message and what is not, the same for every way to cut
-- the bytes; heads written anew from messages that functions may have spoiled.

local abi = require "tideway.abi"
local bit = require "bit"
local ffi = require "ffi"

local C = abi.C
local SIZE = 65536
local UNKNOWN = 0xffffffffffffffffull

local facts = ffi.new "struct tw_http_facts"

-- Reads bytes in steps of so many (nil: at once), until nothing is left or something is bad. Returns the events as one
-- text, the body, and the reader.
local function read(bytes, step, options)
   options = options or {}
   local http = ffi.gc(C.tw_http_new(SIZE), C.tw_http_free)
   local block = ffi.cast("const char *", C.tw_http_message(http))
   local events, body, at, message = {}, {}, 0, nil
   local function note(event)
      if event == C.TW_HTTP_HEAD then
         local length = facts.body_len == UNKNOWN and "?" or tonumber(facts.body_len)
         events[#events + 1] = ("head %s%s%s%s%s"):format(length, facts.chunked ~= 0 and " chunked" or "",
            facts.keep ~= 0 and " keep" or "", facts.upgrade ~= 0 and " upgrade" or "",
            facts.expects ~= 0 and " expects" or "")
         message = C.tw_http_message(http)
      elseif event == C.TW_HTTP_BODY then
         body[#body + 1] = ffi.string(block + facts.piece_at, facts.piece_len)
      elseif event == C.TW_HTTP_END then
         events[#events + 1] = "end"
      else
         events[#events + 1] = "bad " .. facts.status
      end
   end
   local function begin() C.tw_http_begin(http, options.response or false, options.head or false, options.limit or 16384) end
   begin()
   local ended
   repeat
      local piece = bytes:sub(at + 1, at + (step or #bytes))
      at = at + #piece
      assert(C.tw_http_add(http, piece, #piece) == 0)
      while true do
         local event = C.tw_http_next(http, facts)
         if event == C.TW_HTTP_MORE then break end
         note(event)
         ended = event == C.TW_HTTP_END
         if event == C.TW_HTTP_BAD then return table.concat(events, ", "), table.concat(body), http end
         if ended then
            if options.one then break end
            begin()
         end
      end
   until at >= #bytes
   if options.closed then
      local event = C.tw_http_closed(http, facts)
      if event ~= C.TW_HTTP_MORE then note(event) end
   end
   return table.concat(events, ", "), table.concat(body), http, message
end

local function reads(expected, bytes, options)
   options = options or {}
   local whole, whole_body
   for _, step in ipairs { SIZE, 1, 2, 3, 7, 64 } do
      local events, body = read(bytes, step, options)
      whole, whole_body = whole or events, whole_body or body
      local why = ("%q in steps of %d"):format(bytes:sub(1, 200), step)
      assert.equal(whole, events, why)
      assert.equal(whole_body, body, why)
   end
   assert.equal(expected, whole, ("%q: %s"):format(bytes:sub(1, 300), ffi.string(facts.why)))
   return whole_body
end

local function text(message, part)
   return ffi.string(ffi.cast("const char *", message) + part.at, part.len)
end

local function headers(message)
   local list = ffi.cast("const struct tw_header *", ffi.cast("const char *", message) + message.headers)
   local found = {}
   for i = 0, message.n_headers - 1 do
      if list[i].name.len > 0 then found[#found + 1] = text(message, list[i].name) .. "=" .. text(message, list[i].value) end
   end
   return table.concat(found, "|")
end

-- A request with these lines behind the first, and whatever follows.
local function request(lines, rest)
   return "POST /path HTTP/1.1\r\nHost: h\r\n" .. lines .. "\r\n" .. (rest or "")
end

describe("requests", function()
   it("are read as they are", function()
      local http = select(3, read("GET /a/b?c=d HTTP/1.1\r\nHost: example.org:8080\r\nX-One:1\r\nX-Two:  \t two words \t\r\n" ..
         "Empty:\r\nX-One: again\r\n\r\n", nil, { one = true }))
      local message = C.tw_http_message(http)
      assert.equal("GET", text(message, message.method))
      assert.equal("/a/b?c=d", text(message, message.target))
      assert.equal("example.org:8080", text(message, message.host))
      assert.equal("Host=example.org:8080|X-One=1|X-Two=two words|Empty=|X-One=again", headers(message))
      assert.equal(1, message.version)
      assert.is_true(message.max_headers > message.n_headers)
      assert.is_true(message.used <= SIZE and message.headers + message.max_headers * 24 <= message.used)
      local list = ffi.cast("const struct tw_header *", ffi.cast("const char *", message) + message.headers)
      assert.equal(C.tw_header_hash("x-one", 5), list[1].hash)
      assert.equal(C.tw_header_hash("X-ONE", 5), list[1].hash)
   end)

   it("end where their lengths say, and the next one begins there", function()
      local get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
      reads("head 0 keep, end, head 0 keep, end", get .. get)
      assert.equal("hello", reads("head 5 keep, end, head 0 keep, end", request("Content-Length: 5\r\n", "hello") .. get))
      reads("head 0 keep, end", request("Content-Length: 0\r\n"))
      reads("head 0 keep, end", request "")
      assert.equal("hello world", reads("head ? chunked keep, end, head 0 keep, end",
         request("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n006;a=b\r\n world\r\n0\r\nTrailer-X: y\r\n\r\n") .. get))
      assert.equal("", reads("head ? chunked keep, end", request("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n")))
      assert.equal(("x"):rep(26), reads("head ? chunked keep, end",
         request("Transfer-Encoding:chunked\r\n", "1a;name=\"quoted; text\"\r\n" .. ("x"):rep(26) .. "\r\n000\r\n\r\n")))
      assert.equal("hel", reads("head 5 keep", request("Content-Length: 5\r\n", "hel")))
   end)

   it("are the same at once and in pieces where a name only begins with that of a field", function()
      for _, name in ipairs { "Transfer-EncodingX", "transfer-encoding-more", "TRANSFER-ENCODING_" } do
         reads("bad 400", request("Content-Length: 5\r\n" .. name .. ": x\r\n", "hello"))
         reads("bad 502", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" .. name .. ": x\r\n\r\nhello", { response = 1 })
      end
      assert.equal("hello", reads("head 5 keep, end", request("Content-Length: 5\r\nContent-LengthX: x\r\n", "hello")))
      assert.equal("hello", reads("head 5 keep, end", request("Content-Length: 5\r\nTransfer-Encodin: x\r\n", "hello")))
   end)

   it("say whether the connection stays open", function()
      reads("head 0 keep, end", "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close ,bar\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.0\r\n\r\n")
      reads("head 0 keep, end", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
      reads("head 0 keep upgrade, end", "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
      reads("head 0 keep, end", "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
      reads("head 3 keep, end", request("Upgrade: chat\r\nConnection: upgrade\r\nContent-Length: 3\r\n", "abc"))
      -- Behind these would be requests that no function sees.
      for _, protocol in ipairs { "h2c", "chat, H2C", "HTTP/2.0", "h2", "TLS/1.0, HTTP/1.1", "chat\r\nUpgrade: h2c" } do
         reads("head 0 keep, end", "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: " .. protocol .. "\r\nConnection: Upgrade\r\n\r\n")
         reads("head 0 keep, end", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " .. protocol
            .. "\r\nConnection: upgrade\r\n\r\n", { response = 1 })
      end
      reads("head 3 keep expects, end", request("Expect: 100-Continue\r\nContent-Length: 3\r\n", "abc"))
      reads("head 0 keep, end", request "Expect: 100-continue\r\n")
      reads("bad 417", request "Expect: something\r\n")
   end)

   it("lose the fields that Connection names, but none that says how they are read", function()
      local function left(lines) return headers((select(4, read(request(lines), nil, { one = true })))) end
      assert.equal("Host=h|Connection=x-secret, Close|B=2", left "Connection: x-secret, Close\r\nX-Secret: 1\r\nB: 2\r\n")
      assert.equal("Host=h|Connection=host, content-length|Content-Length=0",
         left "Connection: host, content-length\r\nContent-Length: 0\r\n")
      reads("bad 400", request("Connection: " .. ("a,"):rep(65) .. "\r\n"))
   end)

   it("may have one empty line in front, and no more", function()
      local get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
      reads("head 0 keep, end", "\r\n" .. get)
      reads("head 0 keep, end, head 0 keep, end", get .. "\r\n" .. get)
      reads("bad 400", "\r\n\r\n" .. get)
      reads("bad 400", "\n" .. get)
      reads("bad 400", "\r" .. get)
      reads("", "\r\n")
   end)

   it("have targets of four forms", function()
      local function target(first, lines)
         local message = select(4, read(first .. " HTTP/1.1\r\n" .. (lines or "Host: h\r\n") .. "\r\n", nil, { one = true }))
         return text(message, message.target), text(message, message.host), headers(message)
      end
      assert.same({ "/x?y", "a.b:80", "Host=a.b:80" }, { target("GET http://a.b:80/x?y", "Host: other\r\n") })
      assert.same({ "/", "a.b", "Host=a.b" }, { target "GET HTTP://a.b" })
      assert.same({ "/?q=1", "a.b", "Host=a.b" }, { target "GET http://a.b?q=1" })
      assert.same({ "/?q", "[::1]:80", "Host=[::1]:80" }, { target "GET https://[::1]:80?q" })
      assert.same({ "*", "h", "Host=h" }, { target "OPTIONS *" })
      assert.same({ "//x", "h", "Host=h" }, { target "GET //x" })
      for _, first in ipairs { "GET *", "GET x", "GET http://", "GET http:///x", "GET ftp://a/x", "GET http://u@h/",
         "GET http://a:b/", "GET http://a:99999/", "OPTIONS **", "GET /x#f", "GET /\127", "GET /\128", "GET /a\tb", "GET a:80",
         "GET /\0", "GET [::1]/" } do
         reads("bad 400", first .. " HTTP/1.1\r\nHost: h\r\n\r\n")
      end
      reads("bad 501", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n")
   end)

   it("need one valid host", function()
      reads("bad 400", "GET / HTTP/1.1\r\n\r\n")
      reads("bad 400", "GET http://h/ HTTP/1.1\r\n\r\n")
      reads("head 0, end", "GET / HTTP/1.0\r\n\r\n")
      reads("bad 400", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n")
      reads("bad 400", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
      for _, host in ipairs { "", "a b", "a/b", "a@b", "a:", "[::1", "[]", "::1", "a:80:80", "a:x", "a:65536", "a\\b", "\"a\"", "a?b",
         "<a>", "a,b c" } do
         -- A port may be empty (RFC 3986 3.2.3).
         reads(host == "a:" and "head 0 keep, end" or "bad 400", "GET / HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n")
      end
      for _, host in ipairs { "a", "A.b-c_d", "1.2.3.4:80", "[::1]", "[fe80::1]:8080", "a%20b", "xn--a" } do
         reads("head 0 keep, end", "GET / HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n")
      end
   end)

   it("that two readers could read differently are refused", function()
      for _, lines in ipairs {
         "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n",
         "Content-Length: +5\r\n", "Content-Length: -5\r\n", "Content-Length: 5x\r\n", "Content-Length: 0x5\r\n",
         "Content-Length: \r\n", "Content-Length: 5 5\r\n", "Content-Length: 99999999999999999999\r\n",
         "Content-Length: 18446744073709551617\r\n", "Content-Length: 9223372036854775808\r\n", "Content-Length: 5;\r\n",
         "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
         "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked, identity\r\n",
         "Transfer-Encoding: chunked;x=1\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: identity\r\n",
         "Transfer-Encoding: \r\n", "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding : chunked\r\n",
         "Transfer-Encoding\r\n", " Transfer-Encoding: chunked\r\n", "Transfer-Encoding:\r\n chunked\r\n",
         "Transfer-Encoding: chunked\n", "Transfer-Encoding: \vchunked\r\n", "X: 1\nContent-Length: 5\r\n",
         "X: 1\rContent-Length: 5\r\n", "X: 1\r\rContent-Length: 5\r\n", "X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X:\r\n b\r\n", "X : 1\r\n",
         "X\t: 1\r\n", ": 1\r\n", "X 1\r\n", "X\r\n", "X: \0\r\n", "X: a\0b\r\n", "X: \1\r\n", "X: \127\r\n", "X\0: 1\r\n", "X(: 1\r\n", "X\128: 1\r\n",
         "\0\r\n", "\r\r\n", "X: 1\r\n\r", "@: 1\r\n", "[x]: 1\r\n", "Content-Length: 1\0\r\n",
      } do
         local events = read(request(lines, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"))
         assert.matches("^bad 400$", events, lines)
         reads("bad 400", request(lines, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"))
      end
      reads("bad 501", request "Transfer-Encoding: gzip, chunked\r\n")
      reads("bad 400", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
      reads("head 0 keep, end", request "X: \228\246\252 \t~\r\n") -- obs-text is allowed in values
   end)

   it("with broken chunks are refused", function()
      for _, chunks in ipairs {
         "x\r\n", "\r\n", ";\r\n", " 5\r\nhello\r\n", "5 \r\nhello\r\n", "5\nhello\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhelloX\r\n", "5\rX", "5\r\r\n",
         "5\r\nhello\rX", "-5\r\n", "+5\r\n", "0x5\r\n", "fffffffffffffffff\r\n", "10000000000000000\r\n", "8000000000000000\r\n",
         "5;a\nb\r\n", "5;a\0b\r\n", "5;\127\r\n", "5;" .. ("a"):rep(300) .. "\r\n", ("0"):rep(300), "0\r\nX\r\n", "0\r\n X: 1\r\n\r\n",
         "0\r\nX: 1\n\r\n", "0\r\nX: \0\r\n\r\n", "0\r\n: 1\r\n\r\n", "0\r\nX: 1\r\n\n", "0\r\n\rX", "0\r\nX: 1\rY",
         "0\r\n" .. ("X: " .. ("y"):rep(100) .. "\r\n"):rep(200) .. "\r\n",
         ("1;" .. ("a"):rep(200) .. "\r\nx\r\n"):rep(100),
      } do
         local events = read(request("Transfer-Encoding: chunked\r\n", chunks))
         assert.equal("head ? chunked keep, bad 400", events, chunks)
         reads("head ? chunked keep, bad 400", request("Transfer-Encoding: chunked\r\n", chunks))
      end
   end)

   it("with malformed first lines get the status that says so", function()
      for line, status in pairs {
         ["GET / HTTP/2.0"] = 505, ["GET / HTTP/1.2"] = 505, ["GET / HTTP/0.9"] = 505, ["GET / HTTP/9.9"] = 505,
         ["GET / http/1.1"] = 400, ["GET / HTTP/1.1 "] = 400, ["GET  / HTTP/1.1"] = 400, ["GET /  HTTP/1.1"] = 400,
         ["GET\t/ HTTP/1.1"] = 400, [" GET / HTTP/1.1"] = 400, ["GET / a HTTP/1.1"] = 400, ["GET HTTP/1.1"] = 400,
         ["get / HTTP/1.1"] = 501, ["FOO / HTTP/1.1"] = 501, ["GETX / HTTP/1.1"] = 501, ["\22\3\1\2\0"] = 400, ["G\0T / HTTP/1.1"] = 400,
         ["GET / HTTP/1.1\r"] = 400, ["HTTP/1.1 200 OK"] = 501, ["PRI * HTTP/2.0"] = 501, ["SSH-2.0-x"] = 501, ["{}"] = 400,
      } do
         local events = read(line .. "\r\nHost: h\r\n\r\n")
         assert.equal("bad " .. status, events, line)
         -- In pieces as well; GET without a version is too short for the library to say more than 400.
         for _, step in ipairs { 1, 2, 5 } do
            assert.equal("bad " .. status, (read(line .. "\r\nHost: h\r\n\r\n", step)), line)
         end
      end
      reads("bad 505", "GET /\r\n\r\n")
   end)

   it("that are too large get 414 or 431, and no more memory", function()
      local long = "GET /" .. ("x"):rep(9000) .. " HTTP/1.1\r\nHost: h\r\n\r\n"
      reads("bad 414", long)
      reads("bad 414", long, { limit = 2000 })
      reads("head 0 keep, end", "GET /" .. ("x"):rep(8191) .. " HTTP/1.1\r\nHost: h\r\n\r\n")
      reads("bad 431", request("X: " .. ("y"):rep(3000) .. "\r\n"), { limit = 2000 })
      reads("head 0 keep, end", request("X: " .. ("y"):rep(3000) .. "\r\n"), { limit = 4000 })
      local head = request "X: 1\r\n"
      reads("head 0 keep, end", head, { limit = #head })
      reads("bad 431", head, { limit = #head - 1 })
      reads("head 0 keep, end", request(("A: 1\r\n"):rep(255)))
      reads("bad 431", request(("A: 1\r\n"):rep(256)))
      reads("bad 431", request(("A: 1\r\n"):rep(2000)))
   end)

   it("that the connection cuts off are known to be", function()
      local whole = request("Content-Length: 5\r\n", "hello")
      for n = 0, #whole do
         local events = read(whole:sub(1, n), nil, { closed = true, one = true })
         local _, stop = whole:find("\r\n\r\n", 1, true)
         assert.equal(n == 0 and "" or n == #whole and "head 5 keep, end" or n < stop and "bad 400" or "head 5 keep, bad 400",
            events, n)
      end
   end)

   it("of any bytes never read more than there is", function()
      math.randomseed(20)
      local seeds = { request("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
         request("Content-Length: 5\r\nConnection: a, b\r\nExpect: 100-continue\r\n", "hello"),
         "OPTIONS http://a?b HTTP/1.1\r\nHost: h\r\n\r\n" }
      for _ = 1, 3000 do
         local bytes = seeds[math.random(#seeds)]
         for _ = 1, math.random(3) do
            local at = math.random(#bytes)
            bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + math.random(0, 2))
         end
         local events, body = read(bytes)
         local again, same = read(bytes, math.random(9))
         assert.equal(events, again, ("%q"):format(bytes))
         assert.equal(body, same)
      end
   end)
end)

describe("responses", function()
   local function response(lines, rest) return "HTTP/1.1 200 OK\r\n" .. lines .. "\r\n" .. (rest or "") end
   local back = { response = true, one = true }

   it("are read as they are", function()
      local _, _, http = read("HTTP/1.0 404 Not  Found\r\nA: b\r\nContent-Length: 0\r\n\r\n", nil, back)
      local message = C.tw_http_message(http)
      assert.same({ 404, 0 }, { message.status, message.version })
      assert.equal("Not  Found", text(message, message.reason))
      assert.equal("A=b|Content-Length=0", headers(message))
   end)

   it("end as they say, or with the connection", function()
      assert.equal("hello", reads("head 5 keep, end", response("Content-Length: 5\r\n", "hello"), back))
      assert.equal("hello", reads("head ? chunked keep, end", response("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), back))
      assert.equal("hello", reads("head ?, end", response("", "hello"), { response = true, closed = true }))
      assert.equal("", reads("head ?, end", response "", { response = true, closed = true }))
      reads("head 5 keep, bad 502", response("Content-Length: 5\r\n", "hell"), { response = true, closed = true })
      reads("head ? chunked keep, bad 502", response("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
         { response = true, closed = true })
      reads("bad 502", "HTTP/1.1 200", { response = true, closed = true })
      reads("", "", { response = true, closed = true })
   end)

   it("have no body where none can be", function()
      for _, line in ipairs { "HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 100 Continue", "HTTP/1.1 103 Early Hints" } do
         reads("head 0 keep, end", line .. "\r\nContent-Length: 5\r\n\r\n", back)
         reads("head 0 keep, end", line .. "\r\n\r\n", back)
      end
      reads("head 0 keep, end", response "Content-Length: 5\r\n", { response = true, one = true, head = true })
      reads("head 0 keep, end", response "Transfer-Encoding: chunked\r\n", { response = true, one = true, head = true })
      reads("head 0 keep upgrade, end", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", back)
   end)

   it("that are malformed are the server's fault", function()
      for _, bytes in ipairs {
         "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1 600 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n",
         "HTTP/1.1  200 OK\r\n\r\n", "HTTP/1.1 200 O\0K\r\n\r\n", "HTTP/1.1 200 OK\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
         response "Content-Length: 5\r\nContent-Length: 6\r\n", response "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
         response "Transfer-Encoding: gzip, chunked\r\n", response "Transfer-Encoding: chunked, gzip\r\n", response "A: b\r\n c\r\n",
         response "A : b\r\n", response "A: b\n", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "garbage", "HTTP/1.1 200 \1\r\n\r\n",
      } do
         reads("bad 502", bytes, back)
      end
      reads("head ?", "HTTP/1.1 200\r\n\r\n", back)
      reads("head ?", "HTTP/1.1 200 \r\n\r\n", back)
   end)
end)

describe("heads that are written", function()
   local out = ffi.new "struct tw_http_out"
   local buffer = ffi.new("char[?]", SIZE)

   local function message_of(bytes, options)
      local _, _, http = read(bytes, nil, options or { one = true })
      return C.tw_http_message(http), http
   end

   local function write(message, options, response, size)
      ffi.fill(out, ffi.sizeof(out))
      out.version = 1
      for name, value in pairs(options or {}) do out[name] = value end
      local n = C.tw_http_write(message, SIZE, response or false, out, buffer, size or SIZE)
      if n < 0 then return nil, n end
      return (ffi.string(buffer, n):gsub("Date: [^\r]*", "Date: now"))
   end

   it("have what belongs to a connection written anew", function()
      local message, http = message_of(request("Connection: close, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\n" ..
         "Upgrade: h2c\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nExpect: 100-continue\r\n" ..
         "Content-Length: 3\r\nAccept: */*\r\n", "abc"))
      assert.equal("POST /path HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nContent-Length: 3\r\n\r\n",
         write(message, { framing = C.TW_HTTP_LENGTH, length = 3 }))
      assert.equal("POST /path HTTP/1.1\r\nHost: h\r\nTrailer: x\r\nAccept: */*\r\nTransfer-Encoding: chunked\r\n" ..
         "Connection: close\r\n\r\n", write(message, { framing = C.TW_HTTP_CHUNKED, close = 1 }))
      assert.equal("POST /path HTTP/1.1\r\nAccept: */*\r\nHost: other:81\r\nVia: 1.1 x\r\n\r\n",
         write(message, { host = "other:81", extra = "Via: 1.1 x\r\n" }))
      assert.equal("POST /path HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nAccept: */*\r\nConnection: upgrade\r\n\r\n", write(message, { upgrade = 1 }))
      assert.is_not_nil(http)
   end)

   it("name the host that the target names", function()
      local message, http = message_of "GET http://a.b/x HTTP/1.1\r\nHost: other\r\n\r\n"
      assert.equal("GET /x HTTP/1.1\r\nHost: a.b\r\n\r\n", write(message))
      assert.is_not_nil(http)
      message, http = message_of "GET http://a.b/x HTTP/1.0\r\n\r\n"
      assert.equal("GET /x HTTP/1.1\r\nHost: a.b\r\n\r\n", write(message))
      assert.is_not_nil(http)
   end)

   it("of responses are of our version, with a date", function()
      local message, http = message_of("HTTP/1.0 200 Fine\r\nConnection: close\r\nContent-Length: 7\r\nExpect: x\r\n\r\n", { response = true, one = true })
      assert.equal("HTTP/1.1 200 Fine\r\nExpect: x\r\nDate: now\r\nContent-Length: 7\r\n\r\n",
         write(message, { framing = C.TW_HTTP_LENGTH, length = 7 }, true))
      assert.equal("HTTP/1.1 200 Fine\r\nExpect: x\r\nDate: now\r\nConnection: keep-alive\r\n\r\n", write(message, { keep10 = 1 }, true))
      assert.equal("HTTP/1.1 200 Fine\r\nContent-Length: 7\r\nExpect: x\r\nDate: now\r\n\r\n", write(message, { keep_length = 1 }, true))
      message.reason.len = 0
      message.status = 404
      assert.matches("^HTTP/1.1 404 Not Found\r\n", write(message, nil, true))
      assert.is_not_nil(http)
      message, http = message_of("HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n", { response = true, one = true })
      assert.equal("HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n", write(message, { framing = C.TW_HTTP_CHUNKED }, true))
      assert.is_not_nil(http)
   end)

   it("are refused when functions have spoiled the message", function()
      local bytes = request "A: b\r\nC: d\r\n"
      local spoil = {
         function(m) m.headers = SIZE - 8 end, function(m) m.headers = 0xfffffff0 end, function(m) m.headers = m.headers + 4 end,
         function(m) m.n_headers = 60000 end, function(m) m.method.at = 0xfffffff0 end, function(m) m.method.len = 0 end,
         function(m) m.method.len = 0xffffffff end, function(m) m.method.len = 5 end, function(m) m.target.len = 0 end,
         function(m) m.target.len = m.target.len + 1 end, function(m) m.target.at = SIZE end,
         function(_, h) h[1].name.len = 0xffffffff end, function(_, h) h[1].name.at = SIZE end, function(_, h) h[1].name.len = 2 end,
         function(_, h) h[1].value.len = 5 end, function(_, h) h[1].value.at = 0xffffffff end, function(_, h) h[1].value.len = SIZE end,
         function(_, h) h[1].name, h[1].value = h[0].name, h[0].value end, function(_, h) h[0].value.at = h[0].value.at - 1 end,
         function(m) ffi.cast("char *", m)[m.target.at] = 32 end, function(_, h, b) b[h[1].value.at] = 10 end,
         function(_, h, b) b[h[1].value.at] = 0 end, function(_, h, b) b[h[1].name.at] = 58 end, function(_, h, b) b[h[1].name.at] = 13 end,
      }
      for i, change in ipairs(spoil) do
         local message, http = message_of(bytes)
         assert.is_string(write(message))
         change(message, ffi.cast("struct tw_header *", ffi.cast("char *", message) + message.headers), ffi.cast("char *", message))
         local text_, err = write(message)
         assert.is_nil(text_, i)
         assert.equal(-71, err, i) -- EPROTO
         assert.matches("not HTTP", ffi.string(C.tw_error()))
         assert.is_not_nil(http)
      end
   end)

   it("say when the buffer is too small, for every size", function()
      local message, http = message_of(request "A: b\r\n")
      local whole = write(message, { framing = C.TW_HTTP_LENGTH, length = 12345 })
      for size = 0, #whole - 1 do
         buffer[size] = 77
         local _, err = write(message, { framing = C.TW_HTTP_LENGTH, length = 12345 }, false, size)
         assert.equal(-90, err, size) -- EMSGSIZE
         assert.equal(77, buffer[size])
      end
      assert.equal(whole, write(message, { framing = C.TW_HTTP_LENGTH, length = 12345 }, false, #whole))
      assert.is_not_nil(http)
   end)

   it("can be read again, and say the same", function()
      math.randomseed(21)
      for _ = 1, 300 do
         local lines = {}
         for i = 1, math.random(0, 30) do
            lines[i] = ("X-%d: %s\r\n"):format(i, ("v"):rep(math.random(0, 40)))
         end
         local message, http = message_of(request(table.concat(lines)))
         local again, second = message_of(write(message))
         assert.equal(headers(message), headers(again))
         assert.is_not_nil(http) assert.is_not_nil(second)
      end
   end)
end)

describe("a reader", function()
   it("has room for the table of the largest head", function()
      local http = ffi.gc(C.tw_http_new(4096), C.tw_http_free)
      assert.is_true(C.tw_http_add(http, "x", 1) < 0) -- not in a block as small as this
      assert.is_true(C.tw_http_new(100) == nil)
      assert.is_true(bit.band(ffi.cast("intptr_t", C.tw_http_message(http)), 63) == 0)
   end)
end)
