-- SPDX-License-Identifier: BSD-3-Clause
-- The standard set of benchmarks, all in one run: `make bench`. Each file runs alone, too.

require "ports"      -- programs that poll ports: Tideway, DPDK's own, Open vSwitch
require "generator"  -- making packets
require "kernel"     -- what forwards in a kernel: its routing, nftables, XDP, TC
require "ebpf"       -- the compiler's eBPF against clang's
require "fuse"       -- the compiler's chains against C
require "alone"      -- NFs alone
require "scale"      -- curves
require "throughput" -- searches, latency
