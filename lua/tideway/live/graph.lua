-- SPDX-License-Identifier: BSD-3-Clause
-- The chains of an instance as a graph with live rates: ports and rings, chains with their NFs, what leaves where.

local text = require "tideway.text"

local M = {}

---@class tideway.graph.end
---@field kind "port"|"ring"|"place"|"kernel"|"listener"|"upstream"
---@field name string
---@field pps number? packets (messages) a second over this edge; nil: not known
---@field unit string? default: "pps"
---@field note string?

---@class tideway.graph.chain
---@field name string
---@field place string
---@field tier? string what packets' chains were compiled to
---@field hook boolean
---@field pps number
---@field nfs { name: string, pps: number, quarantined: boolean, drops: { reason: string, pps: number }[] }[]
---@field from tideway.graph.end[]
---@field to tideway.graph.end[]

-- ---- from counters to a graph ----

local function by_name(list)
   local map = {}
   for _, item in ipairs(list) do map[item.name] = item end
   return map
end

-- Packets a second that a chain puts into its ring: those it sent that left by no port.
local function into_ring(c)
   local rest = c.sent_pps - c.passed_pps
   for _, to in ipairs(c.sent_to) do rest = rest - to.pps end
   return math.max(0, rest)
end

-- What comes from each source. What a ring gives is what is put into it, near enough.
local function sources_of(c, context)
   local list = {}
   for _, name in ipairs(c.sources) do
      local port, ring = context.ports[name], context.rings[name]
      if c.hook then
         list[#list + 1] = { kind = "port", name = name }
      elseif port then
         list[#list + 1] = { kind = "port", name = name, pps = port.rx_pps }
      elseif ring then
         list[#list + 1] = {
            kind = "ring", name = name, pps = context.fed[name] or 0, note = ("%d/%d"):format(ring.used, ring.size),
         }
      end
   end
   if c.hook then
      if #list == 1 then list[1].pps = c.rx_pps end
      if #list == 0 then list[1] = { kind = "place", name = c.place, pps = c.rx_pps } end
   end
   return list
end

local function targets_of(c)
   local list, named = {}, {}
   for _, to in ipairs(c.sent_to) do
      named[to.port] = true
      list[#list + 1] = { kind = "port", name = to.port, pps = to.pps }
   end
   if c.hook then
      local rest = math.max(0, c.sent_pps - c.passed_pps)
      if c.sink and not named[c.sink] then list[#list + 1] = { kind = "port", name = c.sink, pps = rest } end
      list[#list + 1] = { kind = "kernel", name = "the kernel", pps = c.passed_pps }
      return list
   end
   if c.sink and not named[c.sink] then list[#list + 1] = { kind = "port", name = c.sink, pps = 0 } end
   if c.sink_ring then list[#list + 1] = { kind = "ring", name = c.sink_ring, pps = into_ring(c) } end
   table.sort(list, function(a, b) return a.name < b.name end)
   return list
end

local function nfs_of(c)
   local list = {}
   for i, nf in ipairs(c.nfs) do
      list[i] = { name = nf.name, pps = nf.pps, quarantined = nf.quarantined, drops = nf.drops }
   end
   if c.engine.dropped_pps > 0 then
      list[#list + 1] = { name = c.engine.name, pps = nil, quarantined = false, drops = c.engine.drops }
   end
   return list
end

-- Each chain behind those that fill its rings.
local function in_order(chains)
   local feeders, done, order = {}, {}, {}
   for _, c in ipairs(chains) do
      for _, to in ipairs(c.to) do
         if to.kind == "ring" then
            feeders[to.name] = feeders[to.name] or {}
            table.insert(feeders[to.name], c)
         end
      end
   end
   local function visit(c)
      if done[c] then return end
      done[c] = true
      for _, source in ipairs(c.from) do
         for _, feeder in ipairs(source.kind == "ring" and feeders[source.name] or {}) do visit(feeder) end
      end
      order[#order + 1] = c
   end
   for _, c in ipairs(chains) do visit(c) end
   return order
end

local MESSAGES = "msg/s"

-- Chains of messages: requests a second instead of packets; functions with what failed in them.
local function of_services(rates)
   local list, group_rps = {}, {}
   for _, group in ipairs(rates.upstreams) do
      local rps = 0
      for _, server in ipairs(group.servers) do rps = rps + server.rps end
      group_rps[group.name] = rps
   end
   for _, s in ipairs(rates.services) do
      local nfs, from, to = {}, {}, {}
      for i, f in ipairs(s.functions) do
         nfs[i] = { name = f.name, pps = f.mps, unit = MESSAGES, quarantined = false, drops = {} }
      end
      for i, name in ipairs(s.listeners) do
         from[i] = { kind = "listener", name = name, pps = #s.listeners == 1 and s.rps or nil, unit = MESSAGES }
      end
      if s.upstream then
         to[1] = { kind = "upstream", name = s.upstream, pps = group_rps[s.upstream], unit = MESSAGES }
      end
      list[#list + 1] = {
         name = s.name, place = s.place, hook = false, pps = s.rps, nfs = nfs, from = from,
         to = to,
      }
   end
   return list
end

--- The graph of an instance.
---@param snap tideway.stats.snapshot
---@param rates table from stats.rates
---@return tideway.graph.chain[] in the order in which packets go through them
function M.build(snap, rates)
   local context = { ports = by_name(rates.ports), rings = by_name(snap.rings), fed = {} }
   for _, c in ipairs(rates.chains) do
      if c.sink_ring then context.fed[c.sink_ring] = (context.fed[c.sink_ring] or 0) + into_ring(c) end
   end
   local list = {}
   for _, c in ipairs(rates.chains) do
      if c.name ~= "(removed)" then
         list[#list + 1] = {
            name = c.name, place = c.place, tier = c.tier, hook = c.hook, pps = c.rx_pps, nfs = nfs_of(c),
            from = sources_of(c, context), to = targets_of(c),
         }
      end
   end
   list = in_order(list)
   for _, c in ipairs(rates.gate and of_services(rates.gate) or {}) do list[#list + 1] = c end
   return list
end

-- ---- as text ----

local function pps(n, unit) return text.si(n):gsub("%d$", "%0 ") .. (unit or "pps") end

local function drops_of(nf, most)
   local parts = {}
   for i, d in ipairs(nf.drops) do
      if i > most then
         parts[#parts + 1] = ("and %d more"):format(#nf.drops - most)
         break
      end
      parts[#parts + 1] = d.reason .. " " .. text.si(d.pps)
   end
   return table.concat(parts, ", ")
end

local function where_of(c) return c.tier and ("%s, %s"):format(c.place, c.tier) or c.place end

local function end_name(e)
   local name = e.kind == "ring" and "ring " .. e.name or e.name
   return e.note and ("%s (%s)"):format(name, e.note) or name
end

-- "--1.20 Mpps-->"
local function arrow(e) return e.pps and ("--%s-->"):format(pps(e.pps, e.unit)) or "-->" end

local function columns(align, rows) return text.columns(align, rows) end

-- What stands inside a chain's box.
local function inside(c)
   local rows = {}
   for i, nf in ipairs(c.nfs) do
      local notes = {}
      if nf.quarantined then notes[1] = "QUARANTINED" end
      if #nf.drops > 0 then notes[#notes + 1] = "x " .. drops_of(nf, 2) end
      rows[i] = { "  " .. nf.name, nf.pps and pps(nf.pps, nf.unit) or "", table.concat(notes, ", ") }
   end
   local lines = columns("lrl", rows)
   table.insert(lines, 1, ("%s%s  %s"):format(c.hook and "HOOK " or "", c.name, where_of(c)))
   return lines
end

local function pad(s, width) return s .. (" "):rep(width - text.width(s)) end

local function widest(lines)
   local width = 0
   for _, line in ipairs(lines) do width = math.max(width, text.width(line)) end
   return width
end

-- Sources on the left, the chain's box, on the right where packets leave.
local function chain_lines(c)
   local from, to, box = {}, {}, inside(c)
   for i, e in ipairs(c.from) do from[i] = { end_name(e), arrow(e) } end
   for i, e in ipairs(c.to) do to[i] = { arrow(e), end_name(e) } end
   local left, right = columns("lr", from), columns("rl", to)
   local width, margin, lines = widest(box), widest(left), {}
   local rule = (" "):rep(margin) .. "+" .. ("-"):rep(width + 2) .. "+"
   lines[1] = rule
   for i = 1, math.max(#box, #left, #right) do
      lines[#lines + 1] = ("%s| %s |%s"):format((" "):rep(margin - text.width(left[i] or "")) .. (left[i] or ""),
         pad(box[i] or "", width), right[i] or "")
   end
   lines[#lines + 1] = rule
   return lines
end

--- The graph as text.
---@param graph tideway.graph.chain[]
---@return string
function M.text(graph)
   local lines = {}
   for i, c in ipairs(graph) do
      if i > 1 then lines[#lines + 1] = "" end
      for _, line in ipairs(chain_lines(c)) do lines[#lines + 1] = line:gsub("%s+$", "") end
   end
   return table.concat(lines, "\n")
end

-- ---- as DOT ----

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function html(s) return (s:gsub('[&<>"]', ENTITIES)) end
local function quote(s) return '"' .. s:gsub('[\\"]', "\\%0") .. '"' end

local function node_id(e) return quote((e.kind == "kernel" and "kernel" or e.kind .. " " .. e.name)) end

-- Thicker where more packets go.
local function edge_line(from, to, rate, unit)
   local label = rate and (' [label=%s penwidth=%.1f]'):format(quote(pps(rate, unit)),
      1 + math.max(0, math.log10(math.max(1, rate))) / 2) or ""
   return ("   %s -> %s%s;"):format(from, to, label)
end

local function chain_node(c)
   local rows = {
      ('<tr><td colspan="3"%s><b>%s</b><br/><font point-size="10">%s</font></td></tr>'):format(
         c.hook and ' bgcolor="#fff3c4"' or ' bgcolor="#dfe9f7"', html((c.hook and "HOOK " or "") .. c.name),
         html(where_of(c))),
   }
   for _, nf in ipairs(c.nfs) do
      rows[#rows + 1] = ('<tr><td align="left">%s</td><td align="right">%s</td><td align="left"><font color="#b00020">'
         .. '%s</font></td></tr>'):format(html(nf.name) .. (nf.quarantined and " (quarantined)" or ""),
         nf.pps and html(pps(nf.pps, nf.unit)) or "", #nf.drops > 0 and "drops " .. html(drops_of(nf, 4)) or " ")
   end
   return ('   %s [shape=plain label=<<table border="1" cellborder="0" cellspacing="0" cellpadding="4"%s>%s</table>>];')
      :format(quote("chain " .. c.name), c.hook and ' style="dashed"' or "", table.concat(rows))
end

local SHAPES = {
   port = "box style=rounded", ring = "cds", place = "box style=dashed", kernel = "ellipse style=dashed",
   listener = "box style=rounded", upstream = "folder",
}

--- The graph in graphviz's language.
---@param graph tideway.graph.chain[]
---@param name string
---@return string
function M.dot(graph, name)
   local lines, known = {
      ("digraph %s {"):format(quote(name)), "   rankdir=LR;", '   node [fontname="sans-serif" fontsize=12];',
      '   edge [fontname="sans-serif" fontsize=10];',
   }, {}
   local function declare(e)
      local id = node_id(e)
      if not known[id] then
         known[id] = true
         lines[#lines + 1] = ("   %s [label=%s shape=%s];"):format(id, quote(end_name(e)), SHAPES[e.kind])
      end
      return id
   end
   for _, c in ipairs(graph) do
      lines[#lines + 1] = chain_node(c)
      local id = quote("chain " .. c.name)
      for _, e in ipairs(c.from) do
         lines[#lines + 1] = edge_line(declare(e), id, e.kind ~= "ring" and e.pps or nil, e.unit)
      end
      for _, e in ipairs(c.to) do lines[#lines + 1] = edge_line(id, declare(e), e.pps, e.unit) end
   end
   lines[#lines + 1] = "}"
   return table.concat(lines, "\n") .. "\n"
end

-- ---- the command ----

--- The chains of this engine with live rates: ports, NFs with what they drop, rings, where packets leave.
---@param format? "text"|"dot" default: text
---@return tideway.view
function M.graph(format)
   if format ~= nil and format ~= "text" and format ~= "dot" then
      error(('graph: %s is no format; "text" and "dot" are, and `tideway graph --svg FILE` draws it'):format(
         tostring(format)), 0)
   end
   local snap, rates = require("tideway.live.rates").sample()
   local graph = M.build(snap, rates)
   local shown = format == "dot" and M.dot(graph, snap.instance) or M.text(graph)
   return require("tideway.live.view").text(shown, graph)
end

return M
