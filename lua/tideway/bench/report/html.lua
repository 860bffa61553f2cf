-- SPDX-License-Identifier: BSD-3-Clause
-- Pieces of the page: escaped texts, tables, folded parts, the style sheet.

local format = require "tideway.bench.report.format"

local M = {}

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- A text as it can stand anywhere in HTML and XML, also in an attribute.
---@param value any
---@return string
function M.escape(value) return (format.name(value):gsub("[&<>\"']", ENTITIES)) end

local escape = M.escape

--- The name of a file beside the page as a link to it.
---@param name string
---@return string
function M.link(name)
   return (name:gsub("[^%w%-%._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- An element with a text.
---@param tag string
---@param text any
---@param class? string
---@return string
function M.element(tag, text, class)
   return ("<%s%s>%s</%s>"):format(tag, class and (' class="%s"'):format(class) or "", escape(text), tag)
end

local WORDS = { "not measured", "not decided", "unstable", "MISSED", "missed", "failed", "interrupted" }

-- The first of the words that are to be seen as a mark; the rest as it is.
local function marked(cell)
   local s, first, last = escape(cell), math.huge, 0
   for _, word in ipairs(WORDS) do
      local from, to = s:find(word, 1, true)
      if from and from < first then first, last = from, to end
   end
   if last == 0 then return s end
   return ('%s<strong class="mark">%s</strong>%s'):format(s:sub(1, first - 1), s:sub(first, last), s:sub(last + 1))
end

local LONG = 40 -- a cell with more letters may break

local function row_of(t, row)
   local cells = { ('<th scope="row">%s</th>'):format(escape(row.cells[1] or "")) }
   if row.span then
      cells[2] = ('<td class="span" colspan="%d">%s</td>'):format(math.max(1, #t.columns - 1), marked(row.span))
   else
      for i = 2, #t.columns do
         local cell = row.cells[i] or ""
         local class = t.columns[i].align == "right" and ' class="number"' or #cell > LONG and ' class="long"' or ""
         cells[i] = ("<td%s>%s</td>"):format(class, marked(cell))
      end
   end
   return ("<tr%s>%s</tr>\n"):format(row.state and (' class="%s"'):format(row.state) or "", table.concat(cells))
end

--- A table of a section.
---@param t tideway.bench.section.table
---@return string
function M.table(t)
   local out = { '<div class="scroll"><table>\n<thead><tr>' }
   for i, column in ipairs(t.columns) do
      local class = i > 1 and column.align == "right" and ' class="number"' or ""
      out[#out + 1] = ('<th scope="col"%s>%s</th>'):format(class, escape(column.name))
   end
   out[#out + 1] = "</tr></thead>\n<tbody>\n"
   for _, row in ipairs(t.rows) do out[#out + 1] = row_of(t, row) end
   out[#out + 1] = "</tbody></table></div>\n"
   return table.concat(out)
end

--- A list of texts; "" for none.
---@param items string[]
---@param class string
---@return string
function M.list(items, class)
   if #items == 0 then return "" end
   local out = { ('<ul class="%s">\n'):format(class) }
   for _, item in ipairs(items) do out[#out + 1] = ("<li>%s</li>\n"):format(marked(item)) end
   out[#out + 1] = "</ul>\n"
   return table.concat(out)
end

--- Something that is folded away.
---@param summary string
---@param content string HTML
---@return string
function M.folded(summary, content)
   return ("<details><summary>%s</summary>\n%s</details>\n"):format(escape(summary), content)
end

M.STYLE = [[
:root { color-scheme: light dark; --text: #1b1b1b; --quiet: #5c5c5c; --back: #ffffff; --line: #d4d4d4;
  --band: #f5f5f3; --warn: #8a4b00; --bad: #a8071a; --link: #0b5394; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e2; --quiet: #a5a5a2; --back: #17181a; --line: #3b3c3f;
  --band: #1f2023; --warn: #f0b35a; --bad: #ff8b8b; --link: #8ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 0 0 .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); padding-top: 1.2rem; margin-top: 2rem; }
.quiet { color: var(--quiet); margin: 0 0 .8rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; color: var(--quiet); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 9rem; max-width: 20rem; }
td:not(.span):not(.long) { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
th:first-child, td:first-child { padding-left: .4rem; }
.number { text-align: right; }
td.number { white-space: nowrap; }
thead .number { max-width: 9rem; }
.span { color: var(--quiet); }
.mark { color: var(--warn); font-weight: 600; }
.missed .mark, .failed .mark { color: var(--bad); }
ul.findings, ul.notes { margin: .6rem 0; padding-left: 1.2rem; }
ul.notes { font-size: .9rem; color: var(--quiet); }
figure { margin: 1rem 0; }
.picture { display: block; width: 100%; min-width: 40rem; max-width: 60rem; height: auto; color: var(--text); }
figcaption { font-size: .85rem; color: var(--quiet); }
pre { margin: .4rem 0; padding: .5rem .7rem; background: var(--band); border: 1px solid var(--line); border-radius: 4px;
  overflow-x: auto; font: .82rem/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--link); font-size: .9rem; }
nav ol { padding-left: 1.4rem; columns: 20rem 2; }
@media print { :root { --text: #000; --quiet: #444; --back: #fff; --line: #bbb; --band: #f4f4f4; --warn: #000;
    --bad: #000; --link: #000; }
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  details:not([open]), nav { display: none; }
  figure, table, pre { break-inside: avoid; }
  h2, h3, .quiet { break-after: avoid; }
  .scroll { overflow: visible; }
  .picture { min-width: 0; } }
]]

return M
