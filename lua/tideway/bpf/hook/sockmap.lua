-- SPDX-License-Identifier: BSD-3-Clause
-- Programs of a socket map: for what its sockets send (sk_msg), and receive (parser and verdict). The
-- program stays with the map.

local ffi = require "ffi"
local abi = require "tideway.abi"
local other = require "tideway.bpf.hook.other"

local M = {}

local C = abi.C
local EINVAL = -22

local attach_types = {
   sk_msg = C.TW_BPF_AT_SK_MSG_VERDICT, stream_parser = C.TW_BPF_AT_STREAM_PARSER,
   stream_verdict = C.TW_BPF_AT_STREAM_VERDICT, sk_skb_verdict = C.TW_BPF_AT_SK_SKB_VERDICT,
}

function M.name_of(o) return o.map.name end

-- Id of the program that is attached, 0 none, nil when this kernel does not tell.
local function attached(map, attach_type)
   local id = ffi.new "uint32_t[1]"
   local rc = C.tw_bpf_target_query(map.fd, attach_type, id)
   if rc < 0 then return nil, rc end
   return rc > 0 and id[0] or 0
end

local function state_of(o)
   return { map = o.map, attach_type = attach_types[o.hook], target = ("map %s"):format(o.map.name) }
end

--- Attaches.
---@param o table  { hook =, program =, map = a sockmap or sockhash }
---@return table? state
---@return string? err
function M.attach(o)
   local state = state_of(o)
   local id, rc = attached(o.map, state.attach_type)
   if not id and rc ~= EINVAL then return nil, abi.error() end
   if id and id ~= 0 then
      return nil, ("%s runs %s already, which is not ours; take another map"):format(state.target, other.program(id))
   end
   if C.tw_bpf_target_attach(o.program.fd, o.map.fd, state.attach_type) < 0 then return nil, abi.error() end
   o.map.renew()
   return state
end

--- The state for a program of an earlier run; nil when it is there no more.
function M.adopt(o, id)
   local state = state_of(o)
   return attached(o.map, state.attach_type) == id and state or nil
end

local function is_ours(link)
   local id = attached(link.map, link.attach_type)
   if id and id ~= link.program.id then
      return nil, ("%s runs there now, which is not ours"):format(other.program(id))
   end
   return true
end

function M.replace(link, program)
   local ok, err = is_ours(link)
   if not ok then return nil, err end
   if C.tw_bpf_target_attach(program.fd, link.map.fd, link.attach_type) < 0 then return nil, abi.error() end
   link.map.renew()
   return true
end

function M.detach(link)
   local ok, err = is_ours(link)
   if not ok then return nil, err end
   if C.tw_bpf_target_detach(link.program.fd, link.map.fd, link.attach_type) < 0 then return nil, abi.error() end
   return true
end

function M.info(link)
   local id = attached(link.map, link.attach_type) or link.program.id
   return id ~= 0 and { program = id } or nil
end

return M
