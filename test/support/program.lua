-- SPDX-License-Identifier: BSD-3-Clause
-- Random NFs in NF Lua, and packets for them. A program is a tree (program_tree); its text runs on test.support.backends.
--
--    local r = traffic.random(seed)
--    local p = program.new(r)
--    backends.run { { text = tree.text(p), frames = program.frames(r, 24) } }

local expressions = require "test.support.program_expression"
local frame = require "test.support.frame"
local traffic = require "test.support.traffic"

local M = {}

local constant, E = expressions.constant, expressions.E
local U32 = 4294967295

---@class test.program.generator: test.program.expressions
local G = setmetatable({}, { __index = E })
G.__index = G

local function line(fmt, ...) return { fmt = fmt, ... } end
local function simple(fmt, ...) return { line(fmt, ...) } end

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

-- ---- statements ----

local RANGES = { 1, 15, 255, 65535, 2147483647, U32, 2 ^ 48 - 1 }

local STATEMENT = {}

function STATEMENT.number(self)
   local e = self:num(3)
   local name = self:name "x"
   local v = { name = name, t = "num", lo = e.lo, hi = e.hi }
   if self.r:one_in(2) then
      v.lo, v.hi = 0, self.r:pick(RANGES)
      if self.r:one_in(6) then v.lo, v.hi = -2147483648, 2147483647 end
      e = self:fitting(e, v.lo, v.hi)
   end
   self:declare(v)
   return simple(("local %s = %%s"):format(name), e)
end

function STATEMENT.wide(self)
   local t = self.r:pick { "u64", "u64", "i64" }
   local e = self:wide(t, 2)
   local v = self:declare { name = self:name "w", t = t }
   return simple(("local %s = %%s"):format(v.name), e)
end

function STATEMENT.boolean(self)
   local e = self:condition(2)
   local v = self:declare { name = self:name "b", t = "bool" }
   return simple(("local %s = %%s"):format(v.name), e)
end

-- A number or nil.
function STATEMENT.maybe(self)
   local r = self.r
   local name = self:name "m"
   local what = r:range(1, 4)
   local fmt, e, hi
   if what == 1 and not self.inside_function then
      local bits = r:pick { 8, 16, 32, 48 }
      fmt, hi = ("local %s = pkt:u%d(%%s)"):format(name, bits), 2 ^ bits - 1
      e = self:offset()
      self:declare { name = name, t = "maybe", lo = 0, hi = hi }
      return simple(fmt, e)
   end
   local c, a = self:condition(1), self:num(2)
   if what > 2 then -- what is assigned must not name the variable itself
      self.count = self.count + 1
      name = "m" .. self.count
   end
   self:declare { name = name, t = "maybe", lo = a.lo, hi = a.hi }
   if what <= 2 then return simple(("local %s = %%s and %%s or nil"):format(name), c, a) end
   return { line(("local %s"):format(name)), line "if %s then", { simple(name .. " = %s", a) }, line "end",
      fix = c }
end

-- An offset into the frame, mostly inside.
function G:offset()
   local r = self.r
   if r:one_in(2) then return constant(r:range(0, 60)) end
   if r:one_in(6) then return self:num(2) end
   return self:fitting(self:num(2), 0, r:pick { 15, 63, 255 })
end

local function assignable(self, t)
   local list = {}
   for _, v in ipairs(self.scope.vars) do
      if v.t == t and not v.fixed and not self.busy[v.name] then list[#list + 1] = v end
   end
   return #list > 0 and self.r:pick(list) or nil
end

function STATEMENT.assign(self)
   local t = self.r:pick { "num", "num", "num", "u64", "i64", "bool" }
   local v = assignable(self, t)
   if not v then return nil end
   if t == "num" then
      if v.lo < 0 and not (v.lo == -2147483648 and v.hi == 2147483647) then return nil end
      if v.lo > 0 then return nil end
      local hi = v.hi
      local ones = 1
      while ones * 2 - 1 <= hi do ones = ones * 2 end
      return simple(v.name .. " = %s", self:fitting(self:num(3), v.lo, v.lo < 0 and hi or ones - 1))
   elseif t == "bool" then
      return simple(v.name .. " = %s", self:condition(2))
   end
   return simple(v.name .. " = %s", self:wide(t, 2))
end

function STATEMENT.swap(self)
   local a, b = assignable(self, "u64"), assignable(self, "u64")
   if not a or a == b then return nil end
   return simple(("%s, %s = %s, %s"):format(a.name, b.name, b.name, a.name))
end

function STATEMENT.field(self)
   local list = self:live_views()
   if #list == 0 then return nil end
   local view = self.r:pick(list)
   local f = self.r:pick(view.fields)
   local place = view.name .. "." .. f.name
   if f.t == "u64" then return simple(place .. " = %s", self.r:one_in(3) and self:companion("u64", 2) or self:u64(2)) end
   if f.t ~= "num" then
      local other
      for _, w in ipairs(list) do
         for _, g in ipairs(w.fields) do
            if g.t == f.t then other = other or w.name .. "." .. g.name end
         end
      end
      return simple(("%s = %s"):format(place, other))
   end
   local e = self:num(3)
   if f.exact then e = self:fitting(e, 0, f.hi) end
   return simple(place .. " = %s", e)
end

function STATEMENT.condition(self)
   local r = self.r
   local statement = { line("if %s then", self:condition(3)), self:block() }
   for _ = 1, r:one_in(4) and 2 or r:range(0, 1) do
      if r:one_in(2) then
         statement[#statement + 1] = line("elseif %s then", self:condition(2))
         statement[#statement + 1] = self:block()
      end
   end
   if r:one_in(2) then
      statement[#statement + 1] = line "else"
      statement[#statement + 1] = self:block()
   end
   statement[#statement + 1] = line "end"
   return statement
end

function STATEMENT.unless_nil(self)
   local _, v = self:variable "maybe"
   if not v then return nil end
   local outer = self:open()
   self:declare { name = v.name, t = "num", lo = v.lo, hi = v.hi, fixed = true }
   local inner = self:statements(self.r:range(1, 3))
   self.scope = outer
   return { line(("if %s then"):format(v.name)), inner, line "end" }
end

-- ---- views ----

function G:view_call()
   local r = self.r
   if r:one_in(4) then
      local own = r:pick(self.own)
      return { call = ("pkt:header(%s, %%s)"):format(own.name), fields = own.fields, kind = "own", offset = self:offset() }
   end
   return r:pick(views())
end

function STATEMENT.view(self)
   if self.inside_function then return nil end
   local r = self.r
   local v = self:view_call()
   local name = self:name "h"
   local view = { name = name, fields = v.fields, gen = self.gen.n, kind = v.kind }
   local first = line(("local %s = %s"):format(name, v.call), v.offset)
   for _, list in pairs(self.scope) do hide(list, name) end
   if r:one_in(2) and not self.looping then
      local leave = self:leaving()
      self:declare(view)
      return { first, line(("if not %s then"):format(name)), { leave }, line "end" }
   end
   local outer = self:open()
   self:declare(view)
   local inner = self:statements(r:range(1, 5))
   self.scope = outer
   local statement = { first, line(("if %s then"):format(name)), inner, line "end" }
   if r:one_in(3) then
      statement[4] = line "else"
      statement[5] = self:block()
      statement[6] = line "end"
   end
   return statement
end

local METHODS = {
   ipv4 = { "update_checksum()", "decrement_ttl()", "set_src(%s)", "set_dst(%s)" },
   eth = { "swap()" },
}

function STATEMENT.method(self)
   for _, view in ipairs(self:live_views()) do
      local list = METHODS[view.kind]
      if list and self.r:one_in(2) then
         local call = self.r:pick(list)
         local e = call:find "%%s" and self:fitting(self:num(2), 0, U32) or nil
         return simple(("%s:%s"):format(view.name, call), e)
      end
   end
end

function STATEMENT.bytes(self)
   if self.inside_function then return nil end
   local bits = self.r:pick { 8, 16, 32, 48 }
   return simple(("pkt:set_u%d(%%s, %%s)"):format(bits), self:offset(), self:fitting(self:num(2), 0, 2 ^ bits - 1))
end

-- ---- leaving ----

local REASONS = { "one", "two", "three" }

function G:leaving()
   local r = self.r
   local what = r:range(1, 8)
   if what <= 2 then return simple "return" end
   if what <= 5 then return simple(("return pkt:drop %q"):format(r:pick(REASONS))) end
   if what == 6 then return simple "return pkt:pass()" end
   if what == 7 then return simple(("return pkt:send(%d)"):format(r:range(0, 2))) end
   return simple("return pkt:send(%s)", self:fitting(self:num(2), 0, 3))
end

function STATEMENT.leave(self)
   if self.inside_function then return nil end
   return { line("if %s then", self:condition(2)), { self:leaving() }, line "end" }
end

function STATEMENT.route(self)
   if self.inside_function then return nil end
   return simple("pkt:route(%s)", self.r:one_in(2) and constant(self.r:range(0, 2)) or self:fitting(self:num(1), 0, 3))
end

function STATEMENT.mark(self)
   if self.inside_function then return nil end
   return simple("pkt.mark = %s", self:fitting(self:num(2), 0, U32))
end

-- ---- size ----

function STATEMENT.resize(self)
   if self.inside_function or self.looping then return nil end
   local r = self.r
   local what = r:range(1, 6)
   self.gen.n = self.gen.n + 1
   local guard = line "if pkt.len >= 64 and pkt.len < 1600 then"
   local inner
   if what == 1 then
      inner = simple("pkt:push_vlan(%s)", self:fitting(self:num(2), 0, 65535))
   elseif what == 2 then
      inner = simple "pkt:pop_vlan()"
   elseif what == 3 then
      inner = simple("pkt:adjust_head(%s)", constant(-r:range(1, 8)))
   elseif what == 4 then
      inner = simple("pkt:adjust_tail(%s)", constant(r:pick { -4, -1, 1, 4, 12 }))
   elseif what == 5 then
      inner = simple("pkt:adjust_tail(%s - 7)", self:fitting(self:num(2), 0, 15))
   else
      local b = self:declare { name = self:name "b", t = "bool" }
      return { line(("local %s = false"):format(b.name)), guard,
         { simple(b.name .. " = pkt:adjust_tail(%s)", constant(r:range(1, 9))) }, line "end" }
   end
   return { guard, { inner }, line "end" }
end

-- ---- loops ----

function G:round(fixed)
   local outer, looping = self:open(), self.looping
   self.looping = (looping or 0) + 1
   for _, v in ipairs(fixed or {}) do self:declare(v) end
   local r = self.r
   local body = self:statements(r:range(0, 2))
   if r:one_in(4) then body[#body + 1] = { line("if %s then", self:condition(2)), { simple "break" }, line "end" } end
   if r:one_in(4) then
      self.count = self.count + 1
      local label = "continue" .. self.count
      body[#body + 1] = { line("if %s then", self:condition(2)), { simple("goto " .. label) }, line "end" }
      -- Lua has no goto into the scope of a local: what stands behind it gets a block of its own.
      local inner = self:open()
      body[#body + 1] = { line "do", self:statements(r:range(1, 3)), line "end" }
      self.scope = inner
      body[#body + 1] = simple("::" .. label .. "::")
   else
      for _, statement in ipairs(self:statements(r:range(1, 3))) do body[#body + 1] = statement end
   end
   self.looping, self.scope = looping, outer
   return body
end

STATEMENT["for"] = function(self)
   if (self.looping or 0) >= 2 then return nil end
   local r = self.r
   local name = self:name "i"
   local what = r:range(1, 6)
   local first, last, step
   if what <= 2 then
      first, last, step = constant(r:range(-2, 5)), constant(r:range(0, 9)), r:one_in(3) and r:range(1, 3) or nil
   elseif what == 3 then
      first, last, step = constant(r:range(0, 12)), constant(r:range(-3, 3)), -r:range(1, 3)
   elseif what == 4 then
      first, last = constant(r:range(0, 2)), constant(self.looping and r:range(1, 6) or r:range(20, 70))
   elseif what == 5 then
      first, last = constant(r:range(0, 2)), self:fitting(self:num(2), 0, self.looping and 7 or 15)
   else
      first, last = self:fitting(self:num(2), 0, 7), self:fitting(self:num(2), 0, 15)
   end
   local i = { name = name, t = "num", lo = math.min(first.lo, last.lo), hi = math.max(first.hi, last.hi), fixed = true }
   local fmt = ("for %s = %%s, %%s%s do"):format(name, step and (", %d"):format(step) or "")
   return { line(fmt, first, last), self:round { i }, line "end" }
end

function STATEMENT.while_loop(self)
   if (self.looping or 0) >= 2 then return nil end
   local r = self.r
   local name = self:name "n"
   local most = self.looping and r:range(1, 5) or r:range(1, 24)
   for _, list in pairs(self.scope) do hide(list, name) end
   local outer = self:open()
   local i = { name = name, t = "num", lo = -3, hi = most + 3, fixed = true }
   local up = r:one_in(2)
   local step = r:range(1, 3)
   self:declare(i)
   self.busy[name] = true
   local extra = r:one_in(2) and self:condition(2) or nil
   local body = self:round { i }
   -- goto continue must not skip the step
   table.insert(body, 1, simple(up and ("%s = %s + %d"):format(name, name, step) or ("%s = %s - %d"):format(name, name, step)))
   self.busy[name] = nil
   self.scope = outer
   local start = line(("local %s = %d"):format(name, up and 0 or most))
   local test = up and ("%s < %d"):format(name, most) or ("%s > 0"):format(name)
   if r:one_in(3) then
      local stop = up and ("%s >= %d"):format(name, most) or ("%s <= 0"):format(name)
      return { start, line "repeat", body, line("until " .. stop) }
   end
   if extra then return { start, line("while " .. test .. " and %s do", extra), body, line "end" } end
   return { start, line("while " .. test .. " do"), body, line "end" }
end

-- ---- tables ----

function G:key(n) return self:fitting(self:num(2), 0, n or 7) end

local TABLE = {}

function TABLE.scalar(self)
   local r = self.r
   local what = r:range(1, 5)
   if what == 1 then return simple("H1:set(%s, %s)", self:key(), self:fitting(self:num(2), 0, U32)) end
   if what == 2 then return simple("H1:del(%s)", self:key()) end
   if what == 3 then return simple("H1:add(%s, %s)", self:key(), self:fitting(self:num(2), 0, 255)) end
   local name = self:name "m"
   local key = self:key()
   self:declare { name = name, t = "maybe", lo = 0, hi = U32 }
   return simple(("local %s = H1:get(%%s)"):format(name), key)
end

local ENTRY = {
   { name = "x", t = "num", lo = 0, hi = U32, exact = true }, { name = "y", t = "num", lo = 0, hi = 65535, exact = true },
   { name = "z", t = "num", lo = 0, hi = 255, exact = true }, { name = "w", t = "u64" },
}

function TABLE.struct(self)
   local r = self.r
   local what = r:range(1, 6)
   local a, b = self:key(3), self:key(3)
   if what == 1 then
      return simple("H2:set(%s, %s, %s, %s, %s, %s)", a, b, self:fitting(self:num(1), 0, U32),
         self:fitting(self:num(1), 0, 65535), self:fitting(self:num(1), 0, 255), self:u64(1))
   elseif what == 2 then
      local v = self:declare { name = self:name "b", t = "bool" }
      return simple(("local %s = H2:del(%%s, %%s)"):format(v.name), a, b)
   end
   local name = self:name "e"
   for _, list in pairs(self.scope) do hide(list, name) end
   local outer = self:open()
   self:declare { name = name, fields = ENTRY, gen = self.gen.n, kind = "entry" }
   local body = self:statements(r:range(1, 4), true)
   self.scope = outer
   return { line(("local %s = H2:%s(%%s, %%s)"):format(name, what <= 4 and "get" or "put"), a, b),
      line(("if %s then"):format(name)), body, line "end" }
end

function TABLE.array(self)
   local r = self.r
   local what = r:range(1, 4)
   if what == 1 then return simple("A1:set(%s, %s)", self:key(15), self:fitting(self:num(2), 0, U32)) end
   if what == 2 then return simple("A1:add(%s, %s)", self:key(15), self:fitting(self:num(1), 0, 65535)) end
   local name = self:name "m"
   local key = self:key(15)
   self:declare { name = name, t = "maybe", lo = 0, hi = U32 }
   return simple(("local %s = A1:get(%%s)"):format(name), key)
end

function TABLE.counters(self) return simple("C1:add(%s, %s)", self:key(7), self:key(255)) end

function TABLE.lpm(self)
   local name = self:name "m"
   local key = self:fitting(self:num(2), 0, U32)
   self:declare { name = name, t = "maybe", lo = 0, hi = U32 }
   return simple(("local %s = L1:get(%%s)"):format(name), key)
end

local KINDS = { "scalar", "struct", "array", "counters", "lpm" }

function STATEMENT.table(self)
   if self.inside_function then return nil end
   local kind = self.r:pick(KINDS)
   return (kind ~= "lpm" or self.prefixes) and TABLE[kind](self) or nil
end

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
   ["function"] = 1, two = 1,
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
