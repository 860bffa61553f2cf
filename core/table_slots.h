/* SPDX-License-Identifier: BSD-3-Clause */
/* table_slots.h - the slots of a hash: where keys and values live, and when they are reused. */
#pragma once
#include "table.h"

#include <pthread.h>
#include <stdatomic.h>

#include <rte_hash.h>

/* A slot whose memory comes back when every lcore has passed a quiescent state. */
struct tw_retired {
	uint64_t token;
	uint32_t slot;
	int32_t position; /* of the key in the index, -1 when the key lives on in another slot */
};

/*
 * A hash: an index (rte_hash, lock-free for readers) from keys to slot numbers, and slots that
 * hold key and value. Slot 0 is never used, so that 0 can mean "none".
 *
 * rte_hash could retire keys on its own (RTE_HASH_QSBR_MODE_DQ), but then a value would share the
 * life of its key's position: set() could not replace a value in one piece, and a full LRU would
 * find no room before the grace period ends. So the index is single-writer under our lock, and
 * positions and slots are retired together here.
 */
struct tw_hash {
	struct tw_table t;
	struct rte_hash *index;
	uint8_t *entries; /* of entry_stride bytes: the key, and the value behind it */
	uint32_t entry_stride;
	_Atomic uint8_t *live; /* per slot: 1 when in the index; under lock, stored with release */
	_Atomic uint8_t *used; /* per slot: touched since the clock's hand passed; relaxed */
	_Atomic uint64_t *front; /* signature << 32 | slot, in pairs; see tw_hash_find_front() */
	uint32_t front_mask;     /* of pairs */
	uint32_t slots;          /* slot numbers are 1..slots */
	uint32_t key_words;
	uint64_t seed, factor;
	bool lru;

	pthread_mutex_t lock __attribute__((aligned(64))); /* of everything below and the index */
	uint32_t *free;                                    /* ring of slots+1 slot numbers */
	uint32_t free_head, free_count;
	struct tw_retired *retired; /* ring of slots+1 */
	uint32_t retired_head;
	_Atomic uint32_t retired_count; /* written under lock, read anywhere */
	uint32_t hand;                  /* where the clock looks next */
	uint32_t swept;                 /* where an insertion looks for expired entries next */
	_Atomic uint32_t live_count;    /* written under lock, read anywhere */
	uint32_t sweep_at; /* written by the one sweeping thread, under the registry's lock */
};

static inline void *tw_hash_value(const struct tw_hash *h, uint32_t slot)
{
	return h->entries + (size_t)slot * h->entry_stride + h->t.key_stride;
}

static inline void *tw_hash_key(const struct tw_hash *h, uint32_t slot)
{
	return h->entries + (size_t)slot * h->entry_stride;
}

static inline uint64_t tw_hash_mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* A folded multiplication per word with a secret seed. CRC32 (rte_hash_crc) costs the same, but
 * it is linear: a sender can choose addresses and ports that collide whatever the seed. */
static inline uint32_t tw_hash_signature(const struct tw_hash *h, const void *key)
{
	const uint64_t *word = key;
	uint64_t x = h->seed;

	for (uint32_t i = 0; i < h->key_words; i++)
		x = tw_hash_mix(x ^ word[i], h->factor);
	return (uint32_t)(x ^ x >> 32);
}

/* Slot of the key, 0 when there is none. Readers need no lock. */
static inline uint32_t tw_hash_find(const struct tw_hash *h, const void *key, uint32_t sig)
{
	void *data;

	if (rte_hash_lookup_with_hash_data(h->index, key, sig, &data) < 0)
		return 0;
	return (uint32_t)(uintptr_t)data;
}

static inline bool tw_hash_key_is(const struct tw_hash *h, uint32_t slot, const void *key)
{
	const uint64_t *a = tw_hash_key(h, slot), *b = key;
	uint64_t differ = a[0] ^ b[0];

	for (uint32_t i = 1; i < h->key_words; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

static inline bool tw_hash_hint(const struct tw_hash *h, uint64_t hint, const void *key,
                                uint32_t sig)
{
	uint32_t slot = (uint32_t)hint;

	return hint >> 32 == sig && atomic_load_explicit(&h->live[slot], memory_order_acquire) &&
	       tw_hash_key_is(h, slot, key);
}

/*
 * The same by way of a table of what was found last, two in a pair: one line of memory instead of a
 * bucket and the index's own copy of the key. A slot that is live has its key: it is retired before
 * it gets another, and not reused while a reader that saw it live is at it. Cells are hints, so
 * they need no order. Native code has a copy of this (lua/tideway/compiler/back/c/hash.lua).
 */
static inline uint32_t tw_hash_find_front(const struct tw_hash *h, const void *key, uint32_t sig)
{
	_Atomic uint64_t *pair = &h->front[2 * (size_t)(sig & h->front_mask)];
	uint64_t first = atomic_load_explicit(&pair[0], memory_order_relaxed), second;
	uint32_t slot;

	if (tw_hash_hint(h, first, key, sig))
		return (uint32_t)first;
	second = atomic_load_explicit(&pair[1], memory_order_relaxed);
	if (tw_hash_hint(h, second, key, sig))
		return (uint32_t)second;
	slot = tw_hash_find(h, key, sig);
	if (slot) {
		atomic_store_explicit(&pair[1], first, memory_order_relaxed);
		atomic_store_explicit(&pair[0], (uint64_t)sig << 32 | slot, memory_order_relaxed);
	}
	return slot;
}

/* A deadline of 0 means "none yet". */
static inline bool tw_hash_expired(const struct tw_hash *h, uint32_t slot, uint64_t now)
{
	uint64_t at;

	if (h->t.expires_offset == TW_TABLE_NO_EXPIRY)
		return false;
	at = __atomic_load_n((uint64_t *)((uint8_t *)tw_hash_value(h, slot) + h->t.expires_offset),
	                     __ATOMIC_RELAXED);
	return at && at <= now;
}

/* ---- slots of a hash, for tables built on one; call them under the lock ---- */
void tw_hash_lock(struct tw_hash *h);
void tw_hash_unlock(struct tw_hash *h);
/* New slot in the index with this key; a NULL value means zeroes. 0: full, counted. */
uint32_t tw_hash_insert(struct tw_hash *h, const void *key, uint32_t signature, const void *value,
                        uint64_t now);
/* Replaces a value in one piece: prepare() fills a fresh slot, which commit() then gives the key of
 * `slot`. When no slot is free prepare() writes in place and returns `slot`: do not commit then. */
uint32_t tw_hash_prepare(struct tw_hash *h, uint32_t slot, const void *value);
void tw_hash_commit(struct tw_hash *h, uint32_t slot, uint32_t fresh, uint32_t signature);
/* Undoes an insert that no reader can have seen a use of, or deletes an entry. */
void tw_hash_remove(struct tw_hash *h, uint32_t slot);
uint32_t tw_hash_reclaim(struct tw_hash *h, uint32_t most); /* retired slots looked at */
void tw_hash_destroy(struct tw_table *t);
uint32_t tw_hash_count(const struct tw_table *t);
int tw_hash_entry(struct tw_table *t, uint32_t *cursor, uint64_t now, void *key, void *value);
