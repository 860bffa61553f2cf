-- SPDX-License-Identifier: BSD-3-Clause
-- What a client of the control socket can ask for: hello, call, eval, complete, cancel.

local ffi = require "ffi"
local abi = require "tideway.abi"
local audit = require "tideway.control.audit"
local command = require "tideway.live.command"
local json = require "tideway.json"
local literal = require "tideway.control.literal"
local protocol = require "tideway.control.protocol"
local roles = require "tideway.control.roles"
local session = require "tideway.live.session"
local view = require "tideway.live.view"

local M = {}

local function who(client) return ("user %s (uid %d)"):format(client.user, client.uid) end

local function fail(client, id, err, more)
   local reply = more or {}
   reply.id, reply.ok, reply.error = id, false, tostring(err)
   client:reply(reply)
end

-- Run fn in a session for this request. It returns the fields of the reply.
local function serve(client, id, fn, options)
   local sink = {
      send = function(kind, data) return client:stream(id, kind, data) end,
      room = function() return client:room() end,
      poll = function() client:poll() end,
   }
   client.busy = client.busy + 1
   client.active[id] = session.start(fn, {
      sink = sink, engine_code = options.engine_code, trusted = options.trusted, client = client,
      role = roles.of(client.peer),
      done = function(ok, result)
         client.busy, client.active[id] = client.busy - 1, nil
         local said = ok and (result.report or type(result.value) == "string" and result.value)
         local outcome = ok and (said or "ok") or tostring(result)
         if options.change then audit.add(client, options.change, outcome) end
         if ok then
            result.id, result.ok = id, true
            client:reply(result)
         else
            fail(client, id, result)
         end
         client.lost[id] = nil
         client:advance()
      end,
   })
end

-- ---- hello ----

local function hello(client, id)
   local stats, chains = abi.C.tw_stats(), {}
   require("tideway.change.history").meet(client) -- what runs now is known to it
   for i, chain in ipairs(require("tideway.model").all_chains()) do chains[i] = chain.name end
   client:reply {
      id = id, ok = true,
      value = {
         version = require "tideway.version", protocol = protocol.VERSION, abi = tonumber(abi.C.TW_ABI_VERSION),
         instance = ffi.string(stats.instance), script = ffi.string(stats.script), pid = stats.pid,
         start = tonumber(stats.start_ns) / 1e9, role = roles.of(client.peer), user = client.user,
         uid = client.uid, chains = chains, gate = require("tideway.gate.engine").is_running(),
      },
   }
end

-- ---- call ----

local function describe(name, args, count)
   local words = {}
   for i = 1, count do
      local arg = args[i]
      if type(arg) == "string" then
         words[i] = ("%q"):format(arg)
      elseif type(arg) == "table" then
         local ok, text = pcall(json.encode, arg, true)
         words[i] = ok and text or "{...}"
      else
         words[i] = tostring(arg)
      end
   end
   return ("%s(%s)"):format(name, table.concat(words, ", "))
end

local function result_of(value)
   if view.is(value) then return { view = value } end
   if protocol.encode { value = value } then return { value = value } end
   return { view = view.of(value) }
end

-- One refusal of a user in a second is logged, so that nobody can push the changes out of the log.
local refused = {}

local function refuse(client, id, need, what, more)
   local text = roles.refusal(who(client), roles.of(client.peer), need, what) .. (more or "")
   if refused[client.uid] ~= os.time() then
      refused[client.uid] = os.time()
      audit.add(client, what, "refused: needs role " .. need)
   end
   fail(client, id, text)
end

local function call(client, id, name, args, count)
   local entry = type(name) == "string" and command.entry(name)
   if not entry then
      local names = command.names(roles.of(client.peer))
      return fail(client, id, ("there is no command %q; you can call: %s"):format(tostring(name),
         #names > 0 and table.concat(names, ", ") or "none"))
   end
   if not roles.allows(roles.of(client.peer), entry.role) then return refuse(client, id, entry.role, name) end
   serve(client, id, function() return result_of((command.fn(name)(unpack(args, 1, count)))) end, {
      engine_code = true, trusted = entry.role == "view",
      change = entry.role ~= "view" and describe(name, args, count) or nil,
   })
end

-- ---- eval ----

-- A client's globals are its own, and of its role.
local function environment(client)
   local role = roles.of(client.peer)
   if not client.env or client.env_role ~= role then
      client.env, client.env_role = require("tideway.live.env").new(role), role
   end
   return client.env
end

local function results(...) return { view = view.results(select("#", ...), { ... }) } end

-- So that NFs typed here can be compiled.
local function remember(text)
   if text:find "function" then require("tideway.compiler.syntax.source").given(session.CHUNK, text) end
end

-- Text only: bytecode can write anywhere.
local function load_text(text)
   local chunk, err = load(text, session.CHUNK, "t")
   if chunk then remember(text) end
   return chunk, err
end

-- An expression or statements. Not `return CODE`: errors of a tail call have no position.
local function load_code(code)
   if load("return " .. code, session.CHUNK, "t") then
      -- On the last line of the code, which errors would have: a line of its own only behind a comment.
      local close = code:find "%-%-[^\n]*$" and "\n)" or ")"
      local chunk = load_text("return (...)(" .. code .. close)
      if chunk then return function() return chunk(results) end, nil, chunk end
   end
   local chunk, err = load_text(code)
   if not chunk then return nil, err end
   return function() return results(chunk()) end, nil, chunk
end

-- Whatever a line declares is made at once or not at all; what was made is shown behind its values.
local function as_one_change(run)
   local reply, report = require("tideway.change").transaction(run)
   if not report then return reply end
   local shown = view.text(report)
   reply.view, reply.report = reply.view and view.list { reply.view, shown } or shown, report
   return reply
end

-- A line that calls one command is that call: who may not evaluate can write it, and reads are not logged.
local function as_call(client, code, admin)
   local name, args, lone = literal.call(code)
   local entry = name and command.entry(name)
   if not entry then return nil end
   if admin and (lone or entry.role ~= "view" or rawget(environment(client), name) ~= nil) then return nil end
   return name, args
end

local function eval(client, id, code)
   if type(code) ~= "string" then return fail(client, id, "eval needs code, a string") end
   local role = roles.of(client.peer)
   local admin = roles.allows(role, "admin")
   local name, args = as_call(client, code, admin)
   if name then return call(client, id, name, args, args.n) end
   if not admin then
      return refuse(client, id, "admin", "evaluating Lua", ("; without it commands can be called with literal "
         .. "arguments: %s"):format(table.concat(command.names(role), ", ")))
   end
   local run, err, chunk = load_code(code)
   if not run then return fail(client, id, err, { incomplete = err:find("near '<eof>'", 1, true) ~= nil }) end
   jit.off(chunk, true)
   setfenv(chunk, environment(client))
   serve(client, id, function() return as_one_change(run) end, { change = code })
end

-- ---- complete, cancel ----

local function complete(client, id, text)
   if type(text) ~= "string" then return fail(client, id, "complete needs text, a string") end
   serve(client, id, function()
      return { value = require("tideway.live.complete").complete(text, environment(client)) }
   end, { engine_code = true })
end

local function cancel(client, id, target)
   local running = client.active[target]
   if running then session.cancel(running) end
   client:reply { id = id, ok = true, value = running ~= nil }
end

local OPS = {
   hello = function(client, message) hello(client, message.id) end,
   call = function(client, message)
      local args = message.args
      if args ~= nil and type(args) ~= "table" then return fail(client, message.id, "args is a list") end
      args = args or {}
      call(client, message.id, message.name, args, table.maxn(args))
   end,
   eval = function(client, message) eval(client, message.id, message.code) end,
   complete = function(client, message) complete(client, message.id, message.text) end,
   cancel = function(client, message) cancel(client, message.id, message.target) end,
}

--- Serve one request.
---@param client tideway.control.connection
---@param message table
function M.request(client, message)
   local id = message.id
   if type(id) ~= "number" or id % 1 ~= 0 or id < 0 or id >= 2 ^ 32 then
      return fail(client, nil, "a request needs an id, a whole number from 0 to 2^32 - 1")
   end
   if client.active[id] then return fail(client, id, ("request %d is served still; take another id"):format(id)) end
   local op = OPS[message.op]
   if not op then
      return fail(client, id, ("there is no op %q; there are: hello, call, eval, complete, cancel")
         :format(tostring(message.op)))
   end
   op(client, message)
end

return M
