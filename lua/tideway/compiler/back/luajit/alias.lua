-- SPDX-License-Identifier: BSD-3-Clause
-- Where LuaJIT would go wrong about memory. It assumes that accesses of different width through different base
-- pointers do not overlap, and carries values over such stores. A barrier in front of the access ends that; so does
-- every call of a C function. The bases LuaJIT sees are a frame's start, variables, and constants.

local graphs = require "tideway.compiler.ir.graph"

local M = {}

local FAR = 2 ^ 52
local DATA = { op = "pktdata" } -- all of them: they differ by calls only

-- The value that an address is made from, and the constant distance from it.
local function root_of(v)
   local off = 0
   while v.op == "ptradd" and v.args[2].op == "const" do
      off = off + tonumber(v.args[2].value)
      v = v.args[1]
   end
   return v.op == "pktdata" and DATA or v, off
end

-- Bytes from the start of the frame that an access may be in.
local function frame_range(root, off, size)
   if root == DATA then return off, off + size end
   if root.op ~= "ptradd" then return -FAR, FAR end
   local base, at = root_of(root.args[1])
   local lo, hi = frame_range(base, at, 0)
   local by = root.args[2]
   return lo + (by.lo or -FAR) + off, hi + (by.hi or FAR) + off + size
end

local function access_of(v)
   local root, off = root_of(v.args[1])
   local size = v.bits / 8
   off = off + (v.off or 0)
   local a = { space = v.args[1].space or "mem", root = root, off = off, size = size, writes = v.op ~= "load" }
   a.lo, a.hi = off, off + size
   if a.space == "pkt" then a.lo, a.hi = frame_range(root, off, size) end
   -- Different constants are different bases to LuaJIT, also when they are near.
   a.constant = root.op == "alloca" or root.op == "const"
   a.key = ("%s %s %d %d %s"):format(a.space, tostring(root), off, size, a.writes and "w" or "r")
   return a
end

local function conflict(a, b)
   if a.space ~= b.space or a.size == b.size or not (a.writes or b.writes) then return false end
   if a.root == b.root then return a.constant and a.lo < b.hi and b.lo < a.hi end
   if a.root.op == "alloca" and b.root.op == "alloca" then return false end
   if a.space == "pkt" then return a.lo < b.hi and b.lo < a.hi end
   return true
end

-- Goes through a block with the accesses since the last barrier; notes where a new one is needed.
local function walk(block, since, needed)
   for _, v in ipairs(block.insts) do
      if v.op == "call" or v.op == "atomic" then
         since = {}
      elseif v.op == "load" or v.op == "store" then
         local a = access_of(v)
         for _, earlier in pairs(since) do needed[v] = needed[v] or conflict(a, earlier) end
         if needed[v] then since = {} end
         since[a.key] = a
      end
   end
   return since
end

--- The loads and stores that need a barrier in front of them.
---@param program tideway.ir.program
---@return table<tideway.ir.value, boolean>
function M.barriers(program)
   local graph = graphs.of(program)
   local out, needed = {}, {}
   local changed
   repeat
      changed = false
      for _, block in ipairs(graph.order) do
         local since = {}
         for _, edge in ipairs(graph.preds[block]) do
            for key, a in pairs(out[edge.block] or {}) do since[key] = a end
         end
         since = walk(block, since, needed)
         for key in pairs(since) do
            if not (out[block] and out[block][key]) then changed = true end
         end
         out[block] = since
      end
   until not changed
   return needed
end

return M
