-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway repl`: Lua in a running engine, from a terminal, from -e or from standard input.

local control = require "tideway.control.client"
local evaluate = require "tideway.repl.evaluate"
local output = require "tideway.repl.output"
local posix = require "tideway.posix"

local M = {}

-- Pieces in order, up to one that fails.
local function pieces(client, list, options)
   for i, code in ipairs(list) do
      local ok = evaluate.run(client, code, {
         name = options.name and options.name or #list == 1 and "-e" or ("-e %d"):format(i),
         json = options.json, timeout = options.timeout,
      })
      if not ok then return 1 end
   end
   return 0
end

local ENOENT, ECONNREFUSED, STARTING = 2, 111, 5e9

-- An instance that has just been started listens in a moment.
local function open(name)
   local due = posix.now() + STARTING
   while true do
      local client, err, errno = control.open(name)
      if client or (errno ~= ENOENT and errno ~= ECONNREFUSED) or posix.now() > due then return client, err end
      posix.poll({}, 50)
   end
end

--- Run a REPL.
---@param options { instance: string?, code: string[]?, json: boolean?, timeout: number?, here: boolean? }
---@return integer exit code
function M.run(options)
   local client, err = open(options.instance)
   if not client then
      output.complain(err)
      return 1
   end
   if options.code and #options.code > 0 then return pieces(client, options.code, options) end
   if posix.isatty(0) and posix.isatty(1) then return require("tideway.repl.prompt").run(client, options) end
   options.name = "stdin"
   -- A first line that names an interpreter is none of Lua; its end stays, for the numbers of lines.
   return pieces(client, { (io.read "*a":gsub("^#[^\n]*", "")) }, options)
end

return M
