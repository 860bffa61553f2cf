/* SPDX-License-Identifier: BSD-3-Clause */
/* abi_control.h - what Lua sees of the control VM itself. */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* How many bytes more the control VM may take; 0: without a limit. What needs more raises
 * "not enough memory". Returns how many were left of the limit before, 0: there was none. */
uint64_t tw_control_memory(uint64_t more);
