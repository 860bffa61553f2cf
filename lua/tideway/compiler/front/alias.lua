-- SPDX-License-Identifier: BSD-3-Clause
-- Whether two accesses to memory may overlap. Packet pointers are the start of the frame plus a sum of numbers with
-- ranges: the TCP header begins at least 20 bytes behind the IP header, whatever the options.

local M = {}

--- Start and variable part of a packet pointer; no second result when it has none.
function M.parts(v)
   if v.op == "ptradd" then return v.args[1], v.args[2] end
   if v.index then return v.root, v.index end
   return v
end

-- The number behind a packet pointer as leaves that are added up, and a constant.
local function leaves_of(v, leaves, depth)
   v = v.stands_for or v
   if v.op == "const" then
      leaves.constant = leaves.constant + v.value
   elseif v.op == "add" and v.type == "num" and not v.w and depth < 6 then
      leaves_of(v.args[1], leaves, depth + 1)
      leaves_of(v.args[2], leaves, depth + 1)
   else
      leaves[v] = (leaves[v] or 0) + 1
   end
   return leaves
end

local function distance_leaves(base)
   if base.op == "pktdata" then return base, { constant = 0 } end
   local root, index = M.parts(base)
   if index and root.op == "pktdata" then return root, leaves_of(index, { constant = 0 }, 0) end
end

-- Range of b - a for two packet pointers; nil when it is not known.
local function distance(a, b)
   local root_a, from = distance_leaves(a)
   local root_b, to = distance_leaves(b)
   if not root_a or root_a ~= root_b then return nil end
   local lo, hi = to.constant - from.constant, to.constant - from.constant
   for leaf, n in pairs(to) do
      local left = leaf ~= "constant" and n - (from[leaf] or 0) or 0
      if left > 0 then
         if not leaf.lo then return nil end
         lo, hi = lo + left * leaf.lo, hi + left * leaf.hi
      end
   end
   for leaf, n in pairs(from) do
      local left = leaf ~= "constant" and n - (to[leaf] or 0) or 0
      if left > 0 then
         if not leaf.lo then return nil end
         lo, hi = lo - left * leaf.hi, hi - left * leaf.lo
      end
   end
   return lo, hi
end

--- Do the bytes [off, off + size) from `base` and those of `entry` overlap?
function M.overlaps(space, base, off, size, entry)
   if not base then return true end
   if entry.base == base then return not (entry.off + entry.size <= off or off + size <= entry.off) end
   if space == "stack" then return false end
   if space ~= "pkt" then return true end
   local lo, hi = distance(base, entry.base)
   if not lo then return true end
   return not (lo + entry.off >= off + size or hi + entry.off + entry.size <= off)
end

return M
