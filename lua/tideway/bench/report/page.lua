-- SPDX-License-Identifier: BSD-3-Clause
-- A result document as one HTML page that needs nothing beside it: tables, pictures, commands, raw values.

local document_lib = require "tideway.bench.report.document"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local html = require "tideway.bench.report.html"
local log = require "tideway.log"
local plot = require "tideway.bench.report.plot"
local section_lib = require "tideway.bench.report.section"
local summary = require "tideway.bench.report.summary"

local M = {}

local escape, element = html.escape, html.element

local function left(name) return { name = name, align = "left" } end
local function right(name) return { name = name, align = "right" } end

-- ---- values folded away ----

-- A table of all rounds: each item has a name and values.
local function rounds_table(first, items, unit)
   local last, t = 0, { columns = { left(first) }, rows = {} }
   for _, item in ipairs(items) do
      for round in pairs(item.values) do last = math.max(last, round) end
   end
   for round = 1, last do t.columns[round + 1] = right(("%d"):format(round)) end
   for n, item in ipairs(items) do
      local cells, decimals = { item.name }, format.decimals(item.values)
      for round = 1, last do
         cells[round + 1] = item.values[round] and format.number(item.values[round], decimals) or ""
      end
      t.rows[n] = { cells = cells }
   end
   return element("p", unit, "quiet") .. html.table(t)
end

local function raw_group(result)
   local items = {}
   for _, row in ipairs(result.rows) do
      if row.values then items[#items + 1] = { name = row.name, values = row.values } end
      if row.ratio and row.ratio.values and row.name ~= result.reference then
         items[#items + 1] = { name = row.name .. ", ratio", values = row.ratio.values }
      end
   end
   return items, "contender, round"
end

local function raw_curve(result)
   local items = {}
   for _, series in ipairs(result.series) do
      for _, point in ipairs(series.points or {}) do
         if point.values then
            items[#items + 1] = { name = ("%s, %s"):format(series.name, format.number(point.x)), values = point.values }
         end
      end
   end
   return items, ("contender, %s, round"):format(result.x.name or "x")
end

local function raw_latency(result)
   local parts = {}
   for _, s in ipairs(result.series) do
      local lines = {}
      for i, pair in ipairs(s.cdf or {}) do
         lines[i] = ("%s %.9g"):format(format.number(pair[1] or pair.value), pair[2] or pair.fraction or 0)
      end
      if #lines > 0 then
         parts[#parts + 1] = element("h3", s.name) .. "<pre>" .. table.concat(lines, "\n") .. "</pre>\n"
      end
   end
   if #parts == 0 then return "" end
   return html.folded("Distribution: latency, share of packets up to it", table.concat(parts))
end

local function raw_rounds(result)
   local items, first = (result.kind == "group" and raw_group or raw_curve)(result)
   if #items == 0 then return "" end
   return html.folded("Values of all rounds", rounds_table(first, items, result.unit or ""))
end

local RAW = { group = raw_rounds, curve = raw_rounds, latency = raw_latency }

local function raw_values(result)
   local trials = section_lib.trials(result)
   return (RAW[result.kind] and RAW[result.kind](result) or "")
      .. (trials and html.folded(("All %d trials"):format(#trials.rows), html.table(trials)) or "")
end

-- ---- one experiment ----

-- How each contender was set up, in its own words.
local function settings(result)
   local t = { columns = { left "contender", left "settings" }, rows = {} }
   for _, row in ipairs(result.kind == "group" and result.rows or result.series or {}) do
      if type(row.note) == "string" and row.note ~= "" then
         t.rows[#t.rows + 1] = { cells = { format.name(row.name), format.name(row.note) } }
      end
   end
   return #t.rows > 0 and html.table(t) or ""
end

local function figure(drawn)
   if not drawn then return "" end
   if drawn.missing then return html.list({ drawn.missing }, "notes") end
   local png = drawn.png_name and ('<figcaption><a href="%s">%s</a></figcaption>'):format(html.link(drawn.png_name),
      escape(drawn.png_name)) or ""
   return ('<figure><div class="scroll">%s</div>%s</figure>\n'):format(drawn.svg, png)
end

local function experiment(document, result, section, id, drawn)
   local out = { ('<section id="%s">\n'):format(id), element("h2", section.title), "\n" }
   local function add(s) out[#out + 1] = s end
   local about = section.title == section.name and section.about
      or section.name .. (section.about ~= "" and ": " .. section.about or "")
   if about ~= "" and about ~= section.title then add(element("p", about, "quiet") .. "\n") end
   for _, t in ipairs(section.tables) do
      if #t.rows > 0 then add(html.table(t)) end
   end
   add(html.list(section.notes, section.failed and "notes failed" or "notes"))
   add(figure(drawn))
   if not section.failed then add(settings(result)) end
   local command = summary.rerun(document, result)
   if command then add("<h3>Run it again</h3>\n" .. element("pre", command) .. "\n") end
   if not section.failed then add(raw_values(result)) end
   add "</section>\n"
   return table.concat(out)
end

-- ---- the page ----

local function state_of(section)
   local parts = {}
   if section.failed then parts[1] = "failed" end
   if #section.missed > 0 then parts[#parts + 1] = "goal MISSED" end
   if #section.unstable > 0 then parts[#parts + 1] = "unstable" end
   if #section.missing > 0 then parts[#parts + 1] = "not measured: " .. #section.missing end
   return #parts > 0 and " (" .. table.concat(parts, ", ") .. ")" or ""
end

local function contents(sections, ids)
   if #sections < 2 then return "" end
   local out = { "<nav>\n<ol>\n" }
   for i, section in ipairs(sections) do
      out[#out + 1] = ('<li><a href="#%s">%s</a>%s</li>\n'):format(ids[i], escape(section.title),
         escape(state_of(section)))
   end
   out[#out + 1] = "</ol>\n</nav>\n"
   return table.concat(out)
end

local function environment(document)
   local t = { columns = { left "what", left "value" }, rows = {} }
   for i, pair in ipairs(summary.environment(document)) do t.rows[i] = { cells = pair } end
   local command = document.command and element("pre", document.command) .. "\n" or ""
   if #t.rows == 0 and command == "" then return "" end
   return "<section id=\"environment\">\n<h2>What it ran on</h2>\n" .. command
      .. (#t.rows > 0 and html.table(t) or "") .. "</section>\n"
end

-- An id for each result, also where names differ in signs only.
local function ids_of(results)
   local ids, taken = {}, { environment = true }
   for i, result in ipairs(results) do
      local slug, n = plot.slug(result.name), 1
      local id = slug
      while taken[id] do
         n = n + 1
         id = slug .. "-" .. n
      end
      ids[i], taken[id] = id, true
   end
   return ids
end

--- The page as text.
---@param document table
---@param drawn? table<integer, { svg: string?, png_name: string?, missing: string? }> pictures by the result's position
---@return string
function M.html(document, drawn)
   assert(document_lib.basic(document))
   local sections, ids = {}, ids_of(document.results)
   for i, result in ipairs(document.results) do sections[i] = section_lib.of(result) end
   local title = "Benchmarks: " .. format.name(document.script or "?")
   local out = {
      '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n',
      '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n', element("title", title), "\n<style>\n",
      html.STYLE, "</style>\n</head>\n<body>\n<header>\n", element("h1", title), "\n",
      element("p", summary.headline(document):gsub("^bench .-: ", ""), "quiet"), "\n",
      html.list(summary.findings(document), "findings"), contents(sections, ids), "</header>\n<main>\n",
   }
   for i, result in ipairs(document.results) do
      out[#out + 1] = experiment(document, result, sections[i], ids[i], drawn and drawn[i])
   end
   out[#out + 1] = environment(document)
   out[#out + 1] = "</main>\n</body>\n</html>\n"
   return table.concat(out)
end

-- ---- files ----

local function write_file(path, bytes)
   local file, err = io.open(path, "wb")
   if not file then return nil, "cannot write " .. err end
   local ok, why = file:write(bytes)
   local closed, at_close = file:close()
   if ok and closed then return true end
   return nil, ("cannot write %s: %s"):format(path, tostring(why or at_close))
end

M.write_file = write_file

--- Draw all pictures of a document, PNG files beside `stem`: STEM-NAME.png.
---@param document table
---@param stem string path without extension
---@return table<integer, table>? drawn as M.html takes it
---@return string|string[] files_or_error the PNG files that were written
function M.pictures(document, stem)
   local drawn, files, ids = {}, {}, ids_of(document.results)
   local available, why = gnuplot.available()
   local absent = 0
   for i, result in ipairs(document.results) do
      local picture = plot.of(result)
      if picture then
         picture.id = ids[i]
         local made, err = nil, why
         if available then made, err = gnuplot.draw(picture, escape(picture.title)) end
         if made then
            local path = ("%s-%s.png"):format(stem, picture.id)
            local ok, bad = write_file(path, made.png)
            if not ok then return nil, bad end
            files[#files + 1] = path
            drawn[i] = { svg = made.svg, png_name = path:match "[^/]*$" }
         else
            absent = absent + 1
            drawn[i] = { missing = ("The picture of %s is missing: %s"):format(format.name(result.name), err) }
            if available then log.warning("%s", err) end
         end
      end
   end
   if absent > 0 and not available then log.warning("%d pictures are missing: %s", absent, why) end
   return drawn, files
end

--- Write the page, and PNG files of its pictures beside it: FILE-NAME.png for FILE.html.
---@param document table
---@param path string FILE.html
---@return true? ok
---@return string|string[] error_or_files
function M.write(document, path)
   local ok, err = document_lib.basic(document)
   if not ok then return nil, err end
   local drawn, files = M.pictures(document, (path:gsub("%.html?$", "")))
   if not drawn then return nil, files end
   ok, err = write_file(path, M.html(document, drawn))
   if not ok then return nil, err end
   table.insert(files, 1, path)
   return true, files
end

return M
