-- SPDX-License-Identifier: BSD-3-Clause
-- The hand that writes machine instructions: blocks, virtual registers, and one function per kind of instruction.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}
M.__index = M

local ALU, ALU64, ALU32, X = insn.ALU, insn.ALU64, insn.ALU32, insn.X
local FRAME = insn.FRAME

M.COMMUTES = { add = true, mul = true, ["and"] = true, ["or"] = true, xor = true }

--- A machine program. `names[reg]` is the Lua variable whose value a virtual register holds.
function M.new()
   return setmetatable({ blocks = {}, regs = insn.FIRST_VIRTUAL, names = {}, slots = {} }, M)
end

---@return integer a new virtual register
function M:fresh(name)
   local reg = self.regs
   self.regs = reg + 1
   self.names[reg] = name
   return reg
end

--- A new block; `id` is that of the IR block that it is a part of.
function M:new_block(id, depth, pos)
   local block = { id = id, depth = depth or 0, pos = pos, insts = {} }
   self.blocks[#self.blocks + 1] = block
   return block
end

--- The following instructions go to the end of this block.
function M:at(block)
   self.block, self.insts = block, block.insts
end

--- A stack object.
function M:slot(size, align, pos)
   local slot = { size = size, align = align, pos = pos }
   self.slots[#self.slots + 1] = slot
   return slot
end

local function put(self, inst)
   inst.pos = self.pos
   local insts = self.insts
   insts[#insts + 1] = inst
   return inst
end
M.put = put

function M:move(dst, src)
   if dst ~= src then put(self, { form = insn.MOVE, code = ALU64 + X + ALU.mov, dst = dst, src = src }) end
   return dst
end

--- dst := constant, given as halves.
function M:constant(dst, low, high)
   if insn.fits_signed(low, high) then
      put(self, { form = insn.DEF, code = ALU64 + ALU.mov, dst = dst, imm = low })
   elseif high == 0 then
      put(self, { form = insn.DEF, code = ALU32 + ALU.mov, dst = dst, imm = low })
   else
      put(self, { form = insn.DEF, code = insn.LDDW, dst = dst, imm = low, high = high })
   end
   return dst
end

--- dst := the map of an engine's table, or with `offset` the address in its (only) value.
function M:map(dst, table, offset)
   put(self, { form = insn.DEF, code = insn.LDDW, dst = dst, imm = 0, high = offset or 0, table = table,
      kind = offset and insn.MAP_VALUE or insn.MAP_FD })
   return dst
end

--- dst := address of a stack object, plus off.
function M:lea(dst, slot, off)
   put(self, { form = insn.DEF, code = ALU64 + ALU.add, dst = dst, slot = slot, imm = off, lea = true })
   return dst
end

--- dst := dst op src.
function M:alu(op, w, dst, src)
   put(self, { form = insn.MODIFY, code = (w == 32 and ALU32 or ALU64) + X + ALU[op], dst = dst, src = src,
      commutes = M.COMMUTES[op] })
   return dst
end

--- dst := dst op constant.
function M:alu_const(op, w, dst, imm)
   put(self, { form = insn.MODIFY, code = (w == 32 and ALU32 or ALU64) + ALU[op], dst = dst, imm = imm })
   return dst
end

--- dst := low 32 bits of src.
function M:move32(dst, src)
   put(self, { form = insn.DEF, code = ALU32 + X + ALU.mov, dst = dst, src = src })
   return dst
end

--- dst := low `bits` of dst, their bytes in reverse order.
function M:swap(bits, dst)
   put(self, { form = insn.MODIFY, code = insn.TO_BE, dst = dst, imm = bits })
   return dst
end

-- Places in memory are { reg =, off =, objects = } or { slot =, off = }.
local function address(inst, place)
   if place.slot then
      inst.slot = place.slot
      return FRAME
   end
   inst.objects = place.objects
   return place.reg
end

function M:load(bits, dst, place, off)
   local inst = { form = insn.DEF, code = insn.LDX + insn.SIZE[bits], dst = dst, off = off or place.off }
   inst.src = address(inst, place)
   put(self, inst)
   return dst
end

function M:store(bits, place, src, off)
   local inst = { form = insn.STORE, code = insn.STX + insn.SIZE[bits], src = src, off = off or place.off }
   inst.dst = address(inst, place)
   put(self, inst)
end

function M:store_const(bits, place, imm, off)
   local inst = { form = insn.STORE, code = insn.ST + insn.SIZE[bits], imm = imm, off = off or place.off }
   inst.dst = address(inst, place)
   put(self, inst)
end

--- Atomic operation; with fetch, src becomes the old value (for cmpxchg: r0, which held the expected one).
function M:atomic(kind, bits, place, src, fetch)
   local form, imm = insn.STORE, insn.ATOMICS[kind]
   if kind == "cmpxchg" then form, imm = insn.EXCHANGE, imm + insn.FETCH
   elseif fetch or kind == "xchg" then form, imm = insn.FETCHING, imm + insn.FETCH
   end
   local inst = { form = form, code = insn.ATOMIC + insn.SIZE[bits], src = src, off = place.off, imm = imm }
   inst.dst = address(inst, place)
   put(self, inst)
end

function M:call(id, nargs, objects)
   put(self, { form = insn.CALLING, code = insn.CALL, imm = id, nargs = nargs, objects = objects })
end

-- ---- ends of blocks ----

function M:ret() put(self, { form = insn.RETURN, code = insn.EXIT }) end

function M:jump(block) put(self, { form = insn.GOTO, code = insn.JA, yes = block }) end

--- Ends the block: to `yes` when `dst cc src` (or `dst cc imm`), else to `no`. cc may be "set": any common bit.
function M:branch(cc, w, dst, src, imm, yes, no)
   local inst = { form = insn.BRANCH, code = w == 32 and insn.JMP32 or insn.JMP64, cc = cc, dst = dst, src = src,
      imm = imm, yes = yes, no = no }
   put(self, inst)
   return inst
end

return M
