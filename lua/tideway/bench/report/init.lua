-- SPDX-License-Identifier: BSD-3-Clause
-- A result document as text, CSV, pictures and a page; also later, from its JSON.

local document_lib = require "tideway.bench.report.document"
local log = require "tideway.log"
local posix = require "tideway.posix"

local M = {}

--- Write what is asked for.
---@param document table
---@param files { html: string?, csv: string?, png: string? } paths; png: the beginning of the names of PNG files
---@return string[]? written paths
---@return string? error
function M.write(document, files)
   local ok, err = document_lib.basic(document)
   if not ok then return nil, err end
   local page, written = require "tideway.bench.report.page", {}
   if files.csv then
      ok, err = page.write_file(files.csv, require("tideway.bench.report.csv").text(document))
      if not ok then return nil, err end
      written[1] = files.csv
   end
   for key, draw in pairs { html = page.write, png = page.pictures } do
      if files[key] then
         local done, list = draw(document, files[key])
         if not done then return nil, list end
         for _, path in ipairs(list) do written[#written + 1] = path end
      end
   end
   return written
end

-- ---- tideway bench report ----

local USAGE = "tideway bench report RESULT.json [--html FILE] [--csv FILE] [--png BEGINNING]"
local OPTIONS = { html = true, csv = true, png = true }

-- Options may stand before and behind the word report.
local function parse(args, files)
   local path, i = nil, 1
   while args[i] do
      local name, value = args[i]:match "^%-%-(%w+)=?(.*)$"
      if name and OPTIONS[name] then
         if value == "" then i, value = i + 1, args[i + 1] end
         if not value then return nil, ("--%s needs the name of a file"):format(name) end
         files[name] = value
      elseif path or args[i]:sub(1, 1) == "-" then
         return nil, ("cannot use '%s'"):format(args[i])
      else
         path = args[i]
      end
      i = i + 1
   end
   return path, "the result is missing"
end

--- The command: reads what `tideway bench --json` wrote; prints its tables when no file is asked for.
---@param args string[] behind the word report
---@param options { html: string?, csv: string? } given before it
---@return integer exit code: 0 done, 1 a file could not be written, 2 wrong use
function M.main(args, options)
   local files = { html = options.html, csv = options.csv }
   local path, err = parse(args, files)
   if not path then
      log.error("%s; %s", err, USAGE)
      return 2
   end
   local document, unreadable = require("tideway.bench.result").read(path)
   local ok, wrong = document ~= nil, unreadable
   if document then ok, wrong = document_lib.check(document) end
   if not ok then
      log.error("%s", document and path .. ": " .. wrong or wrong)
      return 2
   end
   if not next(files) then
      local _, columns = posix.terminal_size(1)
      local lines = require("tideway.bench.report.table").lines(document, posix.isatty(1) and columns or nil)
      print(table.concat(lines, "\n"))
      return 0
   end
   local written
   written, err = M.write(document, files)
   if not written then
      log.error("%s", err)
      return 1
   end
   for _, file in ipairs(written) do print(file) end
   return 0
end

return M
