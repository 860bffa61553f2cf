-- SPDX-License-Identifier: BSD-3-Clause
-- The build's guards: C and FFI cannot drift apart, and a broken layer rule is found.

local lfs = require "lfs"
local shell = require "test.shell"

local SOURCE = "scripts/gen-abi.lua"
local in_source_tree = lfs.attributes(SOURCE) ~= nil

describe("scripts/gen-abi.lua", function()
   local gen, dir
   setup(function()
      gen = in_source_tree and dofile(SOURCE)
      dir = shell.directory()
   end)
   teardown(function() shell.remove(dir) end)

   it("finds every struct, member, constant and function", function()
      if not gen then return pending "run from the top of the source tree" end
      local aggregates, constants = gen.parse [[
         enum e { A = 1, B, C = 4 };
         struct s { uint64_t a, *b; char name[4][8]; struct { int c; union { int d; float f; }; }; };
         struct t { struct s inner; int (*call)(int); unsigned bits : 3; };
         union u { int x; };
         struct s *make(int n, const char *name);
      ]]
      assert.same({ "A", "B", "C" }, constants)
      assert.equal("s", aggregates[1].name)
      assert.same({ "a", "b", "name", "c", "d", "f" }, aggregates[1].fields)
      assert.same({ "inner", "call" }, aggregates[2].fields)
      assert.equal("union", aggregates[3].kind)
      assert.same({ "make" }, gen.functions "struct s { int f; }; struct s *make(int n, const char *name);")
   end)

   -- Compile the assertions of one text against another, as the build does.
   local function compile(seen_by_ffi, seen_by_c)
      shell.write(dir .. "/cdef.h", seen_by_ffi)
      shell.write(dir .. "/abi.h", "#include <stddef.h>\n#include <stdint.h>\n" .. seen_by_c)
      local r = shell.run(("luajit %s assert %s/cdef.h >%s/assert.c"):format(SOURCE, dir, dir))
      assert.equal("", r.err)
      return shell.run(("cc -std=gnu11 -fsyntax-only -I%s %s/assert.c"):format(dir, dir))
   end

   local drifts = {
      { "a member's size", "struct x { uint32_t a; uint32_t b; };", "struct x { uint64_t a; uint32_t b; };" },
      { "a member's place", "struct x { uint32_t a; uint32_t b; };", "struct x { uint32_t b; uint32_t a; };" },
      { "a missing member", "struct x { uint32_t a; uint32_t b; };", "struct x { uint32_t a; uint32_t c; };" },
      { "a new last member", "struct x { uint32_t a; };", "struct x { uint32_t a; uint32_t b; };" },
      {
         "alignment", "struct x { uint64_t a[8]; };",
         "struct x { uint64_t a[8]; } __attribute__((aligned(64)));",
      },
      { "a constant", "enum { N = 4 };", "enum { N = 5 };" },
   }
   for _, drift in ipairs(drifts) do
      it("stops the build on " .. drift[1], function()
         if not gen then return pending "run from the top of the source tree" end
         if not shell.has "cc" then return pending "cc is missing: apt-get install build-essential" end
         assert.equal(0, compile(drift[2], drift[2]).code)
         local r = compile(drift[2], drift[3])
         assert.not_equal(0, r.code)
      end)
   end
end)

describe("scripts/check-layers", function()
   local dir
   setup(function() dir = shell.directory() end)
   teardown(function() shell.remove(dir) end)

   local function check(path, text)
      shell.run(("rm -rf %s/*; cp -r core lua scripts examples %s/"):format(dir, dir))
      if path then shell.write(dir .. "/" .. path, text) end
      return shell.run(dir .. "/scripts/check-layers")
   end

   it("finds nothing in this tree", function()
      if not in_source_tree then return pending "run from the top of the source tree" end
      local r = check()
      assert.equal("", r.out)
      assert.equal(0, r.code)
   end)

   local violations = {
      { "core/rogue.c", "#include <rte_mbuf.h>\n", "DPDK headers" },
      { "core/rogue.c", "#include <lauxlib.h>\n", "Lua headers" },
      { "core/rogue.c", "#include <bpf/libbpf.h>\n", "libbpf" },
      { "core/abi_rogue.h", '#include "port.h"\n', "core/abi" },
      { "lua/tideway/rogue.lua", 'ffi.cdef [[\nint x;\n]]\n', "declare C to the FFI" },
      { "lua/tideway/packet/rogue.lua", "ffi.cdef [[\nuint64_t tw_now(void);\n]]\n", "functions of the engine" },
      { "lua/tideway/nf/rogue.lua", 'local C = require("tideway.abi").C\n', "an NF knows" },
      { "lua/tideway/cli/rogue.lua", 'local plan = require "tideway.plan"\n', "public API" },
      { "lua/tideway/cli/rogue.lua", "C.tw_engine_stop()\n", "no function of the engine" },
      { "lua/tideway/rogue.lua", 'require "tideway.cli"\n', "below the commands" },
      { "examples/rogue.lua", 'require "tideway.model"\n', "examples use" },
   }
   for _, v in ipairs(violations) do
      it(("finds %q in %s"):format(v[2]:gsub("\n", " "), v[1]), function()
         if not in_source_tree then return pending "run from the top of the source tree" end
         local r = check(v[1], v[2])
         assert.equal(1, r.code)
         assert.is_truthy(r.out:find(v[3], 1, true), r.out)
         assert.is_truthy(r.out:find("rogue", 1, true))
      end)
   end
end)
