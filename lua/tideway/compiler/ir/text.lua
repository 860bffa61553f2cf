-- SPDX-License-Identifier: BSD-3-Clause
-- The IR as text: print(program) and parse(text), which read back what the other writes. README.md has the syntax.
-- Constants stand in line: 5 is num, 5LL i64, 5ULL u64, nil the ptr 0, &0x10 an address, &"flows" an object.

local ffi = require "ffi"
local ir = require "tideway.compiler.ir"

local M = {}

local LIMIT = 2 ^ 53

-- ---- print ----

local function number(n) return ("%.0f"):format(n) end

local function constant(c)
   local v = c.value
   if c.type == "ptr" then
      if c.object then return ('&"%s"'):format(c.object.name or tostring(c.object)) end
      if v == nil or v == 0 then return "nil" end
      return type(v) == "number" and ("&0x%x"):format(v) or ("&0x" .. bit.tohex(ffi.cast("uintptr_t", v)))
   end
   if c.type == "num" then return number(tonumber(v)) end
   local plain = tonumber(v)
   if plain >= -LIMIT and plain <= LIMIT then return number(plain) .. (c.type == "u64" and "ULL" or "LL") end
   if c.type == "u64" then return "0x" .. bit.tohex(v):gsub("^0+(.)", "%1") .. "ULL" end
   return (tostring(ffi.cast("int64_t", v)))
end

local function operand(v) return v.op == "const" and constant(v) or "v" .. v.id end

local function operands(list, first)
   local out = {}
   for i = first or 1, #list do out[#out + 1] = operand(list[i]) end
   return table.concat(out, ", ")
end

local function typed(v)
   local s = ("v%d:%s"):format(v.id, v.type)
   if v.type == "num" and v.lo and v.hi then return ("%s %s..%s"):format(s, number(v.lo), number(v.hi)) end
   if v.type == "ptr" and v.space then return s .. " " .. v.space end
   return s
end

local function set(s)
   local names = {}
   for name in pairs(s or {}) do names[#names + 1] = name end
   table.sort(names)
   return table.concat(names, ",")
end

local function offset(v) return ("%+d"):format(v.off or 0) end

local function call(v)
   local s = ("call %s(%s)"):format(v.fn, operands(v.args))
   if v.pure then s = s .. " pure" end
   if v.reads and next(v.reads) then s = s .. " reads " .. set(v.reads) end
   if v.writes and next(v.writes) then s = s .. " writes " .. set(v.writes) end
   if v.resizes then s = s .. " resizes" end
   if v.table then s = ('%s table "%s"'):format(s, v.table.name or tostring(v.table)) end
   return s
end

local function body(v)
   local op = v.op
   if op == "call" then return call(v) end
   if op == "load" then return ("load%d %s %s"):format(v.bits, operand(v.args[1]), offset(v)) end
   if op == "store" then
      return ("store%d %s %s, %s"):format(v.bits, operand(v.args[1]), offset(v), operand(v.args[2]))
   elseif op == "atomic" then
      return ("atomic %s%d %s %s, %s"):format(v.kind, v.bits, operand(v.args[1]), offset(v), operands(v.args, 2))
   elseif op == "alloca" then
      return ("alloca %d align %d"):format(v.size, v.align or 8)
   elseif op == "ctxload" then
      return "ctxload " .. v.field
   elseif op == "ctxstore" then
      return ("ctxstore %s, %s"):format(v.field, operand(v.args[1]))
   end
   local s = op .. (v.bits or "") .. (v.w == 32 and ".32" or "") .. (v.anew and " anew" or "")
   return #v.args > 0 and s .. " " .. operands(v.args) or s
end

local function goal(t) return ("b%d(%s)"):format(t.block.id, operands(t.args)) end

local function terminator(t)
   local args = t.args
   if t.op == "ret" then return "ret " .. operand(args[1]) end
   if t.op == "jmp" then return "jmp " .. goal(t.targets[1]) end
   local to = (" -> %s, %s"):format(goal(t.targets[1]), goal(t.targets[2]))
   if t.op == "check" then return ("check %s + %d <= %s%s"):format(operand(args[1]), t.n, operand(args[2]), to) end
   return ("br%s %s %s, %s%s"):format(t.w == 32 and ".32" or "", t.cc, operand(args[1]), operand(args[2]), to)
end

local function remark(v)
   if not (v.name or v.pos) then return "" end
   local at = v.pos and ("%s:%d:%d"):format(v.pos.file or "?", v.pos.line or 0, v.pos.col or 0)
   return "  ; " .. (v.name and at and v.name .. " " .. at or v.name or at)
end

--- One instruction or terminator as a line of text.
---@return string
function M.line(v)
   if v.targets or v.op == "ret" or not v.type then return terminator(v) end
   return (v.type ~= "void" and typed(v) .. " = " or "") .. body(v)
end

--- The program as text. With `options.remarks` every line ends in a comment: the variable's name and position.
---@param program tideway.ir.program
---@param options? { remarks: boolean }
---@return string
function M.print(program, options)
   local remarks = options and options.remarks
   local out = { ('program "%s" target %s'):format(program.name, program.target) }
   for _, block in ipairs(program.blocks) do
      local params = {}
      for i, p in ipairs(block.params) do params[i] = typed(p) end
      out[#out + 1] = ("b%d(%s)%s:"):format(block.id, table.concat(params, ", "),
         block.loop and (" loop %d"):format(block.loop) or "")
      for _, v in ipairs(block.insts) do out[#out + 1] = "  " .. M.line(v) .. (remarks and remark(v) or "") end
      if block.term then
         out[#out + 1] = "  " .. terminator(block.term) .. (remarks and remark(block.term) or "")
      end
   end
   return table.concat(out, "\n") .. "\n"
end

-- ---- parse: one line at a time; names are resolved at the end, blocks may stand in any order ----

local Reader = {}
Reader.__index = Reader

function Reader:fail(what)
   error({ ir = ("line %d: %s, near '%s'"):format(self.line, what, self.text:sub(self.at, self.at + 20)) }, 0)
end

--- Captures of `pattern` at the current place (blanks skipped), or nil.
function Reader:take(pattern)
   local _, stop, a, b, c = self.text:find("^%s*" .. pattern, self.at)
   if not stop then return nil end
   self.at = stop + 1
   return a or true, b, c
end

function Reader:need(pattern, what)
   local a, b, c = self:take(pattern)
   if not a then self:fail(what .. " expected") end
   return a, b, c
end

local function integer(digits, suffix)
   if suffix == "" then return tonumber(digits) end
   local value = loadstring("return " .. digits .. suffix)()
   local plain = tonumber(value)
   return plain >= -LIMIT and plain <= LIMIT and plain or value
end

function Reader:operand()
   local id = self:take "v(%d+)"
   if id then return { pending = tonumber(id), line = self.line } end
   if self:take "nil%f[%W]" then return ir.const(0, "ptr") end
   local name = self:take '&"([^"]*)"'
   if name then return ir.const(0, "ptr", { object = self.tables[name] or { name = name }, space = "mem" }) end
   local address = self:take "&(0x%x+)"
   if address then return ir.const(tonumber(address), "ptr", { space = "mem" }) end
   local hex, hex_suffix = self:take "(0x%x+)(U?L?L?)"
   if hex then return ir.const(integer(hex, hex_suffix), hex_suffix == "" and "num" or
      hex_suffix == "ULL" and "u64" or "i64") end
   local digits, suffix = self:take "(%-?%d+)(U?L?L?)"
   if not digits then self:fail "an operand (v1, 5, 5ULL, nil) expected" end
   return ir.const(integer(digits, suffix), suffix == "" and "num" or suffix == "ULL" and "u64" or "i64")
end

function Reader:list(args)
   repeat args[#args + 1] = self:operand() until not self:take ","
   return args
end

function Reader:typed()
   local id, kind = self:need("v(%d+):(%w+)", "v1:type")
   local value = { id = tonumber(id), type = kind, args = {}, line = self.line }
   if kind == "num" then
      local lo, hi = self:take "(%-?%d+)%.%.(%-?%d+)"
      value.lo, value.hi = tonumber(lo) or -LIMIT, tonumber(hi) or LIMIT
   elseif kind == "ptr" then
      value.space = self:need("(%l+)", "a space (pkt, value, stack, mem, ctx)")
   elseif kind ~= "u64" and kind ~= "i64" then
      self:fail(("no type '%s' (num, u64, i64, ptr)"):format(kind))
   end
   if self.values[value.id] then self:fail(("v%d has been defined"):format(value.id)) end
   self.values[value.id] = value
   self.program.values = math.max(self.program.values, value.id)
   return value
end

local function words(text)
   local s = {}
   for word in text:gmatch "[^,]+" do s[word] = true end
   return s
end

function Reader:place(value)
   value.args = { self:operand() }
   value.off = tonumber((self:take "%+(%d+)") or (self:take "(%-%d+)") or 0)
end

local SHAPES = {}

function SHAPES.load(self, value) self:place(value) end

function SHAPES.store(self, value)
   self:place(value)
   self:need(",", "','")
   self:list(value.args)
end

function SHAPES.atomic(self, value)
   local kind, bits = self:need("(%l+)(%d+)", "add64, xchg32 or the like")
   value.kind, value.bits = kind, tonumber(bits)
   SHAPES.store(self, value)
   value.fetch = value.type ~= "void" or nil
end

function SHAPES.alloca(self, value)
   value.size = tonumber((self:need("(%d+)", "a size")))
   value.align = self:take "align" and tonumber((self:need("(%d+)", "an alignment"))) or 8
end

function SHAPES.ctxload(self, value) value.field = self:need("([%w_]+)", "a field") end

function SHAPES.ctxstore(self, value)
   value.field = self:need("([%w_]+)", "a field")
   self:need(",", "','")
   self:list(value.args)
end

function SHAPES.call(self, value)
   value.fn = self:need("([%w_%.:]+)%(", "name(")
   if not self:take "%)" then
      self:list(value.args)
      self:need("%)", "')'")
   end
   value.pure = self:take "pure%f[%W]" or nil
   if self:take "reads" then value.reads = words(self:need("([%w,]+)", "what is read")) end
   if self:take "writes" then value.writes = words(self:need("([%w,]+)", "what is written")) end
   value.resizes = self:take "resizes%f[%W]" or nil
   if self:take "table" then
      local name = self:need('"([^"]*)"', "a name in quotes")
      value.table = self.tables[name] or { name = name }
      self.tables[name] = value.table
   end
end

local NO_ARGS = { pktdata = true, pktend = true, pktlen = true, ctx = true }

function Reader:instruction(value)
   local op, bits, w = self:need("(%l+)(%d*)(%.?%d*)", "an operation")
   value.op, value.bits, value.w = op, tonumber(bits), tonumber(w:sub(2))
   if SHAPES[op] then SHAPES[op](self, value)
   elseif op == "pktlen" then value.anew = self:take "anew%f[%W]" or nil
   elseif not NO_ARGS[op] then
      if not ir.PURE[op] then self:fail(("no operation '%s'"):format(op)) end
      self:list(value.args)
   end
   table.insert(self.block.insts, value)
end

function Reader:target()
   local id = self:need("b(%d+)%(", "b1(...)")
   local target = { pending = tonumber(id), line = self.line, args = {} }
   if not self:take "%)" then
      self:list(target.args)
      self:need("%)", "')'")
   end
   return target
end

function Reader:targets(term)
   self:need("%->", "'->'")
   term.targets = { self:target() }
   self:need(",", "','")
   term.targets[2] = self:target()
end

--- A terminator, when the line is one.
function Reader:terminator()
   local term
   if self:take "ret%f[%W]" then
      term = { op = "ret", args = { self:operand() } }
   elseif self:take "jmp%f[%W]" then
      term = { op = "jmp", args = {}, targets = { self:target() } }
   elseif self:take "check%f[%W]" then
      term = { op = "check", args = { self:operand() } }
      term.n = tonumber((self:need("%+%s*(%d+)", "'+ bytes'")))
      self:need("<=", "'<='")
      term.args[2] = self:operand()
      self:targets(term)
   elseif self:take "br%f[%W]" then
      term = { op = "br", w = tonumber((self:take "%.(%d+)")) }
      term.cc = self:need("(%l+)", "a condition")
      if not ir.NEGATED[term.cc] then self:fail(("no condition '%s'"):format(term.cc)) end
      term.args = self:list {}
      self:targets(term)
   end
   if term then self.block.term = term end
   return term
end

function Reader:header()
   local id = self:take "b(%d+)%(" -- a target cannot open a line
   if not id then return false end
   local block = { id = tonumber(id), params = {}, insts = {} }
   if self.blocks[block.id] then self:fail(("b%d has been defined"):format(block.id)) end
   if not self:take "%)" then
      repeat
         local p = self:typed()
         p.op, p.block = "param", block
         table.insert(block.params, p)
      until not self:take ","
      self:need("%)", "')'")
   end
   if self:take "loop" then block.loop = tonumber((self:need("(%d+)", "a number of rounds"))) end
   self:need(":", "':'")
   self.blocks[block.id], self.block = block, block
   table.insert(self.program.blocks, block)
   self.program.next_block = math.max(self.program.next_block, block.id)
   return true
end

function Reader:read(text)
   self.text, self.at = text:gsub(";.*", ""), 1
   if self:take "$" then return end
   if not self.program then
      local name, target = self:need('program "([^"]*)" target ([%w_]+)', 'program "name" target xdp')
      self.program = ir.program(name, target)
   elseif not self:header() then
      if not self.block or self.block.term then self:fail "a block (b1():) expected" end
      if not self:terminator() then
         local value = { type = "void", args = {}, line = self.line }
         if self:take "%f[%w]v%d+:%f[%l]" then
            self.at = 1
            value = self:typed()
            self:need("=", "'='")
         else
            self.voids[#self.voids + 1] = value
         end
         self:instruction(value)
      end
   end
   self:need("$", "end of the line")
end

function Reader:resolve_args(args)
   for i, a in ipairs(args) do
      if a.pending then
         self.line, self.text, self.at = a.line, "v" .. a.pending, 1
         args[i] = self.values[a.pending] or self:fail(("v%d is not defined"):format(a.pending))
      end
   end
end

function Reader:resolve()
   for _, block in ipairs(self.program.blocks) do
      for _, v in ipairs(block.insts) do
         self:resolve_args(v.args)
         v.line = nil
      end
      for _, p in ipairs(block.params) do p.line = nil end
      if not block.term then
         self.text, self.at = "b" .. block.id, 1
         self:fail(("b%d has no terminator"):format(block.id))
      end
      self:resolve_args(block.term.args)
      for i, t in ipairs(ir.targets(block.term)) do
         self.line, self.text, self.at = t.line, "b" .. t.pending, 1
         local to = self.blocks[t.pending] or self:fail(("b%d is not defined"):format(t.pending))
         self:resolve_args(t.args)
         block.term.targets[i] = { block = to, args = t.args }
      end
   end
   for _, v in ipairs(self.voids) do
      self.program.values = self.program.values + 1
      v.id = self.program.values
   end
end

--- The program that `text` describes, or nil and a sentence that names the line.
---@param text string
---@param tables? table<string, table> what `table "name"` and `&"name"` stand for; else an object { name = "name" }
---@return tideway.ir.program?, string?
function M.parse(text, tables)
   local reader = setmetatable({ line = 0, values = {}, blocks = {}, voids = {}, tables = {} }, Reader)
   for name, object in pairs(tables or {}) do reader.tables[name] = object end
   local ok, why = pcall(function()
      for line in (text .. "\n"):gmatch "(.-)\n" do
         reader.line = reader.line + 1
         reader:read(line)
      end
      if not reader.program then reader:fail 'program "name" target xdp expected' end
      reader:resolve()
   end)
   if ok then return reader.program end
   if type(why) == "table" and why.ir then return nil, why.ir end
   error(why, 0)
end

return M
