/* SPDX-License-Identifier: BSD-3-Clause */
/* watch_edge.c - watches on the lcores: packets at edges of chains are matched and copied out. */
#include "watch_record.h"
#include "lcore.h"
#include "stats.h"

#include <rte_cycles.h>

/* The burst that an lcore has in hand. Only its lcore looks at it. */
struct in_hand {
	TW_ALIGNED(64) bool live; /* there is one */
	uint64_t gone;            /* bit per packet: sent or dropped, its buffer may be another's */
	uint64_t ran_from;        /* TSC */
	uint64_t mark;            /* TSC */
	uint64_t recording;       /* TSC cycles in tw_watch_step() */
	uint64_t empty;           /* TSC cycles between mark and step of an NF that does nothing */
	int32_t count;            /* packets of the burst */
	uint16_t direct;          /* ingress port of a chain without NFs */
	uint32_t stepping;        /* stages whose steps are recorded */
};

static struct in_hand hands[TW_LCORES_MAX];

static inline struct tw_watch_lane *lane_of(const struct tw_watch *watch,
                                            const struct tw_lcore *lcore, unsigned chain)
{
	if (!(watch->spec.chains & 1u << chain))
		return NULL;
	if (watch->spec.until && lcore->burst.now >= watch->spec.until)
		return NULL;
	return atomic_load_explicit(&watch->lane[lcore->slot], memory_order_acquire);
}

static inline unsigned chain_id(const struct tw_lcore *lcore, unsigned chain)
{
	return lcore->plan->chain[chain].chain;
}

/* The packet of the burst that a buffer belongs to; hint: where it most likely is. */
static unsigned find(const struct tw_lcore *lcore, const struct in_hand *hand,
                     const struct rte_mbuf *mbuf, unsigned hint)
{
	const struct tw_burst *burst = &lcore->burst;

	if (!hand->live || !mbuf)
		return TW_NO_PACKET;
	if (hint < (unsigned)burst->count && burst->pkts[hint].mbuf == mbuf &&
	    !(hand->gone >> hint & 1))
		return hint;
	for (unsigned i = 0; i < (unsigned)burst->count; i++)
		if (burst->pkts[i].mbuf == mbuf && !(hand->gone >> i & 1))
			return i;
	return TW_NO_PACKET;
}

static void see(struct tw_sight *sight, const struct tw_lcore *lcore, const struct in_hand *hand,
                struct rte_mbuf *mbuf, unsigned hint)
{
	sight->mbuf = mbuf;
	sight->index = find(lcore, hand, mbuf, hint);
	sight->pkt = sight->index == TW_NO_PACKET ? NULL : &lcore->burst.pkts[sight->index];
	sight->port = sight->pkt ? sight->pkt->port : hand->direct;
}

/* Which of the packets that just came in are followed. */
static void choose(struct tw_watch *watch, struct tw_watch_lane *lane, struct tw_lcore *lcore,
                   struct tw_sight *sight)
{
	uint64_t taken = atomic_load_explicit(&watch->taken, memory_order_relaxed);
	uint64_t left = UINT64_MAX;

	if (watch->spec.limit)
		left = taken < watch->spec.limit ? watch->spec.limit - taken : 0;
	for (unsigned i = 0; i < (unsigned)lcore->burst.count && left; i++) {
		const struct tw_pkt *pkt = &lcore->burst.pkts[i];

		if (watch->spec.in_port != TW_PORT_NONE && pkt->port != watch->spec.in_port)
			continue;
		if (!tw_record_matches(watch, lane, pkt->data, pkt->len, pkt->len))
			continue;
		lane->followed |= 1ull << i;
		lane->first[i] = TW_NO_RECORD;
		*sight = (struct tw_sight){ .mbuf = pkt->mbuf,
			                    .pkt = pkt,
			                    .index = i,
			                    .tsc = sight->tsc,
			                    .chain = sight->chain,
			                    .port = pkt->port,
			                    .out = pkt->out,
			                    .edge = TW_EDGE_IN,
			                    .stage = TW_STAGE_ENGINE };
		tw_record_step(lane, watch, lcore, sight, true);
		/* Whether a drop comes is not known yet: then all that match are followed. */
		if (watch->spec.reason < 0)
			left--;
	}
}

/* ---- a burst ---- */

static void received(struct tw_watch *watch, struct tw_watch_lane *lane, struct tw_lcore *lcore,
                     struct tw_sight *sight)
{
	for (unsigned i = 0; i < (unsigned)lcore->burst.count; i++) {
		const struct tw_pkt *pkt = &lcore->burst.pkts[i];

		sight->mbuf = pkt->mbuf;
		sight->pkt = pkt;
		sight->index = i;
		sight->port = pkt->port;
		sight->out = pkt->out;
		tw_record_copy(watch, lane, lcore, sight);
	}
	tw_record_publish(lane);
}

bool tw_watch_begin(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;
	struct tw_sight sight = { .tsc = rte_rdtsc(),
		                  .chain = chain_id(lcore, chain),
		                  .edge = TW_EDGE_IN,
		                  .stage = TW_STAGE_ENGINE };

	hand->live = true;
	hand->count = lcore->burst.count;
	hand->gone = hand->recording = 0;
	hand->stepping = 0;
	hand->direct = TW_PORT_NONE;
	for (unsigned i = 0; i < set->count; i++) {
		struct tw_watch *watch = set->watch[i];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		lane->followed = lane->torn = 0;
		lane->scratch_used = 0;
		if (!resumed) {
			lane->counts.chain_packets += lcore->burst.count;
			if (watch->spec.follow)
				choose(watch, lane, lcore, &sight);
			else if (watch->spec.edges & TW_EDGE_IN)
				received(watch, lane, lcore, &sight);
		}
		if (lane->followed)
			hand->stepping = UINT32_MAX;
		else if (watch->spec.edges & TW_EDGE_NF && !watch->spec.follow)
			hand->stepping |= watch->spec.stages;
		lane->counts.cycles += rte_rdtsc() - from;
	}
	hand->ran_from = rte_rdtsc();
	return hand->stepping != 0;
}

/* When the lcore falls back to the plan before, packets leave the burst and the others move up:
 * which ones were followed is not known any more. */
static void mind_leaving(struct tw_lcore *lcore, struct in_hand *hand)
{
	if (!hand->live || hand->count == lcore->burst.count)
		return;
	hand->count = lcore->burst.count;
	for (unsigned i = 0; i < lcore->watches->count; i++) {
		struct tw_watch_lane *lane = lane_of(lcore->watches->watch[i], lcore,
		                                     chain_id(lcore, lcore->burst.chain));

		if (!lane)
			continue;
		lane->counts.missed += __builtin_popcountll(lane->followed);
		lane->followed = 0;
	}
}

void tw_watch_ran(struct tw_lcore *lcore)
{
	struct in_hand *hand = &hands[lcore->slot];
	uint64_t spent = rte_rdtsc() - hand->ran_from;

	mind_leaving(lcore, hand);
	lcore->burst.odd = 1;
	for (unsigned i = 0; i < lcore->watches->count; i++) {
		struct tw_watch *watch = lcore->watches->watch[i];
		struct tw_watch_lane *lane = lane_of(watch, lcore,
		                                     chain_id(lcore, lcore->burst.chain));

		if (!lane ||
		    !(lane->followed || (watch->spec.edges & TW_EDGE_NF && !watch->spec.follow)))
			continue;
		lane->counts.stepped += lcore->burst.count;
		lane->counts.stepped_cycles += spent > hand->recording ? spent - hand->recording
		                                                       : 0;
	}
}

/* The end of a followed packet that was neither sent nor dropped. */
static void held(struct tw_watch_lane *lane, const struct tw_watch *watch, struct tw_lcore *lcore,
                 unsigned i)
{
	const struct tw_pkt *pkt = &lcore->burst.pkts[i];
	struct tw_sight sight = { .mbuf = pkt->mbuf,
		                  .pkt = pkt,
		                  .index = i,
		                  .tsc = rte_rdtsc(),
		                  .verdict = pkt->verdict,
		                  .chain = chain_id(lcore, lcore->burst.chain),
		                  .port = pkt->port,
		                  .out = pkt->out,
		                  .edge = TW_EDGE_HELD,
		                  .stage = pkt->stage };

	tw_record_step(lane, watch, lcore, &sight, false);
}

void tw_watch_end(struct tw_lcore *lcore)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;

	mind_leaving(lcore, hand);
	for (unsigned w = 0; hand->live && w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore,
		                                     chain_id(lcore, lcore->burst.chain));
		uint64_t from = rte_rdtsc();

		if (!lane || !lane->followed)
			continue;
		for (uint64_t rest = lane->followed; rest; rest &= rest - 1) {
			unsigned i = __builtin_ctzll(rest);

			if (lane->first[i] == TW_NO_RECORD)
				continue;
			if (!(hand->gone >> i & 1))
				held(lane, watch, lcore, i);
			tw_record_deliver(watch, lane, i);
		}
		lane->followed = 0;
		lane->counts.cycles += rte_rdtsc() - from;
	}
	hand->live = false;
	hand->direct = TW_PORT_NONE;
}

/* ---- edges ---- */

void tw_watch_direct(struct tw_lcore *lcore, unsigned chain, uint16_t port, struct rte_mbuf **mbufs,
                     unsigned n)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;
	struct tw_sight sight = { .tsc = rte_rdtsc(),
		                  .chain = chain_id(lcore, chain),
		                  .out = TW_PORT_NONE,
		                  .index = TW_NO_PACKET,
		                  .edge = TW_EDGE_IN,
		                  .stage = TW_STAGE_ENGINE };

	hand->live = false;
	hand->direct = port;
	for (unsigned w = 0; w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		lane->counts.chain_packets += n;
		for (unsigned i = 0; i < n && watch->spec.edges & TW_EDGE_IN; i++) {
			sight.mbuf = mbufs[i];
			sight.port = port == TW_PORT_NONE ? mbufs[i]->port : port;
			tw_record_copy(watch, lane, lcore, &sight);
		}
		tw_record_publish(lane);
		lane->counts.cycles += rte_rdtsc() - from;
	}
}

void tw_watch_leaving(struct tw_lcore *lcore, unsigned chain, uint16_t out, uint8_t flags,
                      struct rte_mbuf **mbufs, unsigned n)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;
	struct tw_sight sight = {
		.tsc = rte_rdtsc(), .chain = chain_id(lcore, chain), .out = out, .edge = TW_EDGE_OUT
	};

	for (unsigned w = 0; w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane || watch->spec.follow || !(watch->spec.edges & TW_EDGE_OUT))
			continue;
		if (watch->spec.out_port != TW_PORT_NONE &&
		    (watch->spec.out_port != out || flags & TW_WATCH_RING))
			continue;
		for (unsigned i = 0; i < n; i++) {
			see(&sight, lcore, hand, mbufs[i], i);
			sight.ref = i;
			sight.verdict = sight.pkt ? sight.pkt->verdict : 0;
			sight.stage = sight.pkt ? sight.pkt->stage : TW_STAGE_ENGINE;
			sight.flags = flags | (hand->live && !sight.pkt ? TW_WATCH_MADE : 0);
			tw_record_copy(watch, lane, lcore, &sight);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
}

void tw_watch_left(struct tw_lcore *lcore, unsigned chain, uint16_t out, uint8_t flags,
                   struct rte_mbuf **mbufs, unsigned sent)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;
	struct tw_sight sight = { .tsc = rte_rdtsc(),
		                  .chain = chain_id(lcore, chain),
		                  .out = out,
		                  .edge = TW_EDGE_OUT,
		                  .flags = flags };
	uint64_t gone = 0;

	for (unsigned w = 0; w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (lane->pending != atomic_load_explicit(&lane->head, memory_order_relaxed))
			tw_record_confirm(watch, lane, sent);
		for (unsigned i = 0; i < sent && lane->followed; i++) {
			see(&sight, lcore, hand, mbufs[i], i);
			if (!sight.pkt || !(lane->followed >> sight.index & 1))
				continue;
			sight.mbuf = NULL; /* the device's, by now */
			sight.verdict = sight.pkt->verdict;
			sight.stage = sight.pkt->stage;
			tw_record_step(lane, watch, lcore, &sight, false);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
	for (unsigned i = 0; i < sent; i++) {
		unsigned index = find(lcore, hand, mbufs[i], i);

		if (index != TW_NO_PACKET)
			gone |= 1ull << index;
	}
	hand->gone |= gone;
}

/* hint: where in the burst it most likely is. */
static void dropped(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                    struct rte_mbuf *mbuf, unsigned hint)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = lcore->watches;
	struct tw_sight sight = { .tsc = rte_rdtsc(),
		                  .chain = chain_id(lcore, chain),
		                  .verdict = TW_DROP | reason << 8,
		                  .out = TW_PORT_NONE,
		                  .edge = TW_EDGE_DROP,
		                  .stage = stage };

	see(&sight, lcore, hand, mbuf, hint);
	for (unsigned w = 0; w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (watch->spec.follow) {
			if (sight.pkt && lane->followed >> sight.index & 1)
				tw_record_step(lane, watch, lcore, &sight, false);
		} else if (watch->spec.edges & TW_EDGE_DROP &&
		           (watch->spec.reason < 0 || (unsigned)watch->spec.reason == reason)) {
			tw_record_copy(watch, lane, lcore, &sight);
			tw_record_publish(lane);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
	if (sight.index != TW_NO_PACKET)
		hand->gone |= 1ull << sight.index;
}

void tw_watch_verdicts(struct tw_lcore *lcore, unsigned chain)
{
	mind_leaving(lcore, &hands[lcore->slot]);
	for (unsigned i = 0; i < (unsigned)lcore->burst.count; i++) {
		const struct tw_pkt *pkt = &lcore->burst.pkts[i];
		unsigned reason = (uint32_t)pkt->verdict >> 8;

		if ((pkt->verdict & 0xff) != TW_DROP)
			continue;
		dropped(lcore, chain, pkt->stage < TW_STAGES_MAX ? pkt->stage : TW_STAGE_ENGINE,
		        reason < TW_REASONS_MAX ? reason : TW_R_BAD_VERDICT, pkt->mbuf, i);
	}
}

void tw_watch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                   struct rte_mbuf *mbuf)
{
	if (mbuf) /* else a copy that there was no buffer for */
		dropped(lcore, chain, stage < TW_STAGES_MAX ? stage : TW_STAGE_ENGINE,
		        reason < TW_REASONS_MAX ? reason : TW_R_BAD_VERDICT, mbuf, TW_NO_PACKET);
}

/* ---- step by step: called from the lcore's VM ---- */

uint32_t tw_watch_stepping(void)
{
	const struct in_hand *hand;

	if (!tw_self || !tw_watching(tw_self))
		return 0;
	hand = &hands[tw_self->slot];
	return hand->live ? hand->stepping : 0;
}

void tw_watch_mark(void)
{
	hands[tw_self->slot].mark = rte_rdtsc();
}

/* Did the packet come out of the NF? Not when it was dropped, is held or waits for its punt(). */
static bool came_out(int32_t verdict)
{
	int kind = verdict & 0xff;

	return kind != TW_DROP && kind != TW_HOLD && kind != TW_PUNT;
}

void tw_watch_step(struct tw_pkt *pkt, uint32_t stage, uint32_t flags)
{
	uint64_t tsc = rte_rdtsc();
	struct tw_lcore *lcore = tw_self;
	struct in_hand *hand = &hands[lcore->slot];
	unsigned i = pkt - lcore->burst.pkts;
	uint64_t spent = tsc - hand->mark;
	struct tw_sight sight = { .mbuf = pkt->mbuf,
		                  .pkt = pkt,
		                  .index = i,
		                  .tsc = tsc,
		                  .verdict = pkt->verdict,
		                  .chain = chain_id(lcore, lcore->burst.chain),
		                  .port = pkt->port,
		                  .out = pkt->out,
		                  .edge = TW_EDGE_NF,
		                  .stage = stage,
		                  .flags = flags };

	if (!hand->live || i >= (unsigned)lcore->burst.count)
		return;
	spent = spent > hand->empty ? spent - hand->empty : 0;
	sight.spent = (uint64_t)(((unsigned __int128)spent * lcore->clock_mult) >> TW_CLOCK_SHIFT);
	for (unsigned w = 0; w < lcore->watches->count; w++) {
		struct tw_watch *watch = lcore->watches->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (lane->followed >> i & 1) {
			tw_record_step(lane, watch, lcore, &sight, true);
		} else if (watch->spec.edges & TW_EDGE_NF && watch->spec.stages & 1u << stage &&
		           !watch->spec.follow && came_out(pkt->verdict)) {
			tw_record_copy(watch, lane, lcore, &sight);
			tw_record_publish(lane);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
	hand->recording += rte_rdtsc() - tsc;
}

void tw_watch_calibrate(void)
{
	struct in_hand *hand = &hands[tw_self->slot];
	uint64_t spent = rte_rdtsc() - hand->mark;

	if (!hand->empty || spent < hand->empty)
		hand->empty = spent;
	hand->recording += spent;
}
