-- SPDX-License-Identifier: BSD-3-Clause
-- eBPF instructions (RFC 9669, without the v4 ones): opcode bytes, and the machine instructions that the
-- parts of this back-end pass to each other. Registers are numbers: 0..10 the real ones, above them virtual.

local ffi = require "ffi"
local bit = require "bit"

local M = {}

-- ---- opcode bytes ----

M.LDDW = 0x18
M.CALL, M.EXIT, M.JA = 0x85, 0x95, 0x05
M.TO_BE = 0xdc -- on a little-endian CPU this swaps

-- Classes of ALU and jump operations; X takes the second operand from a register, else it is immediate.
M.X = 0x08
M.ALU64, M.ALU32, M.JMP64, M.JMP32 = 0x07, 0x04, 0x05, 0x06

M.ALU = {
   add = 0x00, sub = 0x10, mul = 0x20, div = 0x30, ["or"] = 0x40, ["and"] = 0x50, shl = 0x60, shr = 0x70,
   neg = 0x80, mod = 0x90, xor = 0xa0, mov = 0xb0, sar = 0xc0,
}

M.JUMP = {
   eq = 0x10, ugt = 0x20, uge = 0x30, set = 0x40, ne = 0x50, gt = 0x60, ge = 0x70, ult = 0xa0, ule = 0xb0,
   lt = 0xc0, le = 0xd0,
}

-- Memory: mode | size | class.
M.SIZE = { [8] = 0x10, [16] = 0x08, [32] = 0x00, [64] = 0x18 }
M.LDX, M.ST, M.STX, M.ATOMIC = 0x61, 0x62, 0x63, 0xc3
M.FETCH = 0x01
M.ATOMICS = { add = 0x00, ["or"] = 0x40, ["and"] = 0x50, xor = 0xa0, xchg = 0xe0, cmpxchg = 0xf0 }

-- What LDDW's source register field says about its immediate.
M.MAP_FD, M.MAP_VALUE = 1, 2

-- ---- machine instructions ----

-- Forms: which registers an instruction reads and writes.
M.MOVE = 1 -- dst := src, all 64 bits: may disappear
M.DEF = 2 -- dst := src (if any) and immediates
M.MODIFY = 3 -- dst := dst op src
M.STORE = 4 -- reads dst (the address) and src
M.FETCHING = 5 -- reads dst (the address) and src, writes src
M.EXCHANGE = 6 -- compare and exchange: also reads and writes r0
M.CALLING = 7 -- reads r1..r[nargs], writes r0, r1-r5 are gone
M.RETURN = 8 -- reads r0
M.BRANCH = 9 -- reads dst and src; goes to `yes` or `no`
M.GOTO = 10 -- goes to `yes`

M.WRITES_DST = { true, true, true, false, false, false, false, false, false, false }
M.READS_DST = { false, false, true, true, true, true, false, false, true, false }
M.WRITES_SRC = { false, false, false, false, true, false, false, false, false, false }

M.FRAME = 10
M.ALLOCATABLE = 10 -- r0..r9
M.FIRST_VIRTUAL = 11

---@class tideway.ebpf.insn one machine instruction
---@field form integer
---@field code integer opcode byte
---@field dst integer?
---@field src integer?
---@field off integer?
---@field imm integer?
---@field slot table? stack object whose place is added to off (to imm for `lea`)
---@field lea boolean? dst := address of slot + imm; two instructions
---@field high integer? LDDW: upper half of the immediate
---@field table any? LDDW: engine table whose map it names
---@field objects table? stack objects that it may touch, besides `slot`
---@field yes table? block
---@field no table? block
---@field pos tideway.ir.position?

--- Halves of a constant, as signed 32-bit numbers: low, high.
---@param value number|ffi.cdata* Lua number (an integer), int64_t or uint64_t
function M.halves(value)
   if type(value) == "boolean" then value = value and 1 or 0 end
   if type(value) == "number" and value >= -2147483648 and value <= 2147483647 then
      return value, value < 0 and -1 or 0
   end
   local wide = ffi.cast("int64_t", value)
   return tonumber(ffi.cast("int32_t", bit.band(wide, 0xffffffffLL))), tonumber(bit.arshift(wide, 32))
end

--- Whether an IR value is the constant 0 (or nil).
function M.is_zero(value)
   if value.op ~= "const" or value.object then return false end
   local low, high = M.halves(value.value)
   return low == 0 and high == 0
end

--- Whether 32 bits, sign-extended, hold a constant given as halves.
function M.fits_signed(low, high) return high == (low < 0 and -1 or 0) end

-- ---- encoding ----

local array = ffi.typeof "uint64_t[?]"
local fields = ffi.typeof "struct { uint8_t code, regs; int16_t off; int32_t imm; } *"

--- Room for `count` instructions, and the same memory as a pointer to their fields.
function M.array(count)
   local words = array(count)
   return words, ffi.cast(fields, words)
end

--- Fields of instructions that somebody else wrote.
function M.view(words) return ffi.cast(fields, words) end

return M
