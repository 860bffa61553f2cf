/* SPDX-License-Identifier: BSD-3-Clause */
/* watch.h - watches as lcores see them: the hooks in the data path, and what a watch consists of.
 */
#pragma once
#include "lcore.h"

#define TW_WATCHES_MAX 16

struct bpf_insn;

/* One lcore's part of a watch. */
struct tw_watch_lane {
	/* Written by the lcore. Positions in the ring only grow; position % size is the place. */
	TW_ALIGNED(64) _Atomic uint64_t head; /* records before it are the control thread's */
	uint64_t pending; /* behind head: packets whose sending is not decided */
	uint64_t sampled; /* packets that matched, for one in so many */
	struct tw_watch_counts counts;
	/* The followed packets of the burst in hand: their steps wait in scratch until their end
	 * is known. */
	uint64_t followed; /* bit per packet of the burst */
	uint64_t torn;     /* of those: scratch had no room for one of its steps */
	uint32_t scratch_used;
	uint32_t first[TW_BURST_MAX], last[TW_BURST_MAX]; /* record of the packet in scratch */
	/* Written by the control thread. */
	TW_ALIGNED(64) _Atomic uint64_t tail;
	uint64_t mask; /* size of the ring - 1 */
	uint8_t *ring, *scratch;
};

struct tw_watch {
	struct tw_watch_spec spec;
	struct bpf_insn *filter;  /* NULL: all */
	_Atomic uint64_t taken;   /* of the limit */
	_Atomic uint32_t numbers; /* of followed packets */
	_Atomic(struct tw_watch_lane *) lane[TW_LCORES_MAX];
	/* control thread */
	struct tw_watch_lane *reading; /* its record at tail is the caller's */
	struct tw_watch *next_retired;
	uint64_t token; /* of the grace period */
	bool started, retired;
};

/* Immutable once published. */
struct tw_watch_set {
	unsigned count;
	struct tw_watch *watch[TW_WATCHES_MAX];
	struct tw_watch_set *next_retired;
	uint64_t token;
};

/* NULL when nothing is watched. Written by the control thread, read once a turn, so that what is
 * watched does not change under way. */
extern _Atomic(struct tw_watch_set *) tw_watches;

#define TW_SCRATCH_BYTES (256 * 1024)

static inline void tw_watch_turn(struct tw_lcore *lcore)
{
	lcore->watches = atomic_load_explicit(&tw_watches, memory_order_acquire);
}

/* To be asked before each hook below. */
static inline bool tw_watching(const struct tw_lcore *lcore)
{
	return __builtin_expect(lcore->watches != NULL, 0);
}

/* Out of the way of the code that they are called from. */
#define TW_WATCH_HOOK __attribute__((cold, noinline))

/* The burst is filled and about to run. True: it has to run step by step, through TW_VM_RESUME. */
TW_WATCH_HOOK bool tw_watch_begin(struct tw_lcore *lcore, unsigned chain, bool resumed);
/* It ran step by step. */
TW_WATCH_HOOK void tw_watch_ran(struct tw_lcore *lcore);
/* Every packet of it is sent, dropped or held. */
TW_WATCH_HOOK void tw_watch_end(struct tw_lcore *lcore);
/* Packets of a chain without NFs, about to be sent. */
TW_WATCH_HOOK void tw_watch_direct(struct tw_lcore *lcore, unsigned chain, uint16_t port,
                                   struct rte_mbuf **mbufs, unsigned n);
/* Packets are offered to a port or ring (flags: TW_WATCH_RING), which then took the first `sent`.
 */
TW_WATCH_HOOK void tw_watch_leaving(struct tw_lcore *lcore, unsigned chain, uint16_t out,
                                    uint8_t flags, struct rte_mbuf **mbufs, unsigned n);
TW_WATCH_HOOK void tw_watch_left(struct tw_lcore *lcore, unsigned chain, uint16_t out,
                                 uint8_t flags, struct rte_mbuf **mbufs, unsigned sent);
/* The drops among the verdicts of the burst, once for all of them: packets are dropped at rates at
 * which a look for each would be felt. */
TW_WATCH_HOOK void tw_watch_verdicts(struct tw_lcore *lcore, unsigned chain);
/* Any other drop. */
TW_WATCH_HOOK void tw_watch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage,
                                 unsigned reason, struct rte_mbuf *mbuf);

/* No lcore runs: frees what waited for one. */
void tw_watches_close(void);
