/* SPDX-License-Identifier: BSD-3-Clause */
/* table_slots.c - the slots of a hash: where keys and values live, and when they are reused. */
#include "table_slots.h"
#include "error.h"
#include "rcu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include <rte_errno.h>

#define SPARE_MIN 4096u /* slots beyond `entries`: those in their grace period */
#define SPARE_MAX 65536u
#define FRONT_MAX 16384u
#define CLOCK_STEPS 1024u  /* slots the clock's hand may pass in one insertion */
#define ROOM_STEPS 64u     /* slots looked at for an expired entry in one insertion */
#define RECLAIM 8u         /* retired slots looked at in one insertion */
#define RECLAIM_SWEEP 256u /* retired slots looked at in one step of the sweep */

/* ---- under the lock ---- */

void tw_hash_lock(struct tw_hash *h)
{
	pthread_mutex_lock(&h->lock);
}

void tw_hash_unlock(struct tw_hash *h)
{
	pthread_mutex_unlock(&h->lock);
}

static void free_slot(struct tw_hash *h, uint32_t slot)
{
	/* First in, first out: the clock then meets entries about in the order of insertion. */
	h->free[(h->free_head + h->free_count++) % h->slots] = slot;
}

static void retire(struct tw_hash *h, uint32_t slot, int32_t position)
{
	struct tw_retired *r = &h->retired[(h->retired_head + h->retired_count++) % h->slots];

	atomic_store_explicit(&h->live[slot], 0, memory_order_relaxed);
	r->token = rte_rcu_qsbr_start(tw_qsbr());
	r->slot = slot;
	r->position = position;
}

uint32_t tw_hash_reclaim(struct tw_hash *h, uint32_t most)
{
	uint32_t n = 0;

	for (; n < most && h->retired_count; n++) {
		struct tw_retired *r = &h->retired[h->retired_head];

		if (rte_rcu_qsbr_check(tw_qsbr(), r->token, false) != 1)
			break;
		if (r->position >= 0)
			rte_hash_free_key_with_position(h->index, r->position);
		free_slot(h, r->slot);
		h->retired_head = (h->retired_head + 1) % h->slots;
		h->retired_count--;
	}
	return n;
}

void tw_hash_remove(struct tw_hash *h, uint32_t slot)
{
	const void *key = tw_hash_key(h, slot);
	int32_t position = rte_hash_del_key_with_hash(h->index, key, tw_hash_signature(h, key));

	h->live_count--;
	retire(h, slot, position);
}

static uint32_t next_slot(const struct tw_hash *h, uint32_t slot)
{
	return slot < h->slots ? slot + 1 : 1;
}

/* Removes expired entries among the next `steps` slots. */
static uint32_t expire_some(struct tw_hash *h, uint64_t now, uint32_t steps)
{
	uint32_t n = 0;

	for (; steps; steps--) {
		h->swept = next_slot(h, h->swept);
		if (h->live[h->swept] && tw_hash_expired(h, h->swept, now)) {
			tw_hash_remove(h, h->swept);
			n++;
		}
	}
	h->t.expired += n;
	return n;
}

/* CLOCK, or second chance (Corbato 1968): an entry used since the hand passed it is spared once.
 * Bounded, so after CLOCK_STEPS slots in use the next entry goes whatever its mark. */
static void evict_one(struct tw_hash *h)
{
	for (uint32_t steps = 0;; steps++) {
		h->hand = next_slot(h, h->hand);
		if (!h->live[h->hand])
			continue;
		if (steps < CLOCK_STEPS && h->used[h->hand]) {
			atomic_store_explicit(&h->used[h->hand], 0, memory_order_relaxed);
			continue;
		}
		break;
	}
	tw_hash_remove(h, h->hand);
	h->t.evictions++;
}

static uint32_t take_slot(struct tw_hash *h)
{
	uint32_t slot;

	if (h->free_count <= h->retired_count)
		tw_hash_reclaim(h, h->free_count ? RECLAIM : h->slots);
	if (!h->free_count)
		return 0;
	slot = h->free[h->free_head];
	h->free_head = (h->free_head + 1) % h->slots;
	h->free_count--;
	return slot;
}

static void fill(struct tw_hash *h, uint32_t slot, const void *key, const void *value)
{
	memcpy(tw_hash_key(h, slot), key, h->t.key_stride);
	if (value)
		memcpy(tw_hash_value(h, slot), value, h->t.value_size);
	else
		memset(tw_hash_value(h, slot), 0, h->t.value_size);
	atomic_store_explicit(&h->used[slot], 0, memory_order_relaxed);
}

uint32_t tw_hash_insert(struct tw_hash *h, const void *key, uint32_t sig, const void *value,
                        uint64_t now)
{
	uint32_t slot = 0;

	if (h->live_count >= h->t.entries && h->t.expires_offset != TW_TABLE_NO_EXPIRY)
		expire_some(h, now, ROOM_STEPS);
	if (h->live_count >= h->t.entries && h->lru)
		evict_one(h);
	if (h->live_count < h->t.entries)
		slot = take_slot(h);
	if (!slot)
		goto full;
	fill(h, slot, key, value);
	/* Publishes the slot number with release: readers that find it find it filled. */
	if (rte_hash_add_key_with_hash_data(h->index, key, sig, (void *)(uintptr_t)slot) < 0) {
		free_slot(h, slot);
		goto full;
	}
	atomic_store_explicit(&h->live[slot], 1, memory_order_release);
	h->live_count++;
	return slot;
full:
	h->t.full++;
	return 0;
}

uint32_t tw_hash_prepare(struct tw_hash *h, uint32_t slot, const void *value)
{
	uint32_t fresh = take_slot(h);

	if (!fresh) {
		memcpy(tw_hash_value(h, slot), value, h->t.value_size);
		return slot;
	}
	fill(h, fresh, tw_hash_key(h, slot), value);
	return fresh;
}

void tw_hash_commit(struct tw_hash *h, uint32_t slot, uint32_t fresh, uint32_t sig)
{
	/* Cannot fail: the key is there, only its data changes, in one store with release. */
	rte_hash_add_key_with_hash_data(h->index, tw_hash_key(h, slot), sig,
	                                (void *)(uintptr_t)fresh);
	atomic_store_explicit(&h->live[fresh], 1, memory_order_release);
	atomic_store_explicit(&h->used[fresh], 1, memory_order_relaxed);
	retire(h, slot, -1);
}

/* ---- life ---- */

static size_t front_size(const struct tw_hash *h)
{
	return 2 * ((size_t)h->front_mask + 1) * sizeof(*h->front);
}

static void release(struct tw_hash *h)
{
	size_t n = h->slots + 1;

	rte_hash_free(h->index);
	tw_table_memory_free(h->entries, n * h->entry_stride);
	tw_table_memory_free((void *)h->live, n);
	tw_table_memory_free((void *)h->used, n);
	tw_table_memory_free(h->free, n * sizeof(*h->free));
	tw_table_memory_free(h->retired, n * sizeof(*h->retired));
	tw_table_memory_free((void *)h->front, front_size(h));
}

void tw_hash_destroy(struct tw_table *t)
{
	struct tw_hash *h = (struct tw_hash *)t;

	release(h);
	pthread_mutex_destroy(&h->lock);
}

static int make_index(struct tw_hash *h)
{
	static unsigned number;
	uint32_t want = h->t.entries + h->t.entries / 4;
	char name[RTE_HASH_NAMESIZE];
	struct rte_hash_parameters params = {
		.name = name,
		.key_len = h->t.key_stride,
		.socket_id = SOCKET_ID_ANY,
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
	};

	/* rte_hash may refuse a key when its buckets are about 95 % full; with a fifth of them
	 * spare, `entries` keys always fit. It needs a position for every slot, too. */
	params.entries = want > h->slots ? want : h->slots;
	if (params.entries < 256)
		params.entries = 256;
	snprintf(name, sizeof(name), "tw%u", ++number);
	h->index = rte_hash_create(&params);
	if (!h->index)
		return tw_fail(
			rte_errno ? rte_errno : ENOMEM,
			"no memory for the index of table \"%s\" (%u entries): %s; give the engine "
			"more memory or the table fewer entries",
			h->t.name, h->t.entries, rte_strerror(rte_errno));
	/* Counted as rte_hash lays it out: key store, and buckets of 8 keys in one line. */
	h->t.bytes += (uint64_t)params.entries * RTE_ALIGN(8 + h->t.key_stride, 16) +
	              (uint64_t)rte_align32pow2(params.entries) * 8;
	return 0;
}

static int equal8(const void *a, const void *b, size_t size)
{
	(void)size;
	return *(const uint64_t *)a != *(const uint64_t *)b;
}

static void init_lock(struct tw_hash *h)
{
	pthread_mutexattr_t attr;

	/* Spins shortly, then sleeps: the control thread may be preempted while it holds the lock,
	 * by the very lcore that waits for it. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&h->lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

static const struct tw_table_ops ops;

size_t tw_hash_struct_size(void)
{
	return sizeof(struct tw_hash);
}

int tw_hash_init(struct tw_table *t)
{
	struct tw_hash *h = (struct tw_hash *)t;
	uint32_t spare = t->entries / 4;
	size_t n;
	int err = tw_eal_ensure();

	if (err < 0)
		return err;
	if (spare < SPARE_MIN)
		spare = SPARE_MIN;
	if (spare > SPARE_MAX)
		spare = SPARE_MAX;
	h->slots = t->entries + spare;
	h->key_words = t->key_stride / 8;
	h->lru = t->kind == TW_TABLE_LRU;
	if (getrandom(&h->seed, sizeof(h->seed), GRND_NONBLOCK) != sizeof(h->seed) ||
	    getrandom(&h->factor, sizeof(h->factor), GRND_NONBLOCK) != sizeof(h->factor))
		h->seed = h->factor = tw_now() * 0x9e3779b97f4a7c15u;
	h->factor |= 1;
	n = h->slots + 1;
	err = make_index(h);
	if (err < 0)
		return err;
	if (t->key_stride == 8)
		rte_hash_set_cmp_func(h->index, equal8);
	h->entry_stride = t->key_stride + RTE_ALIGN(t->value_stride, 8);
	h->entries = tw_table_memory(n * h->entry_stride);
	h->live = tw_table_memory(n);
	h->used = tw_table_memory(n);
	h->free = tw_table_memory(n * sizeof(*h->free));
	h->retired = tw_table_memory(n * sizeof(*h->retired));
	h->front_mask = rte_align32pow2(t->entries < FRONT_MAX ? t->entries : FRONT_MAX) - 1;
	h->front = tw_table_memory(front_size(h));
	if (!h->entries || !h->live || !h->used || !h->free || !h->retired || !h->front) {
		release(h);
		return tw_fail(ENOMEM, "no memory for table \"%s\": %u entries of %u bytes",
		               t->name, t->entries, t->key_stride + t->value_stride);
	}
	t->bytes += n * (h->entry_stride + 2 + sizeof(*h->free) + sizeof(*h->retired)) +
	            front_size(h);
	for (uint32_t slot = 1; slot <= h->slots; slot++)
		free_slot(h, slot);
	init_lock(h);
	t->ops = &ops;
	return 0;
}

/* ---- walking ---- */

uint32_t tw_hash_count(const struct tw_table *t)
{
	return ((const struct tw_hash *)t)->live_count;
}

static uint32_t retired(const struct tw_table *t)
{
	return ((const struct tw_hash *)t)->retired_count;
}

int tw_hash_entry(struct tw_table *t, uint32_t *cursor, uint64_t now, void *key, void *value)
{
	struct tw_hash *h = (struct tw_hash *)t;
	bool guest = tw_rcu_self == TW_RCU_NO_SLOT;
	int found = 0;

	/* Protected, so that a slot seen live keeps its key and value while they are copied. */
	if (guest)
		tw_rcu_guest_enter();
	while (!found && *cursor < h->slots) {
		uint32_t slot = ++*cursor;

		if (!atomic_load_explicit(&h->live[slot], memory_order_acquire) ||
		    tw_hash_expired(h, slot, now))
			continue;
		memcpy(key, tw_hash_key(h, slot), t->key_size);
		memcpy(value, tw_hash_value(h, slot), t->value_size);
		found = 1;
	}
	if (guest)
		tw_rcu_guest_leave();
	return found;
}

static int clear(struct tw_table *t)
{
	struct tw_hash *h = (struct tw_hash *)t;
	int n = 0;

	/* One entry per hold of the lock: lcores that insert meanwhile wait for one removal. */
	for (uint32_t slot = 1; slot <= h->slots; slot++) {
		if (!atomic_load_explicit(&h->live[slot], memory_order_relaxed))
			continue;
		tw_hash_lock(h);
		if (h->live[slot]) {
			tw_hash_remove(h, slot);
			n++;
		}
		tw_hash_unlock(h);
	}
	return n;
}

static uint32_t sweep(struct tw_table *t, uint64_t now, uint32_t budget)
{
	struct tw_hash *h = (struct tw_hash *)t;
	uint32_t steps = 0;

	if (h->retired_count) { /* a stale read costs or saves one lock, nothing else */
		tw_hash_lock(h);
		steps = tw_hash_reclaim(h, budget < RECLAIM_SWEEP ? budget : RECLAIM_SWEEP);
		tw_hash_unlock(h);
	}
	if (t->expires_offset == TW_TABLE_NO_EXPIRY)
		return steps + 1;
	for (uint32_t n = h->slots; n && steps < budget; n--, steps++) {
		h->sweep_at = next_slot(h, h->sweep_at);
		if (!h->live[h->sweep_at] || !tw_hash_expired(h, h->sweep_at, now))
			continue;
		tw_hash_lock(h);
		if (h->live[h->sweep_at] && tw_hash_expired(h, h->sweep_at, now)) {
			tw_hash_remove(h, h->sweep_at);
			t->expired++;
		}
		tw_hash_unlock(h);
	}
	return steps + 1;
}

static const struct tw_table_ops ops = {
	.destroy = tw_hash_destroy,
	.count = tw_hash_count,
	.retired = retired,
	.entry = tw_hash_entry,
	.clear = clear,
	.sweep = sweep,
};
