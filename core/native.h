/* SPDX-License-Identifier: BSD-3-Clause */
/* native.h - machine code of chains, made by the system's C compiler: what plans and lcores see. */
#pragma once
#include "abi.h"

/* What a bank's words say is called only by lcores whose plan holds the bank. */
static inline tw_native_fn tw_native_fn_of(const struct tw_native_word *word)
{
	return __atomic_load_n(&word->fn, __ATOMIC_ACQUIRE);
}

static inline tw_native_mbufs_fn tw_native_mbufs_of(const struct tw_native_word *word)
{
	return __atomic_load_n(&word->mbufs, __ATOMIC_ACQUIRE);
}

int tw_native_bank_new(void); /* held once; -ENOSPC */
void tw_native_bank_hold(unsigned bank);
/* The last one to let go empties it; no lcore may be in its code any more. */
void tw_native_bank_release(unsigned bank);

/* How the names begin under which the loader has machine code of chains. */
#define TW_NATIVE_PATH "/proc/self/fd/"
