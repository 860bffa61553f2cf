-- SPDX-License-Identifier: BSD-3-Clause
-- Addresses of host names: asked for, and what comes.

local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local WAIT_MS = 5000 -- well below the time that systemd waits for a sign of life
local NAME_MAX = 253 -- of DNS
local EINPROGRESS = 115

local room = ffi.new("char[?]", C.TW_RESOLVE_LEN)

--- Begin to look for the addresses of a host.
---@param host string
---@return ffi.cdata*? question
---@return string? err
function M.ask(host)
   if #host > NAME_MAX or not host:find "^[%w_][%w_.-]*$" then
      return nil, ("%q is no name of a host: letters, digits, - and . make one, at most %d"):format(host, NAME_MAX)
   end
   local question = C.tw_gate_ask(host)
   if question == nil then return nil, abi.error() end
   return ffi.gc(question, C.tw_gate_forget)
end

--- What is known of them now.
---@param question ffi.cdata*
---@param ms? integer how long an answer is waited for
---@return string[]|false|nil numbers sorted, each once: DNS gives them in another order each time; false: not yet
---@return string? err when there are none, or not yet
function M.answer(question, ms)
   local rc = C.tw_gate_answer(question, ms or 0, room, ffi.sizeof(room))
   if rc == -EINPROGRESS then return false, abi.error() end
   if rc < 0 then return nil, abi.error() end
   local list, seen = {}, {}
   for number in ffi.string(room):gmatch "%S+" do
      if not seen[number] then list[#list + 1], seen[number] = number, true end
   end
   table.sort(list)
   return list
end

--- The addresses of a host. Waits for them, some seconds at most.
---@param host string
---@return string[]? numbers
---@return string? err
function M.now(host)
   local question, err = M.ask(host)
   local list
   if question then list, err = M.answer(question, WAIT_MS) end
   if list then return list end
   return nil, err .. "; give the server's address, or mend the name (`getent ahosts` shows what it is)"
end

return M
