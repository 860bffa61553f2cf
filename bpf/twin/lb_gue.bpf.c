// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* lb_gue.bpf.c - twin of examples/nf/lb.lua with tunnel = "gue". */
#define GUE 1
#include "lb.h"
