-- SPDX-License-Identifier: BSD-3-Clause
-- Reading and writing a message's block: every offset in it is checked against the block's real size, each is read
-- once (others may write to the block), and what is written goes into its free room.

local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}
local ffi_string, ffi_copy = ffi.string, ffi.copy

--- Where a message is. One per message object, pointed at another message again and again.
M.view_t = ffi.typeof [[struct {
   struct tw_msg *m;
   uint8_t *b;
   uint64_t handle;
   uint32_t size;
   uint32_t member;
}]]

M.HEAD = ffi.sizeof "struct tw_msg"

-- What views point at that stand for no message.
M.nothing = ffi.new "struct tw_msg"

local here = debug.getinfo(1, "S").source:match "^(.*/)"

--- Raise an error at the line of the NF that called into this folder.
---@param text string
function M.raise(text)
   local level = 2
   while true do
      local info = debug.getinfo(level, "S")
      if not info or (info.what ~= "C" and info.source:sub(1, #here) ~= here) then break end
      level = level + 1
   end
   error(text, level)
end
local raise = M.raise

--- The block contradicts itself: not the NF's fault, but it cannot go on with this message.
function M.damaged(v)
   if v.size == 0 then
      raise "the message is gone: it cannot be used after the function that had it has returned"
   end
   raise "damaged message: something in it lies outside of its block"
end
local damaged = M.damaged

--- The bytes at an offset, as a string.
---@param v ffi.cdata*
---@param at number
---@param len number
---@return string
function M.bytes(v, at, len)
   local size = v.size
   if at > size or len > size - at or size == 0 then damaged(v) end
   return ffi_string(v.b + at, len)
end

--- Offset of so many bytes of free room, which are taken.
---@param self tideway.message
---@param n number
---@return number at
function M.room(self, n)
   local v = self.v
   local m, size = v.m, v.size
   local at = m.used
   if at > size or at < M.HEAD then damaged(v) end
   if n > size - at then
      raise(("message full: %d bytes are needed, %d bytes left of %d"):format(n, size - at, size))
   end
   m.used = at + n
   return at
end
local room = M.room

--- Copy a string into the free room.
---@param self tideway.message
---@param text string
---@return number at
function M.put(self, text)
   local at = room(self, #text)
   ffi_copy(self.v.b + at, text, #text)
   return at
end

--- Nobody else's: may it be written to?
---@param self tideway.message
function M.writable(self)
   if self.readonly then
      if self.v.size == 0 then damaged(self.v) end
      raise(self.readonly)
   end
end

local KINDS = { [0] = "method or header name", "header value", "target", "host" }

--- Raise unless the text is made of what may stand there.
---@param what string what it is, for the error
---@param text any
---@param kind number enum tw_text_kind
---@return string text
function M.checked(what, text, kind)
   if type(text) == "number" then text = tostring(text) end
   if type(text) ~= "string" then raise(("%s must be a string, not %s"):format(what, type(text))) end
   local wrong = C.tw_text_wrong(text, #text, kind)
   if wrong >= 0 then
      raise(("%s: byte 0x%02x at position %d cannot stand in a %s"):format(what, text:byte(wrong + 1), wrong + 1,
         KINDS[kind]))
   end
   return text
end

return M
