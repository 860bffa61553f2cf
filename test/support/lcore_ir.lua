-- SPDX-License-Identifier: BSD-3-Clause
-- Runs IR programs over frames in a burst of its own: as LuaJIT source, as C compiled by the system's compiler, and in
-- the IR's interpreter, whose word counts.

local ffi = require "ffi"
local c = require "tideway.compiler.back.c"
local luajit = require "tideway.compiler.back.luajit"
local run = require "tideway.compiler.ir.run"
local text = require "tideway.compiler.ir.text"
local verify = require "tideway.compiler.ir.verify"

local M = {}

local ROOM = 256 -- bytes around every frame, so that a wild write is seen

--- The program that a text describes; it must be well formed.
function M.program(source, tables)
   local program = assert(text.parse(source, tables))
   assert(verify.verify(program))
   return program
end

--- A function over a burst, from an IR program.
function M.lua(program, options, burst)
   local out = assert(luajit.emit(program, options))
   local fn, anchor = assert(loadstring(out.source, "=" .. program.name))(burst)
   return fn, anchor, out.source
end

local count = 0

--- Compiles programs into one library; returns a list of functions over a burst.
---@param programs table[]
---@param options? table[]
function M.c(programs, options)
   local parts, names = { c.prelude() }, {}
   for i, program in ipairs(programs) do
      count = count + 1
      names[i] = "tw_spec_ir_" .. count
      local o = { name = names[i] }
      for k, v in pairs(options and options[i] or {}) do o[k] = v end
      parts[#parts + 1] = c.emit(program, o)
   end
   local base = os.tmpname()
   local file = assert(io.open(base .. ".c", "w"))
   file:write(table.concat(parts, "\n"))
   file:close()
   local command = ("cc -O2 -fwrapv -fno-strict-aliasing -w -shared -fPIC -o $.so $.c 2>$.err"):gsub("%$", base)
   local ok = os.execute(command) == 0
   local handle = io.open(base .. ".err")
   local messages = handle:read "*a"
   handle:close()
   local list = {}
   if ok then
      local library = ffi.load(base .. ".so")
      for i, name in ipairs(names) do
         ffi.cdef(("void %s(struct tw_burst *burst, int32_t count);"):format(name))
         local fn = library[name]
         list[i] = function(burst, n) return fn(burst, n) end
      end
      list.lib = library
   end
   for _, suffix in ipairs { "", ".c", ".so", ".err" } do os.remove(base .. suffix) end
   assert(ok, messages)
   return list
end

-- ---- bursts ----

local FIELDS = { "verdict", "out", "port", "hash", "mark", "stage", "resume", "key" }
local START = { verdict = 0, out = 0xffff, port = 1, hash = 0, mark = 0, stage = 23, resume = 0, key = 0ULL }

--- A burst whose frames lie in memory of their own.
---@param frames string[]
---@param contexts? table[] fields of struct tw_pkt per frame
function M.burst(frames, contexts)
   local burst = ffi.new "struct tw_burst"
   local memory = ffi.new("uint8_t[?]", 64 * (2048 + ROOM))
   local b = { burst = burst, memory = memory, frames = frames, contexts = contexts }
   return b
end

--- Puts the frames (back) into the burst.
function M.fill(b)
   ffi.fill(b.memory, ffi.sizeof(b.memory), 0xa5)
   local burst = b.burst
   burst.now, burst.count, burst.stage, burst.odd, burst.lcore = 123456789, #b.frames, 0, 0, 0
   for i, frame in ipairs(b.frames) do
      local pkt = burst.pkts[i - 1]
      pkt.data = b.memory + (i - 1) * (2048 + ROOM) + ROOM
      ffi.copy(pkt.data, frame, #frame)
      pkt.len = #frame
      for name, value in pairs(START) do pkt[name] = value end
      for name, value in pairs(b.contexts and b.contexts[i] or {}) do pkt[name] = value end
   end
end

--- What is in the burst now: per frame its bytes and fields as one string.
function M.state(b)
   local list = {}
   for i = 1, #b.frames do
      local pkt = b.burst.pkts[i - 1]
      local fields = {}
      for k, name in ipairs(FIELDS) do fields[k] = name .. "=" .. tostring(pkt[name]) end
      list[i] = ffi.string(pkt.data, pkt.len):gsub(".", function(ch) return ("%02x"):format(ch:byte()) end)
         .. " " .. table.concat(fields, " ")
   end
   return list
end

-- Fields of the context, cut to the width they have in the struct.
local function context()
   local pkt, rest = ffi.new "struct tw_pkt", {}
   return setmetatable({}, {
      __index = function(_, name) return START[name] and pkt[name] or rest[name] end,
      __newindex = function(_, name, value)
         if not START[name] then
            rest[name] = value
         elseif name == "key" then
            pkt.key = ffi.cast("uint64_t", value)
         else
            pkt[name] = tonumber(ffi.cast("int32_t", ffi.cast("int64_t", value)))
         end
      end,
   })
end

--- The same, as the interpreter of the IR says.
function M.expected(b, program, call)
   local list = {}
   for i, frame in ipairs(b.frames) do
      local ctx = context()
      for name, value in pairs(START) do ctx[name] = value end
      for name, value in pairs(b.contexts and b.contexts[i] or {}) do ctx[name] = value end
      ctx.len, ctx.now, ctx.odd, ctx.burst_stage, ctx.lcore, ctx.chain = #frame, 123456789, 0, 0, 0, 0
      local _, data = run.run(program, { data = frame, ctx = ctx, call = call })
      local fields = {}
      for k, name in ipairs(FIELDS) do fields[k] = name .. "=" .. tostring(ctx[name]) end
      list[i] = data:gsub(".", function(ch) return ("%02x"):format(ch:byte()) end) .. " " .. table.concat(fields, " ")
   end
   return list
end

return M
