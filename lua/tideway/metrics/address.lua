-- SPDX-License-Identifier: BSD-3-Clause
-- Where metrics are offered: a Unix socket or a loopback address; any other is refused.

local net = require "tideway.posix.net"
local socket = require "tideway.posix.socket"

local M = {}

local FORMS = "it is unix:/path, 127.0.0.1:PORT or [::1]:PORT"

---@class tideway.metrics.address
---@field path? string of a Unix socket
---@field host? string
---@field port? integer
---@field text string how to reach it

local function is_loopback(host)
   if host == "::1" then return true end
   local a, b, c, d = host:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$"
   if not a then return false end
   for _, n in ipairs { a, b, c, d } do
      if tonumber(n) > 255 then return false end
   end
   return tonumber(a) == 127
end

--- Parse an address.
---@param text string
---@return tideway.metrics.address? address
---@return string? error
function M.parse(text)
   local path = text:match "^unix:(.+)$"
   if path then
      if path:sub(1, 1) ~= "/" then return nil, ("the path of a metrics socket begins with /, not %q"):format(path) end
      return { path = path, text = text }
   end
   local host, port = text:match "^%[(.-)%]:(%d+)$"
   if not host then host, port = text:match "^([^:]*):(%d+)$" end
   if not host then return nil, ("%q is no address for metrics; %s"):format(text, FORMS) end
   if host == "localhost" then host = "127.0.0.1" end
   port = tonumber(port)
   if not is_loopback(host) then
      return nil, ("metrics are not offered on %q: they have no password and no encryption, so only loopback is "
         .. "possible; %s. From another machine: ssh -L, or a proxy of yours"):format(host, FORMS)
   end
   if port > 65535 then return nil, ("%d is no port; ports are 0 (any) to 65535"):format(port) end
   return { host = host, port = port, text = text }
end

--- Listen there.
---@param address tideway.metrics.address
---@return integer? fd
---@return string text_or_error how to reach it
function M.listen(address)
   local fd, err
   if address.path then
      fd, err = socket.listen(address.path, 432) -- 0660
      if fd then return fd, address.text end
   else
      fd, err = net.listen(address.host, address.port)
      local host = address.host == "::1" and "[::1]" or address.host
      if fd then return fd, ("http://%s:%d/metrics"):format(host, err) end
   end
   return nil, ("cannot offer metrics at %s: %s; choose another address with --metrics"):format(address.text, err)
end

return M
