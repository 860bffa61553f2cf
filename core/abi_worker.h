/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_worker.h - the part of the boundary inside a worker process: what its loop and its Lua VM
 * share; same conventions as abi.h, which includes it.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum { TW_WORKER_OUT = 256 };

struct tw_worker {
	struct tw_pool *pool;
	struct tw_member_board *board;
	uint32_t member, function, instance, readonly;
	uint64_t now;      /* CLOCK_MONOTONIC, ns: begin of a call, end of the last message in it */
	uint64_t next_due; /* set by Lua: when it wants to be called, 0: not at all */
	uint32_t n_out;
	uint32_t n_fds; /* the descriptors that came with the blob */
	int32_t fds[TW_WORKER_FDS];
	struct tw_desc in[TW_DESC_BATCH];  /* what has come, before a call */
	struct tw_desc out[TW_WORKER_OUT]; /* what waits to be sent */
};

/* Around every call of a function with a message. 0, or -ESTALE: it is not this instance's any
 * more, and must not be touched. `again`: it goes on with one that was held. Message 0: something
 * that belongs to none (tick, stop); board.current is UINT64_MAX then. */
int tw_worker_begin(struct tw_worker *worker, tw_handle message, bool again);
void tw_worker_done(struct tw_worker *worker);
/* The message goes out by that exit, at the latest when all that have come are done. */
void tw_worker_put(struct tw_worker *worker, tw_handle message, uint32_t exit, uint32_t gate,
                   uint32_t key);
/* A line for the engine's log; too many are counted instead. */
void tw_worker_say(struct tw_worker *worker, bool error, const char *text);
