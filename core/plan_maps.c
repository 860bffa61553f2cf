/* SPDX-License-Identifier: BSD-3-Clause */
/* plan_maps.c - where the stages of one plan's chains are in the next one, and back. */
#include "error.h"
#include "plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct tw_chain_spec *chain_of(const struct tw_plan *plan, unsigned chain)
{
	for (uint32_t i = 0; plan && i < plan->n_lcores; i++)
		for (uint32_t c = 0; c < plan->entry[i].lcore->n_chains; c++)
			if (plan->entry[i].lcore->chain[c].chain == chain)
				return &plan->entry[i].lcore->chain[c];
	return NULL;
}

/* The engine's own slot and that of what is gone stay; stages that nothing continues are gone. */
static void clear_map(struct tw_stage_map *map)
{
	memset(map->to, TW_STAGE_GONE, sizeof(map->to));
	map->to[TW_STAGE_ENGINE] = TW_STAGE_ENGINE;
}

static bool is_identity(const struct tw_stage_map *map, unsigned stages)
{
	for (unsigned s = 0; s < stages; s++)
		if (map->to[s] != s)
			return false;
	return true;
}

static int map_chain(struct tw_swap *swap, const struct tw_chain_spec *old,
                     const struct tw_chain_spec *new)
{
	struct tw_stage_map *forward = &swap->forward[new->chain];
	struct tw_stage_map *backward = &swap->backward[new->chain];

	for (unsigned s = 0; s < new->stages; s++) {
		if (new->from[s] == TW_STAGE_NEW)
			continue;
		if (new->from[s] >= old->stages || forward->to[new->from[s]] != TW_STAGE_GONE)
			return tw_fail(
				EINVAL,
				"stage %u of chain number %u continues stage %u, which the plan that "
				"runs does not have, or which another one continues",
				s, new->chain, new->from[s]);
		forward->to[new->from[s]] = s;
		backward->to[s] = new->from[s];
	}
	if (!is_identity(forward, old->stages) || !is_identity(backward, new->stages))
		swap->moved |= 1u << new->chain;
	for (unsigned s = 0; s < old->stages; s++) {
		if (forward->to[s] != TW_STAGE_GONE)
			continue;
		swap->left_at[swap->n_left].chain = new->chain;
		swap->left_at[swap->n_left++].stage = s;
	}
	return 0;
}

/* A chain that the plan before does not have continues nothing. */
static void all_new(struct tw_plan *plan, unsigned chain)
{
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		struct tw_lcore_plan *lp = plan->entry[i].lcore;

		for (uint32_t c = 0; c < lp->n_chains && !plan->entry[i].kept; c++)
			if (lp->chain[c].chain == chain)
				memset(lp->chain[c].from, TW_STAGE_NEW, sizeof(lp->chain[c].from));
	}
}

/* A kept lcore's chains must not have moved under it. */
static int check_kept(const struct tw_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_lcores; i++) {
		const struct tw_lcore_plan *lp = plan->entry[i].lcore;

		for (uint32_t c = 0; c < lp->n_chains && plan->entry[i].kept; c++)
			if (plan->swap.moved & 1u << lp->chain[c].chain)
				return tw_fail(
					EINVAL,
					"chain number %u has other NFs in this plan, and the "
					"lcore in slot %d that runs it is to be kept",
					lp->chain[c].chain, plan->entry[i].slot);
	}
	return 0;
}

int tw_plan_make_maps(struct tw_plan *from, struct tw_plan *plan)
{
	for (unsigned chain = 0; chain < TW_CHAINS_MAX; chain++) {
		const struct tw_chain_spec *old = chain_of(from, chain), *new = NULL;
		int err;

		clear_map(&plan->swap.forward[chain]);
		clear_map(&plan->swap.backward[chain]);
		for (uint32_t i = 0; i < plan->n_lcores && !new; i++)
			for (uint32_t c = 0; c < plan->entry[i].lcore->n_chains; c++)
				if (!plan->entry[i].kept &&
				    plan->entry[i].lcore->chain[c].chain == chain)
					new = &plan->entry[i].lcore->chain[c];
		if (!new)
			continue;
		if (!old)
			all_new(plan, chain);
		else if ((err = map_chain(&plan->swap, old, new)) < 0)
			return err;
	}
	for (uint32_t i = 0; i < plan->n_lcores; i++)
		if (!plan->entry[i].kept)
			plan->entry[i].lcore->swap = from ? &plan->swap : NULL;
	plan->swap.left = calloc((size_t)TW_LCORES_MAX * plan->swap.n_left + 1,
	                         sizeof(*plan->swap.left));
	if (!plan->swap.left)
		return tw_fail(ENOMEM, "no memory to exchange plans");
	return check_kept(plan);
}
