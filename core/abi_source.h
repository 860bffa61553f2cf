/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_source.h - the part of the boundary for sources: ports whose packets are made here. What the
 * packets look like, when they come, how many there were; same conventions as abi.h, which includes
 * it. Control thread only.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#include "abi_probe.h"
#endif

enum tw_source_limit {
	TW_SOURCES_MAX = 64,
	TW_SOURCE_INDEXES_MAX = 16,
	TW_SOURCE_FIELDS_MAX = 32,
	TW_SOURCE_SUMS_MAX = 4,
	TW_SOURCE_SPANS_MAX = 4,
	TW_SOURCE_ZIPF_MAX = 1 << 24, /* values of a zipf index: 8 bytes each */
	TW_SOURCE_STAMP_BYTES = 16,
};

/* ---- traffic: frames, and what varies in them ---- */

/* Yields a number in [0, n) for each packet. */
enum tw_source_index_kind {
	TW_SOURCE_COUNT,  /* 0, 1, ... n - 1, 0, ...; goes on after `every` packets */
	TW_SOURCE_RANDOM, /* all alike */
	TW_SOURCE_ZIPF,   /* i with a probability proportional to 1 / (i + 1)^skew */
};
struct tw_source_index {
	uint32_t kind; /* enum tw_source_index_kind */
	uint32_t unused;
	uint64_t n; /* 1..2^32 */
	uint64_t every;
	uint64_t seed;
	double skew;
};

/* What the number of an index becomes in the frame. */
enum tw_source_field_kind {
	TW_SOURCE_STEP,    /* base + (step * i >> right) */
	TW_SOURCE_LIST,    /* list[i % count] */
	TW_SOURCE_SCATTER, /* base + r(i) with r(i) in [0, count), which looks random */
};
struct tw_source_field {
	uint32_t at;   /* offset in the frame */
	uint8_t bytes; /* 1..8, big-endian */
	uint8_t kind;  /* enum tw_source_field_kind */
	uint8_t index; /* position in indexes */
	uint8_t sums;  /* bit per position in sums: those that it counts for */
	uint64_t mask; /* bits of the value that are written */
	uint64_t base, step, count, seed;
	const uint64_t *list;
	uint64_t right; /* 0..31; of fields of at most 4 bytes the product has 32 bits */
};

/* An Internet checksum (RFC 1071), kept right. */
struct tw_source_span {
	uint32_t at, bytes;
};
struct tw_source_sum {
	uint32_t at;     /* of the checksum */
	uint32_t from;   /* of the first byte that counts */
	uint32_t length; /* 0: to the end of the IP packet that it is in */
	uint32_t spans;  /* of the pseudo header, in span[] */
	struct tw_source_span span[TW_SOURCE_SPANS_MAX];
	uint8_t protocol; /* of the pseudo header; with spans only */
	bool udp;         /* 0 is sent as 0xffff (RFC 768) */
};

struct tw_source_traffic {
	const uint8_t *bytes;    /* all frames, one behind the other */
	const uint32_t *lengths; /* of each */
	const uint32_t *order;   /* which frame the i-th packet is, cyclic; NULL: in turn */
	uint32_t n_frames, n_order;
	uint32_t n_indexes, n_fields, n_sums;
	bool stamp; /* the last 16 bytes are a struct tw_stamp */
	const struct tw_source_index *indexes;
	const struct tw_source_field *fields;
	const struct tw_source_sum *sums;
};

/* ---- sources ---- */

/* A source for the port with devargs "sourceN": so many queues at most, and packet buffers for
 * each. Returns N. Its queues are streams of their own in stamps, the first one is
 * tw_source_stream(): another one when its port was closed and is opened again. */
int tw_source_new(uint32_t queues, uint32_t mbufs);
int tw_source_stream(uint32_t source);
/* At once, or when its port is closed. */
int tw_source_free(uint32_t source);
/* What it makes from the next start on; bytes_max bounds the memory for it. -EBUSY while it runs.
 */
int tw_source_traffic(uint32_t source, const struct tw_source_traffic *traffic, uint64_t bytes_max);

double tw_source_frame_bytes(uint32_t source); /* of a frame, on the average */

enum tw_spacing { TW_SPACING_CBR, TW_SPACING_POISSON, TW_SPACING_BURST };

struct tw_source_run {
	double rate;      /* packets per second of all queues; 0: as many as are asked for */
	uint32_t spacing; /* enum tw_spacing */
	uint32_t burst;   /* packets of a burst */
	uint64_t count;   /* packets of all queues; 0: no end */
	/* Behind the schedule by more than this, ns, packets are left out and counted as skipped.
	 */
	uint64_t catch_up;
};
/* Lcores take it up at their next poll. -EBUSY while it runs. */
int tw_source_start(uint32_t source, const struct tw_source_run *run);
int tw_source_stop(uint32_t source);

struct tw_source_counters {
	uint64_t packets, bytes; /* made since the last start */
	uint64_t skipped;        /* left out: the lcore was away too long, or is too slow */
	uint64_t no_buffer;      /* times that a packet was due and no buffer was free */
	uint64_t begin, end;     /* TSC: from the first poll; to the end of the last gap, or now */
	uint32_t queues;         /* that lcores poll; 0: the port is not started */
	uint8_t epoch;
	bool running; /* an lcore makes packets, or has not yet heard that it should */
};
/* The widest vectors that sources use from their next start on, where the CPU has them: 128, 256 or
 * 512 bits (the default). What they make is the same. */
void tw_source_vectors(uint32_t bits);
/* Of one queue, or with queue -1 of all. */
int tw_source_counters(uint32_t source, int queue, struct tw_source_counters *counters);
/* ns from the time a packet was due until it was handed over; adds all queues to *to. */
int tw_source_precision(uint32_t source, struct tw_histogram *to);
