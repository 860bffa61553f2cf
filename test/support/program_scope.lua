-- SPDX-License-Identifier: BSD-3-Clause
-- Random programs: what is in scope, and the headers whose fields they read and write.

local expressions = require "test.support.program_expression"

local M = {}

local E = expressions.E

---@class test.program.generator: test.program.expressions
local G = setmetatable({}, { __index = E })
G.__index = G
M.G = G

function M.line(fmt, ...) return { fmt = fmt, ... } end
function M.simple(fmt, ...) return { M.line(fmt, ...) } end

-- ---- what headers there are ----

local function fields_of(header, more)
   local list = {}
   for _, f in ipairs(header.fields) do
      if f.type == "mac" then
         list[#list + 1] = { name = f.name, t = "num", lo = 0, hi = 2 ^ 48 - 1 }
      elseif f.type == "ip6" then
         list[#list + 1] = { name = f.name, t = "ip6" }
      elseif f.width == 64 then
         list[#list + 1] = { name = f.name, t = "u64" }
      else
         list[#list + 1] = { name = f.name, t = "num", lo = 0, hi = 2 ^ f.width - 1, exact = f.width == 8 }
      end
   end
   for _, f in ipairs(more or {}) do list[#list + 1] = f end
   return list
end

local OWN = {
   "u3 a; u5 b; be16 c; u24 d; le32 e; u12 f; u20 g; mac m; ip4 i; be64 q; le64 s",
   "u1 a; u15 b; le16 c; be32 d; u4 e; u4 f; pad 3; u24 g; u31 h; u1 i",
   "be16 a { u3 x; u1 y; u12 z }; u8 b; le64 c; mac d; u2 e; u6 f",
}

local VIEWS
local function views()
   if VIEWS then return VIEWS end
   local headers = require("tideway").headers
   VIEWS = {}
   for _, name in ipairs { "eth", "ipv4", "ipv6", "tcp", "udp", "icmp", "vlan" } do
      VIEWS[#VIEWS + 1] = { call = ("pkt:%s()"):format(name), fields = fields_of(headers[name]), kind = name }
   end
   return VIEWS
end

-- ---- scope ----

local function copy(list) return { unpack(list) } end

function G:open()
   local outer = self.scope
   self.scope = { vars = copy(outer.vars), views = copy(outer.views), functions = copy(outer.functions) }
   return outer
end

local function hide(list, name)
   for i = #list, 1, -1 do
      if list[i].name == name then table.remove(list, i) end
   end
end

function G:name(prefix)
   local r = self.r
   local vars = self.scope.vars
   if #vars > 0 and r:one_in(12) and prefix ~= "i" then -- shadows another one
      local v = r:pick(vars)
      if not self.busy[v.name] then return v.name end
   end
   self.count = self.count + 1
   return prefix .. self.count
end

function G:declare(v)
   for _, list in pairs(self.scope) do hide(list, v.name) end
   table.insert(v.fields and self.scope.views or self.scope.vars, v)
   return v
end

M.copy, M.hide, M.fields_of, M.views, M.OWN = copy, hide, fields_of, views, OWN

return M
