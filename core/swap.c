/* SPDX-License-Identifier: BSD-3-Clause */
/* swap.c - an lcore takes another plan between two bursts, and falls back to the one before when an
 * NF of the new one faults: counters, held packets and Lua state go along. */
#include "error.h"
#include "lcore.h"
#include "stats.h"

#include <string.h>

#include <rte_cycles.h>

/* ---- where stages are in the other plan ---- */

static inline const uint8_t *map_of(const struct tw_swap *swap, bool backward, unsigned chain)
{
	return backward ? swap->backward[chain].to : swap->forward[chain].to;
}

/* The position of a chain in an lcore's list, or -1. */
static int find_chain(const struct tw_lcore_plan *plan, unsigned index)
{
	for (unsigned i = 0; i < plan->n_chains; i++)
		if (plan->chain[i].chain == index)
			return i;
	return -1;
}

/* ---- counters ---- */

static void map_chain(struct tw_lcore_stats *stats, unsigned chain, const uint8_t *to)
{
	uint64_t in[TW_STAGES_MAX] = { 0 }, drops[TW_STAGES_MAX][TW_REASONS_MAX];
	size_t reasons = tw_stats()->reasons; /* the others have not been counted yet */

	for (unsigned s = 0; s < TW_STAGES_MAX; s++)
		memset(drops[s], 0, reasons * sizeof(drops[s][0]));
	for (unsigned s = 0; s < TW_STAGES_MAX; s++) {
		in[to[s]] += stats->stage_in[chain][s];
		for (unsigned r = 0; r < reasons; r++)
			drops[to[s]][r] += stats->drops[chain][s][r];
	}
	memcpy(stats->stage_in[chain], in, sizeof(in));
	for (unsigned s = 0; s < TW_STAGES_MAX; s++)
		memcpy(stats->drops[chain][s], drops[s], reasons * sizeof(drops[s][0]));
}

/* What is about to go to TW_STAGE_GONE. */
static void keep_left(const struct tw_lcore_stats *stats, const struct tw_swap *swap,
                      struct tw_left *left)
{
	for (uint32_t i = 0; i < swap->n_left; i++) {
		unsigned chain = swap->left_at[i].chain, stage = swap->left_at[i].stage;

		left[i].in = stats->stage_in[chain][stage];
		memcpy(left[i].drops, stats->drops[chain][stage], sizeof(left[i].drops));
	}
}

static void give_back_left(struct tw_lcore_stats *stats, const struct tw_swap *swap,
                           struct tw_left *left)
{
	for (uint32_t i = 0; i < swap->n_left; i++) {
		unsigned chain = swap->left_at[i].chain, stage = swap->left_at[i].stage;

		stats->stage_in[chain][stage] += left[i].in;
		stats->stage_in[chain][TW_STAGE_GONE] -= left[i].in;
		for (unsigned r = 0; r < TW_REASONS_MAX; r++) {
			stats->drops[chain][stage][r] += left[i].drops[r];
			stats->drops[chain][TW_STAGE_GONE][r] -= left[i].drops[r];
		}
	}
}

void tw_swap_map_counters(unsigned slot, const struct tw_swap *swap, bool backward)
{
	struct tw_lcore_stats *stats = &tw_stats()->lcore[slot];
	struct tw_left *left = &swap->left[(size_t)slot * swap->n_left];

	if (!backward)
		keep_left(stats, swap, left);
	for (uint32_t moved = swap->moved; moved; moved &= moved - 1) {
		unsigned chain = __builtin_ctz(moved);

		map_chain(stats, chain, map_of(swap, backward, chain));
	}
	if (backward)
		give_back_left(stats, swap, left);
}

/* ---- inputs ---- */

static bool reads(const struct tw_input_spec *list, unsigned n, const struct tw_input_spec *in)
{
	for (unsigned i = 0; i < n; i++)
		if (list[i].kind == in->kind && list[i].index == in->index &&
		    list[i].queue == in->queue)
			return true;
	return false;
}

/* Of the plan's inputs all, or those that are read already: the others may still be read by another
 * lcore, and a queue has one reader. */
static void set_inputs(struct tw_lcore *lcore, const struct tw_lcore_plan *plan, bool all)
{
	struct tw_input_spec list[TW_INPUTS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < plan->n_inputs; i++)
		if (all || reads(lcore->input, lcore->n_inputs, &plan->input[i]))
			list[n++] = plan->input[i];
	memcpy(lcore->input, list, n * sizeof(list[0])); /* cppcheck-suppress uninitvar */
	lcore->n_inputs = n;
}

/* ---- Lua state ---- */

/* What exports and imports: positions of a chain and stages in the two plans. */
struct carried {
	unsigned old_chain, old_stage, new_chain, new_stage;
};

#define CARRIED_MAX (TW_CHAINS_MAX * TW_STAGES_MAX)

/* The plan that came later says which stages carry. */
static unsigned list_carried(const struct tw_lcore_plan *old, const struct tw_lcore_plan *new,
                             bool backward, struct carried *list)
{
	const struct tw_lcore_plan *later = backward ? old : new;
	const struct tw_lcore_plan *earlier = backward ? new : old;
	unsigned n = 0;

	for (unsigned c = 0; c < later->n_chains; c++) {
		const struct tw_chain_spec *spec = &later->chain[c];
		int other = find_chain(earlier, spec->chain);

		for (unsigned s = 0; other >= 0 && s < spec->stages; s++) {
			if (!spec->carry[s] || spec->from[s] == TW_STAGE_NEW)
				continue;
			list[n++] = backward ? (struct carried){ c, s, other, spec->from[s] }
			                     : (struct carried){ other, spec->from[s], c, s };
		}
	}
	return n;
}

static void not_carried(struct tw_lcore *lcore, const struct tw_lcore_plan *plan, unsigned chain,
                        unsigned stage, const char *what)
{
	lcore->not_carried++;
	tw_log("NF at %s on cpu %d: %s() failed, so it starts without the state of the one before: %s",
	       plan->chain[chain].where[stage], lcore->cpu, what, lcore->fault);
}

/* Returns true when an import did not come back: the new plan is not worth being kept. */
static bool carry(struct tw_lcore *lcore, struct tw_lcore_plan *old, struct tw_lcore_plan *new,
                  bool backward)
{
	struct carried list[CARRIED_MAX];
	unsigned n = list_carried(old, new, backward, list);
	bool lost = false;

	for (unsigned i = 0; i < n && old->vm && new->vm && !lost; i++) {
		const struct carried *at = &list[i];
		double from[] = { at->old_chain, at->old_stage };
		double to[] = { at->new_chain, at->new_stage, 0, 0 };
		const char *state;
		size_t len;

		lcore->plan = old;
		if (tw_fence_call(lcore, TW_VM_EXPORT, from, 2, 1) != 0) {
			not_carried(lcore, new, at->new_chain, at->new_stage, "export");
			continue;
		}
		state = tw_vm_result(old->vm, &len);
		to[2] = (double)(uintptr_t)state;
		to[3] = (double)len;
		lcore->plan = new;
		if (state && tw_fence_call(lcore, TW_VM_IMPORT, to, 4, 0) != 0) {
			not_carried(lcore, new, at->new_chain, at->new_stage, "import");
			lost = !new->vm;
		}
		tw_vm_result_done(old->vm);
	}
	lcore->plan = old;
	return lost;
}

/* ---- the switch ---- */

/* Why this lcore runs the plan before again, for the control thread. */
static void say_fell(struct tw_lcore *lcore)
{
	atomic_store_explicit(&lcore->fell, true, memory_order_release);
}

void tw_swap_take(struct tw_lcore *lcore, uint64_t number)
{
	const struct tw_order *order = &lcore->order[number % TW_ORDERS];
	struct tw_lcore_plan *old = lcore->plan, *plan = order->plan;
	uint64_t began = rte_rdtsc();
	bool lost = false;

	lcore->not_carried = 0;
	tw_lcore_interrupts_forget(lcore);
	if (plan != old) {
		if (lcore->n_emits)
			tw_dispatch_emits(lcore);
		if (order->swap) {
			lost = carry(lcore, old, plan, order->backward);
			tw_hold_map(lcore, plan, order->swap, order->backward);
			tw_swap_map_counters(lcore->slot, order->swap, order->backward);
		}
		lcore->plan = plan;
		lcore->next_tick = 0;
		if (!plan->vm && plan->n_chains && order->backward)
			tw_fence_rebuild(lcore); /* its export() did not end */
		if (order->probation)
			atomic_store_explicit(&lcore->before, old, memory_order_relaxed);
	}
	set_inputs(lcore, plan, order->all);
	lcore->stats->generation = order->generation;
	if (lost) {
		snprintf(lcore->fell_why, sizeof(lcore->fell_why),
		         "import() of an NF did not end: %s", lcore->fault);
		lcore->falling = atomic_exchange(&lcore->before, NULL);
	}
	if (lcore->falling)
		tw_swap_fall_back(lcore);
	lcore->taken = number;
	lcore->away_ns = (rte_rdtsc() - began) * 1000000000.0 / tw_tsc_hz();
	atomic_store_explicit(&lcore->acked, number, memory_order_release);
}

/* ---- falling back ---- */

void tw_swap_set_aside(struct tw_lcore *lcore, unsigned chain, struct tw_pkt *hand, bool counted)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	struct tw_burst *burst = &lcore->burst;
	uint64_t *in = lcore->stats->stage_in[spec->chain];
	unsigned stage = burst->stage, kept = 0;

	burst->odd = 1;
	if (hand && stage < spec->stages && spec->bypass[stage]) {
		hand->resume = stage + 1;
	} else if (hand) {
		hand->verdict = TW_DROP | TW_R_NF_FAULT << 8;
		hand->stage = stage;
	}
	for (int i = 0; i < burst->count; i++) {
		struct tw_pkt *pkt = &burst->pkts[i];
		unsigned kind = pkt->verdict & 0xff;

		if (kind != TW_NEXT && kind != TW_PUNT) {
			burst->pkts[kept++] = *pkt;
		} else if (lcore->n_aside == TW_ASIDE_MAX) {
			pkt->verdict = TW_DROP | TW_R_NF_FAULT << 8;
			pkt->stage = TW_STAGE_ENGINE;
			burst->pkts[kept++] = *pkt;
		} else {
			lcore->aside[lcore->n_aside++] = (struct tw_aside){ *pkt, chain };
			for (unsigned s = 0; !counted && s < pkt->resume && s < spec->stages; s++)
				in[s]++;
		}
	}
	burst->count = kept;
}

/* Where a packet goes on that was about to enter this stage of the plan that failed: behind the
 * last NF of the plan before that it has passed. */
static unsigned goes_on(const uint8_t *back, unsigned stage)
{
	while (stage-- > 0)
		if (back[stage] < TW_STAGE_GONE)
			return back[stage] + 1;
	return 0;
}

/* Returns false when nothing of this plan can take the packet up. */
static bool translate(const struct tw_lcore *lcore, const struct tw_lcore_plan *failed,
                      struct tw_aside *aside)
{
	const struct tw_chain_spec *spec = &failed->chain[aside->chain];
	const uint8_t *back = failed->swap ? failed->swap->backward[spec->chain].to : NULL;
	int chain = find_chain(lcore->plan, spec->chain);
	struct tw_pkt *pkt = &aside->pkt;

	if (chain < 0 || !back)
		return false;
	aside->chain = chain;
	if ((pkt->verdict & 0xff) != TW_PUNT)
		pkt->resume = goes_on(back, RTE_MIN(pkt->resume, spec->stages));
	else if (pkt->stage < spec->stages && back[pkt->stage] < TW_STAGE_GONE)
		pkt->resume = back[pkt->stage]; /* it asks for punt() once more */
	else
		pkt->resume = goes_on(back, RTE_MIN(pkt->stage, spec->stages));
	pkt->verdict = TW_NEXT;
	pkt->stage = TW_STAGE_ENGINE;
	return true;
}

/* Packets that the plan before cannot take are dropped while the one that failed is still there. */
static void drop_strangers(struct tw_lcore *lcore, struct tw_lcore_plan *failed,
                           struct tw_lcore_plan *plan)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < lcore->n_aside; i++) {
		struct tw_aside *aside = &lcore->aside[i];
		unsigned chain = aside->chain;

		lcore->plan = plan;
		if (translate(lcore, failed, aside)) {
			lcore->aside[kept++] = *aside;
			continue;
		}
		lcore->plan = failed;
		tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_NF_FAULT, aside->pkt.mbuf);
	}
	lcore->n_aside = kept;
	lcore->plan = failed;
}

static void take_up(struct tw_lcore *lcore)
{
	unsigned n = lcore->n_aside;

	lcore->n_aside = 0;
	for (unsigned i = 0; i < n;) {
		unsigned chain = lcore->aside[i].chain, count = 0;

		for (; i < n && lcore->aside[i].chain == chain && count < TW_BURST_MAX; i++)
			lcore->burst.pkts[count++] = lcore->aside[i].pkt;
		lcore->burst.count = count;
		tw_dispatch_burst(lcore, chain, NULL, 0);
	}
}

void tw_swap_fall_back(struct tw_lcore *lcore)
{
	struct tw_lcore_plan *failed = lcore->plan, *plan = lcore->falling;

	lcore->falling = NULL;
	tw_lcore_interrupts_forget(lcore);
	drop_strangers(lcore, failed, plan);
	if (failed->swap) {
		tw_hold_map(lcore, plan, failed->swap, true);
		tw_swap_map_counters(lcore->slot, failed->swap, true);
	}
	lcore->plan = plan;
	lcore->next_tick = 0;
	set_inputs(lcore, plan, false);
	if (!plan->vm && plan->n_chains) /* export() broke it */
		tw_fence_rebuild(lcore);
	say_fell(lcore);
	take_up(lcore);
	tw_dispatch_bury(lcore);
}
