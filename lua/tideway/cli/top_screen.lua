-- SPDX-License-Identifier: BSD-3-Clause
-- The screen of `tideway top`: keys, the page in sight, and the terminal given back however it ends.

local layout = require "tideway.cli.top_layout"
local pages = require "tideway.cli.top_pages"
local posix = require "tideway.posix"
local text = require "tideway.text"

local M = {}

local ALTERNATE_ON, ALTERNATE_OFF = "\27[?1049h\27[?25l", "\27[?25h\27[?1049l"
local REVERSE, BOLD, WARN, PLAIN = "\27[7m", "\27[1m", "\27[1;33m", "\27[m"

local HELP = {
   head = {},
   sections = {
      {
         columns = { { "KEYS" }, { "", elastic = true } },
         rows = {
            { cells = { "up down k j", "choose a row; PgUp, PgDn, Home, End" } },
            { cells = { "Enter, right, l", "the page behind it: chain, NF, port, lcore" } },
            { cells = { "left, Esc, h", "back to where you came from" } },
            { cells = { "s", "next order: " .. table.concat(pages.ORDERS, ", ") } },
            { cells = { "r", "the order reversed" } },
            { cells = { "/", "only what has a text in its name; Esc ends it" } },
            { cells = { "p", "stop and go on" } },
            { cells = { "+ -", "longer and shorter time between samples" } },
            { cells = { "q", "quit" } },
         },
      },
   },
   foot = "Rates are those of the last interval. RUNS AS: lua, luajit, native (machine code by the C compiler), eBPF. "
      .. "P99/BURST: 99% of the bursts took no longer; one burst in 16 is timed. INTERPRETED: hot functions that "
      .. "LuaJIT has given up compiling: `tideway call jit` says why, `tideway call rewarm CPU` lets it try again.",
}

-- ---- keys ----

local SEQUENCES = {
   ["[A"] = "up", ["[B"] = "down", ["[C"] = "enter", ["[D"] = "back", ["[5~"] = "pageup", ["[6~"] = "pagedown",
   ["[H"] = "home", ["[F"] = "end", ["[1~"] = "home", ["[4~"] = "end", ["OA"] = "up", ["OB"] = "down",
   ["OC"] = "enter", ["OD"] = "back", ["OH"] = "home", ["OF"] = "end",
}
local SINGLE = {
   ["\r"] = "enter", ["\n"] = "enter", ["\127"] = "back", ["\8"] = "back", k = "up", j = "down", l = "enter",
   h = "back",
}

--- What was typed, as a list of keys: names such as "up", "enter", "back", "escape", or characters.
---@param input string
---@param raw? boolean letters stay letters: a text is being typed
---@return string[]
function M.keys(input, raw)
   local keys, i = {}, 1
   while i <= #input do
      local sequence = input:match("^\27([%[O][%d;]*[%a~])", i)
      local char = input:match("^[^\128-\191][\128-\191]*", i) or input:sub(i, i)
      if sequence then
         keys[#keys + 1] = SEQUENCES[sequence] or "unknown"
         i = i + 1 + #sequence
      else
         local name = char == "\27" and "escape" or SINGLE[char]
         if raw and name and char:find "^%a$" then name = nil end
         keys[#keys + 1] = name or char
         i = i + #char
      end
   end
   return keys
end

---@class tideway.top.screen
---@field state tideway.top.state
---@field trail { path: string, target: string?, at: integer?, filter: string? }[] pages one came through; the last is
---  in sight
local Screen = {}
Screen.__index = Screen

--- A screen; nothing is drawn yet.
---@param attached tideway.attached
---@param options { interval: number, order: string?, filter: string? }
---@return tideway.top.screen
function M.new(attached, options)
   return setmetatable({
      attached = attached, interval = options.interval, order = 1, top = 1, trail = { { path = "" } },
      state = { order = options.order or "script", filter = options.filter },
   }, Screen)
end

function Screen:here() return self.trail[#self.trail] end

-- The page in sight; when what it is about is gone, the one before.
function Screen:page()
   if self.help then return HELP end
   while true do
      local page = pages.page(self.state, self:here().path)
      if page then return page end
      self:leave()
   end
end

function Screen:go(path)
   self.loose = false
   self:here().filter = self.state.filter
   self.trail[#self.trail + 1], self.state.filter = { path = path }, nil
   self.top = 1
end

function Screen:leave()
   self.trail[#self.trail] = nil
   self.state.filter = self:here().filter
end

function Screen:back()
   self.loose = false
   if self.help then
      self.help = false
   elseif #self.trail > 1 then
      self:leave()
   elseif self.state.filter then
      self.state.filter = nil
   end
   self.top = 1
end

local function next_of(list, value)
   for i, item in ipairs(list) do
      if item == value then return list[i % #list + 1] end
   end
   return list[1]
end

local INTERVALS = { 0.2, 0.5, 1, 2, 5, 10 }

function Screen:change_interval(step)
   local nearest = 1
   for i, seconds in ipairs(INTERVALS) do
      if math.abs(seconds - self.interval) < math.abs(INTERVALS[nearest] - self.interval) then nearest = i end
   end
   self.interval = INTERVALS[math.max(1, math.min(#INTERVALS, nearest + step))]
end

-- A key while a filter is typed.
function Screen:type(key)
   local filter = self.state.filter or ""
   if key == "enter" then
      self.typing = false
      if filter == "" then self.state.filter = nil end
   elseif key == "escape" then
      self.typing, self.state.filter = false, nil
   elseif key == "back" then
      self.state.filter = filter:gsub("[^\128-\191][\128-\191]*$", "")
   elseif #key == 1 or key:byte() >= 194 then
      self.state.filter = filter .. key
   end
   self.top = 1
end

-- The cursor goes to another row; where there is none, what is below or above comes into sight.
function Screen:move(here, step)
   local at = layout.move(self.lines, here.at, step)
   self.loose = at == here.at
   if self.loose then
      self.top = self.top + step
   else
      here.at, here.target = at, self.lines[at].target
   end
end

local MOVES = { up = -1, down = 1, pageup = -10, pagedown = 10, home = -1e6, ["end"] = 1e6 }

--- What a key does.
---@param key string
---@return boolean quit
function Screen:press(key)
   if self.typing then
      self:type(key)
      return false
   end
   local here = self:here()
   if key == "q" then
      return true
   elseif MOVES[key] and self.lines then
      self:move(here, MOVES[key])
   elseif key == "enter" then
      if here.target and not self.help then self:go(here.target) end
   elseif key == "back" or key == "escape" then
      self:back()
   elseif key == "s" then
      self.state.order = next_of(pages.ORDERS, self.state.order)
   elseif key == "r" then
      self.state.reverse = not self.state.reverse
   elseif key == "/" then
      self.typing = true
   elseif key == "p" then
      self.paused = not self.paused
   elseif key == "?" then
      self.help, self.top = not self.help, 1
   elseif key == "+" then
      self:change_interval(1)
   elseif key == "-" then
      self:change_interval(-1)
   end
   return false
end

-- ---- drawing ----

function Screen:status()
   if self.typing then return "/" .. (self.state.filter or "") .. "_" end
   local parts = { "?: help  q: quit" }
   if #self.trail > 1 or self.help then parts[#parts + 1] = "left: back" end
   if self:here().target and not self.help then parts[#parts + 1] = "Enter: open" end
   if self.paused then parts[#parts + 1] = "PAUSED (p)" end
   if self.state.filter then parts[#parts + 1] = "/" .. self.state.filter end
   parts[#parts + 1] = "order (s): " .. self.state.order .. (self.state.reverse and ", reversed" or "")
   parts[#parts + 1] = ("%g s"):format(self.interval)
   return table.concat(parts, "  ")
end

function Screen:note()
   if #self.trail == 1 then
      return #self.attached.names > 1 and "(also: " .. table.concat(self.attached.names, ", ") .. ")" or nil
   end
   return "> " .. self:here().path
end

--- The screen as lines of so many columns, as many as it has rows; with colours of the terminal.
---@param rows integer
---@param cols integer
---@return string[]
function Screen:render(rows, cols)
   local head, warnings = pages.head(self.state, self:note())
   local out = {}
   for _, s in ipairs(head) do out[#out + 1] = BOLD .. text.cut(s, cols) .. PLAIN end
   for i = 1, math.min(#warnings, 3) do out[#out + 1] = WARN .. text.cut("! " .. warnings[i], cols) .. PLAIN end
   out[#out + 1] = ""
   local page = self:page() -- may go back
   local lines, here = layout.lines(page, cols), self:here()
   self.lines = lines
   here.at = not self.help and layout.cursor(lines, here.target, here.at) or nil
   here.target = here.at and lines[here.at].target
   local height = math.max(0, rows - #out - 1)
   self.top = layout.scroll(lines, not self.loose and here.at or nil, self.top, height)
   for i = self.top, self.top + height - 1 do
      local line = lines[i]
      local s = line and line.text or ""
      if line and i == here.at then s = REVERSE .. s .. (" "):rep(cols - text.width(s)) .. PLAIN end
      if line and line.heading then s = BOLD .. s .. PLAIN end
      out[#out + 1] = s
   end
   local more = #lines > self.top + height - 1 and "v " or self.top > 1 and "^ " or ""
   out[#out + 1] = REVERSE .. text.cut(more .. self:status(), cols) .. PLAIN
   while #out > rows do table.remove(out, 1) end -- a terminal of hardly any rows
   return out
end

function Screen:draw()
   local rows, cols = posix.terminal_size(1)
   io.stdout:write("\27[H", table.concat(self:render(rows, cols), "\27[K\r\n"), "\27[K\27[J")
   io.stdout:flush()
end

-- ---- the loop ----

function Screen:sample()
   local snap, rates = self.attached:sample()
   if rates and not (self.paused and self.state.rates) then self.state.snap, self.state.rates = snap, rates end
end

-- What came from the keyboard; true: quit.
function Screen:read()
   local input = posix.read(0, 64)
   if input == "" then return true end
   for _, key in ipairs(M.keys(input, self.typing)) do
      if self:press(key) then return true end
   end
   return false
end

-- Runs until q, a signal or the end of the instance; returns what to say afterwards.
function Screen:loop(signals)
   local SIGWINCH = 28
   self:sample()
   posix.poll({}, 100)
   self:sample()
   local due = posix.now() + self.interval * 1e9
   while true do
      self:draw()
      local ready = posix.poll({ 0, signals }, math.max(0, math.ceil((due - posix.now()) / 1e6)))
      if ready[signals] and posix.read(signals, 128):byte(1) ~= SIGWINCH then return nil end
      if ready[0] and self:read() then return nil end
      if posix.now() >= due then
         due = posix.now() + self.interval * 1e9
         if not self.attached:alive() then
            return ("instance '%s' has stopped"):format(self.attached.instance.name)
         end
         self:sample()
      end
   end
end

--- The live view in a terminal.
---@param attached tideway.attached
---@param options { interval: number, order: string?, filter: string?, page: string? }
---@return integer exit code
function M.live(attached, options)
   local SIGHUP, SIGINT, SIGTERM, SIGWINCH = 1, 2, 15, 28
   local screen = M.new(attached, options)
   if options.page ~= "" then screen:go(options.page) end
   local signals, restore_signals = posix.signal_fd { SIGHUP, SIGINT, SIGTERM, SIGWINCH }
   local restore_terminal = posix.raw_terminal(0)
   io.stdout:write(ALTERNATE_ON)
   local ok, result = xpcall(screen.loop, debug.traceback, screen, signals)
   io.stdout:write(ALTERNATE_OFF)
   io.stdout:flush()
   if restore_terminal then restore_terminal() end
   restore_signals()
   if not ok then error(result, 0) end
   if result then io.stdout:write(result, "\n") end
   return 0
end

return M
