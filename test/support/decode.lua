-- SPDX-License-Identifier: BSD-3-Clause
-- What a traffic looks like to others: frames of a real source, decoded by tshark.

local bench = require "tideway.bench"
local engine = require "tideway.engine"
local rigs = require "test.support.rig"

local M = {}

local function u32(n)
   local b = {}
   for i = 1, 4 do
      b[i] = string.char(n % 256)
      n = math.floor(n / 256)
   end
   return table.concat(b)
end

--- Frames as a capture file (pcap).
---@param path string
---@param frames string[]
---@param options? { link?: integer, snaplen?: integer }
function M.write_pcap(path, frames, options)
   options = options or {}
   local file = assert(io.open(path, "wb"))
   file:write(u32(0xa1b2c3d4), "\2\0\4\0", u32(0), u32(0), u32(65535), u32(options.link or 1))
   for i, bytes in ipairs(frames) do
      local kept = bytes:sub(1, options.snaplen)
      file:write(u32(1700000000), u32(i % 1000000), u32(#kept), u32(#bytes), kept)
   end
   file:close()
end

local COMPLAINTS = { "_ws.malformed", "_ws.expert.message" }

local function complaint(values)
   local text = values["_ws.malformed"] .. values["_ws.expert.message"]
   return (text:find "[Mm]alformed" or text:find "[Cc]hecksum" or text:find "[Bb]ogus") and text
end

--- tshark's fields of frames, one table per frame, and what it finds wrong: malformed frames and bad checksums.
---@param frames string[]
---@param names string[] such as "ip.src"; several values of one are joined by ","
---@return table<string, string>[] rows
---@return string[] complaints
function M.decode(frames, names)
   local path, all = os.tmpname(), {}
   M.write_pcap(path, frames)
   local command = { "tshark -nr", path, "-T fields -E separator='|'" }
   for _, protocol in ipairs { "ip", "udp", "tcp" } do
      command[#command + 1] = ("-o %s.check_checksum:TRUE"):format(protocol)
   end
   for _, list in ipairs { COMPLAINTS, names } do
      for _, name in ipairs(list) do
         all[#all + 1] = name
         command[#command + 1] = "-e " .. name
      end
   end
   local pipe = assert(io.popen(table.concat(command, " ") .. " 2>/dev/null"))
   local rows, complaints = {}, {}
   for line in pipe:lines() do
      local values, at = {}, 1
      for value in (line .. "|"):gmatch "(.-)|" do
         if all[at] then values[all[at]] = value end
         at = at + 1
      end
      rows[#rows + 1] = values
      local text = complaint(values)
      if text then complaints[#complaints + 1] = ("frame %d: %s"):format(#rows, text) end
   end
   pipe:close()
   os.remove(path)
   assert(#rows == #frames, "tshark read another number of frames than were written")
   return rows, complaints
end

-- What a source makes in the engine: `count` packets, or with nil as many as there are.
local function made(traffic, count)
   local rig = rigs.new { ports = { "out" } }
   local source = bench.source("source", traffic)
   rig:chain("make", source, rig.out)
   rig:start()
   assert(source:start { count = count })
   local list = {}
   repeat
      local before = #list
      engine.step()
      for _, bytes in ipairs(rig:collect(rig.out)) do list[#list + 1] = bytes end
   until not source:running() and #list == before
   rig:close()
   return list
end

--- The first packets that a source makes of a traffic, in the engine.
---@param traffic tideway.bench.traffic
---@param n integer
---@return string[]
function M.frames(traffic, n)
   local list = made(traffic, n)
   assert(#list == n, ("%d packets came, not %d"):format(#list, n))
   return list
end

--- All packets of a traffic that ends by itself.
---@param traffic tideway.bench.traffic
---@return string[]
function M.all_frames(traffic) return made(traffic) end

return M
