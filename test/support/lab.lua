-- SPDX-License-Identifier: BSD-3-Clause
-- The lab for live specs: client, device under test and server in network namespaces of their own
-- (scripts/lab), real programs in them, and the real binary in the middle.
--
--    local lab = require("test.support.lab").up { mode = "l3" }
--    local engine = lab:engine("examples/03-router.lua", { "net_af_xdp0,iface=tw-lan", ... })
--    lab:run("client", "ping -c 1 198.51.100.2").code
--    local result = engine:stop()        -- SIGINT; { code =, err =, counters = the final JSON }
--    lab:down()

local posix = require "tideway.posix"
local json = require "tideway.json"
local shell = require "test.shell"

local M = {}

local root = require("tideway.abi").root:match "^(.*)/lua/?$" or "."

local function sleep_ms(ms) posix.poll({}, ms) end

--- Turn until a condition holds.
---@param seconds number how long at most
---@param condition fun(): any
---@return any value the condition's first true value, nil when the time ran out
function M.eventually(seconds, condition)
   local deadline = posix.now() + seconds * 1e9
   repeat
      local value = condition()
      if value then return value end
      sleep_ms(10)
   until posix.now() > deadline
end

--- Why live specs cannot run here; nil when they can.
---@param ... string programs that a spec needs besides those of the lab
---@return string? reason
function M.missing(...)
   if posix.geteuid() ~= 0 then return "needs root for network namespaces" end
   for _, tool in ipairs { "ip", "ethtool", "flock", "tcpdump", "ping", ... } do
      if not shell.has(tool) then return tool .. " is missing (make deps)" end
   end
end

-- ---- processes ----

---@class test.process
---@field pid integer
---@field dir string
local Process = {}
Process.__index = Process

--- Start a command in the background. The command must be one program, so that the pid is its own.
---@param command string
---@return test.process
function M.spawn(command)
   local dir = shell.directory()
   local inner = ("echo $$ >%s/pid; exec %s"):format(dir, command)
   os.execute(("( sh -c %s >%s/out 2>%s/err </dev/null; echo $? >%s/code.new; mv %s/code.new %s/code ) "
      .. ">/dev/null 2>&1 &"):format(shell.quote(inner), dir, dir, dir, dir, dir))
   local pid = M.eventually(60, function()
      local text = posix.slurp(dir .. "/pid")
      return text and tonumber((text:match "^(%d+)\n"))
   end)
   return setmetatable({ pid = assert(pid, "the shell did not start"), dir = dir }, Process)
end

--- Standard output or error so far.
---@param which "out"|"err"
function Process:read(which) return posix.slurp(self.dir .. "/" .. which) or "" end

--- Exit code, nil while it runs.
function Process:code() return tonumber(posix.slurp(self.dir .. "/code") or "") end

--- Wait for its end.
---@param seconds number
---@return integer? code nil when it still runs
function Process:wait(seconds)
   return M.eventually(seconds, function() return self:code() end)
end

--- Wait for a text in its output or error.
---@param text string
---@param seconds number
---@return boolean
function Process:says(text, seconds)
   M.eventually(seconds, function()
      return self:code() or self:read("out"):find(text, 1, true) or self:read("err"):find(text, 1, true)
   end)
   return (self:read("out") .. self:read("err")):find(text, 1, true) ~= nil
end

---@param name string "INT", "TERM", "KILL", ...
function Process:signal(name)
   if not self:code() then os.execute(("kill -%s %d 2>/dev/null"):format(name, self.pid)) end
end

--- End it, forget its files.
---@param name? string signal, default "INT"
---@return { code: integer?, out: string, err: string, counters: table? } counters when it printed JSON
function Process:stop(name)
   self:signal(name or "INT")
   local code = self:wait(60) -- a busy machine may not run it for seconds
   if not code then
      self:signal "KILL"
      self:wait(60)
   end
   local result = { code = code, out = self:read "out", err = self:read "err" }
   if result.out:sub(1, 1) == "{" then result.counters = json.decode(result.out) end
   shell.remove(self.dir)
   return result
end

-- ---- the lab ----

---@class test.lab
---@field name string
---@field run_dir string TIDEWAY_RUN_DIR of the engines in this lab
---@field files string directory for whatever a spec needs
local Lab = {}
Lab.__index = Lab

local made = 0

local function lab_command(...) return shell.run(root .. "/scripts/lab " .. table.concat({ ... }, " ")) end

--- Make a lab of its own name.
---@param options { mode: "l2"|"l3", queues?: integer, napi?: boolean }
---@return test.lab
function M.up(options)
   made = made + 1
   local lab = setmetatable({
      name = ("spec-%d-%d"):format(posix.getpid(), made), run_dir = shell.directory(), files = shell.directory(),
      started = {},
   }, Lab)
   local r = lab_command("up --name", lab.name, "--mode", options.mode, "--queues", options.queues or 1,
      options.napi and "--napi" or "")
   assert(r.code == 0, r.err)
   return lab
end

--- A command line that runs in one of the lab's namespaces.
---@param role "client"|"dut"|"server"
---@param command string
---@return string
function Lab:inside(role, command) return ("ip netns exec %s-%s %s"):format(self.name, role, command) end

--- Run a command in a namespace to its end; it gets a minute.
---@return {code: integer, out: string, err: string}
function Lab:run(role, command) return shell.run(self:inside(role, "timeout -k 1 60 " .. command)) end

--- Start a command in a namespace.
---@return test.process
function Lab:spawn(role, command)
   local process = M.spawn(self:inside(role, command))
   self.started[#self.started + 1] = process
   return process
end

--- Start the engine in the middle namespace, with a run directory of the lab's own.
---@param script string
---@param arguments? string[]
---@param options? string more options of `tideway run`
---@return test.process
function Lab:launch(script, arguments, options)
   local words = {}
   for i, word in ipairs(arguments or {}) do words[i] = shell.quote(word) end
   return self:spawn("dut", ("env TIDEWAY_RUN_DIR=%s %s run --json %s %s %s"):format(self.run_dir, shell.binary,
      options or "", script, table.concat(words, " ")))
end

--- Start the engine and wait until it is ready.
---@return test.process
function Lab:engine(script, arguments, options)
   local engine = self:launch(script, arguments, options)
   if not engine:says("ready:", 60) then
      error(("%s did not start: %s"):format(script, engine:read "err"), 2)
   end
   return engine
end

--- Start tcpdump for what a host receives.
---@param role "client"|"server"
---@param filter? string
---@return test.process
function Lab:capture(role, filter)
   local file = ("%s/%s.pcap"):format(self.files, role)
   local command = "tcpdump -Z root -Q in -s 0 -B 8192 -c 3000 -U --immediate-mode -i eth0 -w %s %s"
   local process = self:spawn(role, command:format(file, filter or ""))
   assert(process:says("listening on", 60), process:read "err")
   process.file = file
   return process
end

local BAD = { "incorrect", "bad cksum", "bad udp cksum", "bad icmp6 cksum", "wrong icmp cksum" }

-- Packets in a capture file that is being written.
local function captured(path)
   local bytes, at, n = posix.slurp(path) or "", 25, 0
   while at + 15 <= #bytes do
      local a, b, c, d = bytes:byte(at + 8, at + 11)
      at = at + 16 + a + b * 256 + c * 65536 + d * 16777216
      if at <= #bytes + 1 then n = n + 1 end
   end
   return n
end

--- End a capture: what it saw, and the lines with a bad checksum. It is ended when it has seen so many packets, and
--- none has come for a moment.
---@param capture test.process
---@param packets? integer
---@return { text: string, packets: integer, bad: string[] }
function M.seen(capture, packets)
   local last
   M.eventually(60, function()
      sleep_ms(50)
      local before = last
      last = captured(capture.file)
      return last == before and last >= (packets or 0)
   end)
   capture:stop "INT"
   local text = shell.run("tcpdump -nn -vv -r " .. capture.file).out
   local result = { text = text, packets = 0, bad = {} }
   for line in text:gmatch "[^\n]+" do
      if line:find "^%d" then result.packets = result.packets + 1 end
      for _, word in ipairs(BAD) do
         if line:find(word, 1, true) then
            result.bad[#result.bad + 1] = line
            break
         end
      end
   end
   return result
end

--- What a stopped engine left in the middle namespace: XDP programs, instances, runtime directories.
---@param pid integer of the engine
---@return string[] findings empty when nothing is left
function Lab:left_by(pid)
   local list = {}
   if posix.alive(pid) then list[#list + 1] = "process " .. pid end
   for line in self:run("dut", "ip -d link").out:gmatch "[^\n]+" do
      if line:find "prog/xdp" or line:find "xdp/id" or line:find "xdpgeneric" then list[#list + 1] = line end
   end
   for name in require("lfs").dir(self.run_dir) do
      if not name:find "^%.+$" then list[#list + 1] = "instance " .. name end
   end
   if require("lfs").attributes("/var/run/dpdk/tideway-" .. pid) then
      list[#list + 1] = "/var/run/dpdk/tideway-" .. pid
   end
   return list
end

--- End everything in the lab and remove it.
function Lab:down()
   for _, process in ipairs(self.started) do process:signal "KILL" end
   local r = lab_command("down --name", self.name)
   for _, process in ipairs(self.started) do shell.remove(process.dir) end
   shell.remove(self.run_dir)
   shell.remove(self.files)
   assert(r.code == 0, r.err)
end

return M
