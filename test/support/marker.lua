-- SPDX-License-Identifier: BSD-3-Clause
-- A small file that says what a process was doing when it died: memory mapped, so that what was written last
-- stays in the file after a SIGSEGV or an abort of a sanitizer.

local ffi = require "ffi"
require "tideway.posix"

local M = {}
local marker_t = ffi.typeof "struct { uint32_t used, length; char title[120]; char input[65536]; }"
local marker_p = ffi.typeof("$ *", marker_t)
local READ_WRITE, SHARED, O_RDWR = 3, 1, 2
local map

--- Use this file from now on; it is made, or overwritten.
---@param path string
function M.open(path)
   local size = ffi.sizeof(marker_t)
   local file = assert(io.open(path, "wb"))
   file:write(("\0"):rep(size))
   file:close()
   local fd = ffi.C.tw_posix_open(path, O_RDWR)
   assert(fd >= 0, path)
   local address = ffi.C.tw_posix_mmap(nil, size, READ_WRITE, SHARED, fd, 0)
   ffi.C.tw_posix_close(fd)
   assert(ffi.cast("intptr_t", address) ~= -1, "mmap")
   map = ffi.cast(marker_p, address)
   map.used = 1
end

--- Say what is being done. Does nothing without a file.
---@param title string at most 119 bytes of it count
function M.title(title)
   if map then ffi.copy(map.title, title:sub(1, 119)) end
end

--- Say what it is done to.
---@param input string
function M.input(input)
   if not map then return end
   map.length = math.min(#input, 65536)
   ffi.copy(map.input, input, map.length)
end

--- What a process that has died said last.
---@param path string
---@return string? title nil when it said nothing
---@return string? input
function M.read(path)
   local file = io.open(path, "rb")
   local text = file and file:read "*a" or ""
   if file then file:close() end
   if #text < ffi.sizeof(marker_t) then return nil end
   local was = ffi.cast(marker_p, ffi.cast("const char *", text))
   if was.used == 0 then return nil end
   return ffi.string(was.title), ffi.string(was.input, was.length)
end

return M
