-- SPDX-License-Identifier: BSD-3-Clause
-- Chains that change: NFs put in, taken out and replaced, in the draft of a change or before the engine runs. Chains of
-- messages (gate/service.lua) take from here how NFs and places are named.

local model = require "tideway.model"
local nearest = require "tideway.live.nearest"
local nfs = require "tideway.nf"

local M = {
   --- NFs that a chain takes.
   STAGES_MAX = 22,
}

--- Names of stages as counters show them: a second place of the same NF gets "#2".
---@param stages tideway.nf.instance[]
---@return string[]
function M.stage_names(stages)
   local names, seen = {}, {}
   for i, nf in ipairs(stages) do
      seen[nf.name] = (seen[nf.name] or 0) + 1
      names[i] = seen[nf.name] == 1 and nf.name or ("%s#%d"):format(nf.name, seen[nf.name])
   end
   return names
end

--- The place of an NF in a chain.
---@param chain tideway.chain|tideway.service
---@param what any its name as counters show it, itself, or its number from 1
---@param level integer as for error()
---@param kind? string what it is called there, default "NF"
---@return integer
function M.find(chain, what, level, kind)
   for i, nf in ipairs(chain.stages) do
      if what == nf or what == chain.stage_names[i] or what == i then return i end
   end
   error(("chain %s has no %s %s%s"):format(chain.name, kind or "NF", type(what) == "string" and ('"%s"'):format(what)
      or tostring(what), nearest.hint(tostring(what), chain.stage_names)), level + 1)
end
local find = M.find

--- The names of tables of NFs that are taken out are free again.
---@param instances tideway.nf.instance[]
function M.release(instances)
   if model.current().own then require("tideway.change.adopt").release(instances) end
end
local release = M.release

local function instance_of(chain, nf, level)
   if type(nf) == "function" then return nfs.instance(("function%d"):format(#chain.stages + 1), nf, level + 1) end
   if nfs.is_instance(nf) then return nf end
   error(("chain %s: expected an NF instance, such as tw.nf.count {}, or a function, not %s"):format(chain.name,
      tostring(nf)), level + 1)
end

local function set_stages(chain, stages, level)
   if #stages > M.STAGES_MAX then
      error(("chain %s: %d NFs are more than a chain takes (%d)"):format(chain.name, #stages, M.STAGES_MAX), level + 1)
   end
   if #stages == 0 and not chain.sink then
      error(("chain %s would have neither an NF nor a sink; chain:delete() takes it away"):format(chain.name),
         level + 1)
   end
   local state = model.edit(chain)
   local before = state.stages
   state.stages, state.stage_names = stages, M.stage_names(stages)
   release(before)
end

--- Where { before = | after = | at = } says; without it the end.
---@param chain tideway.chain|tideway.service
---@param where? table
---@param last integer NFs that stand in order
---@param level integer as for error()
---@param kind? string what NFs are called there
---@return integer from 1
function M.position(chain, where, last, level, kind)
   where = where or {}
   local keys = 0
   for key in pairs(where) do
      if key ~= "before" and key ~= "after" and key ~= "at" then
         error(("chain %s: insert: there is no %q; give before =, after = or at ="):format(chain.name, tostring(key)),
            level + 1)
      end
      keys = keys + 1
   end
   if keys > 1 then error(("chain %s: insert: give one of before, after and at"):format(chain.name), level + 1) end
   if where.before ~= nil then return find(chain, where.before, level + 1, kind) end
   if where.after ~= nil then return find(chain, where.after, level + 1, kind) + 1 end
   local at = where.at or last + 1
   if type(at) ~= "number" or at % 1 ~= 0 or at < 1 or at > last + 1 then
      error(("chain %s: insert: at is %s; it can be 1 to %d"):format(chain.name, tostring(at), last + 1), level + 1)
   end
   return at
end

--- Give the class of chains its methods.
---@param Chain table
function M.methods(Chain)
   --- Put an NF into the chain: `up:insert(tw.nf.count {}, { before = "ttl" })`; at the end without a place.
   ---@param nf tideway.nf.instance|function
   ---@param where? { before?: any, after?: any, at?: integer } an NF by its name, itself, or its number; `at` from 1
   ---@return tideway.chain self
   function Chain:insert(nf, where)
      local stages, at = { unpack(self.stages) }, M.position(self, where, #self.stages, 2)
      table.insert(stages, at, instance_of(self, nf, 2))
      set_stages(self, stages, 2)
      return self
   end

   --- Take an NF out of the chain.
   ---@param which any its name as counters show it, itself, or its number from 1
   ---@return tideway.chain self
   function Chain:remove(which)
      local stages, at = { unpack(self.stages) }, find(self, which, 2)
      table.remove(stages, at)
      set_stages(self, stages, 2)
      return self
   end

   --- Put another NF in the place of one. One of the same name goes on with its counters and tables.
   ---@param which any its name as counters show it, itself, or its number from 1
   ---@param nf tideway.nf.instance|function
   ---@return tideway.chain self
   function Chain:replace(which, nf)
      local stages, at = { unpack(self.stages) }, find(self, which, 2)
      stages[at] = instance_of(self, nf, 2)
      set_stages(self, stages, 2)
      return self
   end

   --- Take the chain away.
   function Chain:delete()
      release(model.remove("chains", self).stages)
   end
end

return M
