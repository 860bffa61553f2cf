-- SPDX-License-Identifier: BSD-3-Clause
-- The document that a benchmark run ends with: begun, checked, written as JSON, handed to the reports.

local json = require "tideway.json"
local log = require "tideway.log"
local posix = require "tideway.posix"

local M = {}

local function time_text(seconds) return os.date("!%Y-%m-%dT%H:%M:%SZ", seconds) end

--- Does a report go to standard output, so that nothing else may?
---@param opts table the command's options
---@return boolean
function M.uses_stdout(opts) return opts.json == "-" or opts.csv == "-" end

--- A document without results.
---@param script string
---@param opts table the command's options
---@param environment table
---@return table
function M.new(script, opts, environment)
   return {
      tideway = require "tideway.version", script = script, command = opts.command, started = time_text(os.time()),
      environment = environment, results = {},
   }
end

--- Read a document.
---@param path string
---@return table? document
---@return string? error
function M.read(path)
   local text = posix.slurp(path)
   if not text then return nil, ("cannot read %s"):format(path) end
   local document, err = json.decode(text)
   if document == nil then return nil, ("%s is no JSON: %s"):format(path, tostring(err)) end
   local ok, why = require("tideway.bench.report.document").check(document)
   if not ok then return nil, ("%s: %s"):format(path, why) end
   return document
end

-- Numbers that JSON has no word for, and what is none of data, are left out.
local function plain(value)
   if type(value) == "number" and (value ~= value or value == math.huge or value == -math.huge) then return nil end
   if type(value) ~= "table" then
      local known = type(value) == "number" or type(value) == "string" or type(value) == "boolean"
      if known then return value end
      return nil
   end
   local copy = {}
   for k, v in pairs(value) do copy[k] = plain(v) end
   return copy
end

--- Write a text to a file, "-" is standard output.
---@param path string
---@param text string
---@return boolean? ok
---@return string? error
function M.write(path, text)
   if path == "-" then
      io.stdout:write(text)
      return true
   end
   local file, err = io.open(path, "w")
   if not file then return nil, ("cannot write %s"):format(err) end
   local ok, why = file:write(text)
   file:close()
   if not ok then return nil, ("cannot write %s: %s"):format(path, why) end
   return true
end

--- The goals that were missed, a line each.
---@param document table
---@return string[]
function M.missed(document)
   local list = {}
   for _, entry in ipairs(document.results) do
      if entry.verdict == "not met" then list[#list + 1] = ("%s: goal not met"):format(entry.name) end
      for _, row in ipairs(entry.rows or {}) do
         if row.goal and not row.met then
            list[#list + 1] = ("%s: %s: goal %s %s"):format(entry.name, row.name, tostring(row.goal),
               row.missing and "not measured: " .. row.missing or row.undecided and "undecided: " .. row.undecided
               or "missed")
         end
      end
   end
   return list
end

local function print_tables(document)
   local _, columns = posix.terminal_size(1)
   local lines = require("tideway.bench.report.table").lines(document, posix.isatty(1) and columns or nil)
   io.write(table.concat(lines, "\n"), "\n")
end

-- What the options ask for; true when all of it was written.
local function write_reports(document, opts)
   local good = true
   local function try(path, write)
      if not path then return end
      local caught, ok, err = pcall(write, path)
      if caught and ok then return end
      log.error("%s", tostring(caught and err or ok))
      good = false
   end
   try(opts.json, function(path) return M.write(path, json.encode(plain(document)) .. "\n") end)
   try(opts.csv, function(path) return M.write(path, require("tideway.bench.report.csv").text(document)) end)
   try(opts.html, function(path) return require("tideway.bench.report.page").write(document, path) end)
   return good
end

--- The run is over: reports are written, goals looked at.
---@param document table
---@param opts table the command's options
---@return integer exit code
function M.finish(document, opts)
   local code = write_reports(document, opts) and 0 or 1
   if not M.uses_stdout(opts) then print_tables(document) end
   for _, entry in ipairs(document.results) do
      if entry.error then code = 1 end
   end
   if document.interrupted then
      log.error "interrupted: the results are partial"
      code = 1
   end
   if opts.check then
      for _, line in ipairs(M.missed(document)) do
         log.error("%s", line)
         code = 1
      end
   end
   return code
end

return M
