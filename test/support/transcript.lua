-- SPDX-License-Identifier: BSD-3-Clause
-- Sessions printed in a README: their commands as they are typed, and what they are said to show.
--
-- In a console block a line that begins with "$ " is for a shell, "NAME> " for the REPL; "..> " goes on with the line
-- before; what follows is output, of which numbers, units and the number of blanks may differ.

local posix = require "tideway.posix"

local M = {}

---@class test.transcript.step
---@field prompt string "$" or "hop>"
---@field lines string[] as typed
---@field output string[]

--- The steps of a section's console blocks.
---@param path string
---@param heading string
---@return test.transcript.step[]
function M.read(path, heading)
   local text = assert(posix.slurp(path))
   local from = assert(text:find("\n## " .. heading .. "\n", 1, true), heading .. " is not in " .. path)
   local section = text:sub(from + 1, (text:find("\n## ", from + 4, true) or 0) - 1)
   local steps, step = {}, nil
   for block in section:gmatch "```console\n(.-)```" do
      for line in block:gmatch "([^\n]*)\n" do
         local prompt, typed = line:match "^(%$) (.*)$"
         if not prompt then prompt, typed = line:match "^(%w+>) (.*)$" end
         local more = line:match "^%.+> (.*)$"
         if prompt then
            step = { prompt = prompt, lines = { typed }, output = {} }
            steps[#steps + 1] = step
         elseif more then
            table.insert(step.lines, more)
         else
            table.insert(step.output, line)
         end
      end
   end
   return steps
end

--- A line of output without what differs from run to run.
---@param line string
---@return string
function M.shape(line)
   line = line:gsub("0x%x+", "0x#"):gsub("%d[%d,]*%.?%d*", "#"):gsub("%-+", "-"):gsub("# [kMG]?(pps)", "# %1")
   line = line:gsub("# [kMG]%f[%W]", "#"):gsub("luajit", "native"):gsub("%s+", " ")
   return (line:gsub("^ ", ""):gsub(" $", ""))
end

--- Those of the lines that should be there and are not, in their shapes.
---@param wanted string[]
---@param screen string
---@return string[]
function M.missing(wanted, screen)
   local there, list = {}, {}
   for line in (screen .. "\n"):gmatch "([^\n]*)\n" do there[M.shape(line)] = true end
   for _, line in ipairs(wanted) do
      if not there[M.shape(line)] then list[#list + 1] = line end
   end
   return list
end

return M
