-- SPDX-License-Identifier: BSD-3-Clause
-- Tables on hooks: BPF maps through the kernel's helpers.

local ctype = require "tideway.compiler.front.ctype"
local lock = require "tideway.compiler.front.intrinsic.lock"
local memory = require "tideway.compiler.front.memory"
local meter = require "tideway.compiler.hooklib.meter"
local number = require "tideway.compiler.front.number"
local tables = require "tideway.compiler.front.intrinsic.table"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"

local M = {}

local STACK, VALUE = { stack = true }, { value = true }
local ANY, NOEXIST = 0, 1

--- The table operations of a hook.
---@param place table
function M.new(place)
   local T = { expires = true, key_word = 4 }

   local function const(cx, t) return cx:table_const(t) end

   function T.key_size(t) return t.key_type.size end

   function T.lookup(cx, t, key)
      return place:call(cx, "map_lookup_elem", "ptr", { const(cx, t), key },
         { space = "value", reads = STACK, table = t })
   end

   local function update(cx, t, key, val, flags)
      memory.forget(cx, "value")
      return place:call(cx, "map_update_elem", "num", { const(cx, t), key, val, cx:const(flags) },
         { reads = STACK, writes = VALUE, lo = -4095, hi = 0, table = t })
   end

   function T.update(cx, t, key, val) return tables.outcome(cx, update(cx, t, key, val, ANY)) end

   function T.delete(cx, t, key)
      memory.forget(cx, "value")
      return tables.outcome(cx, place:call(cx, "map_delete_elem", "num", { const(cx, t), key },
         { reads = STACK, writes = VALUE, lo = -4095, hi = 0, table = t }))
   end

   -- The entry; when there is none, a new one of zeros. Another CPU may be first: then it is that CPU's.
   function T.put(cx, t, key)
      local byte = ctype.of(t.value_type.ctype)
      local first = T.lookup(cx, t, key)
      local join = cx:join()
      local yes, no = cx:split("ne", first, cx:null())
      cx:go(yes)
      cx:jump(join, { value.ptr(first, 0, byte, { nilable = true }) })
      cx:go(no)
      update(cx, t, key, tables.zeros(cx, t.value_type), NOEXIST)
      cx:jump(join, { value.ptr(T.lookup(cx, t, key), 0, byte, { nilable = true }) })
      return cx:enter(join)[1].ir
   end

   function T.add(cx, t, key, n)
      local join, again = cx:join(), cx:join()
      local first = T.lookup(cx, t, key)
      local yes, no = cx:split("ne", first, cx:null())
      cx:go(yes)
      tables.add_to(cx, t, first, n)
      cx:jump(join, { value.TRUE })
      cx:go(no)
      local val = value.ptr(cx:alloca(t.value_type.size, 8), 0, ctype.of(t.value_type.ctype))
      memory.store(cx, val, 0, t.value_type.size * 8, n)
      local added, other = cx:split("eq", update(cx, t, key, val.ir, NOEXIST), cx:const(0))
      cx:go(added)
      cx:jump(join, { value.TRUE })
      cx:go(other)
      cx:jump(again)
      cx:enter(again)
      local second = T.lookup(cx, t, key)
      local there, full = cx:split("ne", second, cx:null())
      cx:go(there)
      tables.add_to(cx, t, second, n)
      cx:jump(join, { value.TRUE })
      cx:go(full)
      cx:jump(join, { value.FALSE })
      return cx:enter(join)[1]
   end

   -- An entry of an array; the kernel gives nil for an index beyond its end.
   local function entry_at(cx, t, index)
      local key = cx:alloca(4, 4)
      cx:emit("store", "void", { key, index }, { bits = 32, off = 0 })
      return T.lookup(cx, t, key)
   end

   -- An entry of an array; the kernel gives nil for an index beyond its end, but looks at 32 bits only.
   function T.entry(cx, t, index)
      local lo, hi = cx:range(index)
      if lo and lo >= -2 ^ 31 and hi < 2 ^ 32 then return entry_at(cx, t, index) end
      local join, byte = cx:join(), ctype.int.uint8_t
      local yes, no = cx:split("ult", index, cx:const(t.entries))
      if no then
         cx:go(no)
         cx:jump(join, { value.ptr(cx:null(), 0, byte, { nilable = true }) })
      end
      cx:go(yes)
      cx:jump(join, { value.ptr(entry_at(cx, t, index), 0, byte, { nilable = true }) })
      return cx:enter(join)[1].ir
   end

   -- struct bpf_lpm_trie_key: prefix length in host order, address in network order.
   function T.lpm(cx, t, fv)
      local bytes = t.family == 6 and 16 or 4
      local key = cx:alloca(4 + bytes, 8)
      cx:emit("store", "void", { key, cx:const(bytes * 8) }, { bits = 32, off = 0 })
      if bytes == 4 then
         local address = number.zext32(cx, number.ir(cx, fv, t.name .. ":get, the address"))
         local raw = cx:emit("bswap", "num", { address }, { bits = 32, lo = 0, hi = 2 ^ 32 - 1 })
         cx:emit("store", "void", { key, raw }, { bits = 32, off = 4 })
      else
         local a, b = memory.halves(cx, fv)
         cx:emit("store", "void", { key, a }, { bits = 64, off = 4 })
         cx:emit("store", "void", { key, b }, { bits = 64, off = 12 })
      end
      return T.lookup(cx, t, key)
   end

   function T.count(cx, t, index, by)
      local p = T.entry(cx, t, index)
      local join = cx:join()
      local yes, no = cx:split("ne", p, cx:null())
      cx:go(no)
      cx:jump(join)
      cx:go(yes)
      local entry = value.ptr(p, 0, ctype.int.uint64_t)
      memory.store(cx, entry, 0, 64, cx:emit("add", "u64", { memory.load(cx, entry, 0, 64), by }))
      cx:jump(join)
      cx:enter(join)
   end

   -- ---- meters ----

   -- The colour of a packet, by the library's marker on the entry; red when there is no such meter.
   function T.meter(cx, t, args)
      local first = number.ir(cx, args[1] or value.NIL, t.name .. ":mark, the meter")
      local length = value.int(number.ir(cx, args[2] or value.NIL, t.name .. ":mark, the length"))
      local color, now = args[3] or value.host(0), cx.target.now(cx) -- no calls inside the lock
      local type = types.parse(meter.value, true)
      local p = T.entry(cx, t, first)
      local join = cx:join()
      local yes, no = cx:split("ne", p, cx:null())
      cx:go(no)
      cx:jump(join, { value.host(2) })
      cx:go(yes)
      local entry = value.ptr(p, 0, ctype.of(type.ctype), { ref = true, shape = type })
      lock.method(entry, "lock")(cx, entry)
      local result = require("tideway.compiler.front.call").inline_live(cx, meter.mark, { entry, length, color, now })
      lock.method(entry, "unlock")(cx, entry)
      cx:jump(join, { result[1] })
      return cx:enter(join)[1]
   end

   -- ---- spin locks ----

   local function on_lock(cx, helper, entry)
      if place.name == "socket_filter" then
         cx:refuse("the kernel allows no spin locks in socket filters", "use exchange(), or a per-CPU table")
      end
      local offset = entry.off + entry.shape.lock_offset
      local at = cx:emit("ptradd", "ptr", { entry.ir, cx:const(offset) }, { space = "value" })
      place:call(cx, helper, "void", { at }, { reads = VALUE, writes = VALUE })
   end
   function T.lock(cx, entry) on_lock(cx, "spin_lock", entry) end
   function T.unlock(cx, entry) on_lock(cx, "spin_unlock", entry) end

   -- ---- kinds that only hooks have ----

   local special = {}

   special.ringbuf = {
      output = function(cx, t, args)
         local val = tables.object(cx, t.name .. ":output", t.value_type, args, 1)
         local rc = place:call(cx, "ringbuf_output", "num",
            { const(cx, t), val, cx:const(t.value_type.size), cx:const(0) },
            { reads = STACK, writes = { mem = true }, lo = -4095, hi = 0, table = t })
         return { tables.outcome(cx, rc) }
      end,
   }

   local function push(cx, t, args)
      local val = tables.object(cx, t.name .. ":push", t.value_type, args, 1)
      return { tables.outcome(cx, place:call(cx, "map_push_elem", "num", { const(cx, t), val, cx:const(ANY) },
         { reads = STACK, writes = { mem = true }, lo = -4095, hi = 0, table = t })) }
   end

   local function take(helper)
      return function(cx, t)
         local val = tables.zeros(cx, t.value_type)
         local rc = place:call(cx, helper, "num", { const(cx, t), val },
            { reads = STACK, writes = { stack = true, mem = true }, lo = -4095, hi = 0, table = t })
         memory.forget(cx, "stack")
         local yes, no = cx:split("eq", rc, cx:const(0))
         local join = cx:join()
         cx:go(no)
         cx:jump(join, { value.NIL })
         cx:go(yes)
         local p = value.ptr(val, 0, ctype.of(t.value_type.ctype), { ref = true, shape = t.value_type })
         cx:jump(join, { t.value_type.scalar and memory.load_basic(cx, p, 0, t.value_type.fields[1].type) or p })
         return { cx:enter(join)[1] }
      end
   end

   special.queue = { push = push, pop = take "map_pop_elem", peek = take "map_peek_elem" }
   special.stack = special.queue
   special.bloom = {
      push = push,
      has = function(cx, t, args)
         local val = tables.object(cx, t.name .. ":has", t.value_type, args, 1)
         return { tables.outcome(cx, place:call(cx, "map_peek_elem", "num", { const(cx, t), val },
            { reads = STACK, lo = -4095, hi = 0, table = t })) }
      end,
   }

   local function redirect(cx, t, args)
      local key, flags = number.ir(cx, args[1], t.name .. ":redirect"), args[2] or value.host(0)
      local rc = place:call(cx, "redirect_map", "num", { const(cx, t), key, number.ir(cx, flags, "flags") },
         { lo = 0, hi = 255, table = t })
      place:redirect(cx, rc)
      return {}
   end
   special.devmap = { redirect = redirect }
   special.devmap_hash, special.cpumap, special.xskmap = special.devmap, special.devmap, special.devmap

   local SOCKET = { sk_msg = "msg_redirect_", sk_skb = "sk_redirect_" }
   local function to_socket(kind)
      return function(cx, t, args)
         local helper = (SOCKET[place.name] or SOCKET.sk_skb) .. kind
         local ctx = place:context(cx)
         local key
         if kind == "hash" then
            key = tables.object(cx, t.name .. ":redirect", t.key_type, args, 1)
         else
            key = number.ir(cx, args[1], t.name .. ":redirect")
         end
         local list = { ctx, const(cx, t), key, cx:const(0) }
         local rc = place:call(cx, helper, "num", list, { reads = STACK, lo = 0, hi = 1, table = t })
         place:redirect(cx, rc)
         return {}
      end
   end
   special.sockmap = { redirect = to_socket "map" }
   special.sockhash = { redirect = to_socket "hash" }

   -- sk_lookup: the socket of an entry gets the connection; false when there is none.
   function special.sockmap.assign(cx, t, args)
      local key = tables.object(cx, t.name .. ":assign", t.key_type, args, 1)
      local socket = place:call(cx, "map_lookup_elem", "ptr", { const(cx, t), key },
         { space = "ctx", reads = STACK, table = t })
      local join = cx:join()
      local yes, no = cx:split("ne", socket, cx:null())
      cx:go(no)
      cx:jump(join, { value.FALSE })
      cx:go(yes)
      local rc = place:call(cx, "sk_assign", "num", { place:context(cx), socket, cx:const(0) }, { lo = -4095, hi = 0 })
      place:call(cx, "sk_release", "num", { socket }, { lo = 0, hi = 0 })
      cx:jump(join, { tables.outcome(cx, rc) })
      return { cx:enter(join)[1] }
   end
   special.sockhash.assign = special.sockmap.assign

   -- sk_reuseport: the socket of an entry gets the packet; false when there is none.
   function special.sockmap.select(cx, t, args)
      local key = tables.object(cx, t.name .. ":select", t.key_type, args, 1)
      local rc = place:call(cx, "sk_select_reuseport", "num", { place:context(cx), const(cx, t), key, cx:const(0) },
         { lo = -4095, hi = 0, reads = STACK, table = t })
      return { tables.outcome(cx, rc) }
   end
   special.sockhash.select = special.sockmap.select
   special.reuseport_sockarray = { select = special.sockmap.select }

   special.prog_array = {
      tail_call = function(cx, t, args)
         place:call(cx, "tail_call", "num", { place:context(cx), const(cx, t), number.ir(cx, args[1], "an index") },
            { lo = -4095, hi = 0, table = t, writes = { pkt = true, value = true }, resizes = true })
         memory.resized(cx) -- to the verifier, who knows nothing of the other program
         return {}
      end,
   }

   --- What tables of a kind that only hooks have can do in packet functions; nil for other kinds.
   function T.names(t)
      if not special[t.kind] then return nil end
      local list = {}
      for name in pairs(special[t.kind]) do list[#list + 1] = name end
      table.sort(list)
      return table.concat(list, ", ")
   end

   function T.method(cx, t, name)
      local methods = special[t.kind]
      if methods then
         cx.used_tables[t] = true
         return methods[name] and function(_, _, args) return methods[name](cx, t, args) end
      end
   end

   return T
end

return M
