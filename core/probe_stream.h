/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * probe_stream.h - streams of stamped packets, as a probe counts them.
 *
 * What is counted of a stream lies in one of two states. The control thread empties the spare one
 * and orders the lcore to take it, which is how counts start anew under lcores that run. Nothing
 * waits for anything, unless streams come by several queues: then each has a lock, taken once per
 * burst.
 */
#pragma once
#include "abi.h"

#ifndef ALLOW_EXPERIMENTAL_API
#define ALLOW_EXPERIMENTAL_API /* rte_seqcount, in DPDK since 22.07 */
#endif
#include <rte_seqcount.h>
#include <rte_spinlock.h>

struct rte_mbuf;
struct tw_stream_state;

struct tw_stream {
	struct tw_stream_state *active, *spare; /* changed by the lcore */
	rte_seqcount_t version;                 /* of *active and all here; the lcore writes */
	rte_spinlock_t lock; /* between lcores, when there is more than one queue */
	_Atomic bool
		spare_clean; /* true: the control thread has emptied it, the lcore may take it */
	_Atomic uint32_t ordered; /* the control thread: times the stream is to start anew */
	_Atomic uint32_t done;    /* the lcore, at the next packet: those it has done */
} __rte_cache_aligned;

/* A device's clock: tsc = tsc0 + (ticks - ticks0) * ratio. */
struct tw_device_clock {
	uint64_t tsc0, ticks0;
	double ratio;
};

/* How a probe tells the time. */
struct tw_timing {
	uint64_t ns_mult; /* ns of a tick << TW_NS_SHIFT */
	uint64_t oldest;  /* ticks: a stamp that is older is none */
	uint64_t ahead;   /* ticks: clocks of CPUs differ; a stamp further in the future is none */
	bool device;      /* a device notes receive times in its mbufs: */
	int field;
	uint64_t flag;
	struct tw_device_clock clock[2]; /* the control thread writes the one that is not used */
	_Atomic unsigned clock_used;
};
#define TW_NS_SHIFT 32

/* Of a queue; one writer. */
struct tw_looked {
	uint64_t foreign;   /* packets without a stamp */
	uint64_t by_device; /* packets whose time is that of the device's clock */
};

/* Memory for so many streams, of which only what is written to becomes real; NULL: none. */
void *tw_streams_new(struct tw_stream *streams, unsigned n);
void tw_streams_free(void *memory, unsigned n);

/* A burst goes by: on lcores; shared: there is more than one queue. */
void tw_streams_look(struct tw_stream *streams, const struct tw_timing *timing,
                     struct tw_looked *looked, bool shared, struct rte_mbuf **mbufs, unsigned n);

/* Control thread. */
void tw_stream_reset(struct tw_stream *stream);
void tw_stream_counters(struct tw_stream *stream, struct tw_probe_stream *counters);
/* Adds its latencies. */
void tw_stream_latency(const struct tw_stream *stream, struct tw_histogram *to);
