-- SPDX-License-Identifier: BSD-3-Clause
-- The REPL at a terminal: lines, chunks of several lines, completion, the engine's messages between them.

local editline = require "tideway.posix.editline"
local evaluate = require "tideway.repl.evaluate"
local history_lib = require "tideway.repl.history"
local output = require "tideway.repl.output"

local M = {}

---@class tideway.repl
---@field client tideway.control.client
---@field line tideway.editline
---@field chunk string lines of a chunk that is not complete
---@field feed integer? the request that brings the engine's messages
local Repl = {}
Repl.__index = Repl

-- ---- the engine's messages ----

-- Those that have come, but the log of who did what; what a stopped evaluation still sends is nobody's.
local function messages(self)
   self.client:receive()
   local list = {}
   for _, event in ipairs(self.client.events) do
      local text = event.id == self.feed and event.kind == "note" and event.data and event.data.text
      if text and not text:find "^control: " then list[#list + 1] = text end
   end
   self.client.events = {}
   return list
end

-- While a line is typed.
local function on_socket(self)
   for _, message in ipairs(messages(self)) do self.line:above("tideway: " .. message) end
   return self.client.fd == nil
end

-- ---- completion ----

local function complete(self, typed)
   local text = self.chunk .. typed
   local found = self.client:complete(text)
   local rest, all = {}, found.list or {}
   for i, word in ipairs(all) do rest[i] = word:sub(#text - found.from + 2) end
   return rest, all
end

-- ---- lines ----

local function prompt_of(self)
   local name = self.client.hello.instance
   if self.chunk == "" then return name .. "> " end
   return ("."):rep(#name) .. "> "
end

-- Returns a chunk, or nil and why there is none.
local function read_chunk(self)
   self.chunk = ""
   while true do
      local typed, why = self.line:read(prompt_of(self))
      if not typed then return nil, why end
      local chunk = self.chunk .. typed
      if not evaluate.incomplete(chunk) then
         self.chunk = ""
         return chunk
      end
      self.chunk = chunk .. "\n"
   end
end

local LEAVE = { exit = true, quit = true, ["exit()"] = true, ["quit()"] = true }

local function remember(self, chunk)
   for _, entry in ipairs(history_lib.of_chunk(chunk)) do
      self.line:remember(entry)
      self.history:add(entry)
   end
end

-- One prompt; false: the session is over.
local function turn(self, options)
   local chunk, why = read_chunk(self)
   if why == "interrupted" then
      io.stdout:write "^C\n"
      return true
   elseif not chunk then
      io.stdout:write "\n"
      return false
   end
   local word = chunk:match "^%s*(.-)%s*$"
   if word == "" then return true end
   remember(self, chunk)
   if LEAVE[word] then return false end
   evaluate.run(self.client, chunk, options)
   for _, message in ipairs(messages(self)) do output.complain(message) end
   return true
end

local function greet(hello)
   local lines = {
      ("tideway %s, instance %s (pid %d, %s)"):format(hello.version, hello.instance, hello.pid, hello.script),
   }
   if hello.role == "admin" then
      lines[2] = "help() lists the commands, Tab completes, Ctrl-C stops an evaluation, Ctrl-D leaves."
   else
      lines[2] = ("You have the role %s: call commands with literal arguments, such as drops \"up\"; help() lists "
         .. "them."):format(hello.role)
   end
   io.stdout:write(table.concat(lines, "\n"), "\n")
end

--- Read, evaluate, print until the user leaves.
---@param client tideway.control.client
---@param options { json: boolean?, timeout: number?, here: boolean? } here: at the engine's own terminal
---@return integer exit code
function M.run(client, options)
   local self = setmetatable({ client = client, chunk = "", history = history_lib.open() }, Repl)
   local line, err = editline.new {
      complete = function(text) return complete(self, text) end, columns = output.columns,
   }
   if not line then
      output.complain(err)
      return 1
   end
   self.line = line
   for _, entry in ipairs(self.history:entries()) do line:remember(entry) end
   greet(client.hello)
   self.feed = client:send { op = "call", name = "events", args = { options.here or false } }
   line:watch(client.fd, function() return on_socket(self) end)
   local settings = { name = "repl", json = options.json, timeout = options.timeout, paged = not options.json }
   while client.fd and turn(self, settings) do end
   line:close()
   local gone = client.closed
   client:close()
   if not gone or options.here then return 0 end -- the engine reports for itself
   output.complain(gone)
   return 1
end

return M
