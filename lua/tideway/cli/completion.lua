-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway completion`: print the shell completion script.

return {
   name = "completion",
   summary = "Print the completion script of a shell.",
   arguments = { { "SHELL", "The shell.", choices = { "bash", "zsh", "fish" } } },
   examples = { { "source <(tideway completion bash)", "complete commands and options in this shell" } },
   run = function(options)
      io.write(require("tideway.cli.parser").completion(require("tideway.cli").commands(), options.shell))
   end,
}
