-- SPDX-License-Identifier: BSD-3-Clause
-- A program as text, one instruction a line, in the notation of the kernel's verifier and bpftool.

local insn = require "tideway.compiler.back.ebpf.insn"
local bit = require "bit"
local helpers = require "tideway.compiler.target.helpers"

local M = {}

local SIGN = {
   add = "+=", sub = "-=", mul = "*=", div = "/=", ["or"] = "|=", ["and"] = "&=", shl = "<<=", shr = ">>=", mod = "%=",
   xor = "^=", mov = "=", sar = "s>>=",
}
local COMPARE = {
   eq = "==", ugt = ">", uge = ">=", set = "&", ne = "!=", gt = "s>", ge = "s>=", ult = "<", ule = "<=", lt = "s<",
   le = "s<=",
}

local function invert(map, to)
   local inverse = {}
   for name, code in pairs(map) do inverse[code] = to and to[name] or name end
   return inverse
end

local ALU, JUMP, ATOMIC = invert(insn.ALU, SIGN), invert(insn.JUMP, COMPARE), invert(insn.ATOMICS)
ALU[insn.ALU.neg] = "= -"
local TYPE = { [0x10] = "u8", [0x08] = "u16", [0x00] = "u32", [0x18] = "u64" }

local helper_name = invert(helpers.id)

local function memory(reg, off, size) return ("*(%s *)(r%d %+d)"):format(TYPE[size], reg, off) end

local function alu(word, dst, src)
   local class, op = bit.band(word.code, 0x07), bit.band(word.code, 0xf0)
   if word.code == insn.TO_BE then return ("r%d = be%d r%d"):format(dst, word.imm, dst) end
   local letter = class == insn.ALU64 and "r" or "w"
   if op == insn.ALU.neg then return ("%s%d = -%s%d"):format(letter, dst, letter, dst) end
   local operand = bit.band(word.code, insn.X) ~= 0 and letter .. src or tostring(word.imm)
   return ("%s%d %s %s"):format(letter, dst, ALU[op], operand)
end

local function atomic(word, dst, src)
   local place = memory(dst, word.off, bit.band(word.code, 0x18))
   local fetch = bit.band(word.imm, insn.FETCH) ~= 0
   local name = ATOMIC[bit.band(word.imm, 0xf0)]
   if name == "cmpxchg" then return ("r0 = atomic_cmpxchg(%s, r0, r%d)"):format(place, src) end
   if fetch then return ("r%d = atomic_%s(%s, r%d)"):format(src, name, place, src) end
   return ("lock %s %s r%d"):format(place, SIGN[name] or name, src)
end

local function jump(word, index, dst, src)
   local code = word.code
   if code == insn.EXIT then return "exit" end
   if code == insn.JA then return ("goto pc%+d <%d>"):format(word.off, index + 1 + word.off) end
   if code == insn.CALL then return ("call %s#%d"):format(helper_name[word.imm] or "?", word.imm) end
   local letter = bit.band(code, 0x07) == insn.JMP32 and "w" or "r"
   local operand = bit.band(code, insn.X) ~= 0 and letter .. src or tostring(word.imm)
   return ("if %s%d %s %s goto pc%+d <%d>"):format(letter, dst, JUMP[bit.band(code, 0xf0)], operand, word.off,
      index + 1 + word.off)
end

local function wide(words, index, dst, src, reloc)
   local word, following = words[index], words[index + 1]
   if reloc then
      local name = reloc.table.name or tostring(reloc.table)
      return reloc.kind == "value" and ("r%d = map %s value +%d"):format(dst, name, reloc.value)
         or ("r%d = map %s"):format(dst, name)
   elseif src == insn.MAP_FD then return ("r%d = map fd %d"):format(dst, word.imm)
   end
   return ("r%d = 0x%s%s ll"):format(dst, bit.tohex(following.imm), bit.tohex(word.imm))
end

--- One instruction.
---@param words ffi.cdata* as of insn.view
---@param index integer from 0
---@param reloc table? that of this instruction
---@return string text
---@return integer words it takes: 1 or 2
function M.instruction(words, index, reloc)
   local word = words[index]
   local code = word.code
   local class, dst, src = bit.band(code, 0x07), word.regs % 16, math.floor(word.regs / 16)
   if code == insn.LDDW then return wide(words, index, dst, src, reloc), 2 end
   if class == insn.ALU64 or class == insn.ALU32 then return alu(word, dst, src), 1 end
   if class == insn.JMP64 or class == insn.JMP32 then return jump(word, index, dst, src), 1 end
   local size = bit.band(code, 0x18)
   if bit.band(code, 0xe7) == insn.ATOMIC then return atomic(word, dst, src), 1 end
   if bit.band(code, 0xe7) == insn.LDX then return ("r%d = %s"):format(dst, memory(src, word.off, size)), 1 end
   if bit.band(code, 0xe7) == insn.STX then return ("%s = r%d"):format(memory(dst, word.off, size), src), 1 end
   if bit.band(code, 0xe7) == insn.ST then return ("%s = %d"):format(memory(dst, word.off, size), word.imm), 1 end
   return ("?? 0x%02x"):format(code), 1
end

local function by_insn(list)
   local found = {}
   for _, item in ipairs(list or {}) do found[item.insn] = item end
   return found
end

--- The listing of a compiled program.
---@param object tideway.ebpf.object
---@param source? fun(file: string, line: integer): string? lines to put between the instructions
---@return string
function M.listing(object, source)
   local words = insn.view(object.insns)
   local lines, blocks, relocs = by_insn(object.lines), by_insn(object.blocks), by_insn(object.relocs)
   local out, index, last = {}, 0, nil
   while index < object.count do
      if blocks[index] and object.blocks[1] ~= blocks[index] then out[#out + 1] = ("b%d:"):format(blocks[index].id) end
      local pos = lines[index] and lines[index].pos
      local here = pos and ("%s:%d"):format(pos.file, pos.line)
      if source and here and here ~= last then
         local text = source(pos.file, pos.line)
         out[#out + 1] = ("; %s%s"):format(here, text and "  " .. text:gsub("^%s+", "") or "")
         last = here
      end
      local text, size = M.instruction(words, index, relocs[index])
      out[#out + 1] = ("%4d: %s"):format(index, text)
      index = index + size
   end
   return table.concat(out, "\n") .. "\n"
end

return M
