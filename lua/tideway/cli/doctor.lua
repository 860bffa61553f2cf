-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway doctor`: what of this machine helps or hinders, each with the command that mends it.

local function print_findings(findings, summary)
   local text = require "tideway.text"
   local color = require "tideway.posix".isatty(1) and { ok = "\27[32m", warn = "\27[33m", fail = "\27[31m" } or {}
   local area
   for _, f in ipairs(findings) do
      if f.area ~= area then
         area = f.area
         io.write(area, "\n")
      end
      local lines = text.wrap(f.what, 92)
      io.write(("  %s%-4s%s  %s\n"):format(color[f.state] or "", f.state, color.ok and "\27[m" or "", lines[1]))
      for i = 2, #lines do io.write("        ", lines[i], "\n") end
      if f.remedy then io.write("        -> ", f.remedy, "\n") end
   end
   io.write(("%d ok, %d warn, %d fail\n"):format(summary.ok, summary.warn, summary.fail))
end

return {
   name = "doctor",
   summary = "Look at this machine, and say what to mend and how.",
   description = "Hugepages, NUMA, CPUs, rights, kernel, BPF and AF_XDP (tried, not guessed), devices, DPDK drivers, "
      .. "LuaJIT, leftovers. `warn` means slower or a feature less, `fail` that ports cannot be used; each comes "
      .. "with the command that mends it. Changes nothing and needs no root. Exit code 1 when something fails.",
   options = { { "--json", "Print the findings as JSON." } },
   run = function(options)
      local doctor = require "tideway.doctor"
      local findings = doctor.examine()
      local summary = doctor.summary(findings)
      if options.json then
         io.write(require "tideway.json".encode { findings = findings, summary = summary }, "\n")
      else
         print_findings(findings, summary)
      end
      return summary.fail == 0 and 0 or 1
   end,
}
