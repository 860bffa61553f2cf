/* SPDX-License-Identifier: BSD-3-Clause */
/* pool.h - the shared memory of a service: blocks in size classes, owned by members.
 *
 * Two mappings: the owners (one word per block, and the boards) and the blocks themselves; position
 * independent, so that every process maps them where it likes. The owner word is the only truth
 * about a block: free, held by a member, or on its way to one. Every change of it is one
 * compare-and-swap against generation, owner and state, so a block that was reclaimed cannot be
 * taken, sent or freed by who had it before, and whatever dies in the middle leaves nothing that
 * the words do not say. Which blocks are free is hinted at by bit maps that may be wrong at any
 * time.
 */
#pragma once
#include "abi.h"

#include <stdatomic.h>

/* Bytes of the blocks of each class; a block's data begins at a multiple of 64. */
extern const uint32_t tw_pool_class_bytes[TW_POOL_CLASSES]; /* 4 K, 16 K, 64 K, 256 K, 1 M */

/* generation (24) | spare (8) | state (16) | owner (16) */
#define TW_OWNER_WORD(generation, state, owner) \
	((uint64_t)(generation) << 40 | (uint64_t)(state) << 16 | (owner))
#define TW_OWNER_OF(word) ((uint32_t)((word)&0xffff))
#define TW_STATE_OF(word) ((uint32_t)((word) >> 16 & 0xffff))
#define TW_GENERATION_OF(word) ((uint32_t)((word) >> 40))

#define TW_HANDLE(generation, index) ((uint64_t)(generation) << 32 | (index))
#define TW_HANDLE_INDEX(handle) ((uint32_t)(handle))
#define TW_HANDLE_GENERATION(handle) ((uint32_t)((handle) >> 32))

/* What there is to call: abi_fabric.h, and for functions abi_msg.h. */

/* Calls fn for every block of a member, in any state; no other process may run as it any more. */
void tw_pool_each(struct tw_pool *pool, uint32_t member,
                  void (*fn)(void *ctx, tw_handle handle, uint32_t state), void *ctx);
