/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_native.h - the part of the boundary for chains that the system's C compiler has compiled;
 * same conventions as abi.h, which includes it. Control thread only, where not said otherwise.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* Runs packets 0..count-1 of the burst through a segment of a chain. */
typedef void (*tw_native_fn)(struct tw_burst *burst, int32_t count);

/* The same for a whole chain, straight on the mbufs that one port gave: of pkts[] it writes
 * verdict, out and the burst's turn as port, also mark, stage and resume of packets that do not go
 * on to the chain's end, and mark when the chain has a use for it; burst.odd also when packets
 * leave by different ports. mbufs has TW_MBUFS_AHEAD more entries. */
typedef void (*tw_native_mbufs_fn)(struct tw_burst *burst, void *const *mbufs, int32_t count,
                                   uint16_t port);

/* What lcores look at before each burst: NULL, or code to call instead of the Lua they have. */
struct tw_native_word {
	tw_native_fn fn;
	tw_native_mbufs_fn mbufs;
};

/* The words of a chain (index, < TW_CHAINS_MAX) in a bank, one per segment, TW_STAGES_MAX of them;
 * NULL: there is no such bank. Every plan has a bank: tw_plan_bank(). */
struct tw_native_word *tw_native_words(uint32_t bank, uint32_t chain);

/* A C text that is being compiled, or the library it became. It is there as long as it has an
 * owner: whoever compiled it, and every bank that it was published in. */
struct tw_native;

/* Starts the compiler in the background; NULL when there is none. The caller owns the result until
 * tw_native_free(). */
struct tw_native *tw_native_compile(const char *text, size_t len);
/* The compiler's command line. */
const char *tw_native_command(void);
/* 0: still at it; 1: loaded; -errno: the compiler refused, its first words are in tw_error(). */
int tw_native_poll(struct tw_native *native);
/* Lets all lcores that use the word's bank call a function of the library, and NAME_mbufs where
 * there is one, from their next burst on. A library may be published in any number of banks. */
int tw_native_publish(struct tw_native *native, const char *name, struct tw_native_word *word);
/* The caller needs it no more. Banks go with the plans that use them. */
void tw_native_free(struct tw_native *native);

/* Operations that LuaJIT lacks: the old value. Any thread. */
enum tw_atomic_kind {
	TW_ATOMIC_ADD,
	TW_ATOMIC_OR,
	TW_ATOMIC_AND,
	TW_ATOMIC_XOR,
	TW_ATOMIC_XCHG,
	TW_ATOMIC_CMPXCHG, /* value: expected, other: new */
};
uint64_t tw_atomic(int kind, int bits, void *at, uint64_t value, uint64_t other);
