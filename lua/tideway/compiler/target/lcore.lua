-- SPDX-License-Identifier: BSD-3-Clause
-- An lcore as a place for programs: what ctxload and ctxstore reach there (struct tw_pkt and struct tw_burst of
-- core/abi.h), and the functions of the engine that a program may call.

local core = require "tideway.core"

local M = { name = "lcore" }

---@class tideway.target.field
---@field of "pkt"|"burst"|"self" the struct; "self": the address of one
---@field member string its name there
---@field type string of the IR
---@field bits integer
---@field signed boolean?
---@field write boolean

local function field(of, member, bits, write, signed)
   local type = bits == 64 and "u64" or "num"
   return { of = of, member = member, type = type, bits = bits, write = write, signed = signed }
end

---@type table<string, tideway.target.field>
M.fields = {
   len = field("pkt", "len", 32, false, true),
   verdict = field("pkt", "verdict", 32, true, true),
   out = field("pkt", "out", 16, true),
   port = field("pkt", "port", 16, false),
   hash = field("pkt", "hash", 32, false),
   mark = field("pkt", "mark", 32, true),
   stage = field("pkt", "stage", 16, true),
   resume = field("pkt", "resume", 16, true),
   key = field("pkt", "key", 64, true),
   now = field("burst", "now", 64, false),
   lcore = field("burst", "lcore", 16, false),
   chain = field("burst", "chain", 16, false),
   odd = field("burst", "odd", 32, true, true),
   burst_stage = field("burst", "stage", 32, true),
   pkt = { of = "self", member = "pkt", type = "ptr", bits = 64, write = false },
   burst = { of = "self", member = "burst", type = "ptr", bits = 64, write = false },
}

-- ---- functions of the engine ----

---@class tideway.target.prototype
---@field result "void"|"bool"|"ptr"|"i32"|"u32"|"i64"|"u64"
---@field params string[] likewise

local CLASS = {
   void = "void", bool = "bool", int64_t = "i64", uint64_t = "u64", size_t = "u64", uint32_t = "u32", unsigned = "u32",
}

local function class(declaration)
   if declaration:find "%*" then return "ptr" end
   for word in declaration:gmatch "[%w_]+" do
      if CLASS[word] then return CLASS[word] end
   end
   return "i32" -- int, int32_t, enums and whatever is narrower
end

local function prototypes()
   local found = {}
   for declaration, params in core.cdef:gmatch "([^;{}()]+)(%b());" do
      local result, name = declaration:match "^(.-)([%w_]+)%s*$"
      if name and name:find "^tw_" and not result:find "typedef" then
         local list = {}
         for param in params:sub(2, -2):gmatch "[^,]+" do
            if not param:find "^%s*void%s*$" then list[#list + 1] = class(param) end
         end
         found[name] = { result = class(result), params = list }
      end
   end
   return found
end

--- Functions of core/abi*.h by name.
---@type table<string, tideway.target.prototype>
M.functions = prototypes()

return M
