-- SPDX-License-Identifier: BSD-3-Clause
-- Frames of the control socket: four bytes of length, big endian, a byte that names the kind, the payload.
--
-- The length counts kind and payload. "J": JSON. "B": a binary record of a stream: the request's number in four bytes,
-- then the record. A frame has at most 1 MiB.

local buffer = require "string.buffer"
local ffi = require "ffi"
local bit = require "bit"
local json = require "tideway.json"

local M = {
   VERSION = 1,
   LIMIT = 1024 * 1024,
}

local HEAD = 4

local function number(n)
   local function byte(shift) return bit.band(bit.rshift(n, shift), 255) end
   return string.char(byte(24), byte(16), byte(8), byte(0))
end

local function frame(kind, payload)
   if #payload >= M.LIMIT then
      return nil, ("it has %d bytes and a frame at most %d; ask for less at a time"):format(#payload + 1, M.LIMIT)
   end
   return number(#payload + 1) .. kind .. payload
end

--- A message as a frame.
---@param message table
---@return string? frame
---@return string? error
function M.encode(message)
   local ok, text = pcall(json.encode, message, true)
   if not ok then return nil, (tostring(text):gsub("^[^ ]*: ", "")) end
   return frame("J", text)
end

--- A record of a stream as a frame.
---@param id integer the request that asked for the stream
---@param data string
---@return string? frame
---@return string? error
function M.encode_record(id, data) return frame("B", number(id) .. data) end

---@class tideway.control.decoder
local Decoder = {}
Decoder.__index = Decoder

--- Takes bytes as they come and gives messages.
---@param limit? integer longest frame that is taken; default M.LIMIT
---@return tideway.control.decoder
function M.decoder(limit) return setmetatable({ bytes = buffer.new(), limit = limit or M.LIMIT }, Decoder) end

--- Bytes that have come.
---@param data ffi.cdata* const char *
---@param count integer
function Decoder:feed(data, count) self.bytes:putcdata(data, count) end

-- Length of the first frame, nil when its head is not there yet.
local function length(bytes)
   if #bytes < HEAD then return nil end
   local head = ffi.cast("const uint8_t *", (bytes:ref()))
   return head[0] * 2 ^ 24 + head[1] * 2 ^ 16 + head[2] * 2 ^ 8 + head[3]
end

--- Is there more than nothing and less than a frame?
---@return boolean
function Decoder:partial() return #self.bytes > 0 and not self:complete() end

--- Is there a whole frame, or one that is wrong already?
---@return boolean
function Decoder:complete()
   local n = length(self.bytes)
   return n ~= nil and (n == 0 or n > self.limit or #self.bytes >= HEAD + n)
end

--- Bytes that wait.
---@return integer
function Decoder:size() return #self.bytes end

-- One value of a "J" frame.
local function decode(text)
   local ok, value, err = pcall(json.decode, text)
   if not ok then return nil, "it is nested too deeply" end
   if err then return nil, err end
   if type(value) ~= "table" then return nil, "it is not an object" end
   return value
end

--- The next message. { id, record = bytes } for a record.
---@return table? message nil: none yet, or an error
---@return string? error what is wrong with the frame; nothing that follows can be understood
function Decoder:next()
   local n = length(self.bytes)
   if not n then return nil end
   if n == 0 or n > self.limit then
      return nil, ("a frame of %.0f bytes came and 1 to %d are possible; a frame is its length in four bytes, "
         .. "big endian, 'J', JSON"):format(n, self.limit)
   end
   if #self.bytes < HEAD + n then return nil end
   self.bytes:skip(HEAD)
   local kind = self.bytes:get(1)
   local payload = self.bytes:get(n - 1)
   if #self.bytes == 0 then self.bytes:free() end -- what a large one took is given back
   if kind == "J" then
      local value, err = decode(payload)
      return value, err and ("a frame that is no message came: %s"):format(err)
   elseif kind == "B" and #payload >= HEAD then
      local a, b, c, d = payload:byte(1, HEAD)
      return { id = a * 2 ^ 24 + b * 2 ^ 16 + c * 2 ^ 8 + d, record = payload:sub(HEAD + 1) }
   end
   return nil, ("a frame of kind %q came; the kinds are J and B"):format(kind)
end

return M
