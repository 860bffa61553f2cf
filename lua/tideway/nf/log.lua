-- SPDX-License-Identifier: BSD-3-Clause
-- log: a line for each request and its response, in the formats that log readers know; see log.md.

local tw = require "tideway"
local date = require "tideway.nf.log.date"

local PARAMS = {
   format = { type = "any", default = "combined", doc = "\"common\", \"combined\", \"json\", or a function(msg)" },
   to = { type = "string", default = "stderr", doc = "\"stderr\" or a file's name" },
   name = { type = "string", default = "access", doc = "of the lines: logs with the same one go to the same place" },
   bytes = { type = "number", min = 65536, max = 2 ^ 31, doc = "memory for lines that wait to be written" },
}

-- What a client may have written, inside of quotes: as Apache writes it (mod_log_config, "\xhh").
local function escape(text)
   if not text:find '[%c"\\\128-\255]' then return text end
   return (text:gsub('[%c"\\\128-\255]', function(c)
      if c == '"' or c == "\\" then return "\\" .. c end
      return ("\\x%02x"):format(c:byte())
   end))
end

local function quoted(text)
   if text == nil or text == "" then return "-" end
   return escape(text)
end

local function size_of(msg)
   local size = msg:body_size()
   return size and ("%d"):format(size) or "-"
end

-- Whether a user that the request names is one is not known here: "-" in its place.
local function common(msg, request)
   return ('%s - - [%s] "%s %s %s" %s %s'):format(request.peer or "-", date.common(request.received_at),
      escape(request.method), escape(request.asked_target), request.version, msg.status or "-", size_of(msg))
end

local function combined(msg, request)
   return ('%s "%s" "%s"'):format(common(msg, request), quoted(request:header "Referer"),
      quoted(request:header "User-Agent"))
end

-- RFC 8259 7. Bytes that are no ASCII are written as the character with that number.
local function json_text(text)
   if text == nil then return "null" end
   return '"' .. text:gsub('[%c"\\\127-\255]', function(c)
      if c == '"' or c == "\\" then return "\\" .. c end
      return ("\\u%04x"):format(c:byte())
   end) .. '"'
end

local function json(msg, request)
   return ('{"time":"%s","client":%s,"port":%d,"method":%s,"target":%s,"host":%s,"status":%s,"bytes":%s,"ms":%.3f,'
      .. '"referer":%s,"agent":%s,"listener":%s,"id":%.0f}'):format(date.iso(request.received_at),
      json_text(request.peer), request.peer_port, json_text(request.method), json_text(request.asked_target),
      json_text(request.asked_host), msg.status or "null", msg:body_size() or "null",
      (tw.now() - request.received) / 1e6, json_text(request:header "Referer"), json_text(request:header "User-Agent"),
      json_text(tostring(request.listener)), request.id)
end

local FORMATS = { common = common, combined = combined, json = json }

local function format_of(format)
   if type(format) == "function" then return format end
   if FORMATS[format] then return FORMATS[format] end
   error(("log: format is %s; it can be common, combined, json or a function(msg, request) that returns a line")
      :format(tostring(format)), 0)
end

--- A line for each response. Parameters: log.md.
return tw.nf("log", function(cfg)
   cfg = tw.args("log", cfg, PARAMS)
   local format = format_of(cfg.format)
   local ok, lines = pcall(tw.lines, cfg.name, { to = cfg.to, bytes = cfg.bytes })
   if not ok then error("log: " .. lines:gsub("^tw%.lines: ", ""), 0) end

   return {
      response = function(msg)
         local request = msg.request
         if not request then return end
         local line = format(msg, request)
         if line then lines:write(line) end
      end,
      readonly = true,
      on_fault = "bypass",
   }
end, { pure = true })
