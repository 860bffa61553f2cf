-- SPDX-License-Identifier: BSD-3-Clause
-- Kernel helpers that packet functions call by name, tw.bpf.NAME(...): how each takes its arguments. A hook that
-- lacks the helper refuses it.

local ctype = require "tideway.compiler.front.ctype"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local U32 = { lo = 0, hi = 2 ^ 32 - 1 }

-- name -> argument kinds, range of the result. Kinds: ctx, num, pkt:N (N bytes of the frame at a view), pkt:@ (as many
-- as the next argument may say).
local SIGNATURES = {
   ktime_get_ns = { "", { lo = 0, hi = memory.LATEST } },
   ktime_get_coarse_ns = { "", { lo = 0, hi = memory.LATEST } },
   ktime_get_boot_ns = { "", { lo = 0, hi = memory.LATEST } },
   jiffies64 = { "", { lo = 0, hi = memory.LATEST } },
   get_prandom_u32 = { "", U32 },
   get_smp_processor_id = { "", { lo = 0, hi = 65535 } },
   get_numa_node_id = { "", { lo = 0, hi = 65535 } },
   get_socket_cookie = { "ctx", { lo = 0, hi = memory.LATEST } },
   get_hash_recalc = { "ctx", U32 },
   skb_ecn_set_ce = { "ctx", { lo = 0, hi = 1 } },
   tcp_raw_gen_syncookie_ipv4 = { "pkt:20 pkt:@ num", { lo = -4095, hi = 2 ^ 48 } },
   tcp_raw_check_syncookie_ipv4 = { "pkt:20 pkt:20", { lo = -4095, hi = 0 } },
   tcp_raw_gen_syncookie_ipv6 = { "pkt:40 pkt:@ num", { lo = -4095, hi = 2 ^ 48 } },
   tcp_raw_check_syncookie_ipv6 = { "pkt:40 pkt:20", { lo = -4095, hi = 0 } },
   msg_apply_bytes = { "ctx num", { lo = -4095, hi = 0 } },
   msg_cork_bytes = { "ctx num", { lo = -4095, hi = 0 } },
   skb_change_type = { "ctx num", { lo = -4095, hi = 0 } },
   set_hash_invalid = { "ctx", { lo = 0, hi = 0 } },
}

-- The address of a view, with its bytes known to be in the frame.
local function view_address(cx, fv, bytes, what)
   if fv.k ~= "ptr" then cx:refuse(("%s: a view is needed, this is %s"):format(what, value.describe(fv))) end
   memory.load(cx, fv, bytes - 1, 8) -- its bounds check
   if fv.off == 0 then return fv.ir end
   return cx:emit("ptradd", "ptr", { fv.ir, cx:const(fv.off) }, { space = fv.ir.space })
end

-- Upper bound of a length.
local function most(cx, fv, what)
   local _, hi = cx:range(number.ir(cx, fv or value.NIL, what))
   return math.max(1, math.min(hi, 65535))
end

local function plain(name, signature)
   return function(cx, args)
      local list, next = {}, 1
      for kind in signature[1]:gmatch "%S+" do
         local what = ("tw.bpf.%s, argument %d"):format(name, next)
         if kind == "ctx" then
            list[#list + 1] = cx.target:context(cx)
         else
            local fv = args[next] or value.NIL
            next = next + 1
            local bytes = tonumber(kind:match "^pkt:(%d+)$")
            if kind == "pkt:@" then bytes = most(cx, args[next], what) end
            list[#list + 1] = bytes and view_address(cx, fv, bytes, what) or number.ir(cx, fv, what)
         end
      end
      local fields = { lo = signature[2].lo, hi = signature[2].hi, reads = { pkt = true } }
      return { value.int(cx.target:call(cx, name, "num", list, fields)) }
   end
end

local SPECIAL = {}

--- bpf_redirect(ifindex, flags): the packet leaves by that interface when the function returns.
function SPECIAL.redirect(cx, args)
   local ifindex = number.ir(cx, args[1] or value.NIL, "tw.bpf.redirect, the interface")
   local flags = number.ir(cx, args[2] or value.host(0), "tw.bpf.redirect, the flags")
   local rc = cx.target:call(cx, "redirect", "num", { ifindex, flags }, { lo = 0, hi = 255 })
   cx.target:redirect(cx, rc)
   return {}
end
function SPECIAL.redirect_peer(cx, args)
   local ifindex = number.ir(cx, args[1] or value.NIL, "tw.bpf.redirect_peer, the interface")
   local rc = cx.target:call(cx, "redirect_peer", "num", { ifindex, cx:const(0) }, { lo = 0, hi = 255 })
   cx.target:redirect(cx, rc)
   return {}
end

-- struct bpf_fib_lookup (linux/bpf.h), 64 bytes.
local FIB = { family = 0, protocol = 1, sport = 2, dport = 4, length = 6, ifindex = 8, tos = 12, src = 16, dst = 32,
   smac = 52, dmac = 58 }
local AF_INET, AF_INET6 = 2, 10

local function read_mac(cx, p, at)
   local hi, lo = memory.load(cx, p, at, 16), memory.load(cx, p, at + 2, 32)
   local a = cx:emit("bswap", "num", { hi }, { bits = 16, lo = 0, hi = 65535 })
   local b = cx:emit("bswap", "num", { lo }, { bits = 32, lo = 0, hi = 2 ^ 32 - 1 })
   local high = cx:emit("shl", "num", { a, cx:const(32) }, { lo = 0, hi = 65535 * 2 ^ 32 })
   local fv = value.int(cx:emit("add", "num", { high, b }, { lo = 0, hi = 2 ^ 48 - 1 }))
   fv.mac = { hi = hi, lo = lo }
   return fv
end

--- tw.bpf.fib_lookup(ip): the kernel's route for the packet of this ipv4 or ipv6 view. Gives the interface by which it
--- leaves, its address and the next hop's, or nil when the kernel itself has to deal with the packet.
function SPECIAL.fib_lookup(cx, args)
   local ip = args[1] or value.NIL
   local name = ip.shape and ip.shape.name
   if ip.k ~= "ptr" or (name ~= "ipv4" and name ~= "ipv6") then
      cx:refuse(("tw.bpf.fib_lookup: a view of ipv4 or ipv6 is needed, not %s"):format(value.describe(ip)))
   end
   local v4 = name == "ipv4"
   local p = value.ptr(cx:alloca(64, 8), 0, ctype.int.uint8_t)
   for at = 0, 56, 8 do memory.store(cx, p, at, 64, require("tideway.compiler.ir").const(0, "u64")) end
   memory.store(cx, p, FIB.family, 8, cx:const(v4 and AF_INET or AF_INET6))
   memory.store(cx, p, FIB.protocol, 8, memory.load(cx, ip, v4 and 9 or 6, 8))
   local length = number.ir(cx, memory.field(cx, ip, v4 and "total_length" or "payload_length"))
   memory.store(cx, p, FIB.length, 16, length)
   memory.store(cx, p, FIB.ifindex, 32, cx.target:ctxload(cx, "ingress_ifindex"))
   if v4 then
      memory.store(cx, p, FIB.tos, 8, memory.load(cx, ip, 1, 8))
      memory.store(cx, p, FIB.src, 32, memory.load(cx, ip, 12, 32))
      memory.store(cx, p, FIB.dst, 32, memory.load(cx, ip, 16, 32))
   else
      for at = 0, 8, 8 do
         memory.store(cx, p, FIB.src + at, 64, memory.load(cx, ip, 8 + at, 64))
         memory.store(cx, p, FIB.dst + at, 64, memory.load(cx, ip, 24 + at, 64))
      end
   end
   local rc = cx.target:call(cx, "fib_lookup", "num", { cx.target:context(cx), p.ir, cx:const(64), cx:const(0) },
      { lo = -4095, hi = 255, reads = { stack = true }, writes = { stack = true } })
   memory.forget(cx, "stack")
   local join = cx:join()
   local yes, no = cx:split("eq", rc, cx:const(0))
   cx:go(no)
   cx:jump(join, { value.NIL, value.NIL, value.NIL })
   cx:go(yes)
   local ifindex = value.int(memory.load(cx, p, FIB.ifindex, 32))
   cx:jump(join, { ifindex, read_mac(cx, p, FIB.smac), read_mac(cx, p, FIB.dmac) })
   return cx:enter(join)
end

--- tw.bpf.csum_diff(from, from_size, to, to_size, seed): views (or nil) and constant sizes, multiples of 4.
function SPECIAL.csum_diff(cx, args)
   local list = {}
   for i = 1, 3, 2 do
      local view, size = args[i] or value.NIL, args[i + 1] or value.NIL
      if size.k ~= "host" or type(size.v) ~= "number" or size.v % 4 ~= 0 then
         cx:refuse("tw.bpf.csum_diff: the sizes must be constant multiples of 4")
      end
      list[#list + 1] = value.is_host(view, nil) and cx:null()
         or view_address(cx, view, math.max(size.v, 1), "tw.bpf.csum_diff")
      list[#list + 1] = cx:const(size.v)
   end
   list[5] = number.zext32(cx, number.ir(cx, args[5] or value.host(0), "tw.bpf.csum_diff, the seed"))
   -- No error: that comes of sizes that are no multiples of 4 only.
   local rc = cx.target:call(cx, "csum_diff", "num", list, { lo = 0, hi = 2 ^ 32 - 1, reads = { pkt = true } })
   return { value.int(rc) }
end

local function resizing(cx, name, ...)
   return cx.target:call(cx, name, "num", { cx.target:context(cx), ... },
      { resizes = true, writes = { pkt = true }, lo = -4095, hi = 0 })
end

--- tw.bpf.skb_vlan_pop(): the outermost tag goes, also one that the kernel took out of the frame; the one behind it is
--- then out of the frame. 0 when it is done, else 1. Views taken before are dead.
function SPECIAL.skb_vlan_pop(cx)
   return { memory.resize_outcome(cx, resizing(cx, "skb_vlan_pop"), 0, 0) }
end

--- tw.bpf.skb_vlan_push(type, tci): a tag, outside of the frame; the one that was there goes into the frame.
function SPECIAL.skb_vlan_push(cx, args)
   local type = number.ir(cx, args[1] or value.NIL, "tw.bpf.skb_vlan_push, the EtherType of the tag")
   local tci = number.ir(cx, args[2] or value.NIL, "tw.bpf.skb_vlan_push, the tag")
   local swapped = cx:emit("bswap", "num", { type }, { bits = 16, lo = 0, hi = 65535 })
   local old = cx:range(memory.length(cx))
   return { memory.resize_outcome(cx, resizing(cx, "skb_vlan_push", swapped, tci), old, 0) }
end

--- Handler for a helper; nil when packet functions can't call it.
function M.of(name)
   local make = SPECIAL[name]
   if not make and SIGNATURES[name] then make = plain(name, SIGNATURES[name]) end
   return function(cx, args)
      if not cx.target.kernel then
         cx:refuse(("tw.bpf.%s runs on hooks of the kernel only"):format(name))
      end
      if not make then
         cx:refuse(("tw.bpf.%s can't be called from packet functions"):format(name))
      end
      return make(cx, args)
   end
end

return M
