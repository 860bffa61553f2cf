-- SPDX-License-Identifier: BSD-3-Clause
-- Random programs: the statements, by name. Each is a function of the generator that gives one, or nil when there is
-- nothing to make it of.

local expressions = require "test.support.program_expression"
local scope = require "test.support.program_scope"

local constant = expressions.constant
local G, line, simple, hide, views = scope.G, scope.line, scope.simple, scope.hide, scope.views
local U32 = 4294967295

-- ---- variables ----

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

local REWRITE = {
   { "pkt:set_ipv4_src(%s)", U32 }, { "pkt:set_ipv4_dst(%s)", U32 }, { "pkt:set_src_port(%s)", 65535 },
   { "pkt:set_dst_port(%s)", 65535 }, { "pkt:update_l4_checksum()" },
}

-- Addresses and ports with their checksums.
function STATEMENT.rewrite(self)
   if self.inside_function or self.looping then return nil end
   local call = self.r:pick(REWRITE)
   return simple(call[1], call[2] and self:fitting(self:num(2), 0, call[2]) or nil)
end

-- Where headers lie, and facts about packets: a number, nil or a boolean.
local ASK = {
   "pkt:ethertype()", "pkt:l3_offset()", "pkt:l4_offset()", "pkt:l4_protocol()", "(pkt:payload_offset())",
   "pkt:icmp_inner_offset()",
}

function STATEMENT.ask(self)
   if self.inside_function or self.looping then return nil end
   local name = self:name "m"
   self:declare { name = name, t = "maybe", lo = 0, hi = 70000 }
   return simple(("local %s = %s"):format(name, self.r:pick(ASK)))
end

-- ---- leaving ----

local REASONS = { "one", "two", "three" }

function G:leaving()
   local r = self.r
   local what = r:range(1, 8)
   if what <= 2 then return simple "return" end
   if what <= 5 then return simple(("return pkt:drop %q"):format(r:pick(REASONS))) end
   if what == 6 then
      if r:one_in(2) then return simple "return pkt:pass()" end
      return simple("return pkt:drop(%s and 'four' or 'five')", self:condition(1))
   end
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

return STATEMENT
