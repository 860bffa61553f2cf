-- SPDX-License-Identifier: BSD-3-Clause
-- What can be done with a running engine, by name: the REPL's functions and what other commands call by the socket.

---@class tideway.live.command
---@field module string
---@field fn string name of the function in the module
---@field role "view"|"operate"|"admin" who may call it
---@field summary string one line

---@type table<string, tideway.live.command>
return {
}
