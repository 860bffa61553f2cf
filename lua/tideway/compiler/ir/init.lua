-- SPDX-License-Identifier: BSD-3-Clause
-- The typed intermediate representation: SSA values in basic blocks with parameters. README.md of this
-- folder is its reference; text.lua prints and reads it, verify.lua says whether a program is well formed.

local M = {}

-- ---- programs, blocks, values ----

---@class tideway.ir.program
---@field name string
---@field blocks tideway.ir.block[] blocks[1] is the entry; order is only a hint for layout
---@field target string "xdp", "tc", ..., "lcore"
---@field values integer ids given out so far

---@class tideway.ir.block
---@field id integer
---@field params tideway.ir.value[] op "param"
---@field insts tideway.ir.value[]
---@field term tideway.ir.terminator
---@field loop? integer a loop header: the back edge is taken at most this many times

---@class tideway.ir.value
---@field id integer
---@field op string
---@field type "num"|"u64"|"i64"|"ptr"|"void"
---@field args tideway.ir.value[]
---@field lo number? least value (num), inclusive
---@field hi number? greatest value (num), inclusive
---@field space string? what a ptr points into: "pkt" "value" "stack" "mem" "ctx"
---@field pos tideway.ir.position?
---@field name string? name of the Lua variable it was first bound to, for messages

---@class tideway.ir.position
---@field file string
---@field line integer
---@field col integer

---@return tideway.ir.program
function M.program(name, target)
   return { name = name, target = target, blocks = {}, values = 0, next_block = 0 }
end

---@return tideway.ir.block
function M.block(program)
   program.next_block = program.next_block + 1
   local block = { id = program.next_block, params = {}, insts = {} }
   program.blocks[#program.blocks + 1] = block
   return block
end

--- A value that is not yet in a block.
---@return tideway.ir.value
function M.value(program, op, type, args, fields)
   program.values = program.values + 1
   local value = fields or {}
   value.id, value.op, value.type, value.args = program.values, op, type, args or {}
   return value
end

--- A constant. It stands in no block. `value` is a Lua number for num and for u64 and i64 that fit 2^53,
--- else an int64_t or uint64_t cdata; for ptr a number (0: nil) or `object`, a table of the engine.
---@return tideway.ir.value
function M.const(value, type, fields)
   local c = fields or {}
   c.op, c.type, c.value, c.args = "const", type or "num", value, {}
   if c.type == "num" then c.lo, c.hi = value, value end
   return c
end

---@return tideway.ir.value
function M.param(program, block, type, fields)
   local p = M.value(program, "param", type, {}, fields)
   p.block = block
   block.params[#block.params + 1] = p
   return p
end

-- ---- what operations are ----

-- pure: no effect and no dependence on memory: may be merged, moved, removed.
M.PURE = {}
for op in ("add sub mul div mod and or xor shl shr sar sext zext bswap convert ptradd"):gmatch "%S+" do
   M.PURE[op] = true
end

-- Operations with a signed or unsigned comparison code, and its negation and mirror image.
M.NEGATED = {
   eq = "ne", ne = "eq", lt = "ge", ge = "lt", le = "gt", gt = "le", ult = "uge", uge = "ult", ule = "ugt", ugt = "ule",
}
M.MIRRORED = {
   eq = "eq", ne = "ne", lt = "gt", gt = "lt", le = "ge", ge = "le", ult = "ugt", ugt = "ult", ule = "uge", uge = "ule",
}

--- Targets of a terminator: a list of { block =, args = }.
function M.targets(term) return term.targets or {} end

return M
