-- SPDX-License-Identifier: BSD-3-Clause
-- NFs from files that are not trusted: loaded and constructed with a handful of names, within limits of memory and
-- time, and run only as what the compiler makes of them.
--
-- The file works with handles of the engine's objects. Its packet function never runs: the compiler reads it, and sees
-- the objects themselves there.

local abi = require "tideway.abi"
local api = require "tideway.sandbox.api"
local nfs = require "tideway.nf"
local strict = require "tideway.compiler.front.strict"

local C = abi.C
local M = {}

---@class tideway.sandbox.limits of loading the file and constructing one NF
---@field memory_mb integer
---@field seconds number of CPU time
---@field instructions integer of LuaJIT's virtual machine
---@field entries integer of all its tables

local DEFAULT = { memory_mb = 32, seconds = 2, instructions = 1e8, entries = 1e6 }
local HOOK_EVERY = 200
local TEXT_MOST = 2 ^ 20
local format = string.format -- methods of strings are the file's while it runs
local OFFERS = { packet = true, on_fault = true }

-- ---- running something of the file ----

-- The box's way into and out of it: limits, and what methods of strings are.
local function borders(box, strings)
   local meta, away = debug.getmetatable "", true
   local used, deadline, base, over, kept
   local function tally()
      used = used + HOOK_EVERY
      if used > box.limits.instructions then
         over = format("more than %.0f instructions", box.limits.instructions)
      elseif os.clock() > deadline then
         over = format("more than %g s of CPU time", box.limits.seconds)
      end
   end
   -- Bytes that may still be taken. What is garbage, much of it the engine's own, is not the file's.
   local function room()
      local most = box.limits.memory_mb * 2 ^ 20
      local left = most - (collectgarbage "count" - base) * 1024
      if left < most / 2 and left < kept - most / 8 then
         collectgarbage()
         left = most - (collectgarbage "count" - base) * 1024
         kept = left
      end
      return math.max(1, left)
   end
   local function count()
      tally()
      C.tw_control_memory(room())
      -- At every instruction of the file from here on, so that no pcall of it helps.
      if over then
         debug.sethook(count, "", 1)
         if strict.is(getfenv(debug.getinfo(2, "f").func)) then error("over the limits of the sandbox", 0) end
      end
   end
   function box.enter()
      if not away then return end
      local left = room()
      meta.__index = strings
      tally() -- the hook begins to count anew
      debug.sethook(count, "", over and 1 or HOOK_EVERY)
      away = false -- only now: what fails before, for want of stack, is done again
      C.tw_control_memory(left)
   end
   function box.leave()
      C.tw_control_memory(0)
      if away then return end
      away = true
      debug.sethook()
      meta.__index = string
   end
   function box.over() return over end
   -- Before each call of something of the file.
   function box.begin()
      used, over, base, kept = 0, nil, collectgarbage "count", math.huge
      deadline, box.entries = os.clock() + box.limits.seconds, 0
   end
end

local function text_of(box, err)
   if box.over() then return ("%s: it needs %s, the limit of its sandbox"):format(box.path, box.over()) end
   if err == "not enough memory" then
      return ("%s: it needs more than %d MB, the limit of its sandbox"):format(box.path, box.limits.memory_mb)
   end
   return type(err) == "string" and err or box.path .. ": it raises an error that is not a string"
end

local function entered(box, fn, ...)
   box.enter()
   return (fn(...))
end
jit.off(entered)

-- Calls a function of the file.
local function inside(box, fn, ...)
   local hook, mask, every = debug.gethook()
   -- Its garbage is not to reach its limit.
   local pause, speed = collectgarbage("setpause", 100), collectgarbage("setstepmul", 2000)
   collectgarbage()
   box.begin()
   local ok, result = pcall(entered, box, fn, ...)
   box.leave() -- nothing is allocated before: there may be nothing left
   debug.sethook(hook, mask, every)
   collectgarbage("setpause", pause)
   collectgarbage("setstepmul", speed)
   if not ok then error(text_of(box, result), 0) end
   return result
end
jit.off(inside, true)

-- ---- loading ----

-- A file, beside the script when it is not here.
local function read(path)
   local loaded = require("tideway.script").loaded
   local beside = loaded and loaded.path:match "^(.*)/[^/]*$"
   local file, err = io.open(path, "rb")
   if not file and beside and path:sub(1, 1) ~= "/" then
      path = beside .. "/" .. path
      file = io.open(path, "rb")
   end
   if not file then return nil, err end
   local text = file:read(TEXT_MOST + 1) or ""
   file:close()
   if #text > TEXT_MOST then return nil, ("%s: more than %d bytes"):format(path, TEXT_MOST) end
   return text, path
end

-- Runs the file: its box, the NF's name, its constructor.
local function load_box(text, path, limits)
   local weak = { __mode = "k" }
   local box = {
      path = path, limits = limits, real = setmetatable({}, weak), handle = setmetatable({}, { __mode = "kv" }),
      order = setmetatable({}, weak), made = 0, entries = 0, declared = setmetatable({}, weak),
   }
   local function declare(name, construct)
      if type(name) ~= "string" or not name:find "^[%a_][%w_.-]*$" or #name > 40 then
         error("tw.nf: the name is a word of letters, digits, _ - and .", 0)
      end
      if type(construct) ~= "function" then error("tw.nf: the second argument is a function(cfg)", 0) end
      local handle = {}
      box.real[handle] = handle
      box.declared[handle] = { name = name, construct = construct }
      return handle
   end
   local env, strings = api.environment(box, declare)
   local chunk, err = load(text, "@" .. path, "t", env)
   if not chunk then error(err, 0) end
   jit.off(chunk, true)
   strict.add(env)
   borders(box, strings)
   local declared = box.declared[inside(box, chunk) or false]
   if not declared then
      error(("%s: the file of an NF in a sandbox returns tw.nf(name, function(cfg) ... end)"):format(path), 0)
   end
   return box, declared.name, declared.construct
end

-- ---- the NF ----

-- Marks the handles that a function reaches.
local function reach(box, value, seen)
   local kind = type(value)
   if kind ~= "table" and kind ~= "function" or seen[value] then return end
   seen[value] = true
   if kind == "function" and strict.is(getfenv(value)) then
      for i = 1, 255 do
         local name, up = debug.getupvalue(value, i)
         if not name then break end
         reach(box, up, seen)
      end
   elseif kind == "table" and box.real[value] == nil then
      for k, v in next, value do
         reach(box, k, seen)
         reach(box, v, seen)
      end
   end
end

-- What the engine sees instead of the NF's own function: a place and the tables it uses. It runs on no packet: an lcore
-- has the compiled one (tideway.sandbox.lcore).
local function stand_in(tables)
   return function(pkt)
      return pkt:drop "sandbox", tables
   end
end

-- The tables that a packet function uses, in the order in which they were made.
local function tables_of(box, packet)
   local seen, list = {}, {}
   reach(box, packet, seen)
   for value in pairs(seen) do
      local object = box.real[value]
      if type(object) == "table" and object ~= value and rawget(object, "kind") then list[#list + 1] = object end
   end
   table.sort(list, function(a, b) return box.order[a] < box.order[b] end)
   return list
end

local function check(box, made)
   if type(made) == "function" then made = { packet = made } end
   if type(made) ~= "table" or box.real[made] then
      error(("%s: the constructor returns %s, not a table with packet(pkt)"):format(box.path, type(made)), 0)
   end
   for key in next, made do
      if not OFFERS[key] then
         error(("%s: an NF in a sandbox offers packet and on_fault; %s would run as Lua, outside of the compiler's "
            .. "rules"):format(box.path, tostring(key)), 0)
      end
   end
   local packet = made.packet
   if type(packet) ~= "function" or not strict.is(getfenv(packet)) then
      error(("%s: packet is %s, not a function of the file"):format(box.path, type(packet)), 0)
   end
   return packet, made.on_fault
end

local function construct(box, text, constructor, cfg)
   local packet, policy = check(box, inside(box, constructor, api.inwards(box, cfg)))
   local shown = stand_in(tables_of(box, packet))
   strict.code[shown] = packet
   -- The text and the configuration are what tells this NF from another one (tideway.change).
   return {
      packet = shown, on_fault = policy, sandboxed = text, config = cfg,
      where = ("%s:%d"):format(box.path, debug.getinfo(packet, "S").linedefined),
   }
end

--- The constructor of an NF from a file that is not trusted. The file has no ffi, io, os, debug or modules but tideway,
--- of which it sees what NFs need (lua/tideway/privilege.md); it is bounded while it is constructed, and its packet
--- function must be one that the compiler takes: as plain Lua it never runs.
---@param path string the file, beside the script when it is not in the current directory
---@param limits? { memory_mb: integer?, seconds: number?, instructions: integer?, entries: integer? }
---@return tideway.nf.constructor
function M.sandbox(path, limits)
   if type(path) ~= "string" then error("tw.sandbox: the first argument is the path of a file", 2) end
   local all = {}
   for name, value in pairs(DEFAULT) do all[name] = value end
   for name, value in pairs(limits or {}) do
      if not DEFAULT[name] or type(value) ~= "number" or value <= 0 then
         error(("tw.sandbox: %s = %s is no limit; there are memory_mb, seconds, instructions, entries"):format(
            tostring(name), tostring(value)), 2)
      end
      all[name] = value
   end
   local text, found = read(path)
   if not text then error("tw.sandbox: " .. tostring(found), 2) end
   local box, name, constructor = load_box(text, found, all)
   return nfs.nf(name, function(cfg) return construct(box, text, constructor, cfg) end)
end

--- On hooks, packets that an NF punts go on in the control thread, through Lua; raises when that would be a sandbox's.
---@param stages tideway.nf.instance[]
function M.check_hook(stages)
   local punting
   for _, nf in ipairs(stages) do
      if nf.sandboxed and punting then
         error(("%s: NF %s is in a sandbox and stands behind %s, whose punted packets go on as Lua on a hook; put it "
            .. "in front, or pin the chain to an lcore"):format(nf.where, nf.name, punting.name), 0)
      end
      punting = punting or nf.punt and nf
   end
end

--- A chain's NFs that are in sandboxes must be compiled; raises when one is not.
---@param chain tideway.chain
function M.check(chain)
   for i, nf in ipairs(chain.stages) do
      local compiled
      for _, segment in ipairs(nf.sandboxed and chain.segments or {}) do
         compiled = compiled or segment.first == i and segment.last == i and segment.lua
      end
      if nf.sandboxed and not compiled then
         local why = require("tideway.options").compile == "off" and 'tw.options { compile = "off" }'
         for _, segment in ipairs(why and {} or require("tideway.compiler").for_lcore(chain)) do
            if segment.first <= i and segment.last >= i then why = segment.raw or "it is too large" end
         end
         error(("%s: NF %s is in a sandbox and cannot be compiled, so it does not run: %s"):format(nf.where, nf.name,
            tostring(why)), 0)
      end
   end
end

return M
