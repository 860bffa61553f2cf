-- SPDX-License-Identifier: BSD-3-Clause
-- Compiles chains for lcores: at once to Lua that goes with the plan (tier 1), then in the background to machine code
-- by way of the system's C compiler, which lcores take up between two bursts (tier 2).

local abi = require "tideway.abi"
local options = require "tideway.options"
local posix = require "tideway.posix"

local C = abi.C
local M = {
   --- When the background may begin, monotonic ns: engines that stop at once need no machine code. Specs set 0.
   due = 0,
}

local DELAY_NS = 200e6

-- What the engine's user should know; engine.log() takes them.
local messages, said = {}, {}

local function say_once(...)
   local text = string.format(...)
   if said[text] then return end
   said[text] = true
   messages[#messages + 1] = text
end

--- Messages since the last call.
---@return string[]
function M.log()
   local list = messages
   messages = {}
   return list
end

-- ---- tier 1 ----

--- What the compiler makes of a chain: segments { first, last, ir } and stages it leaves alone { first, last, raw }.
--- Specs put their own here.
---@param chain tideway.chain
---@return table[]
function M.segments_of(chain) return require("tideway.compiler").for_lcore(chain) end

local function printed(chain)
   local lcore, list = require "tideway.compiler.back.lcore", {}
   for _, found in ipairs(M.segments_of(chain)) do
      if found.ir then
         local segment = lcore.segment(found.ir, found.first, found.last, #chain.stages)
         segment.index, segment.native = #list, options.compile == "native"
         if segment.why then say_once("chain %s: %s; its NFs run as they are", chain.name, segment.why) end
         list[#list + 1] = segment
      end
   end
   return list
end

--- Compile a chain; its segments are in chain.segments from then on. What cannot be compiled runs as it is.
---@param chain tideway.chain
function M.compile(chain)
   chain.segments = nil
   if options.compile == "off" or #chain.stages == 0 then return end
   local ok, list = pcall(printed, chain)
   if ok then
      chain.segments = list
   else
      say_once("chain %s: the compiler failed, its NFs run as they are; this is a bug, please report it: %s",
         chain.name, tostring(list))
   end
end

--- Is the whole chain one segment that may become machine code?
---@return boolean
function M.is_whole(chain)
   local s = chain.segments and chain.segments[1]
   return s ~= nil and s.native and s.first == 1 and s.last == #chain.stages
end

local function covered(chain, wanted)
   local n = 0
   for _, s in ipairs(chain.segments or {}) do
      if s[wanted] then n = n + s.last - s.first + 1 end
   end
   return n == #chain.stages and n > 0
end

--- The tier of a chain: that of its lowest NF.
---@return integer enum tw_tier
function M.tier(chain)
   if covered(chain, "running") then return C.TW_TIER_NATIVE end
   return covered(chain, "lua") and C.TW_TIER_LUAJIT or C.TW_TIER_LUA
end

--- What of the segments goes to lcores, for transfer.pack().
---@return table[]?
function M.shipped(chain)
   if not chain.segments then return nil end
   local list = {}
   for i, s in ipairs(chain.segments) do
      list[i] = { first = s.first, last = s.last, lua = s.lua, index = s.index, native = s.native }
   end
   return list
end

-- ---- tier 2 ----

local queue, job = {}, nil

local function publish(chain, native)
   local words = C.tw_native_words(chain.index)
   for i, segment in ipairs(chain.segments) do
      if C.tw_native_publish(native, ("segment_%d"):format(i - 1), words[segment.index]) < 0 then
         return say_once("chain %s: %s", chain.name, abi.error())
      end
      segment.running = true
   end
   local info, quarantined = C.tw_stats().chain[chain.index], false
   for s = 0, info.stages - 1 do quarantined = quarantined or info.quarantined[s] ~= 0 end
   if not quarantined then info.tier = M.tier(chain) end
end

local function begin(chain)
   local text = require("tideway.compiler.back.lcore").c_text(chain.segments)
   local native = C.tw_native_compile(text, #text)
   if native == nil then
      say_once("%s; chains run as LuaJIT compiles them; apt-get install gcc makes them faster", abi.error())
      queue = {}
      return
   end
   job = { chain = chain, native = native }
end

--- Start to compile these chains, one after the other. They run.
---@param chains tideway.chain[]
function M.start(chains)
   M.stop()
   for _, chain in ipairs(chains) do
      if chain.segments and #chain.segments > 0 and options.compile == "native" then queue[#queue + 1] = chain end
   end
   M.due = posix.now() + DELAY_NS
end

--- Goes on with what is in the background; never waits. To be called now and then.
---@return boolean busy whether there is more to come
function M.poll()
   if not job and #queue > 0 and posix.now() >= M.due then begin(table.remove(queue, 1)) end
   if not job then return #queue > 0 end
   local rc = C.tw_native_poll(job.native)
   if rc == 0 then return true end
   if rc == 1 then
      publish(job.chain, job.native)
   else
      say_once("chain %s: %s; it stays as LuaJIT compiles it", job.chain.name, abi.error())
      C.tw_native_free(job.native)
   end
   job = nil
   return #queue > 0
end

--- Wait until everything is compiled, for specs.
---@param seconds number at most
function M.finish(seconds)
   M.due = 0
   local stop = os.time() + seconds
   while M.poll() do
      if os.time() > stop then error "the C compiler takes too long" end
      C.tw_sleep_ms(5)
   end
end

--- Give up what is not yet published.
function M.stop()
   if job then C.tw_native_free(job.native) end
   queue, job = {}, nil
end

--- The C compiler's version line, or nil when there is none.
---@return string?
function M.compiler()
   local pipe = io.popen "cc --version 2>/dev/null"
   local line = pipe and pipe:read "*l"
   if pipe then pipe:close() end
   return line
end

return M
