-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway test`: run busted specs inside this binary, so that FFI, JIT and engine are the real ones.

local types = require("tideway.cli.parser").types

-- FFI types and the engine's modules exist once per VM: busted must not reload modules for each
-- file, so "file" is registered without its usual insulation.
local function new_busted()
   local busted = require "busted.core" ()
   require "busted"(busted)
   busted.register("file", "file", {})
   return busted
end

local function position(element, debug)
   local trace = debug and debug.currentline and debug or element.trace
   return trace and trace.short_src and ("%s:%s"):format(trace.short_src, trace.currentline) or "?"
end

local function full_name(busted, element)
   local names = {}
   while element and element.descriptor ~= "file" and element.descriptor ~= "suite" do
      if element.name or element.descriptor then table.insert(names, 1, element.name or element.descriptor) end
      element = busted.context.parent(element)
   end
   return table.concat(names, " ")
end

local function message_text(message)
   if type(message) == "string" then return message end
   if message == nil then return "no message" end
   local mt = debug.getmetatable(message)
   return mt and mt.__tostring and tostring(message) or require "pl.pretty".write(message)
end

--- Prints progress and counts: a line per file, failures as they happen, reasons of skips.
local function reporter(busted, out)
   local count = { passed = 0, failed = 0, skipped = 0 }
   local skips, started, in_file = {}, 0, 0
   local marks = { success = ".", pending = "s", failure = "F", error = "E" }

   local function report(kind)
      return function(element, _, message, debug)
         if element.descriptor ~= "it" then count.failed = count.failed + 1 end
         out(("\n%s: %s: %s\n   %s\n"):format(position(element, debug), kind, full_name(busted, element),
            (message_text(message):gsub("\n", "\n   "))))
         return nil, true
      end
   end
   busted.subscribe({ "failure" }, report "failed")
   busted.subscribe({ "error" }, report "error")
   busted.subscribe({ "pending" }, function(element, _, message)
      skips[element] = message and message_text(message) or ""
      return nil, true
   end)
   busted.subscribe({ "test", "end" }, function(element, _, status)
      local slot = ({ success = "passed", pending = "skipped" })[status] or "failed"
      count[slot] = count[slot] + 1
      in_file = in_file + 1
      if status == "pending" then
         out(("\n   skipped: %s%s\n"):format(full_name(busted, element),
            skips[element] and skips[element] ~= "" and ": " .. skips[element] or ""))
      else
         out(marks[status] or "?")
      end
      return nil, true
   end)
   busted.subscribe({ "file", "start" }, function(file)
      started, in_file = busted.monotime(), 0
      out(file.name .. " ")
      return nil, true
   end)
   busted.subscribe({ "file", "end" }, function()
      out((" %d in %.1f s\n"):format(in_file, busted.monotime() - started))
      return nil, true
   end)
   return count
end

local function out(text)
   io.stdout:write(text)
   io.stdout:flush()
end

local function summary(count)
   out(("%d passed, %d failed, %d skipped\n"):format(count.passed, count.failed, count.skipped))
   return count.failed == 0 and 0 or 1
end

local function run_file(file, filter)
   require "busted.languages.en"
   local busted = new_busted()
   local count = reporter(busted, out)
   require "busted.modules.filter_loader" () (busted, {
      tags = {}, excludeTags = {}, filter = filter and { filter } or {}, filterOut = {},
   })
   require "busted.modules.test_file_loader" (busted, { "lua" }) ({ file }, { "_spec" }, { excludes = {} })
   require "busted.execute" (busted)(1, {})
   busted.publish { "exit" }
   return summary(count)
end

-- ---- several files ----

local function specs_in(path, list)
   local lfs = require "lfs"
   if lfs.attributes(path, "mode") ~= "directory" then
      list[#list + 1] = path
      return list
   end
   local names = {}
   for name in lfs.dir(path) do names[#names + 1] = name end
   table.sort(names)
   for _, name in ipairs(names) do
      local inner = path:gsub("/$", "") .. "/" .. name
      if name:find "_spec%.lua$" then
         list[#list + 1] = inner
      elseif not name:find "^%." and lfs.attributes(inner, "mode") == "directory" then
         specs_in(inner, list)
      end
   end
   return list
end

local function run_specs(options)
   local has_busted = pcall(require, "busted.core")
   if not has_busted then
      io.stderr:write "tideway test: busted is missing: apt-get install -y --no-install-recommends lua-busted\n"
      return 1
   end
   local list = {}
   for _, path in ipairs(#options.files > 0 and options.files or { "test" }) do
      if not require "lfs".attributes(path) then
         io.stderr:write(("tideway test: there is no %s here\n"):format(path))
         return 2
      end
      specs_in(path, list)
   end
   if #list == 1 then return run_file(list[1], options.filter) end
   local count, failures = require("tideway.cli.test_files").run(list, {
      filter = options.filter, jobs = options.jobs or #require("tideway.affinity").cpus(), limit = options.limit or 600,
   })
   if #failures > 0 then out("\nwhat failed, again:\n" .. table.concat(failures, "\n") .. "\n\n") end
   return summary(count)
end

return {
   name = "test",
   hidden = true,
   summary = "Run busted specs in this binary.",
   description = "The last line is `N passed, N failed, N skipped`; exit code 1 when something failed.",
   arguments = { { "FILES", "Spec files, or directories of *_spec.lua files (default: test).", args = "*" } },
   options = {
      { "--filter", "Only tests whose full name matches this Lua pattern.", value = "PATTERN" },
      { "--jobs", "Files that run at the same time (default: as many as CPUs); some run alone.", value = "N",
         convert = types.count },
      { "--limit", "Seconds after which a file of several is ended (default: 600).", value = "SECONDS",
         convert = types.count },
   },
   run = run_specs,
}
