-- SPDX-License-Identifier: BSD-3-Clause
-- Who changed what, when, with what result: the last changes in memory, every one in the engine's log.

local loop = require "tideway.loop"

local M = {}

local KEPT, TEXT = 1000, 200

local entries, first, last = {}, 1, 0

local function short(text)
   text = tostring(text):gsub("%s+", " "):gsub("[%c\127]", "?")
   return #text > TEXT and text:sub(1, TEXT) .. "..." or text
end

---@class tideway.control.change
---@field time integer seconds since 1970
---@field who string user
---@field uid integer
---@field pid integer
---@field what string
---@field result string "ok" or the error

--- Note a change, or one that was refused.
---@param client { user: string, uid: integer, pid: integer }
---@param what string
---@param result string "ok" or why it was not done
function M.add(client, what, result)
   last = last + 1
   local entry = {
      time = os.time(), who = client.user, uid = client.uid, pid = client.pid, what = short(what),
      result = short(result),
   }
   entries[last] = entry
   while last - first >= KEPT do
      entries[first], first = nil, first + 1
   end
   loop.note(("<6>control: %s (uid %d, pid %d): %s: %s"):format(entry.who, entry.uid, entry.pid, entry.what,
      entry.result))
end

--- The last changes, oldest first.
---@param count? integer default 20
---@return tideway.control.change[]
function M.list(count)
   local list = {}
   for i = math.max(first, last - (count or 20) + 1), last do list[#list + 1] = entries[i] end
   return list
end

--- The command `log`: who changed what.
---@param count? integer how many of the last changes; default 20
---@return tideway.view
function M.log(count)
   if count ~= nil and (type(count) ~= "number" or count < 1) then
      error("log: how many of the last changes? a number above 0, not " .. tostring(count), 0)
   end
   local rows, list = {}, M.list(count)
   for i, e in ipairs(list) do
      rows[i] = { os.date("%Y-%m-%d %H:%M:%S", e.time), e.who, e.pid, e.what, e.result }
   end
   return require("tideway.live.view").table({ "time", "who", "pid", "what", "result" }, rows, list)
end

return M
