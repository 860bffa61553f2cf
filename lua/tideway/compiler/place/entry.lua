-- SPDX-License-Identifier: BSD-3-Clause
-- What a hook's program does before the first NF: makes headers linear, or copies them where the packet itself is out
-- of reach. Functions of tideway.compiler.place.hook.

local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local part = require "tideway.compiler.place.part"
local punt = require "tideway.compiler.place.punt"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local watch = require "tideway.compiler.place.watch"

local M = {}

-- Bytes of the frame that are made linear on hooks that see socket buffers.
local LINEAR = 256

-- Helpers that make the first bytes of a packet readable in one piece, and their arguments.
local PULL = {
   skb = function(self, cx, want) return "skb_pull_data", { self:context(cx), want } end,
   msg = function(self, cx, want) return "msg_pull_data", { self:context(cx), cx:const(0), want, cx:const(0) } end,
}

--- What runs before the first NF.
function M:enter(cx)
   watch.prepare(self, cx)
   punt.enter(self, cx)
   self:open_way_out(cx)
   self:open(cx)
   if self.part.first > 0 then part.resume(self, cx) else watch.enter(self, cx) end
end

-- Where packets may lie in pieces, makes the headers linear.
function M:open(cx)
   if self.name == "socket_filter" then return self:enter_copy(cx) end
   if not self.kernel.packet or not self.kernel.length then return end
   local pull = self.name == "sk_msg" and PULL.msg or PULL.skb
   if pull == PULL.skb and not self.kernel:helper "skb_pull_data" then return end
   local len = memory.length(cx)
   local want = number.ir(cx, number.extreme(cx, "min", value.int(len), value.host(LINEAR)))
   local inside, outside = cx:check(memory.data(cx), LINEAR, memory.data_end(cx))
   local join = cx:join()
   cx:go(inside)
   cx:jump(join)
   cx:go(outside)
   local helper, args = pull(self, cx, want)
   self:call(cx, helper, "num", args, { resizes = true, lo = -4095, hi = 0 })
   cx:jump(join)
   cx:enter(join)
   memory.resized(cx)
end

-- Bytes that a socket filter sees of a packet.
local COPIED = 256

local scratch

-- A place per CPU for the copy: the stack takes no unaligned access. It is twice as long, so that whatever begins
-- inside the copy and is no longer than it can be read as far as the verifier is concerned.
local function scratch_table()
   if not scratch then
      local fields = {}
      for i = 1, 2 * COPIED / 8 do fields[i] = "u64 w" .. i end
      scratch = { kind = "percpu_array", name = "frame", key_type = types.parse "u32",
         value_type = types.parse(table.concat(fields, "; ")), entries = 1, internal = true }
   end
   return scratch
end

-- Socket filters have no access to the packet: its first bytes are copied.
function M:enter_copy(cx)
   local t = scratch_table()
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   local copy = self:call(cx, "map_lookup_elem", "ptr", { cx:table_const(t), key },
      { space = "value", reads = { stack = true }, table = t })
   local there, gone = cx:split("ne", copy, cx:null())
   cx:go(gone)
   cx:ret(cx:const(self.code.pass))
   cx:go(there)
   local len = cx:emit("pktlen", "num", {}, { lo = 0, hi = 65535 })
   local n = number.ir(cx, number.extreme(cx, "min", value.int(len), value.host(COPIED)))
   local some, none = cx:split("gt", n, cx:const(0))
   cx:go(none)
   self:leave(cx, 0, "pass", nil, self.code.pass)
   cx:go(some)
   local rc = self:call(cx, "skb_load_bytes", "num", { self:context(cx), cx:const(0), copy, n },
      { lo = -4095, hi = 0, writes = { value = true } })
   local done, failed = cx:split("eq", rc, cx:const(0))
   cx:go(failed)
   self:leave(cx, 0, "pass", nil, self.code.pass)
   cx:go(done)
   cx.copied = { data = copy, length = n, size = COPIED, frame_length = len }
end

return M
