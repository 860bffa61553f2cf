/* SPDX-License-Identifier: BSD-3-Clause */
/* gone.c - what chains, ports and rings that are removed have counted stays in the sums. */
#include "error.h"
#include "plan.h"
#include "port.h"
#include "stats.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Counters are structs of nothing else. */
static void add_words(void *to, void *from, size_t size)
{
	uint64_t *sum = to, *word = from;

	for (size_t i = 0; i < size / sizeof(*word); i++)
		sum[i] += word[i];
	memset(from, 0, size);
}

static bool plan_has_chain(const struct tw_plan *plan, unsigned chain)
{
	for (uint32_t i = 0; plan && i < plan->n_lcores; i++)
		for (uint32_t c = 0; c < plan->entry[i].lcore->n_chains; c++)
			if (plan->entry[i].lcore->chain[c].chain == chain)
				return true;
	return false;
}

static bool plan_reads(const struct tw_plan *plan, unsigned kind, unsigned index)
{
	for (uint32_t i = 0; plan && i < plan->n_lcores; i++)
		for (uint32_t k = 0; k < plan->entry[i].lcore->n_inputs; k++)
			if (plan->entry[i].lcore->input[k].kind == kind &&
			    plan->entry[i].lcore->input[k].index == index)
				return true;
	return false;
}

static bool plan_sinks(const struct tw_plan *plan, unsigned kind, unsigned index)
{
	for (uint32_t i = 0; plan && i < plan->n_lcores; i++)
		for (uint32_t c = 0; c < plan->entry[i].lcore->n_chains; c++)
			if (plan->entry[i].lcore->chain[c].sink_kind == kind &&
			    plan->entry[i].lcore->chain[c].sink == index)
				return true;
	return false;
}

static bool port_of(const struct tw_plan *plan, unsigned port)
{
	return plan && (plan->ports >> port & 1 || plan_reads(plan, TW_END_PORT, port));
}

bool tw_plan_has_port(unsigned port)
{
	return port_of(tw_plan_running, port) || port_of(tw_plan_before, port);
}

static bool ring_of(const struct tw_plan *plan, unsigned ring)
{
	return plan_reads(plan, TW_END_RING, ring) || plan_sinks(plan, TW_END_RING, ring);
}

bool tw_plan_has_ring(unsigned ring)
{
	return ring_of(tw_plan_running, ring) || ring_of(tw_plan_before, ring);
}

/* Its NFs' counters become those of NFs that are gone; the engine's own stay the engine's. */
static void fold_chain(struct tw_lcore_stats *stats, unsigned chain)
{
	add_words(&stats->chain[TW_CHAIN_GONE], &stats->chain[chain], sizeof(stats->chain[0]));
	add_words(&stats->sample[TW_CHAIN_GONE], &stats->sample[chain], sizeof(stats->sample[0]));
	add_words(stats->sent_to[TW_CHAIN_GONE], stats->sent_to[chain], sizeof(stats->sent_to[0]));
	for (unsigned s = 0; s < TW_STAGES_MAX; s++) {
		unsigned to = s == TW_STAGE_ENGINE ? TW_STAGE_ENGINE : TW_STAGE_GONE;

		add_words(&stats->stage_in[TW_CHAIN_GONE][to], &stats->stage_in[chain][s],
		          sizeof(uint64_t));
		add_words(stats->drops[TW_CHAIN_GONE][to], stats->drops[chain][s],
		          sizeof(stats->drops[0][0]));
	}
}

int tw_chain_gone(int chain)
{
	struct tw_stats *stats = tw_stats();

	if (chain < 0 || chain >= TW_CHAIN_GONE)
		return tw_fail(EINVAL, "there is no chain number %d", chain);
	if (plan_has_chain(tw_plan_running, chain) || plan_has_chain(tw_plan_before, chain))
		return tw_fail(EBUSY,
		               "chain %s is part of the plan that runs, or of the one before",
		               stats->chain[chain].name);
	for (int slot = 0; slot < TW_LCORES_MAX; slot++)
		fold_chain(&stats->lcore[slot], chain);
	memset(&stats->chain[chain], 0, sizeof(stats->chain[chain]));
	snprintf(stats->chain[TW_CHAIN_GONE].name, TW_NAME_LEN, "(removed)");
	return 0;
}

int tw_port_gone(int port)
{
	struct tw_stats *stats = tw_stats();

	if (port < 0 || port >= TW_PORT_GONE)
		return tw_fail(EINVAL, "there is no port number %d", port);
	if (tw_port_table[port].used)
		return tw_fail(EBUSY, "port %s is open", stats->port[port].name);
	for (int slot = 0; slot < TW_LCORES_MAX; slot++) {
		struct tw_lcore_stats *lcore = &stats->lcore[slot];

		add_words(&lcore->port[TW_PORT_GONE], &lcore->port[port], sizeof(lcore->port[0]));
		for (unsigned c = 0; c < TW_CHAINS_MAX; c++)
			add_words(&lcore->sent_to[c][TW_PORT_GONE], &lcore->sent_to[c][port],
			          sizeof(uint64_t));
	}
	stats->port[TW_PORT_GONE].imissed += stats->port[port].imissed;
	stats->port[TW_PORT_GONE].ierrors += stats->port[port].ierrors;
	stats->port[TW_PORT_GONE].rx_nombuf += stats->port[port].rx_nombuf;
	stats->port[TW_PORT_GONE].oerrors += stats->port[port].oerrors;
	memset(&stats->port[port], 0, sizeof(stats->port[port]));
	snprintf(stats->port[TW_PORT_GONE].name, TW_NAME_LEN, "(removed)");
	return 0;
}

/* Packets in a ring that nobody reads any more have been sent by one chain, and are received by
 * none that is there. No lcore writes the counters of what is gone. */
void tw_ring_gone(unsigned packets)
{
	struct tw_stats *stats = tw_stats();
	struct tw_lcore_stats *lcore = &stats->lcore[0];

	if (!packets)
		return;
	for (uint32_t slot = 0; slot < stats->lcores && lcore->cpu < 0 && !lcore->heartbeat; slot++)
		lcore = &stats->lcore[slot];
	lcore->chain[TW_CHAIN_GONE].rx += packets;
	lcore->chain[TW_CHAIN_GONE].dropped += packets;
	lcore->drops[TW_CHAIN_GONE][TW_STAGE_ENGINE][TW_R_NF_REMOVED] += packets;
	snprintf(stats->chain[TW_CHAIN_GONE].name, TW_NAME_LEN, "(removed)");
}
