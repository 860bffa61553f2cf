-- SPDX-License-Identifier: BSD-3-Clause
-- Results as pictures for gnuplot: comparison bars, scale curves, latency distributions, trials of a search.

local document_lib = require "tideway.bench.report.document"
local format = require "tideway.bench.report.format"

local M = {}

local KINDS = { group = "bars", curve = "curve", latency = "latency", search = "trials" }

--- A name as it can be in the name of a file and in an id.
---@param name string
---@return string
function M.slug(name)
   local s = format.name(name):lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", "")
   return s ~= "" and s or "x"
end

--- The picture of a result.
---@param result table
---@return tideway.bench.picture? picture nil: there is nothing to draw
function M.of(result)
   local kind = result.intervals and result.kind == "search" and "soak" or KINDS[result.kind]
   if not kind or document_lib.failure(result) then return nil end
   local picture = require("tideway.bench.report.plot." .. kind).picture(result)
   if not picture then return nil end
   picture.id, picture.title = M.slug(result.name), format.name(result.title or result.name)
   return picture
end

return M
