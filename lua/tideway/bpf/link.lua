-- SPDX-License-Identifier: BSD-3-Clause
-- Attaches programs to hooks. A link belongs to this process; with persist it is pinned, stays when
-- the process goes and is taken up by the next one. Nothing that others attached is replaced or removed.
--
-- hook/ has one file per kind of hook: attach(o) -> state | nil, err; where there is no link of the
-- kernel also replace, detach, info, and adopt(o, id) -> state, for a program of ours that is there.

local ffi = require "ffi"
local abi = require "tideway.abi"
local pin = require "tideway.bpf.pin"
local program_lib = require "tideway.bpf.program"

local M = {}

local C = abi.C

-- hook -> { module of hook/, program type, attach type of the program }
local hooks = {
   xdp = { "xdp", "xdp" },
   tc_ingress = { "tc", "tc" },
   tc_egress = { "tc", "tc" },
   socket_filter = { "socket", "socket_filter" },
   sk_reuseport = { "socket", "sk_reuseport" },
   cgroup_ingress = { "cgroup", "cgroup_skb", "cgroup_ingress" },
   cgroup_egress = { "cgroup", "cgroup_skb", "cgroup_egress" },
   sk_lookup = { "netns", "sk_lookup" },
   sk_msg = { "sockmap", "sk_msg" },
   stream_parser = { "sockmap", "sk_skb", "stream_parser" },
   stream_verdict = { "sockmap", "sk_skb", "stream_verdict" },
   sk_skb_verdict = { "sockmap", "sk_skb", "verdict" },
   lwt_in = { "route", "lwt_in" },
   lwt_out = { "route", "lwt_out" },
   lwt_xmit = { "route", "lwt_xmit" },
}

--- The hooks: what a program for one is loaded as.
---@type table<string, { type: string, attach_type: string? }>
M.hooks = {}
for name, h in pairs(hooks) do M.hooks[name] = { type = h[2], attach_type = h[3] } end

---@class tideway.bpf.Link
---@field hook string
---@field program tideway.bpf.Program  what runs
---@field target string  the interface, cgroup, map, ... as messages name it
---@field mode string?  xdp: "native", "generic" or "offload", as it was got
---@field fell_back string?  xdp: why not native
---@field adopted string?  "same": the program ran already; "replaced": ours took the place of an earlier run's
---@field note string?  something the user should know
---@field pinned string?  path under bpffs
local Link = {}
Link.__index = Link
Link.__tostring = function(self) return ("%s on %s"):format(self.hook, self.target) end

local function finish(o, module, state)
   state.hook, state.module, state.program = o.hook, module, o.program
   return setmetatable(state, Link)
end

local function fault(o, err) return nil, ("%s: %s"):format(o.hook, err) end

-- Is it the same code over the same maps?
local function same(a, b)
   if not a or not b or a.tag ~= b.tag or #a.map_ids ~= #b.map_ids then return false end
   local ids = {}
   for _, id in ipairs(a.map_ids) do ids[id] = true end
   for _, id in ipairs(b.map_ids) do
      if not ids[id] then return false end
   end
   return true
end

local function pin_path(o, module)
   local name = ("%s-%s"):format(o.hook, module.name_of(o))
   return pin.path(o.persist, module.adopt and "program" or "link", name)
end

-- The link of an earlier run, still with its program; nil when there is none.
local function find(o, module)
   local path = pin_path(o, module)
   local fd, err = pin.open(path)
   if not fd then return nil, err end
   local state, running
   if module.adopt then
      running = program_lib.info(fd)
      C.tw_bpf_close(fd)
      state, err = module.adopt(o, running.id)
   else
      local info = ffi.new "struct tw_bpf_link_info"
      if C.tw_bpf_link_get_info(fd, info) < 0 then return nil, abi.error() end
      running = program_lib.by_id(info.program)
      state, err = module.opened(o, fd, info)
      if not state then C.tw_bpf_close(fd) end
   end
   if not state then
      if not err then pin.unpin(path) end -- what it was attached to has gone
      return nil, err
   end
   state.pinned = path
   return state, running
end

--- Takes up what an earlier run left at a hook with the same `persist`, and puts our program in its place
--- when it is another one; no packet sees neither.
---@param o table  as for M.attach
---@return tideway.bpf.Link? link  nil without err: nothing was left
---@return string? err
function M.adopt(o)
   local module = require("tideway.bpf.hook." .. hooks[o.hook][1])
   local state, running = find(o, module)
   if not state then
      if running then return fault(o, running) end
      return nil
   end
   local link = finish(o, module, state)
   link.adopted = "same"
   if not same(running, o.program:info()) then
      link.program = { id = running and running.id }
      local ok, err = link:replace(o.program)
      if not ok then return nil, err end
      link.adopted = "replaced"
   end
   return link
end

local function persist(link, o)
   local module = link.module
   if not module.name_of then return nil, "what is attached here ends with its socket and cannot persist" end
   local path = pin_path(o, module)
   local ok, note = pin.pin(module.adopt and o.program.fd or link.fd, path)
   if not ok then return nil, note end
   link.pinned, link.note = path, note
   return true
end

--- Attaches a program.
---@param o table  { hook =, program =, persist = name of the instance?, and by hook:
---  xdp: interface =, mode = "auto"|"native"|"generic"|"offload"; tc_*: interface =, priority = 50;
---  cgroup_*: cgroup = path; sk_lookup: netns = path?; socket_filter, sk_reuseport: socket = fd;
---  sk_msg, stream_*, sk_skb_verdict: map =; lwt_*: to = prefix, via = address?, interface =?,
---  table = 254?, metric = 0?, headroom = bytes? }
---@return tideway.bpf.Link? link
---@return string? err
function M.attach(o)
   local h = hooks[o.hook]
   if not h then return nil, ("'%s' is not a hook"):format(tostring(o.hook)) end
   if o.program.type ~= h[2] then
      return fault(o, ("%s is not of type %s"):format(tostring(o.program), h[2]))
   end
   local module = require("tideway.bpf.hook." .. h[1])
   if o.persist and module.name_of then
      local link, err = M.adopt(o)
      if link or err then return link, err end
   end
   local state, err = module.attach(o)
   if not state then return fault(o, err) end
   local link = finish(o, module, state)
   if o.persist then
      local ok, why = persist(link, o)
      if not ok then
         link:detach()
         return fault(o, why)
      end
   end
   return link
end

--- Puts another program in the place of the one that runs; no packet sees neither.
---@param program tideway.bpf.Program
---@return boolean? ok
---@return string? err
function Link:replace(program)
   if self.module.replace then
      local ok, err = self.module.replace(self, program)
      if not ok then return nil, ("%s on %s: %s"):format(self.hook, self.target, err) end
   elseif C.tw_bpf_link_update(self.fd, program.fd) < 0 then
      return nil, ("%s on %s: %s"):format(self.hook, self.target, abi.error())
   end
   self.program = program
   if self.pinned and self.module.adopt then
      pin.unpin(self.pinned)
      local ok, err = pin.pin(program.fd, self.pinned)
      if not ok then return nil, err end
   end
   return true
end

--- From now on the link ends with this process.
function Link:unpersist()
   if not self.pinned then return true end
   local ok, err = pin.unpin(self.pinned)
   if ok then self.pinned = nil end
   return ok, err
end

--- Lets go of it: what persists goes on running, the rest ends.
function Link:release()
   if not self.pinned then return self:detach() end
   if self.module.release then self.module.release(self) end
   if self.fd then C.tw_bpf_close(self.fd) end
   self.fd = nil
   return true
end

--- Detaches our program, and nothing else.
---@return boolean? ok
---@return string? err
function Link:detach()
   local ok, err = self:unpersist()
   if not ok then return nil, err end
   if self.module.detach then
      ok, err = self.module.detach(self)
      if not ok then return nil, ("%s on %s: %s"):format(self.hook, self.target, err) end
   elseif self.fd then
      C.tw_bpf_close(self.fd)
   end
   self.fd = nil
   return true
end

--- What the kernel says of a link: { id, program = id, ifindex, attach_type }; of hooks without links
--- { program = id }, nil when our program is there no more.
function Link:info()
   if self.module.info then return self.module.info(self) end
   local info = ffi.new "struct tw_bpf_link_info"
   if C.tw_bpf_link_get_info(self.fd or -1, info) < 0 then return nil, abi.error() end
   return { id = info.id, program = info.program, ifindex = info.ifindex, attach_type = info.attach_type }
end

return M
