-- SPDX-License-Identifier: BSD-3-Clause
-- help(x): what a command, a function of tw, an NF, a header or an object is for, from the sources' own comments.

local abi = require "tideway.abi"
local commands = require "tideway.live.commands"
local doc = require "tideway.live.doc"
local nearest = require "tideway.live.nearest"
local nf_library = require "tideway.nf"
local objects = require "tideway.live.objects"
local posix = require "tideway.posix"
local tw = require "tideway"
local value = require "tideway.live.value"
local view = require "tideway.live.view"

local M = {}

--- Functions of commands as sessions have them -> their names.
---@type table<function, string>
M.commands = setmetatable({}, { __mode = "k" })

local function file_of(module)
   local path = ("%s/%s"):format(abi.root, (module:gsub("%.", "/")))
   return posix.slurp(path .. ".lua") and path .. ".lua" or path .. "/init.lua"
end

-- tw and tw.bench: modules whose names are loaded on first use; where they are themselves.
local MODULES = { tw = "tideway", ["tw.bench"] = "tideway.bench" }

local function module_of(label) return label == "tw" and tw or tw.bench end

local function short(path) return (path:gsub("^" .. abi.root:gsub("%p", "%%%0") .. "/?", "")) end

-- ---- doc comments as views ----

local function parts_table(title, list)
   local rows = {}
   for i, part in ipairs(list) do rows[i] = { part.name, part.type, part.text } end
   local v = view.table({ "name", "type", "text" }, rows)
   v.headless, v.title = true, title
   return v
end

-- Parameters as a call has them, from the declaration or the comment.
local function call_of(name, d)
   local arguments = d.code:match "function[^%(]*(%b())"
   if arguments and arguments ~= "()" and #d.params > 0 then
      arguments = arguments:sub(2, -2)
   else
      local names = {}
      for i, p in ipairs(d.params) do names[i] = p.name end
      arguments = table.concat(names, ", ")
   end
   return ("%s(%s)"):format(name, arguments)
end

local function show_doc(title, d)
   local items = { view.text(title) }
   if d.text ~= "" then items[#items + 1] = view.text(d.text) end
   if #d.params > 0 then items[#items + 1] = parts_table("arguments", d.params) end
   if #d.returns > 0 then items[#items + 1] = parts_table("result", d.returns) end
   items[#items + 1] = view.text(("%s:%d"):format(short(d.file), d.line))
   return view.list(items, { name = title, text = d.text, arguments = d.params, returns = d.returns,
      file = short(d.file), line = d.line })
end

local function of_command(name)
   local entry = commands[name]
   local d = doc.declared(file_of(entry.module), entry.fn)
   if not d then return view.text(("%s: %s (role %s)"):format(name, entry.summary, entry.role)) end
   return show_doc(("%s: %s (role %s)"):format(call_of(name, d), entry.summary, entry.role), d)
end

-- The comment on a name of such a module, where it is exported or where it is made.
local function doc_of_member(label, name)
   local module = module_of(label)
   local d = doc.declared(file_of(getmetatable(module).__source[name] or MODULES[label]), name)
   if d then return d end
   local ok, member = pcall(function() return module[name] end)
   return ok and type(member) == "function" and doc.of(member) or nil
end

local function of_member(label, name)
   local d = doc_of_member(label, name)
   return d and show_doc(call_of(("%s.%s"):format(label, name), d), d)
end

local function of_tw(name) return of_member("tw", name) end

-- ---- NFs ----

local function page_of(name)
   return posix.slurp(("%s/tideway/nf/%s.md"):format(abi.root, name))
end

local function parameters_of(name)
   local params, list, rows = nf_library.params[name], {}, {}
   for key in pairs(params or {}) do list[#list + 1] = key end
   table.sort(list)
   for i, key in ipairs(list) do
      local p = params[key]
      local kind = p.one_of and table.concat(p.one_of, " | ") or p.type or "any"
      local default = p.required and "required" or p.default ~= nil and value.inline(p.default, 40) or ""
      rows[i] = { key, kind, default, p.doc or "" }
   end
   if #rows == 0 then return nil end
   local v = view.table({ "parameter", "type", "default", "meaning" }, rows)
   return v
end

local function of_constructor(nf)
   local page = page_of(nf.name)
   local library = rawget(tw.nf, nf.name) == nf
   if library and page then return view.text(page) end
   local items = { view.text(("NF %s, declared at %s"):format(nf.name, nf.where)) }
   local file, line = nf.where:match "^(.*):(%d+)$"
   local d = file and doc.at(file, tonumber(line))
   if d then items[#items + 1] = view.text(d.text) end
   items[#items + 1] = parameters_of(nf.name)
   return view.list(items)
end

--- The parameters of an NF: as checked by tw.args when one was made, else those that its page lists.
---@param name string
---@return string[]
function M.parameters(name)
   local list = {}
   for key in pairs(nf_library.params[name] or {}) do list[#list + 1] = key end
   if #list == 0 then
      local inside = false
      for line in (page_of(name) or ""):gmatch "[^\n]+" do
         if line:find "^|.*|%s*default%s*|" then inside = true elseif not line:find "^|" then inside = false end
         if inside then
            for word in (line:match "^|([^|]*)|" or ""):gmatch "`([%a_][%w_]*)`" do list[#list + 1] = word end
         end
      end
   end
   table.sort(list)
   return list
end

-- ---- headers and packets ----

local function header_file(class)
   for name in require("lfs").dir(abi.root .. "/tideway/packet") do
      local path = abi.root .. "/tideway/packet/" .. name
      if name:find "%.lua$" and next(doc.fields(path, class)) then return path end
   end
end

-- Methods by name, as functions or as their comments; those without a comment are nobody's to call.
local function methods_table(title, methods)
   local names, docs, rows = {}, {}, {}
   for name, method in pairs(methods) do
      docs[name] = type(method) == "function" and doc.of(method) or type(method) == "table" and method.text and method
      if docs[name] and not name:find "^__" then names[#names + 1] = name end
   end
   table.sort(names)
   for i, name in ipairs(names) do
      rows[i] = { ":" .. call_of(name, docs[name]), doc.first_sentence(docs[name].text) }
   end
   if #rows == 0 then return nil end
   local v = view.table({ "method", "what" }, rows)
   v.headless, v.title = true, title
   return v
end

local function of_header(header)
   local class = "tideway." .. header.name
   local file = header_file(class)
   local texts, rows = file and doc.fields(file, class) or {}, {}
   for _, field in ipairs(header.fields) do
      rows[#rows + 1] = { field.name, field.type, field.offset, texts[field.name] or "" }
   end
   local fields = view.table({ "field", "type", "byte", "what" }, rows)
   return view.list({
      view.text(("%s; in an NF: local h = pkt:%s()"):format(tostring(header), header.name)), fields,
      methods_table("methods", header.methods),
   }, { name = header.name, size = header.size, fields = fields.data })
end

-- What can be called on a packet.
local function of_packet()
   local methods = {}
   for _, file in ipairs { "init", "view", "raw", "rewrite" } do
      for name, d in pairs(doc.methods(("%s/tideway/packet/%s.lua"):format(abi.root, file), "Pkt")) do
         methods[name] = d
      end
   end
   return methods_table("pkt, in packet(pkt) of an NF; fields: len, port, out, mark, hash", methods)
end

-- ---- objects ----

local function of_table(t)
   local items = { require("tideway.live.shown").table_head(t) }
   items[#items + 1] = of_tw(t.kind)
   local methods = {}
   local mt = getmetatable(t)
   local index = type(mt.__index) == "table" and mt.__index or {}
   local seen = index
   while type(seen) == "table" do
      for name, fn in pairs(seen) do methods[name] = methods[name] or fn end
      local parent = getmetatable(seen)
      seen = parent and parent.__index
   end
   items[#items + 1] = methods_table("also", methods)
   return view.list(items)
end

local function of_function(fn)
   if M.commands[fn] then return of_command(M.commands[fn]) end
   for _, name in ipairs(tw.names()) do
      local ok, member = pcall(function() return tw[name] end)
      if ok and member == fn then
         local v = of_tw(name)
         if v then return v end
      end
   end
   local d = doc.of(fn)
   if d then return show_doc(value.signature(fn), d) end
   return view.text(value.signature(fn))
end

local function of_object(object)
   if nf_library.is_constructor(object) then return of_constructor(object) end
   if nf_library.is_instance(object) then
      local made = nf_library.made(object)
      if made then return of_constructor(made.constructor) end
   end
   if object == tw then return M.names_of_tw() end
   if object == rawget(tw, "bench") then return M.names_of_tw "tw.bench" end
   local mt = getmetatable(object)
   if type(object) == "table" and rawget(object, "ctype") and rawget(object, "size") then
      return of_header(object)
   end
   if type(mt) == "table" and mt.__transfer and rawget(object, "kind") then return of_table(object) end
   local inner = type(object) == "table" and rawget(object, "chain")
   local methods = inner and getmetatable(inner) or mt
   local known = type(methods) == "table" and methods_table("methods", methods)
   local v = value.view(object)
   return known and view.list { v, known } or v
end

-- ---- the overview ----

local ROLES = { "view", "operate", "admin" }
local ROLE_TEXT = {
   view = "to look", operate = "to operate", admin = "to change what runs",
}

--- What tw offers, or tw.bench.
---@param label? "tw"|"tw.bench"
---@return tideway.view
function M.names_of_tw(label)
   label = label or "tw"
   local rows = {}
   for _, name in ipairs(module_of(label).names()) do
      local d = doc_of_member(label, name)
      rows[#rows + 1] = { ("%s.%s"):format(label, name), d and doc.first_sentence(d.text) or "" }
   end
   local v = view.table({ "name", "what" }, rows)
   v.headless = true
   return v
end

local function overview()
   local items, data = {}, {}
   for _, role in ipairs(ROLES) do
      local names, rows = {}, {}
      for name, entry in pairs(commands) do
         if entry.role == role then names[#names + 1] = name end
      end
      table.sort(names)
      for i, name in ipairs(names) do
         rows[i] = { name, commands[name].summary }
         data[#data + 1] = { name = name, role = role, summary = commands[name].summary }
      end
      if #rows > 0 then
         local v = view.table({ "name", "what" }, rows)
         v.headless, v.title = true, ("%s (role %s)"):format(ROLE_TEXT[role], role)
         items[#items + 1] = v
      end
   end
   local more = view.text [[
ports.NAME  chains.NAME.NF  tables.NAME  lcores[CPU]  hooks.NAME    what runs; each alone shows all of its kind
listeners.NAME  upstreams.NAME  services.NAME                       the same of the gate
tw                                                                  all that a script can do
help(x)          x: a command, tw.hash, tw.nf.router, "ipv4", "pkt", tables.NAME, a function of yours]]
   more.title = "and all of Lua, with"
   items[#items + 1] = more
   return view.list(items, data)
end

local function of_name(name)
   if commands[name] then return of_command(name) end
   local last = name:gsub("^tw%.", "")
   local header = tw.headers[last]
   if header and last == name then return of_header(header) end
   if last == "pkt" or last == "packet" then return of_packet() end
   local nf = last:match "^nf%.([%w_]+)$" or last
   if page_of(nf) then return of_constructor(tw.nf[nf]) end
   if last == "tw" then return M.names_of_tw() end
   local of_bench = last:match "^bench%.([%w_]+)$"
   if of_bench then return of_member("tw.bench", of_bench) end
   for _, known in ipairs(tw.names()) do
      if known == last then
         local v = of_tw(last)
         if v then return v end
         return of_object(tw[last])
      end
   end
end

--- Names that there is help on.
---@return string[]
function M.names()
   local names = {}
   for name in pairs(commands) do names[#names + 1] = name end
   for name in pairs(tw.headers) do names[#names + 1] = name end
   for _, name in ipairs(nf_library.known()) do names[#names + 1] = "tw.nf." .. name end
   for _, name in ipairs(tw.names()) do names[#names + 1] = "tw." .. name end
   for _, name in ipairs(tw.bench.names()) do names[#names + 1] = "tw.bench." .. name end
   return names
end

--- What something is for: a command, a function of tw, an NF (tw.nf.router or "router"), a header ("ipv4"), "pkt", a
--- table, any function. Without an argument: all commands.
---@param x? any the thing itself or its name
---@return tideway.view
function M.help(x)
   if x == nil then return overview() end
   if type(x) == "string" then
      local v = of_name(x)
      if not v then error(("there is no help on %q%s"):format(x, nearest.hint(x, M.names())), 0) end
      return v
   end
   if type(x) == "function" then return of_function(x) end
   local what = objects.what(x)
   if what and commands[what .. "s"] then return of_command(what .. "s") end
   if type(x) == "table" then return of_object(x) end
   return value.view(x)
end

return M
