-- SPDX-License-Identifier: BSD-3-Clause
-- What can be done with a running engine, by name: the REPL's functions and what other commands call by the socket.

---@class tideway.live.command
---@field module string
---@field fn string name of the function in the module
---@field role "view"|"operate"|"admin" who may call it
---@field summary string one line

local SIGHT = "tideway.live.sight"
local CHANGE = "tideway.change.commands"
local GATE = "tideway.live.gate"

---@type table<string, tideway.live.command>
return {
   capture = {
      module = "tideway.live.capture", fn = "capture", role = "operate",
      summary = "Packets at an edge of a chain: as lines, or pcapng for Wireshark.",
   },
   chains = { module = SIGHT, fn = "chains", role = "view", summary = "The chains: way, place, packets." },
   counters = { module = SIGHT, fn = "counters", role = "view", summary = "Counters of a chain, or all sums." },
   drops = { module = SIGHT, fn = "drops", role = "view", summary = "What was dropped, by chain, NF and reason." },
   events = {
      module = "tideway.live.events", fn = "events", role = "view",
      summary = "The engine's messages as they come, until stopped.",
   },
   gate = { module = GATE, fn = "gate", role = "view", summary = "The gate's threads: connections, counters." },
   graph = {
      module = "tideway.live.graph", fn = "graph", role = "view",
      summary = "The chains with live rates, as text or \"dot\".",
   },
   help = {
      module = "tideway.live.help", fn = "help", role = "view",
      summary = "What something is for; without an argument this list.",
   },
   hooks = { module = SIGHT, fn = "hooks", role = "view", summary = "The chains on hooks of the kernel." },
   jit = {
      module = "tideway.live.jit", fn = "jit", role = "view",
      summary = "What LuaJIT makes of the chains: traces, aborts, what it gave up.",
   },
   rewarm = {
      module = "tideway.live.jit", fn = "rewarm", role = "operate",
      summary = "Lets LuaJIT record the traces of an lcore anew.",
   },
   lcores = { module = SIGHT, fn = "lcores", role = "view", summary = "The lcores: CPU, load, chains." },
   listeners = { module = GATE, fn = "listeners", role = "view", summary = "Where clients connect to." },
   nfs = { module = SIGHT, fn = "nfs", role = "view", summary = "The NFs that run, and those of the library." },
   ports = { module = SIGHT, fn = "ports", role = "view", summary = "The ports: device, mode, packets." },
   rates = {
      module = "tideway.live.rates", fn = "rates", role = "view", summary = "Packets a second of ports and chains.",
   },
   rows = { module = SIGHT, fn = "rows", role = "view", summary = "Rows of a table: rows(\"flows\", 100)." },
   services = {
      module = GATE, fn = "services", role = "view", summary = "The chains of messages: requests, times, functions.",
   },
   upstreams = { module = GATE, fn = "upstreams", role = "view", summary = "The servers of upstream groups." },
   tables = { module = SIGHT, fn = "tables", role = "view", summary = "The tables of NFs; tables.NAME shows rows." },
   trace = {
      module = "tideway.live.trace", fn = "trace", role = "operate",
      summary = "Packets followed through every NF: verdicts, fields before and after, times.",
   },
   reload = {
      module = CHANGE, fn = "reload", role = "operate",
      summary = "Runs the script again, or reads one NF again; only what is different changes.",
   },
   set = { module = CHANGE, fn = "set", role = "operate", summary = "Gives an NF other parameters." },
   undo = { module = CHANGE, fn = "undo", role = "operate", summary = "Takes the last change back, or several." },
   changes = { module = CHANGE, fn = "changes", role = "view", summary = "What was changed, by whom." },
   dry = { module = CHANGE, fn = "dry", role = "admin", summary = "What a change would do, without doing it." },
   edit = { module = CHANGE, fn = "edit", role = "admin", summary = "Begins a change of several lines." },
   commit = { module = CHANGE, fn = "commit", role = "admin", summary = "Does what was declared since edit()." },
   abandon = { module = CHANGE, fn = "abandon", role = "admin", summary = "Forgets what was declared since edit()." },
   clients = {
      module = "tideway.control.server", fn = "clients", role = "view", summary = "Who is connected to the engine.",
   },
   log = {
      module = "tideway.control.audit", fn = "log", role = "view",
      summary = "The last changes: who, what, when, with what result.",
   },
}
