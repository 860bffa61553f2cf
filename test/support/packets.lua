-- SPDX-License-Identifier: BSD-3-Clause
-- Packets without an engine: frames that end at a page nobody may touch, so that a read or write
-- beyond the frame ends the test run.

local ffi = require "ffi"
require "tideway.packet"

pcall(ffi.cdef, [[
void *tw_spec_mmap(void *, size_t, int, int, int, long) __asm__("mmap");
int tw_spec_mprotect(void *, size_t, int) __asm__("mprotect");
]])

local PAGE = 4096
local M = {}

local READ_WRITE, PRIVATE_ANONYMOUS = 3, 0x22
local area = ffi.cast("uint8_t *", ffi.C.tw_spec_mmap(nil, 5 * PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0))
assert(ffi.cast("intptr_t", area) ~= -1, "mmap")
assert(ffi.C.tw_spec_mprotect(area + 4 * PAGE, PAGE, 0) == 0, "mprotect")
local stop = area + 4 * PAGE

local pkt_array = ffi.typeof "struct tw_pkt[1]"
local keep = setmetatable({}, { __mode = "k" })

--- A packet whose last byte is the last one that may be touched. One frame at a time: the next
--- call uses the same memory.
---@param frame string
---@return tideway.pkt
function M.new(frame)
   local box = pkt_array()
   local pkt = box[0]
   keep[pkt] = box
   M.put(pkt, frame)
   return pkt
end

--- Put another frame into the packet.
function M.put(pkt, frame)
   pkt.len, pkt.data = #frame, stop - #frame
   pkt.verdict, pkt.out = 0, 0xffff
   ffi.copy(pkt.data, frame, #frame)
end

--- The frame as it is now.
function M.bytes(pkt) return ffi.string(pkt.data, pkt.len) end

--- `count` bytes that look random and are the same each run.
function M.noise(count, seed)
   local state, list = seed or 1, {}
   for i = 1, count do
      state = (state * 1103515245 + 12345) % 2 ^ 31
      list[i] = string.char(math.floor(state / 65536) % 256)
   end
   return table.concat(list)
end

return M
