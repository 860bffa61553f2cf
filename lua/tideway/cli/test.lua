-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway test`: run busted specs inside this binary, so that FFI, JIT and engine are the real ones.

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

local function run_specs(options)
   local has_busted = pcall(require, "busted.core")
   if not has_busted then
      io.stderr:write "tideway test: busted is missing: apt-get install -y --no-install-recommends lua-busted\n"
      return 1
   end
   require "busted.languages.en"
   local busted = new_busted()
   local files = #options.files > 0 and options.files or { "test" }
   for _, file in ipairs(files) do
      if not require "lfs".attributes(file) then
         io.stderr:write(("tideway test: there is no %s here\n"):format(file))
         return 2
      end
   end
   local function out(text)
      io.stdout:write(text)
      io.stdout:flush()
   end
   local count = reporter(busted, out)
   require "busted.modules.filter_loader" () (busted, {
      tags = {}, excludeTags = {}, filter = options.filter and { options.filter } or {}, filterOut = {},
   })
   local load_files = require "busted.modules.test_file_loader" (busted, { "lua" })
   load_files(files, { "_spec" }, { excludes = {}, recursive = true })
   require "busted.execute" (busted)(1, {})
   busted.publish { "exit" }
   out(("%d passed, %d failed, %d skipped\n"):format(count.passed, count.failed, count.skipped))
   return count.failed == 0 and 0 or 1
end

return {
   name = "test",
   hidden = true,
   summary = "Run busted specs in this binary.",
   description = "The last line is `N passed, N failed, N skipped`; exit code 1 when something failed.",
   arguments = { { "FILES", "Spec files, or directories of *_spec.lua files (default: test).", args = "*" } },
   options = { { "--filter", "Only tests whose full name matches this Lua pattern.", value = "PATTERN" } },
   run = run_specs,
}
