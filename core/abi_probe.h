/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_probe.h - the part of the boundary for measurements: stamps in frames, what a probe counts,
 * histograms; same conventions as abi.h, which includes it. Control thread only.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

/* ---- histograms: log-linear, as Gil Tene's HdrHistogram with 3 significant digits ---- */

/* Bucket v of [0, 2048) holds the value v alone; from there on each power of two is cut into 1024
 * buckets, so that a bucket is never wider than 1/1024 of its values. */
enum tw_histogram_limit {
	TW_HISTOGRAM_BITS = 42,       /* values below 2^42 have a bucket: ns up to 73 minutes */
	TW_HISTOGRAM_SUB = 1024,      /* buckets per power of two */
	TW_HISTOGRAM_BUCKETS = 33792, /* (TW_HISTOGRAM_BITS - 9) * TW_HISTOGRAM_SUB */
};

/* One writer at a time; others may read meanwhile by tw_histogram_merge(). All zero: empty. */
struct tw_histogram {
	uint64_t count;   /* values recorded */
	uint64_t sum;     /* of all values */
	uint64_t min;     /* smallest value, exact; 0 when empty */
	uint64_t max;     /* largest value, exact */
	uint64_t clipped; /* values of 2^42 and more: they are in the last bucket */
	uint64_t bucket[TW_HISTOGRAM_BUCKETS];
};

void tw_histogram_add(struct tw_histogram *histogram, uint64_t value, uint64_t times);
/* Adds what is in another one, which may be written meanwhile: count fits the buckets. */
void tw_histogram_merge(struct tw_histogram *to, const struct tw_histogram *from);
void tw_histogram_clear(struct tw_histogram *histogram);
uint64_t tw_histogram_lowest(uint32_t bucket);  /* smallest value that this bucket holds */
uint64_t tw_histogram_highest(uint32_t bucket); /* largest */
/* Smallest value v such that at least `fraction` of all values are v or less, as exact as its
 * bucket: the bucket's highest value, and never more than max. 0 when empty. */
uint64_t tw_histogram_quantile(const struct tw_histogram *histogram, double fraction);
/* The next bucket behind `bucket` (-1: the first) that holds something, or -1. */
int32_t tw_histogram_next(const struct tw_histogram *histogram, int32_t bucket);

/* ---- stamps: the last 16 bytes of a frame, host byte order ---- */

enum tw_stamp_limit { TW_STAMP_MAGIC = 0x5457, TW_STREAMS_MAX = 64 };

struct tw_stamp {
	uint16_t magic; /* TW_STAMP_MAGIC */
	uint8_t stream; /* number of the source, below TW_STREAMS_MAX */
	uint8_t epoch;  /* counts the starts of the source */
	uint32_t seq;   /* 0, 1, 2, ... from each start; wraps */
	uint64_t tsc;   /* when the packet was made */
};

/* ---- probes: on what a port receives, or sends ---- */

enum tw_probe_side { TW_PROBE_RX, TW_PROBE_TX };
enum tw_probe_limit {
	/* Sequence numbers behind the highest one that are remembered: in there a duplicate is told
	 * from a packet that comes late. */
	TW_PROBE_WINDOW = 65536,
};

/* One stream. received = unique + duplicated + old. */
struct tw_probe_stream {
	uint64_t received;
	uint64_t unique;     /* the first of each sequence number */
	uint64_t duplicated; /* copies of one that was received */
	uint64_t old;        /* too far behind the highest to tell which of both */
	uint64_t reordered;  /* unique ones behind a higher number: RFC 4737, 3.3 */
	uint64_t extent;     /* largest reordering extent: RFC 4737, 4.2 */
	uint64_t highest;    /* sequence number; wraps are counted in */
	uint64_t stale;      /* stamps of an earlier start of the source; not received */
	uint64_t ahead;      /* stamps from the future, by up to 1 ms: their latency counts as 0 */
	/* |difference| of the latencies, ns, of packets with consecutive numbers that came one
	 * behind the other (IPDV, RFC 5481) */
	uint64_t ipdv_pairs, ipdv_sum, ipdv_max;
	uint64_t epoch; /* of the source, as its stamps say */
};

struct tw_probe_info {
	uint64_t streams;        /* bit per stream that was received since the last reset */
	uint64_t foreign;        /* packets without a stamp */
	uint64_t device_clocked; /* of the others: those whose time is that of the device's clock */
	bool attached;           /* its queues are watched: the port has started */
	bool device_clock;       /* the device gives receive times, and they are used */
};

/* Watches what an open port receives from now on, or from its start on. Of a port that has not
 * started, times are those of the device where it has a clock; else, and of what is sent, the TSC.
 * 0 also when it is watched already. */
int tw_probe_open(int port, int side);
void tw_probe_close(int port, int side);
/* All counts start from 0. Lcores are not stopped. */
int tw_probe_reset(int port, int side);
int tw_probe_info(int port, int side, struct tw_probe_info *info);
int tw_probe_stream(int port, int side, uint32_t stream, struct tw_probe_stream *counters);
/* Adds the latencies, ns, of one stream, or with stream -1 of all. */
int tw_probe_latency(int port, int side, int stream, struct tw_histogram *to);
