-- SPDX-License-Identifier: BSD-3-Clause
-- The command line: help, wrong use, exit codes; completion and man page from the same tables.

local shell = require "test.shell"
local commands = require("tideway.cli").commands()

local function shown()
   local list = {}
   for _, c in ipairs(commands) do
      if not c.hidden then list[#list + 1] = c end
   end
   return list
end

local function has(text, part)
   assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
end

local function option_names(command)
   local names = {}
   for _, option in ipairs(command.options or {}) do
      for name in option[1]:gmatch "%S+" do names[#names + 1] = name end
   end
   return names
end

describe("tideway --help", function()
   it("lists every command that is not hidden, with its summary", function()
      local r = shell.tideway "--help"
      assert.equal(0, r.code)
      for _, c in ipairs(shown()) do
         has(r.out, "   " .. c.name .. " ")
         has(r.out, c.summary)
      end
      assert.is_nil(r.out:find "busted")
   end)

   for _, command in ipairs(commands) do
      it("describes " .. command.name, function()
         local r = shell.tideway(command.name .. " --help")
         assert.equal(0, r.code)
         assert.equal("", r.err)
         has(r.out, "Usage: tideway " .. command.name)
         for _, name in ipairs(option_names(command)) do has(r.out, name) end
         for _, argument in ipairs(command.arguments or {}) do has(r.out, argument[1]) end
         assert.equal(r.out, shell.tideway("help " .. command.name).out)
      end)
   end

   it("names version and ABI with --version", function()
      local r = shell.tideway "--version"
      assert.equal(0, r.code)
      has(r.out, "tideway " .. require "tideway.version")
      has(r.out, "ABI " .. require("tideway.core").abi_hash)
   end)
end)

describe("wrong use exits with 2 and says why:", function()
   local cases = {
      { "", "Usage: tideway" },
      { "chekc", "Did you mean 'check'?" },
      { "nonsense", "commands are run, check" },
      { "run --nmae x script.lua", "Did you mean '--name'?" },
      { "top --onec", "Did you mean '--once'?" },
      { "run", "missing argument 'SCRIPT'" },
      { "run --idle nap script.lua", "'--idle' must be one of 'spin', 'pause', 'sleep', 'interrupt', not 'nap'" },
      { "run --idle=nap script.lua", "not 'nap'" },
      { "run --burst 1.5 script.lua", "option '--burst': a whole number above 0 is needed, not '1.5'" },
      { "run --for=-3 script.lua", "option '--for': a number above 0 is needed, not '-3'" },
      { "run --for nan script.lua", "not 'nan'" },
      { "top a b", "too many arguments" },
      { "completion tcsh", "must be one of 'bash', 'zsh', 'fish'" },
      { "doctor --json=1", "--json" },
   }
   for _, case in ipairs(cases) do
      it("tideway " .. case[1], function()
         local r = shell.tideway(case[1])
         assert.equal(2, r.code)
         assert.equal("", r.out)
         has(r.err, case[2])
         has(r.err, "Usage: tideway")
      end)
   end
end)

describe("tideway check SCRIPT", function()
   local dir
   setup(function() dir = shell.directory() end)
   teardown(function() shell.remove(dir) end)

   local function check(text, arguments)
      shell.write(dir .. "/s.lua", text)
      return shell.tideway(("check %s/s.lua %s"):format(dir, arguments or ""))
   end

   it("gives the script every word after its name, options too", function()
      local r = check("io.stderr:write('got ', table.concat({...}, ' '), ' and ', #arg, '\\n')",
         "a --help -q -- --json")
      has(r.err, "got a --help -q -- --json and 5\n")
   end)

   it("exits with 2 and the position of a syntax error", function()
      local r = check "local x = = 1\n"
      assert.equal(2, r.code)
      has(r.err, "s.lua:1:")
   end)

   it("exits with 2 and the position of an error while loading", function()
      local r = check "\nerror 'no such plan'\n"
      assert.equal(2, r.code)
      has(r.err, "s.lua:2: no such plan")
   end)

   it("exits with 2 when there is no such script", function()
      local r = shell.tideway("check " .. dir .. "/absent.lua")
      assert.equal(2, r.code)
      has(r.err, "absent.lua")
   end)
end)

describe("tideway completion", function()
   -- What bash would offer after the words of a line; its last word is the one being completed.
   local function offered(line)
      local r = shell.run(([[bash -c '
         source <("$0" completion bash)
         COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
         _tideway; printf "%%s\n" "${COMPREPLY[@]}"' %s]]):format(line, shell.quote(shell.binary)))
      assert.equal("", r.err)
      local set = {}
      for word in r.out:gmatch "%S+" do set[word] = true end
      return set
   end

   it("offers every command and no hidden one", function()
      local set = offered [[tideway ""]]
      for _, c in ipairs(commands) do assert.equal(c.hidden or false, not set[c.name], c.name) end
   end)

   it("offers every option of a command", function()
      for _, c in ipairs(shown()) do
         local set = offered("tideway " .. c.name .. " -")
         for _, name in ipairs(option_names(c)) do assert.is_true(set[name], c.name .. " " .. name) end
      end
   end)

   it("offers the choices of an option", function()
      local set = offered [[tideway run --idle ""]]
      for _, mode in ipairs { "spin", "pause", "sleep", "interrupt" } do assert.is_true(set[mode], mode) end
   end)
end)

describe("tideway man", function()
   it("describes every command and option", function()
      local r = shell.tideway "man"
      assert.equal(0, r.code)
      local plain = r.out:gsub("\\f[BIR]", ""):gsub("\\%-", "-")
      for _, c in ipairs(shown()) do
         has(plain, ".SS " .. c.name .. "\n")
         for _, name in ipairs(option_names(c)) do has(plain, name) end
      end
      assert.is_nil(plain:find(".SS test", 1, true))
   end)

   it("is roff without a warning", function()
      if not shell.has "groff" then return pending "groff is missing: apt-get install groff-base" end
      local r = shell.run(shell.quote(shell.binary) .. " man | groff -man -Tutf8 -ww >/dev/null")
      assert.equal("", r.err)
      assert.equal(0, r.code)
   end)
end)
