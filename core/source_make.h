/* SPDX-License-Identifier: BSD-3-Clause */
/* source_make.h - traffic as sources run it, and what each queue remembers from burst to burst. */
#pragma once
#include "abi.h"

#include <rte_mbuf.h>

#define TW_MAKE_BURST 64u  /* packets at a time */
#define TW_MAKE_AHEAD 256u /* packets for which that which varies is computed in one go */

/* A frame. Sums count bytes as they lie in memory, little-endian words. */
struct tw_frame {
	uint32_t len;
	uint32_t copy; /* bytes to copy: len, or more where that is faster */
	/* by sum: what it comes to with all that varies zero; 1 or 256 when the stamp counts for it
	 * (at an even or odd distance), 0 when not */
	uint32_t base[TW_SOURCE_SUMS_MAX];
	uint16_t stamp[TW_SOURCE_SUMS_MAX];
	uint8_t bytes[];
};
#define TW_FRAME_UNIT 32u /* frames begin at multiples of this in tw_program.frames */

/* The alias method (Walker 1977; Vose 1991): column i holds i up to the threshold, alias above. */
struct tw_alias {
	uint32_t threshold, alias;
};

struct tw_made_index {
	uint32_t kind;
	uint64_t n, every, seed;
	struct tw_alias *alias;
};

/* What varies is put together in windows, 8 bytes at a multiple of 8, and these are written.
 * Something of up to 8 bytes begins in one and may end in the next one. */
#define TW_WINDOWS_MAX (2 * (TW_SOURCE_FIELDS_MAX + TW_SOURCE_SUMS_MAX))
struct tw_part {
	uint8_t window, shift; /* its first one; of the value in that, in bits */
	bool goes_on;          /* in the next one */
};

struct tw_made_field {
	struct tw_part part;
	uint8_t kind, index, sums;
	bool wide;     /* more than 32 bits */
	uint8_t shift; /* of the value with its bytes swapped: unused low bytes */
	uint8_t odd;   /* bit per sum: lies at an odd distance */
	uint64_t mask; /* as it lies in memory */
	uint64_t base, step, count, seed, right;
	uint64_t *list;
};

struct tw_made_sum {
	struct tw_part part;
	bool udp;
	bool fixed;   /* nothing that varies counts for it: it is written to the frames at once */
	uint8_t slot; /* of base[] and stamp[] */
	uint8_t over; /* bit per slot: later ones that this checksum itself counts for */
	uint8_t odd;  /* of these, those it lies at an odd distance of */
};

/* Traffic, checked and made ready; nobody writes it while a queue runs it. */
struct tw_program {
	uint8_t *frames;
	uint32_t *order; /* positions in frames, in TW_FRAME_UNIT */
	uint32_t n_order;
	uint32_t n_indexes, n_fields, n_sums, n_windows;
	bool stamp;
	bool alike; /* one frame only */
	uint32_t longest;
	double mean; /* bytes of a frame */
	struct tw_made_index index[TW_SOURCE_INDEXES_MAX];
	struct tw_made_field field[TW_SOURCE_FIELDS_MAX];
	struct tw_made_sum sum[TW_SOURCE_SUMS_MAX]; /* inner ones first; none that is fixed */
	uint16_t window[TW_WINDOWS_MAX];            /* where each begins in the frame */
};

/* source_traffic.c: NULL, and why in tw_error(). room: bytes that fit a packet buffer. */
struct tw_program *tw_program_new(const struct tw_source_traffic *traffic, uint64_t bytes_max,
                                  uint32_t room);
void tw_program_free(struct tw_program *program);

/* Where an index is. */
struct tw_make_index {
	uint64_t at, phase;      /* count: the next number; packets since it was new */
	uint64_t hop, phase_hop; /* from one packet of this queue to its next one */
	uint64_t drawn;          /* random numbers so far */
};

struct tw_maker;
/* Writes n packets, at most TW_MAKE_BURST, into mbufs fresh from their pool; returns their bytes.
 * *tsc: when they were finished, where timed is set or they have stamps. */
typedef uint64_t (*tw_fill_fn)(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n,
                               bool timed, uint64_t *tsc);

/* What one queue remembers. Of Q queues queue q makes packets q, q + Q, q + 2 Q, ... of the source,
 * so that all together make what a single one would. */
struct tw_maker {
	const struct tw_program *program;
	tw_fill_fn fill; /* for the vectors that this CPU has */
	uint32_t queue, queues;
	uint32_t order_at;
	uint32_t seq;
	uint8_t stream, epoch;
	bool avx2;     /* what this CPU has */
	uint16_t port; /* of the mbufs */
	struct tw_make_index index[TW_SOURCE_INDEXES_MAX];
	/* computed for this many packets, of which so many were made */
	uint32_t ready, used;
	const struct tw_frame *frame[TW_MAKE_AHEAD];
	uint32_t value[TW_SOURCE_INDEXES_MAX][TW_MAKE_AHEAD] __rte_aligned(64);
	uint32_t sum[TW_SOURCE_SUMS_MAX][TW_MAKE_AHEAD] __rte_aligned(64);
	uint64_t window[TW_WINDOWS_MAX][TW_MAKE_AHEAD] __rte_aligned(64);
};

void tw_maker_begin(struct tw_maker *maker, const struct tw_program *program, uint32_t queue,
                    uint32_t queues);
