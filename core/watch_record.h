/* SPDX-License-Identifier: BSD-3-Clause */
/* watch_record.h - from a packet at an edge to a record; between the two files of watches on
 * lcores. */
#pragma once
#include "watch.h"

#define TW_NO_PACKET TW_BURST_MAX /* no packet of the burst in hand */
#define TW_NO_RECORD UINT32_MAX   /* no record in scratch */

/* What is known of a packet at an edge. */
struct tw_sight {
	struct rte_mbuf *mbuf;
	const struct tw_pkt *pkt; /* NULL: none of the burst */
	unsigned index;           /* in the burst, or TW_NO_PACKET */
	uint64_t tsc;
	int32_t verdict;
	uint32_t spent, ref;
	uint16_t chain, port, out;
	uint8_t edge, stage, flags;
};

/* Does it match, and is it one of those that are taken? */
bool tw_record_matches(const struct tw_watch *watch, struct tw_watch_lane *lane,
                       const uint8_t *frame, uint32_t have, uint32_t len);
/* A record of the packet if it matches, pending. */
void tw_record_copy(struct tw_watch *watch, struct tw_watch_lane *lane,
                    const struct tw_lcore *lcore, const struct tw_sight *sight);
/* The control thread may read what was pending. */
static inline void tw_record_publish(struct tw_watch_lane *lane)
{
	atomic_store_explicit(&lane->head, lane->pending, memory_order_release);
}

/* Of what is pending, only the packets that were taken become records. */
void tw_record_confirm(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned sent);

/* One more step of a followed packet, in scratch; with = false: the frame is as it was. */
void tw_record_step(struct tw_watch_lane *lane, const struct tw_watch *watch,
                    const struct tw_lcore *lcore, struct tw_sight *sight, bool with);
/* All steps of a followed packet go to the ring, or none. */
void tw_record_deliver(struct tw_watch *watch, struct tw_watch_lane *lane, unsigned i);
