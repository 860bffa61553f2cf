/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_inline.h - the part of the boundary for functions that run inside a gate thread: what that
 * thread and its Lua VM share for each service; same conventions as abi.h, which includes it.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum {
	TW_INLINE_OUT = 256,         /* messages that one entry can bring to an end */
	TW_INLINE_FETCH = 0xffff,    /* tw_desc.exit: a fetch, not a message that is done */
	TW_INLINE_HOPS_MAX = 64,     /* functions that a message can go through without an end */
	TW_INLINE_NOBODY = 0xffffff, /* no function runs */
};

/* What run() came to with a message; it is held as long as nothing else is said. */
enum tw_inline_result { TW_INLINE_STALE = -1, TW_INLINE_DONE = 0, TW_INLINE_HELD = 1 };

struct tw_inline {
	struct tw_pool *pool;
	struct tw_member_board *boards; /* TW_STAGES_MAX, by function */
	uint32_t member, service;
	struct tw_desc in[TW_DESC_BATCH]; /* the messages an entry is about */
	int8_t result[TW_DESC_BATCH];     /* enum tw_inline_result */
	uint32_t first;                   /* function they begin with */
	uint32_t function; /* that runs now: for who asks why the thread does not go on */
	uint32_t n_out;
	uint32_t faults; /* ever; what the last one said */
	char fault[400];
	uint64_t now, next_due;            /* ns; 0: nothing sleeps */
	struct tw_desc out[TW_INLINE_OUT]; /* held messages that are done, fetches */
};
