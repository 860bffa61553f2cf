-- SPDX-License-Identifier: BSD-3-Clause
-- A chain on a hook: compiled for every target it is pinned to, loaded, attached, counted, replaced, detached.

local abi = require "tideway.abi"
local advice = require "tideway.hook.advice"
local backing = require "tideway.bpf.backing"
local compiler = require "tideway.compiler"
local counters = require "tideway.hook.counters"
local diagnostic = require "tideway.compiler.diagnostic"
local link = require "tideway.bpf.link"
local model = require "tideway.model"
local observe = require "tideway.hook.observe"
local ports = require "tideway.port"
local punt = require "tideway.hook.punt"
local retired = require "tideway.hook.retired"
local sandbox = require "tideway.sandbox"
local split = require "tideway.bpf.split"

local C = abi.C
local M = {}

---@class tideway.hook.chain
---@field chain tideway.chain
---@field stages tideway.nf.instance[] that run now
---@field parts table[] one per target: { target, port, split, link }; split has the programs
---@field runs tideway.hook.run[] programs that count, the replaced ones first
---@field retired table[]? programs that were replaced (retired.lua)
local Hook = {}
Hook.__index = Hook
Hook.__tostring = function(self) return ("chain %s on %s"):format(self.chain.name, self.chain.place.hook) end

-- ---- compile and load ----

-- Where a diagnostic belongs: the script's line of the chain.
local function of_chain(err, chain)
   local file, line = chain.where:match "^(.*):(%d+)$"
   if not file or not diagnostic.is(err) then return err end
   return diagnostic.note(err, { file = file, line = tonumber(line) },
      ("in chain %s, pinned to %s at"):format(chain.name, chain.place.kind))
end

local function ifindex_of(iface) return tonumber(C.tw_bpf_ifindex(iface)) end

-- Interfaces by port index. Those that the chain itself names must be there.
local function interfaces(chain)
   local wanted, list = { [chain.sink or false] = true }, {}
   for _, source in ipairs(chain.sources) do wanted[source] = true end
   for _, port in ipairs(model.ports) do
      local ifindex = port.iface and ifindex_of(port.iface) or -1
      if ifindex > 0 then
         list[port.index] = ifindex
      elseif model.dry then
         list[port.index] = port.iface and port.index + 1 or nil
      elseif wanted[port] then
         local why = port.iface and ("there is no network interface %q here; ip link shows those that are"):format(
            port.iface) or "it has no network interface, which hooks need"
         error(("%s: port %s: %s"):format(port.where, port.name, why), 0)
      end
   end
   return list
end

-- Those that a flood goes to: what the chain reads from or sends to.
local function flood_ports(chain)
   local all, list = interfaces(chain), {}
   for _, source in ipairs(chain.sources) do list[source.index] = all[source.index] end
   if chain.sink then list[chain.sink.index] = all[chain.sink.index] end
   return list
end

-- The port whose packets a target sees.
local function ingress_of(chain, target)
   for _, port in ipairs(model.ports) do
      if target.interface and port.iface == target.interface then return port end
   end
   for _, source in ipairs(chain.sources) do
      if ports.is_port(source) then return source end
   end
end

local function check(chain)
   for _, source in ipairs(chain.sources) do
      if ports.is_ring(source) then
         error(("%s: chain %s is pinned to %s and reads %s; rings are between lcores"):format(chain.where, chain.name,
            chain.place.kind, tostring(source)), 0)
      end
   end
   if ports.is_ring(chain.sink) then
      error(("%s: chain %s is pinned to %s and its sink is %s; a hook sends to interfaces: make the sink a port, or "
         .. "leave it out to pass packets to the kernel"):format(chain.where, chain.name, chain.place.kind,
         tostring(chain.sink)), 0)
   end
end

--- Compile NFs for a target of a chain's place.
---@param chain tideway.chain
---@param stages tideway.nf.instance[]
---@param target tideway.hook.target
---@param options? table more options of the compiler
---@return tideway.compiled? compiled
---@return table? err a diagnostic
function M.compile(chain, stages, target, options)
   sandbox.check_hook(stages)
   for _, nf in ipairs(stages) do
      if not nf.packet then
         local file, line = nf.where:match "^(.*):(%d+)$"
         return nil, diagnostic.new(file and { file = file, line = tonumber(line) },
            ("NF %s works on bursts, and a hook sees one packet at a time"):format(nf.name),
            "give it packet(pkt), or pin the chain to an lcore")
      end
   end
   local port = ingress_of(chain, target)
   local hook = target.link and target.link.hook
   local all = {
      ports = interfaces(chain), flood = flood_ports(chain), port = port and port.index or 0,
      sink = chain.sink and chain.sink.index, egress = hook == "tc_egress",
      attach = hook and link.hooks[hook].attach_type,
   }
   for key, value in pairs(punt.options(chain, target)) do all[key] = value end
   for key, value in pairs(observe.options(chain, all.port)) do all[key] = value end
   for key, value in pairs(options or {}) do all[key] = value end
   return compiler.for_hook(chain.name, stages, chain.place and chain.place.hook or "xdp", all)
end

-- Packets a flood makes: one for every port but the one it came by.
local function flood_copies(part)
   local n = 0
   for index in pairs(part.flood) do
      if index ~= part.port then n = n + 1 end
   end
   return n
end

-- Compiled and loaded programs of NFs, for each target. ring: of punted packets, another than the chain's.
local function load_all(chain, stages, ring)
   local parts = {}
   for i, target in ipairs(chain.place.targets) do
      local clock = os.clock()
      local programs, err = split.load {
         stages = stages, split = chain.place.split,
         load = { attach_type = link.hooks[target.link.hook].attach_type, persist = chain.place.persist },
         compile = function(nfs, options)
            options.punt_ring = ring
            return M.compile(chain, nfs, target, options)
         end,
      }
      if not programs then
         for k = 1, i - 1 do parts[k].split:close() end
         return nil, of_chain(err, chain)
      end
      local port = ingress_of(chain, target)
      parts[i] = {
         target = target, port = port and port.index, interfaces = interfaces(chain),
         flood = flood_ports(chain), split = programs, observed = observe.watches(chain),
         seconds = os.clock() - clock,
      }
   end
   return parts
end

-- What counters need to know of one of a target's programs.
local function run_of(part, compiled, stages)
   return {
      exits = compiled.exits, exit_table = compiled.exit_table, copies = flood_copies(part), stages = #stages,
      at = counters.in_order(#stages),
   }
end

local function add_runs(self, part, stages)
   local known = {}
   for _, run in ipairs(self.runs) do known[run.exit_table or 0] = true end
   for _, p in ipairs(part.split.parts) do
      if not known[p.compiled.exit_table] then self.runs[#self.runs + 1] = run_of(part, p.compiled, stages) end
   end
end

--- Compile and load a chain; raises what is wrong.
---@param chain tideway.chain
---@return tideway.hook.chain
function M.load(chain)
   check(chain)
   local parts, err = load_all(chain, chain.stages)
   if not parts then error(err, 0) end
   local self = setmetatable({ chain = chain, stages = chain.stages, parts = parts, runs = {} }, Hook)
   for _, part in ipairs(parts) do add_runs(self, part, chain.stages) end
   self.punts = punt.new(self)
   return self
end

--- The tables that programs use.
---@param parts? table[] default: those that run
---@return table<table, true>
function Hook:tables(parts)
   local set = {}
   for _, part in ipairs(parts or self.parts) do
      for _, p in ipairs(part.split.parts) do
         for _, t in ipairs(p.compiled.tables) do
            if not t.internal then set[t] = true end
         end
      end
   end
   return set
end

-- ---- attach ----

local function link_options(part, chain)
   local o = { program = part.split:program(), persist = chain.place.persist }
   for key, value in pairs(part.target.link) do o[key] = value end
   if part.target.table then o.map = assert(backing.of(part.target.table)) end
   return o
end

local function persist(part, chain)
   if not chain.place.persist then return end
   local ok, err = part.split:persist(chain.place.persist, part.target.label)
   if not ok then error(("%s: chain %s: %s"):format(chain.where, chain.name, err), 0) end
end

--- Attach the programs; raises what is wrong, with nothing attached then.
function Hook:attach()
   for _, part in ipairs(self.parts) do
      local err
      part.link, err = link.attach(link_options(part, self.chain))
      if not part.link then
         self:detach()
         error(("%s: chain %s: %s"):format(self.chain.where, self.chain.name, err), 0)
      end
      persist(part, self.chain)
   end
   local ok, err = pcall(self.punts.attached, self.punts)
   if not ok then
      self:detach()
      error(err, 0)
   end
end

local function programs_text(programs)
   local count, bytes = 0, 0
   for _, p in ipairs(programs.parts) do
      count, bytes = count + p.compiled.object.count, bytes + p.program.jited
   end
   local text = ("program id %d, %d instructions, %d bytes"):format(programs:program().id, count, bytes)
   if #programs.parts == 1 then return text end
   return ("%s in %d programs with tail calls between them (%s)"):format(text, #programs.parts,
      programs.why and "as one, " .. programs.why or "split = true")
end

-- What else there is to say of a target, behind its line.
local function notes(part)
   local l, list = part.link, {}
   if l.fell_back then list[1] = "not native: " .. l.fell_back end
   if l.adopted then list[#list + 1] = "in the place of an earlier run's" end
   if l.took_over then list[#list + 1] = "in the place of what a killed run left" end
   list[#list + 1] = l.note
   if l.hook == "xdp" and l.mode == "native" then
      for _, p in ipairs(part.split.parts) do
         for _, text in ipairs(advice.of_native_xdp(p.compiled.exits, part.interfaces, part.flood, part.port)) do
            list[#list + 1] = text
         end
      end
   end
   return list
end

--- What was got: a line per target.
---@return string[]
function Hook:lines()
   local lines = {}
   for i, part in ipairs(self.parts) do
      local l = part.link
      lines[i] = ("%s: %s%s, %s"):format(self.chain.name, part.target.label,
         l.mode and part.target.link.hook == "xdp" and (" (%s)"):format(l.mode) or "", programs_text(part.split))
      for _, note in ipairs(notes(part)) do lines[i] = lines[i] .. "; " .. note end
   end
   return lines
end

--- Where it runs, in few words.
---@return string
function Hook:place_text()
   local list = {}
   for i, part in ipairs(self.parts) do
      local mode = part.link and part.link.mode
      list[i] = part.target.label .. (mode and part.target.link.hook == "xdp" and (" (%s)"):format(mode) or "")
   end
   return table.concat(list, ", ")
end

--- Put programs in the place of those that run; every packet sees the old ones or the new ones. Counters go on.
---@param parts table[] as Hook.parts, loaded
---@param stages tideway.nf.instance[] that they run
---@return table[]? before the parts that ran
---@return any err
function Hook:put(parts, stages)
   local before = self.parts
   for i, part in ipairs(parts) do
      part.link = before[i].link
      local ok, err = part.link:replace(part.split:program())
      if not ok then
         for k = 1, i - 1 do parts[k].link:replace(before[k].split:program()) end
         return nil, err
      end
   end
   retired.settle(self)
   for _, part in ipairs(parts) do
      add_runs(self, part, stages)
      persist(part, self.chain)
   end
   self.parts, self.stages = parts, stages
   observe.installed(self)
   return before
end

---@class tideway.hook.change other NFs for a chain, loaded
---@field parts table[]
---@field stages tideway.nf.instance[]
---@field from table<integer, integer> stage -> the running one that it continues, from 1
---@field ring table? of punted packets, when the stages have other numbers
---@field places table? of one that ran before: where the counters of programs belonged then

local function is_same_order(from, stages, before)
   if #stages ~= #before then return false end
   for i in ipairs(stages) do
      if from[i] ~= i then return false end
   end
   return true
end

--- Compile and load other NFs. Nothing runs differently yet.
---@param stages tideway.nf.instance[]
---@param from? table<integer, integer> stage -> the running one that it continues, from 1; default: the same one
---@return tideway.hook.change? change
---@return any err a diagnostic or a sentence
function Hook:prepare(stages, from)
   if not from then
      from = {}
      for i in ipairs(stages) do from[i] = i end
   end
   local ring = not is_same_order(from, stages, self.stages) and punt.new_ring() or nil
   local ok, parts, err = pcall(load_all, self.chain, stages, ring)
   if not ok then return nil, parts end
   if not parts then return nil, err end
   return { parts = parts, stages = stages, from = from, ring = ring }
end

-- The way back from one stage to the one it continues.
local function inverse(from)
   local to = {}
   for new, old in pairs(from) do to[old] = new end
   return to
end

-- Programs in the place of those that run. Returns the latter.
local function put(self, parts, stages)
   local before = self.parts
   for i, part in ipairs(parts) do
      part.link = before[i].link
      local ok, err = part.link:replace(part.split:program())
      if not ok then
         for k = 1, i - 1 do parts[k].link:replace(before[k].split:program()) end
         return nil, err
      end
   end
   for _, part in ipairs(parts) do
      add_runs(self, part, stages)
      persist(part, self.chain)
   end
   self.parts, self.stages = parts, stages
   return before
end

--- Run what was prepared: every packet sees the old NFs or the new ones. Counters go on.
---@param change tideway.hook.change
---@return tideway.hook.change? before what ran, to be installed again or forgotten
---@return any err with the old ones running
function Hook:install(change)
   local places, ring = counters.places(self.runs), change.ring and punt.ring(self.chain)
   local stages, from = self.stages, inverse(change.from)
   local parts, err = put(self, change.parts, change.stages)
   if not parts then return nil, err end
   counters.renumber(self.runs, change.from, places, change.places)
   self.renumbered = true
   self.punts:renumber(change)
   return { parts = parts, stages = stages, from = from, ring = ring, places = places }
end

--- Let go of programs that run no more, or never did.
---@param change tideway.hook.change
---@param ran? boolean
function Hook:forget(change, ran)
   if ran then
      retired.add(self, change.parts)
   else
      for _, part in ipairs(change.parts) do part.split:close() end
   end
   if change.ring then self.punts:forget(change.ring) end
end

--- Put other NFs in the place of those that run, at once. When this fails the old ones run.
---@param stages tideway.nf.instance[] as many as before
---@return boolean? ok
---@return any err a diagnostic or a sentence
function Hook:replace(stages)
   local change, err = self:prepare(stages)
   if not change then return nil, err end
   local before
   before, err = self:install(change)
   self:forget(before or change, before ~= nil)
   return before ~= nil or nil, err
end

local function close_all(changes)
   for _, change in ipairs(changes) do change.part.program:close() end
end

local function install(part, change)
   return part.split:install(change, function(program) return part.link:replace(program) end)
end

--- Put another NF in the place of one stage. Of a split chain only the program that runs it is replaced, the others
--- go on; every packet sees the old NF or the new one. When this fails the old one runs.
---@param i integer stage, from 1
---@param nf tideway.nf.instance
---@return boolean? ok
---@return any err a diagnostic or a sentence
function Hook:replace_stage(i, nf)
   local new, old, err = {}, {}
   for k, part in ipairs(self.parts) do
      new[k], err = part.split:prepare(i, nf)
      if not new[k] then
         close_all(new)
         return nil, of_chain(err, self.chain)
      end
   end
   for k, part in ipairs(self.parts) do
      old[k], err = install(part, new[k])
      if not old[k] then
         for j = 1, k - 1 do install(self.parts[j], old[j]) end
         close_all(new)
         return nil, err
      end
   end
   close_all(old)
   self.stages = new[1].stages
   for k, part in ipairs(self.parts) do
      self.runs[#self.runs + 1] = run_of(part, new[k].part.compiled, self.stages)
   end
   return true
end

--- Bring the counters up to date.
function Hook:refresh()
   retired.settle(self)
   counters.refresh(self.chain.index, self.runs, #self.stages, self.punts, self.renumbered)
   self.renumbered = nil
end

--- Detach the programs; those that persist go on running.
---@return string[] errors
function Hook:detach()
   local errors = {}
   for _, part in ipairs(self.parts) do
      if part.link then
         local ok, err = part.link:release()
         if not ok then errors[#errors + 1] = ("chain %s: %s"):format(self.chain.name, err) end
         part.link = nil
      end
   end
   return errors
end

--- Forget the programs; the kernel ends those that are attached nowhere.
function Hook:close()
   observe.forget(self)
   retired.settle(self, true)
   for _, part in ipairs(self.parts) do part.split:close() end
   self.parts = {}
end

return M
