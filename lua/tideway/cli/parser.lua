-- SPDX-License-Identifier: BSD-3-Clause
-- From the commands' option tables to a parser, help texts and shell completion (by lua-argparse).

local argparse = require "argparse"

local M = {}

---@class tideway.cli.option
---@field [1] string "-q --quiet"
---@field [2] string description, a sentence
---@field value? string name of its value in help; without it the option is a flag
---@field choices? string[]
---@field convert? fun(text: string): any?, string? checks and converts the value
---@field repeated? boolean may be given several times; its values are a list
---@field key? string key in the parsed options; default: the long name with _ for -

---@class tideway.cli.argument
---@field [1] string NAME, also (in lower case) its key in the parsed options
---@field [2] string description
---@field args? string|integer as in argparse: "?" optional, "*" any number (gives a list)
---@field choices? string[]

---@class tideway.cli.command
---@field name string
---@field summary string a sentence
---@field description? string paragraphs for help and man page
---@field arguments? tideway.cli.argument[]
---@field options? tideway.cli.option[]
---@field passthrough? boolean all that follows the first argument is not parsed: options.args
---@field examples? string[][] { command, what it does }
---@field hidden? boolean for developers of Tideway: not in help, completion, man page
---@field run fun(options: table): integer?

local function positive(text)
   local n = tonumber(text)
   if n and n > 0 and n < math.huge then return n end
   return nil, ("a number above 0 is needed, not '%s'"):format(text)
end

--- Converters for the option tables.
M.types = {
   positive = positive,
   count = function(text)
      local n = positive(text)
      if n and n == math.floor(n) then return n end
      return nil, ("a whole number above 0 is needed, not '%s'"):format(text)
   end,
}

local function version_text()
   local inside, core = pcall(require, "tideway.core") -- only the engine has it
   local note = inside and ", ABI " .. core.abi_hash or ""
   return ("tideway %s (%s%s)\n"):format(require "tideway.version", jit.version, note)
end

local function declare_option(parser, option)
   local o = option.value and parser:option(option[1]) or parser:flag(option[1])
   o:description(option[2])
   if option.value then o:argname(option.value) end
   if option.choices then o:choices(option.choices) end
   if option.convert then
      o:convert(function(text)
         local value, err = option.convert(text)
         return value, err and ("option '%s': %s"):format(option[1]:match "%S+$", err)
      end)
   end
   if option.repeated then o:count "*" end
   if option.key then o:target(option.key) end
end

local function declare_argument(parser, argument)
   local a = parser:argument(argument[1], argument[2]):argname(argument[1]):target(argument[1]:lower())
   if argument.args then a:args(argument.args) end
   if argument.choices then a:choices(argument.choices) end
end

local function epilog(command)
   if not command.examples then return nil end
   local lines = { "Examples:" }
   for _, e in ipairs(command.examples) do
      lines[#lines + 1] = ("   %s\n      %s"):format(e[1], e[2])
   end
   return table.concat(lines, "\n")
end

--- Declare everything to argparse.
---@param commands tideway.cli.command[]
---@param on_text fun(text: string) called for --help and --version, must not return
---@return table parser
---@return table<string, table> subparsers by command name
function M.build(commands, on_text)
   local root = argparse("tideway", "A Lua-scriptable dataplane engine on DPDK.")
   local function add_help(p)
      p:add_help { "-h --help", action = function() on_text(p:get_help() .. "\n") end }
      p:help_max_width(100):usage_max_width(100)
   end
   add_help(root)
   root:command_target "_command" -- no argument is named so
   root:flag("--version", "Print the version."):action(function() on_text(version_text()) end)
   root:epilog "`tideway help COMMAND` describes one command."
   local subparsers = {}
   for _, command in ipairs(commands) do
      local p = root:command(command.name):summary(command.summary)
         :description(command.description and command.summary .. "\n\n" .. command.description or command.summary)
         :hidden(command.hidden or false)
      add_help(p)
      for _, argument in ipairs(command.arguments or {}) do declare_argument(p, argument) end
      if command.passthrough then
         p:argument("ARGS", "Arguments of the script."):argname "ARGS":args "*":target "args"
      end
      for _, option in ipairs(command.options or {}) do declare_option(p, option) end
      if command.examples then p:epilog(epilog(command)) end
      subparsers[command.name] = p
   end
   return root, subparsers
end

-- Which words of `run --name x SCRIPT a -b` are Tideway's, and which the script's?
-- Everything after the first word that is neither an option nor an option's value is the script's.
local function split(command, argv)
   local takes_value = {}
   for _, option in ipairs(command.options or {}) do
      for name in option[1]:gmatch "%S+" do takes_value[name] = option.value ~= nil end
   end
   local i = 2
   while argv[i] do
      local word = argv[i]
      if word == "--" then
         i = i + 1
         break
      end
      if word:sub(1, 1) ~= "-" or word == "-" then break end
      i = i + (takes_value[word] and 2 or 1)
   end
   local ours, rest = {}, {}
   for n, word in ipairs(argv) do
      local list = n <= i and ours or rest
      list[#list + 1] = word
   end
   return ours, rest
end

local function names(commands)
   local list = {}
   for _, c in ipairs(commands) do
      if not c.hidden then list[#list + 1] = c.name end
   end
   return table.concat(list, ", ")
end

local function find(commands, name)
   for _, c in ipairs(commands) do
      if c.name == name then return c end
   end
end

-- What argparse says, and the value it was about.
local function explain(commands, words, result)
   if result:match "^unknown command" and not result:match "Did you mean" then
      return result .. "; commands are " .. names(commands)
   end
   local name = result:match "^argument for option '(.-)' must be one of"
   for i, word in ipairs(words) do
      local value = name and (word == name and words[i + 1] or word:match("^" .. name:gsub("%-", "%%-") .. "=(.*)"))
      if value then return ("%s, not '%s'"):format(result, value) end
   end
   return result
end

--- Parse a command line.
---@param commands tideway.cli.command[]
---@param argv string[]
---@return tideway.cli.command? command nil: print the message and exit
---@return table|integer options_or_exit
---@return string? message
function M.parse(commands, argv)
   local text
   local root, subparsers = M.build(commands, function(t)
      text = t
      error("help", 0)
   end)
   local words, command = {}, find(commands, argv[1])
   for i, word in ipairs(argv) do words[i] = word end
   if #words == 0 then return nil, 2, root:get_help() .. "\n" end
   local rest
   if command and command.passthrough then words, rest = split(command, words) end
   local done, ok, result = pcall(root.pparse, root, words)
   if text then return nil, 0, text end
   if not done then error(ok, 0) end
   if not ok then
      local where = command and "tideway " .. command.name or "tideway"
      local message = ("%s: %s\n"):format(where, explain(commands, words, result))
      local usage = (command and subparsers[command.name] or root):get_usage()
      return nil, 2, message .. usage .. "\n"
   end
   if rest then result.args = rest end
   return find(commands, result._command), result
end

--- The completion script of a shell, made from the same tables.
---@param commands tideway.cli.command[]
---@param shell "bash"|"zsh"|"fish"
---@return string
function M.completion(commands, shell)
   local shown = {}
   for _, c in ipairs(commands) do
      if not c.hidden then shown[#shown + 1] = c end
   end
   local root = M.build(shown, error)
   return root["get_" .. shell .. "_complete"](root)
end

return M
