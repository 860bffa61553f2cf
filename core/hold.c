/* SPDX-License-Identifier: BSD-3-Clause */
/* hold.c - hold queues: packets that wait for an event (address resolution), owned by C. */
#include "error.h"
#include "lcore.h"
#include "stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_spinlock.h>

#define HOLDS_MAX 32

enum entry_state { FREE, WAITING, READY };

struct entry {
	struct rte_mbuf *mbuf;
	uint64_t key, deadline;
	uint32_t mark;
	uint16_t port, chain, stage, slot, out;
	uint8_t state;
};

/* Slow path only: a lock and linear search are cheap beside what the packets wait for. */
struct hold {
	bool used;
	bool closing; /* lcores drop what they have in it, then it is free again */
	rte_spinlock_t lock;
	uint32_t slots, per_key, count;
	uint64_t timeout;
	struct entry *entry;
};

static struct hold holds[HOLDS_MAX];
static _Atomic uint32_t ready[TW_LCORES_MAX]; /* entries to collect, per lcore slot */

/* Queues given up that are empty by now are free again; all: whatever is in them, no lcore runs. */
static void reap(bool all)
{
	for (int id = 0; id < HOLDS_MAX; id++) {
		struct hold *hold = &holds[id];
		struct entry *entry = NULL;

		if (!hold->used)
			continue;
		rte_spinlock_lock(&hold->lock);
		for (uint32_t i = 0; all && i < hold->slots; i++)
			if (hold->entry[i].state != FREE)
				rte_pktmbuf_free(hold->entry[i].mbuf);
		if (all || (hold->closing && !hold->count)) {
			entry = hold->entry;
			hold->entry = NULL;
			hold->slots = hold->count = 0;
			hold->used = hold->closing = false;
		}
		rte_spinlock_unlock(&hold->lock);
		free(entry);
	}
}

void tw_holds_close(void)
{
	reap(true);
}

int tw_hold_new(uint32_t slots, uint32_t per_key, uint64_t timeout)
{
	int id;

	reap(false);
	if (!slots || slots > 65536)
		return tw_fail(EINVAL, "hold queue: %u slots are not in 1..65536", slots);
	for (id = 0; id < HOLDS_MAX && holds[id].used; id++)
		;
	if (id == HOLDS_MAX)
		return tw_fail(ENOSPC, "%d hold queues are in use, that is the limit", HOLDS_MAX);
	holds[id].entry = calloc(slots, sizeof(struct entry));
	if (!holds[id].entry)
		return tw_fail(ENOMEM, "no memory for a hold queue of %u slots", slots);
	holds[id].slots = slots;
	holds[id].per_key = per_key ? per_key : slots;
	holds[id].timeout = timeout;
	__atomic_store_n(&holds[id].used, true, __ATOMIC_RELEASE);
	return id;
}

/* An lcore that runs may be looking at it, and has the packets in its books. */
void tw_hold_free(int id)
{
	if (id < 0 || id >= HOLDS_MAX || !holds[id].used)
		return;
	rte_spinlock_lock(&holds[id].lock);
	holds[id].closing = true;
	rte_spinlock_unlock(&holds[id].lock);
}

int tw_hold_put(int id, struct tw_lcore *lcore, unsigned chain, const struct tw_pkt *pkt)
{
	struct entry *slot = NULL;
	uint32_t same = 0;
	struct hold *hold;

	if (id < 0 || id >= HOLDS_MAX || !holds[id].used)
		return -ENOENT;
	hold = &holds[id];
	rte_spinlock_lock(&hold->lock);
	for (uint32_t i = 0; i < hold->slots && hold->count < hold->slots && !hold->closing; i++) {
		struct entry *entry = &hold->entry[i];

		if (entry->state == FREE)
			slot = slot ? slot : entry;
		else if (entry->key == pkt->key)
			same++;
	}
	if (slot && same < hold->per_key) {
		*slot = (struct entry){
			.mbuf = pkt->mbuf,
			.key = pkt->key,
			.deadline = lcore->burst.now + hold->timeout,
			.mark = pkt->mark,
			.port = pkt->port,
			.out = pkt->out,
			.chain = chain,
			.stage = pkt->stage,
			.slot = lcore->slot,
			.state = WAITING,
		};
		hold->count++;
	} else {
		slot = NULL;
	}
	rte_spinlock_unlock(&hold->lock);
	if (!slot)
		return -ENOSPC;
	lcore->stats->chain[lcore->plan->chain[chain].chain].held++;
	return 0;
}

int tw_hold_release(int id, uint64_t key)
{
	int released = 0;

	if (id < 0 || id >= HOLDS_MAX || !holds[id].used)
		return tw_fail(ENOENT, "there is no hold queue %d", id);
	if (!holds[id].count)
		return 0;
	rte_spinlock_lock(&holds[id].lock);
	for (uint32_t i = 0; i < holds[id].slots; i++) {
		struct entry *entry = &holds[id].entry[i];

		if (entry->state != WAITING || entry->key != key)
			continue;
		entry->state = READY;
		atomic_fetch_add_explicit(&ready[entry->slot], 1, memory_order_release);
		released++;
	}
	rte_spinlock_unlock(&holds[id].lock);
	return released;
}

/* Take an entry out; the lock is held. */
static void entry_take(struct hold *hold, struct entry *entry, struct tw_lcore *lcore)
{
	entry->state = FREE;
	hold->count--;
	lcore->stats->chain[lcore->plan->chain[entry->chain].chain].held--;
}

/* The lock is held. */
static void entry_drop(struct hold *hold, struct entry *entry, struct tw_lcore *lcore,
                       unsigned reason)
{
	if (entry->state == READY)
		atomic_fetch_sub(&ready[lcore->slot], 1);
	entry_take(hold, entry, lcore);
	tw_dispatch_drop(lcore, entry->chain, entry->stage, reason, entry->mbuf);
}

unsigned tw_hold_collect(struct tw_lcore *lcore, unsigned *chain)
{
	struct tw_burst *burst = &lcore->burst;
	unsigned n = 0;

	if (!atomic_load_explicit(&ready[lcore->slot], memory_order_acquire))
		return 0;
	for (int id = 0; id < HOLDS_MAX; id++) {
		struct hold *hold = &holds[id];

		if (!hold->used || !hold->count)
			continue;
		rte_spinlock_lock(&hold->lock);
		for (uint32_t i = 0; i < hold->slots && n < TW_BURST_MAX; i++) {
			struct entry *entry = &hold->entry[i];

			if (entry->state != READY || entry->slot != lcore->slot ||
			    (n && entry->chain != *chain))
				continue;
			*chain = entry->chain;
			burst->pkts[n] = (struct tw_pkt){
				.data = rte_pktmbuf_mtod(entry->mbuf, uint8_t *),
				.len = entry->mbuf->data_len,
				.port = entry->port,
				.out = entry->out,
				.mark = entry->mark,
				.stage = TW_STAGE_ENGINE,
				.resume = entry->stage,
				.mbuf = entry->mbuf,
			};
			entry_take(hold, entry, lcore);
			n++;
		}
		rte_spinlock_unlock(&hold->lock);
	}
	burst->count = n;
	atomic_fetch_sub_explicit(&ready[lcore->slot], n, memory_order_relaxed);
	return n;
}

/* Drop entries of this lcore: those past their deadline (READY ones go on), those of queues that
 * are given up, or all of them. */
static void drop_entries(struct tw_lcore *lcore, uint64_t now, bool all, unsigned reason)
{
	for (int id = 0; id < HOLDS_MAX; id++) {
		struct hold *hold = &holds[id];

		if (!hold->used || !hold->count)
			continue;
		rte_spinlock_lock(&hold->lock);
		for (uint32_t i = 0; i < hold->slots; i++) {
			struct entry *entry = &hold->entry[i];
			bool late = entry->state == WAITING && entry->deadline <= now;

			if (entry->state == FREE || entry->slot != lcore->slot ||
			    !(late || all || hold->closing))
				continue;
			entry_drop(hold, entry, lcore, late || all ? reason : TW_R_NF_REMOVED);
		}
		rte_spinlock_unlock(&hold->lock);
	}
}

void tw_hold_expire(struct tw_lcore *lcore, uint64_t now)
{
	drop_entries(lcore, now, false, TW_R_HOLD_TIMEOUT);
}

void tw_hold_flush(struct tw_lcore *lcore, unsigned reason)
{
	drop_entries(lcore, 0, true, reason);
}

/* The chain's position in another plan, or -1. */
static int position(const struct tw_lcore_plan *plan, unsigned chain)
{
	for (unsigned i = 0; i < plan->n_chains; i++)
		if (plan->chain[i].chain == chain)
			return i;
	return -1;
}

void tw_hold_map(struct tw_lcore *lcore, const struct tw_lcore_plan *to, const struct tw_swap *swap,
                 bool backward)
{
	for (int id = 0; id < HOLDS_MAX; id++) {
		struct hold *hold = &holds[id];

		if (!hold->used || !hold->count)
			continue;
		rte_spinlock_lock(&hold->lock);
		for (uint32_t i = 0; i < hold->slots; i++) {
			struct entry *entry = &hold->entry[i];
			unsigned chain, stage;
			int other;

			if (entry->state == FREE || entry->slot != lcore->slot)
				continue;
			chain = lcore->plan->chain[entry->chain].chain;
			stage = (backward ? swap->backward : swap->forward)[chain].to[entry->stage];
			other = position(to, chain);
			if (other < 0 || stage >= TW_STAGE_GONE) {
				entry_drop(hold, entry, lcore, TW_R_NF_REMOVED);
				continue;
			}
			entry->chain = other;
			entry->stage = stage;
		}
		rte_spinlock_unlock(&hold->lock);
	}
}
