/* SPDX-License-Identifier: BSD-3-Clause */
/* stop.c - the end: lcores stop, what is left in rings is dropped by name, everything is closed. */
#include "eal.h"
#include "plan.h"
#include "port.h"
#include "stats.h"
#include "table.h"
#include "watch.h"

#include <unistd.h>

#define DRAIN_NS 200000000ull

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

static void stop_lcores(void)
{
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		struct tw_lcore *lcore = tw_lcore_table[i];

		if (lcore)
			atomic_store(&lcore->stop, true);
		if (lcore)
			tw_lcore_wake(lcore);
	}
	for (int i = 0; i < TW_LCORES_MAX; i++) {
		struct tw_lcore *lcore = tw_lcore_table[i];

		if (!lcore)
			continue;
		if (lcore->threaded) {
			pthread_join(lcore->thread, NULL);
		} else if (lcore->parked) {
			tw_lcore_dismiss(lcore);
			tw_lcore_retire(lcore);
		} else if (lcore->plan) {
			tw_self = lcore;
			tw_lcore_leave(lcore, TW_R_STOPPED);
			tw_self = NULL;
		}
	}
}

int tw_engine_stop(void)
{
	uint64_t end = tw_now() + DRAIN_NS;

	if (!tw_stats()->running)
		return 0;
	atomic_store(&tw_lcore_draining, true);
	while (!rings_empty() && tw_now() < end)
		usleep(200);
	stop_lcores();
	tw_fence_stop();
	for (int i = 0; i < TW_LCORES_MAX; i++)
		if (tw_lcore_table[i])
			drop_ring_rest(tw_lcore_table[i]);
	tw_ports_refresh();
	tw_lcores_reap();
	tw_plans_free();
	tw_lcores_free();
	atomic_store(&tw_lcore_draining, false);
	tw_watches_close();
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
	tw_holds_close();
	tw_tables_free_all();
	tw_pools_free();
}
