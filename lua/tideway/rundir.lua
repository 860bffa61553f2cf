-- SPDX-License-Identifier: BSD-3-Clause
-- The run directory: where each running instance keeps its counters, and how others find it.
--
-- <base>/<instance>/stats, with base the first of $TIDEWAY_RUN_DIR, /run/tideway where it can be
-- written, $XDG_RUNTIME_DIR/tideway, /tmp/tideway-<uid>.

local lfs = require "lfs"
local ffi = require "ffi"
local posix = require "tideway.posix"

local M = {}

local SYSTEM = "/run/tideway"

local function private_base()
   local xdg = os.getenv "XDG_RUNTIME_DIR"
   if xdg and posix.writable(xdg) then return xdg .. "/tideway" end
   return "/tmp/tideway-" .. posix.geteuid()
end

--- The directory in which this process makes its instance's directory. Not made by this call.
---@return string
function M.base()
   local set = os.getenv "TIDEWAY_RUN_DIR"
   if set and set ~= "" then return set end
   if posix.writable(SYSTEM) then return SYSTEM end
   if not lfs.attributes(SYSTEM) and posix.writable "/run" then return SYSTEM end
   return private_base()
end

--- The directories in which instances are looked for, each once.
---@return string[]
function M.bases()
   local set = os.getenv "TIDEWAY_RUN_DIR"
   if set and set ~= "" then return { set } end
   local own = M.base()
   return own == SYSTEM and { SYSTEM } or { own, SYSTEM }
end

--- The process that owns a stats file, from the file's own header (struct tw_stats: char magic[8],
--- uint32_t abi, int32_t pid). The header's place is the same in every ABI version.
local function read_header(path)
   local f = io.open(path, "rb")
   local head = f and f:read(16)
   if f then f:close() end
   if not head or #head < 16 or head:sub(1, 8) ~= "tideway\0" then return nil end
   local words = ffi.new "uint32_t[2]"
   ffi.copy(words, head:sub(9), 8)
   return words[1], words[0]
end

---@class tideway.instance
---@field name string
---@field dir string
---@field stats string path of the counters
---@field pid integer 0 when the file cannot be read
---@field abi integer
---@field alive boolean
---@field started number modification time of the directory, seconds

-- What is in a directory; nothing when it is gone: others end, and clean up, at any time.
local function entries(dir)
   local list, ok, iterator, handle = {}, pcall(lfs.dir, dir)
   if not ok then return list end
   for name in iterator, handle do
      if name ~= "." and name ~= ".." then list[#list + 1] = name end
   end
   return list
end

-- Anybody can make a directory of this name in /tmp, and pretend to be our engine in it.
local function somebody_elses(base)
   local found = base:find "^/tmp/tideway%-%d+$" and lfs.symlinkattributes(base)
   return found and (found.mode ~= "directory" or found.uid ~= posix.geteuid()) or false
end

--- All instances with a run directory, dead ones too, youngest first.
---@return tideway.instance[]
function M.instances()
   local list = {}
   for _, base in ipairs(M.bases()) do
      if lfs.attributes(base, "mode") == "directory" and not somebody_elses(base) then
         for _, name in ipairs(entries(base)) do
            local dir = base .. "/" .. name
            local stats = dir .. "/stats"
            local started = lfs.attributes(dir, "modification")
            if name:sub(1, 1) ~= "." and started and lfs.attributes(stats, "mode") == "file" then
               local pid, abi = read_header(stats)
               list[#list + 1] = {
                  name = name, dir = dir, stats = stats, pid = pid or 0, abi = abi or 0,
                  alive = pid ~= nil and posix.alive(pid),
                  started = started,
               }
            end
         end
      end
   end
   table.sort(list, function(a, b)
      if a.started ~= b.started then return a.started > b.started end
      return a.name < b.name
   end)
   return list
end

--- Remove what a dead instance left.
---@param instance tideway.instance
function M.remove(instance)
   for _, entry in ipairs(entries(instance.dir)) do os.remove(instance.dir .. "/" .. entry) end
   lfs.rmdir(instance.dir)
end

-- What a directory is to claim(): "free" (does not exist, or nothing is in it: rename() takes its
-- place), "dead" (its instance is gone), "taken" (it runs, or is not an instance's directory at all).
local function state(dir)
   local found = lfs.attributes(dir, "mode")
   if not found then return "free" end
   if found ~= "directory" then return "taken" end
   local pid = read_header(dir .. "/stats")
   if pid then return posix.alive(pid) and pid ~= posix.getpid() and "taken" or "dead" end
   return #entries(dir) > 0 and "taken" or "free"
end

-- A directory of this process with its header in it, under a name that no instance has: whenever we are
-- killed, a directory under an instance's name has a header that says whose it is.
local STAGED = "^%.claim%-(%d+)$"
local function stage(base)
   local dir = ("%s/.claim-%d"):format(base, posix.getpid())
   local ok, err = lfs.mkdir(dir)
   if not ok and not lfs.attributes(dir) then return nil, err end
   local file
   file, err = io.open(dir .. "/stats", "wb")
   if not file then return nil, err end
   file:write("tideway\0", ffi.string(ffi.new("uint32_t[2]", 0, posix.getpid()), 8))
   file:close()
   return dir
end

-- What killed instances left behind, under any name.
local function sweep(base)
   for _, name in ipairs(entries(base)) do
      local dir = base .. "/" .. name
      local staged = name:match(STAGED)
      if staged and not posix.alive(tonumber(staged)) then
         M.remove { dir = dir }
      elseif name:sub(1, 1) ~= "." and lfs.attributes(dir, "mode") == "directory" and state(dir) == "dead" then
         M.remove { dir = dir }
      end
   end
end

local function claim(base, name, exact)
   sweep(base)
   local staged, why = stage(base)
   if not staged then return nil, ("cannot make a directory in %s: %s; set TIDEWAY_RUN_DIR"):format(base, why) end
   for n = 1, 1000 do
      local got = n == 1 and name or name .. "-" .. n
      local dir = base .. "/" .. got
      local is = state(dir)
      if is == "dead" then M.remove { dir = dir } end
      if is ~= "taken" and os.rename(staged, dir) then return dir, got end -- of two that race, one gets it
      if exact then
         M.remove { dir = staged }
         return nil, ("the instance name %q is taken (%s); choose another --name"):format(got, dir)
      end
   end
   M.remove { dir = staged }
   return nil, ("no free instance name %s-N in %s"):format(name, base)
end

local PATIENCE_MS = 2000

--- Make the directory of an instance; what dead ones left is removed first.
--- A name that runs already becomes name-2, name-3, ... unless it was asked for by name.
---@param name string
---@param exact? boolean fail instead of choosing another name
---@return string? dir
---@return string name_or_error the name that was got
function M.claim(name, exact)
   name = name:gsub("[^%w%._%-]", "_"):gsub("^%.", "_"):sub(1, 40)
   local base = M.base()
   if lfs.attributes(base, "mode") ~= "directory" then
      local ok, err = lfs.mkdir(base)
      if not ok and lfs.attributes(base, "mode") ~= "directory" then
         return nil, ("cannot make %s: %s; set TIDEWAY_RUN_DIR"):format(base, err)
      end
   end
   if somebody_elses(base) then
      return nil, ("%s belongs to somebody else; remove it, or set TIDEWAY_RUN_DIR"):format(base)
   end
   -- One at a time: a name that one of two finds dead may be the other one's when it is removed. Not for ever: whoever
   -- may read the directory can hold it.
   local held = posix.hold(base, PATIENCE_MS)
   local dir, got = claim(base, name, exact)
   if held then posix.close(held) end
   return dir, got
end

return M
