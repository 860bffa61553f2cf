-- SPDX-License-Identifier: BSD-3-Clause
-- What is due next: a binary heap of records by `due`. A record knows its place, so that it can be taken out.

local M = {}

local function place(heap, i, record)
   heap[i], record.place = record, i
end

local function up(heap, i, record)
   while i > 1 do
      local parent = math.floor(i / 2)
      if heap[parent].due <= record.due then break end
      place(heap, i, heap[parent])
      i = parent
   end
   place(heap, i, record)
end

local function down(heap, i, record)
   local n = #heap
   while 2 * i <= n do
      local child = 2 * i
      if child < n and heap[child + 1].due < heap[child].due then child = child + 1 end
      if heap[child].due >= record.due then break end
      place(heap, i, heap[child])
      i = child
   end
   place(heap, i, record)
end

--- Put a record in.
---@param heap table
---@param record { due: number }
function M.put(heap, record) up(heap, #heap + 1, record) end

--- Take a record out; nothing when it is not in.
---@param heap table
---@param record table
function M.remove(heap, record)
   local i = record.place
   if not i or heap[i] ~= record then return end
   record.place = false
   local n = #heap
   local last = heap[n]
   heap[n] = nil
   if i == n then return end
   if i > 1 and heap[math.floor(i / 2)].due > last.due then up(heap, i, last) else down(heap, i, last) end
end

return M
