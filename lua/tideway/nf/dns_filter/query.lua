-- SPDX-License-Identifier: BSD-3-Clause
-- DNS queries (RFC 1035 4.1, EDNS RFC 6891): read strictly, and answered without a server.

local bit = require "bit"

local M = {}

local byte, char, sub = string.byte, string.char, string.sub
local band, bor, rshift = bit.band, bit.bor, bit.rshift

M.NOERROR, M.FORMERR, M.NXDOMAIN, M.NOTIMP, M.REFUSED = 0, 1, 3, 4, 5
M.A, M.AAAA, M.ANY, M.OPT, M.IN = 1, 28, 255, 41, 1

local HEAD = 12
local NAME_MAX = 255 -- with length bytes and the root
local RECORDS_MAX = 16

--- Types of records by name (RFC 1035, 3596, 2782, 9460, ...).
M.TYPES = {
   A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, MX = 15, TXT = 16, AAAA = 28, SRV = 33, NAPTR = 35, DS = 43,
   DNSKEY = 48, TLSA = 52, SVCB = 64, HTTPS = 65, ANY = 255, CAA = 257,
}

local function word(bytes, at)
   local high, low = byte(bytes, at, at + 1)
   return low and high * 256 + low
end

-- The name at a position: labels in lower case with dots, position behind it, number of labels. Compression is refused:
-- nothing stands in front of a question that it could point to.
local function name_at(bytes, at)
   local labels, n, total = {}, 0, 1
   while true do
      local len = byte(bytes, at)
      if not len then return nil, "the name is cut off" end
      if len == 0 then return table.concat(labels, "."):lower(), at + 1, n end
      if len > 63 then return nil, len >= 192 and "a compressed name" or "a label of an unknown kind" end
      total = total + len + 1
      if total > NAME_MAX then return nil, "the name is too long" end
      if at + len > #bytes then return nil, "a label is cut off" end
      n = n + 1
      -- A dot in a label is not one between labels.
      labels[n] = sub(bytes, at + 1, at + len):gsub("%.", "\\.")
      at = at + len + 1
   end
end

-- Behind the question: only EDNS's record is of interest, the others have to be whole.
local function extras(bytes, at, query, count)
   for _ = 1, count do
      local start = at
      -- Owners of these may be compressed.
      while true do
         local len = byte(bytes, at)
         if not len then return "a record is cut off" end
         if len >= 192 then
            at = at + 2
            break
         end
         if len > 63 then return "a label of an unknown kind" end
         at = at + len + 1
         if len == 0 then break end
         if at - start > NAME_MAX then return "the name is too long" end
      end
      local kind, size, data = word(bytes, at), word(bytes, at + 2), word(bytes, at + 8)
      if not data or at + 9 + data > #bytes then return "a record is cut off" end
      if kind == M.OPT then
         if query.edns then return "two records of EDNS" end
         if at - start ~= 1 then return "a record of EDNS with a name" end
         query.edns = { size = size, version = byte(bytes, at + 5), dnssec = byte(bytes, at + 6) >= 128 }
      end
      at = at + 10 + data
   end
   if at ~= #bytes + 1 then return "bytes behind the last record" end
end

--- Read a query.
---@param bytes string
---@return table? query { id, flags, opcode, name (lower case, without the last dot), labels, type, class,
---  question_end, edns? = { size, version, dnssec } }; nil when it is none that can be answered
---@return string? err what is wrong
---@return integer? rcode to answer with; nil: not at all
function M.read(bytes)
   if #bytes < HEAD then return nil, "shorter than a header" end
   local flags = word(bytes, 3)
   local query = { id = sub(bytes, 1, 2), flags = flags, opcode = band(rshift(flags, 11), 15) }
   if flags >= 0x8000 then return nil, "a response" end
   if query.opcode ~= 0 then return query, "not a standard query", M.NOTIMP end
   local questions, answers, authorities, more = word(bytes, 5), word(bytes, 7), word(bytes, 9), word(bytes, 11)
   if questions ~= 1 then return query, questions .. " questions", M.FORMERR end
   local name, at, labels = name_at(bytes, HEAD + 1)
   if not name then return query, at, M.FORMERR end
   local kind, class = word(bytes, at), word(bytes, at + 2)
   if not class then return query, "the question is cut off", M.FORMERR end
   query.name, query.labels, query.type, query.class, query.question_end = name, labels, kind, class, at + 3
   local count = answers + authorities + more
   if count > RECORDS_MAX then return query, count .. " records in a query", M.FORMERR end
   local err = extras(bytes, at + 4, query, count)
   if err then return query, err, M.FORMERR end
   return query
end

local function two(n) return char(rshift(n, 8), band(n, 255)) end

--- A response to a query, with its question when that was read. Recursion is said to be there; EDNS is answered when it
--- was asked for (RFC 6891 6.1.1).
---@param bytes string the query as it came
---@param query table as read() gave it
---@param rcode integer
---@param record? string data of an answer to the question: 4 or 16 bytes
---@param ttl? integer seconds
---@return string
function M.respond(bytes, query, rcode, record, ttl)
   local question = query.question_end and sub(bytes, HEAD + 1, query.question_end) or ""
   -- QR, the query's opcode, RD and CD, RA
   local flags = bor(0x8080, band(query.flags, 0x7910), rcode)
   local out = query.id .. two(flags) .. two(question ~= "" and 1 or 0) .. two(record and 1 or 0) .. "\0\0"
      .. two(query.edns and 1 or 0) .. question
   if record then
      -- the name of the question, by a pointer to it
      out = out .. "\192\12" .. two(#record == 4 and M.A or M.AAAA) .. two(M.IN) .. two(math.floor(ttl / 65536))
         .. two(ttl % 65536) .. two(#record) .. record
   end
   if query.edns then
      out = out .. "\0" .. two(M.OPT) .. two(1232) .. "\0\0" .. (query.edns.dnssec and "\128" or "\0") .. "\0\0\0"
   end
   return out
end

return M
