-- SPDX-License-Identifier: BSD-3-Clause
-- What the kernel's verifier says, kernels 5.10 to 6.18, in plain words, and what to do about it.
--
-- Each entry: a Lua pattern over one line of the log; the reason, in which %1 to %4 are captures and
-- R0 to R10 become the names of the Lua variables; advice. An `insn` says which capture is the
-- instruction that is to blame, when it is not the last one that the log shows.

local COMPILER = "this is a mistake of Tideway's compiler, not of this program: please report it with the log"

---@class tideway.bpf.VerifierMessage
---@field [1] string pattern
---@field [2] string reason
---@field [3] string advice
---@field insn integer? capture with the index of an instruction
---@field size boolean? a part of the program alone might do

return {
   -- loops and size
   { "infinite loop detected at insn (%d+)", "this loop does not end as far as the verifier can see",
      "give it a fixed upper bound: for i = 1, 16 do ... if done then break end end", insn = 1 },
   { "back%-edge from insn (%d+) to (%d+)", "this kernel takes no loops here",
      "bound the loop by a small constant, so that it is unrolled", insn = 1 },
   { "BPF program is too large%. Processed (%d+) insn", "checking all its paths takes more than the %1 steps allowed",
      "fewer iterations of loops, fewer tests that depend on each other, or a chain split in two", size = true },
   { "[Tt]he sequence of (%d+) jumps is too complex", "it has more paths than the verifier follows (%1 open branches)",
      "fewer iterations of loops with tests in them, or a chain split in two", size = true },
   { "[Aa]rgument list too long", "it is longer than the kernel takes", "split the chain in two", size = true },
   { "unreachable insn (%d+)", "instruction %1 can never run", COMPILER, insn = 1 },
   { "jump out of range from insn (%d+)", "a jump leaves the program", COMPILER, insn = 1 },
   { "last insn is not an exit or jmp", "it does not end with a return", COMPILER },
   { "combined stack size of (%d+) calls is (%d+)", "its functions need %2 bytes of stack, of 512 there are",
      "fewer variables that live at the same time, smaller keys and values, or a chain split in two", size = true },
   { "stack size (%d+) is too large", "it needs %1 bytes of stack, of 512 there are",
      "fewer variables that live at the same time, smaller keys and values, or a chain split in two", size = true },
   { "call stack of (%d+) frames is too deep", "its functions call each other %1 deep; 8 is the most",
      "call less deep" },

   -- packets
   { "(R%d+) offset is outside of the packet", "%1 reaches behind the end of the packet as far as was checked",
      COMPILER },
   { "invalid access to packet, off=(%-?%d+) size=(%d+), (R%d+)",
      "%2 bytes at %3 + %1 may lie behind the end of the packet", COMPILER },
   { "cannot write into packet", "programs at this hook cannot change packets",
      "read only here, or attach at xdp, tc, lwt_xmit, sk_skb or sk_msg" },
   { "misaligned packet access off (.-) size (%d+)", "%2 bytes at an odd address cannot be read at once here",
      "read them in smaller parts" },
   { "helper access to the packet is not allowed", "this function takes no pointer into the packet at this hook",
      "copy the bytes to a variable first" },

   -- nil and maps
   { "(R%d+) invalid mem access '([%w_]*)_or_null'", "%1 may be nil here", "test it first: if x then ... end" },
   { "(R%d+) pointer arithmetic on ([%w_]*)_or_null prohibited", "%1 may be nil here",
      "test it first: if x then ... end" },
   { "[Pp]ossibly NULL pointer passed to .*arg(%d+)", "argument %1 may be nil here",
      "test it first: if x then ... end" },
   { "invalid access to map value, value_size=(%d+) off=(%-?%d+) size=(%d+)",
      "%3 bytes at %2 of a table's value of %1 bytes", "the index goes beyond the value: test it against the size" },
   { "(R%d+) unbounded memory access", "%1 is used as an index and may have any value",
      "bound it first: if i < n then ... end" },
   { "(R%d+) m[ia][nx] value is outside of the .*memory range", "%1 may lie outside of the memory it points into",
      "bound the index first: if i < n then ... end" },
   { "(R%d+) min value is negative", "%1 is used as an index and may be negative",
      "test it first: if i >= 0 then ... end" },
   { "cannot pass map_type (%d+) into func ([%w_]+)", "%2 does not work on this kind of table",
      "use the kind that the function wants" },
   { "invalid zero%-sized read", "a length may be 0 here", "test it first: if n > 0 then ... end" },

   -- hooks and helpers
   { "program of this type cannot use helper ([%w_]+)", "programs at this hook cannot use %1",
      "tideway doctor lists what each hook offers on this kernel" },
   { "unknown func ([%w_]+)#(%d+)", "programs at this hook cannot use %1",
      "tideway doctor lists what each hook offers on this kernel" },
   { "unknown func (%d+)", "this kernel has no function %1", "tideway doctor lists what this kernel offers" },
   { "invalid func ([%w_]+)#(%d+)", "this kernel does not have %1", "tideway doctor lists what this kernel offers" },
   { "calling kernel function ([%w_]+) is not allowed", "programs at this hook cannot call %1 of the kernel",
      "tideway doctor lists what each hook offers on this kernel" },
   { "cannot call GPL%-restricted function from non%-GPL", "a function it uses is for programs under the GPL only",
      'license = "Dual BSD/GPL" or "GPL"' },
   { "invalid bpf_context access off=(%d+) size=(%d+)",
      "field at %1 of the packet's context (%2 bytes) is not there, or not to be written, at this hook",
      "the hook does not offer this field" },
   { "At program exit the register R0 (.-) should have been in (.*)$",
      "its verdict (%1) is not one of the hook's, %2", "return a verdict of this hook" },
   { "R0 leaks addr as return value", "it returns an address", COMPILER },
   { "tail_calls are not allowed", "this kernel takes no tail call in a program with functions",
      "one or the other, or a newer kernel" },

   -- locks, references
   { "[Uu]nreleased reference id=(%d+) alloc_insn=(%d+)", "what was reserved here is not given back on every path",
      "submit or discard it before each return", insn = 2 },
   { "bpf_spin_lock is missing unlock", "the lock is not given back on every path", "unlock before each return" },
   { "function calls are not allowed while holding a lock", "only plain arithmetic is allowed while a lock is held",
      "call it before the lock or after it" },

   -- what only a compiler can get wrong
   { "(R%d+) !read_ok", "%1 is used before it has a value", COMPILER },
   { "invalid .*read from stack", "a variable is used before it has a value", COMPILER },
   { "(R%d+) invalid mem access '(%w+)'", "%1 is not an address here (%2)", COMPILER },
   { "math between ([%w_]+) pointer and (.+) with unbounded", "an offset into %1 memory may have any value",
      "bound it first: if n < 1500 then ... end" },
   { "makes ([%w_]+) pointer be out of bounds", "an offset into %1 memory is too large", "bound it first" },
   { "(R%d+) pointer arithmetic with (%S+) operator", "%1 is an address; %2 does not work on one", COMPILER },
   { "(R%d+) 32%-bit pointer arithmetic prohibited", "%1 is an address, cut to 32 bits", COMPILER },
   { "(R%d+) type=(%S+) expected=(.*)$", "%1 is %2, where the function wants %3", COMPILER },
   { "dereference of modified ctx ptr (R%d+)", "%1, the context, was moved", COMPILER },
   { "unknown opcode (%x+)", "this kernel does not know instruction %1", "a newer kernel, or another hook" },
}
