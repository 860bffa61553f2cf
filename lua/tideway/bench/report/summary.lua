-- SPDX-License-Identifier: BSD-3-Clause
-- What is said of a document as a whole: what ran, on which machine, how to run it again, what needs a look.

local child = require "tideway.bench.child"
local format = require "tideway.bench.report.format"
local section_lib = require "tideway.bench.report.section"

local M = {}

local function plural(n, one, many) return ("%d %s"):format(n, n == 1 and one or many or one .. "s") end

--- "bench x.lua: 3 experiments in 20 s, 2026-11-22T06:22:41Z, tideway 0.5".
---@param document table
---@return string
function M.headline(document)
   local parts = { plural(#document.results, "experiment") }
   if format.is_finite(document.seconds) then parts[1] = parts[1] .. " in " .. format.seconds(document.seconds) end
   if document.started then parts[#parts + 1] = format.name(document.started) end
   if document.tideway then parts[#parts + 1] = "tideway " .. format.name(document.tideway) end
   return ("bench %s: %s"):format(format.name(document.script or "?"), table.concat(parts, ", "))
end

local function value_text(value)
   if type(value) == "boolean" then return value and "yes" or "no" end
   if type(value) == "number" then return format.number(value) end
   if type(value) ~= "table" then return format.name(value) end
   local parts = {}
   for key, item in pairs(value) do
      local name = type(key) == "number" and "" or format.name(key) .. " "
      parts[#parts + 1] = name .. (type(item) == "table" and "..." or format.name(item))
   end
   table.sort(parts)
   return table.concat(parts, ", ")
end

-- The order in which the environment is read; what is not named follows by name.
local ORDER = {
   "cpu", "cpus", "mhz", "governor", "virtual", "memory", "hugepages", "kernel", "distribution", "dpdk", "luajit",
   "compiler", "flags", "commit", "load_before", "load_after", "steal",
}

--- The environment as names and values in a fixed order.
---@param document table
---@return { [1]: string, [2]: string }[]
function M.environment(document)
   local environment, list, rest, known = document.environment or {}, {}, {}, {}
   local function add(name)
      if environment[name] ~= nil and environment[name] ~= "" then
         list[#list + 1] = { (format.name(name):gsub("_", " ")), value_text(environment[name]) }
      end
   end
   for _, name in ipairs(ORDER) do
      known[name] = true
      add(name)
   end
   for name in pairs(environment) do
      if not known[name] then rest[#rest + 1] = name end
   end
   table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
   for _, name in ipairs(rest) do add(name) end
   return list
end

--- The machine in a sentence; "" when nothing is known of it.
---@param document table
---@return string
function M.machine(document)
   local e, parts = document.environment or {}, {}
   local function add(pattern, value)
      if value == nil or value == "" or type(value) == "table" then return end
      parts[#parts + 1] = pattern:format(value_text(value))
   end
   add("%s", e.cpu)
   add("%s CPUs", e.cpus)
   add("virtual: %s", e.virtual)
   add("Linux %s", e.kernel)
   add("DPDK %s", e.dpdk)
   add("%s", type(e.luajit) == "string" and (e.luajit:find "^LuaJIT" and e.luajit or "LuaJIT " .. e.luajit) or nil)
   add("commit %s", e.commit)
   return table.concat(parts, ", ")
end

--- The command that runs one experiment again.
---@param document table
---@param result table
---@return string? command nil: the document does not say how it was made
function M.rerun(document, result)
   if result.command then return format.name(result.command) end
   if not document.command and not document.script then return nil end
   local command = document.command and format.name(document.command)
      or "tideway bench " .. child.quote(format.name(document.script))
   for _, option in ipairs { "only", "json", "csv", "html" } do
      command = command:gsub(" %-%-" .. option .. "[ =]'[^']*'", ""):gsub(" %-%-" .. option .. "[ =]%S+", "")
   end
   local only = " --only " .. child.quote(format.name(result.name))
   local head, rest = command:match "^(.-%sbench)(%s.*)$"
   if head then return head .. only .. rest end
   return command .. only
end

local function some(names)
   local most = 6
   if #names <= most then return table.concat(names, ", ") end
   return table.concat(names, ", ", 1, most) .. (" and %d more"):format(#names - most)
end

--- What needs a look, a line each: failed, interrupted, missed, unstable, not measured; or that all is well.
---@param document table
---@return string[]
function M.findings(document)
   local lines, names = {}, { failed = {}, missed = {}, unstable = {}, missing = {} }
   for _, result in ipairs(document.results) do
      local section = section_lib.of(result)
      if section.failed then table.insert(names.failed, section.name) end
      for _, state in ipairs { "missed", "unstable", "missing" } do
         for _, name in ipairs(section[state]) do
            table.insert(names[state], name == section.name and name or section.name .. "/" .. name)
         end
      end
   end
   local function add(list, one, many)
      if #list > 0 then lines[#lines + 1] = ("%s: %s"):format(plural(#list, one, many), some(list)) end
   end
   if document.interrupted then
      local why = type(document.interrupted) == "string" and ": " .. format.name(document.interrupted) or ""
      lines[1] = "interrupted" .. why .. "; what was measured until then is here"
   end
   add(names.failed, "experiment failed", "experiments failed")
   add(names.missed, "goal missed", "goals missed")
   add(names.unstable, "verdict \"unstable\"", "verdicts \"unstable\"")
   add(names.missing, "not measured", "not measured")
   if #document.results == 0 then lines[#lines + 1] = "no experiment was run" end
   if #lines == 0 then lines[1] = "everything was measured, all of it stable" end
   return lines
end

return M
