-- SPDX-License-Identifier: BSD-3-Clause
-- A chain as C that runs straight on mbufs (tw_native_mbufs_fn in core/abi_native.h): what packets are to Lua is not
-- made for it.

local ir = require "tideway.compiler.ir"
local operands = require "tideway.compiler.back.c.operand"
local target = require "tideway.compiler.target.lcore"

local TYPES, operand, address = operands.TYPES, operands.operand, operands.address
local M = {}

-- Fields of struct tw_pkt that are variables of the loop.
M.FIELDS = { data = true, len = true, verdict = true, out = true, port = true, stage = true, resume = true,
   mark = true }

--- Whether a program can: nothing may ask for the packet itself, which is not in the burst.
function M.runs(order, options)
   if options.stage or options.guard or options.resume or not options.stages then return false end
   for _, block in ipairs(order) do
      for _, v in ipairs(block.insts) do
         local f = (v.op == "ctxload" or v.op == "ctxstore") and target.fields[v.field]
         if v.packet or f and (f.of == "self" or f.of == "pkt" and not M.FIELDS[f.member]) then return false end
      end
   end
   return true
end

-- Where frames begin behind an mbuf unless somebody moved them: to fetch something else does no harm.
local DATA_AHEAD = 256

local HEAD = [[
int32_t odd = 0;
const uint64_t turn = (uint64_t)burst->turn << 48;
uint64_t bytes = 0, word, rest;
uint16_t any = 0, all = 0xffff; /* bits of the ports that packets leave by */
if (port >= TW_PORTS_MAX) __builtin_unreachable();
for (int32_t i = 0; i < count; i++) {
const uint8_t *const mbuf = mbufs[i];
uint8_t *const data = (uint8_t *)load64(mbuf + TW_MBUF_BUF_ADDR) + load16(mbuf + TW_MBUF_DATA_OFF);
const int32_t len = load16(mbuf + TW_MBUF_DATA_LEN);
int32_t verdict = TW_NEXT;
uint16_t out = TW_PORT_NONE, stage = TW_STAGE_ENGINE, resume = 0;
uint32_t mark = 0;
bytes += len;
__builtin_prefetch((uint8_t *)mbufs[i + TW_MBUFS_AHEAD] + %d, 1);
if (load32(mbuf + TW_MBUF_PKT_LEN) != (uint32_t)len) { resume = TW_RESUME_SCATTERED; goto next; }
]]

-- What the last NF sends to a port goes there together with what was routed there.
-- pkts[i].mark and what is beside it stay unwritten in packets that go on, unless the program writes them.
local END = [[
next:;
const uint32_t to = (uint32_t)verdict >> 8;
const bool sent = (verdict & 0xff) == TW_PORT && stage == %d && to < TW_PORTS_MAX;
if (sent) out = to;
word = (uint32_t)verdict | (uint64_t)out << 32 | turn;
__builtin_memcpy(&burst->pkts[i].verdict, &word, sizeof(word));
any |= out;
all &= out;
if (verdict != TW_SINK || %s) {
rest = mark | (uint64_t)stage << 32 | (uint64_t)resume << 48;
__builtin_memcpy(&burst->pkts[i].mark, &rest, sizeof(rest));
odd |= !sent && verdict != TW_SINK;
}
}
burst->bytes = bytes;
burst->odd |= odd | any ^ all;
]]

local function writes_mark(order)
   for _, block in ipairs(order) do
      for _, v in ipairs(block.insts) do
         if v.op == "ctxstore" and v.field == "mark" then return true end
      end
   end
   return false
end

-- What an address is made of, down to the packet's first bytes, in order; nil when there is more to it. Of paths that
-- meet one is taken that brings a constant: the first, which is the common one (no tag, no options).
local FIRST_BYTES = 64

local function constant_of(graph, p)
   for i, q in ipairs(p.block.params) do
      for _, edge in ipairs(q == p and graph.preds[p.block] or {}) do
         local a = edge.target.args[i]
         if a.op == "const" and a.type == "num" then return a.value end
      end
   end
end

-- Where a pointer is in the frame, when that is known.
local function place_in_frame(graph, p)
   if p.op == "pktdata" then return 0 end
   if p.op ~= "ptradd" then return nil end
   local base, by = place_in_frame(graph, p.args[1]), p.args[2]
   local more = by.op == "const" and by.value or by.op == "param" and constant_of(graph, by)
   return base and more and base + more or nil
end

local function steps_to(graph, v, list, seen)
   if v.op == "const" or seen[v] then return list end
   if v.op == "load" then
      local at = place_in_frame(graph, v.args[1])
      if not at or at + v.off < 0 or at + v.off + v.bits / 8 > FIRST_BYTES then return nil end
      list[#list + 1] = { load = v, at = at + v.off }
      seen[v] = true
      return list
   elseif not ir.PURE[v.op] then
      return nil
   end
   for _, a in ipairs(v.args or {}) do
      if not steps_to(graph, a, list, seen) then return nil end
   end
   seen[v] = true
   list[#list + 1] = { value = v }
   return list
end

-- Fetches what a packet some places ahead will look up in memory that is too large for the caches. A packet that has
-- no such bytes makes this fetch something else: its buffer is longer than that.
local function fetch_far(self, graph)
   local done = {}
   for _, block in ipairs(graph.order) do
      for _, v in ipairs(block.insts) do
         local steps = v.far and not done[v.args[1]] and steps_to(graph, v.args[1], {}, {})
         if steps then
            done[v.args[1]] = true
            self:say "{\nconst uint8_t *const later = mbufs[i + TW_MBUFS_AHEAD];"
            self:say "const uint8_t *const first ="
            self:say "(const uint8_t *)load64(later + TW_MBUF_BUF_ADDR) + load16(later + TW_MBUF_DATA_OFF);"
            operands.letter = "a"
            for _, step in ipairs(steps) do
               local w = step.load or step.value
               self:say("%s %s;", TYPES[w.type], operand(w))
               if step.load then
                  self:say("%s = load%d(first + %d);", operand(w), w.bits, step.at)
               else
                  self:instruction(w)
               end
            end
            self:say("__builtin_prefetch(%s);\n}", address(v.args[1], v.off))
            operands.letter = "v"
         end
      end
   end
end

--- Print the body of the function.
---@param self table printer of back/c.lua
---@param order tideway.ir.block[]
---@param graph tideway.ir.graph
function M.body(self, order, graph)
   self:declarations(order)
   self:say(HEAD:format(DATA_AHEAD))
   fetch_far(self, graph)
   for _, block in ipairs(order) do
      self:say("b%d:;", block.id)
      self:block(block, 1, #block.insts)
      self:terminator(block.term)
   end
   self:say(END:format(self.options.stages - 1, writes_mark(order) and "true" or "false"))
end

--- The first line of the function.
M.HEADING = "void %s_mbufs(struct tw_burst *burst, void *const *mbufs, int32_t count, uint16_t port)\n"

return M
