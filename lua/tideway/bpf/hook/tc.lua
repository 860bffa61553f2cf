-- SPDX-License-Identifier: BSD-3-Clause
-- TC ingress and egress of an interface: our filters, by handle, in the clsact qdisc.
--
-- The kernel keeps a filter when its process dies. Ours are known by their handle, 0x7457 in the upper
-- half, and by a name in the network namespace (an abstract socket) that the process holds as long as
-- it lives: a filter whose name is free was left behind, and the next attachment takes its place.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local other = require "tideway.bpf.hook.other"

local M = {}

local C = abi.C
local EEXIST = -17
local TAG, PERSISTS, MADE_CLSACT = 0x74570000, 0x8000, 0x4000
local PRIORITY, SLOTS, ROOM = 50, 64, 256

local function has(handle, flag) return bit.band(handle, flag) ~= 0 end

-- Interfaces whose clsact qdisc this process added.
local made_clsact = {}

function M.name_of(o) return o.interface end

--- Everybody's filters at a hook.
---@param ifindex integer
---@param egress boolean
---@return table[]? filters  { handle, priority, kind, name, program = id or 0 }
---@return string? err
function M.filters(ifindex, egress)
   local list = ffi.new("struct tw_bpf_tc_filter[?]", ROOM)
   local n = C.tw_bpf_tc_filters(ifindex, egress, list, ROOM)
   if n < 0 then return nil, abi.error() end
   local filters = {}
   for i = 1, math.min(n, ROOM) do
      local f = list[i - 1]
      filters[i] = { handle = f.handle, priority = f.priority, program = f.program, kind = ffi.string(f.kind),
         name = ffi.string(f.name) }
   end
   return filters
end

local function find(state)
   for _, f in ipairs(M.filters(state.ifindex, state.egress) or {}) do
      if f.handle == state.handle and f.priority == state.priority then return f end
   end
end

local function state_of(o)
   local ifindex = C.tw_bpf_ifindex(o.interface)
   if ifindex < 0 then return nil, abi.error() end
   local egress = o.hook == "tc_egress"
   local priority = o.priority or PRIORITY
   if type(priority) ~= "number" or priority < 1 or priority > 65535 then
      return nil, ("priority is %s, not a number from 1 (first) to 65535"):format(tostring(priority))
   end
   return { ifindex = ifindex, egress = egress, priority = priority, target = o.interface, mode = "clsact" }
end

local function claim(state)
   return C.tw_bpf_claim(("tideway-tc-%d-%s-%d-%x"):format(state.ifindex, state.egress and "out" or "in",
      state.priority, state.handle))
end

-- Removes the clsact qdisc when we added it and nobody has a filter in it.
local function tidy(ifindex)
   if not made_clsact[ifindex] then return end
   local ingress, egress = M.filters(ifindex, false), M.filters(ifindex, true)
   if ingress and egress and #ingress + #egress == 0 and C.tw_bpf_tc_clsact_del(ifindex) == 0 then
      made_clsact[ifindex] = nil
   end
end

local function refused(state)
   local why = abi.error()
   for _, f in ipairs(M.filters(state.ifindex, state.egress) or {}) do
      if f.priority == state.priority and f.kind ~= "bpf" then
         return ("priority %d of %s holds a %s filter, which is not ours; give priority = another number (%s)"):format(
            state.priority, state.target, f.kind, why)
      end
   end
   return why
end

-- One of ours that ends with its process.
local function is_stale(f)
   return f.kind == "bpf" and bit.band(f.handle, 0x7fff0000) == TAG and not has(f.handle, PERSISTS)
end

-- Puts the program in the place of a filter that a dead process left here, and removes more of them.
local function take_over(o, state)
   local done
   for _, f in ipairs(M.filters(state.ifindex, state.egress) or {}) do
      if is_stale(f) and f.priority == state.priority then
         local mine = setmetatable({ handle = f.handle }, { __index = state })
         mine.claim = claim(mine)
         if mine.claim >= 0 then
            if has(f.handle, MADE_CLSACT) then made_clsact[state.ifindex] = true end
            if done then
               C.tw_bpf_tc_detach(state.ifindex, state.egress, f.handle, f.priority)
               C.tw_bpf_close(mine.claim)
            elseif C.tw_bpf_tc_attach(state.ifindex, state.egress, o.program.fd, f.handle, f.priority, true) == 0 then
               state.handle, state.claim, state.took_over, done = f.handle, mine.claim, f.program, true
            end
         end
      end
   end
   return done and state
end

-- Removes what dead processes left at one side of an interface; adds what was removed to a list.
local function sweep_side(state, list)
   for _, f in ipairs(M.filters(state.ifindex, state.egress) or {}) do
      if is_stale(f) then
         state.handle, state.priority = f.handle, f.priority
         local fd = claim(state)
         if fd >= 0 then
            if has(f.handle, MADE_CLSACT) then made_clsact[state.ifindex] = true end
            if C.tw_bpf_tc_detach(state.ifindex, state.egress, f.handle, f.priority) == 0 then
               list[#list + 1] = ("%s %s"):format(state.target, state.egress and "egress" or "ingress")
            end
            C.tw_bpf_close(fd)
         end
      end
   end
end

--- Removes the filters that dead processes left, on all interfaces of this network namespace.
---@return string[] places they were at
function M.sweep()
   local list = {}
   for _, name in ipairs(require("tideway.posix").net_devices()) do
      local ifindex = C.tw_bpf_ifindex(name)
      if ifindex > 0 then
         for _, egress in ipairs { false, true } do
            sweep_side({ ifindex = ifindex, egress = egress, target = name }, list)
         end
         tidy(ifindex)
      end
   end
   return list
end

-- A new filter, under the first handle that nobody has.
local function attach(o, state)
   local flags = (o.persist and PERSISTS or 0) + (made_clsact[state.ifindex] and MADE_CLSACT or 0)
   for n = 1, SLOTS do
      state.handle = TAG + flags + n
      state.claim = claim(state)
      if state.claim >= 0 then
         local rc = C.tw_bpf_tc_attach(state.ifindex, state.egress, o.program.fd, state.handle, state.priority, false)
         if rc == 0 then return state end
         local err = refused(state)
         C.tw_bpf_close(state.claim)
         if rc ~= EEXIST then return nil, err end
      end
   end
   return nil, ("%d filters of Tideway are at priority %d already; give another one"):format(SLOTS, state.priority)
end

--- Attaches.
---@param o table  { hook = "tc_ingress" or "tc_egress", program =, interface =, priority = 50, lower runs first;
---  of two at one priority the one that came last }
---@return table? state
---@return string? err
function M.attach(o)
   local state, err = state_of(o)
   if not state then return nil, err end
   local added = C.tw_bpf_tc_clsact_add(state.ifindex)
   if added < 0 then return nil, abi.error() end
   if added == 1 then made_clsact[state.ifindex] = true end
   local ok = not o.persist and take_over(o, state)
   if not ok then ok, err = attach(o, state) end
   if not ok then
      tidy(state.ifindex)
      return nil, err
   end
   return state
end

--- The state for a filter of an earlier run; nil when it is there no more.
function M.adopt(o, id)
   local state = state_of(o)
   for _, f in ipairs(state and M.filters(state.ifindex, state.egress) or {}) do
      if f.program == id and bit.band(f.handle, 0x7fff0000) == TAG then
         state.handle, state.priority = f.handle, f.priority
         state.claim = claim(state)
         if has(f.handle, MADE_CLSACT) then made_clsact[state.ifindex] = true end
         return state
      end
   end
end

-- Our filter, unless somebody has put another program under its handle.
local function is_ours(link)
   local f = find(link)
   if not f then return nil, "our filter was removed by somebody" end
   if f.program ~= link.program.id then
      return nil, ("%s stands in the place of our filter, which is not ours"):format(other.program(f.program))
   end
   return true
end

function M.replace(link, program)
   local ok, err = is_ours(link)
   if not ok then return nil, err end
   if C.tw_bpf_tc_attach(link.ifindex, link.egress, program.fd, link.handle, link.priority, true) < 0 then
      return nil, abi.error()
   end
   return true
end

function M.release(link) C.tw_bpf_close(link.claim) end

function M.detach(link)
   local name = ffi.new "char[16]"
   local there = C.tw_bpf_ifname(link.ifindex, name, 16) == 0
   local f = there and find(link)
   M.release(link)
   if f and f.program == link.program.id
      and C.tw_bpf_tc_detach(link.ifindex, link.egress, link.handle, link.priority) < 0 then
      return nil, abi.error()
   end
   if there then tidy(link.ifindex) else made_clsact[link.ifindex] = nil end
   return true
end

--- Our filter as the kernel has it.
function M.info(link)
   local f = find(link)
   return f and f.program == link.program.id and f or nil
end

return M
