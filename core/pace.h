/* SPDX-License-Identifier: BSD-3-Clause */
/* pace.h - when packets are due: evenly, in bursts, or at random. */
#pragma once
#include "abi.h"

/* Times are TSC cycles with 64 bits behind the point: after a day at any rate the schedule is off
 * by less than a cycle. */
struct tw_pace {
	unsigned __int128 next, gap; /* when the next packet, or burst of them, is due */
	uint32_t spacing;            /* enum tw_spacing */
	uint32_t burst, left;        /* packets of a burst; of these, those still to come */
	uint64_t catch_up;           /* behind by more than this, packets are left out */
	uint64_t skipped;            /* and counted */
	uint64_t random;
};

/* run->rate is that of all queues; this one of them begins now, staggered against the others. hz:
 * TSC cycles per second. */
void tw_pace_begin(struct tw_pace *pace, const struct tw_source_run *run, uint64_t now, uint64_t hz,
                   uint32_t queue, uint32_t queues);
/* Takes the packets that are due by now, at most max; when each was due is in due[]. */
unsigned tw_pace_due(struct tw_pace *pace, uint64_t now, unsigned max, uint64_t *due);

/* Nothing is due yet: the common answer, and all that an idle poll costs. */
static inline bool tw_pace_waits(const struct tw_pace *pace, uint64_t now)
{
	return (int64_t)(now - (uint64_t)(pace->next >> 64)) < 0;
}
