-- SPDX-License-Identifier: BSD-3-Clause
-- DNS over TCP (RFC 1035 4.2.2, RFC 7766): messages with two bytes of length in front of each, cut anywhere. What is
-- not whole yet waits here: a function that lets whole messages out only may put others between any two of them.

local M = {}

local byte, sub, concat = string.byte, string.sub, table.concat

local HEAD = 12
local CONNECTIONS_MAX = 4000
local HELD_MAX = 4 * 2 ^ 20
local CLOSED = 256 -- that are told from those that were not known
local PART = 16 -- what a part costs besides its bytes

--- Bytes of a message. One question and a few records never come near the first.
M.QUERY_MAX, M.ANSWER_MAX = 4096, 65535

---@class tideway.dns_filter.way one direction of a connection: the beginning of a message that is not whole
---@field parts string[] the first `n` of them
---@field n integer
---@field bytes integer in them
---@field need integer so many are a whole message, or its length
---@field ended boolean

---@class tideway.dns_filter.connection
---@field id number
---@field asks tideway.dns_filter.way
---@field answers tideway.dns_filter.way

--- The connections of an instance; none yet.
function M.connections() return { of = {}, n = 0, held = 0, oldest = false, newest = false, closed = {} } end

local function new_way() return { parts = {}, n = 0, bytes = 0, need = 2, ended = false } end

-- ---- connections, by when they were used ----

local function put(all, c)
   c.older, c.newer = all.newest, false
   if all.newest then all.newest.newer = c else all.oldest = c end
   all.newest = c
end

local function take_out(all, c)
   if c.older then c.older.newer = c.newer else all.oldest = c.newer end
   if c.newer then c.newer.older = c.older else all.newest = c.older end
end

local function clear(all, w)
   all.held = all.held - w.bytes - w.n * PART
   w.parts, w.n, w.bytes = {}, 0, 0
end

--- A connection has ended, or is given up.
function M.forget(all, c)
   if all.of[c.id] ~= c then return end
   all.of[c.id] = nil
   all.n = all.n - 1
   clear(all, c.asks)
   clear(all, c.answers)
   take_out(all, c)
end

--- A connection has come. When there are too many, the one that was used longest ago is forgotten.
---@param all table as connections() gave it
---@param id number
function M.open(all, id)
   if all.n >= CONNECTIONS_MAX then M.forget(all, all.oldest) end
   -- No integers: LuaJIT does not compile tables that have both few and far ones.
   local c = { id = id + 0.5, asks = new_way(), answers = new_way(), older = false, newer = false }
   all.of[c.id] = c
   all.n = all.n + 1
   put(all, c)
end

--- A connection, used now; nil: it is not known, or was forgotten.
---@return tideway.dns_filter.connection?
function M.find(all, id)
   local c = all.of[id + 0.5]
   if c and c ~= all.newest then
      take_out(all, c)
      put(all, c)
   end
   return c
end

--- The connection is closed because of what came. Something may still be on its way here, from the other direction.
function M.close(all, c)
   all.closed[(c.id - 0.5) % CLOSED] = c.id
   M.forget(all, c)
end

--- Was it closed a moment ago?
function M.was_closed(all, id) return all.closed[id % CLOSED] == id + 0.5 end

--- Nothing more comes this way.
function M.ended(all, c, w)
   w.ended = true
   if c.asks.ended and c.answers.ended then M.forget(all, c) end
end

-- ---- messages ----

-- Those go first that wait for the rest of a message for longest; who only rests keeps nothing.
local function make_room(all)
   local c = all.oldest
   while c and all.held > HELD_MAX * 3 / 4 do
      local newer = c.newer
      if c.asks.n > 0 or c.answers.n > 0 then M.forget(all, c) end
      c = newer
   end
end

local function keep(all, w, bytes)
   w.n = w.n + 1
   w.parts[w.n], w.bytes = bytes, w.bytes + #bytes
   all.held = all.held + #bytes + PART
   if all.held > HELD_MAX then make_room(all) end
end

--- The messages that are whole with this piece, each behind its length; the rest is kept for the next piece.
---@param all table
---@param w tideway.dns_filter.way
---@param bytes string
---@param most integer bytes of a message
---@return string? whole nil: this is no DNS
---@return string? why "bad_length" or "too_long"
function M.take(all, w, bytes, most)
   if w.bytes + #bytes < w.need then
      if #bytes > 0 then keep(all, w, bytes) end
      return ""
   end
   if w.n > 0 then
      bytes = concat(w.parts, "", 1, w.n) .. bytes
      clear(all, w)
   end
   local at = 1
   while true do
      local high, low = byte(bytes, at, at + 1)
      if not low then
         w.need = 2
         break
      end
      local len = high * 256 + low
      if len < HEAD then return nil, "bad_length" end
      if len > most then return nil, "too_long" end
      if at + 1 + len > #bytes then
         w.need = 2 + len
         break
      end
      at = at + 2 + len
   end
   if at > #bytes then return bytes end
   keep(all, w, sub(bytes, at))
   return sub(bytes, 1, at - 1)
end

return M
