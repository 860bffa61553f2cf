-- SPDX-License-Identifier: BSD-3-Clause
-- Reads firewall rules from text into plain tables; whatever is wrong is shown with line, column and a caret.

local tw = require "tideway"
local bit = require "bit"
local words = require "tideway.nf.firewall.words"

local M = {}

---@class tideway.nf.firewall.rule
---@field line integer
---@field text string the rule as written, blanks at its ends removed
---@field action "allow"|"drop"|"reject"
---@field count? string name of its counter
---@field inports? integer[] port indexes
---@field outports? integer[]
---@field states? integer bits of words.states
---@field protocols? integer[] IP protocol numbers
---@field family? integer 4 or 6 when the rule is for one of them only
---@field from? tideway.prefix[]
---@field to? tideway.prefix[]
---@field sports? {[1]: integer, [2]: integer}[] ranges
---@field dports? {[1]: integer, [2]: integer}[]
---@field types? {[1]: integer, [2]: integer}[] ICMP types
---@field codes? {[1]: integer, [2]: integer}[]
---@field flags? {[1]: integer, [2]: integer} value and mask

local CLAUSES = {
   ["in"] = true, out = true, from = true, to = true, port = true, flags = true, count = true, proto = true,
   ip4 = true, ip6 = true, code = true,
}

-- ---- tokens of one line ----

local Line = {}
Line.__index = Line

local function tokens_of(text)
   local list, at = {}, 1
   local stop = text:find("#", 1, true)
   local body = stop and text:sub(1, stop - 1) or text
   while true do
      local from, to = body:find("^%s*,", at)
      if not from then from, to = body:find("^%s*[^%s,]+", at) end
      if not from then return list end
      local word = body:sub(from, to)
      local blanks = #word:match "^%s*"
      list[#list + 1] = { word = word:sub(blanks + 1), column = from + blanks }
      at = to + 1
   end
end

function Line:fail(token, text, ...)
   local column = token and token.column or #(self.text:gsub("%s+$", "")) + 1
   local shown = self.text:gsub("\t", " ")
   error(("firewall: %s:%d:%d: %s\n   %s\n   %s^"):format(self.name, self.number, column, text:format(...), shown,
      (" "):rep(column - 1)), 0)
end

function Line:peek()
   local token = self.tokens[self.at]
   return token and token.word, token
end

function Line:take(what)
   local token = self.tokens[self.at]
   if not token then self:fail(nil, "%s is missing", what) end
   self.at = self.at + 1
   return token.word, token
end

-- item ["," item]...; `read` gets word and token and returns the value.
function Line:comma_list(what, read)
   local list = {}
   repeat
      local word, token = self:take(what)
      if word == "," then self:fail(token, "%s is missing before the comma", what) end
      list[#list + 1] = read(word, token)
      local next_word = self:peek()
      if next_word ~= "," then return list end
      self.at = self.at + 1
   until false
end

-- ---- values ----

local function hint(word, ...)
   local nearest = words.nearest(word, ...)
   return nearest and ("; did you mean %s?"):format(nearest) or ("; there are: %s"):format(words.list(...))
end

function Line:port_names(rule, field, token)
   if rule[field] then self:fail(token, "\"%s\" stands twice", token.word) end
   rule[field] = self:comma_list("a port name", function(word, at)
      local index = self.ports[word]
      if index then return index end
      if not next(self.ports) then
         self:fail(at, "unknown port %q; name the ports: ports = { %s = %s }", word, word, word)
      end
      self:fail(at, "unknown port %q%s", word, hint(word, self.ports))
   end)
end

function Line:addresses(rule, field, token)
   if rule[field] then self:fail(token, "\"%s\" stands twice", token.word) end
   local any
   rule[field] = self:comma_list("an address, a prefix or any", function(word, at)
      if word == "any" then
         any = true
         return nil
      end
      local ok, prefix = pcall(tw.prefix, word)
      if ok then return prefix end
      self:fail(at, "%s", (tostring(prefix):gsub("^[^\n]-:%d+: ", "")))
   end)
   if any then rule[field] = {} end -- every address: no condition, but the clause was there
end

function Line:ranges(what, max)
   return self:comma_list(what, function(word, at)
      local first, last = word:match "^(%d+)%-(%d+)$"
      first = tonumber(first or word:match "^%d+$")
      last = tonumber(last) or first
      if not first then self:fail(at, "%q is not %s: write a number or first-last", word, what) end
      if last > max then self:fail(at, "%s: %s goes from 0 to %d", word, what, max) end
      if first > last then self:fail(at, "%s: the range is empty; write %d-%d", word, last, first) end
      return { first, last }
   end)
end

function Line:port_numbers(rule, field, token)
   if rule[field] then self:fail(token, "\"port\" stands twice") end
   rule[field] = self:ranges("a port", 65535)
   rule.port_token = rule.port_token or token
end

function Line:icmp_types(rule, names)
   rule.types = self:comma_list("an ICMP type", function(word, at)
      if names[word] then return { names[word], names[word] } end
      local number = tonumber(word:match "^%d+$")
      if number and number <= 255 then return { number, number } end
      self:fail(at, "unknown ICMP type %q%s", word, hint(word, names))
   end)
end

local function flag_bits(letters)
   local bits = 0
   for letter in letters:gmatch "." do
      if not words.flags[letter] then return nil, letter end
      bits = bit.bor(bits, words.flags[letter])
   end
   return bits
end

function Line:tcp_flags(rule, token)
   if rule.flags then self:fail(token, "\"flags\" stands twice") end
   local word, at = self:take("flags such as S/SA (of S and A only S is set)")
   local set, among = word:match "^(%a*)/(%a+)$"
   if not set then self:fail(at, "%q: write the flags that are set, / and those looked at, such as S/SA", word) end
   local value, bad = flag_bits(set)
   local mask
   if value then mask, bad = flag_bits(among) end
   if not mask then self:fail(at, "%q is no TCP flag; there are: %s", bad, words.list(words.flags)) end
   if bit.band(value, bit.bnot(mask)) ~= 0 then
      self:fail(at, "%q: every flag before the / must stand behind it, too", word)
   end
   rule.flags, rule.flags_token = { value, mask }, token
end

-- ---- clauses ----

function Line:unknown(word, token, rule)
   local nearest = words.nearest(word, words.protocols, CLAUSES, words.states)
   if nearest and not words.protocols[nearest] then
      self:fail(token, "unknown word %q; did you mean %s?", word, nearest)
   elseif rule.protocols then
      self:fail(token, "unknown word %q%s", word, nearest and "; the rule has a protocol already" or
         "; there are: " .. words.list(CLAUSES, words.states))
   end
   self:fail(token, "unknown protocol %q%s", word, hint(word, words.protocols))
end

function Line:protocol_list(rule, token)
   if rule.protocols then self:fail(token, "the rule has a protocol already") end
   self.at = self.at - 1
   rule.protocols = self:comma_list("a protocol", function(word, at)
      return words.protocols[word] or self:unknown(word, at, {})
   end)
   local names = words[token.word]
   if names and #rule.protocols == 1 then
      rule.family, rule.family_token = rule.family or (token.word == "icmp" and 4 or 6), token
      local word, at = self:peek()
      if word and (names[word] or word:find "^%d") then
         self:icmp_types(rule, names)
      elseif word and not CLAUSES[word] and not words.states[word] then
         local near_type = words.nearest(word, names)
         local near_word = words.nearest(word, CLAUSES, words.states)
         if near_word and not near_type then self:unknown(word, at, rule) end
         self:fail(at, "unknown ICMP type %q%s", word, hint(word, names))
      end
   end
end

function Line:states(rule, token)
   if rule.states then self:fail(token, "the rule has a state already") end
   self.at = self.at - 1
   local bits = 0
   self:comma_list("a state", function(word, at)
      local state = words.states[word]
      if not state then self:fail(at, "unknown state %q%s", word, hint(word, words.states)) end
      -- An error about a connection belongs to it.
      bits = bit.bor(bits, state, word == "established" and words.states.related or 0)
   end)
   rule.states = bits
end

local clause = {}

clause["in"] = function(line, rule, token) line:port_names(rule, "inports", token) end
clause.out = function(line, rule, token) line:port_names(rule, "outports", token) end

function clause.from(line, rule, token)
   line:addresses(rule, "from", token)
   local word, at = line:peek()
   if word == "port" then
      line.at = line.at + 1
      line:port_numbers(rule, "sports", at)
   end
end

function clause.to(line, rule, token)
   line:addresses(rule, "to", token)
   local word, at = line:peek()
   if word == "port" then
      line.at = line.at + 1
      line:port_numbers(rule, "dports", at)
   end
end

-- Behind no address, "port" is the destination's.
function clause.port(line, rule, token) line:port_numbers(rule, "dports", token) end

function clause.flags(line, rule, token) line:tcp_flags(rule, token) end

function clause.code(line, rule, token)
   if not rule.types then line:fail(token, "\"code\" stands behind an ICMP type: icmp unreachable code 4") end
   if rule.codes then line:fail(token, "\"code\" stands twice") end
   rule.codes = line:ranges("an ICMP code", 255)
end

function clause.count(line, rule, token)
   if rule.count then line:fail(token, "\"count\" stands twice") end
   local name, at = line:take("the name of a counter")
   if not name:find "^[%a_][%w_.-]*$" then line:fail(at, "%q is no name: letters, digits, _ . -", name) end
   rule.count = name
end

function clause.proto(line, rule, token)
   if rule.protocols then line:fail(token, "the rule has a protocol already") end
   local list = line:ranges("a protocol number", 255)
   rule.protocols = {}
   for _, range in ipairs(list) do
      for n = range[1], range[2] do rule.protocols[#rule.protocols + 1] = n end
   end
end

local function family(number)
   return function(line, rule, token)
      if rule.family and rule.family ~= number then
         line:fail(token, "the rule is for IPv%d already", rule.family)
      end
      rule.family, rule.family_token = number, token
   end
end
clause.ip4, clause.ip6 = family(4), family(6)

-- ---- what only the whole rule shows ----

local function only_protocols(rule, set)
   if not rule.protocols then return false end
   for _, number in ipairs(rule.protocols) do
      if not set[number] then return false end
   end
   return true
end

local function families_of(list)
   if not list or #list == 0 then return true, true end
   local v4, v6 = false, false
   for _, prefix in ipairs(list) do
      if prefix.family == 4 then v4 = true else v6 = true end
   end
   return v4, v6
end

function Line:check(rule)
   if rule.port_token and not only_protocols(rule, words.with_ports) then
      self:fail(rule.port_token, "a port needs a protocol that has ports: tcp, udp or sctp (or tcp,udp)")
   end
   if rule.flags_token and not only_protocols(rule, { [6] = true }) then
      self:fail(rule.flags_token, "flags are those of tcp: write tcp before them")
   end
   local from4, from6 = families_of(rule.from)
   local to4, to6 = families_of(rule.to)
   rule.v4 = from4 and to4 and rule.family ~= 6
   rule.v6 = from6 and to6 and rule.family ~= 4
   if not rule.v4 and not rule.v6 then
      if (from4 and to4) or (from6 and to6) then
         self:fail(rule.family_token, "the rule is for IPv%d, its addresses are not", rule.family)
      end
      self:fail(self.tokens[1], "no packet can match: its addresses are of different IP versions")
   end
   rule.port_token, rule.flags_token, rule.family_token = nil, nil, nil
end

function Line:rule()
   local action, token = self:take("an action")
   if not words.actions[action] then
      self:fail(token, "unknown action %q%s", action, hint(action, words.actions))
   end
   local rule = { line = self.number, action = action, text = self.text:gsub("#.*$", ""):match "^%s*(.-)%s*$" }
   while self.at <= #self.tokens do
      local word
      word, token = self:take()
      if clause[word] then
         clause[word](self, rule, token)
      elseif words.protocols[word] then
         self:protocol_list(rule, token)
      elseif words.states[word] then
         self:states(rule, token)
      else
         self:unknown(word, token, rule)
      end
   end
   self:check(rule)
   return rule
end

--- Read rules. Raises, with the place and the line, for the first one that is wrong.
---@param text string one rule a line; # starts a comment
---@param ports table<string, integer> port names and indexes
---@param name string what the text is, for messages: "rules" or the name of a file
---@return tideway.nf.firewall.rule[]
function M.parse(text, ports, name)
   local list, number = {}, 0
   for line in (text .. "\n"):gmatch "([^\n]*)\n" do
      number = number + 1
      line = line:gsub("\r$", "")
      local tokens = tokens_of(line)
      if #tokens > 0 then
         list[#list + 1] = setmetatable({
            text = line, number = number, tokens = tokens, at = 1, ports = ports, name = name,
         }, Line):rule()
      end
   end
   return list
end

return M
