-- SPDX-License-Identifier: BSD-3-Clause
-- Walks over extension headers and options with a fixed bound, as the kernel's verifier wants them. In NF Lua, in place
-- of functions of tideway.packet.parse, with the same results.

local ffi = require "ffi"
local bit = require "bit"
local extension = require("tideway.packet.ipv6").extension

local sum = require "tideway.compiler.hooklib.sum"

local M = {}

local give_up = sum.give_up
local cast, band, lshift = ffi.cast, bit.band, bit.lshift
local extension_p = extension.pointer
local RAW_V6_OFFSET = 0xf8ff

local function is_extension(h)
   return h == 0 or h == 60 or h == 43 or h == 44 or h == 51 or h == 135 or h == 139 or h == 140
end

--- parse.walk: over IPv6 extension headers, at most 8.
function M.walk(d, h, o, stop, wanted)
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

--- parse.option: IPv4 and TCP options fill 40 bytes at most, and each has one byte at least.
function M.option(d, at, stop, kind)
   for _ = 1, 40 do
      if at >= stop then return nil end
      local type = d[at]
      if type == 0 then return nil end
      local length = 1
      if type ~= 1 then
         if at + 2 > stop then return nil end
         length = d[at + 1]
         if length < 2 or at + length > stop then return nil end
      end
      if type == kind then return at, length end
      at = at + length
   end
   return nil
end

-- Neighbor discovery options that a hook looks at; a packet with more is dropped there.
local MOST_ND = 32

--- parse.nd_option
function M.nd_option(d, at, stop, kind)
   for _ = 1, MOST_ND do
      if at + 8 > stop then return nil end
      local length = lshift(d[at + 1], 3)
      if length == 0 or at + length > stop then return nil end
      if d[at] == kind then return at, length end
      at = at + length
   end
   give_up()
   return nil
end

return M
