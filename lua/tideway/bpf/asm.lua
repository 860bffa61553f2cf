-- SPDX-License-Identifier: BSD-3-Clause
-- eBPF assembled by hand: small programs that nothing else makes. Registers are "r0" to "r10", numbers
-- are immediates; sizes are 8, 16, 32 and 64 bits.
--
--    local a = asm.new "prog.lua"
--    a:line(3)                        -- the instructions that follow come from line 3
--    a:map("r1", m)  a:mov("r0", 2)  a:exit()
--    program.load(a:spec { name = "pass", type = "xdp" })

local ffi = require "ffi"
local bit = require "bit"

local M = {}

local Asm = {}
Asm.__index = Asm

local sizes = { [32] = 0x00, [16] = 0x08, [8] = 0x10, [64] = 0x18 }
local alu = { add = 0x00, sub = 0x10, mul = 0x20, div = 0x30, ["or"] = 0x40, ["and"] = 0x50, lsh = 0x60, rsh = 0x70,
   xor = 0xa0, mov = 0xb0 }
local jumps = { ja = 0x00, eq = 0x10, gt = 0x20, ge = 0x30, ne = 0x50, sgt = 0x60, sge = 0x70, lt = 0xa0, le = 0xb0 }

---@param file? string  that the lines are of
function M.new(file)
   return setmetatable({
      file = file or "asm.lua", code = {}, labels = {}, relocs = {}, lines = {}, functions = {},
   }, Asm)
end

local function register(r) return tonumber(r:match "^r(%d+)$") end

function Asm:emit(op, dst, src, off, imm)
   self.code[#self.code + 1] = { op = op, dst = dst or 0, src = src or 0, off = off or 0, imm = imm or 0 }
end

function Asm:line(n, col) self.lines[#self.lines + 1] = { insn = #self.code,
   pos = { file = self.file, line = n, col = col or 1 } } end
function Asm:label(name) self.labels[name] = #self.code end

--- A function starts here.
function Asm:func(name)
   self.functions[#self.functions + 1] = { insn = #self.code, name = name }
   self:label(name)
end

local function operate(class, name)
   return function(self, dst, src)
      if type(src) == "string" then
         self:emit(class + 8 + alu[name], register(dst), register(src))
      else
         self:emit(class + alu[name], register(dst), 0, 0, src)
      end
   end
end
for name in pairs(alu) do Asm[name], Asm[name .. "32"] = operate(0x07, name), operate(0x04, name) end

function Asm:load(size, dst, src, off) self:emit(0x61 + sizes[size], register(dst), register(src), off) end
function Asm:store(size, dst, off, src)
   if type(src) == "string" then
      self:emit(0x63 + sizes[size], register(dst), register(src), off)
   else
      self:emit(0x62 + sizes[size], register(dst), 0, off, src)
   end
end
function Asm:atomic_add(size, dst, off, src) self:emit(0xc3 + sizes[size], register(dst), register(src), off) end

function Asm:jump(cc, dst, src, label)
   if cc == "ja" then return self:emit(0x05, 0, 0, dst) end
   if type(src) == "string" then
      self:emit(0x0d + jumps[cc], register(dst), register(src), label)
   else
      self:emit(0x05 + jumps[cc], register(dst), 0, label, src)
   end
end

function Asm:call(helper) self:emit(0x85, 0, 0, 0, helper) end
function Asm:call_local(name) self:emit(0x85, 0, 1, 0, name) end
function Asm:exit() self:emit(0x95) end

--- A 64-bit load of a map's descriptor, or of the address of its first value.
function Asm:map(dst, map, value)
   self.relocs[#self.relocs + 1] = { insn = #self.code, map = map, value = value }
   self:emit(0x18, register(dst))
   self:emit(0)
end

--- For tw.bpf's program.load; `o` has name, type and what else it takes.
function Asm:spec(o)
   local insns = ffi.new("uint64_t[?]", #self.code)
   for i, c in ipairs(self.code) do
      local off, imm = c.off, c.imm
      if type(off) == "string" then off = self.labels[off] - i end
      if type(imm) == "string" then imm = self.labels[imm] - i end
      insns[i - 1] = bit.bor(c.op + c.dst * 256 + c.src * 4096 + 0ULL, bit.lshift(bit.band(off, 0xffff) + 0ULL, 16),
         bit.lshift(ffi.cast("int64_t", imm), 32))
   end
   o.insns, o.count, o.relocs, o.lines = insns, #self.code, self.relocs, self.lines
   if self.functions[1] then o.functions = self.functions end
   return o
end

return M
