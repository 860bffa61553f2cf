-- SPDX-License-Identifier: BSD-3-Clause
-- The fuzzer for a few seconds, from a fixed seed and with the binary that runs the specs. `make fuzz` runs it
-- longer and with sanitizers.

local shell = require "test.shell"

local function fuzz(arguments)
   return shell.run(("BINARY=%s scripts/fuzz %s"):format(shell.quote(shell.binary), arguments), 300)
end

describe("fuzzer", function()
   it("finds nothing wrong in 10 seconds, half of them with programs for the compiler", function()
      local result = fuzz "--seconds 10 --seed 1"
      assert.equal(0, result.code, result.out .. result.err)
      assert.truthy(result.out:find "^fuzz: seed 1, %d+ iterations\nfuzz compiler: seed 1, %d+ programs, [^\n]*\n$",
         result.out)
   end)

   it("finds an NF with a bug, and says how to run that input again", function()
      local result = fuzz "--nf planted --seconds 20 --seed 1"
      assert.equal(3, result.code, result.out .. result.err)
      assert.truthy(result.out:find("NF planted", 1, true), result.out)
      local again = fuzz(result.out:match "replay  scripts/fuzz (.-)\n")
      assert.equal(3, again.code, again.out .. again.err)
      assert.truthy(again.out:find("attempt to index a nil value", 1, true), again.out)
   end)

   it("says nothing of an input that is right", function()
      local result = fuzz "--nf text:ip6 --replay 3a3a31"
      assert.equal(0, result.code, result.out .. result.err)
   end)
end)
