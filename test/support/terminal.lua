-- SPDX-License-Identifier: BSD-3-Clause
-- A real terminal (tmux) for specs: keys go in, the screen is read.
--
--    local t = require("test.support.terminal").open { cols = 100, rows = 30, env = { TIDEWAY_RUN_DIR = dir } }
--    t:type("tideway repl\n")            -- as typed; t:press("C-c", "Tab")
--    t:wait "edge> "                     -- until the screen has it
--    t:close()

local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local M = {}

---@class test.terminal
local Terminal = {}
Terminal.__index = Terminal

local made = 0

local function tmux(self, ...)
   local words = {}
   for i, word in ipairs { ... } do words[i] = shell.quote(tostring(word)) end
   local r = shell.run(("tmux -L %s -f /dev/null %s"):format(self.name, table.concat(words, " ")))
   return r
end

--- Open a terminal with a shell in it.
---@param options { cols: integer?, rows: integer?, env: table<string, string>?, directory: string?, prefix: string? }
--- prefix: a command that the shell is started by
---@return test.terminal
function M.open(options)
   made = made + 1
   local self = setmetatable({ name = ("spec-%d-%d"):format(posix.getpid(), made) }, Terminal)
   local words = { "env", "PS1=$ ", "HISTFILE=", "TERM=screen", "LC_ALL=C.UTF-8" }
   for name, value in pairs(options.env or {}) do words[#words + 1] = name .. "=" .. value end
   words[#words + 1] = options.prefix
   local command = {}
   for i, word in ipairs(words) do command[i] = word == options.prefix and word or shell.quote(word) end
   local r = tmux(self, "new-session", "-d", "-x", options.cols or 100, "-y", options.rows or 30, "-c",
      options.directory or ".", table.concat(command, " ") .. " bash --norc --noprofile")
   assert(r.code == 0, r.err)
   self:wait "$"
   return self
end

--- Type a text; "\n" is the Return key.
---@param text string
function Terminal:type(text)
   for line, rest in text:gmatch "([^\n]*)(\n?)" do
      if line ~= "" then tmux(self, "send-keys", "-l", "--", line) end
      if rest ~= "" then tmux(self, "send-keys", "Enter") end
   end
end

--- Press keys by tmux's names: "C-c", "Tab", "Up".
---@param ... string
function Terminal:press(...) tmux(self, "send-keys", ...) end

--- What is on the screen; with history: and above it.
---@param history? boolean
---@return string
function Terminal:screen(history)
   local r = history and tmux(self, "capture-pane", "-p", "-J", "-S", "-2000") or tmux(self, "capture-pane", "-p")
   return (r.out:gsub("%s+$", ""))
end

--- Wait until a text is on the screen.
---@param text string
---@param seconds? number default 60
---@return string screen
function Terminal:wait(text, seconds)
   local screen
   local found = labs.eventually(seconds or 60, function()
      screen = self:screen()
      return screen:find(text, 1, true)
   end)
   if not found then error(("%q did not appear on:\n%s"):format(text, screen), 2) end
   return screen
end

--- Wait until the screen's last line is a text, say a prompt.
---@param text string
---@param seconds? number default 60
---@return string screen
function Terminal:wait_last(text, seconds)
   local screen
   local found = labs.eventually(seconds or 60, function()
      screen = self:screen()
      return screen:match "([^\n]*)$" == text:gsub("%s+$", "")
   end)
   if not found then error(("%q did not become the last line of:\n%s"):format(text, screen), 2) end
   return screen
end

--- Clear the screen and what is above it.
function Terminal:clear()
   tmux(self, "send-keys", "-R")
   tmux(self, "clear-history")
end

--- Forget what has scrolled away.
function Terminal:clear_scrollback() tmux(self, "clear-history") end

--- End everything in it.
function Terminal:close() tmux(self, "kill-server") end

return M
