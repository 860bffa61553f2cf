/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_upstream.h - the part of the boundary for how a server of a group is chosen; same conventions
 * as abi.h, which includes it. Pure functions.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* A server as the choice sees it. */
struct tw_balance_server {
	uint32_t weight;   /* 0: never chosen */
	uint32_t active;   /* connections in use */
	int64_t current;   /* round robin's own; 0 at first */
	uint64_t identity; /* tw_balance_identity(): stays with the server, not with its place */
	bool skip;         /* not now: down, full, tried */
};

/* The next server by enum tw_balance, -1: none. `key` is for TW_BALANCE_HASH only: as long as a
 * server may be chosen, its keys stay with it, whatever happens to the others, and when it may not,
 * they are spread over the others by their weights (weighted rendezvous hashing, Thaler and
 * Ravishankar 1998). */
int tw_balance_choose(uint32_t balance, struct tw_balance_server *servers, uint32_t n,
                      uint64_t key);
uint64_t tw_balance_identity(const struct tw_endpoint_address *address);
