-- SPDX-License-Identifier: BSD-3-Clause
-- Metrics of a running engine: an OpenMetrics endpoint on the control thread's loop, and the same text at once.

local address = require "tideway.metrics.address"
local engine = require "tideway.engine"
local exposition = require "tideway.metrics.exposition"
local families = require "tideway.metrics.families"
local http = require "tideway.metrics.http"
local posix = require "tideway.posix"

local M = {}

-- However many ask: the text is made at most so often.
local FRESH_NS = 200e6

local endpoint
local cached, cached_at, before
local scrapes, spent = 0, 0

local function own(text)
   text:family("counter", "tideway_scrapes", nil, "Requests for the metrics.")
   text:sample("", scrapes)
   text:family("counter", "tideway_scrape_seconds", "seconds", "Time the control thread spent on making this text.")
   text:sample("", spent / 1e9)
end

--- The metrics now; a text that is younger than 0.2 s is given again.
---@return string
function M.text()
   local start = posix.now()
   if cached and start - cached_at < FRESH_NS then return cached end
   local snapshot = engine.snapshot()
   cached, cached_at = families.text(snapshot, before, own), start
   before, spent = snapshot, spent + posix.now() - start
   return cached
end

local INDEX = "Tideway: the metrics are at /metrics, in the OpenMetrics text format.\n"

local function answer(path)
   if path == "/metrics" then
      scrapes = scrapes + 1
      return 200, exposition.CONTENT_TYPE, M.text()
   elseif path == "/" then
      return 200, "text/plain; charset=utf-8", INDEX
   end
   return 404, "text/plain; charset=utf-8", ("there is no %s here, only /metrics\n"):format(path)
end

--- Offer the metrics.
---@param text string "unix:/path", "127.0.0.1:9464", "[::1]:9464"; port 0: any that is free
---@return string? where how to reach them
---@return string? error
function M.start(text)
   local parsed, err = address.parse(text)
   if not parsed then return nil, err end
   local fd, where = address.listen(parsed)
   if not fd then return nil, where end
   endpoint = { server = http.serve(fd, answer), path = parsed.path }
   return where
end

--- No more.
function M.stop()
   if not endpoint then return end
   endpoint.server:close()
   if endpoint.path then os.remove(endpoint.path) end
   endpoint, cached, before = nil, nil, nil
end

return M
