-- SPDX-License-Identifier: BSD-3-Clause
-- TCP connections enough to load a stateful NF: a server and a client as NFs that answer each segment from what stands
-- in it, so they remember nothing and are fast. A source of SYNs starts the connections.
--
-- Sequence numbers carry the state: both sides count their bytes from a known initial number, so an acknowledgment
-- says how much of which answer has arrived. A segment that gets lost ends its connection there: nothing is sent twice.

local tw = require "tideway"
local bit = require "bit"

local M = {}

local band, rshift = bit.band, bit.rshift
local FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
local IPV4, TCP, SYN_SIZE = 20, 20, 24
local LEAST = 60
local MODULO = 4294967296

local SERVER = {
   port = { type = "number", min = 1, max = 65535, doc = "answer on this port only; default: on all" },
   response = { type = "number", default = 100, min = 1, max = 2 ^ 20, doc = "bytes that answer a request" },
   mss = { type = "number", default = 1460, min = 64, max = 8960, doc = "most data in a segment" },
   isn = { type = "number", default = 3000000000, min = 0, max = 2 ^ 32 - 1, doc = "our first sequence number" },
   name = { type = "string", default = "tcp_server", doc = "prefix of the counters' name" },
}
local CLIENT = {
   port = { type = "number", min = 1, max = 65535, doc = "the server's port; default: any" },
   request = { type = "number", default = 100, min = 1, max = 8960, doc = "bytes of a request" },
   requests = { type = "number", default = 1, min = 1, max = 65536, doc = "requests of a connection, in turn" },
   mss = { type = "number", default = 1460, min = 64, max = 8960, doc = "most data that a segment to us has" },
   isn = { type = "number", default = 1, min = 0, max = 2 ^ 32 - 1, doc = "sequence number of the SYNs" },
   name = { type = "string", default = "tcp_client", doc = "prefix of the counters' name" },
}

-- ---- counters ----

local function named(list)
   local id = {}
   for i, name in ipairs(list) do id[name] = i - 1 end
   return id
end

-- "tcp_server", or "tcp_server2" where a table of the first name exists.
local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local n = 1
   while taken[base .. (n > 1 and n or "") .. ".connections"] do n = n + 1 end
   return base .. (n > 1 and n or "") .. ".connections"
end

local function reader(totals)
   return function()
      local out = {}
      for name, n in totals:pairs() do out[name] = tonumber(n) end
      return out
   end
end

-- ---- a segment in place of the one that came ----

local function halves(word) return rshift(word, 16) + band(word, 0xffff) end

local function checksum(sum)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return 0xffff - sum
end

-- Cuts the frame to `keep` bytes and gives it `length`, the rest zeros; false when there is no room.
local function resize(pkt, keep, length)
   if pkt.len > keep and not pkt:adjust_tail(keep - pkt.len) then return false end
   if pkt.len < length and not pkt:adjust_tail(length - pkt.len) then return false end
   return true
end

-- The answer: addresses and ports change places, `data` bytes of zeros. With SYN it has the MSS option.
local function answer(pkt, seq, ack, flags, data, mss)
   local l3, came, from = pkt:l3_offset(), pkt:tcp(), pkt:ipv4()
   if not l3 or not came or not from then return pkt:drop "tcp_short" end
   -- Read now: IP options are left out, so the TCP header moves.
   local src, dst, src_port, dst_port = from.dst, from.src, came.dst_port, came.src_port
   local head = band(flags, SYN) ~= 0 and SYN_SIZE or TCP
   local stop = l3 + IPV4 + head
   if not resize(pkt, stop, math.max(stop + data, LEAST)) then return pkt:drop "tcp_no_room" end
   local eth, ip, tcp = pkt:eth(), pkt:ipv4_at(l3), pkt:tcp_at(l3 + IPV4)
   if not eth or not ip or not tcp then return pkt:drop "tcp_short" end
   eth:swap()
   local total = IPV4 + head + data
   pkt:set_u16(l3, 0x4500)
   ip.total_length = total
   ip.id = 0
   ip.frag = 0x4000
   ip.ttl = 64
   ip.src = src
   ip.dst = dst
   ip.checksum = checksum(0x4500 + total + 0x4000 + 0x4006 + halves(src) + halves(dst))
   tcp.src_port = src_port
   tcp.dst_port = dst_port
   tcp.seq = seq
   tcp.ack = ack
   local words = head * 1024 + flags -- data offset in words, flags
   pkt:set_u16(l3 + IPV4 + 12, words)
   tcp.window = 65535
   tcp.urgent = 0
   local sum = halves(src) + halves(dst) + 6 + head + data + src_port + dst_port + halves(seq) + halves(ack) + words
      + 65535
   if head == SYN_SIZE then
      pkt:set_u16(l3 + 40, 0x0204)
      pkt:set_u16(l3 + 42, mss)
      sum = sum + 0x0204 + mss
   end
   tcp.checksum = checksum(sum)
   pkt:send(pkt.port)
end

-- ---- server ----

local SERVER_COUNTS = { "started", "requests", "responses", "closed", "resets" }

--- An NF that is a TCP server over IPv4: answers SYN with SYN-ACK, data with `response` bytes (in segments of `mss`,
--- the next one when the last was acknowledged), FIN with FIN-ACK, by the port they came from. What is no TCP, or to
--- another port, goes on. `nf.counts()`: { started, requests, responses, closed, resets }.
---@param cfg? { response?: integer, port?: integer, mss?: integer, isn?: integer, name?: string }
---@return tideway.nf.instance
M.server = tw.nf("tcp_server", function(cfg)
   cfg = tw.args("tcp_server", cfg, SERVER)
   local totals = tw.counters { name = free_name(cfg.name), names = SERVER_COUNTS }
   local id = named(SERVER_COUNTS)
   local STARTED, REQUESTS, RESPONSES, CLOSED, RESETS = id.started, id.requests, id.responses, id.closed, id.resets
   local port, response, mss, isn = cfg.port, cfg.response, cfg.mss, cfg.isn

   -- The next segment of the response, `sent` bytes of which have arrived.
   local function respond(pkt, seq, ack, sent)
      local data = math.min(response - sent, mss)
      if sent + data == response then
         totals:add(RESPONSES, 1)
         return answer(pkt, seq, ack, ACK + PSH, data, mss)
      end
      return answer(pkt, seq, ack, ACK, data, mss)
   end

   local function acknowledged(pkt, seq, ack, data)
      if data > 0 then
         totals:add(REQUESTS, 1)
         return respond(pkt, seq, ack, 0)
      end
      local sent = (seq - isn - 1) % MODULO % response
      -- All of it with a FIN is one byte more.
      if sent > 0 and sent % mss == 0 then return respond(pkt, seq, ack, sent) end
      return pkt:drop "tcp_ack"
   end

   return {
      packet = function(pkt)
         local ip, tcp = pkt:ipv4(), pkt:tcp()
         if not ip or not tcp then return end
         if port and tcp.dst_port ~= port then return end
         local flags = band(tcp.flags, FIN + SYN + RST + ACK)
         if band(flags, RST) ~= 0 then
            totals:add(RESETS, 1)
            return pkt:drop "tcp_reset"
         end
         if flags == SYN then
            totals:add(STARTED, 1)
            return answer(pkt, isn, (tcp.seq + 1) % MODULO, SYN + ACK, 0, mss)
         end
         local data = ip.total_length - ip.ihl * 4 - tcp.data_offset * 4
         if flags == ACK then return acknowledged(pkt, tcp.ack, (tcp.seq + data) % MODULO, data) end
         if flags == FIN + ACK then
            totals:add(CLOSED, 1)
            return answer(pkt, tcp.ack, (tcp.seq + data + 1) % MODULO, FIN + ACK, 0, mss)
         end
         return pkt:drop "tcp_unexpected"
      end,
      counts = reader(totals),
   }
end)

-- ---- client ----

local CLIENT_COUNTS = { "started", "established", "requests", "responses", "closed", "resets" }

--- An NF that is the client of connections whose SYNs a source makes: answers SYN-ACK with ACK and a request, the end
--- of a response with the next request or FIN, FIN-ACK with the last ACK, by the port they came from. SYNs go on (and
--- are counted), so it may stand behind the source too; so does what is no TCP. The source's `tcp.seq` must be `isn`.
--- `nf.counts()`: { started, established, requests, responses, closed, resets }.
---@param cfg? { request?: integer, requests?: integer, port?: integer, mss?: integer, isn?: integer, name?: string }
---@return tideway.nf.instance
M.client = tw.nf("tcp_client", function(cfg)
   cfg = tw.args("tcp_client", cfg, CLIENT)
   local totals = tw.counters { name = free_name(cfg.name), names = CLIENT_COUNTS }
   local id = named(CLIENT_COUNTS)
   local STARTED, ESTABLISHED, REQUESTS, RESPONSES = id.started, id.established, id.requests, id.responses
   local CLOSED, RESETS = id.closed, id.resets
   local port, request, requests, mss, isn = cfg.port, cfg.request, cfg.requests, cfg.mss, cfg.isn
   local all = request * requests

   local function ask(pkt, seq, ack)
      totals:add(REQUESTS, 1)
      return answer(pkt, seq, ack, ACK + PSH, request, mss)
   end

   -- Data came: the response goes on, or is done with PSH.
   local function received(pkt, seq, ack, done)
      if not done then return answer(pkt, seq, ack, ACK, 0, mss) end
      totals:add(RESPONSES, 1)
      if (seq - isn - 1) % MODULO < all then return ask(pkt, seq, ack) end
      return answer(pkt, seq, ack, FIN + ACK, 0, mss)
   end

   return {
      packet = function(pkt)
         local ip, tcp = pkt:ipv4(), pkt:tcp()
         if not ip or not tcp then return end
         local flags = band(tcp.flags, FIN + SYN + RST + ACK)
         if flags == SYN then
            totals:add(STARTED, 1)
            return
         end
         if port and tcp.src_port ~= port then return end
         if band(flags, RST) ~= 0 then
            totals:add(RESETS, 1)
            return pkt:drop "tcp_reset"
         end
         if flags == SYN + ACK then
            totals:add(ESTABLISHED, 1)
            return ask(pkt, tcp.ack, (tcp.seq + 1) % MODULO)
         end
         local data = ip.total_length - ip.ihl * 4 - tcp.data_offset * 4
         if flags == FIN + ACK then
            totals:add(CLOSED, 1)
            -- A server that ends the connection itself has not had our FIN, which counts as a byte behind the requests.
            local ours = (tcp.ack - isn - 1) % MODULO > all and 0 or FIN
            return answer(pkt, tcp.ack, (tcp.seq + data + 1) % MODULO, ACK + ours, 0, mss)
         end
         if flags ~= ACK then return pkt:drop "tcp_unexpected" end
         if data > 0 then return received(pkt, tcp.ack, (tcp.seq + data) % MODULO, band(tcp.flags, PSH) ~= 0) end
         return pkt:drop "tcp_ack"
      end,
      counts = reader(totals),
   }
end)

return M
