/* SPDX-License-Identifier: BSD-3-Clause */
/* ring.h - a ring of descriptors: many put in, one takes out; see ring.c. */
#pragma once
#include "abi.h"

#include <stdatomic.h>

#define RING_SIZE 4096

union ring_place {
	struct tw_desc desc;
	uint64_t word[2];
	unsigned __int128 whole;
};

struct ring {
	_Atomic uint64_t tail TW_ALIGNED(64); /* writers' */
	_Atomic uint64_t head TW_ALIGNED(64); /* a copy of the reader's own */
	union ring_place place[RING_SIZE] TW_ALIGNED(64);
} TW_ALIGNED(4096);

void ring_clear(struct ring *ring);
/* 0; -EAGAIN: full; -ESTALE: not a descriptor. */
int ring_put(struct ring *ring, const struct tw_desc *desc);
/* `head`: the reader's own, so that nobody else's mistakes lead it astray. */
unsigned ring_take(struct ring *ring, uint64_t *head, struct tw_desc *desc, unsigned max);
bool ring_is_ready(const struct ring *ring, uint64_t head);
bool ring_has(const struct ring *ring, tw_handle handle);
/* Descriptors put in, minus those that the reader has done with. */
uint64_t ring_load(const struct ring *ring, uint64_t finished);
