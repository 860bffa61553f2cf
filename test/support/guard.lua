-- SPDX-License-Identifier: BSD-3-Clause
-- Memory between pages that nobody may touch. A frame in it ends exactly at such a page, or begins right
-- behind one, so that one byte read or written outside of it is a SIGSEGV. LuaJIT's machine code is not
-- instrumented by AddressSanitizer: this is what takes its place for Lua.

local ffi = require "ffi"
require "tideway.packet"

pcall(ffi.cdef, [[
void *tw_guard_mmap(void *, size_t, int, int, int, long) __asm__("mmap");
int tw_guard_mprotect(void *, size_t, int) __asm__("mprotect");
]])

local M = {}
local PAGE = 4096
local ROOM = 4 * PAGE           -- bytes of a slot that may be touched
local STRIDE = ROOM + PAGE      -- a slot and the page behind it; the one in front ends the slot before
local READ_WRITE, PRIVATE_ANONYMOUS = 3, 0x22
local bytes_p = ffi.typeof "uint8_t *"

--- Longest frame that fits.
M.room = ROOM

--- Slots with a guard page on each side.
---@param slots integer
---@return number base address of the first slot; a number, so that it can move to an lcore
function M.new(slots)
   local size = slots * STRIDE + PAGE
   local area = ffi.cast(bytes_p, ffi.C.tw_guard_mmap(nil, size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0))
   assert(ffi.cast("intptr_t", area) ~= -1, "mmap")
   for i = 0, slots do assert(ffi.C.tw_guard_mprotect(area + i * STRIDE, PAGE, 0) == 0, "mprotect") end
   return tonumber(ffi.cast("uintptr_t", area)) + PAGE
end

--- Where a frame of `len` bytes lies in a slot.
---@param base number
---@param slot integer
---@param len integer
---@param at_start boolean behind the page in front, instead of in front of the page behind
---@return ffi.cdata* uint8_t *
function M.place(base, slot, len, at_start)
   return ffi.cast(bytes_p, base + slot * STRIDE + (at_start and 0 or ROOM - len))
end

-- ---- frames of a running chain ----

local SLOTS = 128 -- more than a burst and what may be released into it
local area

local function inside(pkt)
   if not area then return false end -- a VM that was built anew
   local at = tonumber(ffi.cast("uintptr_t", pkt.data))
   return at >= area and at < area + SLOTS * STRIDE
end

--- Move the frame back to its buffer, with what was changed in it. Does nothing if it is there.
---@param pkt tideway.pkt
function M.leave(pkt)
   if not inside(pkt) then return end
   local to = pkt.room
   ffi.copy(to, pkt.data, pkt.len)
   pkt.data = to
end

-- The engine moves the ends of a frame in its buffer: a guarded frame goes back there before.
local function wrap_resize()
   local adjust = require("tideway.packet.raw").adjust_head
   local engine = require("tideway.abi").C
   local name, value = debug.getupvalue(adjust, 1)
   assert(name == "C" and value == engine, "adjust_head calls the engine through its upvalue C")
   debug.setupvalue(adjust, 1, setmetatable({
      tw_pkt_adjust_head = function(pkt, delta) M.leave(pkt) return engine.tw_pkt_adjust_head(pkt, delta) end,
      tw_pkt_adjust_tail = function(pkt, delta) M.leave(pkt) return engine.tw_pkt_adjust_tail(pkt, delta) end,
   }, { __index = engine }))
end

--- Move a packet's frame into a slot; where it was is kept in pkt.room, which packets with an mbuf do not use.
---@param pkt tideway.pkt
---@param base number
---@param n integer counts frames; slots and places take turns
function M.enter(pkt, base, n)
   if not area then
      area = base
      wrap_resize()
   end
   local len = pkt.len
   if len > ROOM then return end
   local to = M.place(base, n % SLOTS, len, math.floor(n / SLOTS) % 2 == 1)
   ffi.copy(to, pkt.data, len)
   pkt.room = pkt.data
   pkt.data = to
end

local shared

--- Two NFs: between them frames lie in guarded memory, where the NF in the middle sees them.
---@return tideway.nf.instance enter
---@return tideway.nf.instance leave
function M.nfs()
   local tw = require "tideway"
   shared = shared or M.new(SLOTS)
   local base = shared
   local enter = tw.nf("guard", function()
      local guard, n = nil, 0
      return { packet = function(pkt)
         if not guard then guard = require "test.support.guard" end
         guard.enter(pkt, base, n)
         n = n + 1
      end }
   end) {}
   local leave = tw.nf("unguard", function()
      local guard
      return { packet = function(pkt)
         if not guard then guard = require "test.support.guard" end
         guard.leave(pkt)
      end }
   end) {}
   return enter, leave
end

return M
