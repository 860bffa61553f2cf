-- SPDX-License-Identifier: BSD-3-Clause
-- A service whose functions run in worker processes, with the spec in place of a gate thread: it puts messages into
-- blocks, sends their descriptors, and takes what comes back.

local ffi = require "ffi"
local abi = require "tideway.abi"
local store = require "tideway.store"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

ffi.cdef [[
   struct service;
   int tw_supervisor_service(uint32_t index, const struct tw_service_spec *spec, struct tw_fabric *fabric,
                             struct service *service);
   void tw_supervisor_stuck(uint32_t service, uint32_t member, uint32_t ms);
   uint64_t tw_supervisor_cpu(uint32_t service, uint32_t member);
   void tw_supervisor_stop(void);
]]

local Service = {}
Service.__index = Service

local TRANSPORT = { sk_msg = C.TW_TRANSPORT_SK_MSG, rings = C.TW_TRANSPORT_RINGS }

local function takes(nf)
   return (nf.message and C.TW_TAKES_MESSAGE or 0) + (nf.response and C.TW_TAKES_RESPONSE or 0) +
      (nf.data and C.TW_TAKES_DATA or 0)
end

--- A service of these functions: { { name =, nf = } }.
---@param functions table[]
---@param options? { transport?: string, service?: integer, memory_mb?: integer }
function M.service(functions, options)
   options = options or {}
   local spec = ffi.new "struct tw_service_spec"
   spec.name, spec.transport = "spec", TRANSPORT[options.transport or "sk_msg"]
   spec.n_functions, spec.group, spec.memory_mb = #functions, -1, options.memory_mb or 8
   for i, f in ipairs(functions) do
      local to = spec["function"][i - 1]
      to.name, to.takes, to.readonly = f.name, takes(f.nf), f.nf.readonly and 1 or 0
   end
   local box = ffi.new "struct tw_fabric *[1]"
   assert(C.tw_fabric_new(box, spec, 1) == 0, abi.error())
   local self = setmetatable({
      index = options.service or 0, spec = spec, fabric = box[0], functions = functions, workers = {}, ids = 0,
      pool = C.tw_fabric_pool(box[0]), link = C.tw_fabric_gate(box[0], 0), descs = ffi.new "struct tw_desc[64]",
      came = {},
   }, Service)
   assert(C.tw_supervisor_service(self.index, spec, self.fabric, nil) == 0, abi.error())
   return self
end

--- What a worker of a function is told, as the gate's control side packs it.
function Service:pack(i)
   local f = self.functions[i]
   return store.noting(transfer.pack, {
      chain = "spec", name = f.name, index = i - 1, nf = f.nf, routes = {}, groups = { app = 0 }, listeners = {},
   }, "function " .. f.name, true)
end

--- Start an instance; its number.
---@param i integer function, from 1
---@param options? table fields of struct tw_worker_spec
function Service:add(i, options)
   local blob, fds = self:pack(i)
   local spec = ffi.new "struct tw_worker_spec"
   spec.service, spec["function"], spec.blob, spec.blob_len, spec.cpu = self.index, i - 1, blob, #blob, -1
   for key, value in pairs(options or {}) do spec[key] = value end
   spec.n_fds = #fds
   for k, fd in ipairs(fds) do spec.fds[k - 1] = fd end
   local n = C.tw_worker_add(spec)
   assert(n >= 0, abi.error())
   self.workers[#self.workers + 1] = n
   return n
end

function M.info(worker)
   local info = ffi.new "struct tw_worker_info"
   return C.tw_worker_info(worker, info) == 0 and info or nil
end

--- Waits for a condition; what it returned, or an error after so long.
function M.wait(what, condition, seconds)
   local deadline = tonumber(C.tw_now()) + (seconds or 60) * 1e9
   while true do
      local value = condition()
      if value then return value end
      if tonumber(C.tw_now()) > deadline then error("it did not come to this: " .. what, 2) end
      C.tw_sleep_ms(1)
   end
end

--- Until it runs; its info.
function M.running(worker, restarts)
   return M.wait("worker " .. worker .. " runs", function()
      local info = M.info(worker)
      if info and info.state == C.TW_WORKER_RUNS and info.restarts >= (restarts or 0) then return info end
      if info and not restarts and info.restarts > 3 then error("it ends: " .. ffi.string(info.last), 0) end
   end)
end

local size_box = ffi.new "uint32_t[1]"

function Service:message(handle)
   local memory = C.tw_pool_at(self.pool, handle, 0, size_box)
   return memory ~= nil and ffi.cast("struct tw_msg *", memory) or nil
end

--- A request in a block of its own.
function Service:request(target)
   local handle = C.tw_pool_new(self.pool, 4096, 0)
   assert(handle ~= 0, abi.error())
   local m = self:message(handle)
   ffi.fill(m, ffi.sizeof "struct tw_msg")
   self.ids = self.ids + 1
   m.magic, m.kind, m.version, m.size, m.self, m.id = C.TW_MSG_MAGIC, C.TW_MSG_REQUEST, 1, size_box[0], handle, self.ids
   local b, at = ffi.cast("char *", m), ffi.sizeof "struct tw_msg"
   local function put(text, value)
      text.at, text.len = at, #value
      ffi.copy(b + at, value, #value)
      at = at + #value
   end
   put(m.method, "GET")
   put(m.target, target or "/")
   at = math.ceil(at / 8) * 8
   m.headers, m.max_headers, m.n_headers = at, 8, 0
   m.used = at + 8 * ffi.sizeof "struct tw_header"
   return handle, m
end

--- Sends it into a function; true, or the error number.
function Service:enter(handle, i)
   local desc = ffi.new("struct tw_desc[1]")
   desc[0].handle = handle
   local n = C.tw_link_enter(self.link, (i or 1) - 1, desc, 1)
   return n == 1 or n, n
end

--- What has come back: handle and message; nil: nothing now.
function Service:take()
   if not self.came[1] then
      local n = C.tw_link_receive(self.link, self.descs, 64)
      for k = 0, n - 1 do self.came[#self.came + 1] = self.descs[k].handle end
   end
   local handle = table.remove(self.came, 1)
   if handle then return handle, self:message(handle) end
end

--- The same, waited for.
function Service:back(seconds)
   local handle, m
   M.wait("a message comes back", function()
      handle, m = self:take()
      return handle
   end, seconds)
   return handle, m
end

function Service:free(handle) C.tw_pool_free(self.pool, handle, 0) end

function Service.text(m, text) return ffi.string(ffi.cast("char *", m) + text.at, text.len) end

--- Sends one and waits for it; a table of what is in it. Everything is freed.
function Service:round(target, i)
   local handle = self:request(target)
   local sent, rc = self:enter(handle, i)
   assert(sent == true, rc)
   local back, m = self:back()
   local out = {
      same = back == handle, verdict = m.verdict, target = self.text(m, m.target),
      why = m.why.len > 0 and self.text(m, m.why) or nil, values = { tonumber(m.value[0]), tonumber(m.value[1]) },
   }
   if m.answer ~= 0 then
      C.tw_pool_take(self.pool, m.answer, 0)
      local answer = self:message(m.answer)
      if answer ~= nil then out.status = answer.status end
      C.tw_pool_free(self.pool, m.answer, 0)
   end
   self:free(back)
   return out
end

--- Blocks that are not free.
function Service:used()
   local stats = ffi.new "struct tw_pool_stats"
   C.tw_pool_get_stats(self.pool, stats)
   local n = 0
   for k = 0, 4 do n = n + tonumber(stats.used[k]) end
   return n
end

function Service:close()
   C.tw_supervisor_service(self.index, nil, nil, nil)
   C.tw_fabric_free(self.fabric)
   self.fabric = nil
end

return M
