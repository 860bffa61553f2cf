-- SPDX-License-Identifier: BSD-3-Clause
-- Doc comments of the Lua sources: the lines that begin with --- above a declaration.

local posix = require "tideway.posix"

local M = {}

---@class tideway.live.doc
---@field text string what it does, paragraphs as written
---@field params { name: string, type: string, text: string }[]
---@field returns { name: string, type: string, text: string }[]
---@field file string
---@field line integer of the declaration
---@field code string the declaration's first line

local function lines_of(path)
   local text, list = posix.slurp(path), {}
   for line in (text or ""):gmatch "([^\n]*)\n" do list[#list + 1] = line end
   return list
end

-- "name? type a text" with a type that may have blanks inside brackets.
local function split_type(text)
   local at, depth = 1, 0
   while at <= #text do
      local c = text:sub(at, at)
      if c:find "[%({<]" then depth = depth + 1 end
      if c:find "[%)}>]" then depth = depth - 1 end
      -- "fun(a): b" and "a | b" go on behind the blank
      if c == " " and depth == 0 and not text:sub(1, at - 1):find "[:|]$" then break end
      at = at + 1
   end
   return text:sub(1, at - 1), text:sub(at):gsub("^%s+", ""):gsub("^#%s*", "")
end

local function param_of(rest)
   local name, more = rest:match "^(%S+)%s+(.+)$"
   if not name then return { name = rest, type = "", text = "" } end
   local kind, text = split_type(more)
   return { name = name, type = kind, text = text }
end

local function return_of(rest)
   local kind, more = split_type(rest)
   local name, text = more:match "^([%a_][%w_]*)%s*(.*)$"
   if not name then return { name = "", type = kind, text = more } end
   return { name = name, type = kind, text = text }
end

-- The comment block that ends above line n.
local function block_above(lines, n)
   local first = n
   while first > 1 and lines[first]:find "^M%." and lines[first - 1]:find "^M%..*=" do first = first - 1 end
   local code = first
   while first > 1 and lines[first - 1]:find "^%s*%-%-%-" do first = first - 1 end
   if first == code then return nil end
   local doc = { params = {}, returns = {}, line = n, code = lines[n] }
   local text, last = {}, nil
   for i = first, code - 1 do
      local body = lines[i]:match "^%s*%-%-%-%s?(.*)$"
      local tag, rest = body:match "^@(%w+)%s*(.*)$"
      if tag == "param" then
         last = param_of(rest)
         table.insert(doc.params, last)
      elseif tag == "return" then
         last = return_of(rest)
         table.insert(doc.returns, last)
      elseif tag then
         last = nil
      elseif last then
         last.text = last.text .. " " .. body:gsub("^%s+", "")
      else
         text[#text + 1] = body
      end
   end
   doc.text = table.concat(text, "\n")
   return doc
end

local function plain(word) return (word:gsub("%p", "%%%0")) end

-- Is this line the declaration of a name?
local function declares(line, name)
   local word = plain(name)
   if line:find("^%s*local%s+function%s+" .. word .. "%s*%(") then return true end
   if line:find("^%s*function%s+[%w_]+[%.:]" .. word .. "%s*%(") then return true end
   local left = line:match "^%s*([%w_%.,%s]-)%s*=[^=]"
   for target in (left or ""):gmatch "[^,%s]+" do
      if target == name or target:find("^[%w_]+%." .. word .. "$") then return true end
   end
   return false
end

--- The doc comment of what a file declares under a name.
---@param path string
---@param name string
---@return tideway.live.doc?
function M.declared(path, name)
   local lines = lines_of(path)
   for n, line in ipairs(lines) do
      if declares(line, name) then
         local doc = block_above(lines, n)
         if doc then
            doc.file = path
            return doc
         end
      end
   end
end

--- The doc comment at a line of a file.
---@param path string
---@param line integer of the declaration
---@return tideway.live.doc?
function M.at(path, line)
   local lines = lines_of(path)
   local doc = lines[line] and block_above(lines, line)
   if doc then doc.file = path end
   return doc
end

--- The doc comment of a function.
---@param fn function
---@return tideway.live.doc?
function M.of(fn)
   local info = debug.getinfo(fn, "S")
   local path = info.source:match "^@(.*)"
   return path and M.at(path, info.linedefined)
end

--- Descriptions of a class's fields: of `---@class NAME` and the `---@field` lines below.
---@param path string
---@param class string
---@return table<string, string>
function M.fields(path, class)
   local found, inside = {}, false
   for _, line in ipairs(lines_of(path)) do
      local name = line:match "^%s*%-%-%-@class%s+([%w_%.]+)"
      if name then inside = name == class end
      local field, rest = line:match "^%s*%-%-%-@field%s+(%S+)%s+(.*)$"
      if inside and field then
         local _, text = split_type(rest)
         found[field:gsub("%?$", "")] = text
      elseif inside and not name then
         inside = false
      end
   end
   return found
end

--- The documented methods that a file gives a class, by name: function Class:name() or Class.name().
---@param path string
---@param class string name of the local variable
---@return table<string, tideway.live.doc>
function M.methods(path, class)
   local lines, found = lines_of(path), {}
   for n, line in ipairs(lines) do
      local name = line:match("^function " .. plain(class) .. "[%.:]([%w_]+)%s*%(")
      local doc = name and not name:find "^__" and block_above(lines, n)
      if doc then
         doc.file, found[name] = path, doc
      end
   end
   return found
end

--- The first sentence of a text, without the code that explains it.
---@param text string
---@return string
function M.first_sentence(text)
   local line = text:gsub("%s+", " ")
   line = line:match "^(.-%.)%s%u" or line
   return line:match "^(.-):%s`" or line
end

return M
