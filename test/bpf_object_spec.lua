-- SPDX-License-Identifier: BSD-3-Clause
-- ELF files: those of clang opened here, ours opened by the tools of others.
local bpf = require "tideway.bpf"
local packet = require "tideway.packet"
local posix = require "tideway.posix"
local asm = require "tideway.bpf.asm"
local shell = require "test.shell"

local root = posix.geteuid() == 0
local function live(name, f, ...)
   local missing = not root and "needs root for bpf(2)" or nil
   for _, tool in ipairs { ... } do
      if not missing and not shell.has(tool) then missing = tool .. " is missing (make deps)" end
   end
   it(name, missing and function() pending(missing) end or f)
end

local empty = ("\0"):rep(60)
local dir

local function sh(command)
   local r = shell.run(command)
   assert(r.code == 0, command .. ": " .. r.err .. r.out)
   return r.out
end

local SOURCE = [[
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct key { __u32 src; __u16 port; };
struct value { struct bpf_spin_lock lock; __u64 packets; __u32 mark; __u8 mac[6]; struct { __s16 x; __s16 y; } at; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16); __type(key, struct key);
   __type(value, struct value); } flows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 4); __type(key, __u32);
   __type(value, __u64); } hits SEC(".maps");
struct route { __u32 prefixlen; __u32 address; };
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 4); __uint(map_flags, BPF_F_NO_PREALLOC);
   __type(key, struct route); __type(value, __s32); } routes SEC(".maps");
const volatile __u32 verdict = XDP_PASS;
const volatile struct { __u16 low, high; } ports = { 1, 2 };
__u64 seen;
__u32 table_of[4] = { 1, 2, 3, 4 };
char text[8] = "abc";
SEC("xdp") int filter(struct xdp_md *ctx)
{
   __u32 zero = 0;
   __u64 *n = bpf_map_lookup_elem(&hits, &zero);
   struct key k = { .src = 1, .port = 2 };
   struct value *v = bpf_map_lookup_elem(&flows, &k);
   if (n)
      *n += 1;
   if (v)
      __sync_fetch_and_add(&v->packets, 10);
   seen += table_of[2] + ports.high;
   return verdict;
}
SEC("tc") int classify(struct __sk_buff *skb) { return text[0]; }
SEC("xdp") int broken(struct xdp_md *ctx)
{
   struct key k = { 0 };
   struct value *v = bpf_map_lookup_elem(&flows, &k);
   return v->mark;
}
char _license[] SEC("license") = "GPL";
]]

describe("objects of clang", function()
   local path

   setup(function()
      dir = shell.directory()
      path = dir .. "/spec.o"
      if not shell.has "clang" then return end
      shell.write(dir .. "/spec.c", SOURCE)
      sh(("clang -g -O2 -target bpf -I/usr/include/$(uname -m)-linux-gnu -c %s/spec.c -o %s"):format(dir, path))
   end)
   teardown(function() shell.remove(dir) end)

   local function loaded(o)
      local object = bpf.object(path)
      o = o or {}
      o.programs = o.programs or { "filter", "classify" }
      local ok, err = object:load(o)
      assert(ok, tostring(err))
      return object
   end

   live("say what is in them", function()
      local o = bpf.object(path)
      assert.equal("xdp", o.programs.filter.hook)
      assert.equal("tc_ingress", o.programs.classify.hook)
      assert.equal(16, o.maps.flows.entries)
      assert.is_true(o.variables.verdict.constant)
      assert.equal("__u64", o.variables.seen.type:gsub("unsigned long long", "__u64"))
      o:close()
   end, "clang")

   live("maps have the functions of tables, with the fields' names", function()
      local o = loaded()
      local flows, hits, routes = o.maps.flows, o.maps.hits, o.maps.routes
      assert.is_true(flows:set(1, 2, 100, 5, "\1\2\3\4\5\6", { x = -3, y = 4 }))
      local v = flows:get(1, 2)
      assert.is_true(v.packets == 100ULL)
      assert.equal(5, v.mark)
      assert.equal(6, v.mac[5])
      assert.equal(-3, v.at.x)
      assert.equal(2, (o.programs.filter:test(empty)))
      assert.is_true(flows:get(1, 2).packets == 110ULL)
      v.mark = 9
      assert.is_true(flows:get(1, 2).packets == 110ULL)
      assert.equal(9, flows:get(1, 2).mark)
      for k in flows:pairs() do assert.same({ 1, 2 }, { k.src, k.port }) end
      assert.is_true(hits:sum(0) == 1ULL)
      assert.is_true(routes:set("10.0.0.0/8", -7))
      assert.equal(-7, routes:get(packet.ip4 "10.1.1.1"))
      o:close()
      assert.equal(9, flows:get(1, 2).mark) -- they are ours now
      flows:free()
      hits:free()
      routes:free()
   end, "clang")

   live("variables: constants before loading, the others also after", function()
      local o = bpf.object(path)
      assert.equal(2, o:get "verdict")
      assert.equal(3, o:get "table_of" [2])
      o:set("verdict", 1)
      o:set("ports", { low = 10, high = 20 })
      o:set("text", "zzz")
      o:set("table_of", { 5, 6, 7, 8 })
      assert.has_error(function() o:set("verdikt", 1) end, path .. " has no variable 'verdikt'; there are: "
         .. "ports, seen, table_of, text, verdict")
      assert(o:load { programs = { "filter", "classify" } })
      assert.equal(1, (o.programs.filter:test(empty)))
      assert.is_true(o:get "seen" == 27ULL)
      o:set("table_of", { [3] = 100 })
      o.programs.filter:test(empty)
      assert.is_true(o:get "seen" == 147ULL)
      assert.equal(("z"):byte(), (o.programs.classify:test(empty)))
      assert.has_error(function() o:set("verdict", 2) end,
         ("%s: 'verdict' is constant and %s is loaded: set it before load()"):format(path, path))
      o:close()
   end, "clang")

   live("programs attach by their section, or where they are told", function()
      local name = ("two%d"):format(posix.getpid() % 100000)
      sh(("ip link add %sa type veth peer name %sb"):format(name, name))
      local o = loaded()
      local xdp = assert(o:attach { program = "filter", interface = name .. "a" })
      assert.equal("xdp", xdp.hook)
      local tc = assert(o:attach { program = "classify", interface = name .. "a", hook = "tc_egress" })
      assert.equal("tc_egress", tc.hook)
      assert.has_error(function() o:attach { interface = name .. "a" } end,
         path .. ": program = 'nil' is not one of: classify, filter")
      tc:detach()
      xdp:detach()
      o:close()
      sh(("ip link del %sa"):format(name))
   end, "clang", "ip")

   live("take a map of ours in the place of theirs, and another size", function()
      local ours = assert(bpf.map.new { kind = "percpu_array", value = "u64", entries = 4 })
      local o = loaded { programs = { "filter" }, maps = { hits = ours, routes = 100 } }
      o.programs.filter:test(empty)
      assert.is_true(ours:sum(0) == 1ULL)
      assert.equal(100, o.maps.routes.entries)
      assert.is_nil(o.programs.classify)
      o:close()
      ours:free()
   end, "clang")

   live("a program that the verifier refuses is translated with its line of C", function()
      local o = bpf.object(path)
      local ok, err = o:load()
      assert.is_nil(ok)
      assert.truthy(tostring(err):find("refuses " .. path .. ": R0 may be nil here", 1, true), tostring(err))
      assert.truthy(err.log:find("return v->mark", 1, true))
      o:close()
   end, "clang")

   it("that are none are refused", function()
      shell.write(dir .. "/text.o", "not an object")
      assert.has_error(function() bpf.object(dir .. "/text.o") end)
      local o, err = bpf.object.open(dir .. "/missing.o")
      assert.is_nil(o)
      assert.equal(dir .. "/missing.o cannot be opened: No such file or directory", err)
   end)
end)

describe("our ELF files", function()
   local path

   setup(function()
      dir = shell.directory()
      path = dir .. "/ours.o"
      shell.write(dir .. "/nf.lua", "return function(pkt)\n   local f = flows:get(1, 2)\n   return f.packets\nend\n")
   end)
   teardown(function() shell.remove(dir) end)

   -- Two programs, one with functions of its own; maps of several kinds, a global value.
   local function write()
      local flows = assert(bpf.map.declare { kind = "hash", name = "flows", key = "u32 src; u16 port",
         value = "u64 packets; u32 mark", entries = 100, lock = true })
      local routes = assert(bpf.map.declare { kind = "lpm_trie", name = "routes", value = "u32", entries = 10 })
      local total = assert(bpf.map.declare { kind = "array", name = "total", value = "u64 a; u64 b", entries = 1 })
      local others = {}
      for _, o in ipairs {
         { kind = "ringbuf", name = "events", entries = 4096 }, { kind = "devmap", name = "ports", entries = 4 },
         { kind = "prog_array", name = "stages", entries = 4 },
         { kind = "queue", name = "todo", value = "u32", entries = 4 },
         { kind = "percpu_array", name = "hits", value = "u64", entries = 4 },
         { kind = "bloom_filter", name = "bloom", value = "u32", entries = 4, hashes = 3 },
      } do
         others[#others + 1] = assert(bpf.map.declare(o))
      end
      local a = asm.new(dir .. "/nf.lua")
      a:func "entry"
      a:line(1)
      a:call_local "count"
      a:line(2, 4)
      a:store(64, "r10", -8, 0)
      a:map("r1", flows)
      a:mov("r2", "r10")
      a:add("r2", -8)
      a:call(1)
      a:line(3)
      a:mov("r0", 2)
      a:exit()
      a:func "count"
      a:line(2)
      a:map("r1", total, 8)
      a:mov("r2", 3)
      a:atomic_add(64, "r1", 0, "r2")
      a:call_local "deeper"
      a:exit()
      a:func "deeper"
      a:line(3)
      a:mov("r0", 0)
      a:exit()
      local b = asm.new(dir .. "/nf.lua")
      b:line(3)
      b:store(64, "r10", -8, 32)
      b:map("r1", routes)
      b:mov("r2", "r10")
      b:add("r2", -8)
      b:call(1)
      b:mov("r0", 0)
      b:exit()
      assert(bpf.elf.write(path, { maps = others, programs = {
         a:spec { name = "entry", type = "xdp" }, b:spec { name = "classify", type = "tc" },
      } }))
   end

   live("are taken by libbpf, and do what they did", function()
      write()
      local o = bpf.object(path)
      assert.equal("xdp", o.programs.entry.section)
      assert(o:load())
      assert.equal(2, (o.programs.entry:test(empty)))
      assert.is_true(o:get("total").b == 3ULL)
      assert.equal(0, (o.programs.classify:test(empty)))
      assert.is_true(o.maps.flows:set(1, 2, 3, 4))
      assert.equal(4, o.maps.flows:get(1, 2).mark)
      assert.equal(4096, o.maps.events.entries)
      assert.equal("bloom_filter", o.maps.bloom.kind)
      o:close()
   end)

   live("are taken by bpftool, with types and lines", function()
      write()
      local pins = ("/sys/fs/bpf/two-%d"):format(posix.getpid())
      local C = require("tideway.abi").C
      assert.is_true(C.tw_bpf_mount("/sys/fs/bpf") >= 0)
      sh(("bpftool prog loadall %s %s"):format(path, pins))
      local text = shell.run(("bpftool prog dump xlated pinned %s/entry linum"):format(pins)).out
      shell.run("rm -r " .. pins)
      assert.truthy(text:find(("; local f = flows:get(1, 2) [file:%s/nf.lua line_num:2 line_col:4]"):format(dir), 1,
         true), text)
      assert.truthy(text:find("int entry_deeper()", 1, true), text)
      local types = sh("bpftool btf dump file " .. path)
      for _, word in ipairs {
         "'packets'", "'src'", "bpf_spin_lock", "DATASEC '.maps'", "'prefixlen'", "'map_extra'",
      } do
         assert.truthy(types:find(word, 1, true), word)
      end
   end, "bpftool")

   live("are taken by ip and tc", function()
      write()
      -- In a namespace: ip makes directories of its own under bpffs, which go with it.
      local ns = ("twe-%d"):format(posix.getpid())
      sh(("ip netns add %s && ip -n %s link add veth-a type veth peer name veth-b"):format(ns, ns))
      local function inside(command)
         return shell.run(("ip netns exec %s sh -c '%s'"):format(ns, command:format(path)))
      end
      local r = inside "ip link set dev veth-a xdp obj %s sec xdp && ip link show veth-a"
      local t = inside "tc qdisc add dev veth-a clsact && tc filter add dev veth-a ingress bpf da obj %s sec tc && \
         tc filter show dev veth-a ingress"
      sh("ip netns del " .. ns)
      assert.truthy(r.out:find("name entry", 1, true), r.err)
      assert.truthy(t.out:find("name classify", 1, true), t.err)
   end, "ip", "tc")

   live("are well-formed in the eyes of binutils and LLVM", function()
      write()
      local r = shell.run("readelf -aW " .. path)
      assert.equal("", r.err)
      for _, word in ipairs { "Linux BPF", ".relxdp", ".BTF.ext", "R_BPF_INSN_64", "R_BPF_INSN_DISP32" } do
         assert.truthy(r.out:find(word, 1, true), word)
      end
   end, "readelf")

   it("say what they cannot hold", function()
      local m = assert(bpf.map.declare { kind = "array", name = "two", value = "u64", entries = 2 })
      local a = asm.new()
      a:map("r1", m, 0)
      a:mov("r0", 0)
      a:exit()
      local ok, err = bpf.elf.write(path, { programs = { a:spec { name = "p", type = "xdp" } } })
      assert.is_nil(ok)
      assert.equal(path .. ": map two: only an array of one entry can be addressed by value", err)
      a = asm.new()
      a:mov("r0", 0)
      a:exit()
      ok, err = bpf.elf.write("/nowhere/x.o", { programs = { a:spec { name = "p", type = "xdp" } } })
      assert.is_nil(ok)
      assert.equal("/nowhere/x.o cannot be written: No such file or directory", err)
   end)
end)

