-- SPDX-License-Identifier: BSD-3-Clause
-- What this kernel can, found by trying: program types, kinds of maps, helpers of each program type,
-- instructions. Version numbers say little, as distributions take changes back.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local map = require "tideway.bpf.map"
local program = require "tideway.bpf.program"

local M = {}

local C = abi.C
local LOG_SIZE = 16384
local CALL, EXIT, MOV = 0x85, 0x95, 0xb7

-- One instruction as 64 bits.
local function insn(op, dst, src, off, imm)
   return bit.bor(op + dst * 256 + src * 4096 + 0ULL, bit.lshift(bit.band(off, 0xffff) + 0ULL, 16),
      bit.lshift(ffi.cast("int64_t", imm), 32))
end

-- Loads instructions; 0 or -errno, and the log when asked for.
local function try(type_name, insns, with_log)
   local t = program.types[type_name]
   local code = ffi.new("uint64_t[?]", #insns, insns)
   local log = ffi.new("char[?]", LOG_SIZE)
   local fd = C.tw_bpf_program_load(ffi.new("struct tw_bpf_program_spec", { name = "probe",
      license = "GPL", insns = code, count = #insns, type = t[1], attach_type = t[3] or 0, log = log,
      log_size = LOG_SIZE, log_level = with_log and 1 or 0 }))
   if fd >= 0 then C.tw_bpf_close(fd) end
   return fd >= 0 and 0 or fd, ffi.string(log)
end

local known = {}

local function once(what, f)
   if known[what] == nil then known[what] = f() end
   return known[what]
end

--- Why nothing can be found out, nil when it can.
---@return string? reason
function M.missing()
   local rc = try("xdp", { insn(MOV, 0, 0, 0, 2), insn(EXIT, 0, 0, 0, 0) })
   return rc < 0 and abi.error() or nil
end

--- The program types of this kernel.
---@return table<string, boolean>
function M.program_types()
   return once("types", function()
      local found = {}
      for name in pairs(program.types) do
         -- Some types take only some verdicts; 1 is one of each, or 0.
         local rc
         for _, verdict in ipairs { 1, 0 } do
            rc = try(name, { insn(MOV, 0, 0, 0, verdict), insn(EXIT, 0, 0, 0, 0) })
            if rc == 0 then break end
         end
         found[name] = rc == 0
      end
      return found
   end)
end

local samples = {
   ringbuf = { entries = 4096 }, sockhash = { key = "u32" }, lpm_trie = { value = "u32" }, queue = { value = "u32" },
   stack = { value = "u32" }, bloom_filter = { value = "u32" }, array = { value = "u32" },
   percpu_array = { value = "u32" },
}

--- The kinds of maps of this kernel.
---@return table<string, boolean>
function M.map_kinds()
   return once("maps", function()
      local found = {}
      for name, k in pairs(map.kinds) do
         local o = { kind = name, name = "probe", entries = 1 }
         if not samples[name] and not k.key then o.key = "u32" end
         if not samples[name] and not k.value then o.value = "u32" end
         for field, value in pairs(samples[name] or {}) do o[field] = value end
         local m = map.new(o)
         found[name] = m ~= nil
         if m then m:free() end
      end
      return found
   end)
end

-- The verifier says one of these when a helper is not for the type, or is not there.
local function is_refused(log)
   return log:find "unknown func" or log:find "cannot use helper" or log:find "invalid func"
end

--- Name of a helper as bpf_helpers.h has it, without "bpf_"; nil behind the last one that Tideway knows.
---@param id integer  from 1
---@return string? name
function M.helper_name(id)
   local name = C.tw_bpf_helper_name(id)
   return name ~= nil and ffi.string(name) or nil
end

--- The helpers that programs of a type can call. Takes some milliseconds, once.
---@param type_name string
---@return table<string, boolean> helpers  by name, those that can be called
function M.helpers(type_name)
   return once("helpers of " .. type_name, function()
      local found = {}
      local id = 1
      local name = M.helper_name(id)
      while name do
         local rc, log = try(type_name, { insn(CALL, 0, 0, 0, id), insn(EXIT, 0, 0, 0, 0) }, true)
         -- Called without arguments it is refused all the same, but for another reason.
         found[name] = rc == 0 or (log ~= "" and not is_refused(log)) or nil
         id = id + 1
         name = M.helper_name(id)
      end
      return found
   end)
end

--- Can programs of a type call a helper?
---@param type_name string
---@param helper string  "redirect_map"
function M.has(type_name, helper) return M.helpers(type_name)[helper] or false end

local features = {
   -- r0 = 4; do r0 -= 1 while r0 != 0
   loops = { insn(MOV, 0, 0, 0, 4), insn(0x17, 0, 0, 0, 1), insn(0x55, 0, 0, -2, 0), insn(EXIT, 0, 0, 0, 0) },
   -- if w0 == 0
   jmp32 = { insn(MOV, 0, 0, 0, 2), insn(0x16, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0) },
   -- lock *(u64 *)(r10 - 8) += r0, r0 the old value
   atomics = { insn(MOV, 0, 0, 0, 1), insn(0x7a, 10, 0, -8, 0), insn(0xdb, 10, 0, -8, 1), insn(MOV, 0, 0, 0, 2),
      insn(EXIT, 0, 0, 0, 0) },
   -- r0 s/= 1
   signed_division = { insn(MOV, 0, 0, 0, 2), insn(0x37, 0, 0, 1, 1), insn(EXIT, 0, 0, 0, 0) },
   -- call of a function of the program
   functions = { insn(CALL, 0, 1, 0, 1), insn(EXIT, 0, 0, 0, 0), insn(MOV, 0, 0, 0, 2), insn(EXIT, 0, 0, 0, 0) },
}

--- What the verifier takes: { loops, jmp32, atomics, signed_division, functions, large }.
---@return table<string, boolean>
function M.features()
   return once("features", function()
      local found = {}
      for name, code in pairs(features) do found[name] = try("xdp", code) == 0 end
      local large = {}
      for i = 1, 5000 do large[i] = insn(MOV, 0, 0, 0, 2) end
      large[5001] = insn(EXIT, 0, 0, 0, 0)
      found.large = try("xdp", large) == 0 -- more than 4096 instructions
      return found
   end)
end


return M
