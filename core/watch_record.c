/* SPDX-License-Identifier: BSD-3-Clause */
/* watch_record.c - packets that are matched and written as records, to the ring of an lcore or, as
 * long as the end of a followed packet is not known, to its scratch. */
#include "watch_record.h"
#include "lcore.h"

#include <string.h>

#include <pcap/pcap.h>

#define FILLER UINT32_MAX       /* caplen of what is no record */
#define TW_NO_RECORD UINT32_MAX /* no record in scratch */
#define FLAT_MAX 16384          /* bytes of a frame in segments that are put together */

static inline uint64_t tsc_ns(const struct tw_lcore *lcore, uint64_t tsc)
{
	unsigned __int128 ticks = tsc - lcore->clock_tsc;

	return lcore->clock_ns + (uint64_t)((ticks * lcore->clock_mult) >> TW_CLOCK_SHIFT);
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
                const struct tw_sight *sight, const uint8_t *frame, uint32_t caplen)
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

bool tw_record_matches(const struct tw_watch *watch, struct tw_watch_lane *lane,
                       const uint8_t *frame, uint32_t have, uint32_t len)
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
void tw_record_copy(struct tw_watch *watch, struct tw_watch_lane *lane,
                    const struct tw_lcore *lcore, const struct tw_sight *sight)
{
	uint8_t flat[FLAT_MAX];
	uint32_t have, caplen;
	const uint8_t *frame = frame_of(sight->mbuf, flat, &have);
	struct tw_watch_record *record;

	if (watch->spec.in_port != TW_PORT_NONE && sight->port != watch->spec.in_port)
		return;
	if (!tw_record_matches(watch, lane, frame, have, sight->mbuf->pkt_len))
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
void tw_record_step(struct tw_watch_lane *lane, const struct tw_watch *watch,
                    const struct tw_lcore *lcore, struct tw_sight *sight, bool with)
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
	sight->ref = TW_NO_RECORD;
	put(record, lcore, sight, frame, caplen);
	lane->scratch_used += record->size;
	if (lane->first[i] == TW_NO_RECORD)
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
void tw_record_deliver(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned i)
{
	uint64_t before = lane->pending;
	uint32_t number, steps = 0;

	if (lane->torn >> i & 1) {
		lane->counts.missed++;
		return;
	}
	if (!wanted(watch, in_scratch(lane, lane->last[i])))
		return;
	for (uint32_t at = lane->first[i]; at != TW_NO_RECORD; steps++) {
		struct tw_watch_record *from = in_scratch(lane, at);
		struct tw_watch_record *to = reserve(lane, from->size);

		if (!to) {
			lane->pending = before;
			lane->counts.missed++;
			return;
		}
		memcpy(to, from, from->size);
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
	tw_record_publish(lane);
}

/* Of what is pending, only the packets that were taken become records. */
void tw_record_confirm(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned sent)
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
	tw_record_publish(lane);
}
