-- SPDX-License-Identifier: BSD-3-Clause
-- What all proxies of scripts/bench/messages.lua fetch from: one nginx worker, 128 bytes at /, other sizes at /SIZE.

local child = require "tideway.bench.child"
local configuration = require "messages.configuration"
local posix = require "tideway.posix"

local M = { port = 29100, sizes = { 100, 10000, 100000, 1000000 } }

local running

--- Where a contender is asked for what the origin has; the origin runs from here on.
---@param port integer of the contender
---@param path? string
---@return string url
function M.url(port, path)
   return ("http://127.0.0.1:%d%s"):format(port, path or "/")
end

--- Start it, once; it ends with the benchmark.
function M.start()
   if running then return true end
   local dir = configuration.directory()
   local locations = {}
   for _, size in ipairs(M.sizes) do
      configuration.write(dir .. "/" .. size, ("x"):rep(size))
      locations[#locations + 1] = ("location = /%d { root %s; open_file_cache max=16; }"):format(size, dir)
   end
   local argv = configuration.nginx(M.port, ("location = / { return 200 \"%s\"; } %s"):format(("x"):rep(128),
      table.concat(locations, "\n")))
   local err
   running, err = child.start(argv)
   if not running then return nil, err end
   for _ = 1, 100 do
      if child.run { "curl", "-sf", "-o", "/dev/null", M.url(M.port) } then return true end
      posix.poll({}, 50)
   end
   return nil, "the origin does not answer: " .. running:epitaph()
end

return M
