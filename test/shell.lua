-- SPDX-License-Identifier: BSD-3-Clause
-- For specs: run commands, this binary among them, and see exit code, stdout and stderr.

local lfs = require "lfs"
local posix = require "tideway.posix"

local M = {}

--- The binary that runs the specs.
M.binary = posix.readlink "/proc/self/exe"

--- Quote a word for the shell.
---@param word string
---@return string
function M.quote(word)
   return "'" .. word:gsub("'", [['\'']]) .. "'"
end

--- A new empty directory; the caller removes it with M.remove.
---@return string
function M.directory()
   local path = os.tmpname()
   os.remove(path)
   assert(lfs.mkdir(path))
   return path
end

---@param path string
function M.remove(path)
   os.execute("rm -rf " .. M.quote(path))
end

--- Write a file, its directories too.
---@param path string
---@param text string
function M.write(path, text)
   os.execute("mkdir -p " .. M.quote(path:match "^(.*)/"))
   local f = assert(io.open(path, "wb"))
   f:write(text)
   f:close()
end

local public, guard

--- The binary where every user may run it. The checkout may lie where only root can read: then a copy, laid out as an
--- installed one, which goes when this process ends.
---@return string path
function M.public()
   if public then return public end
   local readable = "setpriv --reuid 65534 --regid 65534 --clear-groups test -x "
   if posix.geteuid() ~= 0 or M.run(readable .. M.quote(M.binary)).code == 0 then
      public = M.binary
      return public
   end
   local dir = M.directory()
   guard = newproxy(true)
   getmetatable(guard).__gc = function() M.remove(dir) end
   local copy = "chmod 755 %s && cd %s && mkdir -p bin share/tideway && cp %s bin/tideway && cp -r %s share/tideway/lua"
   local r = M.run(copy:format(dir, dir, M.quote(M.binary), M.quote(require("tideway.core").root)))
   assert(r.code == 0, r.err)
   public = dir .. "/bin/tideway"
   return public
end

--- Run a shell command to its end. One that takes too long is ended, with what it started, and is an error.
---@param command string
---@param seconds? number how long it may take, default 120
---@return {code: integer, out: string, err: string}
function M.run(command, seconds)
   seconds = seconds or 120
   local out, err, code = os.tmpname(), os.tmpname(), os.tmpname()
   local start = posix.now()
   os.execute(("timeout -k 5 %g sh -c %s >%s 2>%s </dev/null; echo $? >%s"):format(seconds, M.quote(command), out, err,
      code))
   local result = { out = posix.slurp(out), err = posix.slurp(err), code = tonumber(posix.slurp(code)) }
   for _, path in ipairs { out, err, code } do os.remove(path) end
   if result.code >= 124 and posix.now() - start >= seconds * 1e9 then
      error(("this did not end within %g s:\n   %s\nits output:\n%s\nits errors:\n%s"):format(seconds, command, result.out,
         result.err), 2)
   end
   return result
end

--- Run `tideway ARGUMENTS`.
---@param arguments string as typed in a shell
---@param prefix? string before the binary: "VAR=value", "setpriv ..."
---@param seconds? number how long it may take, default 120
---@return {code: integer, out: string, err: string}
function M.tideway(arguments, prefix, seconds)
   local binary = prefix and prefix:find "setpriv" and M.public() or M.binary
   return M.run((prefix and prefix .. " " or "") .. M.quote(binary) .. " " .. arguments, seconds)
end

--- Is a program there?
---@param name string
---@return boolean
function M.has(name)
   return M.run("command -v " .. name).code == 0
end

return M
