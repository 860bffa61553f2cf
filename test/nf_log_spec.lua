-- SPDX-License-Identifier: BSD-3-Clause
-- log on messages: the formats to the letter, what clients write into them, and the way of lines into a file.

local abi = require "tideway.abi"
local lines = require "tideway.message.lines"
local rigs = require "test.support.message"
local tw = require "tideway"

local C = abi.C

describe("log", function()
   local rig, path, n
   before_each(function()
      path, n = os.tmpname(), (n or 0) + 1
   end)
   after_each(function()
      if rig then rig:close() end
      rig = nil
      os.remove(path)
   end)

   local function use(cfg)
      cfg.to, cfg.name, cfg.bytes = path, "spec_log_" .. n, cfg.bytes or 2 ^ 18
      rig = rigs.rig(tw.nf.log(cfg))
   end

   local function round(spec, response)
      local _, lead = rig:message(spec)
      response = response or {}
      response.kind, response.request, response.status = C.TW_MSG_RESPONSE, lead, response.status or 200
      local out = rig:run(response)
      assert.is_nil(rig.runner.fault_text or nil)
      assert.equals("next", out.exit)
      rig:free(out)
      C.tw_pool_free(rig.pool, lead, rig.member)
   end

   local function written()
      lines.drain()
      local file = assert(io.open(path))
      local text = file:read "*a"
      file:close()
      return text
   end

   local REQUEST = { target = "/a?b", host = "web.test", headers = { { "Referer", "http://r.test/" },
      { "User-Agent", "curl/8" } } }

   it("writes the common format", function()
      use { format = "common" }
      round(REQUEST, { body = "hello" })
      assert.equals('192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 200 5\n', written())
   end)

   it("writes the combined format", function()
      use {}
      round(REQUEST, { status = 404 })
      round {}
      assert.equals('192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b HTTP/1.1" 404 0 "http://r.test/" "curl/8"\n'
         .. '192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET / HTTP/1.1" 200 0 "-" "-"\n', written())
   end)

   it("writes JSON that others can read", function()
      use { format = "json" }
      local request = { target = '/"\\', headers = { { "User-Agent", 'a"b\\c\td\255' } } }
      round(request, { body = "x" })
      local got = assert((require "dkjson").decode(written()))
      assert.same({ "2023-11-14T22:13:20.000Z", "192.0.2.1", 40000, "GET", '/"\\', 200, 1, 'a"b\\c\td\195\191' },
         { got.time, got.client, got.port, got.method, got.target, got.status, got.bytes, got.agent })
      assert.is_nil(got.referer)
      assert.is_true(got.ms >= 0)
   end)

   it("gives clients no line and no quote of their own", function()
      use {}
      round { target = '/"x', headers = { { "User-Agent", 'a" "b\\ \127\200' } } }
      assert.matches('"GET /\\"x HTTP/1.1" 200 0 "-" "a\\" \\"b\\\\ \\x7f\\xc8"\n', written(), 1, true)
   end)

   it("writes what a function says, and nothing for nil", function()
      use { format = function(msg, request) return msg.status >= 500 and request.target .. " failed\nevil" or nil end }
      round({ target = "/a" }, { status = 200 })
      round({ target = "/b" }, { status = 502 })
      assert.equals("/b failed?evil\n", written())
   end)

   it("keeps the order of lines, and appends to what is there", function()
      use { format = function(_, request) return request.target end }
      local expected = {}
      for i = 1, 300 do
         round { target = "/" .. i }
         expected[i] = "/" .. i
         if i % 100 == 0 then lines.drain() end
      end
      assert.equals(table.concat(expected, "\n") .. "\n", written())
   end)

   it("loses lines rather than wait, and says how many", function()
      use { format = function(_, request) return request.target .. ("x"):rep(1500) end, bytes = 65536 }
      for i = 1, 200 do round { target = "/" .. i } end
      lines.drain()
      local _, kept = written():gsub("\n", "")
      local note = table.concat(require("tideway.loop").log(), "\n")
      local lost = tonumber(note:match "(%d+) lines are lost")
      assert.is_true(kept > 0)
      assert.equals(200, kept + (lost or 0))
   end)

   it("has room for what comes between two looks of the engine, and then looks again soon", function()
      local log = lines.lines("spec_many_" .. n, { to = path })
      local line = ("x"):rep(110)
      for _ = 1, 60000 do assert.is_true(log:write(line)) end
      assert.equals(60000, lines.drain())
      assert.equals(60000 * 111, #written())
   end)

   it("is readonly, and lets responses pass when it fails", function()
      use { format = function() error "no" end }
      local nf = rig.context.nf
      assert.same({ true, "bypass" }, { nf.readonly, nf.on_fault })
      local _, lead = rig:message {}
      local out = rig:run { kind = C.TW_MSG_RESPONSE, status = 200, request = lead }
      assert.equals(C.TW_V_FAULT, out.desc_key)
   end)

   it("is refused by a check too when there is no folder for its file, which a check does not make", function()
      local model = require "tideway.model"
      model.dry = true
      local ok, err = pcall(tw.nf.log, { to = "/nonexistent/x" })
      local fine = pcall(tw.nf.log, { to = path .. ".new", name = "spec_dry" })
      model.dry = false
      assert.is_false(ok)
      assert.equals("log: /nonexistent/x: there is no folder /nonexistent/", err)
      assert.is_true(fine)
      assert.is_nil(io.open(path .. ".new"))
   end)

   for what, case in pairs {
      ["formats that do not exist"] = { { format = "apache" }, "format is apache" },
      ["files that cannot be opened"] = { { to = "/nonexistent/x" }, "/nonexistent/x" },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.log, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err, 1, true)
      end)
   end
end)
