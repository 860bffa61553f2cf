-- SPDX-License-Identifier: BSD-3-Clause
-- What may touch what: where pointers point, which memory an instruction writes or reads, and which contents are
-- known at one place of the program.

local M = {}

-- ---- where a pointer points ----

--- Root of a pointer and the bounds of its distance from the root.
---@return tideway.ir.value root, number lo, number hi
function M.locate(p)
   local lo, hi = 0, 0
   while p.op == "ptradd" do
      local by = p.args[2]
      lo, hi = lo + by.lo, hi + by.hi
      p = p.args[1]
   end
   return p, lo, hi
end

-- Roots in one space that never point into one object.
local function apart(p, q)
   if p.op == "alloca" and q.op == "alloca" then return p ~= q end
   if p.op == "call" and q.op == "call" then return p.table and q.table and p.table ~= q.table end
   return false
end

--- Whether `size` bytes at p + off and `other_size` bytes at q + other_off may share a byte.
function M.overlap(p, off, size, q, other_off, other_size)
   if p == q then return off < other_off + other_size and other_off < off + size end
   if p.space ~= q.space then return false end
   local root, lo, hi = M.locate(p)
   local other, other_lo, other_hi = M.locate(q)
   if root ~= other then return not apart(root, other) end
   return lo + off < other_hi + other_off + other_size and other_lo + other_off < hi + off + size
end

-- ---- effects ----

--- Whether an instruction changes memory, the frame or the context.
function M.changes(v)
   local op = v.op
   if op == "store" or op == "atomic" or op == "ctxstore" then return true end
   return op == "call" and (v.resizes or v.writes ~= nil and next(v.writes) ~= nil)
end

--- Whether an instruction can be seen from outside of the program, or later packets can tell.
function M.visible(v)
   local op = v.op
   if op == "store" then return v.args[1].space ~= "stack" end
   return op == "atomic" or op == "ctxstore" or op == "call" and not v.pure
end

-- Whether a call that reads or writes stack objects can reach the one `p` points into.
local function given(call, p)
   local root = M.locate(p)
   for i = 1, #call.args do
      local a = call.args[i]
      local stack = a.type == "ptr" and a.op ~= "const" and a.space == "stack"
      if stack and not apart(M.locate(a), root) then return true end
   end
   return root.op ~= "alloca"
end

--- Whether instruction `v` may write some of the `size` bytes at p + off.
function M.writes(v, p, off, size)
   local op = v.op
   if op == "store" or op == "atomic" then
      return M.overlap(v.args[1], v.off or 0, v.bits / 8, p, off, size)
   elseif op == "call" then
      local space = p.space
      if space == "pkt" and v.resizes then return true end
      if not (v.writes and v.writes[space]) then return false end
      return space ~= "stack" or given(v, p)
   end
   return false
end

--- Whether instruction `v` may read some of the `size` bytes at p + off.
function M.reads(v, p, off, size)
   local op = v.op
   if op == "load" or op == "atomic" then
      return M.overlap(v.args[1], v.off or 0, v.bits / 8, p, off, size)
   elseif op == "call" then
      local space = p.space
      if space ~= "stack" then return not v.pure or v.reads ~= nil and v.reads[space] or false end
      -- what is given to a call counts as read, also where the declaration forgets to say so
      return given(v, p)
   end
   return false
end

-- ---- known contents ----

---@class tideway.opt.contents an entry for each thing whose value is known at this place
local Contents = {}
Contents.__index = Contents

function M.contents() return setmetatable({ n = 0 }, Contents) end

--- What is known on the way into a block that this one dominates.
function Contents:copy()
   local c = { n = self.n }
   for i = 1, self.n do c[i] = self[i] end
   return setmetatable(c, Contents)
end

local function lost(entry, v)
   if entry.p then return M.writes(v, entry.p, entry.off, entry.size) end
   if entry.field then
      if v.op == "ctxstore" then return v.field == entry.field end
      return v.resizes or v.writes and v.writes.ctx
   end
   if entry.frame then return v.resizes end
   -- a pure call: by what it reads
   local reads = entry.reads
   if not reads then return false end
   if v.op == "call" then
      if v.resizes and reads.pkt then return true end
      for space in pairs(v.writes or {}) do
         if reads[space] then return true end
      end
      return false
   end
   return v.op ~= "ctxstore" and reads[v.args[1].space] or false
end

--- Forgets what instruction `v` may have changed.
function Contents:clobber(v)
   local kept = 0
   for i = 1, self.n do
      local entry = self[i]
      if not lost(entry, v) then
         kept = kept + 1
         self[kept] = entry
      end
   end
   for i = kept + 1, self.n do self[i] = nil end
   self.n = kept
end

function Contents:add(entry)
   self.n = self.n + 1
   self[self.n] = entry
end

--- The entry for exactly `bits` at p + off.
function Contents:at(p, off, bits)
   for i = self.n, 1, -1 do
      local entry = self[i]
      if entry.p == p and entry.off == off and entry.bits == bits then return entry end
   end
end

--- The entry whose field `kind` is `key`.
function Contents:find(kind, key)
   for i = self.n, 1, -1 do
      if self[i][kind] == key then return self[i] end
   end
end

return M
