-- SPDX-License-Identifier: BSD-3-Clause
-- Who may do what by the control socket: roles of users and groups, from the script's tw.control {...}.

local posix = require "tideway.posix"
local user = require "tideway.posix.user"

local M = {}

local RANK = { view = 1, operate = 2, admin = 3 }
local GROUP = "tideway" -- its members may view, when there is such a group

-- { uids = { uid -> role }, gids = { gid -> role } }, made when the first one asks.
local table_of
local declared = {}

local function refuse(...) error("tw.control: " .. string.format(...), 3) end

local function parse(role, entry)
   if type(entry) == "number" and entry % 1 == 0 and entry >= 0 and entry < 2 ^ 32 then return "uids", entry end
   if type(entry) ~= "string" then
      refuse("%s lists users and groups, and %s is neither; write \"alice\", 1000 or \"group:staff\"", role,
         tostring(entry))
   end
   local group = entry:match "^group:(.+)$"
   local id = group and (tonumber(group) or user.gid(group)) or not group and user.uid(entry)
   if id then return group and "gids" or "uids", id end
   if group then refuse("%s names the group %q, which this system does not have", role, group) end
   refuse("%s names the user %q, which this system does not have%s", role, entry,
      user.gid(entry) and ("; for the group of this name write %q"):format("group:" .. entry) or "")
end

--- Say who may use the control socket besides root and the engine's own user, who are admins:
--- tw.control { view = { "group:tideway" }, operate = { "alice", 1000 }, admin = {...} }.
--- Without it, members of the group "tideway" may view, if there is one.
---@param config { view: (string|integer)[]?, operate: (string|integer)[]?, admin: (string|integer)[]? }
function M.control(config)
   if type(config) ~= "table" then refuse("a table of roles is needed, not %s", tostring(config)) end
   local list = {}
   for role, entries in pairs(config) do
      if not RANK[role] then refuse("there is no role %q; there are: view, operate, admin", tostring(role)) end
      if type(entries) ~= "table" then
         refuse("%s lists users and groups: %s = { \"alice\", \"group:staff\" }", role, role)
      end
      for _, entry in ipairs(entries) do
         local kind, id = parse(role, entry)
         list[#list + 1] = { role = role, kind = kind, id = id }
      end
   end
   declared, table_of = list, nil
   if M.changed then M.changed() end
end

local function build()
   local t = { uids = {}, gids = {}, others = false }
   local list = { unpack(declared) }
   local group = #declared == 0 and user.gid(GROUP)
   if group then list[#list + 1] = { role = "view", kind = "gids", id = group } end
   for _, entry in ipairs(list) do
      local known = t[entry.kind][entry.id]
      if not known or RANK[known] < RANK[entry.role] then t[entry.kind][entry.id] = entry.role end
      t.others = true
   end
   t.uids[0], t.uids[posix.geteuid()] = "admin", "admin"
   return t
end

local function roles()
   table_of = table_of or build()
   return table_of
end

--- May one with this role do what needs that one?
---@param have "view"|"operate"|"admin"|nil
---@param need "view"|"operate"|"admin"
---@return boolean
function M.allows(have, need) return have ~= nil and RANK[have] >= RANK[need] end

--- The highest role that a peer has by its user and its groups.
---@param peer { uid: integer, gid: integer, groups: integer[] }
---@return "view"|"operate"|"admin"|nil
function M.of(peer)
   local t = roles()
   local best = t.uids[peer.uid]
   local function take(gid)
      local role = t.gids[gid]
      if role and (not best or RANK[role] > RANK[best]) then best = role end
   end
   take(peer.gid)
   for _, gid in ipairs(peer.groups) do take(gid) end
   return best
end

--- Permissions of the socket: only what roles allow can be asked anyhow, who has none need not even connect.
---@return integer mode
function M.mode() return roles().others and 0x1b6 or 0x180 end -- 0666 or 0600

--- Why somebody may not, and what to do.
---@param who string
---@param have string? role
---@param need string role
---@param what string
---@return string
function M.refusal(who, have, need, what)
   return ("%s needs role %s and %s has %s; whoever runs the engine gives it in the script: tw.control { %s = { %s } }")
      :format(what, need, who, have and "role " .. have or "none", need, who:match "^user (%d+)$" or
         ("%q"):format(who:match "^user ([^ ]+)" or who))
end

--- Forget what was declared.
function M.reset() declared, table_of = {}, nil end

return M
