-- SPDX-License-Identifier: BSD-3-Clause
-- entry:lock() ... entry:unlock(). What the kernel demands of such a section is demanded here, at the line: one lock at
-- a time, given back on every path by the function that took it, no helper called in between.

local memory = require "tideway.compiler.front.memory"
local value = require "tideway.compiler.front.value"

local M = {}

-- What is held on a path: nil, or where and by what it was taken. It lies in a variable, so that paths that meet with
-- different locks are told apart from those with the same.
local function held(cx)
   local fv = cx.state.vars[cx.held]
   if fv.k ~= "host" then
      cx:refuse("an entry may still be locked here: it is on some of the paths that meet",
         "write unlock() on every path from lock()")
   end
   return fv.v
end

local function set(cx, section)
   cx.state.vars[cx.held] = value.host(section)
end

local function line_of(section) return ("taken in line %d"):format(section.pos and section.pos.line or 0) end

local METHODS = {}

function METHODS.lock(cx, entry)
   local now = held(cx)
   if now then
      cx:refuse(("lock(): an entry is locked already (%s); one lock is held at a time"):format(line_of(now)),
         "unlock the other one first")
   end
   memory.usable(cx, entry)
   cx.target.tables.lock(cx, entry)
   memory.forget(cx, entry.ir.space)
   set(cx, { entry = entry.ir, off = entry.off, fv = entry, pos = cx.pos, depth = #cx.calls })
   return {}
end

function METHODS.unlock(cx, entry)
   local now = held(cx)
   if not now or now.entry ~= entry.ir or now.off ~= entry.off then
      cx:refuse("unlock(): this entry is not locked here", now and ("another one is, %s"):format(line_of(now))
         or "lock() and unlock() stand around the accesses, on the same variable")
   end
   M.release(cx)
   return {}
end

--- Gives back what is held, if anything: also where a program ends in the middle of a section.
function M.release(cx)
   local now = held(cx)
   if not now then return end
   set(cx, nil)
   cx.target.tables.unlock(cx, now.fv)
   memory.forget(cx, now.entry.space)
end

--- Refuses to go back from the function that took a lock before it is given back.
function M.check_return(cx)
   if cx:dead() then return end
   local now = held(cx)
   if now and now.depth >= #cx.calls then
      cx:refuse(("the function is left with an entry locked (%s)"):format(line_of(now)),
         "write unlock() before every way out")
   end
end

--- Refuses a helper of the kernel inside a section.
function M.check_helper(cx, helper)
   local now = held(cx)
   if now then
      cx:refuse(("the kernel allows no calls between lock() and unlock(), and this calls bpf_%s (lock %s)")
         :format(helper, line_of(now)), "get what you need from tables, the clock and others in front of lock()")
   end
end

--- Handler of entry:name(...); nil when the entry has no lock.
function M.method(entry, name)
   if entry.k ~= "ptr" or not entry.shape or not entry.shape.lock_offset then return nil end
   return METHODS[name]
end

return M
