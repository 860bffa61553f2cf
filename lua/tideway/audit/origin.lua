-- SPDX-License-Identifier: BSD-3-Clause
-- Stands in for servers of this machine that are not there: an instance that answers what it is asked.

local address = require "tideway.audit.address"
local instances = require "tideway.audit.instance"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"

local M = {}

-- HTTP: so many bytes. Datagrams: so many bytes, or, where DNS is asked, the query as an answer without records. The
-- same of DNS in streams, where a query comes in one piece because the next one waits for its answer.
local SCRIPT = [[
local tw = require "tideway"
tw.options { gates = 1, drain = 0 }
local body, dns = ("x"):rep(%d), %s
local headers = { ["Content-Type"] = "text/plain" }
local function answer(query, at) return query:sub(1, at + 1) .. "\129\128" .. query:sub(at + 4) end
local kinds = {
   http = tw.nf("origin", function()
      return { message = function(msg) return msg:respond(200, headers, body) end }
   end),
   udp = tw.nf("origin", function()
      return { message = function(msg) return msg:reply(dns and answer(msg.bytes, 1) or body) end }
   end),
   tcp = tw.nf("origin", function()
      return {
         message = function() end,
         data = function(msg) if #msg.bytes > 0 then return msg:reply(answer(msg.bytes, 3)) end end,
      }
   end),
}
local listeners = {}
for i, url in ipairs { %s } do
   local kind = url:match "^%%w+"
   listeners[kind] = listeners[kind] or {}
   table.insert(listeners[kind], tw.listen("origin" .. i, url, { requests = 0 }))
end
for kind, list in pairs(listeners) do
   tw.chain("origin_" .. kind, list, kinds[kind] {}):pin { worker = "inline" }
end
]]

local function is_there(protocol, host, port)
   if protocol == "udp" then return not net.free_datagrams(host, port) end
   local fd = net.connect(host, port)
   if fd then posix.close(fd) end
   return fd ~= nil
end

local function missing(upstreams, speaks)
   local list, addresses = {}, {}
   for _, group in ipairs(upstreams) do
      for _, server in ipairs(group.servers) do
         local host, port = address.split(server.address)
         local here = host and (host:find "^127%." or host == "::1")
         if here and not is_there(group.protocol, host, port) then
            list[#list + 1] = ("%q"):format(speaks[group.protocol] .. "://" .. server.address)
            addresses[server.address] = true
         end
      end
   end
   return list, addresses
end

--- Start it for those servers of these groups that are not there.
---@param o tideway.audit.options
---@param upstreams table[] as figures show them
---@return tideway.audit.instance? nil: all are there
---@return table<string, boolean>? addresses that it has
function M.start(o, upstreams)
   local urls, addresses = missing(upstreams, { http = "http", udp = "udp", tcp = o.dns and "tcp" or "http" })
   if #urls == 0 then return nil end
   local path = o.dir .. "/origin.lua"
   local file = assert(io.open(path, "w"))
   file:write(SCRIPT:format(o.bytes, o.dns ~= nil, table.concat(urls, ", ")))
   file:close()
   local origin, err = instances.start(o, "audit-origin", path, {})
   if not origin then error("the built-in origin did not start: " .. err, 0) end
   return origin, addresses
end

return M
