/* SPDX-License-Identifier: BSD-3-Clause */
/* dispatch.c - from verdicts to ports, rings, holds and drops, with exact accounting. */
#include "lcore.h"
#include "eal.h"
#include "error.h"
#include "native.h"
#include "port.h"
#include "stats.h"
#include "watch.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include <rte_cycles.h>

static inline struct tw_chain_stats *chain_stats(struct tw_lcore *lcore, unsigned chain)
{
	return &lcore->stats->chain[lcore->plan->chain[chain].chain];
}

/* verdict, out and port of struct tw_pkt as one word: filled with one store. */
#define WORD(verdict, out, port) \
	((uint64_t)(verdict) | (uint64_t)(out) << 32 | (uint64_t)(port) << 48)
_Static_assert(offsetof(struct tw_pkt, verdict) == 8 && offsetof(struct tw_pkt, out) == 12 &&
                       offsetof(struct tw_pkt, port) == 14,
               "WORD() is the layout of struct tw_pkt");
_Static_assert(offsetof(struct tw_pkt, mark) == 24 && offsetof(struct tw_pkt, stage) == 28,
               "fill() writes mark, stage and resume as one word");

uint64_t tw_dispatch_fill(struct tw_lcore *lcore, uint16_t port, struct rte_mbuf **mbufs,
                          unsigned n, bool *scattered)
{
	struct tw_pkt *pkts = lcore->burst.pkts;
	const uint64_t word = WORD(TW_NEXT, TW_PORT_NONE, port);
	const uint64_t fresh = (uint64_t)TW_STAGE_ENGINE << 32;
	unsigned segs = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		struct rte_mbuf *m = mbufs[i];

		pkts[i].data = rte_pktmbuf_mtod(m, uint8_t *);
		memcpy(&pkts[i].verdict, &word, sizeof(word));
		pkts[i].len = m->data_len;
		memcpy(&pkts[i].mark, &fresh, sizeof(fresh));
		pkts[i].mbuf = m;
		bytes += m->pkt_len;
		segs |= m->pkt_len ^ m->data_len; /* differ in a frame of several segments */
	}
	if (__builtin_expect(port == TW_PORT_NONE, 0))
		for (unsigned i = 0; i < n; i++)
			pkts[i].port = mbufs[i]->port;
	lcore->burst.count = n;
	*scattered = segs != 0;
	return bytes;
}

/* ---- samples ---- */

/* The bucket whose bound, a power of two, is the least that is not below the value. */
static inline unsigned bucket_of(uint64_t value, unsigned buckets)
{
	unsigned bucket = value <= 1 ? 0 : 64 - __builtin_clzll(value - 1);

	return bucket < buckets ? bucket : buckets - 1;
}

static inline struct tw_chain_sample *sample_size(struct tw_lcore *lcore, unsigned chain,
                                                  unsigned packets)
{
	struct tw_chain_sample *sample = &lcore->stats->sample[lcore->plan->chain[chain].chain];

	sample->packets += packets;
	sample->size[bucket_of(packets, TW_SIZE_BUCKETS)]++;
	return sample;
}

void tw_dispatch_direct(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs, unsigned n,
                        uint64_t bytes)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];

	if (chain_stats(lcore, chain)->bursts % TW_SAMPLE == TW_SAMPLE / 2)
		sample_size(lcore, chain, n);
	if (spec->sink_kind == TW_END_PORT)
		tw_send_port(lcore, chain, spec->sink, mbufs, n, bytes);
	else if (spec->sink_kind == TW_END_RING)
		tw_send_ring(lcore, chain, spec->sink, mbufs, n);
	else
		for (unsigned i = 0; i < n; i++)
			tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_NO_SINK, mbufs[i]);
}

/* One deep copy to every port of the chain but the one it came from. */
static void flood(struct tw_lcore *lcore, unsigned chain, const struct tw_pkt *pkt)
{
	uint64_t ports = lcore->plan->chain[chain].flood_ports & ~(1ull << (pkt->port & 63));
	struct tw_chain_stats *stats = chain_stats(lcore, chain);
	struct rte_mbuf *mbuf = pkt->mbuf, *copy;

	if (!ports) {
		tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_NO_SINK, mbuf);
		return;
	}
	while (ports & (ports - 1)) {
		unsigned port = __builtin_ctzll(ports);

		ports &= ports - 1;
		stats->originated++;
		/* Not a clone: drivers that own their buffers (AF_XDP) send only direct ones. */
		copy = rte_pktmbuf_copy(mbuf, mbuf->pool, 0, UINT32_MAX);
		if (copy)
			tw_send_queue(lcore, chain, pkt->stage, port, copy);
		else
			tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_NO_BUFFER, NULL);
	}
	tw_send_queue(lcore, chain, pkt->stage, __builtin_ctzll(ports), mbuf);
}

/* ---- verdicts ---- */

static void to_sink(struct tw_lcore *lcore, unsigned chain, const struct tw_pkt *pkt)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	struct rte_mbuf *mbuf = pkt->mbuf;

	if (pkt->out != TW_PORT_NONE)
		tw_send_queue(lcore, chain, TW_STAGE_ENGINE, pkt->out, mbuf);
	else if (spec->sink_kind == TW_END_PORT)
		tw_send_queue(lcore, chain, TW_STAGE_ENGINE, spec->sink, mbuf);
	else if (spec->sink_kind == TW_END_RING)
		tw_send_ring(lcore, chain, spec->sink, &mbuf, 1);
	else
		tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_NO_SINK, mbuf);
}

static void settle(struct tw_lcore *lcore, unsigned chain, struct tw_pkt *pkt)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	unsigned kind = pkt->verdict & 0xff, arg = pkt->verdict >> 8;
	int err;

	switch (kind) {
	case TW_SINK:
		to_sink(lcore, chain, pkt);
		return;
	case TW_DROP:
		tw_dispatch_drop_seen(lcore, chain, pkt->stage, arg, pkt->mbuf);
		return;
	case TW_PORT:
		tw_send_queue(lcore, chain, pkt->stage, arg, pkt->mbuf);
		return;
	case TW_FLOOD:
		flood(lcore, chain, pkt);
		return;
	case TW_PASS:
		if (spec->kernel != TW_PORT_NONE)
			tw_send_queue(lcore, chain, pkt->stage, spec->kernel, pkt->mbuf);
		else
			tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_NO_KERNEL, pkt->mbuf);
		return;
	case TW_HOLD:
		err = tw_hold_put(arg, lcore, chain, pkt);
		if (err < 0)
			tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_HOLD_FULL, pkt->mbuf);
		return;
	case TW_PUNT:
		tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_NO_PUNT, pkt->mbuf);
		return;
	default:
		tw_dispatch_drop(lcore, chain, pkt->stage, TW_R_BAD_VERDICT, pkt->mbuf);
	}
}

/* New frames leave by their port, or go on behind the NF that made them. */
void tw_dispatch_emits(struct tw_lcore *lcore)
{
	struct tw_pkt onward[TW_EMIT_MAX];
	uint16_t chain_of[TW_EMIT_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < lcore->n_emits; i++) {
		struct tw_pkt *pkt = &lcore->emit[i];
		unsigned chain = lcore->emit_chain[i];

		chain_stats(lcore, chain)->originated++;
		if (pkt->verdict == TW_NEXT) {
			chain_of[n] = chain;
			onward[n++] = *pkt;
		} else {
			tw_send_queue(lcore, chain, TW_STAGE_ENGINE, pkt->out, pkt->mbuf);
			tw_send_flush(lcore, chain);
		}
	}
	lcore->n_emits = 0;
	/* Each goes on further down its chain than it was made, so this comes to an end. */
	for (unsigned i = 0; i < n;) {
		unsigned chain = chain_of[i], count = 0;

		while (i < n && chain_of[i] == chain)
			lcore->burst.pkts[count++] = onward[i++];
		lcore->burst.count = count;
		tw_dispatch_burst(lcore, chain, NULL, 0);
	}
}

/* Packets entering each NF: all of them, less those with a verdict at an earlier one. */
static void count_stages(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	uint64_t *in = lcore->stats->stage_in[spec->chain];
	const struct tw_pkt *pkts = lcore->burst.pkts;
	uint32_t count = lcore->burst.count, left[TW_STAGES_MAX] = { 0 };

	for (unsigned i = 0; i < count; i++) {
		unsigned last = pkts[i].stage;

		if (resumed)
			for (unsigned s = pkts[i].resume; s < spec->stages && s <= last; s++)
				in[s]++;
		else if (last < TW_STAGES_MAX)
			left[last]++;
	}
	if (resumed)
		return;
	for (unsigned s = 0; s < spec->stages; s++) {
		in[s] += count;
		count -= left[s];
	}
}

/* The packet that an NF had in hand when it faulted: the first without a verdict. When a chain
 * runs in several loops, the ones ahead of it may have none either, but are further down. */
static struct tw_pkt *in_hand(struct tw_burst *burst)
{
	struct tw_pkt *first = NULL;

	for (int i = 0; i < burst->count; i++) {
		struct tw_pkt *pkt = &burst->pkts[i];

		if ((pkt->verdict & 0xff) != TW_NEXT)
			continue;
		if (pkt->resume <= burst->stage)
			return pkt;
		if (!first)
			first = pkt;
	}
	return first; /* a punt(): only the one in hand has no verdict */
}

/* An NF faulted: the packet it had in hand gets the NF's policy, the ones behind it go through the
 * rebuilt chain. */
static void after_fault(struct tw_lcore *lcore, unsigned chain, bool counted)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	struct tw_burst *burst = &lcore->burst;
	struct tw_pkt *pkt = in_hand(burst);
	unsigned stage = burst->stage;

	if (lcore->falling) {
		tw_swap_set_aside(lcore, chain, pkt, counted);
		return;
	}
	burst->odd = 1;
	for (int i = 0; i < burst->count && !lcore->plan->vm; i++) {
		if ((burst->pkts[i].verdict & 0xff) != TW_NEXT)
			continue;
		burst->pkts[i].verdict = TW_DROP | TW_R_VM_LOST << 8;
		burst->pkts[i].stage = TW_STAGE_ENGINE;
	}
	if (!lcore->plan->vm || !pkt)
		return;
	if (stage < spec->stages && spec->bypass[stage]) {
		pkt->resume = stage + 1;
	} else {
		pkt->verdict = TW_DROP | TW_R_NF_FAULT << 8;
		pkt->stage = stage;
	}
}

/* As machine code, where the whole chain is there as such and no NF of it is in quarantine. */
static inline int enter_chain_code(struct tw_lcore *lcore, unsigned chain)
{
	const struct tw_lcore_plan *plan = lcore->plan;
	tw_native_fn fn = plan->word[chain] ? tw_native_fn_of(plan->word[chain]) : NULL;

	if (fn && !plan->quarantine[chain])
		return tw_fence_native(lcore, &(struct tw_native_call){ .fn = fn });
	return tw_fence_enter(lcore, TW_VM_CHAIN + chain);
}

void tw_dispatch_retry(struct tw_lcore *lcore, unsigned chain, bool counted)
{
	unsigned tries = 0;

	do {
		after_fault(lcore, chain, counted);
	} while (lcore->plan->vm && tw_fence_enter(lcore, TW_VM_RESUME) != 0 &&
	         ++tries < TW_STAGES_MAX);
	if (!lcore->plan->vm || tries == TW_STAGES_MAX)
		after_fault(lcore, chain, true);
}

static void run_chain(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	if (lcore->falling) /* behind a fault in the same turn: nothing is in hand */
		tw_swap_set_aside(lcore, chain, NULL, true);
	else if (!lcore->plan->vm)
		after_fault(lcore, chain, true);
	else if ((resumed ? tw_fence_enter(lcore, TW_VM_RESUME) : enter_chain_code(lcore, chain)) !=
	         0)
		tw_dispatch_retry(lcore, chain, resumed);
}

/* Slow path: packets that asked for the punt() of their NF. */
static void run_punts(struct tw_lcore *lcore, unsigned chain)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	uint64_t *in = lcore->stats->stage_in[spec->chain], punted = 0;
	struct tw_burst *burst = &lcore->burst;
	unsigned tries = 0;

	for (int i = 0; i < burst->count; i++)
		if ((burst->pkts[i].verdict & 0xff) == TW_PUNT) {
			burst->pkts[i].resume = burst->pkts[i].stage + 1;
			punted |= 1ull << i;
		}
	chain_stats(lcore, chain)->punted += __builtin_popcountll(punted);
	while (lcore->plan->vm && tw_fence_enter(lcore, TW_VM_PUNT) != 0 &&
	       ++tries < TW_STAGES_MAX) {
		after_fault(lcore, chain, true);
		if (lcore->plan->vm && tw_fence_enter(lcore, TW_VM_RESUME) != 0)
			after_fault(lcore, chain, true);
	}
	if (!lcore->plan->vm)
		after_fault(lcore, chain, true);
	if (lcore->falling) /* packets have left the burst */
		return;
	for (; punted; punted &= punted - 1) {
		const struct tw_pkt *pkt = &burst->pkts[__builtin_ctzll(punted)];

		for (unsigned s = pkt->resume; s < spec->stages && s <= pkt->stage; s++)
			in[s]++;
	}
}

void tw_dispatch_sample(struct tw_lcore *lcore, unsigned chain, unsigned packets, uint64_t cycles)
{
	struct tw_chain_sample *sample = sample_size(lcore, chain, packets);

	chain_stats(lcore, chain)->cycles += cycles * TW_SAMPLE;
	sample->ns[bucket_of(cycles * lcore->clock_mult >> TW_CLOCK_SHIFT, TW_TIME_BUCKETS)]++;
}

static inline void enter_chain(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	unsigned packets = lcore->burst.count;
	uint64_t tsc;

	if (__builtin_expect(resumed || !tw_dispatch_is_timed(lcore, chain), 1)) {
		run_chain(lcore, chain, resumed);
		return;
	}
	tsc = rte_rdtsc();
	run_chain(lcore, chain, resumed);
	tw_dispatch_sample(lcore, chain, packets, rte_rdtsc() - tsc);
}

/* Verdicts differ: each packet its own way. */
static void settle_each(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	struct tw_pkt *pkts = lcore->burst.pkts;
	unsigned count = lcore->burst.count;
	bool punts = false;

	for (unsigned i = 0; i < count; i++)
		punts |= (pkts[i].verdict & 0xff) == TW_PUNT;
	count_stages(lcore, chain, resumed);
	if (punts) {
		run_punts(lcore, chain);
		count = lcore->burst.count; /* fewer when the lcore falls back */
	}
	if (tw_watching(lcore))
		tw_watch_verdicts(lcore, chain);
	for (unsigned i = 0; i < count; i++)
		settle(lcore, chain, &pkts[i]);
	tw_send_flush(lcore, chain);
	if (tw_watching(lcore))
		tw_watch_end(lcore);
	if (lcore->n_emits)
		tw_dispatch_emits(lcore);
}

/* All packets go on to one port: the one they were routed to, or the chain's sink. */
static void settle_all(struct tw_lcore *lcore, unsigned chain, unsigned port,
                       struct rte_mbuf **mbufs, uint64_t bytes)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];
	uint64_t *in = lcore->stats->stage_in[spec->chain];
	unsigned count = lcore->burst.count;

	for (unsigned s = 0; s < spec->stages; s++)
		in[s] += count;
	tw_send_port(lcore, chain, port, mbufs, count, bytes);
	if (tw_watching(lcore))
		tw_watch_end(lcore);
}

bool tw_dispatch_one_way(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                         uint64_t bytes)
{
	unsigned port = lcore->burst.pkts[0].out;

	if (port == TW_PORT_NONE && lcore->plan->chain[chain].sink_kind == TW_END_PORT)
		port = lcore->plan->chain[chain].sink;
	if (port >= TW_PORTS_MAX || !(lcore->plan->ports >> port & 1))
		return false;
	settle_all(lcore, chain, port, mbufs, bytes);
	return true;
}

void tw_dispatch_settle(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                        uint64_t bytes, bool odd)
{
	if (!mbufs || odd || !tw_dispatch_one_way(lcore, chain, mbufs, bytes))
		settle_each(lcore, chain, !mbufs);
}

void tw_dispatch_burst(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                       uint64_t bytes)
{
	const struct tw_pkt *pkts = lcore->burst.pkts;
	unsigned count = lcore->burst.count;
	bool step_by_step;
	uint32_t odd;

	tw_dispatch_begin(lcore, chain);
	step_by_step = tw_watching(lcore) && tw_watch_begin(lcore, chain, !mbufs);
	enter_chain(lcore, chain, !mbufs || step_by_step);
	if (__builtin_expect(step_by_step, 0))
		tw_watch_ran(lcore);
	odd = lcore->burst.odd | lcore->resized;
	for (unsigned i = 0; i < count; i++)
		odd |= pkts[i].out ^ pkts[0].out;
	tw_dispatch_settle(lcore, chain, mbufs, bytes, odd);
}
