-- SPDX-License-Identifier: BSD-3-Clause
-- Look-ups in hash and lru tables as C of their own per table: the engine's tw_hash_get() and tw_hash_put() with the
-- table's memory and seeds as constants, as far as what was found last goes (tw_hash_find_front in
-- core/table_slots.h). What is not there is the engine's to find.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

-- Longer keys than this are compared by the engine.
local KEY_WORDS = 4

local function pointer(p) return ("0x%xULL"):format(tonumber(ffi.cast("uintptr_t", p))) end
local function u64(x) return ("0x%sULL"):format(bit.tohex(x)) end

-- What a found entry still has to pass.
local function conditions(view)
   local lines = {}
   if view.expires_offset ~= C.TW_TABLE_NO_EXPIRY then
      lines[1] = ("const uint64_t at = load64(entry + %d);"):format(view.key_stride + view.expires_offset)
      lines[2] = "if (at && at <= now) break;"
   end
   if view.used ~= nil then
      lines[#lines + 1] = ("uint8_t *const used = (uint8_t *)%s + slot;"):format(pointer(view.used))
      lines[#lines + 1] = "if (!__atomic_load_n(used, 0)) __atomic_store_n(used, 1, 0);"
   end
   return table.concat(lines, "\n")
end

local function compare(words)
   local list = {}
   for i = 0, words - 1 do list[#list + 1] = ("(load64(entry + %d) ^ load64(key + %d))"):format(8 * i, 8 * i) end
   return table.concat(list, " | ")
end

local TEXT = [[
#ifndef HAVE_%s
#define HAVE_%s
static inline uint8_t *%s(const uint8_t *key, uint64_t now)
{
uint64_t x = %s;
for (int i = 0; i < %d; i++) {
unsigned __int128 product = (unsigned __int128)(x ^ load64(key + 8 * i)) * %s;
x = (uint64_t)product ^ (uint64_t)(product >> 64);
}
const uint32_t sig = x ^ x >> 32;
for (int way = 0; way < 2; way++) {
const uint64_t hint = __atomic_load_n((const uint64_t *)%s + 2 * (sig & %dU) + way, 0);
const uint32_t slot = hint;
uint8_t *const entry = (uint8_t *)%s + (uint64_t)slot * %d;
if (hint >> 32 != sig || !__atomic_load_n((const uint8_t *)%s + slot, 2)) continue;
if (%s) continue;
%s
return entry + %d;
}
return %s((struct tw_table *)%s, key, now);
}
#endif
]]

--- The function that looks up in a table, and its name; nil when the engine has to do it.
---@param fn string tw_hash_get or tw_hash_put
---@param store tideway.table
---@return string? name `uint8_t *NAME(const uint8_t *key, uint64_t now)`
---@return string text
function M.get(fn, store)
   if type(store.table) ~= "cdata" then return nil, "" end -- not made yet
   local view = ffi.new "struct tw_hash_view"
   C.tw_hash_view(store.table, view)
   local words = view.key_stride / 8
   if words > KEY_WORDS then return nil, "" end
   local table = pointer(store.table)
   local name = ("%s_%s"):format(fn:gsub("^tw_", ""), table:sub(3, -4))
   return name, TEXT:format(name, name, name, u64(view.seed), words, u64(view.factor), pointer(view.front),
      view.front_mask, pointer(view.entries), view.entry_stride, pointer(view.live), compare(words), conditions(view),
      view.key_stride, fn, table)
end

return M
