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

/* What one lcore runs; immutable once published, but for the quarantine and the VM that the
 * fence replaces. */
struct tw_lcore_plan {
	uint64_t generation;
	struct tw_vm *vm;
	char *blob; /* to build the VM again after a fault */
	size_t blob_len;
	uint32_t burst, tx_retries; /* from tw_options, when the plan was made */
	uint32_t n_chains, n_inputs;
	struct tw_chain_spec chain[TW_CHAINS_MAX];
	struct tw_input_spec input[TW_INPUTS_MAX];
	uint32_t quarantine[TW_CHAINS_MAX]; /* bit per stage */
	uint16_t tx_queue[TW_PORTS_MAX];
	bool tx_shared[TW_PORTS_MAX]; /* the queue is shared with another lcore: lock it */
};

struct tw_tx { /* packets of the current burst for one port */
	uint32_t count;
	struct rte_mbuf *mbuf[TW_BURST_MAX * 2];
};

enum tw_fence_phase { TW_FENCE_QUIET, TW_FENCE_HOOK, TW_FENCE_JUMP };

struct tw_lcore {
	struct tw_burst burst;
	struct tw_lcore_plan *plan;
	struct tw_lcore_stats *stats;
	struct tw_stats *shared;

	/* fence: seq is odd while Lua runs; written by the lcore, read by the watchdog */
	_Atomic uint64_t seq;
	_Atomic uint64_t stall_seq; /* entry the watchdog wants to end; written by it */
	_Atomic int phase;          /* enum tw_fence_phase; written by the watchdog */
	sigjmp_buf jump;
	uint64_t hooked;   /* CPU time when the fence asked for a hook, 0 none */
	uint64_t fault_pc; /* written by the signal handler */
	int fault_signal;
	char fault[256];
	unsigned blameless; /* faults with no NF to blame */

	uint64_t next_tick;
	uint64_t clock_tsc, clock_ns, clock_mult; /* monotonic time from the TSC */
	uint64_t turn_tsc;                        /* when the current turn began */
	uint32_t turn_moved;                      /* packets since turn_tsc */
	uint32_t turn;
	uint32_t idle_streak;
	uint32_t n_emits;
	uint16_t emit_chain[TW_EMIT_MAX];
	struct tw_pkt emit[TW_EMIT_MAX];
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
	_Atomic(struct tw_lcore_plan *) next;
	_Atomic uint64_t acked; /* generation that runs */
};

extern struct tw_lcore *tw_lcore_table[TW_LCORES_MAX];
extern _Thread_local struct tw_lcore *tw_self;

/* lcore.c: one turn of the loop; number of packets moved. */
unsigned tw_lcore_turn(struct tw_lcore *lcore);
extern _Atomic bool tw_lcore_draining;       /* ports are not read any more, rings are */
void tw_lcore_leave(struct tw_lcore *lcore); /* stop() of the NFs, drop what is held */
int tw_lcore_thread_start(struct tw_lcore *lcore);

/* fence.c: the only way into Lua on an lcore. */
int tw_fence_start(void);
void tw_fence_stop(void);
void tw_fence_thread_init(void);
/* Calls the function at the VM's stack position; 0, or a fault was handled: the NF is in
 * quarantine and the VM is new (or NULL). */
int tw_fence_enter(struct tw_lcore *lcore, int function);
/* The same for machine code that stands for a whole chain. */
int tw_fence_native(struct tw_lcore *lcore, tw_native_fn fn);

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
void tw_dispatch_bury(struct tw_lcore *lcore);
void tw_dispatch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                      struct rte_mbuf *mbuf);

/* hold.c */
int tw_hold_put(int queue, struct tw_lcore *lcore, unsigned chain, const struct tw_pkt *pkt);
/* Fill the burst with held packets of one chain that were released; number of packets. */
unsigned tw_hold_collect(struct tw_lcore *lcore, unsigned *chain);
void tw_hold_expire(struct tw_lcore *lcore, uint64_t now);
void tw_hold_flush(struct tw_lcore *lcore); /* drop what this lcore holds */
