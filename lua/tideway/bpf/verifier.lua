-- SPDX-License-Identifier: BSD-3-Clause
-- From the verifier's log to a message about the Lua source: which line, which variable, what to do.

local diagnostic = require "tideway.compiler.diagnostic"
local messages = require "tideway.bpf.verifier_messages"

local M = {}

local E2BIG = 7
local TAIL = 60 -- lines at the end of a log that may hold the message

-- Lines that say what was done, not what is wrong.
local function is_summary(line)
   return line == "" or line:match "^processed %d+ insns" or line:match "^verification time"
      or line:match "^stack depth"
end

-- The instruction of a line such as "12: (61) r2 = *(u32 *)(r1 +0)  ; R1=ctx()", or nil.
local function insn_of(line) return tonumber(line:match "^%s*(%d+): %(%x%x%)") end

local function is_state(line)
   return line:match "^;" or line:match "^%s*%d+: R?%d" or line:match "^%s*%d+: frame" or line:match "^from %d+ to"
      or line:match "^ ?R%d+[_%a]*=" or line:match "^last_idx"
      or line:match "^regs=" or line:match "^parent " or line:match "^mark_precise" or line:match "^caller:"
      or line:match "^callee:" or line:match "^frame%d" or line:match "^returning from" or line:match "^to caller"
      or line:match "^cur state" or line:match "^old state"
end

-- The last instruction that the log shows, and the lines behind it that are neither state nor summary.
local function split(log)
   local lines = {}
   -- In a short log this stands behind an instruction.
   log = log:gsub("([^\n])(BPF program is too large)", "%1\n%2")
   for line in log:gmatch "[^\n]+" do lines[#lines + 1] = line end
   local said = {}
   for i = #lines, math.max(1, #lines - TAIL), -1 do
      local line = lines[i]
      local insn = insn_of(line)
      if insn then return insn, said end
      if not is_summary(line) and not is_state(line) then table.insert(said, 1, line) end
   end
   -- A long state behind the instruction, or a message before the first one.
   for i = #lines, 1, -1 do
      local insn = insn_of(lines[i])
      if insn then return insn, said end
   end
   return nil, said
end

local function find(said)
   for _, m in ipairs(messages) do
      for _, line in ipairs(said) do
         local captures = { line:match(m[1]) }
         if captures[1] then return m, captures, line end
      end
   end
end

--- The position of an instruction: that of the last line at or before it.
---@param lines table[]  { insn =, pos = } in order of insn
---@param insn integer
---@return tideway.compiler.position?
function M.position(lines, insn)
   local found
   for _, l in ipairs(lines) do
      if l.insn > insn then break end
      found = l.pos
   end
   return found
end

-- Names of variables for registers. Registers without one keep theirs.
local function rename(text, names)
   return (text:gsub("R(%d+)", function(n)
      local name = names and names[tonumber(n)]
      return name and ("'%s'"):format(name) or nil
   end))
end

--- Translates a log.
---@param log string  of a load with log level 2
---@param o table  { lines = { { insn =, pos = } }?, names = fun(insn): table<integer, string>?, name =
---  of the program?, sentence = what to say when the log is empty? }
---@return tideway.compiler.diagnostic diagnostic  with .log, .insn, .said (the verifier's own words), .too_large
function M.translate(log, o)
   local insn, said = split(log)
   local m, captures, line = find(said)
   local reason, advice
   if m then
      if m.insn then insn = tonumber(captures[m.insn]) end
      reason = m[2]:gsub("%%(%d)", function(n) return captures[tonumber(n)] end)
      advice = m[3]
   else
      line = said[1]
      reason = line or o.sentence or "no reason was given"
   end
   local names = insn and o.names and o.names(insn)
   local pos = insn and o.lines and M.position(o.lines, insn)
   local d = diagnostic.new(pos, ("the kernel's verifier refuses %s: %s"):format(o.name or "the program",
      rename(reason, names)), advice)
   d.log, d.insn, d.said, d.too_large = log, insn, line, m and m.size
   return d
end

--- Translates what program.load returned.
---@param err tideway.bpf.LoadError
---@param o table  as for translate; { lines =, names = }
---@return tideway.compiler.diagnostic
function M.explain(err, o)
   if err.log == "" then
      local too_large = err.errno == E2BIG
      local d = diagnostic.new(nil, too_large and ("%s is too large for the kernel's verifier"):format(err.name)
         or err.message)
      d.log, d.too_large = "", too_large
      return d
   end
   return M.translate(err.log, { lines = o.lines, names = o.names, name = o.name or err.name, sentence = err.message })
end

return M
