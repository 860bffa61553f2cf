-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway man`: print the manual page, made from the commands' option tables.

local function escape(text)
   return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("\n([.'])", "\n\\&%1"):gsub("^([.'])", "\\&%1"))
end

-- `code` in a description becomes bold.
local function prose(text)
   return (escape(text):gsub("`([^`]+)`", "\\fB%1\\fR"):gsub("\n\n", "\n.PP\n"))
end

local function option_label(option)
   local names = {}
   for name in option[1]:gmatch "%S+" do names[#names + 1] = "\\fB" .. escape(name) .. "\\fR" end
   local value = option.choices and table.concat(option.choices, "|") or option.value
   return table.concat(names, ", ") .. (value and " \\fI" .. escape(value) .. "\\fR" or "")
end

local function synopsis(command)
   local words = { "\\fBtideway " .. command.name .. "\\fR" }
   if command.options then words[#words + 1] = "[\\fIoptions\\fR]" end
   for _, a in ipairs(command.arguments or {}) do
      local optional = a.args == "?" or a.args == "*"
      words[#words + 1] = (optional and "[\\fI%s\\fR]" or "\\fI%s\\fR"):format(a[1])
   end
   if command.passthrough then words[#words + 1] = "[\\fIARGS\\fR ...]" end
   return table.concat(words, " ")
end

local function command_section(out, command)
   out(".SS " .. command.name)
   out(synopsis(command))
   out ".PP"
   out(prose(command.summary))
   if command.description then
      out ".PP"
      out(prose(command.description))
   end
   for _, a in ipairs(command.arguments or {}) do
      out ".TP"
      out("\\fI" .. a[1] .. "\\fR")
      out(prose(a[2]) .. (a.choices and " One of " .. table.concat(a.choices, ", ") .. "." or ""))
   end
   for _, option in ipairs(command.options or {}) do
      out ".TP"
      out(option_label(option))
      out(prose(option[2]))
   end
   for _, e in ipairs(command.examples or {}) do
      out ".PP"
      out(prose("Example, " .. e[2]) .. ":")
      out ".PP\n.RS\n.nf"
      out(escape(e[1]))
      out ".fi\n.RE"
   end
end

local TAIL = [[
.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
failed while running
.TP
.B 2
wrong use, or a script that does not validate
.SH ENVIRONMENT
.TP
.B TIDEWAY_RUN_DIR
directory in which instances keep their counters, instead of
.I /run/tideway
(or, where that cannot be written,
.I $XDG_RUNTIME_DIR/tideway
or
.IR /tmp/tideway\-UID )
.SH FILES
.TP
.I /run/tideway/NAME/stats
counters of a running instance, mapped by
.B tideway top
.SH SEE ALSO
.BR dpdk\-testpmd (1),
.BR luajit (1),
.BR bpftool (8)]]

--- The manual page.
---@param commands tideway.cli.command[]
---@return string roff
local function page(commands)
   local lines = {}
   local function out(line) lines[#lines + 1] = line end
   out((".TH TIDEWAY 1 \"\" \"Tideway %s\" \"User Commands\""):format(require "tideway.version"))
   out ".SH NAME\ntideway \\- a Lua\\-scriptable dataplane engine on DPDK\n.SH SYNOPSIS"
   for _, c in ipairs(commands) do
      if not c.hidden then out(synopsis(c) .. "\n.br") end
   end
   out ".SH DESCRIPTION"
   out(prose("A network function is a small Lua function; functions are strung into chains, and chains "
      .. "are pinned to lcores. Every command has `--help`; every one that reports has `--json`."))
   out ".SH COMMANDS"
   for _, c in ipairs(commands) do
      if not c.hidden then command_section(out, c) end
   end
   out(TAIL)
   return table.concat(lines, "\n") .. "\n"
end

return {
   name = "man",
   summary = "Print the manual page (roff).",
   examples = { { "tideway man | man -l -", "read it" } },
   page = page,
   run = function() io.write(page(require("tideway.cli").commands())) end,
}
