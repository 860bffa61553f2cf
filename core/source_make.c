/* SPDX-License-Identifier: BSD-3-Clause */
/* source_make.c - packets of a source, a burst at a time: what varies is computed for many of them,
 * then frames are copied and it is put into them. */
#include "source_vary.h"

#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <rte_byteorder.h>
#include <rte_cycles.h>

_Static_assert(offsetof(struct rte_mbuf, ol_flags) == offsetof(struct rte_mbuf, rearm_data) + 8 &&
                       offsetof(struct rte_mbuf, rx_descriptor_fields1) ==
                               offsetof(struct rte_mbuf, rearm_data) + 16 &&
                       offsetof(struct rte_mbuf, pkt_len) ==
                               offsetof(struct rte_mbuf, rearm_data) + 20,
               "set_head() writes this part of struct rte_mbuf");
_Static_assert(RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN, "sums and stores are little-endian");
_Static_assert(sizeof(struct tw_frame) == TW_FRAME_UNIT, "bytes begin at a multiple of the unit");
_Static_assert(sizeof(struct tw_stamp) == TW_SOURCE_STAMP_BYTES, "a stamp is two words");

/* ---- packets ---- */

/* Which frame each packet is. */
HOT void choose(struct tw_maker *maker, unsigned n)
{
	const struct tw_program *program = maker->program;
	uint32_t at = maker->order_at, hop = maker->queues % program->n_order;

	for (unsigned i = 0; i < n; i++) {
		maker->frame[i] = (const void *)(program->frames +
		                                 (size_t)program->order[at] * TW_FRAME_UNIT);
		at += hop;
		at -= at >= program->n_order ? program->n_order : 0;
	}
	maker->order_at = at;
}

/* Sums begin with what is fixed in the frame, windows with the frame's own bytes where all frames
 * are alike. */
HOT void prepare(struct tw_maker *maker, unsigned n)
{
	const struct tw_program *program = maker->program;
	const struct tw_frame *first = (const struct tw_frame *)program->frames;

	for (unsigned w = 0; w < program->n_windows; w++) {
		uint64_t *window = maker->window[w], bytes = 0;

		if (program->alike)
			memcpy(&bytes, first->bytes + program->window[w], sizeof(bytes));
		FOR_ALL (i, n)
			window[i] = bytes;
	}
	for (unsigned k = 0; k < program->n_sums; k++) {
		unsigned s = program->sum[k].slot;
		uint32_t *sum = maker->sum[s], base = first->base[s];

		if (program->alike)
			FOR_ALL (i, n)
				sum[i] = base;
		else
			for (unsigned i = 0; i < n; i++)
				sum[i] = maker->frame[i]->base[s];
	}
}

typedef uint64_t pair __attribute__((vector_size(16)));
typedef uint64_t half __attribute__((vector_size(32))); /* of 64 bytes */

/* What drivers write of an mbuf, as they do it, in two stores: data_off, refcnt, nb_segs and port,
 * ol_flags; packet_type, pkt_len, data_len, vlan_tci, hash. next and refcnt are right in mbufs that
 * come from the pool. */
HOT void set_head(struct rte_mbuf *mbuf, uint64_t rearm, uint64_t len)
{
	pair first = { rearm, 0 }, second = { len << 32, len };

	memcpy(&mbuf->rearm_data, &first, sizeof(first));
	memcpy(&mbuf->rx_descriptor_fields1, &second, sizeof(second));
}

HOT void set_stamp(uint8_t *end, uint64_t stamp, uint64_t tsc)
{
	pair words = { stamp, tsc };

	memcpy(end - sizeof(words), &words, sizeof(words));
}

HOT void copy_frame(uint8_t *to, const struct tw_frame *frame)
{
	uint32_t at = 0;

	for (; at + 64 <= frame->copy; at += 64)
		memcpy(to + at, frame->bytes + at, 64);
	if (at < frame->copy)
		memcpy(to + at, frame->bytes + at, frame->copy - at);
}

/* All packets are one frame, with so many windows. A frame of up to 64 bytes stays in registers. */
HOT void write_alike(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n, uint64_t rearm,
                     uint64_t tsc, bool small, const unsigned windows)
{
	const struct tw_program *program = maker->program;
	const struct tw_frame *frame = (const struct tw_frame *)program->frames;
	uint64_t stamp = stamp_of(maker) | (uint64_t)maker->seq << 32;
	const bool stamped = program->stamp;
	const uint32_t len = frame->len;
	const uint64_t(*window)[TW_MAKE_AHEAD] = (const void *)&maker->window[0][maker->used];
	uint32_t place[TW_WINDOWS_MAX];
	half first, second;

	for (unsigned w = 0; w < windows; w++)
		place[w] = program->window[w];
	memcpy(&first, frame->bytes, sizeof(first));
	memcpy(&second, frame->bytes + sizeof(first), sizeof(second));
	for (unsigned i = 0; i < n; i++) {
		uint8_t *data = (uint8_t *)mbufs[i]->buf_addr + RTE_PKTMBUF_HEADROOM;

		set_head(mbufs[i], rearm, len);
		if (small) {
			memcpy(data, &first, sizeof(first));
			memcpy(data + sizeof(first), &second, sizeof(second));
		} else {
			copy_frame(data, frame);
		}
		for (unsigned w = 0; w < windows; w++)
			memcpy(data + place[w], &window[w][i], 8);
		if (stamped)
			set_stamp(data + len, stamp + ((uint64_t)i << 32), tsc);
	}
}

#ifdef __x86_64__
#define AVX512 target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")

/* The same for a frame of up to 64 bytes, which is one register: its windows are put into that. */
__attribute__((AVX512)) static inline void write_small_avx512(struct tw_maker *maker,
                                                              struct rte_mbuf **mbufs, unsigned n,
                                                              uint64_t rearm, uint64_t tsc,
                                                              const unsigned windows)
{
	const struct tw_program *program = maker->program;
	const struct tw_frame *frame = (const struct tw_frame *)program->frames;
	const uint64_t(*window)[TW_MAKE_AHEAD] = (const void *)&maker->window[0][maker->used];
	uint64_t stamp = stamp_of(maker) | (uint64_t)maker->seq << 32;
	const __m512i bytes = _mm512_loadu_si512(frame->bytes);
	const bool stamped = program->stamp;
	const uint32_t len = frame->len;
	__mmask8 lane[TW_WINDOWS_MAX];

	for (unsigned w = 0; w < windows; w++)
		lane[w] = (__mmask8)(1u << program->window[w] / 8);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *data = (uint8_t *)mbufs[i]->buf_addr + RTE_PKTMBUF_HEADROOM;
		__m512i packet = bytes;

		set_head(mbufs[i], rearm, len);
		for (unsigned w = 0; w < windows; w++)
			packet = _mm512_mask_broadcastq_epi64(packet, lane[w],
			                                      _mm_loadl_epi64(
								      (const void *)&window[w][i]));
		_mm512_storeu_si512(data, packet);
		if (stamped)
			set_stamp(data + len, stamp + ((uint64_t)i << 32), tsc);
	}
}

__attribute__((AVX512)) static void write_avx512(struct tw_maker *maker, struct rte_mbuf **mbufs,
                                                 unsigned n, uint64_t rearm, uint64_t tsc)
{
	/* The usual numbers of windows, so that their masks stay in registers. */
	switch (maker->program->n_windows) {
	case 1:
		write_small_avx512(maker, mbufs, n, rearm, tsc, 1);
		return;
	case 2:
		write_small_avx512(maker, mbufs, n, rearm, tsc, 2);
		return;
	case 3:
		write_small_avx512(maker, mbufs, n, rearm, tsc, 3);
		return;
	default:
		write_small_avx512(maker, mbufs, n, rearm, tsc, maker->program->n_windows);
	}
}
#endif

#define AHEAD 4u /* frames of a pcap are in no cache */

HOT uint64_t write_each(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n, uint64_t rearm,
                        uint64_t tsc)
{
	const struct tw_program *program = maker->program;
	const struct tw_frame *const *frames = maker->frame + maker->used;
	uint64_t stamp = stamp_of(maker) | (uint64_t)maker->seq << 32, bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct tw_frame *frame = frames[i];
		uint8_t *data = (uint8_t *)mbufs[i]->buf_addr + RTE_PKTMBUF_HEADROOM;

		if (maker->used + i + AHEAD < maker->ready) {
			rte_prefetch0(frames[i + AHEAD]);
			rte_prefetch0(frames[i + AHEAD]->bytes + 32);
		}
		set_head(mbufs[i], rearm, frame->len);
		copy_frame(data, frame);
		for (unsigned w = 0; w < program->n_windows; w++) {
			uint64_t word;

			memcpy(&word, frame->bytes + program->window[w], sizeof(word));
			word |= maker->window[w][maker->used + i];
			memcpy(data + program->window[w], &word, sizeof(word));
		}
		if (program->stamp)
			set_stamp(data + frame->len, stamp + ((uint64_t)i << 32), tsc);
		bytes += frame->len;
	}
	return bytes;
}

HOT uint64_t write_all(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n, uint64_t tsc,
                       const bool avx512)
{
	const struct tw_program *program = maker->program;
	const struct tw_frame *frame = (const struct tw_frame *)program->frames;
	/* data_off, refcnt, nb_segs, port */
	uint64_t rearm = RTE_PKTMBUF_HEADROOM | 1ull << 16 | 1ull << 32 |
	                 (uint64_t)maker->port << 48;

	(void)avx512; /* of other machines */
	if (!program->alike)
		return write_each(maker, mbufs, n, rearm, tsc);
	if (frame->copy != 64)
		write_alike(maker, mbufs, n, rearm, tsc, false, program->n_windows);
#ifdef __x86_64__
	else if (avx512)
		write_avx512(maker, mbufs, n, rearm, tsc);
#endif
	else if (program->n_windows == 3)
		write_alike(maker, mbufs, n, rearm, tsc, true, 3);
	else
		write_alike(maker, mbufs, n, rearm, tsc, true, program->n_windows);
	return (uint64_t)n * frame->len;
}

/* What varies in the next n packets. */
HOT void compute(struct tw_maker *maker, unsigned n, uint64_t *tsc)
{
	const struct tw_program *program = maker->program;

	if (!program->alike)
		choose(maker, n);
	prepare(maker, n);
	indexes(maker, n);
	for (unsigned f = 0; f < program->n_fields; f++) {
		if (program->field[f].wide)
			field64(maker, &program->field[f], n);
		else
			field32(maker, &program->field[f], n);
	}
	if (program->stamp) {
		*tsc = rte_rdtsc();
		stamps(maker, n, *tsc);
	}
	checksums(maker, n);
	maker->ready = n;
	maker->used = 0;
}

HOT uint64_t fill(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n, bool timed,
                  uint64_t *tsc, const bool avx512)
{
	/* With stamps checksums depend on the time. A paced source does not make packets wait. */
	unsigned ahead = maker->program->stamp ? n : timed ? TW_MAKE_BURST : TW_MAKE_AHEAD;
	uint64_t bytes = 0;

	for (unsigned made = 0, some; made < n; made += some) {
		if (maker->used == maker->ready)
			compute(maker, ahead, tsc);
		some = RTE_MIN(n - made, maker->ready - maker->used);
		bytes += write_all(maker, mbufs + made, some, *tsc, avx512);
		maker->used += some;
		maker->seq += some;
	}
	if (timed && !maker->program->stamp)
		*tsc = rte_rdtsc();
	return bytes;
}

static uint64_t fill_any(struct tw_maker *maker, struct rte_mbuf **mbufs, unsigned n, bool timed,
                         uint64_t *tsc)
{
	return fill(maker, mbufs, n, timed, tsc, false);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static uint64_t fill_avx2(struct tw_maker *maker,
                                                          struct rte_mbuf **mbufs, unsigned n,
                                                          bool timed, uint64_t *tsc)
{
	return fill(maker, mbufs, n, timed, tsc, false);
}

__attribute__((AVX512)) static uint64_t fill_avx512(struct tw_maker *maker, struct rte_mbuf **mbufs,
                                                    unsigned n, bool timed, uint64_t *tsc)
{
	return fill(maker, mbufs, n, timed, tsc, true);
}
#endif

static _Atomic uint32_t vectors = 512;

void tw_source_vectors(uint32_t bits)
{
	vectors = bits;
}

/* The widest vectors that this CPU has. */
static tw_fill_fn fill_here(void)
{
#ifdef __x86_64__
	if (vectors >= 512 && __builtin_cpu_supports("avx512f") &&
	    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl"))
		return fill_avx512;
	if (vectors >= 256 && __builtin_cpu_supports("avx2"))
		return fill_avx2;
#endif
	return fill_any;
}

void tw_maker_begin(struct tw_maker *maker, const struct tw_program *program, uint32_t queue,
                    uint32_t queues)
{
	maker->program = program;
	maker->queue = queue;
	maker->queues = queues;
	maker->order_at = queue % program->n_order;
	maker->seq = maker->ready = maker->used = 0;
	maker->fill = fill_here();
	for (unsigned k = 0; k < program->n_indexes; k++) {
		const struct tw_made_index *index = &program->index[k];

		maker->index[k] = (struct tw_make_index){
			.at = queue / index->every % index->n,
			.phase = queue % index->every,
			.hop = queues / index->every % index->n,
			.phase_hop = queues % index->every,
			.drawn = (uint64_t)queue << 48,
		};
	}
}
