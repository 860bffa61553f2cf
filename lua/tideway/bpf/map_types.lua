-- SPDX-License-Identifier: BSD-3-Clause
-- Types of the keys and values of maps that were not declared here, from BTF, else by their sizes.

local ffi = require "ffi"
local btf_read = require "tideway.bpf.btf_read"
local type_lib = require "tideway.table.type"

local M = {}

local by_size = { [1] = "u8", [2] = "u16", [4] = "u32", [8] = "u64" }

-- Without BTF: an integer where the size is one's, else bytes.
local function of_size(size)
   if by_size[size] then return (type_lib.parse(by_size[size])) end
   if size == 0 then return nil end
   return { text = ("u8[%d]"):format(size), scalar = false, size = size, align = 1,
      ctype = ffi.typeof("struct { uint8_t value[$]; }", size),
      fields = { { name = "value", raw = "value", offset = 0, size = size, compound = true } } }
end

--- Types of a map.
---@param types tideway.bpf.BtfTypes?
---@param info table  { key_type, value_type, key_size, value_size }
---@return table types  { key =, value =, lock_offset = }
function M.from(types, info)
   local key = types and info.key_type ~= 0 and types:layout(info.key_type)
   local value, lock_offset
   if types and info.value_type ~= 0 then value, lock_offset = types:layout(info.value_type) end
   return { key = key or of_size(info.key_size), value = value or of_size(info.value_size), lock_offset = lock_offset }
end

--- What map.from_fd takes, for a map that only the kernel knows.
---@param info ffi.cdata*  struct tw_bpf_map_info
---@return table options
function M.of(info)
   local types = info.btf_id ~= 0 and btf_read.from_kernel(info.btf_id) or nil
   return { types = M.from(types, info) }
end

return M
