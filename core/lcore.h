/* SPDX-License-Identifier: BSD-3-Clause */
/* lcore.h - an lcore: its plan, its burst, its fence; shared by the few files that run it. */
#pragma once
#include "abi.h"
#include "vm.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#include <rte_mbuf.h>

#define TW_EMIT_MAX 64
#define TW_INPUTS_MAX 64
#define TW_CLOCK_SHIFT 32 /* of tw_lcore.clock_mult: nanoseconds of a TSC cycle, in fixed point */

/* Where the stages of a chain are after an exchange of plans: TW_STAGE_GONE for those that are not.
 */
struct tw_stage_map {
	uint8_t to[TW_STAGES_MAX];
};

/* What a stage had counted that the next plan does not have: given back when that is rolled back.
 */
struct tw_left {
	uint64_t in, drops[TW_REASONS_MAX];
};

/* From one plan to the next and back; all lcores of a plan share it. */
struct tw_swap {
	uint32_t moved; /* bit per chain index: its maps are not the identity */
	struct tw_stage_map forward[TW_CHAINS_MAX], backward[TW_CHAINS_MAX];
	uint32_t n_left;
	struct {
		uint8_t chain, stage;
	} left_at[TW_CHAINS_MAX * TW_STAGES_MAX];
	struct tw_left *left; /* n_left for each slot of an lcore */
};

/* What one lcore runs; immutable once published, but for the quarantine and the VM that the
 * fence replaces, and for the ports, which the control thread keeps right. */
struct tw_lcore_plan {
	struct tw_vm *vm;
	const struct tw_swap *swap; /* from the plan before; NULL: there was none */
	uint32_t bank;              /* of native words */
	uint64_t ports;             /* bit per port that may be sent to */
	char *blob;                 /* to build the VM again after a fault */
	size_t blob_len;
	uint32_t burst, tx_retries; /* from tw_options, when the plan was made */
	uint32_t n_chains, n_inputs;
	struct tw_chain_spec chain[TW_CHAINS_MAX];
	struct tw_input_spec input[TW_INPUTS_MAX];
	uint32_t quarantine[TW_CHAINS_MAX];         /* bit per stage */
	struct tw_native_word *word[TW_CHAINS_MAX]; /* of the whole chain, or NULL */
	uint16_t tx_queue[TW_PORTS_MAX];
	bool tx_shared[TW_PORTS_MAX]; /* the queue is shared with another lcore: lock it */
};

struct tw_tx { /* packets of the current burst for one port */
	uint32_t count;
	struct rte_mbuf *mbuf[TW_BURST_MAX * 2];
};

/* What the control thread tells an lcore; number n is order[n % TW_ORDERS] of struct tw_lcore. More
 * than two, for an lcore that gets no CPU time while it takes one. */
#define TW_ORDERS 8u
struct tw_order {
	struct tw_lcore_plan *plan;
	const struct tw_swap *swap; /* from what it runs to the plan; NULL: nothing is mapped */
	uint64_t generation;
	bool backward;  /* the swap is taken backwards */
	bool probation; /* keep the plan it runs, to fall back to */
	bool all;       /* read all inputs; else only those that it reads already */
};

/* Packets of an NF's burst that faulted, until the plan before takes them up. */
#define TW_ASIDE_MAX (TW_BURST_MAX + TW_EMIT_MAX)
struct tw_aside {
	struct tw_pkt pkt;
	unsigned chain;
};

enum tw_fence_phase { TW_FENCE_QUIET, TW_FENCE_HOOK, TW_FENCE_JUMP };

struct tw_lcore {
	struct tw_burst burst;
	struct tw_lcore_plan *plan;
	struct tw_lcore_stats *stats;
	struct tw_stats *shared;
	uint32_t n_inputs;
	struct tw_input_spec input[TW_INPUTS_MAX]; /* of the plan, those that are its by now */

	/* fence: seq is odd while Lua runs; written by the lcore, read by the watchdog */
	_Atomic uint64_t seq;
	_Atomic uint64_t stall_seq; /* entry the watchdog wants to end; written by it */
	_Atomic int phase;          /* enum tw_fence_phase; written by the watchdog */
	sigjmp_buf jump;
	uint32_t late_ms;  /* the time it had; written by the watchdog */
	uint32_t grace_ns; /* that interpreted code has from the asking on; likewise */
	uint64_t hooked;   /* CPU time when the fence asked for a hook, 0 none */
	uint64_t fault_pc; /* written by the signal handler */
	int fault_signal;
	char fault[256];
	unsigned blameless;               /* faults with no NF to blame */
	_Atomic(struct tw_vm *) given_up; /* given up by the fence; the control thread frees them */

	/* probation: the plan before; whoever takes it out, fence or control thread, decides */
	_Atomic(struct tw_lcore_plan *) before;
	struct tw_lcore_plan *falling; /* taken out by the fence, taken up at the end of the turn */
	uint32_t n_aside;
	struct tw_aside aside[TW_ASIDE_MAX];
	_Atomic bool fell; /* and why: */
	char fell_why[400];

	uint64_t next_tick;
	uint64_t clock_tsc, clock_ns, clock_mult; /* monotonic time from the TSC */
	uint64_t turn_tsc;                        /* when the current turn began */
	uint32_t turn_moved;                      /* packets since turn_tsc */
	uint32_t turn;
	uint32_t idle_streak;
	uint32_t n_emits;
	uint16_t emit_chain[TW_EMIT_MAX];
	struct tw_pkt emit[TW_EMIT_MAX];
	/* those of this turn, NULL: nothing is watched */
	const struct tw_watch_set *watches;
	bool resized;    /* the length of a packet of this burst changed */
	uint32_t n_dead; /* dropped packets, to be freed together */
	struct rte_mbuf *dead[TW_BURST_MAX];
	uint64_t tx_dirty; /* bit per port with packets in tx[] */
	struct tw_tx tx[TW_PORTS_MAX];

	/* thread */
	int slot, cpu;
	int epoll_ready; /* rx interrupts are armed */
	pthread_t thread;
	bool threaded;
	clockid_t cpu_clock;
	_Atomic bool stop, up;
	bool parked; /* stopped by a plan without it; it may run again */
	bool no_irq; /* it was said that a port gives no interrupts */
	int epoll;   /* of its wait for interrupts, -1: never waited */
	int wake;    /* eventfd that ends the wait */
	struct tw_order order[TW_ORDERS];
	_Atomic uint64_t ordered; /* number of the last order */
	uint64_t taken;           /* of the one that it follows */
	_Atomic uint64_t acked;   /* the same, for the control thread */
	uint64_t away_ns;         /* what taking it took; written before acked */
	uint32_t not_carried;
};

extern struct tw_lcore *_Atomic tw_lcore_table[TW_LCORES_MAX];
extern _Thread_local struct tw_lcore *tw_self;

/* lcore.c: one turn of the loop; number of packets moved. */
unsigned tw_lcore_turn(struct tw_lcore *lcore);
extern _Atomic bool tw_lcore_draining; /* ports are not read any more, rings are */
/* stop() of the NFs, drop what is held */
void tw_lcore_leave(struct tw_lcore *lcore, unsigned reason);
int tw_lcore_thread_start(struct tw_lcore *lcore);

/* idle.c: behind a turn that moved nothing */
void tw_lcore_idle(struct tw_lcore *lcore);
void tw_lcore_wake(struct tw_lcore *lcore); /* any thread: ends its wait for interrupts */
void tw_lcore_interrupts_forget(struct tw_lcore *lcore); /* its inputs will be others */

/* swap.c: on the lcore's thread */
void tw_swap_take(struct tw_lcore *lcore, uint64_t number);
/* The VM is gone and the plan before is to take over: packets that have not come to their end leave
 * the burst. hand: the one that the NF had, or NULL; counted: stage_in is right already. */
void tw_swap_set_aside(struct tw_lcore *lcore, unsigned chain, struct tw_pkt *hand, bool counted);
void tw_swap_fall_back(struct tw_lcore *lcore);
/* Counters of chains whose stages are elsewhere now. Whoever writes those of the slot. */
void tw_swap_map_counters(unsigned slot, const struct tw_swap *swap, bool backward);

/* fence.c: the only way into Lua on an lcore. */
int tw_fence_start(void);
void tw_fence_stop(void);
void tw_fence_thread_init(void);
/* Calls the function at the VM's stack position; 0, or a fault was handled: the NF is in
 * quarantine and the VM is new (or NULL). */
int tw_fence_enter(struct tw_lcore *lcore, int function);
/* The same for machine code that stands for a whole chain: on the burst, or on mbufs. */
struct tw_native_call {
	tw_native_fn fn;
	tw_native_mbufs_fn on_mbufs; /* NULL: fn */
	struct rte_mbuf **mbufs;
	int32_t count;
	uint16_t port;
};
int tw_fence_native(struct tw_lcore *lcore, const struct tw_native_call *call);
/* Calls export or import with numbers; 0, 1: raised, what is in lcore->fault; 2: it did not come
 * back and the VM is dead. Nothing is taken out. results values are on the stack after 0. */
int tw_fence_call(struct tw_lcore *lcore, int function, const double *args, int n, int results);
/* A new VM for the plan, which has none; it may fail. */
void tw_fence_rebuild(struct tw_lcore *lcore);
/* Control thread: frees the VMs that were given up. */
void tw_fence_reap(struct tw_lcore *lcore);

/* send.c */
void tw_dispatch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                      struct rte_mbuf *mbuf);
/* The same for what tw_watch_verdicts() has shown to the watches. */
void tw_dispatch_drop_seen(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                           struct rte_mbuf *mbuf);
void tw_dispatch_bury(struct tw_lcore *lcore); /* frees what was dropped */
/* Offers mbufs to a port or a ring at once; what it does not take is dropped. */
void tw_send_port(struct tw_lcore *lcore, unsigned chain, unsigned index, struct rte_mbuf **mbufs,
                  unsigned n, uint64_t bytes);
void tw_send_ring(struct tw_lcore *lcore, unsigned chain, unsigned index, struct rte_mbuf **mbufs,
                  unsigned n);
/* One more for a port, sent with the others of its burst by tw_send_flush(). */
void tw_send_queue(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned port,
                   struct rte_mbuf *mbuf);
void tw_send_flush(struct tw_lcore *lcore, unsigned chain);

/* dispatch.c */
/* Makes the burst of mbufs; returns their bytes, and in *segments more than 1 when one of them is
 * not linear. port TW_PORT_NONE: the one noted in the mbuf. */
uint64_t tw_dispatch_fill(struct tw_lcore *lcore, uint16_t port, struct rte_mbuf **mbufs,
                          unsigned n, bool *scattered);
/* Runs the burst through the chain; mbufs are its packets in order and bytes their sum; NULL when
 * they are resumed. */
void tw_dispatch_burst(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                       uint64_t bytes);
void tw_dispatch_direct(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs, unsigned n,
                        uint64_t bytes);
void tw_dispatch_emits(struct tw_lcore *lcore);

/* All packets leave by the port of the first one; false when that is none of the plan's. */
bool tw_dispatch_one_way(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                         uint64_t bytes);
/* Behind the chain: sends, drops and holds what the burst holds; mbufs as above, odd: not all of
 * them go on to the port of the first. */
void tw_dispatch_settle(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                        uint64_t bytes, bool odd);
/* Behind a fault: takes up the packets of the burst that have no verdict. counted: stage_in is
 * right already. */
void tw_dispatch_retry(struct tw_lcore *lcore, unsigned chain, bool counted);

static inline void tw_dispatch_begin(struct tw_lcore *lcore, unsigned chain)
{
	lcore->burst.chain = chain;
	lcore->burst.stage = 0;
	lcore->burst.odd = 0;
	lcore->resized = false;
}

/* The TSC costs as much to read as an NF takes, so one burst in some is timed. */
static inline bool tw_dispatch_is_timed(const struct tw_lcore *lcore, unsigned chain)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[chain];

	return lcore->stats->chain[spec->chain].bursts % TW_SAMPLE == TW_SAMPLE / 2;
}
void tw_dispatch_sample(struct tw_lcore *lcore, unsigned chain, unsigned packets, uint64_t cycles);

/* dispatch_mbufs.c: the same by machine code that runs straight on the mbufs of a port, without a
 * burst made of them; false when the chain has none. Their bytes are in burst.bytes behind it.
 * mbufs has room for TW_MBUFS_AHEAD more. */
bool tw_dispatch_mbufs(struct tw_lcore *lcore, unsigned chain, uint16_t port,
                       struct rte_mbuf **mbufs, unsigned n);

/* hold.c */
void tw_holds_close(void); /* no lcore runs */
int tw_hold_put(int queue, struct tw_lcore *lcore, unsigned chain, const struct tw_pkt *pkt);
/* Fill the burst with held packets of one chain that were released; number of packets. */
unsigned tw_hold_collect(struct tw_lcore *lcore, unsigned *chain);
void tw_hold_expire(struct tw_lcore *lcore, uint64_t now);
void tw_hold_flush(struct tw_lcore *lcore, unsigned reason); /* drop what this lcore holds */
/* What this lcore holds goes to the stages of another plan; lcore->plan is still the old one. */
void tw_hold_map(struct tw_lcore *lcore, const struct tw_lcore_plan *to, const struct tw_swap *swap,
                 bool backward);
