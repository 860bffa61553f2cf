/* SPDX-License-Identifier: BSD-3-Clause */
/* dispatch_mbufs.c - chains whose machine code runs straight on mbufs: the burst that everything
 * else works on is made afterwards, and only when packets differ. */
#include "lcore.h"
#include "native.h"
#include "stats.h"
#include "watch.h"

#include <stddef.h>

#include <rte_cycles.h>

_Static_assert(offsetof(struct rte_mbuf, buf_addr) == TW_MBUF_BUF_ADDR &&
                       offsetof(struct rte_mbuf, data_off) == TW_MBUF_DATA_OFF &&
                       offsetof(struct rte_mbuf, pkt_len) == TW_MBUF_PKT_LEN &&
                       offsetof(struct rte_mbuf, data_len) == TW_MBUF_DATA_LEN,
               "enum tw_mbuf is the layout of struct rte_mbuf");

/* The rest of pkts[]: of the packets in front of `done` what the code did not write, of the others
 * all. Returns their bytes. */
static uint64_t make_burst(struct tw_lcore *lcore, uint16_t port, struct rte_mbuf **mbufs,
                           unsigned n, unsigned done)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		struct tw_pkt *pkt = &lcore->burst.pkts[i];

		pkt->data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		pkt->len = mbufs[i]->data_len;
		pkt->mbuf = mbufs[i];
		bytes += mbufs[i]->pkt_len;
		pkt->port = port;
		if (i >= done) {
			pkt->verdict = TW_NEXT;
			pkt->out = TW_PORT_NONE;
			pkt->mark = 0;
			pkt->resume = i > done && mbufs[i]->nb_segs > 1 ? TW_RESUME_SCATTERED : 0;
		}
		if (i >= done || pkt->verdict == TW_SINK)
			pkt->stage = TW_STAGE_ENGINE;
	}
	return bytes;
}

/* Frames in several segments, which the code left alone, become one; true when there are any. */
static bool gather(struct tw_lcore *lcore)
{
	bool any = false;

	for (int i = 0; i < lcore->burst.count; i++) {
		struct tw_pkt *pkt = &lcore->burst.pkts[i];

		if (pkt->resume != TW_RESUME_SCATTERED)
			continue;
		pkt->resume = 0;
		if (rte_pktmbuf_linearize(pkt->mbuf) < 0) {
			pkt->verdict = TW_DROP | TW_R_TOO_LONG << 8;
			pkt->stage = TW_STAGE_ENGINE;
			continue;
		}
		pkt->data = rte_pktmbuf_mtod((struct rte_mbuf *)pkt->mbuf, uint8_t *);
		pkt->len = ((struct rte_mbuf *)pkt->mbuf)->data_len;
		any = true;
	}
	return any;
}

static void drop_scattered(struct tw_lcore *lcore)
{
	for (int i = 0; i < lcore->burst.count; i++) {
		struct tw_pkt *pkt = &lcore->burst.pkts[i];

		if (pkt->resume != TW_RESUME_SCATTERED)
			continue;
		pkt->verdict = TW_DROP | TW_R_TOO_LONG << 8;
		pkt->stage = TW_STAGE_ENGINE;
	}
}

/* Which packets are done is told by their turn, at no cost to the code: it writes the word anyway.
 * Turns are no ports, and no burst has left its own behind when they begin again. */
static inline void next_turn(struct tw_burst *burst)
{
	if (__builtin_expect(burst->turn >= TW_PORTS_MAX && ++burst->turn < TW_PORT_NONE, 1))
		return;
	burst->turn = TW_PORTS_MAX;
	for (unsigned i = 0; i < TW_BURST_MAX; i++)
		burst->pkts[i].port = TW_PORT_NONE;
}

static unsigned packets_done(const struct tw_burst *burst)
{
	int n = 0;

	while (n < burst->count && burst->pkts[n].port == burst->turn)
		n++;
	return n;
}

static int run(struct tw_lcore *lcore, unsigned chain, const struct tw_native_call *call)
{
	uint64_t tsc;
	int rc;

	if (__builtin_expect(!tw_dispatch_is_timed(lcore, chain), 1))
		return tw_fence_native(lcore, call);
	tsc = rte_rdtsc();
	rc = tw_fence_native(lcore, call);
	tw_dispatch_sample(lcore, chain, call->count, rte_rdtsc() - tsc);
	return rc;
}

bool tw_dispatch_mbufs(struct tw_lcore *lcore, unsigned chain, uint16_t port,
                       struct rte_mbuf **mbufs, unsigned n)
{
	const struct tw_lcore_plan *plan = lcore->plan;
	struct tw_native_call call = { .mbufs = mbufs, .count = n, .port = port };
	struct tw_burst *burst = &lcore->burst;
	int fault;

	if (!plan->word[chain] || plan->quarantine[chain] || !plan->vm || lcore->falling ||
	    tw_watching(lcore))
		return false;
	call.on_mbufs = tw_native_mbufs_of(plan->word[chain]);
	if (!call.on_mbufs)
		return false;
	for (unsigned i = 0; i < TW_MBUFS_AHEAD; i++)
		mbufs[n + i] = mbufs[0];
	burst->count = n;
	next_turn(burst);
	tw_dispatch_begin(lcore, chain);
	fault = run(lcore, chain, &call);
	if (__builtin_expect(!fault && !burst->odd, 1) &&
	    tw_dispatch_one_way(lcore, chain, mbufs, burst->bytes))
		return true;
	burst->bytes = make_burst(lcore, port, mbufs, n, fault ? packets_done(burst) : n);
	/* Behind a fault the packet in hand is the first without a verdict, so none may wait. */
	if (fault || (gather(lcore) && tw_fence_enter(lcore, TW_VM_RESUME) != 0)) {
		drop_scattered(lcore);
		tw_dispatch_retry(lcore, chain, false);
	}
	tw_dispatch_settle(lcore, chain, mbufs, burst->bytes, true);
	return true;
}
