-- SPDX-License-Identifier: BSD-3-Clause
-- The commands about changes, as sessions have them: reload, set, undo, dry, changes, edit, commit, abandon.

local change = require "tideway.change"
local diff = require "tideway.change.diff"
local history = require "tideway.change.history"
local reload = require "tideway.change.reload"
local session = require "tideway.live.session"
local view = require "tideway.live.view"

local M = {}

-- In a change of several things it is that which reports.
local function said(report)
   if report then return report end
end

--- Run the script again, or read the file of one NF again. Only what is different changes, nothing is lost; when
--- something is wrong all stays as it is: `reload()`, `reload "ttl"`, `reload "up.ttl"`.
---@param what? string an NF, by its name or by chain and name
---@return string? report
function M.reload(what) return said(reload.reload(what)) end

--- Give an NF other parameters; those that are not named stay: `set("up.ttl", { least = 9 })`.
---@param what string the NF, by its name or by chain and name
---@param parameters table<string, any>
---@return string? report
function M.set(what, parameters) return said(reload.set(what, parameters)) end

--- Take back the last change, or the last so many.
---@param levels? integer default 1
---@return string? report
function M.undo(levels) return said(reload.undo(levels)) end

local function chunk_of(code)
   local chunk, err = loadstring(code, session.CHUNK)
   if not chunk then error(err, 0) end
   local running = session.current()
   local env = running and running.client and running.client.env
   return env and setfenv(chunk, env) or chunk
end

--- What a change would do, without doing it: `dry(reload)`, `dry(function() up:remove "ttl" end)`, `dry "up:delete()"`;
--- behind edit() without an argument: what commit() would do.
---@param what? function|string
---@param ... any arguments of the function
---@return tideway.view
function M.dry(what, ...)
   if type(what) == "string" then what = chunk_of(what) end
   if what == nil and not change.draft() then error("dry: what? A function, or code as a text", 0) end
   if what ~= nil and type(what) ~= "function" then
      error(("dry: expected a function or code as a text, not %s"):format(tostring(what)), 0)
   end
   local lines = diff.lines(change.plan(what or function() end, ...))
   return view.text(#lines > 0 and table.concat(lines, "\n") or "nothing would change", lines)
end

--- The changes so far: who, when, what, and what became of it. Whoever looks knows what the others did.
---@param count? integer how many of the last ones, default 20
---@return tideway.view
function M.changes(count)
   local entries, rows, data = history.entries(), {}, {}
   for i = math.max(1, #entries - (count or 20) + 1), #entries do
      local e = entries[i]
      rows[#rows + 1] = { e.generation, os.date("%H:%M:%S", e.at), e.who, e.what, e.why and "rolled back: " .. e.why
         or e.state, e.report }
      data[#data + 1] = e
   end
   history.tell((change.operator()))
   return view.table({ { name = "generation", plain = true }, "when", "who", "what", "state", "result" }, rows, data)
end

--- Begin a change of several lines: nothing is done until commit(). What you look at is the engine as it would be.
---@return string
function M.edit()
   change.edit()
   return "what you declare from now on is done by commit(), and forgotten by abandon(); dry() shows it"
end

--- Do what was declared since edit().
function M.commit() change.commit() end

--- Forget what was declared since edit().
function M.abandon()
   if not change.abandon() then error("there is nothing to forget: begin with edit()", 0) end
end

return M
