-- SPDX-License-Identifier: BSD-3-Clause
-- Chains on hooks that are observed: programs with the observation compiled in stand in the place of those without
-- for as long as somebody looks. Tables and counters go on; when nobody looks any more nothing is left in the path.

local abi = require "tideway.abi"
local loop = require "tideway.loop"

local C = abi.C
local M = {}

---@class tideway.hook.observed
---@field watches tideway.place.watch[] what is looked at
---@field plain tideway.hook.change? what ran before, to be put back
---@field with table[]? parts that stand in its place
---@field stages tideway.nf.instance[] of both

---@type table<tideway.chain, tideway.hook.observed>
local observed = setmetatable({}, { __mode = "k" })

--- What the compiler needs to know for a chain's program; one that comes in the place of an observed one is observed.
---@param chain tideway.chain
---@param port integer whose packets the program sees
---@return table options
function M.options(chain, port)
   local o, list = observed[chain], {}
   for _, w in ipairs(o and o.watches or {}) do
      if not w.in_port or w.in_port == port then
         local id = #w.programs + 1
         list[#list + 1] = setmetatable({ program = id }, { __index = w })
         w.programs[id] = list[#list]
      end
   end
   return { watches = list }
end

--- What is looked at now.
---@param chain tideway.chain
---@return tideway.place.watch[]
function M.watches(chain)
   local o = observed[chain]
   return o and { unpack(o.watches) } or {}
end

local function without(list, item)
   for i, one in ipairs(list) do
      if one == item then return table.remove(list, i) end
   end
end

local function has_ended(hook) return not hook.parts[1] or not hook.parts[1].link end

-- What ran before it was observed still is what would run otherwise?
local function unchanged(hook, o) return o.with == hook.parts and o.stages == hook.stages end

-- Programs for those who look now, in the place of those that run. The latter; nil and why: they run on.
local function exchange(hook)
   local change, err = hook:prepare(hook.stages)
   if not change then return nil, err end
   local before
   before, err = hook:install(change)
   if before then return before end
   hook:forget(change)
   return nil, err
end

local function renew(hook, o, first)
   local same = unchanged(hook, o)
   o.busy = true
   local before, err = exchange(hook)
   o.busy = nil
   if not before then return nil, err end
   if first then
      o.plain = before
   else
      hook:forget(before, true)
      if not same and o.plain then -- the chain was changed meanwhile
         hook:forget(o.plain, true)
         o.plain = nil
      end
   end
   o.with, o.stages = hook.parts, hook.stages
   return true
end

--- Look at a chain. When this fails it runs as before.
---@param hook tideway.hook.chain
---@param w tideway.place.watch
---@return boolean? ok
---@return any err a diagnostic or a sentence
function M.start(hook, w)
   local chain = hook.chain
   local o = observed[chain] or { watches = {} }
   observed[chain] = o
   table.insert(o.watches, w)
   local ok, err = renew(hook, o, #o.watches == 1)
   if ok then return true end
   without(o.watches, w)
   if #o.watches == 0 then observed[chain] = nil end
   return nil, ("chain %s can't be watched, and goes on as it is: %s"):format(chain.name, tostring(err))
end

-- Nobody looks any more: what ran before, when nothing else has come in its place.
local function put_back(hook, o)
   observed[hook.chain] = nil
   local before, err
   if o.plain and unchanged(hook, o) then
      before, err = hook:install(o.plain)
   else
      if o.plain then hook:forget(o.plain, true) end
      before, err = exchange(hook)
   end
   if not before then return nil, err end
   hook:forget(before, true)
   return true
end

--- Look no more.
---@param hook tideway.hook.chain
---@param w tideway.place.watch
---@return boolean? ok
---@return string? err why the observation is still in the program
function M.stop(hook, w)
   local o = observed[hook.chain]
   if not o or not without(o.watches, w) then return true end
   if has_ended(hook) then return true end
   local ok, err
   if #o.watches == 0 then ok, err = put_back(hook, o) else ok, err = renew(hook, o) end
   if ok then return true end
   return nil, ("chain %s is watched no more, but its program goes on copying packets, which costs time; reload it: %s")
      :format(hook.chain.name, tostring(err))
end

local function same_list(a, b)
   for i = 1, math.max(#a, #b) do
      if a[i] ~= b[i] then return false end
   end
   return true
end

-- Programs from before somebody looked, or from when somebody did, have come back: others in their place.
local function correct(hook)
   local o = observed[hook.chain]
   if has_ended(hook) or same_list(hook.parts[1].observed, M.watches(hook.chain)) then return end
   if o then
      local ok, err = renew(hook, o)
      for _, w in ipairs(ok and {} or o.watches) do
         w.lost = ("chain %s was changed, and can't be watched now: %s"):format(hook.chain.name, tostring(err))
      end
   else
      local before = exchange(hook)
      if before then hook:forget(before, true) end
   end
end

--- Other programs run now.
---@param hook tideway.hook.chain
function M.installed(hook)
   local o = observed[hook.chain]
   if o and o.busy or same_list(hook.parts[1].observed, M.watches(hook.chain)) then return end
   loop.after(0, function() correct(hook) end)
end

-- ---- packets in the control thread ----

--- A packet at an edge, in the user half of hybrid NFs.
---@param hook tideway.hook.chain
---@param edge integer enum tw_edge
---@param frame tideway.hook.frame
---@param stage integer
---@param verdict integer
---@param out? integer port that it left by
---@param flags? integer enum tw_watch_flags
---@param spent? number ns in the NF
function M.seen(hook, edge, frame, stage, verdict, out, flags, spent)
   local o = observed[hook.chain]
   if not o then return end
   for _, w in ipairs(M.watches(hook.chain)) do
      if w.seen then w.seen(hook, edge, frame, stage, verdict, out, flags or 0, spent or 0) end
   end
end

--- An NF is about to run: the time, when somebody looks.
---@return ffi.cdata*? uint64_t
function M.begin(hook) return observed[hook.chain] and C.tw_now() end

--- It has run.
---@param began ffi.cdata* what begin() gave
function M.behind(hook, frame, stage, method, began)
   local spent = tonumber(C.tw_now() - began)
   M.seen(hook, C.TW_EDGE_NF, frame, stage, frame.pkt.verdict, nil, method == "punt" and C.TW_WATCH_PUNT or 0, spent)
end

--- The chain ends.
---@param hook tideway.hook.chain
function M.forget(hook)
   local o = observed[hook.chain]
   observed[hook.chain] = nil
   if o and o.plain then hook:forget(o.plain, true) end
end

return M
