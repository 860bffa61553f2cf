-- SPDX-License-Identifier: BSD-3-Clause
-- Slow-path packets: new frames made by NFs, and packets held until something is known.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"

local C = abi.C
local M = {}

--- Emits and releases in the control thread, where NFs on hooks have their user half (tideway.hook.punt).
M.control = nil

-- Queues of the control thread by number.
local queues = {}

---@class tideway.hold_queue
---@field id integer
---@field slots integer?
---@field per_key integer?
---@field timeout number? ns
local Hold = {}
Hold.__index = Hold
Hold.__transfer = function(self) return "tideway.hold", "attach", { self.id } end

Hold.__declared = function() return "hold" end

function M.attach(id) return setmetatable({ id = id }, Hold) end

--- What a queue was declared with, in the thread that made it.
---@return { slots: integer, per_key: integer, timeout: number }?
function M.queue(id) return queues[id] end

-- A queue is closed when nothing in this VM knows it any more. There are few: what is not known is looked for first.
local lives = {}

local function own(id)
   local life = {}
   lives[id] = life
   return ffi.gc(ffi.new("int[1]", id), function()
      if lives[id] ~= life then return end
      lives[id], queues[id] = nil, nil
      C.tw_hold_free(id)
   end)
end

local function open(slots, per_key, timeout)
   local id = C.tw_hold_new(slots, per_key, timeout)
   if id >= 0 then return id end
   collectgarbage()
   return C.tw_hold_new(slots, per_key, timeout)
end

--- A queue for `pkt:hold(queue, key)`: packets that wait, for example for address resolution.
---@param options? { slots?: integer, per_key?: integer, timeout?: number } timeout in seconds (default 3)
---@return tideway.hold_queue
function M.hold_queue(options)
   options = options or {}
   if model.dry then return M.attach(0) end
   local timeout = (options.timeout or 3) * 1e9
   local id = open(options.slots or 256, options.per_key or 0, timeout)
   if id < 0 then error("tw.hold_queue: " .. abi.error(), 2) end
   local queue = M.attach(id)
   queue.slots, queue.timeout = options.slots or 256, timeout
   queue.per_key = (options.per_key or 0) > 0 and options.per_key or queue.slots
   queue.owner = own(id)
   queues[id] = { slots = queue.slots, per_key = queue.per_key, timeout = timeout }
   return queue
end

--- From now on the object stands for another's queue, with what waits there.
---@param queue tideway.hold_queue
---@param other tideway.hold_queue with the same slots, per_key and timeout
function M.become(queue, other) queue.id, queue.owner = other.id, other.owner end

--- All queues are closed.
function M.forget() queues, lives = {}, {} end

--- Send the packets held under a key through the NF that held them again.
---@param key number
---@return integer released
function Hold:release(key)
   local here = M.control and M.control.release(self, key) or 0
   return here + C.tw_hold_release(self.id, key)
end

--- In punt() or tick(): a new zeroed frame that leaves by a port when the function returns.
---@param port tideway.port|integer a port or its index
---@param len integer bytes
---@param onward? boolean it goes on with the NF behind this one, with `out` set to the port
---@return tideway.pkt? nil when no packet buffer is free
function M.emit(port, len, onward)
   if type(port) == "table" then port = port.index end
   if M.control then return M.control.emit(port, len, onward) end
   local pkt = C.tw_emit(port, len)
   if pkt == nil then return nil end
   if onward then pkt.verdict, pkt.resume = C.TW_NEXT, require("tideway.packet").burst.stage + 1 end
   return pkt[0]
end

return M
