/* SPDX-License-Identifier: BSD-3-Clause */
/* source_queue.h - a source and its queues: what the control thread and the lcores that poll it
 * share. */
#pragma once
#include "pace.h"
#include "source_make.h"

#include <stdatomic.h>

#include <rte_common.h>

struct tw_port;
struct rte_eth_rxtx_callback;

#define TW_SOURCE_NS_SHIFT 32 /* of queue.ns_mult */

/* Written by the lcore that polls the queue; where not said otherwise the control thread reads it.
 */
struct tw_source_queue {
	struct tw_source *source;
	_Atomic uint64_t taken; /* the order that it follows */
	_Atomic bool active;    /* it makes packets, and uses source->program */
	bool paced, limited;
	uint64_t left; /* packets to go, when limited */
	/* end: of what it did; while paced, of the schedule as far as it was served */
	_Atomic uint64_t packets, bytes, skipped, no_buffer, begin, end;
	struct tw_histogram *late; /* cleared by the control thread while not active */
	uint64_t ns_mult;          /* nanoseconds of a TSC cycle, in fixed point */
	struct rte_mempool *pool;
	const struct rte_eth_rxtx_callback *callback;
	struct tw_pace pace;
	struct tw_maker maker;
};

/* What is to be done, as words that can be read while they are written. */
union tw_source_orders {
	struct {
		struct tw_source_run run;
		uint32_t on, epoch;
	};
	uint64_t word[5];
};
_Static_assert(sizeof(union tw_source_orders) == sizeof(((union tw_source_orders *)0)->word),
               "all of it is words");

struct tw_source {
	bool used, orphan; /* orphan: to be freed with its port */
	bool streams;      /* its streams are its own: until its port is closed */
	uint32_t queues_max, mbufs, stream;
	struct tw_port *port;
	struct tw_source_queue *queue[TW_STREAMS_MAX];
	uint32_t queues; /* that are attached */
	struct tw_program *program;
	/* written by the control thread: odd while `to` is written */
	_Atomic uint64_t order;
	_Atomic uint64_t to[RTE_DIM(((union tw_source_orders *)0)->word)];
	union tw_source_orders ordered; /* the same for the control thread */
};

static inline void tw_word_set(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline uint64_t tw_word_get(_Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed);
}

/* source_poll.c: fills a burst of a queue, which is arg, on the lcore that polls it. */
uint16_t tw_source_poll(uint16_t port, uint16_t index, struct rte_mbuf **mbufs, uint16_t n,
                        uint16_t max, void *arg);
