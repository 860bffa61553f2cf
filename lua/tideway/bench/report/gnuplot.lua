-- SPDX-License-Identifier: BSD-3-Clause
-- Runs gnuplot: one style for all pictures, texts that it cannot take for commands, SVG for pages and PNG.

local child = require "tideway.bench.child"
local posix = require "tideway.posix"

local M = {}

--- What to type where gnuplot is missing.
M.INSTALL = "apt-get install -y --no-install-recommends gnuplot-nox"

--- Width of all pictures in pixels; heights differ.
M.WIDTH = 860

--- Pixels that a letter takes, on the average, at the size that pictures are written in.
M.LETTER = 7.2

--- Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008), each with a shape and a kind of
--- line of its own, so that nothing depends on colour.
M.SERIES = {
   { colour = "#0072B2", point = 7, dash = "solid" },
   { colour = "#D55E00", point = 5, dash = "(9,4)" },
   { colour = "#009E73", point = 9, dash = "(3,3)" },
   { colour = "#CC79A7", point = 13, dash = "(9,3,2,3)" },
   { colour = "#E69F00", point = 11, dash = "(14,4)" },
   { colour = "#56B4E9", point = 6, dash = "(6,2,2,2,2,2)" },
   { colour = "#7F7F7F", point = 4, dash = "(2,5)" },
   { colour = "#882255", point = 8, dash = "(5,5)" },
}

--- A grey that is seen on light and on dark pages.
M.GREY = "#8C8C8C"

--- A text as gnuplot's: nothing in it is a command or a macro. Not in single quotes: gnuplot ends a text that begins
--- with a doubled one. In double quotes, all but letters, digits and harmless signs as octal numbers.
---@param s string one line
---@return string
function M.quote(s)
   return '"' .. s:gsub("[^%w ,.:;/()%-\128-\255]", function(c) return ("\\%03o"):format(c:byte()) end) .. '"'
end

--- Several lines as one text.
---@param lines string[]
---@return string expression
function M.quote_lines(lines)
   local parts = {}
   for i, line in ipairs(lines) do parts[i] = M.quote(line) end
   return table.concat(parts, [[."\n".]])
end

-- Standard sans-serif letters in both; gnuplot's own are wider in SVG than browsers draw them.
local TERMINALS = {
   svg = 'set terminal svg size %d,%d dynamic noenhanced font "sans-serif,13" linewidth 1.1',
   png = 'set terminal pngcairo size %d,%d noenhanced font "sans-serif,10" linewidth 1.2 background "#ffffff"',
}

local STYLE = [[
reset
set encoding utf8
set border 3 lc rgb "#8C8C8C" lw 0.8
set tics nomirror out scale 0.5 textcolor rgb "black"
set grid lc rgb "#C4C4C4" lw 0.6 dt 1
set style fill solid 1 noborder
set bars small
set samples 2
]]

local GRID = "rgb%(196, 196, 196%)" -- as the style has it

-- Into a page: its own ids, the page's colour of letters, a title that is read aloud.
local function for_page(svg, id, title)
   svg = svg:gsub("^.-(<svg)", "%1"):gsub("<title>Gnuplot</title>%s*<desc>.-</desc>", function()
      return ("<title>%s</title>"):format(title)
   end, 1)
   svg = svg:gsub("<title>gnuplot_plot_%d+</title>", ""):gsub('color="black"', ""):gsub('color="white"', "")
   svg = svg:gsub("(['\"])black%1", "%1currentColor%1"):gsub("rgb%( *0, *0, *0%)", "currentColor")
   svg = svg:gsub("stroke=(['\"])" .. GRID .. "%1", "stroke=%1currentColor%1 stroke-opacity=%10.2%1")
   svg = svg:gsub("(id=['\"])", "%1" .. id .. "-"):gsub("(href=['\"]#)", "%1" .. id .. "-")
      :gsub("url%(#", "url(#" .. id .. "-")
   -- SVG 2 and HTML know href; xlink: would need a namespace that HTML does not read.
   svg = svg:gsub("xlink:href", "href"):gsub('%s*xmlns:xlink="[^"]*"', "")
   return (svg:gsub("<svg", '<svg role="img" class="picture"', 1))
end

--- Is gnuplot there?
---@return boolean? ok
---@return string? error what to type
function M.available()
   if child.has "gnuplot" then return true end
   return nil, "gnuplot, which draws the pictures, is not installed: " .. M.INSTALL
end

---@class tideway.bench.picture
---@field id string letters, digits, "-": of files and of ids in a page
---@field title string
---@field height integer pixels
---@field script string what gnuplot does behind the style

--- Draw a picture.
---@param picture tideway.bench.picture
---@param escaped_title string the title as XML
---@return { svg: string, png: string }? drawn an <svg> element, and the bytes of a file
---@return string? error
function M.draw(picture, escaped_title)
   local dir = os.tmpname()
   os.remove(dir)
   if not require("lfs").mkdir(dir) then return nil, ("cannot make the directory %s for gnuplot"):format(dir) end
   local file = assert(io.open(dir .. "/script", "w"))
   for _, kind in ipairs { "svg", "png" } do
      file:write(STYLE, TERMINALS[kind]:format(M.WIDTH, picture.height), "\nset output 'out.", kind, "'\n",
         picture.script, "\nunset output\n")
   end
   file:close()
   local ok, said = child.run { "sh", "-c", 'cd "$1" && LC_ALL=C.UTF-8 exec gnuplot -d script', "sh", dir }
   local svg, png = posix.slurp(dir .. "/out.svg"), posix.slurp(dir .. "/out.png")
   for _, name in ipairs { "script", "out.svg", "out.png" } do os.remove(dir .. "/" .. name) end
   os.remove(dir)
   if not ok or not svg or not png or #svg == 0 or #png == 0 then
      return nil, ("gnuplot did not draw %s: %s"):format(picture.id, (said:gsub("%s+", " ")))
   end
   return { svg = for_page(svg, picture.id, escaped_title), png = png }
end

return M
