-- SPDX-License-Identifier: BSD-3-Clause
-- Malformed packets: a generated corpus (test/support/malform.lua) through the packet library and every NF. Each
-- frame must be forwarded, dropped with a reason or passed: never a fault, and no byte outside of it touched.

local tw = require "tideway"
local corpus = require "test.support.corpus"
local exercise = require "test.support.exercise"
local frame = require "test.support.frame"
local guard = require "test.support.guard"
local malform = require "test.support.malform"
local marker = require "test.support.marker"
local packets = require "test.support.packets"
local rig = require "test.support.rig"
local shell = require "test.shell"
local targets = require "test.support.targets"
local validate = require "test.support.validate"

describe("corpus of malformed packets", function()
   it("is made of frames that are valid", function()
      for _, entry in ipairs(corpus.valid()) do
         local ip, l4 = validate.look(entry.frame)
         if entry.v4 or entry.v6 then
            if #entry.vlan <= 2 then assert.is_true(ip, entry.name) end
            assert.is_not_false(l4, entry.name)
         else
            assert.is_nil(ip, entry.name)
         end
      end
   end)

   it("has a frame for every view there is", function()
      local seen, missing = {}, {}
      for _, call in ipairs(exercise.read) do
         local method = call.name:match ":([%w_]+)"
         seen[method] = seen[method] or false
         for _, entry in ipairs(seen[method] and {} or corpus.valid()) do
            if call.run(packets.new(entry.frame)) then seen[method] = true break end
         end
      end
      for method, found in pairs(seen) do
         if not found then missing[#missing + 1] = method end
      end
      assert.same({}, missing)
   end)

   it("is large, without repetitions, with an empty frame and all lengths up to 160 bytes", function()
      local all, lengths, seen = malform.all(), {}, {}
      assert.is_true(#all > 20000, #all)
      for _, entry in ipairs(all) do
         lengths[#entry.frame] = true
         assert.is_nil(seen[entry.frame])
         seen[entry.frame] = true
      end
      for length = 0, 160 do assert.is_true(lengths[length], length) end
   end)
end)

describe("packet library on malformed packets", function()
   local path = os.tmpname()
   teardown(function() os.remove(path) end)

   -- A SIGSEGV ends the process that looks for it: it is another one, and the marker tells what it was doing.
   local function run(mode)
      -- In a shell of its own, so that what this says of the signal is caught too.
      local result = shell.run("sh -c " .. shell.quote(("%s run --name spec-views-%d %s %s %s; exit $?"):format(
         shell.binary, require("tideway.posix").getpid(), "test/support/views_child.lua", path, mode)))
      if result.code ~= 0 then
         local title, input = marker.read(path)
         return ("exit code %d, %s\nin %s on %s"):format(result.code, result.err, title, frame.hex(input or ""))
      end
   end

   it("stays inside the frame and raises nothing, compiled", function() assert.is_nil(run "") end)
   it("stays inside the frame and raises nothing, interpreted", function() assert.is_nil(run "20") end)

   it("would be seen to read one byte too many", function()
      local fault = run "overrun"
      assert.truthy(fault and fault:find "in overrun on", fault)
   end)
end)

describe("memory between guard pages", function()
   local r
   after_each(function() r:close() end)

   local function log_of(packet)
      r = rig.new { ports = { "a", "b" } }
      local enter, leave = guard.nfs()
      r:chain("c", r.a, enter, tw.nf("bad", function() return { packet = packet } end) {}, leave, r.b)
      r:start()
      for _ = 1, 130 do r:send(r.a, ("x"):rep(60)) end -- both places of a frame
      return table.concat(r:log(), "\n")
   end

   it("shows an NF that reads behind the frame", function()
      local log = log_of(function(pkt) pkt.mark = pkt.data[pkt.len] end)
      assert.truthy(log:find("NF bad", 1, true) and log:find("memory fault", 1, true), log)
   end)

   it("shows an NF that writes in front of the frame", function()
      local log = log_of(function(pkt) pkt.data[-1] = 1 end)
      assert.truthy(log:find("NF bad", 1, true) and log:find("memory fault", 1, true), log)
   end)

   it("leaves other NFs alone, and brings back what they changed", function()
      assert.equal("", log_of(function(pkt) pkt.data[59] = 0x79 end))
      for _, out in ipairs(r:collect(r.b)) do assert.equal(("x"):rep(59) .. "y", out) end
   end)
end)

describe("malformed packets through", function()
   -- Valid ones from inside first: mappings, connections and neighbours that malformed ones may hit.
   local function order()
      local list = {}
      for _, entry in ipairs(corpus.valid()) do
         if entry.port == "lan" then list[#list + 1] = entry end
      end
      for _, entry in ipairs(malform.all()) do list[#list + 1] = entry end
      return list
   end

   for _, base in ipairs(targets.names) do
      it(base .. ": no fault, no drop without a reason, no checksum broken", function()
         local t = targets.start { base }
         local faults = {}
         local step = base == "exercise" and 8 or 1 -- it calls a thousand functions a packet
         for _, name in ipairs(t.names) do
            local list = order()
            for i = 1, #list, step do
               local entry = list[i]
               local fault = t:send(name, entry.port, entry.frame)
               if fault and #faults < 5 then
                  faults[#faults + 1] = ("%s: %s (%s): %s"):format(name, entry.name, frame.hex(entry.frame), fault)
               end
            end
         end
         t.rig:advance(1)
         t.rig:advance(1000)
         faults[#faults + 1] = t:faults()
         t:close()
         assert.equal("", table.concat(faults, "\n"))
      end)
   end
end)
