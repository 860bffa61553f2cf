-- SPDX-License-Identifier: BSD-3-Clause
-- Addresses as listeners and servers are shown with them.

local M = {}

--- Host and port of "127.0.0.1:80" or "[::1]:80"; nil of a path.
---@param text string
---@return string? host
---@return integer? port
function M.split(text)
   local host, port = text:match "^%[(.-)%]:(%d+)$"
   if not host then host, port = text:match "^(.-):(%d+)$" end
   return host, tonumber(port)
end

return M
