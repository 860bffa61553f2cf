-- SPDX-License-Identifier: BSD-3-Clause
-- The first line of a message: method, target, host, status; read from the block, and written into its free room.

local bit = require "bit"
local abi = require "tideway.abi"
local block = require "tideway.message.block"
local headers = require "tideway.message.headers"
local query = require "tideway.message.query"

local C = abi.C
local M = { get = {}, set = {} }
local get, set = M.get, M.set
local bytes, put, raise, checked = block.bytes, block.put, block.raise, block.checked

local KIND = {
   [C.TW_MSG_REQUEST] = "request", [C.TW_MSG_RESPONSE] = "response", [C.TW_MSG_DATA] = "data",
   [C.TW_MSG_OPEN] = "open", [C.TW_MSG_DATAGRAM] = "datagram", [C.TW_MSG_ANSWER] = "answer",
}

local function head(self)
   local v = self.v
   if v.size == 0 then block.damaged(v) end
   return v.m
end

-- A text of the head; nil for one that is not there.
local function text_of(self, field)
   local text = head(self)[field]
   local len = text.len
   if len == 0 then return nil end
   return bytes(self.v, text.at, len)
end

function get.kind(self) return KIND[head(self).kind] or "unknown" end
function get.version(self) return head(self).version == 0 and "HTTP/1.0" or "HTTP/1.1" end
function get.scheme(self) return bit.band(head(self).flags, C.TW_MSG_TLS) ~= 0 and "https" or "http" end
function get.method(self) return text_of(self, "method") or "" end
function get.target(self) return text_of(self, "target") or "" end
function get.host(self) return text_of(self, "host") end
function get.asked_target(self) return text_of(self, "asked") or "" end
function get.asked_host(self) return text_of(self, "asked_host") end

-- Targets in absolute form (RFC 9112 3.2.2) are reduced to the form that origin servers get.
local function origin_form(target)
   if target:byte(1) == 47 then return target end -- "/"
   local rest = target:match "^%a[%w+.-]*://[^/?]*(.*)$"
   if not rest then return target end
   if rest:byte(1) ~= 47 then rest = "/" .. rest end
   return rest
end

function get.path(self)
   local target = origin_form(get.target(self))
   local mark = target:find("?", 1, true)
   if mark then return target:sub(1, mark - 1) end
   return target
end

function get.plain_path(self) return query.plain_path(get.path(self)) end

function get.query(self)
   local target = get.target(self)
   local mark = target:find("?", 1, true)
   if mark then return target:sub(mark + 1) end
   return nil
end

--- Parsed on first use; see query.lua.
function get.args(self)
   head(self)
   local args = self.args_parsed
   if not args then
      args = query.parse(get.query(self))
      self.args_parsed = args
   end
   return args
end

function get.status(self)
   local m = head(self)
   local kind = m.kind
   if kind ~= C.TW_MSG_RESPONSE and kind ~= C.TW_MSG_ANSWER then return nil end
   return m.status
end

function get.reason(self) return text_of(self, "reason") or "" end

-- ---- writing ----

local function request_only(self, what)
   block.writable(self)
   local m = head(self)
   if m.kind ~= C.TW_MSG_REQUEST then
      raise(("%s can be set in a request, not in a %s"):format(what, get.kind(self)))
   end
   return m
end

local function edited(m) m.flags = bit.bor(m.flags, C.TW_MSG_EDITED) end

function set.method(self, value)
   local m = request_only(self, "msg.method")
   value = checked("msg.method", value, C.TW_TEXT_TOKEN)
   if value == "" then raise "msg.method: it is empty" end
   local at = put(self, value)
   m.method.at, m.method.len = at, #value
   m.flags = value == "HEAD" and bit.bor(m.flags, C.TW_MSG_HEAD) or bit.band(m.flags, bit.bnot(C.TW_MSG_HEAD))
   edited(m)
end

local function put_target(self, m, target)
   local at = put(self, target)
   m.target.at, m.target.len = at, #target
   self.args_parsed = false
   edited(m)
end

function set.target(self, value)
   local m = request_only(self, "msg.target")
   value = checked("msg.target", value, C.TW_TEXT_TARGET)
   if value == "" then raise "msg.target: it is empty" end
   put_target(self, m, value)
end

function set.path(self, value)
   local m = request_only(self, "msg.path")
   value = checked("msg.path", value, C.TW_TEXT_TARGET)
   if value:byte(1) ~= 47 and not (value == "*" and get.method(self) == "OPTIONS") then
      raise(("msg.path: %q does not begin with /"):format(value))
   end
   if value:find("?", 1, true) then raise "msg.path: a query stands in msg.query, or is set with msg.target" end
   local old = get.query(self)
   put_target(self, m, old and value .. "?" .. old or value)
end

function set.query(self, value)
   local m = request_only(self, "msg.query")
   local path = get.path(self)
   if value == nil then return put_target(self, m, path) end
   put_target(self, m, path .. "?" .. checked("msg.query", value, C.TW_TEXT_TARGET))
end

function set.host(self, value)
   local m = request_only(self, "msg.host")
   value = checked("msg.host", value, C.TW_TEXT_HOST)
   if value == "" then raise "msg.host: it is empty" end
   local target = get.target(self)
   local origin = origin_form(target)
   headers.set_header(self, "Host", value)
   -- an absolute target would go before the Host header (RFC 9112 3.2.2)
   if origin ~= target then put_target(self, m, origin) end
end

function set.status(self, value)
   block.writable(self)
   local m = head(self)
   if m.kind ~= C.TW_MSG_RESPONSE then
      raise(("msg.status can be set in a response, not in a %s"):format(get.kind(self)))
   end
   if type(value) ~= "number" or value < 200 or value > 599 or value % 1 ~= 0 then
      raise(("msg.status is %s; it must be from 200 to 599"):format(tostring(value)))
   end
   if m.status ~= value then m.reason.len = 0 end
   m.status = value
   edited(m)
end

return M
