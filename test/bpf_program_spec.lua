-- SPDX-License-Identifier: BSD-3-Clause
local bpf = require "tideway.bpf"
local diagnostic = require "tideway.compiler.diagnostic"
local posix = require "tideway.posix"
local asm = require "tideway.bpf.asm"
local shell = require "test.shell"

local root = posix.geteuid() == 0
local live = root and it or function(name) it(name, function() pending "needs root for bpf(2)" end) end

local empty = ("\0"):rep(60)

local function load(a, o) return bpf.program.load(a:spec(o)) end

-- A program of one line of source, from what a function emits.
local function xdp(emit, o)
   o = o or {}
   o.name, o.type = o.name or "spec", o.type or "xdp"
   local a = asm.new(o.file)
   a:line(o.line or 1)
   emit(a)
   return load(a, o)
end

describe("BPF programs", function()
   live("load, say what the kernel made of them, and run", function()
      local p = assert(xdp(function(a)
         a:mov("r0", 2)
         a:exit()
      end, { name = "a name that is longer than the kernel's" }))
      assert.equal("a name that is longer than the kernel's", p.name)
      assert.is_true(p.id > 0 and p.jited > 0 and p.verified >= 2)
      assert.equal(2, p.xlated)
      assert.equal("a_name_that_is_", p:info().name)
      assert.equal("xdp", p:info().type)
      local verdict, data, ns = p:test(empty)
      assert.equal(2, verdict)
      assert.equal(empty, data)
      assert.equal("number", type(ns))
      p:close()
   end)

   live("change the frame in a test run", function()
      local p = assert(xdp(function(a)
         a:load(32, "r2", "r1", 0)
         a:load(32, "r3", "r1", 4)
         a:mov("r4", "r2")
         a:add("r4", 14)
         a:jump("gt", "r4", "r3", "out")
         a:store(8, "r2", 0, 0x42)
         a:label "out"
         a:mov("r0", 3)
         a:exit()
      end))
      local verdict, data = p:test(empty)
      assert.equal(3, verdict)
      assert.equal("\x42" .. ("\0"):rep(59), data)
      assert.equal(verdict, (p:test(empty, { repeat_count = 3 })))
      local nothing, err = p:test "short"
      assert.is_nil(nothing)
      assert.truthy(err:find("on 5 bytes", 1, true))
      p:close()
   end)

   live("take a context where the type has one", function()
      local p = assert(xdp(function(a)
         a:load(32, "r0", "r1", 8) -- __sk_buff.mark
         a:mov("r2", 99)
         a:store(32, "r1", 8, "r2")
         a:exit()
      end, { type = "tc" }))
      local verdict, _, _, ctx = p:test(empty, { ctx = { mark = 17 } })
      assert.equal(17, verdict)
      assert.equal(99, ctx.mark)
      p:close()
      local q = assert(xdp(function(a)
         a:load(32, "r0", "r1", 16) -- rx_queue_index
         a:exit()
      end))
      assert.equal(0, (q:test(empty, { ctx = { ingress_ifindex = 1 } })))
      q:close()
   end)

   live("reach maps: look-up, and the value's address", function()
      local m = assert(bpf.map.new { kind = "array", value = "u64", entries = 1 })
      local p = assert(xdp(function(a)
         a:map("r1", m, 0)
         a:mov("r2", 5)
         a:atomic_add(64, "r1", 0, "r2")
         a:mov("r0", 1)
         a:exit()
      end))
      p:test(empty)
      p:test(empty)
      assert.is_true(m:get(0) == 10ULL)
      assert.same({ m.id }, p:info().map_ids)
      p:close()
      m:free()
   end)

   live("have functions of their own", function()
      local a = asm.new()
      a:func "entry"
      a:call_local "seven"
      a:line(1) -- the first instruction has none
      a:exit()
      a:func "seven"
      a:line(2)
      a:mov("r0", 7)
      a:exit()
      local p = assert(load(a, { name = "entry", type = "tc" }))
      assert.equal(7, (p:test(empty)))
      p:close()
   end)

   live("of every type Tideway attaches", function()
      for name in pairs(bpf.program.types) do
         local p, err = xdp(function(a)
            a:mov("r0", name == "sk_lookup" and 1 or name == "cgroup_skb" and 1 or 0)
            a:exit()
         end, { type = name })
         assert.truthy(p, name .. ": " .. tostring(err))
         assert.equal(name, p:info().type)
         p:close()
      end
   end)

   live("show Lua in the tools", function()
      if not shell.has "bpftool" then pending "bpftool is missing (make deps)" end
      local dir = shell.directory()
      shell.write(dir .. "/nf.lua", "return function(pkt)\n   return pkt:drop 'all'\nend\n")
      local p = assert(xdp(function(a)
         a:mov("r0", 1)
         a:exit()
      end, { file = dir .. "/nf.lua", line = 2 }))
      local text = shell.run(("bpftool prog dump xlated id %d linum"):format(p.id)).out
      local line = ("; return pkt:drop 'all' [file:%s/nf.lua line_num:2 line_col:1]"):format(dir)
      assert.truthy(text:find(line, 1, true), text)
      p:close()
      shell.remove(dir)
   end)

   live("with a log when asked, also one that is longer than a small buffer", function()
      local p = assert(xdp(function(a)
         for _ = 1, 4000 do a:mov("r0", 1) end
         a:exit()
      end, { log_level = 2 }))
      assert.truthy(p.log:find("4000: (95) exit", 1, true))
      assert.is_true(#p.log > 100000)
      p:close()
   end)

   it("refuse a wrong call at once", function()
      assert.has_error(function() xdp(function(a) a:exit() end, { type = "xpd" }) end,
         "program type 'xpd' is not known")
   end)
end)

describe("the verifier's words", function()
   local dir, file

   setup(function()
      dir = shell.directory()
      file = dir .. "/nf.lua"
      shell.write(file, "local a = 1\nlocal ip = pkt:ipv4()\nreturn ip.ttl\n")
   end)
   teardown(function() shell.remove(dir) end)

   -- Loads a program whose second line is to blame; returns the diagnostic.
   local function refused(emit, o)
      o = o or {}
      o.name, o.type = "nf", o.type or "xdp"
      local a = asm.new(file)
      a:line(1)
      a:mov("r9", 0)
      emit(a)
      local p, err = load(a, o)
      assert.is_nil(p, "the verifier took it")
      return bpf.verifier.explain(err, { lines = o.lines, names = function() return { [0] = "entry", [2] = "ip" } end })
   end

   local m
   local function lookup(a, map)
      a:store(64, "r10", -8, 0)
      a:map("r1", map)
      a:mov("r2", "r10")
      a:add("r2", -8)
      a:call(1)
   end
   before_each(function()
      m = root and bpf.map.new { kind = "hash", name = "flows", key = "u64", value = "u64", entries = 1 }
   end)
   after_each(function() if m then m:free() end end)

   local function packet(a)
      a:load(32, "r2", "r1", 0)
      a:load(32, "r3", "r1", 4)
   end

   -- name, type, what the program does, the line to blame, what is said, part of the advice
   local cases = {
      { "outside of the packet", function(a)
         packet(a)
         a:line(2, 7)
         a:load(8, "r0", "r2", 30)
         a:exit()
      end, 2, "'ip' offset", "'ip' reaches behind the end of the packet", "please report" },
      { "a table's value not tested", function(a)
         lookup(a, m)
         a:line(3, 2)
         a:load(64, "r0", "r0", 0)
         a:exit()
      end, 3, "map_value", "'entry' may be nil here", "if x then" },
      { "beyond a table's value", function(a)
         lookup(a, m)
         a:jump("eq", "r0", 0, "out")
         a:line(2)
         a:load(64, "r0", "r0", 4)
         a:label "out"
         a:exit()
      end, 2, "value_size=8", "8 bytes at 4 of a table's value of 8 bytes", "test it" },
      { "an index without a bound", function(a)
         lookup(a, m)
         a:jump("eq", "r0", 0, "out")
         a:line(1)
         a:load(64, "r3", "r0", 0)
         a:line(3)
         a:add("r0", "r3")
         a:load(8, "r0", "r0", 0)
         a:label "out"
         a:exit()
      end, 3, "", "an offset into map_value memory may have any value", "bound it" },
      { "an endless loop", function(a)
         a:line(2)
         a:label "loop"
         a:jump("ja", "loop")
         a:mov("r0", 0)
         a:exit()
      end, nil, "", "", "" },
      { "a loop that the verifier cannot end", function(a)
         a:line(2)
         a:mov("r1", 0)
         a:label "loop"
         a:line(3)
         a:add("r1", 0)
         a:jump("ne", "r1", 1, "loop")
         a:mov("r0", 0)
         a:exit()
      end, 3, "infinite loop", "does not end", "fixed upper bound" },
      { "a register without a value", function(a)
         a:line(2)
         a:mov("r0", "r2")
         a:exit()
      end, 2, "!read_ok", "'ip' is used before it has a value", "report" },
      { "a stack slot without a value", function(a)
         a:line(1)
         a:map("r1", m)
         a:mov("r2", "r10")
         a:add("r2", -8)
         a:line(3)
         a:call(1)
         a:mov("r0", 0)
         a:exit()
      end, 3, "stack", "a variable is used before it has a value", "report", prologue = true, privileged = true },
      { "a helper of another hook", function(a)
         a:line(3)
         a:mov("r2", 0)
         a:mov("r3", 0)
         a:call(44) -- xdp_adjust_head
         a:exit()
      end, 3, "helper", "programs at this hook cannot use", "doctor", type = "tc" },
      { "a packet that may not be written", function(a)
         a:load(32, "r2", "r1", 76)
         a:load(32, "r3", "r1", 80)
         a:mov("r4", "r2")
         a:add("r4", 8)
         a:jump("gt", "r4", "r3", "out")
         a:line(2)
         a:store(8, "r2", 0, 1)
         a:label "out"
         a:mov("r0", 1)
         a:exit()
      end, 2, "cannot write into packet", "cannot change packets", "read only", type = "cgroup_skb" },
      { "a verdict that the hook has not", function(a)
         a:line(2)
         a:mov("r0", 77)
         a:line(3)
         a:exit()
      end, 3, "At program exit", "is not one of the hook's", "verdict of this hook", type = "cgroup_skb" },
      { "a context field that is not there", function(a)
         a:line(2)
         a:load(32, "r0", "r1", 4096)
         a:exit()
      end, 2, "bpf_context", "field at 4096", "does not offer" },
      { "a map for another function", function(a)
         a:line(2)
         a:map("r1", m)
         a:mov("r2", 0)
         a:mov("r3", 0)
         a:line(3)
         a:call(51) -- redirect_map
         a:exit()
      end, 3, "cannot pass map_type", "bpf_redirect_map does not work on this kind of table", "kind" },
      { "arithmetic on a pointer", function(a)
         packet(a)
         a:line(2)
         a:mul("r2", 3)
         a:mov("r0", 0)
         a:exit()
      end, 2, "prohibited", "'ip' is an address", "report" },
      { "dead code", function(a)
         a:mov("r0", 0)
         a:exit()
         a:line(2)
         a:mov("r0", 1)
         a:exit()
      end, 2, "unreachable", "can never run", "report" },
      { "no return", function(a)
         a:line(2)
         a:mov("r0", 0)
      end, nil, "", "does not end with a return", "report" },
      { "too much stack", function(a)
         a:line(2)
         a:store(64, "r10", -520, 0)
         a:exit()
      end, 2, "", "", "" },
      { "a reserved record that is lost", function(a)
         local ring = assert(bpf.map.new { kind = "ringbuf", entries = 4096 })
         a:map("r1", ring)
         a:mov("r2", 8)
         a:mov("r3", 0)
         a:line(2)
         a:call(131) -- ringbuf_reserve
         a:line(3)
         a:mov("r0", 0)
         a:exit()
      end, 2, "nreleased reference", "is not given back on every path", "submit or discard" },
   }

   for _, case in ipairs(cases) do
      live("are translated: " .. case[1], function()
         if case.privileged then
            -- root may read a stack slot that was never written
            local log = "0: (bf) r2 = r10\n1: (85) call bpf_map_lookup_elem#1\n"
               .. "invalid indirect read from stack R2 off -8+0 size 8\nprocessed 2 insns (limit 1000000)\n"
            local d = bpf.verifier.translate(log, {})
            assert.truthy(tostring(d):find(case[5], 1, true), tostring(d))
            return
         end
         local d = refused(case[2], { type = case.type })
         local text = tostring(d)
         assert.is_true(diagnostic.is(d))
         assert.truthy(text:find("refuses nf", 1, true), text)
         if case[3] then
            assert.truthy(text:find(("%s:%d:"):format(file, case[3]), 1, true), text .. "\n" .. d.log)
         end
         assert.truthy(text:find(case[5], 1, true), text .. "\n" .. d.log)
         assert.truthy(text:find(case[6], 1, true), text .. "\n" .. d.log)
      end)
   end

   it("of older kernels are understood", function()
      local function said(message)
         return tostring(bpf.verifier.translate(("0: R1=ctx(id=0,off=0,imm=0) R10=fp0\n0: (61) r2 = *(u32 *)(r1 +0)\n"
            .. "1: R1_w=ctx(id=0,off=0,imm=0) R2_w=pkt(id=0,off=0,r=0,imm=0)\n1: (71) r0 = *(u8 *)(r2 +30)\n%s\n"
            .. "processed 2 insns (limit 1000000) max_states_per_insn 0\n"):format(message),
            { lines = {
               { insn = 0, pos = { file = "x.lua", line = 1 } }, { insn = 1, pos = { file = "x.lua", line = 4 } },
            } }))
      end
      for message, reason in pairs {
         ["invalid access to packet, off=30 size=1, R2(id=0,off=30,r=0)\nR2 offset is outside of the packet"] =
            "x.lua:4: the kernel's verifier refuses the program: R2 reaches behind the end",
         ["R1 invalid mem access 'inv'"] = "R1 is not an address here",
         ["R0 invalid mem access 'map_value_or_null'"] = "R0 may be nil here",
         ["back-edge from insn 1 to 0"] = "no loops here",
         ["BPF program is too large. Processed 1000001 insn"] = "more than the 1000001 steps allowed",
         ["The sequence of 8193 jumps is too complex."] = "more paths than the verifier follows",
         ["invalid indirect read from stack off -8+0 size 8"] = "used before it has a value",
         ["unknown func bpf_redirect_neigh#152"] = "cannot use bpf_redirect_neigh",
         ["R2 min value is negative, either use unsigned index or do a if (index >=0) check."] = "may be negative",
         ["something nobody has ever seen"] = "refuses the program: something nobody has ever seen",
      } do
         local text = said(message)
         assert.truthy(text:find(reason, 1, true), text)
      end
   end)

   live("keep the whole log", function()
      local d = refused(function(a)
         packet(a)
         a:load(8, "r0", "r2", 30)
         a:exit()
      end)
      assert.truthy(d.log:find("(61) r2 = *(u32 *)(r1 +0)", 1, true))
      assert.truthy(d.said:find("R2", 1, true))
   end)
end)


describe("what the kernel can", function()
   live("is found by trying", function()
      local probe = bpf.probe
      assert.is_nil(probe.missing())
      local types, kinds, features = probe.program_types(), probe.map_kinds(), probe.features()
      for name in pairs(bpf.program.types) do assert.is_true(types[name], name) end
      for name in pairs(bpf.map.kinds) do assert.is_true(kinds[name], name) end
      for _, name in ipairs { "loops", "jmp32", "atomics", "functions", "large" } do
         assert.is_true(features[name], name)
      end
      assert.equal("map_lookup_elem", probe.helper_name(1))
      assert.is_true(probe.has("xdp", "redirect_map"))
      assert.is_false(probe.has("tc", "redirect_map"))
      assert.is_true(probe.has("tc", "skb_store_bytes"))
      assert.is_false(probe.has("sk_msg", "skb_store_bytes"))
      assert.is_true(probe.has("sk_msg", "msg_redirect_map"))
   end)
end)
