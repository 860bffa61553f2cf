/* SPDX-License-Identifier: BSD-3-Clause */
/* plan.c - plans: built off the data path, published with one pointer per lcore, acknowledged by
 * generation, retired after a grace period. */
#include "error.h"
#include "lcore.h"
#include "native.h"
#include "port.h"
#include "rcu.h"
#include "stats.h"
#include "table.h"
#include "eal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_malloc.h>

#define ACK_TIMEOUT_NS 2000000000ull
#define DRAIN_NS 200000000ull

struct tw_plan {
	uint32_t n_lcores;
	struct {
		int slot, cpu;
		struct tw_lcore_plan *lcore;
	} entry[TW_LCORES_MAX];
};

static uint64_t generation;

struct tw_plan *tw_plan_new(void)
{
	return calloc(1, sizeof(struct tw_plan));
}

static void lcore_plan_free(struct tw_lcore_plan *plan)
{
	if (!plan)
		return;
	tw_vm_free(plan->vm);
	free(plan->blob);
	free(plan);
}

static int lcore_alloc(int slot, int cpu)
{
	static uint64_t lives;
	struct tw_lcore *lcore = aligned_alloc(64, (sizeof(*lcore) + 63) & ~63ul);

	if (!lcore)
		return tw_fail(ENOMEM, "no memory for an lcore");
	memset(lcore, 0, sizeof(*lcore));
	lcore->slot = slot;
	lcore->cpu = cpu;
	lcore->shared = tw_stats();
	lcore->stats = &lcore->shared->lcore[slot];
	lcore->stats->cpu = cpu < 0 ? 0 : cpu;
	lcore->burst.lcore = slot;
	if (lcore->shared->lcores < (uint32_t)slot + 1)
		lcore->shared->lcores = slot + 1;
	if (cpu < 0) {
		lcore->thread = pthread_self();
		pthread_getcpuclockid(lcore->thread, &lcore->cpu_clock);
		tw_fence_thread_init();
		tw_rcu_register(slot);
		atomic_store(&lcore->up, true);
	}
	/* The watchdog tells bursts apart by slot and seq, and remembers: a slot's next lcore must
	 * not use the numbers of its last one again. */
	atomic_store_explicit(&lcore->seq, ++lives << 40, memory_order_relaxed);
	tw_lcore_table[slot] = lcore;
	return 0;
}

/* The slot of a CPU's lcore: the one that runs, or a free one. */
static int slot_for(int cpu)
{
	int free_slot = -1;

	for (int i = TW_LCORES_MAX - 1; i >= 0; i--) {
		if (!tw_lcore_table[i])
			free_slot = i;
		else if (cpu >= 0 && tw_lcore_table[i]->cpu == cpu)
			return i;
	}
	return free_slot;
}

int tw_plan_add_lcore(struct tw_plan *plan, int cpu, const struct tw_chain_spec *chains,
                      uint32_t n_chains, const struct tw_input_spec *inputs, uint32_t n_inputs,
                      const char *blob, size_t blob_len)
{
	struct tw_lcore_plan *lp;
	cpu_set_t cpus;
	int slot, err;

	sched_getaffinity(0, sizeof(cpus), &cpus);
	if (cpu >= 0 && (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &cpus)))
		return tw_fail(EINVAL,
		               "there is no CPU %d for an lcore; this process may use %d CPU(s)",
		               cpu, CPU_COUNT(&cpus));
	if (n_chains > TW_CHAINS_MAX || n_inputs > TW_INPUTS_MAX)
		return tw_fail(
			E2BIG,
			"cpu %d: %u chains with %u inputs are more than an lcore takes (%d, %d)",
			cpu, n_chains, n_inputs, TW_CHAINS_MAX, TW_INPUTS_MAX);
	slot = slot_for(cpu);
	if (slot < 0)
		return tw_fail(ENOSPC, "%d lcores are in use, that is the limit", TW_LCORES_MAX);
	if (!tw_lcore_table[slot] && (err = lcore_alloc(slot, cpu)) < 0)
		return err;
	lp = calloc(1, sizeof(*lp));
	if (lp)
		lp->blob = malloc(blob_len + 1);
	if (!lp || !lp->blob) {
		free(lp);
		return tw_fail(ENOMEM, "no memory for the plan of cpu %d", cpu);
	}
	memcpy(lp->blob, blob, blob_len);
	lp->blob_len = blob_len;
	memcpy(lp->chain, chains, n_chains * sizeof(*chains));
	memcpy(lp->input, inputs, n_inputs * sizeof(*inputs));
	lp->burst = tw_options()->burst;
	lp->tx_retries = tw_options()->tx_retries;
	lp->n_chains = n_chains;
	lp->n_inputs = n_inputs;
	lp->vm = tw_vm_new(lp->blob, blob_len, &tw_lcore_table[slot]->burst, n_chains,
	                   lp->quarantine);
	if (!lp->vm) {
		lcore_plan_free(lp);
		return -EINVAL;
	}
	plan->entry[plan->n_lcores].slot = slot;
	plan->entry[plan->n_lcores].cpu = cpu;
	plan->entry[plan->n_lcores++].lcore = lp;
	return slot;
}

/* Lcores that never got a plan published vanish again. */
static void lcore_release(int slot)
{
	struct tw_lcore *lcore = tw_lcore_table[slot];

	if (!lcore)
		return;
	if (lcore->cpu < 0)
		tw_rcu_unregister(slot);
	lcore_plan_free(lcore->plan);
	tw_lcore_table[slot] = NULL;
	free(lcore);
}

void tw_plan_free(struct tw_plan *plan)
{
	if (!plan)
		return;
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[plan->entry[i].slot];

		lcore_plan_free(plan->entry[i].lcore);
		if (lcore && !lcore->plan && !lcore->threaded)
			lcore_release(plan->entry[i].slot);
	}
	free(plan);
}

/* Every lcore gets a tx queue of its own where the port has enough, a shared one elsewhere. */
static void assign_tx_queues(struct tw_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore_plan *lp = plan->entry[i].lcore;

		for (int p = 0; p < TW_PORTS_MAX; p++) {
			uint16_t queues = tw_port_table[p].tx_queues;

			if (!tw_port_table[p].started || !queues)
				continue;
			lp->tx_queue[p] = i % queues;
			lp->tx_shared[p] = plan->n_lcores > queues;
		}
	}
}

static int wait_ack(struct tw_lcore *lcore, uint64_t wanted)
{
	uint64_t end = tw_now() + ACK_TIMEOUT_NS;

	while (atomic_load_explicit(&lcore->acked, memory_order_acquire) != wanted) {
		if (tw_now() > end)
			return tw_fail(ETIMEDOUT, "cpu %d did not take the new plan within 2 s",
			               lcore->cpu);
		usleep(50);
	}
	return 0;
}

int tw_plan_publish(struct tw_plan *plan)
{
	int err = tw_fence_start();

	if (err < 0)
		return err;
	tw_native_withdraw();
	assign_tx_queues(plan);
	generation++;
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore *lcore = tw_lcore_table[plan->entry[i].slot];
		struct tw_lcore_plan *old = lcore->plan;

		plan->entry[i].lcore->generation = generation;
		if (!lcore->plan) /* the loop starts with it */
			lcore->plan = plan->entry[i].lcore;
		atomic_store_explicit(&lcore->next, plan->entry[i].lcore, memory_order_release);
		if (!old) {
			lcore->stats->generation = generation;
			atomic_store(&lcore->acked, generation);
		}
		if (lcore->cpu >= 0 && !lcore->threaded)
			err = tw_lcore_thread_start(lcore);
		else if (lcore->cpu < 0)
			lcore->plan = plan->entry[i].lcore;
		else
			err = wait_ack(lcore, generation);
		if (err < 0)
			return err;
		if (old)
			lcore_plan_free(old);
	}
	tw_native_unload();
	tw_stats()->generation = generation;
	tw_stats()->running = 1;
	free(plan);
	return 0;
}

static bool rings_empty(void)
{
	for (int i = 0; i < TW_RINGS_MAX; i++)
		if (tw_ring_table[i].used && rte_ring_count(tw_ring_table[i].ring))
			return false;
	return true;
}

/* What is left in rings after the lcores have stopped: received by the chain behind, dropped. */
static void drop_ring_rest(struct tw_lcore *lcore)
{
	struct tw_lcore_plan *plan = lcore->plan;

	for (uint32_t i = 0; plan && i < plan->n_inputs; i++) {
		const struct tw_input_spec *in = &plan->input[i];
		void *mbuf;

		if (in->kind != TW_END_RING)
			continue;
		while (rte_ring_dequeue(tw_ring_table[in->index].ring, &mbuf) == 0) {
			lcore->stats->chain[plan->chain[in->chain].chain].rx++;
			tw_dispatch_drop(lcore, in->chain, TW_STAGE_ENGINE, TW_R_STOPPED, mbuf);
		}
	}
	tw_dispatch_bury(lcore);
}

int tw_engine_stop(void)
{
	uint64_t end = tw_now() + DRAIN_NS;

	if (!tw_stats()->running)
		return 0;
	atomic_store(&tw_lcore_draining, true);
	while (!rings_empty() && tw_now() < end)
		usleep(200);
	for (int i = 0; i < TW_LCORES_MAX; i++)
		if (tw_lcore_table[i])
			atomic_store(&tw_lcore_table[i]->stop, true);
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		struct tw_lcore *lcore = tw_lcore_table[i];

		if (!lcore)
			continue;
		if (lcore->threaded) {
			pthread_join(lcore->thread, NULL);
		} else {
			tw_self = lcore;
			tw_lcore_leave(lcore);
			tw_self = NULL;
		}
	}
	tw_fence_stop();
	tw_native_withdraw();
	tw_native_unload();
	for (int i = 0; i < TW_LCORES_MAX; i++)
		if (tw_lcore_table[i])
			drop_ring_rest(tw_lcore_table[i]);
	tw_ports_refresh();
	for (int i = 0; i < TW_LCORES_MAX; i++)
		lcore_release(i);
	atomic_store(&tw_lcore_draining, false);
	tw_stats()->running = 0;
	return 0;
}

void tw_engine_close(void)
{
	tw_engine_stop();
	for (int i = 0; i < TW_PORTS_MAX; i++)
		if (tw_port_table[i].used)
			tw_port_close(i);
	for (int i = 0; i < TW_RINGS_MAX; i++)
		tw_ring_close(i);
	for (int i = 0; i < 32; i++)
		tw_hold_free(i);
	tw_tables_free_all();
	tw_pools_free();
}
