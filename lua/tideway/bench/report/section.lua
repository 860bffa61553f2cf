-- SPDX-License-Identifier: BSD-3-Clause
-- Each result as a heading, tables of ready cells and notes; text and page show the same ones.

local document_lib = require "tideway.bench.report.document"
local format = require "tideway.bench.report.format"

local M = {}

---@class tideway.bench.section
---@field name string
---@field kind string
---@field title string
---@field about string unit, rounds and the like, one sentence
---@field tables tideway.bench.section.table[]
---@field notes string[] what the tables leave open: reasons, goals
---@field unstable string[] names of what has a verdict instead of a number
---@field missing string[] what was not measured
---@field missed string[] goals that were missed
---@field failed? string why there is nothing

---@class tideway.bench.section.table
---@field columns { name: string, align: "left"|"right", keep: boolean? }[] the first names the row; keep: as it is
---@field rows { cells: string[], span?: string, state?: "unstable"|"missing"|"missed"|"met" }[]
--- span: text from the second column to the last

local KINDS = {
   group = "group", curve = "curve", latency = "latency", search = "plain", table = "plain",
}

--- A result as a section.
---@param result table a checked result of a document
---@return tideway.bench.section
function M.of(result)
   local section = {
      name = format.name(result.name), kind = result.kind, title = format.name(result.title or result.name), about = "",
      tables = {}, notes = {}, unstable = {}, missing = {}, missed = {}, failed = document_lib.failure(result),
   }
   if section.failed then
      section.notes[1] = (result.interrupted and "" or "failed: ") .. format.name(section.failed)
      return section
   end
   require("tideway.bench.report.section." .. KINDS[result.kind]).fill(section, result)
   if result.interrupted then table.insert(section.notes, 1, "interrupted: less was measured than asked for") end
   return section
end

--- The trials of a search as a table; nil without any.
---@param result table
---@return tideway.bench.section.table?
function M.trials(result) return require("tideway.bench.report.section.plain").trials(result) end

return M
