-- SPDX-License-Identifier: BSD-3-Clause
-- The programs of a chain on a hook: one where it fits, else one per NF or run of NFs with tail calls between them.
-- A program of a split chain is replaced alone, by one write to the array of programs.

local backing = require "tideway.bpf.backing"
local diagnostic = require "tideway.compiler.diagnostic"
local load = require "tideway.bpf.load"
local pin = require "tideway.bpf.pin"
local type_lib = require "tideway.table.type"

local M = {}

-- Tail calls that the kernel follows for one packet.
local MOST_CALLS = 33

---@class tideway.bpf.split.job
---@field stages tideway.nf.instance[]
---@field compile fun(stages: tideway.nf.instance[], options: table): tideway.compiled?, table? options: `part`
---@field load table? options of tideway.bpf.load
---@field split boolean? a program per NF; else only what does not fit is split

---@class tideway.bpf.split.part
---@field first integer first of its stages, from 1
---@field last integer
---@field compiled tideway.compiled
---@field program tideway.bpf.Program

---@class tideway.bpf.Split
---@field parts tideway.bpf.split.part[] in the order of the chain
---@field why string? why it is split, when that was not asked for
---@field next table? the array of programs, of a split chain
local Split = {}
Split.__index = Split

-- Compile and load the stages first..last.
local function make(self, first, last, stages)
   local job, nfs = self.job, {}
   for i = first, last do nfs[#nfs + 1] = stages[i] end
   local part
   if self.next then
      -- The array's index of a program is that of its first stage, from 0.
      part = { first = first - 1, next = last < #stages and { table = self.next, index = last } or nil }
   end
   local compiled, err = job.compile(nfs, { part = part })
   if not compiled then return nil, err end
   local options = { brief = last > first }
   for key, value in pairs(job.load or {}) do options[key] = value end
   local program
   program, err = load.load(compiled, options)
   if not program then return nil, err end
   return { first = first, last = last, compiled = compiled, program = program }
end

local function too_large(err) return diagnostic.is(err) and err.too_large end

-- In halves, until each part fits.
local function fit(self, first, last, stages)
   if first == last or not self.job.split and last - first + 1 < #stages then
      local part, err = make(self, first, last, stages)
      if part then
         self.parts[#self.parts + 1] = part
         return true
      elseif first == last or not too_large(err) then
         return nil, err
      end
   end
   local middle = math.floor((first + last) / 2)
   local ok, err = fit(self, first, middle, stages)
   if not ok then return nil, err end
   return fit(self, middle + 1, last, stages)
end

local function in_parts(self, stages)
   self.next = {
      kind = "prog_array", name = "next", key_type = type_lib.parse "u32", entries = #stages, internal = true,
   }
   local ok, err = fit(self, 1, #stages, stages)
   if not ok then return nil, err end
   if #self.parts > MOST_CALLS + 1 then
      return nil, ("%d NFs are %d programs; the kernel follows at most %d tail calls: leave split out, or use fewer"
         .. " NFs"):format(#stages, #self.parts, MOST_CALLS)
   end
   local map
   map, err = backing.of(self.next)
   if not map then return nil, err end
   for i = 2, #self.parts do
      ok, err = map:set(self.parts[i].first - 1, self.parts[i].program)
      if not ok then return nil, err end
   end
   return true
end

--- Compile and load a chain. Nothing is attached: what belongs at the hook is :program().
---@param job tideway.bpf.split.job
---@return tideway.bpf.Split? split
---@return any err a diagnostic or a sentence
function M.load(job)
   local self = setmetatable({ job = job, parts = {} }, Split)
   local stages = job.stages
   local ok, err
   if not job.split or #stages == 1 then
      local part
      part, err = make(self, 1, #stages, stages)
      if part then
         self.parts[1] = part
         return self
      elseif #stages == 1 or not too_large(err) then
         return nil, err
      end
      self.why = err.message
   end
   ok, err = in_parts(self, stages)
   if ok then return self end
   self:close()
   return nil, err
end

--- The program that belongs at the hook.
---@return tideway.bpf.Program
function Split:program() return self.parts[1].program end

-- ---- one stage alone ----

---@class tideway.bpf.split.change
---@field index integer of the part
---@field part tideway.bpf.split.part

--- Compile and load what runs a stage, with another NF in its place. Nothing runs differently yet.
---@param i integer stage, from 1
---@param nf tideway.nf.instance
---@return tideway.bpf.split.change? change
---@return any err
function Split:prepare(i, nf)
   local stages = { unpack(self.job.stages) }
   stages[i] = nf
   for index, part in ipairs(self.parts) do
      if part.first <= i and i <= part.last then
         local new, err = make(self, part.first, part.last, stages)
         if not new then return nil, err end
         return { index = index, part = new, stages = stages }
      end
   end
   return nil, ("there is no stage %d; the chain has %d"):format(i, #stages)
end

--- Run what was prepared: every packet sees the old program or the new one.
---@param change tideway.bpf.split.change
---@param attach fun(program: tideway.bpf.Program): boolean?, any puts a program at the hook
---@return tideway.bpf.split.change? before what ran, to be installed again or closed
---@return any err
function Split:install(change, attach)
   local before = { index = change.index, part = self.parts[change.index], stages = self.job.stages }
   local ok, err
   if change.index == 1 then
      ok, err = attach(change.part.program)
   else
      ok, err = backing.of(self.next):set(change.part.first - 1, change.part.program)
   end
   if not ok then return nil, err end
   self.parts[change.index], self.job.stages = change.part, change.stages
   return before
end

-- ---- the whole ----

--- Keep the array of programs when this process ends: the kernel empties one that no process has.
---@param instance string
---@param name string of the place, for the name of the pin
---@return boolean? ok
---@return string? err
function Split:persist(instance, name)
   local path = pin.path(instance, "map", "next-" .. name)
   pin.unpin(path) -- that of an earlier run
   if not self.next then return true end
   return pin.pin(backing.of(self.next).fd, path)
end

--- Forget the programs; the kernel ends those that are attached nowhere.
function Split:close()
   for _, part in ipairs(self.parts) do part.program:close() end
   if self.next then
      local map = backing.of(self.next)
      if map then map:free() end
   end
   self.parts, self.next = {}, nil
end

return M
