-- SPDX-License-Identifier: BSD-3-Clause
-- Drafts: the model as a change would have it. Who makes the change sees the draft, all others what runs.

local abi = require "tideway.abi"
local model = require "tideway.model"

local C = abi.C
local M = {}

---@class tideway.change.draft : tideway.model.version
---@field base tideway.model.version what it was begun on
---@field generation integer of the base
---@field reload boolean? everything is declared anew
---@field retry table<tideway.nf.instance, true> running NFs that are not to be kept though they are equal
---@field undone integer? levels of undo that it takes back
---@field restore (fun())? undoes what else was done for it
---@field over string? of edit(): it was committed or abandoned, with this result
---@field label string? what is asked for, in few words, for the list of changes

--- Begin a draft on what runs.
---@param generation integer
---@return tideway.change.draft
function M.begin(generation)
   local draft = model.draft(model.running)
   draft.base, draft.generation, draft.retry = model.running, generation, {}
   return draft
end

--- A draft on a draft, to look what something would do.
---@param of tideway.change.draft
---@return tideway.change.draft
function M.copy(of)
   local draft = model.draft(of)
   draft.base, draft.generation, draft.retry = of.base, of.generation, {}
   return draft
end

--- Let everything be declared anew.
---@param draft tideway.change.draft
function M.clear(draft)
   for _, list in ipairs(model.LISTS) do draft[list] = {} end
   draft.state, draft.own = {}, {}
   draft.tables = setmetatable({}, { __mode = "k" })
   draft.reload = true
end

local function has(list, handle)
   for _, other in ipairs(list) do
      if other == handle then return true end
   end
   return false
end

--- Give up a draft: what it has opened is closed, what runs is not touched.
---@param draft tideway.change.draft
function M.discard(draft)
   if draft.restore then draft.restore() end
   draft.restore = nil
   for _, port in ipairs(draft.ports) do
      if port.opened and not has(draft.base.ports, port) then M.close_port(port) end
   end
   for _, ring in ipairs(draft.rings) do
      if ring.opened and not has(draft.base.rings, ring) then M.close_ring(ring) end
   end
end

--- Close a port that no plan has any more; its counts go to those of ports that are gone.
---@param port tideway.port
function M.close_port(port)
   if not port.opened then return end
   C.tw_port_close(port.index)
   C.tw_port_gone(port.index)
   port.opened, port.started, port.rx_queues = nil, nil, nil
end

--- Close a ring that no plan has any more.
---@param ring tideway.ring
function M.close_ring(ring)
   if not ring.opened then return end
   C.tw_ring_close(ring.index)
   ring.opened = nil
end

return M
