/* SPDX-License-Identifier: BSD-3-Clause */
/* native.h - machine code of chains, made by the system's C compiler: what plans and lcores see. */
#pragma once
#include "abi.h"

extern struct tw_native_word tw_native_table[TW_CHAINS_MAX][TW_STAGES_MAX];

static inline tw_native_fn tw_native_fn_of(unsigned chain)
{
	return __atomic_load_n(&tw_native_table[chain][0].fn, __ATOMIC_ACQUIRE);
}

/* No lcore starts to call any of it from here on. */
void tw_native_withdraw(void);
/* Unloads what was withdrawn: every lcore has begun a new burst since, or has ended. */
void tw_native_unload(void);
