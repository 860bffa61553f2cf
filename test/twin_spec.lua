-- SPDX-License-Identifier: BSD-3-Clause
-- The NFs of examples/nf, compiled for XDP, against the C programs of bpf/twin, compiled by clang: both run in the
-- kernel on the same packets, and verdicts, bytes and maps must be equal.
--
-- TIDEWAY_SEED=n gives the packets of a run that failed again, TWIN_PACKETS=n sends more of them.

local frame = require "test.support.frame"
local kernel_twin = require "test.support.kernel_twin"
local twin_pair = require "test.support.twin_pair"
local twins = require "test.support.twins"

local SEED = tonumber(os.getenv "TIDEWAY_SEED") or os.time() % 2 ^ 31
local PACKETS = tonumber(os.getenv "TWIN_PACKETS") or 5000
local PASS = 2
local NAMES = { [0] = "XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT" }

local function unless_missing()
   local why = kernel_twin.missing()
   if why then pending(why) end
   return why
end

local function shown(code, bytes) return ("%s %s"):format(NAMES[code] or code, frame.hex(bytes)) end

-- What a packet becomes in each of the two. Bytes of dropped packets do not matter.
local function run(pair, data)
   local mine, out = pair:lua(data)
   local its, c_out = pair:c(data)
   if mine == its and (mine == 1 or out == c_out) then return mine end
   return mine, shown(mine, out), shown(its, c_out)
end

-- SYN cookies change with every minute: what differs only then is equal a moment later.
local function equal_later(pair, data)
   local _, mine = run(pair, data)
   return pair.twin.name == "syn_cookie" and mine == nil
end

local function compare(pair)
   local seen = {}
   for i, data in ipairs(twins.packets(pair.twin, SEED, PACKETS)) do
      local code, mine, its = run(pair, data)
      if mine and not equal_later(pair, data) then
         error(("TIDEWAY_SEED=%d, packet %d of %s: %s\nLua: %s\nC:   %s"):format(SEED, i, pair.twin.name,
            frame.hex(data), mine, its), 0)
      end
      seen[code] = (seen[code] or 0) + 1
   end
   local difference = pair:difference()
   if difference then error(("TIDEWAY_SEED=%d, %s: %s"):format(SEED, pair.twin.name, difference), 0) end
   return seen
end

-- Records without their time, which stands first.
local function kinds(records)
   local set = {}
   for _, record in ipairs(records) do set[frame.hex(record:sub(9))] = true end
   return set
end

describe(("NF Lua and clang (TIDEWAY_SEED=%d)"):format(SEED), function()
   for _, twin in ipairs(twins.list) do
      if twin.name ~= "sampler" then
         it(twin.name .. " does the same", function()
            if unless_missing() then return end
            local pair, err = twin_pair.load(twin)
            assert(pair, tostring(err))
            finally(function() pair:close() end)
            local seen, ways = compare(pair), 0
            for _ in pairs(seen) do ways = ways + 1 end
            assert.is_true(ways >= 2 or twin.name == "nat44", "the packets reach one verdict only")
            assert.is_nil(seen[0], "aborted")
         end)
      end
   end

   it("sampler takes the same share and writes the same records", function()
      if unless_missing() then return end
      local pair = assert(twin_pair.load(twins.list.sampler))
      finally(function() pair:close() end)
      local times = 60 -- that no run of a packet is sampled: once in 31 million
      for _, data in ipairs(twins.packets(pair.twin, SEED, 100)) do
         for _ = 1, times do
            assert.equal(PASS, (pair:lua(data)))
            assert.equal(PASS, (pair:c(data)))
         end
      end
      local mine, its = pair:records(pair.nf.tables.samples)
      assert.equal(#mine, tonumber(pair.nf.tables.stats:sum(0)))
      assert.equal(#its, pair.kernel:sum("sampler_stats", 0))
      -- Two draws of n with p = 1/4 differ by more than six deviations once in 500 million times.
      local n = 100 * times
      assert.is_true(math.abs(#mine - #its) < 6 * math.sqrt(2 * n * 0.25 * 0.75), #mine .. " and " .. #its)
      assert.same(kinds(its), kinds(mine))
   end)
end)
