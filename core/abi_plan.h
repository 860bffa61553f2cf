/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_plan.h - the part of the boundary for plans: what lcores run, and how that is exchanged while
 * they run; same conventions as abi.h, which includes it. Control thread only.
 *
 * A plan is built off the data path, published to all lcores as one generation and acknowledged by
 * each of them between two bursts. The plan that ran before is kept on probation: an NF of the new
 * one that faults makes its lcore fall back by itself, and the control thread rolls the others
 * back. After tw_plan_settle() the old plan is gone.
 *
 * Everything that a stage of the old plan has (counters, held packets, quarantine, Lua state)
 * belongs to the stage of the new plan that names it in tw_chain_spec.from. What belongs to nobody
 * any more goes to TW_STAGE_GONE, TW_CHAIN_GONE and TW_PORT_GONE, so that the sums stay exact.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_gone {
	TW_STAGE_GONE = 22,  /* counters of NFs that were removed; so a chain has 22 NFs at most */
	TW_CHAIN_GONE = 31,  /* counters of chains that were removed; no chain has this index */
	TW_PORT_GONE = 63,   /* counters of ports that were removed; no port has this index */
	TW_STAGE_NEW = 0xff, /* tw_chain_spec.from: continues no stage */
};

enum tw_endpoint { TW_END_NONE, TW_END_PORT, TW_END_RING };

struct tw_chain_spec {
	uint16_t chain;     /* index, < TW_CHAIN_GONE */
	uint16_t sink_kind; /* enum tw_endpoint */
	uint16_t sink;      /* port or ring index */
	uint16_t kernel;    /* port for TW_PASS, or TW_PORT_NONE */
	uint16_t stages;
	uint8_t code;                  /* 0: no NF, packets go straight to the sink */
	uint8_t native;                /* 1: the chain's first native word is the whole chain */
	uint64_t flood_ports;          /* bit per port index */
	uint8_t bypass[TW_STAGES_MAX]; /* 1: an NF that faults is bypassed, 0: it drops */
	/* The stage that this one continues, of the chain with the same index in the plan that
	 * runs; TW_STAGE_NEW: none. The same for this chain on all lcores. Not looked at when no
	 * plan runs or it has no such chain. */
	uint8_t from[TW_STAGES_MAX];
	/* 1: made anew although it continues a stage: its faults on probation make the lcore fall
	 * back, and it is not in quarantine because the old one was. A new stage is fresh anyway.
	 */
	uint8_t fresh[TW_STAGES_MAX];
	/* 1: export() of the NF it continues is called at the switch, and import(state) of this
	 * one with the result, both on the lcore. */
	uint8_t carry[TW_STAGES_MAX];
	char name[TW_STAGES_MAX][TW_NAME_LEN]; /* of each NF, as counters show it */
	char where[TW_STAGES_MAX][96];         /* file:line of each NF */
};

struct tw_input_spec {
	uint16_t kind; /* enum tw_endpoint */
	uint16_t index;
	uint16_t queue;
	uint16_t chain; /* position in the lcore's chain list */
};

struct tw_plan;
struct tw_plan *tw_plan_new(void);
/* cpu >= 0: a thread pinned to that CPU; cpu < 0: stepped by the caller with tw_lcore_step(); -1 is
 * the first one, -2 the second. An lcore that runs gets this as its new plan. blob: what
 * tideway.transfer packed; the lcore's VM is built from it. Returns the lcore's slot. */
int tw_plan_add_lcore(struct tw_plan *plan, int cpu, const struct tw_chain_spec *chains,
                      uint32_t n_chains, const struct tw_input_spec *inputs, uint32_t n_inputs,
                      const char *blob, size_t blob_len);
/* This lcore goes on with what it runs, VM, machine code and all. Returns its slot. */
int tw_plan_keep_lcore(struct tw_plan *plan, int cpu);
/* No lcore sends to this port once the plan is published; all others that are started then are
 * ports of the plan. */
void tw_plan_without_port(struct tw_plan *plan, int port);
/* The plan's bank of native words, for tw_native_words(); plan NULL: that of the plan that runs.
 * Known, and to be published into, from tw_plan_new() on until the plan is freed. */
uint32_t tw_plan_bank(const struct tw_plan *plan);
void tw_plan_free(struct tw_plan *plan); /* one that was never published */

/* What a publication took. */
struct tw_publish {
	uint64_t generation;
	uint64_t ns;       /* from the first lcore told to the last one's acknowledgement */
	uint64_t worst_ns; /* the longest an lcore was away from its packets: mapping, carrying */
	uint32_t lcores;   /* that took the plan */
	uint32_t kept;     /* that went on with what they run */
	uint32_t started, stopped;
	uint32_t not_carried; /* stages whose state was not carried over; the log says why */
};

/* Takes ownership; returns when every lcore runs it. Lcores of the plan before that are neither
 * added nor kept are stopped first. The plan before goes on probation; one that is on probation
 * still is settled first. out may be NULL. On failure what ran before runs again, the plan is
 * freed. Sets tw_chain_info.quarantined of its chains; names are the caller's. */
int tw_plan_publish(struct tw_plan *plan, struct tw_publish *out);

/* 1 while a plan is kept to fall back to. */
int tw_plan_on_probation(void);
/* 1, once, when an lcore has fallen back by itself since the publication, with why: to be asked
 * often while on probation. Then call tw_plan_rollback(). */
int tw_plan_fell_back(char *why, size_t size);
/* The new plan is good: frees the old one (and its native words). -EAGAIN: an lcore has fallen
 * back. */
int tw_plan_settle(void);
/* Publishes the plan before again, as a new generation: counters and holds are mapped backwards,
 * state is carried back where the new NF is whole. Frees the new plan. */
int tw_plan_rollback(struct tw_publish *out);

/* Counters of chains and ports that no plan has any more go to TW_CHAIN_GONE, TW_PORT_GONE; the
 * index may be used again then. -EBUSY while a plan (also one kept on probation) has it. */
int tw_chain_gone(int chain);
int tw_port_gone(int port);

/* Kills the process, as kill -9 does, when the environment variable TIDEWAY_KILL_AT has this name:
 * what specs do to a change at its marked points. */
void tw_mark(const char *name);
