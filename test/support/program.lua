-- SPDX-License-Identifier: BSD-3-Clause
-- Random NFs in NF Lua, and packets for them. A program is a tree (program_tree); its text runs on test.support.backends.
--
--    local r = traffic.random(seed)
--    local p = program.new(r)
--    backends.run { { text = tree.text(p), frames = program.frames(r, 24) } }

local frame = require "test.support.frame"
local scope = require "test.support.program_scope"
local STATEMENT = require "test.support.program_statement"
local traffic = require "test.support.traffic"

local M = {}

local G, line, simple, copy, hide, fields_of, OWN = scope.G, scope.line, scope.simple, scope.copy, scope.hide,
   scope.fields_of, scope.OWN
local U32 = 4294967295

-- ---- functions ----

local PARAMETERS = { { 0, 255 }, { 0, 65535 }, { 0, U32 }, { -2147483648, 2147483647 } }

-- A local function of numbers; `several` gives two values or none.
function G:function_of(several, nested)
   local r = self.r
   self.count = self.count + 1
   local name, params, names = "f" .. self.count, {}, {}
   for i = 1, r:range(1, 3) do
      local range = r:pick(PARAMETERS)
      params[i] = { name = ("p%d_%d"):format(self.count, i), t = "num", lo = range[1], hi = range[2] }
      names[i] = params[i].name
   end
   local outer, inside, looping = self.scope, self.inside_function, self.looping
   self.scope = { vars = nested and copy(outer.vars) or {}, views = {}, functions = {} }
   self.inside_function, self.looping = true, (looping or 0)
   for _, p in ipairs(params) do self:declare(p) end
   local body = self:statements(r:range(1, 3))
   local lo, hi = 0, r:pick { 255, 65535, U32 }
   local fmt = several and "return %s, %s" or "return %s"
   local function result()
      local a = self:fitting(self:num(2), lo, hi)
      return simple(fmt, a, several and self:fitting(self:num(1), lo, hi) or nil)
   end
   if r:one_in(2) then body[#body + 1] = { line("if %s then", self:condition(2)), { result() }, line "end" } end
   if several then
      body[#body + 1] = { line("if %s then", self:condition(1)), { simple(r:pick { "return nil", "return" }) }, line "end" }
   end
   body[#body + 1] = result()
   self.scope, self.inside_function, self.looping = outer, inside, looping
   local f = { name = name, params = params, lo = lo, hi = hi }
   local head = line(("local function %s(%s)"):format(name, table.concat(names, ", ")))
   if r:one_in(5) then -- by varargs
      head = line(("local function %s(...) local %s = ..."):format(name, table.concat(names, ", ")))
   end
   return f, { head, body, line "end" }
end

STATEMENT["function"] = function(self)
   if self.inside_function or self.looping then return nil end
   local f, statement = self:function_of(false, true)
   table.insert(self.scope.functions, f)
   return statement
end

-- A local function that assigns to a variable outside of it, and a call.
function STATEMENT.outer(self)
   if self.inside_function or self.looping then return nil end
   local r = self.r
   local v
   for _, candidate in ipairs(self.scope.vars) do
      if candidate.t == "num" and candidate.lo == 0 and candidate.hi >= 255 and not candidate.fixed
         and not self.busy[candidate.name] then
         v = candidate
      end
   end
   if not v then return nil end
   self.count = self.count + 1
   local name, param = "g" .. self.count, "q" .. self.count
   local before = self:open()
   self:declare { name = param, t = "num", lo = 0, hi = 65535, fixed = true }
   local value = self:fitting(self:num(2), 0, 255)
   self.scope = before
   return {
      line(("local function %s(%s)"):format(name, param)), { simple(v.name .. " = %s", value) }, line "end",
      line("if %s then", self:condition(1)), { simple(name .. "(%s)", self:fitting(self:num(1), 0, 65535)) }, line "end",
      r:one_in(2) and line(name .. "(%s)", self:fitting(self:num(1), 0, 65535)) or nil,
   }
end

-- Both values of a function, or none.
function STATEMENT.two(self)
   if self.inside_function then return nil end
   local f = self.r:pick(self.several)
   local args, marks = {}, {}
   for i, p in ipairs(f.params) do args[i], marks[i] = self:fitting(self:num(1), p.lo, p.hi), "%s" end
   local a, b = self:name "x", self:name "y"
   if a == b then return nil end
   local first = line(("local %s, %s = %s(%s)"):format(a, b, f.name, table.concat(marks, ", ")), unpack(args))
   for _, list in pairs(self.scope) do
      hide(list, a)
      hide(list, b)
   end
   local outer = self:open()
   self:declare { name = a, t = "num", lo = f.lo, hi = f.hi, fixed = true }
   self:declare { name = b, t = "num", lo = f.lo, hi = f.hi, fixed = true }
   local body = self:statements(self.r:range(1, 4))
   self.scope = outer
   return { first, line(("if %s then"):format(a)), body, line "end" }
end

-- ---- blocks ----

local WEIGHTS = {
   number = 6, wide = 2, boolean = 2, maybe = 3, assign = 7, swap = 1, field = 9, condition = 5, unless_nil = 3, view = 5,
   method = 2, bytes = 2, leave = 2, route = 1, mark = 1, resize = 1, ["for"] = 2, while_loop = 1, table = 4,
   ["function"] = 1, two = 1, rewrite = 1, ask = 1, outer = 1,
}
local BAG = {}
for name in pairs(STATEMENT) do
   for _ = 1, WEIGHTS[name] do BAG[#BAG + 1] = name end
end
table.sort(BAG)

local DEEP = { condition = true, unless_nil = true, view = true, ["for"] = true, while_loop = true, two = true }

--- A list of statements in the current scope.
function G:statements(count, fields)
   local list = {}
   self.depth = self.depth + 1
   for i = 1, count do
      if self.left <= 0 then break end
      local name = fields and i == 1 and "field" or self.r:pick(BAG)
      if self.depth < 5 or not DEEP[name] then
         local statement = STATEMENT[name](self)
         if statement then
            if statement.fix then statement[2][1] = statement.fix end
            list[#list + 1] = statement
            self.left = self.left - 1
         end
      end
   end
   self.depth = self.depth - 1
   return list
end

function G:block()
   local outer = self:open()
   local list = self:statements(self.r:range(1, 3))
   if not self.inside_function and not self.looping and self.r:one_in(6) then list[#list + 1] = self:leaving() end
   self.scope = outer
   return list
end

-- ---- programs ----

local HEAD = [[
local H1 = tw.hash { name = "h1", key = "u32", value = "u32", entries = 6 }
local H2 = tw.hash { name = "h2", key = "u32 a; u16 b", value = "u32 x; u16 y; u8 z; u64 w", entries = 8 }
local A1 = tw.array { name = "a1", value = "u32", entries = 11 }
local C1 = tw.counters { name = "c1", size = 5 }]]
local LPM = [[local L1 = tw.lpm { name = "l1", value = "u32", entries = 16, groups = 1 }]]

local TAIL = [[
return { packet = packet, tables = { H1, H2, A1, C1 }, fill = function()
   H1:set(1, 100) H1:set(2, 4294967295)
   H2:set(0, 1, 5, 6, 7, 8ULL) H2:set(1, 1, 4294967295, 65535, 255, 0xffffffffffffffffULL)
end }]]

-- A table of prefixes has 64 MB.
local LPM_TAIL = TAIL:gsub("C1 }", "C1, L1 }"):gsub("\nend }", [[

   L1:set("10.0.0.0/8", 7) L1:set("192.0.2.0/25", 8) L1:set("0.0.0.0/1", 9)
end }]])

local own_headers = {}
local function own_header(i)
   if not own_headers[i] then own_headers[i] = require("tideway").header("own" .. i, OWN[i]) end
   return own_headers[i]
end

--- A random NF.
---@param r traffic.random
---@param size integer? statements at most
---@return table program for test.support.program_tree
function M.new(r, size)
   local self = setmetatable({
      r = r, scope = { vars = {}, views = {}, functions = {} }, gen = { n = 0 }, busy = {}, count = 0, depth = 0,
      left = size or (r:one_in(5) and r:range(20, 40) or r:range(3, 15)), own = {}, several = {}, prefixes = r:one_in(20),
   }, G)
   local head = { simple(HEAD), self.prefixes and simple(LPM) or nil }
   for i, declaration in ipairs(OWN) do
      local name = "OWN" .. i
      self.own[i] = { name = name, fields = fields_of(own_header(i)) }
      head[#head + 1] = simple(("local %s = tw.header(%q, %q)"):format(name, "own" .. i, declaration))
   end
   local K = r:pick { 0, 5, 255, U32, -3 }
   head[#head + 1] = simple(("local K, W, YES = %d, %s, %s"):format(K, r:pick { "7ULL", "0xfffffffffffffffeULL" },
      r:pick { "true", "false" }))
   table.insert(self.scope.vars, { name = "K", t = "num", lo = K, hi = K, fixed = true })
   table.insert(self.scope.vars, { name = "W", t = "u64", fixed = true })
   table.insert(self.scope.vars, { name = "YES", t = "bool", fixed = true })
   for i = 1, 2 do
      local f, statement = self:function_of(i == 2)
      head[#head + 1] = statement
      if i == 2 then self.several[1] = f else self.scope.functions[1] = f end
   end
   local body = self:statements(self.left)
   if r:one_in(3) then body[#body + 1] = self:leaving() end
   return { head = head, body = body, tail = self.prefixes and LPM_TAIL or TAIL }
end

-- ---- packets ----

local POOL = 500
local pool

local function some_frame(r)
   local hosts = { "10.0.0.1", "10.0.0.2", "192.0.2.7", "203.0.113.9", "255.255.255.255" }
   local what = r:range(1, 12)
   if what == 1 then return r:bytes(r:range(14, 100)) end
   if what <= 3 then return traffic.ip6(r, { "2001:db8::1", "::1" }) end
   if what == 4 then return frame.arp({}, { oper = 1, sha = "02:00:00:00:00:01", spa = hosts[1], tha = "00:00:00:00:00:00", tpa = hosts[2] }) end
   return traffic.ip(r, { src = hosts, dst = hosts })
end

--- Frames of all kinds; each has 14 bytes or more.
---@param r traffic.random
---@param count integer
---@return string[]
function M.frames(r, count)
   if not pool then
      local own = traffic.random(12345)
      pool = {}
      for i = 1, POOL do pool[i] = some_frame(own) end
   end
   local list = {}
   for i = 1, count do list[i] = r:pick(pool) end
   list[count] = traffic.damage(r, some_frame(r))
   return list
end

return M
