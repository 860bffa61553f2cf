-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway compile`: what the compiler makes of a chain or an NF: as text, as an ELF file, in figures.

local EMIT = { "source", "ir", "ebpf", "lua", "c" }

local HOOKS = {
   "xdp", "tc", "cgroup_skb", "socket_filter", "sk_msg", "sk_skb", "sk_lookup", "sk_reuseport", "lwt_in", "lwt_out",
   "lwt_xmit",
}

local function complain(err)
   local is_diagnostic = require("tideway.compiler.diagnostic").is(err)
   io.stderr:write(is_diagnostic and "" or "tideway compile: ", tostring(err), "\n")
   return 2
end

-- ---- what is compiled ----

local function names(chains)
   local list = {}
   for i, chain in ipairs(chains) do list[i] = chain.name end
   return table.concat(list, ", ")
end

local function chain_named(chains, name)
   if not name and #chains == 1 then return chains[1] end
   for _, chain in ipairs(chains) do
      if chain.name == name then return chain end
   end
   if name then return nil, ("there is no chain %q; there are: %s"):format(name, names(chains)) end
   return nil, ("the script has %d chains; choose one with --chain: %s"):format(#chains, names(chains))
end

-- The chain to compile: of a script, or one around the NF of a file.
local function load(options)
   local model, script = require "tideway.model", require "tideway.script"
   model.dry = true
   local ok, value = script.load(options.script, options.args)
   if not ok then return nil, value end
   if #model.chains > 0 then return chain_named(model.chains, options.chain) end
   local nf, err = script.instance(value, options.script, options.config)
   if not nf then return nil, err end
   return { name = nf.name, stages = { nf }, stage_names = { nf.name }, sources = {}, where = nf.where }
end

-- ---- what comes out ----

local function emit_source(chain)
   local source, diagnostic = require "tideway.compiler.syntax.source", require "tideway.compiler.diagnostic"
   local out = {}
   for _, nf in ipairs(chain.stages) do
      local node, chunk = source.of(nf.packet or nf.burst)
      local info = debug.getinfo(nf.packet or nf.burst, "S")
      for line = node.line, info.lastlinedefined do
         out[#out + 1] = ("%s:%-4d %s\n"):format(chunk.name, line, diagnostic.line_of(chunk.name, line) or "")
      end
   end
   return table.concat(out)
end

local function emit_lcore(chain, how)
   local compiler, lcore = require "tideway.compiler", require "tideway.compiler.back.lcore"
   local text, segments = require "tideway.compiler.ir.text", {}
   local parts = {}
   for _, s in ipairs(compiler.for_lcore(chain)) do
      if not s.ir then return nil, s.raw end
      if how == "ir" then parts[#parts + 1] = text.print(s.ir, { remarks = true }) end
      segments[#segments + 1] = lcore.segment(s.ir, s.first, s.last, #chain.stages)
   end
   if how == "ir" then return table.concat(parts, "\n") end
   for i, segment in ipairs(segments) do
      parts[i] = segment[how]
      if not parts[i] then return nil, segment.why end
   end
   return table.concat(parts, "\n")
end

local function emit_hook(compiled, how)
   if how == "ir" then return require("tideway.compiler.ir.text").print(compiled.ir, { remarks = true }) end
   return require("tideway.compiler.back.ebpf.disasm").listing(compiled.object,
      require("tideway.compiler.diagnostic").line_of)
end

local function write_elf(path, compiled)
   local backing, map = require "tideway.bpf.backing", require "tideway.bpf.map"
   local maps, relocs = {}, {}
   for i, reloc in ipairs(compiled.object.relocs) do
      local t = reloc.table
      if not maps[t] then
         local declared, err = map.declare(backing.declaration(t))
         if not declared then return nil, err end
         maps[t] = declared
      end
      relocs[i] = { insn = reloc.insn, map = maps[t] }
   end
   return require("tideway.bpf.elf").write(path, { programs = { {
      name = compiled.name:gsub("[^%w_]", "_"), type = compiled.hook, insns = compiled.object.insns,
      count = compiled.object.count, relocs = relocs, lines = require("tideway.bpf.load").lines_of(compiled.object),
   } } })
end

-- Figures of a compiled chain; those that only the kernel knows when it can be loaded here.
local function figures(compiled)
   local object = compiled.object
   local list = {
      { "instructions", object.count }, { "stack", object.stack, "bytes" }, { "spills", object.spills },
      { "maps", #compiled.tables },
      { "compiled in", compiled.seconds * 1000, "ms" },
   }
   local clock = os.clock()
   local program, err = require("tideway.bpf.load").load(compiled)
   if not program then
      list[#list + 1] = { "not loaded", tostring(err) }
      return list, err
   end
   list[#list + 1] = { "loaded in", (os.clock() - clock) * 1000, "ms" }
   list[#list + 1] = { "verified", program.verified, "instructions" }
   list[#list + 1] = { "translated", program.xlated, "instructions" }
   list[#list + 1] = { "machine code", program.jited, "bytes" }
   program:close()
   return list
end

local function print_figures(list, json)
   if json then
      local out = {}
      for _, f in ipairs(list) do out[f[1]:gsub(" ", "_")] = f[2] end
      print(require("tideway.json").encode(out))
      return
   end
   for _, f in ipairs(list) do
      local value = type(f[2]) == "number" and f[2] % 1 ~= 0 and ("%.2f"):format(f[2]) or tostring(f[2])
      io.write(("%-14s %s%s\n"):format(f[1], value, f[3] and " " .. f[3] or ""))
   end
end

-- ---- the command ----

local function hook_of(options, chain) return options.hook or chain.place and chain.place.hook or "xdp" end

local function target_of(chain, hook)
   return chain.place and chain.place.hook == hook and chain.place.targets[1] or {}
end

local function for_hook(options, chain)
   local hook = hook_of(options, chain)
   local at = setmetatable({ place = { hook = hook, kind = hook } }, { __index = chain })
   return require("tideway.hook.chain").compile(at, chain.stages, target_of(chain, hook))
end

local function write(path, text)
   local f, err = io.open(path, "w")
   if not f then return nil, err end
   f:write(text)
   f:close()
   return true
end

local function emit(options, chain)
   local how = options.emit or "ebpf"
   local text, err
   if how == "source" then
      text = emit_source(chain)
   elseif options.hook == "lcore" or how == "lua" or how == "c" then
      if how == "ebpf" then return complain "an lcore runs no eBPF; --emit ir, lua or c" end
      text, err = emit_lcore(chain, how)
   else
      local compiled
      compiled, err = for_hook(options, chain)
      text = compiled and emit_hook(compiled, how)
   end
   if not text then return complain(err) end
   if options.output then
      local ok, why = write(options.output, text)
      if not ok then return complain(why) end
   else
      io.write(text)
   end
   return 0
end

local function run(options)
   local compiler = require "tideway.compiler"
   local chain, err = load(options)
   if not chain then return complain(err) end
   if options.emit or not (options.output or options.stats) then
      local code
      code, err = compiler.caught(emit, options, chain)
      return code or complain(err)
   end
   if options.hook == "lcore" then return complain "-o and --stats are for hooks; for an lcore: --emit ir, lua or c" end
   local compiled
   compiled, err = for_hook(options, chain)
   if not compiled then return complain(err) end
   if options.output then
      local ok, why = write_elf(options.output, compiled)
      if not ok then return complain(why) end
      io.write(("%s: chain %s for %s, %d instructions\n"):format(options.output, chain.name, compiled.hook,
         compiled.object.count))
   end
   if options.stats then
      local list, failed = figures(compiled)
      print_figures(list, options.json)
      if failed then return complain(failed) end
   end
   return 0
end

return {
   name = "compile",
   summary = "Compile a chain or an NF, and show what came out.",
   description = "SCRIPT declares chains, or is the file of one NF (it returns tw.nf(...)). It is compiled for the "
      .. "hook it is pinned to, for --hook, or for xdp. Without options prints the eBPF program with its source "
      .. "lines; -o writes an ELF file that bpftool, ip and libbpf load: `bpftool prog load out.o /sys/fs/bpf/nf`, "
      .. "`ip link set eth0 xdp obj out.o sec xdp`. "
      .. "Its maps are empty: entries that the script put into tables are not in the file.",
   arguments = {
      { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." }, { "ARGS", "Arguments of the script.", args = "*" },
   },
   options = {
      { "-o --output", "Write an ELF file, or with --emit the text.", value = "FILE" },
      { "--chain", "The chain, when the script has several.", value = "NAME" },
      { "--hook", "The place to compile for.", value = "HOOK", choices = { "lcore", unpack(HOOKS) } },
      { "--config", "Configuration of an NF file: a Lua table, or what stands in one.", value = "LUA" },
      { "--emit", "Print source, IR, eBPF, or what lcores run: Lua or C.", value = "WHAT", choices = EMIT },
      { "--stats", "Print figures: instructions, stack, spills, what the verifier walked, machine code, times." },
      { "--json", "Print the figures as JSON." },
   },
   examples = {
      { "tideway compile --hook tc examples/nf/ttl.lua", "the eBPF program of an NF" },
      { "tideway compile -o edge.o --chain up edge.lua", "an ELF file of one chain" },
      { "tideway compile --stats --config 'least = 2' examples/nf/ttl.lua", "figures of an NF, configured" },
   },
   run = run,
}
