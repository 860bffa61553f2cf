// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* lb_ipip.bpf.c - twin of examples/nf/lb.lua with tunnel = "ipip". */
#define GUE 0
#include "lb.h"
