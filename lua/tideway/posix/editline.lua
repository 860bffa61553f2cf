-- SPDX-License-Identifier: BSD-3-Clause
-- Lines typed at a terminal, by libedit: editing, history, completion, and other descriptors served meanwhile.
--
-- libedit asks for every character by a function of ours, which waits for the keyboard, for signals and for whatever
-- else the caller has. Functions that C calls must not raise and not be called from compiled code: so this file is
-- interpreted.

local ffi = require "ffi"
local posix = require "tideway.posix"

jit.off(true, true)

ffi.cdef [[
struct tw_posix_el_line { const char *buffer, *cursor, *last; };
struct tw_posix_el_event { int number; const char *text; };
void *tw_posix_el_init(const char *name, void *in, void *out, void *err) __asm__("el_init");
void tw_posix_el_end(void *el) __asm__("el_end");
const char *tw_posix_el_gets(void *el, int *count) __asm__("el_gets");
int tw_posix_el_set(void *el, int op, ...) __asm__("el_set");
const struct tw_posix_el_line *tw_posix_el_line(void *el) __asm__("el_line");
int tw_posix_el_insertstr(void *el, const char *text) __asm__("el_insertstr");
void tw_posix_el_resize(void *el) __asm__("el_resize");
void *tw_posix_history_init(void) __asm__("history_init");
int tw_posix_history(void *history, struct tw_posix_el_event *event, int op, ...) __asm__("history");
char *tw_posix_setlocale(int category, const char *locale) __asm__("setlocale");
typedef const char *(*tw_posix_el_prompt)(void *el);
typedef int (*tw_posix_el_getc)(void *el, int *c);
typedef unsigned char (*tw_posix_el_key)(void *el, int c);
]]

-- <histedit.h>
local EL_PROMPT, EL_EDITOR, EL_SIGNAL, EL_BIND, EL_ADDFN, EL_HIST, EL_GETCFN, EL_REFRESH = 0, 2, 3, 4, 9, 10, 13, 20
local CC_ERROR, CC_REFRESH, CC_REDISPLAY = 6, 4, 8
local H_SETSIZE, H_ENTER, H_SETUNIQUE = 1, 10, 20

local KEYS = {
   ["^I"] = "tideway-complete", ["^R"] = "em-inc-search-prev", ["\\e[3~"] = "ed-delete-next-char",
   ["\\e[1;5C"] = "em-next-word", ["\\e[1;5D"] = "ed-prev-word",
}

local LC_CTYPE, SIGHUP, SIGINT, SIGTERM, SIGWINCH = 0, 1, 2, 15, 28
local HISTORY = 1000

local M = {}

---@class tideway.editline
---@field el ffi.cdata*
local Line = {}
Line.__index = Line

local function int(n) return ffi.cast("int", n) end

-- ---- characters ----

local LENGTHS = { { 0xf0, 4, 0x07 }, { 0xe0, 3, 0x0f }, { 0xc0, 2, 0x1f } }

-- One character of standard input, UTF-8 to its code point; nil at the end.
local function character()
   local byte = posix.read(0, 1):byte()
   if not byte or byte < 0xc0 then return byte end
   for _, form in ipairs(LENGTHS) do
      local first, length, mask = form[1], form[2], form[3]
      if byte >= first then
         local code = bit.band(byte, mask)
         for _ = 2, length do
            local more = posix.read(0, 1):byte()
            if not more then return nil end
            code = code * 64 + bit.band(more, 0x3f)
         end
         return code
      end
   end
end

-- Wait for a key and do what else is to be done. 1: a character, 0: none will come.
function Line:getc(out)
   local fds = { 0, self.signals }
   for fd in pairs(self.watched) do fds[#fds + 1] = fd end
   local ready = posix.poll(fds, 1000)
   if ready[self.signals] then
      local signal = posix.signal_of(self.signals)
      if signal == SIGWINCH then
         self.lib.tw_posix_el_resize(self.el)
      else
         self.interrupted, self.left = signal == SIGINT, signal ~= SIGINT
         return 0
      end
   end
   for fd, fn in pairs(self.watched) do
      if ready[fd] and fn() then
         self.left = true
         return 0
      end
   end
   if not ready[0] then return nil end
   local code = character()
   if not code then return 0 end
   out[0] = code
   return 1
end

-- ---- completion ----

local function common(list)
   local prefix = list[1]
   for _, word in ipairs(list) do
      while word:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
   end
   return prefix
end

-- The Tab key: put in what all candidates have in common, else show them.
function Line:tab()
   local line = self.lib.tw_posix_el_line(self.el)
   local text = ffi.string(line.buffer, line.cursor - line.buffer)
   local found, all = self.complete(text)
   if #found == 0 then return CC_ERROR end
   local rest = common(found)
   if #found == 1 and rest == "" then return CC_REFRESH end -- it is whole
   if #rest > 0 then return self.lib.tw_posix_el_insertstr(self.el, rest) == 0 and CC_REFRESH or CC_ERROR end
   io.stdout:write("\n", self.columns(all), "\n")
   io.stdout:flush()
   return CC_REDISPLAY
end

-- ---- the object ----

-- What C calls: never raises.
local function guarded(default, fn)
   return function(...)
      local ok, value = pcall(fn, ...)
      if ok then return value end
      io.stderr:write("\ntideway: ", tostring(value), "\n")
      return default
   end
end

local function callbacks(self)
   self.prompt_text = ffi.new("char[256]")
   self.on_prompt = ffi.cast("tw_posix_el_prompt", function() return self.prompt_text end)
   self.on_getc = ffi.cast("tw_posix_el_getc", guarded(0, function(_, out)
      local value
      repeat value = self:getc(out) until value
      return value
   end))
   self.on_tab = ffi.cast("tw_posix_el_key", guarded(CC_ERROR, function() return self:tab() end))
end

--- A line editor on standard input and output.
---@param options { complete: (fun(text: string): string[], string[]), columns: fun(words: string[]): string }
--- complete: the endings of what stands before the cursor, and the words to show
---@return tideway.editline? line
---@return string? error
function M.new(options)
   local ok, lib = pcall(ffi.load, "libedit.so.2")
   if not ok then
      return nil, "libedit is missing: apt-get install -y --no-install-recommends libedit2"
   end
   if ffi.C.tw_posix_setlocale(LC_CTYPE, "C.UTF-8") == nil then ffi.C.tw_posix_setlocale(LC_CTYPE, "") end
   local self = setmetatable({ lib = lib, watched = {}, complete = options.complete, columns = options.columns }, Line)
   self.el = lib.tw_posix_el_init("tideway", io.stdin, io.stdout, io.stderr)
   if self.el == nil then
      return nil, "libedit does not know this terminal; TERM is " .. (os.getenv "TERM" or "not set")
   end
   callbacks(self)
   self.history = lib.tw_posix_history_init()
   self.event = ffi.new "struct tw_posix_el_event"
   lib.tw_posix_history(self.history, self.event, H_SETSIZE, int(HISTORY))
   lib.tw_posix_history(self.history, self.event, H_SETUNIQUE, int(1))
   lib.tw_posix_el_set(self.el, EL_PROMPT, self.on_prompt)
   lib.tw_posix_el_set(self.el, EL_EDITOR, ffi.cast("const char *", "emacs"))
   lib.tw_posix_el_set(self.el, EL_SIGNAL, int(0))
   lib.tw_posix_el_set(self.el, EL_HIST, ffi.cast("void *", lib.tw_posix_history), self.history)
   lib.tw_posix_el_set(self.el, EL_GETCFN, self.on_getc)
   lib.tw_posix_el_set(self.el, EL_ADDFN, "tideway-complete", "complete", self.on_tab)
   for keys, command in pairs(KEYS) do self:bind(keys, command) end
   return self
end

--- Bind a key as editrc(5) does.
---@param keys string
---@param command string
function Line:bind(keys, command)
   self.lib.tw_posix_el_set(self.el, EL_BIND, ffi.cast("const char *", keys), ffi.cast("const char *", command),
      ffi.cast("const char *", nil))
end

--- Remember a line.
---@param text string
function Line:remember(text)
   self.lib.tw_posix_history(self.history, self.event, H_ENTER, ffi.cast("const char *", text))
end

--- Call fn while a line is typed whenever the descriptor can be read; true: give up the line.
---@param fd integer
---@param fn fun(): boolean?
function Line:watch(fd, fn) self.watched[fd] = fn end

--- Print something above the line that is being typed.
---@param text string
function Line:above(text)
   io.stdout:write("\r\27[K", text, "\n")
   io.stdout:flush()
   self.lib.tw_posix_el_set(self.el, EL_REFRESH)
end

--- Read a line.
---@param prompt string
---@return string? text nil: there is none
---@return "interrupted"|"left"|"end"|nil why
function Line:read(prompt)
   ffi.copy(self.prompt_text, prompt:sub(1, 255))
   self.interrupted, self.left = false, false
   local restore
   self.signals, restore = posix.signal_fd { SIGHUP, SIGINT, SIGTERM, SIGWINCH }
   local count = ffi.new "int[1]"
   local text = self.lib.tw_posix_el_gets(self.el, count)
   restore()
   if text ~= nil and count[0] > 0 and not self.interrupted and not self.left then
      return (ffi.string(text, count[0]):gsub("\n$", ""))
   end
   return nil, self.interrupted and "interrupted" or self.left and "left" or "end"
end

--- Give the terminal back.
function Line:close()
   self.lib.tw_posix_el_end(self.el)
   for _, name in ipairs { "on_prompt", "on_getc", "on_tab" } do self[name]:free() end
end

return M
