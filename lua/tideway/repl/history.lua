-- SPDX-License-Identifier: BSD-3-Clause
-- The lines that were typed, kept from session to session in a file that only their user may read.

local lfs = require "lfs"
local process = require "tideway.posix.process"

local M = {}

local MOST = 1000

-- $XDG_STATE_HOME/tideway/history or ~/.local/state/tideway/history where there is such a folder, else
-- ~/.tideway_history.
local function path()
   local home = os.getenv "HOME"
   local state = os.getenv "XDG_STATE_HOME" or home and home .. "/.local/state"
   if state and lfs.attributes(state, "mode") == "directory" then
      lfs.mkdir(state .. "/tideway")
      return state .. "/tideway/history"
   end
   return home and home .. "/.tideway_history"
end

---@class tideway.repl.history
---@field file string?
---@field last string?
local History = {}
History.__index = History

--- The history of this user.
---@return tideway.repl.history
function M.open()
   local file = path()
   return setmetatable({ file = file and process.private_file(file) and file or nil }, History)
end

--- The entries so far, the oldest first; a file that has grown is shortened.
---@return string[]
function History:entries()
   local list = {}
   local f = self.file and io.open(self.file)
   if not f then return list end
   for line in f:lines() do list[#list + 1] = line end
   f:close()
   if #list > 2 * MOST then
      list = { unpack(list, #list - MOST + 1) }
      f = io.open(self.file, "w")
      if f then
         f:write(table.concat(list, "\n"), "\n")
         f:close()
      end
   end
   self.last = list[#list]
   return list
end

--- A chunk of several lines as entries: one, unless joining its lines would change what it means.
---@param chunk string
---@return string[]
function M.of_chunk(chunk)
   if not chunk:find "\n" then return { chunk } end
   if not chunk:find "%-%-" and not chunk:find "%[=*%[" and not chunk:find "\\\n" then
      return { (chunk:gsub("%s*\n%s*", " ")) }
   end
   local list = {}
   for line in chunk:gmatch "[^\n]+" do list[#list + 1] = line end
   return list
end

--- Keep what was typed.
---@param entry string
function History:add(entry)
   if entry == self.last or entry:find "^%s*$" then return end
   self.last = entry
   local f = self.file and io.open(self.file, "a")
   if not f then return end
   f:write(entry, "\n")
   f:close()
end

return M
