-- SPDX-License-Identifier: BSD-3-Clause
-- Names that functions give to msg:route, msg:upstream and msg:fetch as constants, read in their bytecode: one that
-- nothing has would be a fault with each message.

local bit = require "bit"
local util = require "jit.util"
local vmdef = require "jit.vmdef"

local M = {}
local band, rshift = bit.band, bit.rshift
local METHODS = { "message", "response", "data" }

local function opcode(ins)
   local at = band(ins, 0xff) * 6
   return vmdef.bcnames:sub(at + 1, at + 6)
end

-- A method of the message that is called here with a constant: its name, and the constant. msg:route "name" is TGETS
-- base, msg, "route"; KSTR base + 3, "name". Of a table constructor (TDUP) it is a table with what is constant in it.
-- msg is the first parameter, and so slot 0.
local function called(fn, pc)
   local ins, following = util.funcbc(fn, pc), util.funcbc(fn, pc + 1)
   if not following or opcode(ins) ~= "TGETS " or rshift(ins, 24) ~= 0
      or band(rshift(following, 8), 0xff) ~= band(rshift(ins, 8), 0xff) + 3 then
      return nil
   end
   local kind = opcode(following)
   if kind ~= "KSTR  " and kind ~= "TDUP  " then return nil end
   return util.funck(fn, -band(rshift(ins, 16), 0xff) - 1), util.funck(fn, -rshift(following, 16) - 1)
end

-- The name that stands here for a route, or for a group.
local NAMED = {
   route = function(method, value) return method == "route" and value end,
   upstream = function(method, value)
      if method == "fetch" and type(value) == "table" then return value.upstream end
      return method == "upstream" and value
   end,
}

--- The first name that a function gives to its messages and that is not among these.
---@param nf tideway.nf.instance
---@param what "route"|"upstream" functions aside, or upstream groups
---@param names string[] those that there are
---@return string? name
---@return string? where the position of the call
function M.unknown(nf, what, names)
   local known = {}
   for _, name in ipairs(names) do known[name] = true end
   for _, method in ipairs(METHODS) do
      local fn = nf[method]
      local info = type(fn) == "function" and util.funcinfo(fn)
      for pc = 1, info and info.bytecodes and info.bytecodes - 1 or 0 do
         local name = NAMED[what](called(fn, pc))
         if type(name) == "string" and not known[name] then return name, util.funcinfo(fn, pc).loc end
      end
   end
   return nil
end

return M
