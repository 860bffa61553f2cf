-- SPDX-License-Identifier: BSD-3-Clause
-- Network functions: how they are declared, made and found.

local model = require "tideway.model"

local M = {}

-- Functions an instance may offer, and other keys the engine knows.
local METHODS = {
   packet = true, burst = true, message = true, response = true, data = true, punt = true, tick = true, export = true,
   import = true, stop = true,
}

-- What becomes of what an NF had in hand when it faults: of packets, of messages. The first is the default.
local PACKET_POLICIES = { "drop", "bypass" }
local MESSAGE_POLICIES = { "fail", "retry", "bypass" }

-- What NFs of messages may say of themselves.
local MESSAGE_WORDS = {
   body = { "whole" }, response_body = { "whole" }, sticky = { "connection", "exchange" }, readonly = { true, false },
}

---@class tideway.nf.instance
---@field name string
---@field where string file:line of its packet (or burst) function
---@field packet? fun(pkt: tideway.pkt)
---@field burst? fun(batch: table)
---@field punt? fun(pkt: tideway.pkt)
---@field tick? fun(now: number)
---@field stop? fun()
---@field message? fun(msg: tideway.message) a request, a connection, a datagram
---@field response? fun(msg: tideway.message) on its way back
---@field data? fun(msg: tideway.message) a piece of a body or stream
---@field body? "whole" message() comes when all of the body is there
---@field response_body? "whole" the same for response()
---@field sticky? "connection"|"exchange" which messages go to the same instance
---@field readonly? boolean its instances cannot write to messages
---@field upstreams? (string|tideway.upstream)[] groups that it sends to; one that is not declared is refused
---@field on_fault "drop"|"bypass"|"fail"|"retry" of packets the first two, of messages the last three
local Instance = {}
Instance.__index = Instance
Instance.__tostring = function(self) return "NF " .. self.name end

local function position(fn)
   local info = debug.getinfo(fn, "S")
   return ("%s:%d"):format(info.short_src, info.linedefined)
end

local function one_of(value, choices)
   for _, choice in ipairs(choices) do
      if value == choice then return true end
   end
   return false
end

local function quoted(choices)
   local words = {}
   for i, choice in ipairs(choices) do
      words[i] = type(choice) == "string" and ('"%s"'):format(choice) or tostring(choice)
   end
   return table.concat(words, " or ")
end

--- Does it take messages? packets?
---@param nf tideway.nf.instance
function M.takes_messages(nf) return (nf.message or nf.response or nf.data) ~= nil end
function M.takes_packets(nf) return (nf.packet or nf.burst) ~= nil end

local function policy_of(name, value, level)
   local choices = {}
   if M.takes_packets(value) then choices = { unpack(PACKET_POLICIES) } end
   for _, choice in ipairs(M.takes_messages(value) and MESSAGE_POLICIES or {}) do
      if not one_of(choice, choices) then choices[#choices + 1] = choice end
   end
   local policy = value.on_fault == nil and choices[1] or value.on_fault
   if one_of(policy, choices) then return policy end
   error(("NF %q: on_fault is %s, not %s"):format(name, quoted(choices), tostring(policy)), level + 1)
end

local function check_words(name, value, level)
   for key, choices in pairs(MESSAGE_WORDS) do
      if value[key] ~= nil and M.takes_messages(value) and not one_of(value[key], choices) then
         error(("NF %q: %s is %s, not %s"):format(name, key, quoted(choices), tostring(value[key])), level + 1)
      end
   end
end

local function check_upstreams(name, value, level)
   if value.upstreams == nil then return end
   if type(value.upstreams) ~= "table" then
      error(("NF %q: upstreams is a list of groups, not %s"):format(name, tostring(value.upstreams)), level + 1)
   end
   for _, group in ipairs(value.upstreams) do
      if type(group) ~= "string" and (type(group) ~= "table" or type(rawget(group, "name")) ~= "string") then
         error(("NF %q: upstreams is a list of groups (tw.upstream) or their names, and %s is in it"):format(name,
            tostring(group)), level + 1)
      end
   end
end

--- Make an instance from what a constructor returned.
---@param name string
---@param value table|function functions by name; a function is `packet` alone
---@param level integer error level of the script that is to blame
---@return tideway.nf.instance
function M.instance(name, value, level)
   if getmetatable(value) == Instance then return value end
   if type(value) == "function" then value = { packet = value } end
   if type(value) ~= "table" then
      error(("NF %q: the constructor must return a table of functions, not %s"):format(name, type(value)), level + 1)
   end
   for key in pairs(METHODS) do
      if value[key] ~= nil and type(value[key]) ~= "function" then
         error(("NF %q: %s must be a function, not %s"):format(name, key, type(value[key])), level + 1)
      end
   end
   if value.packet and value.burst then
      error(("NF %q offers packet and burst; give one of them"):format(name), level + 1)
   end
   local main = value.packet or value.burst or value.message or value.response or value.data
   if not main then
      error(("NF %q has neither packet(pkt) nor burst(batch), and none of message(msg), response(msg), data(msg)")
         :format(name), level + 1)
   end
   check_words(name, value, level + 1)
   check_upstreams(name, value, level + 1)
   value.name, value.on_fault, value.where = name, policy_of(name, value, level + 1), value.where or position(main)
   return setmetatable(value, Instance)
end

--- Is it an instance?
function M.is_instance(value) return getmetatable(value) == Instance end

-- Not in the instance, which moves to lcores.
local made = setmetatable({}, { __mode = "k" })

---@class tideway.nf.constructor
local Constructor = {}
Constructor.__index = Constructor
Constructor.__tostring = function(self) return "NF constructor " .. self.name end
Constructor.__call = function(self, config)
   if config ~= nil and type(config) ~= "table" then
      error(("%s: the configuration must be a table, not %s"):format(self.name, type(config)), 2)
   end
   local ok, result = pcall(self.construct, config or {})
   if not ok then
      -- What says no file and line itself (raised with level 0) is about the configuration: the caller's line.
      result = tostring(result)
      error(result, result:find "^[^:%s]+:%d+: " and 0 or 2)
   end
   local instance = M.instance(self.name, result, 2)
   instance.made_at = model.where(2)
   made[instance] = { constructor = self, config = config or {} }
   return instance
end

--- How an instance was made: its constructor and the configuration as it was given. Nil for plain functions.
---@param instance tideway.nf.instance
---@return { constructor: tideway.nf.constructor, config: table }?
function M.made(instance) return made[instance] end

--- Constructors are noted here while it is a list: as a file is loaded again.
---@type tideway.nf.constructor[]?
M.declared = nil

--- Is it what tw.nf(name, construct) returns?
function M.is_constructor(value) return getmetatable(value) == Constructor end

local function declare(name, construct, options)
   if type(name) ~= "string" or name == "" then error("tw.nf: the name must be a string", 3) end
   if type(construct) ~= "function" then
      error(("tw.nf(%q, ...): the second argument must be a function(cfg), not %s"):format(name, type(construct)), 3)
   end
   local constructor = setmetatable({
      name = name, construct = construct, where = model.where(3), pure = options and options.pure or nil,
   }, Constructor)
   if M.declared then table.insert(M.declared, constructor) end
   return constructor
end

--- Declare an NF: `tw.nf("name", function(cfg) return { packet = function(pkt) ... end } end)` returns its
--- constructor. `tw.nf.firewall { ... }` finds those of the library (tideway/nf/*.lua). A third argument
--- `{ pure = true }` says that its configuration alone decides what it makes, chance aside: a reload with the same one
--- keeps what runs.
---@type table
M.nf = setmetatable({}, {
   __call = function(_, name, construct, options) return declare(name, construct, options) end,
   __index = function(self, name)
      local module = "tideway.nf." .. tostring(name)
      local ok, value = pcall(require, module)
      if not ok then
         if tostring(value):find("module '" .. module .. "' not found", 1, true) then
            error(("there is no NF %q in the library; there are: %s"):format(name, table.concat(M.known(), ", ")), 2)
         end
         error(value, 0)
      end
      rawset(self, name, value)
      return value
   end,
})

--- Names of the NFs in the library.
---@return string[]
function M.known()
   local lfs, list = require "lfs", {}
   for file in lfs.dir(require("tideway.abi").root .. "/tideway/nf") do
      local name = file:match "^([%w_]+)%.lua$"
      if name then list[#list + 1] = name end
   end
   table.sort(list)
   return list
end

--- The parameters of NFs by name, as far as one was made; see M.args.
---@type table<string, table<string, table>>
M.params = {}

local function check_value(nf, key, value, spec)
   if value == nil then
      if spec.default ~= nil then return spec.default end
      if spec.required then
         error(("%s: %s is missing: %s"):format(nf, key, spec.doc or "it is required"), 0)
      end
      return nil
   end
   if spec.type and spec.type ~= "any" and type(value) ~= spec.type then
      error(("%s: %s must be a %s, not %s (%s)"):format(nf, key, spec.type, type(value), tostring(value)), 0)
   end
   if spec.one_of then
      for _, choice in ipairs(spec.one_of) do
         if choice == value then return value end
      end
      error(("%s: %s is %q; it can be %s"):format(nf, key, tostring(value), table.concat(spec.one_of, ", ")), 0)
   end
   if (spec.min and value < spec.min) or (spec.max and value > spec.max) then
      error(("%s: %s is %s; it must be from %s to %s"):format(nf, key, value, spec.min or "-inf", spec.max or "inf"), 0)
   end
   return value
end

--- Check a configuration against its parameters and fill in defaults; raises naming parameter and value.
---@param nf string name of the NF
---@param cfg table
---@param params table<string, table> name -> { type?, required?, default?, one_of?, min?, max?, doc? }
---@return table checked a new table
function M.args(nf, cfg, params)
   local out = {}
   M.params[nf] = params
   for key in pairs(cfg) do
      if not params[key] then
         local known = {}
         for name in pairs(params) do known[#known + 1] = name end
         table.sort(known)
         error(("%s: there is no parameter %q; there are: %s"):format(nf, tostring(key), table.concat(known, ", ")), 0)
      end
   end
   for key, spec in pairs(params) do out[key] = check_value(nf, key, cfg[key], spec) end
   return out
end

return M
