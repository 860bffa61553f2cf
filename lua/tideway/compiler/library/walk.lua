-- SPDX-License-Identifier: BSD-3-Clause
-- The walk over IPv6 extension headers as a loop, for hooks: the library's own is written out for LuaJIT's sake.
-- Same results as tideway.packet.parse.walk.

local ffi = require "ffi"
local bit = require "bit"
local extension = require("tideway.packet.ipv6").extension

local cast, band, lshift = ffi.cast, bit.band, bit.lshift
local extension_p = extension.pointer
local RAW_V6_OFFSET = 0xf8ff

local function is_extension(h)
   return h == 0 or h == 60 or h == 43 or h == 44 or h == 51 or h == 135 or h == 139 or h == 140
end

return function(d, h, o, stop, wanted)
   if h == nil then return nil end
   for _ = 1, 9 do
      if h == wanted or not is_extension(h) then return h, o end
      if o + 8 > stop then return nil end
      local ext = cast(extension_p, d + o)
      local size = lshift(ext.length + 1, 3)
      if h == 44 then
         if band(ext.raw_frag, RAW_V6_OFFSET) ~= 0 then return nil end
         size = 8
      elseif h == 51 then
         size = lshift(ext.length + 2, 2)
      end
      o = o + size
      if o > stop then return nil end
      h = ext.next_header
   end
   return nil
end
