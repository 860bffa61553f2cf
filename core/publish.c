/* SPDX-License-Identifier: BSD-3-Clause */
/* publish.c - lcores exchange the plan they run for another one: publication, probation, roll-back.
 */
#include "error.h"
#include "plan.h"
#include "stats.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A busy machine may not run an lcore for seconds. */
#define ACK_TIMEOUT_S 20u

static uint64_t generation;
static bool fell_told;
static bool rollback_due; /* one has failed: an lcore did not answer */

/* ---- orders ---- */

/* One exchange of plans. */
struct exchange {
	struct tw_plan *from, *to;
	const struct tw_swap *swap; /* NULL: nothing ran before */
	bool backward, probation;
	uint64_t began, mapped; /* mapped: bit per slot whose counters are right */
	struct tw_publish out;
};

static void give(struct exchange *x, struct tw_plan_entry *entry, bool all)
{
	struct tw_lcore *lcore = tw_lcore_table[entry->slot];
	uint64_t number = atomic_load_explicit(&lcore->ordered, memory_order_relaxed) + 1;

	lcore->order[number % TW_ORDERS] = (struct tw_order){
		.plan = entry->lcore,
		.swap = x->swap,
		.generation = generation,
		.backward = x->backward,
		.probation = x->probation,
		.all = all,
	};
	if (!x->began)
		x->began = tw_now();
	x->mapped |= 1ull << entry->slot;
	atomic_store_explicit(&lcore->ordered, number, memory_order_release);
}

static int await(struct exchange *x, const struct tw_plan_entry *entry)
{
	struct tw_lcore *lcore = tw_lcore_table[entry->slot];
	uint64_t wanted = atomic_load_explicit(&lcore->ordered, memory_order_relaxed);
	uint64_t end = tw_now() + ACK_TIMEOUT_S * 1000000000ull;

	while (atomic_load_explicit(&lcore->acked, memory_order_acquire) != wanted) {
		if (tw_now() > end)
			return tw_fail(ETIMEDOUT, "cpu %d did not take the new plan within %u s",
			               lcore->cpu, ACK_TIMEOUT_S);
		usleep(10);
	}
	if (lcore->away_ns > x->out.worst_ns)
		x->out.worst_ns = lcore->away_ns;
	x->out.not_carried += lcore->not_carried;
	return 0;
}

static bool goes_on(const struct exchange *x, const struct tw_plan_entry *entry)
{
	return !entry->kept && tw_plan_find(x->from, entry->slot);
}

/* Is a queue that this lcore gets still read by another one? */
static bool gets_moved(const struct exchange *x, const struct tw_plan_entry *entry)
{
	for (uint32_t i = 0; i < entry->lcore->n_inputs; i++) {
		const struct tw_input_spec *in = &entry->lcore->input[i];

		for (uint32_t l = 0; l < x->from->n_lcores; l++) {
			const struct tw_lcore_plan *lp = x->from->entry[l].lcore;

			for (uint32_t k = 0; k < lp->n_inputs; k++)
				if (x->from->entry[l].slot != entry->slot &&
				    lp->input[k].kind == in->kind &&
				    lp->input[k].index == in->index &&
				    lp->input[k].queue == in->queue)
					return true;
		}
	}
	return false;
}

/* Lcores with a thread that go on: all are told first, then all are waited for. When queues go from
 * one to another, their new readers begin with them when nobody has them any more. */
static int order_threads(struct exchange *x)
{
	bool moved = false;
	int err;

	for (int round = 0; round < (moved ? 2 : 1); round++) {
		for (uint32_t i = 0; i < x->to->n_lcores; i++)
			if (goes_on(x, &x->to->entry[i]))
				moved |= gets_moved(x, &x->to->entry[i]);
		for (uint32_t i = 0; i < x->to->n_lcores; i++)
			if (goes_on(x, &x->to->entry[i]) &&
			    tw_lcore_table[x->to->entry[i].slot]->threaded)
				give(x, &x->to->entry[i], round || !moved);
		for (uint32_t i = 0; i < x->to->n_lcores; i++)
			tw_lcore_wake(tw_lcore_table[x->to->entry[i].slot]);
		for (uint32_t i = 0; i < x->to->n_lcores; i++)
			if (goes_on(x, &x->to->entry[i]) &&
			    tw_lcore_table[x->to->entry[i].slot]->threaded &&
			    (err = await(x, &x->to->entry[i])) < 0)
				return err;
	}
	return 0;
}

/* Those that are stepped by hand take it here: nobody steps them meanwhile. */
static int order_steps(struct exchange *x)
{
	for (uint32_t i = 0; i < x->to->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[x->to->entry[i].slot];
		int err;

		if (!goes_on(x, &x->to->entry[i]) || lcore->threaded)
			continue;
		give(x, &x->to->entry[i], true);
		tw_self = lcore;
		tw_swap_take(lcore, atomic_load(&lcore->ordered));
		tw_self = NULL;
		err = await(x, &x->to->entry[i]);
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- lcores that come and go ---- */

static int start_lcore(struct exchange *x, struct tw_plan_entry *entry)
{
	struct tw_lcore *lcore = tw_lcore_table[entry->slot];
	struct tw_lcore_plan *lp = entry->lcore;
	uint64_t end = tw_now() + ACK_TIMEOUT_S * 1000000000ull;
	int err;

	lcore->plan = lp;
	lcore->n_inputs = lp->n_inputs;
	memcpy(lcore->input, lp->input, sizeof(lp->input));
	lcore->stats->generation = generation;
	lcore->parked = false;
	lcore->taken = atomic_load(&lcore->ordered);
	atomic_store(&lcore->stop, false);
	atomic_store(&lcore->fell, false);
	atomic_store(&lcore->before, x->probation ? entry->nothing : NULL);
	x->out.started++;
	if (lcore->cpu < 0) {
		atomic_store(&lcore->up, true);
		return 0;
	}
	err = tw_lcore_thread_start(lcore);
	while (err == 0 && !atomic_load(&lcore->up)) {
		if (tw_now() > end)
			return tw_fail(ETIMEDOUT, "cpu %d does not begin to run", lcore->cpu);
		usleep(20);
	}
	return err;
}

/* Its NFs are told to stop when it is sure that it does not come back. */
static void park(struct exchange *x, struct tw_lcore *lcore)
{
	lcore->parked = true;
	atomic_store(&lcore->stop, true);
	tw_lcore_wake(lcore);
	if (lcore->threaded)
		pthread_join(lcore->thread, NULL);
	lcore->threaded = false;
	atomic_store(&lcore->up, false);
	tw_hold_flush(lcore, TW_R_NF_REMOVED);
	tw_dispatch_bury(lcore);
	x->out.stopped++;
}

static void park_leaving(struct exchange *x)
{
	for (uint32_t i = 0; x->from && i < x->from->n_lcores; i++)
		if (!tw_plan_find(x->to, x->from->entry[i].slot))
			park(x, tw_lcore_table[x->from->entry[i].slot]);
}

/* Counters of lcores that do not take the plan: kept ones, which do not write to the chains that
 * moved, and those that do not run. */
static void map_others(struct exchange *x)
{
	struct tw_plan *later = x->backward ? x->from : x->to;
	struct tw_stats *stats = tw_stats();

	if (!x->swap || later->others_mapped == !x->backward)
		return;
	later->others_mapped = !x->backward;
	for (uint32_t slot = 0; slot < stats->lcores; slot++) {
		struct tw_lcore *lcore = tw_lcore_table[slot];

		if (x->mapped >> slot & 1)
			continue;
		if (x->backward && lcore && atomic_load(&lcore->fell))
			continue; /* it has done so itself */
		tw_swap_map_counters(slot, x->swap, x->backward);
	}
}

static int start_coming(struct exchange *x)
{
	for (uint32_t i = 0; i < x->to->n_lcores; i++) {
		int err;

		if (tw_plan_find(x->from, x->to->entry[i].slot))
			continue;
		err = start_lcore(x, &x->to->entry[i]);
		if (err < 0)
			return err;
	}
	return 0;
}

static void show_quarantine(const struct tw_plan *plan)
{
	uint32_t mask[TW_CHAINS_MAX] = { 0 };

	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		const struct tw_lcore_plan *lp = plan->entry[i].lcore;

		for (uint32_t c = 0; c < lp->n_chains; c++)
			mask[lp->chain[c].chain] |= lp->quarantine[c];
	}
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		const struct tw_lcore_plan *lp = plan->entry[i].lcore;

		for (uint32_t c = 0; c < lp->n_chains; c++)
			for (unsigned s = 0; s < TW_STAGES_MAX; s++)
				tw_stats()->chain[lp->chain[c].chain].quarantined[s] =
					mask[lp->chain[c].chain] >> s & 1;
	}
}

static int exchange(struct exchange *x)
{
	int err;

	generation++;
	tw_stats()->running = 1;
	park_leaving(x);
	err = x->from ? order_threads(x) : 0;
	if (err == 0 && x->from)
		err = order_steps(x);
	if (err < 0)
		return err;
	map_others(x);
	if (!x->began)
		x->began = tw_now();
	err = start_coming(x);
	if (err < 0)
		return err;
	x->out.ns = tw_now() - x->began;
	x->out.generation = generation;
	for (uint32_t i = 0; i < x->to->n_lcores; i++)
		x->to->entry[i].kept ? x->out.kept++ : x->out.lcores++;
	tw_stats()->generation = generation;
	show_quarantine(x->to);
	return 0;
}

/* ---- publication ---- */

static bool stale(const struct tw_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		const struct tw_plan_entry *entry = &plan->entry[i];
		const struct tw_plan_entry *now = tw_plan_find(tw_plan_running, entry->slot);

		if (entry->kept && (!now || now->lcore != entry->lcore))
			return true;
	}
	return false;
}

static int settle(struct tw_plan *next);

static int prepare(struct tw_plan *plan)
{
	int err = tw_fence_start();

	if (err == 0 && rollback_due)
		err = tw_plan_rollback(NULL);
	if (err == 0 && tw_plan_before)
		err = settle(plan);
	if (err == 0 && stale(plan))
		err = tw_fail(EINVAL, "an lcore that the plan keeps does not run any more");
	if (err == 0)
		err = tw_plan_make_maps(tw_plan_running, plan);
	return err == 0 ? tw_tx_assign(tw_plan_running, plan) : err;
}

int tw_plan_publish(struct tw_plan *plan, struct tw_publish *out)
{
	struct exchange x = {
		.from = tw_plan_running,
		.to = plan,
		.swap = tw_plan_running ? &plan->swap : NULL,
		.probation = tw_plan_running != NULL,
	};
	int err = prepare(plan);

	if (err < 0) {
		tw_plan_free(plan);
		return err;
	}
	fell_told = false;
	plan->ran = true;
	err = exchange(&x);
	tw_plan_running = plan;
	tw_plan_before = x.from;
	if (err < 0 && x.from) {
		char why[512];

		snprintf(why, sizeof(why), "%s", tw_error());
		if (tw_plan_rollback(NULL) == 0)
			return tw_fail(-err, "%s; the plan before runs again", why);
		return tw_fail(-err, "%s, and the plan before does not run again either: %s", why,
		               tw_error());
	}
	if (out)
		*out = x.out;
	return err;
}

/* ---- probation ---- */

int tw_plan_on_probation(void)
{
	return tw_plan_before != NULL;
}

void tw_lcores_reap(void)
{
	for (int i = 0; i < TW_LCORES_MAX; i++)
		if (tw_lcore_table[i])
			tw_fence_reap(tw_lcore_table[i]);
}

int tw_plan_fell_back(char *why, size_t size)
{
	tw_lcores_reap();
	for (uint32_t i = 0; tw_plan_before && i < tw_plan_running->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[tw_plan_running->entry[i].slot];

		if (!atomic_load_explicit(&lcore->fell, memory_order_acquire) || fell_told)
			continue;
		fell_told = true;
		snprintf(why, size, "%s", lcore->fell_why);
		return 1;
	}
	return 0;
}

/* From here on no lcore falls back by itself. False when one has done so, and nothing is changed.
 */
static bool disarm(void)
{
	struct tw_lcore_plan *taken[TW_LCORES_MAX] = { 0 };

	for (uint32_t i = 0; i < tw_plan_running->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[tw_plan_running->entry[i].slot];

		if (tw_plan_running->entry[i].kept)
			continue;
		taken[i] = atomic_exchange(&lcore->before, NULL);
		if (taken[i])
			continue;
		while (i--)
			if (taken[i])
				atomic_store(&tw_lcore_table[tw_plan_running->entry[i].slot]
				                      ->before,
				             taken[i]);
		return false;
	}
	return true;
}

/* What the NFs of an lcore that does not come back have to say; nothing leaves any more. */
void tw_lcore_dismiss(struct tw_lcore *lcore)
{
	lcore->thread = pthread_self();
	pthread_getcpuclockid(lcore->thread, &lcore->cpu_clock);
	tw_fence_thread_init();
	atomic_store(&lcore->up, true);
	tw_self = lcore;
	tw_lcore_leave(lcore, TW_R_NF_REMOVED);
	tw_self = NULL;
	atomic_store(&lcore->up, false);
	lcore->plan = NULL;
	lcore->parked = false;
}

/* next: a plan that is about to be published, whose lcores are not to vanish, or NULL. */
static int settle(struct tw_plan *next)
{
	struct tw_plan *old = tw_plan_before;

	if (!old)
		return 0;
	if (!disarm())
		return tw_fail(EAGAIN,
		               "an lcore has fallen back to the plan before; roll the others back");
	for (uint32_t i = 0; i < old->n_lcores; i++) {
		struct tw_plan_entry *heir = tw_plan_find(tw_plan_running, old->entry[i].slot);

		if (!heir)
			tw_lcore_dismiss(tw_lcore_table[old->entry[i].slot]);
		if (!heir && !tw_plan_find(next, old->entry[i].slot))
			tw_lcore_retire(tw_lcore_table[old->entry[i].slot]);
		if (!heir || !heir->kept)
			continue;
		heir->kept = false; /* it is this plan's from now on */
		old->entry[i].kept = true;
	}
	tw_plan_before = NULL;
	tw_lcores_reap();
	tw_plan_free(old);
	tw_tx_relax(tw_plan_running);
	return 0;
}

int tw_plan_settle(void)
{
	return settle(NULL);
}

int tw_plan_rollback(struct tw_publish *out)
{
	struct exchange x = {
		.from = tw_plan_running,
		.to = tw_plan_before,
		.backward = true,
	};
	int err;

	if (!tw_plan_before)
		return tw_fail(ENOENT, "there is no plan to go back to");
	x.swap = &tw_plan_running->swap;
	for (uint32_t i = 0; i < x.from->n_lcores; i++)
		atomic_store(&tw_lcore_table[x.from->entry[i].slot]->before, NULL);
	for (uint32_t i = 0; i < x.to->n_lcores; i++)
		x.to->entry[i].kept = tw_plan_find(x.from, x.to->entry[i].slot) &&
		                      tw_plan_find(x.from, x.to->entry[i].slot)->kept;
	err = exchange(&x);
	for (uint32_t i = 0; i < x.to->n_lcores; i++)
		x.to->entry[i].kept = false; /* its own all the time */
	rollback_due = err < 0;
	if (err < 0)
		return err;
	for (uint32_t i = 0; i < x.from->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[x.from->entry[i].slot];

		atomic_store(&lcore->fell, false);
		if (!tw_plan_find(x.to, lcore->slot))
			tw_lcore_retire(lcore);
	}
	tw_plan_running = x.to;
	tw_plan_before = NULL;
	tw_lcores_reap();
	tw_plan_free(x.from);
	tw_tx_relax(tw_plan_running);
	if (out)
		*out = x.out;
	return 0;
}

void tw_plans_free(void)
{
	tw_plan_free(tw_plan_running);
	tw_plan_free(tw_plan_before);
	tw_plan_running = tw_plan_before = NULL;
	rollback_due = false;
}
