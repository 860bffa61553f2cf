-- SPDX-License-Identifier: BSD-3-Clause
-- Reads ring buffer maps, record by record.

local ffi = require "ffi"
local abi = require "tideway.abi"
local map_value = require "tideway.bpf.map_value"

local M = {}

local C = abi.C

local Reader = {}
Reader.__index = Reader

--- The next record, nil when there is none now: a string, or what the map's value type says.
---@return any record  good as long as it is kept
function Reader:next()
   local p = C.tw_bpf_ringbuf_next(self.ring, self.length)
   if p == nil then return nil end
   local t = self.value_type
   if not t then return ffi.string(p, self.length[0]) end
   if self.length[0] < t.size then
      error(("a record of %d bytes, shorter than its type of %d"):format(self.length[0], t.size), 2)
   end
   return map_value.copy(t, p)
end

--- The next record where it lies in the ring, nil when there is none now.
---@return ffi.cdata*? data  good until the next call
---@return integer? length
function Reader:look()
   local p = C.tw_bpf_ringbuf_next(self.ring, self.length)
   if p == nil then return nil end
   return p, self.length[0]
end

--- Waits for a record.
---@param ms integer  at most
---@return boolean there
function Reader:poll(ms)
   local rc = C.tw_bpf_ringbuf_poll(self.ring, ms)
   if rc < 0 then error(abi.error(), 2) end
   return rc == 1
end

function Reader:close()
   C.tw_bpf_ringbuf_free(ffi.gc(self.ring, nil))
   self.ring = nil
end

--- The reader of a ring buffer; there may be one at a time.
---@return table? reader  next(), look(), poll(ms), close(); fd
---@return string? err
---@param map tideway.bpf.Map
function M.open(map)
   local ring = C.tw_bpf_ringbuf_new(map.fd)
   if ring == nil then return nil, abi.error() end
   return setmetatable({ fd = map.fd, ring = ffi.gc(ring, C.tw_bpf_ringbuf_free), length = ffi.new "uint32_t[1]",
      value_type = map.value_type }, Reader)
end

return M
