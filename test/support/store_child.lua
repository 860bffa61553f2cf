-- SPDX-License-Identifier: BSD-3-Clause
-- Run by test/msg_store_spec.lua in a process of its own that has a store of the spec's process.
--
--    tideway run test/support/store_child.lua PID FD NUMBER WHAT [N]

local ffi = require "ffi"
local abi = require "tideway.abi"
local store_lib = require "tideway.store"
require "tideway.posix"

local C = abi.C
local pid, fd, number, what, n = ...
local own = C.tw_posix_open(("/proc/%s/fd/%s"):format(pid, fd), 2)
assert(own >= 0, "cannot open the store of process " .. pid)
assert(store_lib.adopt(ffi.new("int[1]", own), 1))
local store = store_lib.attach { number = tonumber(number), name = "spec" }

local todo = {}

function todo.get() print(store:get "greeting", store.name) end

function todo.count()
   for i = 1, tonumber(n) do
      assert(store:incr("sum", 1, 0))
      assert(store:set("own" .. pid .. i % 100, ("x"):rep(i % 1000)))
   end
end

-- Reads what has to be one letter all over, while others write it.
function todo.read()
   for _ = 1, tonumber(n) do
      local value = store:get "letters"
      if value then assert(value == value:sub(1, 1):rep(#value), "a torn value") end
   end
end

function todo.write()
   for i = 1, tonumber(n) do assert(store:set("letters", string.char(97 + i % 26):rep(i % 5000))) end
end

-- Dies in the middle of a change: the second piece is nowhere.
function todo.die()
   local text = ("y"):rep(3000)
   local pieces = ffi.new "struct tw_store_piece[2]"
   pieces[0].at, pieces[0].len = text, #text
   pieces[1].at, pieces[1].len = ffi.cast("const void *", 8), 3000
   store:put_blocks("victim", pieces, 2)
end

todo[what]()
os.exit(0)
