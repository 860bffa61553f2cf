/* SPDX-License-Identifier: BSD-3-Clause */
/* plan.h - what a plan consists of: made in plan.c, exchanged in publish.c, ended in stop.c. */
#pragma once
#include "abi.h"
#include "lcore.h"

struct tw_plan_entry {
	int slot;
	bool kept; /* lcore belongs to the plan before */
	struct tw_lcore_plan *lcore;
	struct tw_lcore_plan *nothing; /* what a new lcore falls back to */
};

struct tw_plan {
	uint32_t n_lcores, bank;
	bool ran;
	bool others_mapped; /* counters of lcores that do not take it are where it has them */
	struct tw_plan_entry entry[TW_LCORES_MAX];
	uint64_t without, ports; /* bit per port: not to be sent to; that can be */
	struct tw_swap swap;     /* from the plan before */
};

/* The plan that lcores run, and the one before while that is on probation. */
extern struct tw_plan *tw_plan_running, *tw_plan_before;

static inline struct tw_plan_entry *tw_plan_find(struct tw_plan *plan, int slot)
{
	for (uint32_t i = 0; plan && i < plan->n_lcores; i++)
		if (plan->entry[i].slot == slot)
			return &plan->entry[i];
	return NULL;
}

/* An lcore that no plan has: its slot may be used again. The watchdog may be looking at it, so its
 * memory stays until the engine stops. */
#define TW_NO_CPU INT32_MIN
void tw_lcore_retire(struct tw_lcore *lcore);
void tw_lcores_free(void); /* no watchdog runs */
void tw_lcores_reap(void); /* frees the VMs that the fence has given up */

/* The NFs of one that was stopped and does not come back say what they have to; nothing leaves. */
void tw_lcore_dismiss(struct tw_lcore *lcore);
void tw_plans_free(void); /* both; no lcore runs */

/* plan_maps.c: fills the swap of a plan that comes after `from`, or the first one (NULL). Stages of
 * a chain that `from` does not have are all new. */
int tw_plan_make_maps(struct tw_plan *from, struct tw_plan *plan);

/* tx queues and ports of the lcores of both plans, so that lcores of one do not disturb those of
 * the other; what lcores that run have to know they know when this returns. */
int tw_tx_assign(struct tw_plan *from, struct tw_plan *to);
/* Only this plan runs from now on. */
void tw_tx_relax(struct tw_plan *plan);

/* gone.c: does a plan, that which runs or that before it, use this? */
bool tw_plan_has_port(unsigned port);
bool tw_plan_has_ring(unsigned ring);
