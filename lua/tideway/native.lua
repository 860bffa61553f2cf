-- SPDX-License-Identifier: BSD-3-Clause
-- Compiles chains for lcores: at once to Lua that goes with the plan (tier 1), then in the background to machine code
-- by way of the system's C compiler, which lcores take up between two bursts (tier 2).

local abi = require "tideway.abi"
local options = require "tideway.options"
local posix = require "tideway.posix"
local sandbox = require "tideway.sandbox"

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

--- Compile a chain; its segments are in chain.segments from then on. What cannot be compiled runs as it is, unless it
--- is in a sandbox.
---@param chain tideway.chain
---@param as_before? table segments of the same NFs, which stand for new ones
function M.compile(chain, as_before)
   if as_before or chain.segments then chain.segments = as_before end
   if as_before then return end
   local ok, list = true, nil
   if options.compile ~= "off" and #chain.stages > 0 then ok, list = pcall(printed, chain) end
   if ok then
      chain.segments = list
   else
      say_once("chain %s: the compiler failed, its NFs run as they are; this is a bug, please report it: %s",
         chain.name, tostring(list))
   end
   sandbox.check(chain)
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

-- C texts that were compiled: text -> { native, failed, used }. The same chain is not compiled twice.
local cache, CACHE_MAX = {}, 64
local queue, job = {}, nil -- texts that wait, the one that is compiled now
-- What lcores run: { bank, chain }, the chain as it was then: one that is looked at in a change is as it would be.
local running = {}

--- The C text of a chain; nil when none of it is to become machine code.
---@param chain tideway.chain
---@return string?
local function text_of(chain)
   local segments = chain.segments
   if not segments or #segments == 0 or options.compile ~= "native" then return nil end
   segments.text = segments.text or require("tideway.compiler.back.lcore").c_text(segments)
   return segments.text
end

local function forget(text)
   if cache[text].native then C.tw_native_free(cache[text].native) end
   cache[text] = nil
end

-- The longest unused go.
local function trim()
   local list = {}
   for text in pairs(cache) do list[#list + 1] = text end
   if #list <= CACHE_MAX then return end
   table.sort(list, function(a, b) return cache[a].used < cache[b].used end)
   for i = 1, #list - CACHE_MAX do forget(list[i]) end
end

-- Gives a bank the machine code of a chain, when it is there.
local function publish(bank, chain)
   local text = text_of(chain)
   local entry = text and cache[text]
   if not entry or not entry.native then return false end
   entry.used = posix.now()
   local words = C.tw_native_words(bank, chain.index)
   for i, segment in ipairs(chain.segments) do
      if C.tw_native_publish(entry.native, ("segment_%d"):format(i - 1), words[segment.index]) < 0 then
         say_once("chain %s: %s", chain.name, abi.error())
         return false
      end
      segment.running = true
   end
   return true
end

local function show_tier(chain)
   local info, quarantined = C.tw_stats().chain[chain.index], false
   for s = 0, info.stages - 1 do quarantined = quarantined or info.quarantined[s] ~= 0 end
   if not quarantined then info.tier = M.tier(chain) end
end

--- Give a plan that is not yet published the machine code that there is for its chains.
---@param bank integer
---@param chains tideway.chain[]
function M.warm(bank, chains)
   for _, chain in ipairs(chains) do publish(bank, chain) end
end

-- A text is compiled: lcores that run it take it up between two bursts.
local function compiled(text)
   for _, r in ipairs(running) do
      local segments = r.chain.segments
      if segments and segments.text == text and publish(r.bank, r.chain) then show_tier(r.chain) end
   end
end

local function name_of(text)
   for _, r in ipairs(running) do
      if r.chain.segments and r.chain.segments.text == text then return "chain " .. r.chain.name end
   end
   return "a chain"
end

local function begin(text)
   local native = C.tw_native_compile(text, #text)
   if native == nil then
      say_once("%s; chains run as LuaJIT compiles them; apt-get install gcc makes them faster", abi.error())
      for _, other in ipairs(queue) do cache[other] = { failed = true, used = posix.now() } end
      cache[text], queue = { failed = true, used = posix.now() }, {}
      return
   end
   job = { text = text, native = native }
end

local function want(text)
   if cache[text] or job and job.text == text then return end
   for _, other in ipairs(queue) do
      if other == text then return end
   end
   queue[#queue + 1] = text
end

--- Start to compile these chains, one after the other; they need not run yet.
---@param chains tideway.chain[]
---@return fun(): boolean done have all been compiled, or refused?
function M.prepare(chains)
   local texts = {}
   for _, chain in ipairs(chains) do
      local text = text_of(chain)
      if text then
         want(text)
         texts[#texts + 1] = text
      end
   end
   if #texts > 0 then M.due = 0 end
   return function()
      M.poll()
      for _, text in ipairs(texts) do
         if not cache[text] then return false end
      end
      return true
   end
end

--- These lcores run now; what is not yet compiled of their chains is, one after the other.
---@param lcores tideway.plan.lcore[]
---@param at_once? boolean without waiting whether the engine goes on for a while
function M.start(lcores, at_once)
   running = {}
   if not at_once then M.due = posix.now() + DELAY_NS end
   for _, lcore in ipairs(lcores) do
      for _, chain in ipairs(lcore.chains) do
         local now = { name = chain.name, index = chain.index, stages = chain.stages, segments = chain.segments }
         running[#running + 1] = { bank = lcore.bank, chain = now }
         local text = text_of(now)
         if text then want(text) end
         publish(lcore.bank, now)
         show_tier(now)
      end
   end
end

--- Goes on with what is in the background; never waits. To be called now and then.
---@return boolean busy whether there is more to come
function M.poll()
   if not job and #queue > 0 and posix.now() >= M.due then begin(table.remove(queue, 1)) end
   if not job then return #queue > 0 end
   local rc = C.tw_native_poll(job.native)
   if rc == 0 then return true end
   local text, native = job.text, job.native
   job = nil
   cache[text] = { native = rc == 1 and native or nil, failed = rc ~= 1, used = posix.now() }
   if rc == 1 then
      compiled(text)
   else
      say_once("%s: %s; it stays as LuaJIT compiles it", name_of(text), abi.error())
      C.tw_native_free(native)
   end
   trim()
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

--- Give up what is not yet compiled, and forget what was.
function M.stop()
   if job then C.tw_native_free(job.native) end
   queue, job, running = {}, nil, {}
   for text in pairs(cache) do forget(text) end
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
