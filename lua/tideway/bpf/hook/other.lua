-- SPDX-License-Identifier: BSD-3-Clause
-- Whose is it? Texts for programs and links that are not ours, for messages that refuse to touch them.

local ffi = require "ffi"
local abi = require "tideway.abi"
local program = require "tideway.bpf.program"

local M = {}

local C = abi.C

--- A program by id, as a message names it.
---@param id integer
---@return string
function M.program(id)
   local info = program.by_id(id)
   if not info then return ("program %d"):format(id) end
   return ("program %d (%s)"):format(id, info.name ~= "" and info.name or "no name")
end

--- The first link that a function accepts.
---@param accept fun(info: ffi.cdata*): boolean?
---@return integer? id
function M.link_of(accept)
   local info, id = ffi.new "struct tw_bpf_link_info", 0
   while true do
      id = C.tw_bpf_link_next_id(id)
      if id <= 0 then return nil end
      local fd = C.tw_bpf_link_by_id(id)
      local found = fd >= 0 and C.tw_bpf_link_get_info(fd, info) == 0 and accept(info)
      C.tw_bpf_close(fd)
      if found then return id end
   end
end

return M
