-- SPDX-License-Identifier: BSD-3-Clause
-- What a command shows, as plain data: tables, texts, lists of them. Sent as JSON and made lines by the client.

local M = {}

---@class tideway.view
---@field view "table"|"text"|"list"
---@field title? string a line above
---@field data? any the plain value, for --json
---@field more? integer entries of the value that were left off
---@field columns? tideway.view.column[] of a table
---@field rows? any[][] of a table: strings, numbers and booleans
---@field headless? boolean a table without a heading
---@field text? string
---@field items? tideway.view[] of a list, one below the other

---@class tideway.view.column
---@field name string
---@field align? "left"|"right" default: right when all cells are numbers
---@field plain? boolean numbers that are no counts: no separators of thousands

--- Most rows that a view made from a Lua value has.
M.ROWS_MAX = 1000

--- Is it a view?
---@param value any
---@return boolean
function M.is(value) return type(value) == "table" and type(rawget(value, "view")) == "string" end

-- Numbers that name something rather than count it.
local NAMES = { id = true, pid = true, uid = true, gid = true, index = true, cpu = true, slot = true, proto = true,
   protocol = true, port = true, mark = true, line = true, vlan = true, vid = true, type = true, stage = true,
   ["#"] = true }

local function column_of(column)
   if type(column) == "string" then column = { name = column } end
   local name = column.name or column[1]
   local plain = column.plain
   if plain == nil then plain = NAMES[name] or name:find "port$" ~= nil or name:find "_id$" ~= nil end
   return { name = name, align = column.align, plain = plain or nil }
end

--- A table: aligned columns under their names.
---@param columns (string|tideway.view.column)[]
---@param rows any[][] a missing cell is empty
---@param data? any the plain value; default: the rows as records
---@return tideway.view
function M.table(columns, rows, data)
   local list, cells = {}, {}
   for i, column in ipairs(columns) do list[i] = column_of(column) end
   for n, row in ipairs(rows) do
      cells[n] = {}
      for i = 1, #list do
         local cell = row[i]
         if cell == nil then cell = "" end
         cells[n][i] = type(cell) == "number" and cell or type(cell) == "boolean" and cell or tostring(cell)
      end
   end
   if data == nil then
      data = {}
      for n, row in ipairs(cells) do
         data[n] = {}
         for i, column in ipairs(list) do data[n][column.name] = row[i] end
      end
   end
   return { view = "table", columns = list, rows = cells, data = data }
end

--- A text, shown as it is.
---@param text string
---@param data? any the plain value; default: the text
---@return tideway.view
function M.text(text, data)
   if data == nil then data = text end
   return { view = "text", text = text, data = data }
end

--- Several views, one below the other.
---@param items tideway.view[]
---@param data? any the plain value; default: the list of theirs
---@return tideway.view
function M.list(items, data)
   if data == nil then
      data = {}
      for i, item in ipairs(items) do data[i] = item.data end
   end
   return { view = "list", items = items, data = data }
end

--- A view of any Lua value: scalars, lists of records as aligned tables, maps as two columns, nested tables bounded
--- in depth and size, 64-bit integers, structs, functions; objects by their metamethods `__view` or `__tostring`.
---@param value any
---@return tideway.view
function M.of(value) return require("tideway.live.value").view(value) end

--- A view of what an evaluation gave: nil when it gave nothing.
---@param count integer
---@param values any[]
---@return tideway.view?
function M.results(count, values)
   if count == 0 then return nil end
   if count == 1 then return M.of(values[1]) end
   local items = {}
   for i = 1, count do items[i] = M.of(values[i]) end
   return M.list(items)
end

--- A view as lines of text: numbers right aligned, cells cut to fit.
---@param v tideway.view
---@param width? integer columns of the terminal; nil: as wide as it gets
---@return string[]
function M.lines(v, width) return require("tideway.live.render").lines(v, width) end

return M
