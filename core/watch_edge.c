/* SPDX-License-Identifier: BSD-3-Clause */
/* watch_edge.c - watches on the lcores: packets at edges of chains are matched and copied out. */
#include "watch.h"
#include "lcore.h"

#include <string.h>

#include <rte_cycles.h>

#include <pcap/pcap.h>

#define NO_PACKET TW_BURST_MAX /* no packet of the burst in hand */
#define FILLER UINT32_MAX      /* caplen of what is no record */
#define NO_RECORD UINT32_MAX   /* no record in scratch */
#define FLAT_MAX 16384         /* bytes of a frame in segments that are put together */

/* The burst that an lcore has in hand. Only its lcore looks at it. */
struct in_hand {
	TW_ALIGNED(64) const struct tw_watch_set *set; /* NULL: none */
	uint64_t gone;      /* bit per packet: sent or dropped, its buffer may be another's */
	uint64_t ran_from;  /* TSC */
	uint64_t mark;      /* TSC */
	uint64_t recording; /* TSC cycles in tw_watch_step() */
	uint64_t empty;     /* TSC cycles between mark and step of an NF that does nothing */
	uint16_t direct;    /* ingress port of a chain without NFs */
	uint32_t stepping;  /* stages whose steps are recorded */
	const struct tw_watch_set *leaving;
};

static struct in_hand hands[TW_LCORES_MAX];

/* What is known of a packet at an edge. */
struct sight {
	struct rte_mbuf *mbuf;
	const struct tw_pkt *pkt; /* NULL: none of the burst */
	unsigned index;           /* in the burst, or NO_PACKET */
	uint64_t tsc;
	int32_t verdict;
	uint32_t spent, ref;
	uint16_t chain, port, out;
	uint8_t edge, stage, flags;
};

static inline uint64_t tsc_ns(const struct tw_lcore *lcore, uint64_t tsc)
{
	unsigned __int128 ticks = tsc - lcore->clock_tsc;

	return lcore->clock_ns + (uint64_t)((ticks * lcore->clock_mult) >> TW_CLOCK_SHIFT);
}

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

	if (!hand->set || !mbuf)
		return NO_PACKET;
	if (hint < (unsigned)burst->count && burst->pkts[hint].mbuf == mbuf &&
	    !(hand->gone >> hint & 1))
		return hint;
	for (unsigned i = 0; i < (unsigned)burst->count; i++)
		if (burst->pkts[i].mbuf == mbuf && !(hand->gone >> i & 1))
			return i;
	return NO_PACKET;
}

static void see(struct sight *sight, const struct tw_lcore *lcore, const struct in_hand *hand,
                struct rte_mbuf *mbuf, unsigned hint)
{
	sight->mbuf = mbuf;
	sight->index = find(lcore, hand, mbuf, hint);
	sight->pkt = sight->index == NO_PACKET ? NULL : &lcore->burst.pkts[sight->index];
	sight->port = sight->pkt ? sight->pkt->port : hand->direct;
}

/* ---- records ---- */

static const uint8_t *frame_of(struct rte_mbuf *mbuf, uint8_t *flat, uint32_t *have)
{
	*have = mbuf->data_len;
	if (__builtin_expect(mbuf->nb_segs == 1, 1))
		return rte_pktmbuf_mtod(mbuf, const uint8_t *);
	*have = mbuf->pkt_len < FLAT_MAX ? mbuf->pkt_len : FLAT_MAX;
	return rte_pktmbuf_read(mbuf, 0, *have, flat);
}

static uint32_t caplen_of(const struct tw_watch *watch, const uint8_t *frame, uint32_t have)
{
	uint32_t caplen = have < watch->spec.snaplen ? have : watch->spec.snaplen;
	uint32_t headers = watch->spec.headers ? tw_header_length(frame, have) : caplen;

	return headers < caplen ? headers : caplen;
}

static uint32_t record_size(uint32_t caplen)
{
	return (sizeof(struct tw_watch_record) + caplen + 7) & ~7u;
}

static void put(struct tw_watch_record *record, const struct tw_lcore *lcore,
                const struct sight *sight, const uint8_t *frame, uint32_t caplen)
{
	const struct tw_pkt *pkt = sight->pkt;

	*record = (struct tw_watch_record){
		.size = record_size(caplen),
		.caplen = caplen,
		.len = sight->mbuf ? sight->mbuf->pkt_len : 0,
		.packet = sight->ref,
		.time = tsc_ns(lcore, sight->tsc),
		.verdict = sight->verdict,
		.spent = sight->spent,
		.mark = pkt ? pkt->mark : 0,
		.chain = sight->chain,
		.port = sight->port,
		.out = sight->out,
		.edge = sight->edge,
		.stage = sight->stage,
		.flags = sight->flags,
		.slot = lcore->slot,
	};
	memcpy(record + 1, frame, caplen);
}

/* Room for a record behind what is pending; NULL when the control thread is too far behind. */
static struct tw_watch_record *reserve(struct tw_watch_lane *lane, uint32_t size)
{
	uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_acquire);
	uint64_t room = lane->mask + 1 - (lane->pending - tail);
	uint64_t at = lane->pending & lane->mask, rest = lane->mask + 1 - at;

	if (size <= rest)
		return size <= room ? (void *)(lane->ring + at) : NULL;
	if (rest + size > room)
		return NULL;
	*(uint32_t *)(lane->ring + at) = rest;
	((struct tw_watch_record *)(lane->ring + at))->caplen = FILLER;
	lane->pending += rest;
	return (void *)lane->ring;
}

static void publish(struct tw_watch_lane *lane)
{
	atomic_store_explicit(&lane->head, lane->pending, memory_order_release);
}

/* One of the limit, which all lcores share. */
static bool charge(struct tw_watch *watch)
{
	if (!watch->spec.limit)
		return true;
	if (atomic_load_explicit(&watch->taken, memory_order_relaxed) >= watch->spec.limit)
		return false;
	if (atomic_fetch_add_explicit(&watch->taken, 1, memory_order_relaxed) < watch->spec.limit)
		return true;
	atomic_fetch_sub_explicit(&watch->taken, 1, memory_order_relaxed);
	return false;
}

static void refund(struct tw_watch *watch)
{
	if (watch->spec.limit)
		atomic_fetch_sub_explicit(&watch->taken, 1, memory_order_relaxed);
}

static bool matches(const struct tw_watch *watch, struct tw_watch_lane *lane, const uint8_t *frame,
                    uint32_t have, uint32_t len)
{
	lane->counts.looked++;
	/* Who must not see payload must not ask about it either: there is none to the filter. */
	if (watch->spec.headers)
		have = tw_header_length(frame, have);
	if (watch->filter && !bpf_filter(watch->filter, frame, len, have))
		return false;
	lane->counts.matched++;
	return lane->sampled++ % watch->spec.sample == 0;
}

/* Matches and copies; the record is pending. */
static void copy(struct tw_watch *watch, struct tw_watch_lane *lane, const struct tw_lcore *lcore,
                 const struct sight *sight)
{
	uint8_t flat[FLAT_MAX];
	uint32_t have, caplen;
	const uint8_t *frame = frame_of(sight->mbuf, flat, &have);
	struct tw_watch_record *record;

	if (watch->spec.in_port != TW_PORT_NONE && sight->port != watch->spec.in_port)
		return;
	if (!matches(watch, lane, frame, have, sight->mbuf->pkt_len))
		return;
	caplen = caplen_of(watch, frame, have);
	record = reserve(lane, record_size(caplen));
	if (!record) {
		lane->counts.missed++;
		return;
	}
	if (!charge(watch))
		return;
	put(record, lcore, sight, frame, caplen);
	lane->pending += record->size;
	lane->counts.records++;
	lane->counts.packets++;
}

/* ---- followed packets ---- */

/* One more step of a followed packet, in scratch; with = false: the frame is as it was. */
static void step(struct tw_watch_lane *lane, const struct tw_watch *watch,
                 const struct tw_lcore *lcore, struct sight *sight, bool with)
{
	unsigned i = sight->index;
	uint8_t flat[FLAT_MAX];
	uint32_t have = 0, caplen = 0, at = lane->scratch_used;
	const uint8_t *frame = flat;
	struct tw_watch_record *record = (void *)(lane->scratch + at);

	if (with) {
		frame = frame_of(sight->mbuf, flat, &have);
		caplen = caplen_of(watch, frame, have);
	}
	if (at + record_size(caplen) > TW_SCRATCH_BYTES) {
		lane->torn |= 1ull << i;
		return;
	}
	sight->ref = NO_RECORD;
	put(record, lcore, sight, frame, caplen);
	lane->scratch_used += record->size;
	if (lane->first[i] == NO_RECORD)
		lane->first[i] = at;
	else
		((struct tw_watch_record *)(lane->scratch + lane->last[i]))->packet = at;
	lane->last[i] = at;
}

static inline struct tw_watch_record *in_scratch(struct tw_watch_lane *lane, uint32_t at)
{
	return (struct tw_watch_record *)(lane->scratch + at);
}

/* Does the packet's end fit what was asked for? */
static bool wanted(const struct tw_watch *watch, const struct tw_watch_record *last)
{
	return watch->spec.reason < 0 ||
	       (last->edge == TW_EDGE_DROP && last->verdict >> 8 == watch->spec.reason);
}

/* All steps of a packet go to the ring, or none. */
static void deliver(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned i)
{
	uint64_t before = lane->pending;
	uint32_t number, steps = 0;
	uint8_t torn = lane->torn >> i & 1 ? TW_WATCH_INCOMPLETE : 0;

	for (uint32_t at = lane->first[i]; at != NO_RECORD; steps++) {
		struct tw_watch_record *from = in_scratch(lane, at);
		struct tw_watch_record *to = reserve(lane, from->size);

		if (!to) {
			lane->pending = before;
			lane->counts.missed++;
			return;
		}
		memcpy(to, from, from->size);
		to->flags |= torn;
		lane->pending += from->size;
		at = from->packet;
	}
	if (!charge(watch)) {
		lane->pending = before;
		return;
	}
	number = atomic_fetch_add_explicit(&watch->numbers, 1, memory_order_relaxed) + 1;
	for (uint64_t at = before; at != lane->pending;) {
		struct tw_watch_record *record = (void *)(lane->ring + (at & lane->mask));

		at += record->size;
		if (record->caplen != FILLER)
			record->packet = number;
	}
	lane->counts.records += steps;
	lane->counts.packets++;
	publish(lane);
}

/* Which of the packets that just came in are followed. */
static void choose(struct tw_watch *watch, struct tw_watch_lane *lane, struct tw_lcore *lcore,
                   struct sight *sight)
{
	uint64_t taken = atomic_load_explicit(&watch->taken, memory_order_relaxed);
	uint64_t left = UINT64_MAX;

	if (watch->spec.limit)
		left = taken < watch->spec.limit ? watch->spec.limit - taken : 0;
	for (unsigned i = 0; i < (unsigned)lcore->burst.count && left; i++) {
		const struct tw_pkt *pkt = &lcore->burst.pkts[i];

		if (watch->spec.in_port != TW_PORT_NONE && pkt->port != watch->spec.in_port)
			continue;
		if (!matches(watch, lane, pkt->data, pkt->len, pkt->len))
			continue;
		lane->followed |= 1ull << i;
		lane->first[i] = NO_RECORD;
		*sight = (struct sight){ .mbuf = pkt->mbuf,
			                 .pkt = pkt,
			                 .index = i,
			                 .tsc = sight->tsc,
			                 .chain = sight->chain,
			                 .port = pkt->port,
			                 .out = pkt->out,
			                 .edge = TW_EDGE_IN,
			                 .stage = TW_STAGE_ENGINE };
		step(lane, watch, lcore, sight, true);
		/* Whether a drop comes is not known yet: then all that match are followed. */
		if (watch->spec.reason < 0)
			left--;
	}
}

/* ---- a burst ---- */

static void received(struct tw_watch *watch, struct tw_watch_lane *lane, struct tw_lcore *lcore,
                     struct sight *sight)
{
	for (unsigned i = 0; i < (unsigned)lcore->burst.count; i++) {
		const struct tw_pkt *pkt = &lcore->burst.pkts[i];

		sight->mbuf = pkt->mbuf;
		sight->pkt = pkt;
		sight->index = i;
		sight->port = pkt->port;
		sight->out = pkt->out;
		copy(watch, lane, lcore, sight);
	}
	publish(lane);
}

bool tw_watch_begin(struct tw_lcore *lcore, unsigned chain, bool resumed)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = atomic_load_explicit(&tw_watches, memory_order_acquire);
	struct sight sight = { .tsc = rte_rdtsc(),
		               .chain = chain_id(lcore, chain),
		               .edge = TW_EDGE_IN,
		               .stage = TW_STAGE_ENGINE };

	hand->set = set;
	hand->gone = hand->recording = 0;
	hand->stepping = 0;
	hand->direct = TW_PORT_NONE;
	for (unsigned i = 0; set && i < set->count; i++) {
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

void tw_watch_ran(struct tw_lcore *lcore)
{
	struct in_hand *hand = &hands[lcore->slot];
	uint64_t spent = rte_rdtsc() - hand->ran_from;

	lcore->burst.odd = 1;
	for (unsigned i = 0; hand->set && i < hand->set->count; i++) {
		struct tw_watch *watch = hand->set->watch[i];
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
	struct sight sight = { .mbuf = pkt->mbuf,
		               .pkt = pkt,
		               .index = i,
		               .tsc = rte_rdtsc(),
		               .verdict = pkt->verdict,
		               .chain = chain_id(lcore, lcore->burst.chain),
		               .port = pkt->port,
		               .out = pkt->out,
		               .edge = TW_EDGE_HELD,
		               .stage = pkt->stage };

	step(lane, watch, lcore, &sight, false);
}

void tw_watch_end(struct tw_lcore *lcore)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = hand->set;

	for (unsigned w = 0; set && w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore,
		                                     chain_id(lcore, lcore->burst.chain));
		uint64_t from = rte_rdtsc();

		if (!lane || !lane->followed)
			continue;
		for (uint64_t rest = lane->followed; rest; rest &= rest - 1) {
			unsigned i = __builtin_ctzll(rest);

			if (lane->first[i] == NO_RECORD)
				continue;
			if (!(hand->gone >> i & 1))
				held(lane, watch, lcore, i);
			if (wanted(watch, in_scratch(lane, lane->last[i])))
				deliver(watch, lane, i);
		}
		lane->followed = 0;
		lane->counts.cycles += rte_rdtsc() - from;
	}
	hand->set = NULL;
	hand->direct = TW_PORT_NONE;
}

/* ---- edges ---- */

void tw_watch_direct(struct tw_lcore *lcore, unsigned chain, uint16_t port, struct rte_mbuf **mbufs,
                     unsigned n)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = atomic_load_explicit(&tw_watches, memory_order_acquire);
	struct sight sight = { .tsc = rte_rdtsc(),
		               .chain = chain_id(lcore, chain),
		               .out = TW_PORT_NONE,
		               .index = NO_PACKET,
		               .edge = TW_EDGE_IN,
		               .stage = TW_STAGE_ENGINE };

	hand->set = NULL;
	hand->direct = port;
	for (unsigned w = 0; set && w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		lane->counts.chain_packets += n;
		for (unsigned i = 0; i < n && watch->spec.edges & TW_EDGE_IN; i++) {
			sight.mbuf = mbufs[i];
			sight.port = port == TW_PORT_NONE ? mbufs[i]->port : port;
			copy(watch, lane, lcore, &sight);
		}
		publish(lane);
		lane->counts.cycles += rte_rdtsc() - from;
	}
}

void tw_watch_leaving(struct tw_lcore *lcore, unsigned chain, uint16_t out, uint8_t flags,
                      struct rte_mbuf **mbufs, unsigned n)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set =
		hand->set ? hand->set : atomic_load_explicit(&tw_watches, memory_order_acquire);
	struct sight sight = {
		.tsc = rte_rdtsc(), .chain = chain_id(lcore, chain), .out = out, .edge = TW_EDGE_OUT
	};

	hand->leaving = set;
	for (unsigned w = 0; set && w < set->count; w++) {
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
			sight.flags = flags | (hand->set && !sight.pkt ? TW_WATCH_MADE : 0);
			copy(watch, lane, lcore, &sight);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
}

/* Of what is pending, only the packets that were taken become records. */
static void confirm(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned sent)
{
	uint64_t at = atomic_load_explicit(&lane->head, memory_order_relaxed), keep = at;

	while (at != lane->pending) {
		struct tw_watch_record *record = (void *)(lane->ring + (at & lane->mask));

		at += record->size;
		if (record->caplen == FILLER)
			continue;
		if (record->packet < sent) {
			record->packet = 0;
			keep = at;
			continue;
		}
		refund(watch);
		lane->counts.records--;
		lane->counts.packets--;
	}
	lane->pending = keep;
	publish(lane);
}

void tw_watch_left(struct tw_lcore *lcore, unsigned chain, uint16_t out, uint8_t flags,
                   struct rte_mbuf **mbufs, unsigned sent)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set = hand->leaving;
	struct sight sight = { .tsc = rte_rdtsc(),
		               .chain = chain_id(lcore, chain),
		               .out = out,
		               .edge = TW_EDGE_OUT,
		               .flags = flags };
	uint64_t gone = 0;

	for (unsigned w = 0; set && w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (lane->pending != atomic_load_explicit(&lane->head, memory_order_relaxed))
			confirm(watch, lane, sent);
		for (unsigned i = 0; i < sent && lane->followed; i++) {
			see(&sight, lcore, hand, mbufs[i], i);
			if (!sight.pkt || !(lane->followed >> sight.index & 1))
				continue;
			sight.mbuf = NULL; /* the device's, by now */
			sight.verdict = sight.pkt->verdict;
			sight.stage = sight.pkt->stage;
			step(lane, watch, lcore, &sight, false);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
	for (unsigned i = 0; i < sent; i++) {
		unsigned index = find(lcore, hand, mbufs[i], i);

		if (index != NO_PACKET)
			gone |= 1ull << index;
	}
	hand->gone |= gone;
}

void tw_watch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                   struct rte_mbuf *mbuf)
{
	struct in_hand *hand = &hands[lcore->slot];
	const struct tw_watch_set *set =
		hand->set ? hand->set : atomic_load_explicit(&tw_watches, memory_order_acquire);
	struct sight sight = { .tsc = rte_rdtsc(),
		               .chain = chain_id(lcore, chain),
		               .verdict = TW_DROP | reason << 8,
		               .out = TW_PORT_NONE,
		               .edge = TW_EDGE_DROP,
		               .stage = stage };

	if (!mbuf) /* a copy that there was no buffer for */
		return;
	see(&sight, lcore, hand, mbuf, NO_PACKET);
	for (unsigned w = 0; set && w < set->count; w++) {
		struct tw_watch *watch = set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (watch->spec.follow) {
			if (sight.pkt && lane->followed >> sight.index & 1)
				step(lane, watch, lcore, &sight, false);
		} else if (watch->spec.edges & TW_EDGE_DROP &&
		           (watch->spec.reason < 0 || (unsigned)watch->spec.reason == reason)) {
			copy(watch, lane, lcore, &sight);
			publish(lane);
		}
		lane->counts.cycles += rte_rdtsc() - from;
	}
	if (sight.index != NO_PACKET)
		hand->gone |= 1ull << sight.index;
}

/* ---- step by step: called from the lcore's VM ---- */

uint32_t tw_watch_stepping(void)
{
	const struct in_hand *hand;

	if (!tw_watching() || !tw_self)
		return 0;
	hand = &hands[tw_self->slot];
	return hand->set ? hand->stepping : 0;
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
	struct sight sight = { .mbuf = pkt->mbuf,
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

	if (!hand->set || i >= (unsigned)lcore->burst.count)
		return;
	spent = spent > hand->empty ? spent - hand->empty : 0;
	sight.spent = (uint64_t)(((unsigned __int128)spent * lcore->clock_mult) >> TW_CLOCK_SHIFT);
	for (unsigned w = 0; w < hand->set->count; w++) {
		struct tw_watch *watch = hand->set->watch[w];
		struct tw_watch_lane *lane = lane_of(watch, lcore, sight.chain);
		uint64_t from = rte_rdtsc();

		if (!lane)
			continue;
		if (lane->followed >> i & 1) {
			step(lane, watch, lcore, &sight, true);
		} else if (watch->spec.edges & TW_EDGE_NF && watch->spec.stages & 1u << stage &&
		           !watch->spec.follow && came_out(pkt->verdict)) {
			copy(watch, lane, lcore, &sight);
			publish(lane);
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
