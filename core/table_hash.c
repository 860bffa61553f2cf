/* SPDX-License-Identifier: BSD-3-Clause */
/* table_hash.c - hash and lru tables: lock-free look-up, values at stable addresses. */
#include "rcu.h"
#include "table_slots.h"

#include <rte_branch_prediction.h>
#include <rte_prefetch.h>

/* ---- look-up: no lock, no store but the lru's mark ---- */

static inline void touch(struct tw_hash *h, uint32_t slot)
{
	/* Read first: the line stays shared among lcores when the mark is set already. */
	if (h->lru && !atomic_load_explicit(&h->used[slot], memory_order_relaxed))
		atomic_store_explicit(&h->used[slot], 1, memory_order_relaxed);
}

static inline uint32_t look_up(struct tw_hash *h, const void *key, uint32_t sig, uint64_t now)
{
	uint32_t slot = tw_hash_find_front(h, key, sig);

	if (!slot || tw_hash_expired(h, slot, now))
		return 0;
	touch(h, slot);
	return slot;
}

static inline bool guest_enter(void)
{
	if (likely(tw_rcu_self != TW_RCU_NO_SLOT))
		return false;
	tw_rcu_guest_enter();
	return true;
}

static inline void guest_leave(bool guest)
{
	if (unlikely(guest))
		tw_rcu_guest_leave();
}

void *tw_hash_get(struct tw_table *table, const void *key, uint64_t now)
{
	struct tw_hash *h = (struct tw_hash *)table;
	bool guest = guest_enter();
	uint32_t slot = look_up(h, key, tw_hash_signature(h, key), now);

	guest_leave(guest);
	return slot ? tw_hash_value(h, slot) : NULL;
}

void tw_hash_view(const struct tw_table *table, struct tw_hash_view *view)
{
	const struct tw_hash *h = (const struct tw_hash *)table;

	*view = (struct tw_hash_view){
		.front = (const uint64_t *)h->front,
		.live = (const uint8_t *)h->live,
		.used = h->lru ? (uint8_t *)h->used : NULL,
		.entries = h->entries,
		.seed = h->seed,
		.factor = h->factor,
		.front_mask = h->front_mask,
		.entry_stride = h->entry_stride,
		.key_stride = h->t.key_stride,
		.expires_offset = h->t.expires_offset,
	};
}

int tw_hash_get_bulk(struct tw_table *table, const void *const *keys, uint32_t n, uint64_t now,
                     void **values)
{
	struct tw_hash *h = (struct tw_hash *)table;
	hash_sig_t sig[TW_TABLE_BULK_MAX];
	uint32_t slots[TW_TABLE_BULK_MAX];
	uint64_t hits = 0;
	int found = 0;
	bool guest;

	if (!n || n > TW_TABLE_BULK_MAX)
		return 0;
	guest = guest_enter();
	for (uint32_t i = 0; i < n; i++)
		sig[i] = tw_hash_signature(h, keys[i]);
	rte_hash_lookup_with_hash_bulk_data(h->index, (const void **)(uintptr_t)keys, sig, n, &hits,
	                                    values);
	for (uint32_t i = 0; i < n; i++) {
		slots[i] = hits >> i & 1 ? (uint32_t)(uintptr_t)values[i] : 0;
		values[i] = slots[i] ? tw_hash_value(h, slots[i]) : NULL;
		rte_prefetch0(values[i]);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (!values[i])
			continue;
		if (tw_hash_expired(h, slots[i], now)) {
			values[i] = NULL;
			continue;
		}
		touch(h, slots[i]);
		found++;
	}
	guest_leave(guest);
	return found;
}

/* ---- changes ---- */

/* The live slot of this key; removes an expired one, so that the key starts afresh. */
static uint32_t find_for_write(struct tw_hash *h, const void *key, uint32_t sig, uint64_t now)
{
	uint32_t slot = tw_hash_find(h, key, sig);

	if (slot && tw_hash_expired(h, slot, now)) {
		tw_hash_remove(h, slot);
		h->t.expired++;
		return 0;
	}
	if (slot)
		touch(h, slot);
	return slot;
}

void *tw_hash_put(struct tw_table *table, const void *key, uint64_t now)
{
	struct tw_hash *h = (struct tw_hash *)table;
	uint32_t sig = tw_hash_signature(h, key);
	bool guest = guest_enter();
	uint32_t slot = look_up(h, key, sig, now);

	guest_leave(guest);
	if (likely(slot))
		return tw_hash_value(h, slot);
	tw_hash_lock(h);
	slot = find_for_write(h, key, sig, now);
	if (!slot)
		slot = tw_hash_insert(h, key, sig, NULL, now);
	tw_hash_unlock(h);
	return slot ? tw_hash_value(h, slot) : NULL;
}

/* Stores a value that one instruction can store; false for the other sizes. */
static inline bool store_small(void *to, const void *from, uint32_t size)
{
	switch (size) {
	case 1:
		__atomic_store_n((uint8_t *)to, *(const uint8_t *)from, __ATOMIC_RELAXED);
		return true;
	case 2:
		__atomic_store_n((uint16_t *)to, *(const uint16_t *)from, __ATOMIC_RELAXED);
		return true;
	case 4:
		__atomic_store_n((uint32_t *)to, *(const uint32_t *)from, __ATOMIC_RELAXED);
		return true;
	case 8:
		__atomic_store_n((uint64_t *)to, *(const uint64_t *)from, __ATOMIC_RELAXED);
		return true;
	default:
		return false;
	}
}

bool tw_hash_set(struct tw_table *table, const void *key, const void *value, uint64_t now)
{
	struct tw_hash *h = (struct tw_hash *)table;
	uint32_t sig = tw_hash_signature(h, key);
	uint32_t slot = 0, fresh;

	if (h->t.value_size <= 8) {
		bool guest = guest_enter(), stored;

		slot = look_up(h, key, sig, now);
		stored = slot && store_small(tw_hash_value(h, slot), value, h->t.value_size);
		guest_leave(guest);
		if (stored)
			return true;
	}
	tw_hash_lock(h);
	slot = find_for_write(h, key, sig, now);
	if (!slot) {
		slot = tw_hash_insert(h, key, sig, value, now);
	} else if (!store_small(tw_hash_value(h, slot), value, h->t.value_size)) {
		fresh = tw_hash_prepare(h, slot, value);
		if (fresh != slot)
			tw_hash_commit(h, slot, fresh, sig);
	}
	tw_hash_unlock(h);
	return slot != 0;
}

bool tw_hash_add(struct tw_table *table, const void *key, int64_t n, uint64_t now)
{
	struct tw_hash *h = (struct tw_hash *)table;
	uint32_t sig = tw_hash_signature(h, key);
	bool guest = guest_enter();
	uint32_t slot = look_up(h, key, sig, now);

	if (likely(slot))
		tw_table_add_to(tw_hash_value(h, slot), n, h->t.value_size);
	guest_leave(guest);
	if (likely(slot))
		return true;
	tw_hash_lock(h);
	slot = find_for_write(h, key, sig, now);
	if (!slot)
		slot = tw_hash_insert(h, key, sig, NULL, now);
	if (slot)
		tw_table_add_to(tw_hash_value(h, slot), n, h->t.value_size);
	tw_hash_unlock(h);
	return slot != 0;
}

static bool exchange(struct tw_table *table, const void *key, const int64_t *expected,
                     int64_t value, uint64_t now, int64_t *old)
{
	struct tw_hash *h = (struct tw_hash *)table;
	bool guest = guest_enter();
	uint32_t slot = look_up(h, key, tw_hash_signature(h, key), now);
	bool done = slot && tw_table_exchange(tw_hash_value(h, slot), table->value_size, expected,
	                                      value, old);

	guest_leave(guest);
	return done;
}

bool tw_hash_exchange(struct tw_table *table, const void *key, int64_t value, uint64_t now,
                      int64_t *old)
{
	return exchange(table, key, NULL, value, now, old);
}

bool tw_hash_compare_exchange(struct tw_table *table, const void *key, int64_t expected,
                              int64_t value, uint64_t now, int64_t *old)
{
	return exchange(table, key, &expected, value, now, old);
}

bool tw_hash_del(struct tw_table *table, const void *key, uint64_t now)
{
	struct tw_hash *h = (struct tw_hash *)table;
	uint32_t slot;

	tw_hash_lock(h);
	slot = find_for_write(h, key, tw_hash_signature(h, key), now);
	if (slot)
		tw_hash_remove(h, slot);
	tw_hash_unlock(h);
	return slot != 0;
}
