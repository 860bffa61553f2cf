/* SPDX-License-Identifier: BSD-3-Clause */
/* source_vary.h - what varies from packet to packet, computed for many packets in turn, index by
 * index and field by field, in vectors: numbers, fields, checksums. Inlined by source_make.c. */
#pragma once
#include "source_make.h"

/* All of it is compiled for each instruction set by itself. */
#define HOT static inline __attribute__((always_inline))

/* Loops over packets take 16 at a time, so that they are vectors without a tail; what they write
 * behind the last packet is never read. What is written is not what is read from. */
#define LANES 16u
#define FOR_ALL(i, n) \
	_Pragma("GCC ivdep") for (size_t i = 0; i < (((n) + LANES - 1) & ~(LANES - 1)); i++)

/* ---- indexes ---- */

/* Mixes 64 bits well: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014. */
HOT uint64_t mix64(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* 32 bits, in vectors: the finalizer of MurmurHash3 (Appleby). */
HOT uint32_t mix32(uint32_t x)
{
	x = (x ^ x >> 16) * 0x85ebca6b;
	x = (x ^ x >> 13) * 0xc2b2ae35;
	return x ^ x >> 16;
}

#define GOLDEN 0x9e3779b97f4a7c15

/* A new 64-bit key for each burst, and each packet's number mixed with that. */
HOT void draw(uint32_t *random, uint64_t key, unsigned n)
{
	uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);

	FOR_ALL (i, n)
		random[i] = mix32(low + (uint32_t)i * 0x9e3779b9) ^ high;
}

HOT void index_random(struct tw_make_index *at, const struct tw_made_index *index, uint32_t *value,
                      unsigned n)
{
	uint32_t range = (uint32_t)index->n; /* 0: 2^32 */

	draw(value, mix64(index->seed + ++at->drawn * GOLDEN), n);
	if (range == 0)
		return;
	FOR_ALL (i, n)
		value[i] = (uint32_t)((uint64_t)value[i] * range >> 32);
}

HOT void index_zipf(struct tw_make_index *at, const struct tw_made_index *index, uint32_t *value,
                    unsigned n)
{
	const struct tw_alias *alias = index->alias;
	uint32_t coin[TW_MAKE_AHEAD];

	draw(coin, mix64(~index->seed - ++at->drawn * GOLDEN), n);
	index_random(at, index, value, n);
	for (unsigned i = 0; i < n; i++) {
		const struct tw_alias *column = &alias[value[i]];

		value[i] = coin[i] < column->threshold ? value[i] : column->alias;
	}
}

HOT void index_count(struct tw_make_index *at, const struct tw_made_index *index, uint32_t *value,
                     unsigned n)
{
	uint64_t next = at->at, hop = at->hop, phase = at->phase, phase_hop = at->phase_hop;

	/* Back to 0 at most once: the number is the smaller one of x and x - all. */
	if (index->every == 1 && n * hop <= index->n && index->n < 1u << 31) {
		uint32_t from = (uint32_t)next, by = (uint32_t)hop, all = (uint32_t)index->n;

		FOR_ALL (i, n) {
			uint32_t x = from + by * (uint32_t)i;

			value[i] = RTE_MIN(x, x - all);
		}
		next += n * hop;
		at->at = next < index->n ? next : next - index->n;
		return;
	}
	if (hop == 0 && phase + n * phase_hop < index->every) {
		FOR_ALL (i, n)
			value[i] = (uint32_t)next;
		at->phase = phase + n * phase_hop;
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		value[i] = (uint32_t)next;
		next += hop;
		phase += phase_hop;
		if (phase >= index->every) {
			phase -= index->every;
			next++;
		}
		next -= next >= index->n ? index->n : 0;
	}
	at->at = next;
	at->phase = phase;
}

HOT void indexes(struct tw_maker *maker, unsigned n)
{
	const struct tw_program *program = maker->program;

	for (unsigned k = 0; k < program->n_indexes; k++) {
		const struct tw_made_index *index = &program->index[k];

		if (index->kind == TW_SOURCE_COUNT)
			index_count(&maker->index[k], index, maker->value[k], n);
		else if (index->kind == TW_SOURCE_RANDOM)
			index_random(&maker->index[k], index, maker->value[k], n);
		else
			index_zipf(&maker->index[k], index, maker->value[k], n);
	}
}

/* ---- fields ---- */

/* Adds what is written to the sums that it counts for. */
HOT void add_to_sums(struct tw_maker *maker, unsigned sums, unsigned odd, const uint32_t *words,
                     unsigned n)
{
	for (; sums; sums &= sums - 1) {
		unsigned s = __builtin_ctz(sums), shift = odd >> s & 1 ? 8 : 0;
		uint32_t *sum = maker->sum[s];

		FOR_ALL (i, n)
			sum[i] += words[i] << shift;
	}
}

/* What is behind the end of the first window. */
HOT void put_next(struct tw_maker *maker, struct tw_part part, const uint32_t *image, unsigned n)
{
	uint64_t *next = maker->window[part.window + 1];

	FOR_ALL (i, n)
		next[i] |= (uint64_t)image[i] >> (64 - part.shift);
}

HOT void put32(struct tw_maker *maker, struct tw_part part, const uint32_t *image, unsigned n)
{
	uint64_t *window = maker->window[part.window];

	FOR_ALL (i, n)
		window[i] |= (uint64_t)image[i] << part.shift;
	if (part.goes_on)
		put_next(maker, part, image, n);
}

HOT void put64(struct tw_maker *maker, struct tw_part part, const uint64_t *image, unsigned n)
{
	uint64_t *window = maker->window[part.window], *next = maker->window[part.window + 1];

	FOR_ALL (i, n)
		window[i] |= image[i] << part.shift;
	if (part.goes_on)
		FOR_ALL (i, n)
			next[i] |= image[i] >> (64 - part.shift);
}

/* Both at once, for the common cases of one or two sums. */
HOT void apply32(struct tw_maker *maker, const struct tw_made_field *field, const uint32_t *image,
                 unsigned n, const bool goes_on, const unsigned sums)
{
	unsigned a = sums > 0 ? __builtin_ctz(field->sums) : 0;
	unsigned b = sums > 1 ? __builtin_ctz(field->sums & (field->sums - 1)) : 0;
	unsigned a_shift = field->odd >> a & 1 ? 8 : 0, b_shift = field->odd >> b & 1 ? 8 : 0;
	unsigned shift = field->part.shift;
	uint32_t *a_sum = maker->sum[a], *b_sum = maker->sum[b];
	uint64_t *window = maker->window[field->part.window];
	uint64_t *next = maker->window[field->part.window + 1];

	FOR_ALL (i, n) {
		uint64_t wide = image[i];
		uint32_t words = (image[i] & 0xffff) + (image[i] >> 16);

		window[i] |= wide << shift;
		if (goes_on)
			next[i] |= wide >> (64 - shift);
		if (sums > 0)
			a_sum[i] += words << a_shift;
		if (sums > 1)
			b_sum[i] += words << b_shift;
	}
}

HOT void values32(const struct tw_made_field *field, const uint32_t *index, uint32_t *image,
                  unsigned n)
{
	uint32_t base = (uint32_t)field->base, step = (uint32_t)field->step;
	uint32_t low = (uint32_t)field->seed, high = (uint32_t)(field->seed >> 32);
	uint32_t mask = (uint32_t)field->mask;
	unsigned shift = field->shift, right = (unsigned)field->right;
	uint32_t count = (uint32_t)field->count; /* what does not fit is wide */

	if (field->kind == TW_SOURCE_STEP) {
		FOR_ALL (i, n) {
			uint32_t x = base + (step * index[i] >> right);

			image[i] = __builtin_bswap32(x) >> shift & mask;
		}
	} else if (field->kind == TW_SOURCE_SCATTER) {
		FOR_ALL (i, n) {
			uint32_t x = mix32(mix32(index[i] ^ low) ^ high);

			x = base + (uint32_t)((uint64_t)x * count >> 32);
			image[i] = __builtin_bswap32(x) >> shift & mask;
		}
	} else {
		for (unsigned i = 0; i < n; i++) {
			uint32_t x = (uint32_t)field->list[index[i] % count];

			image[i] = __builtin_bswap32(x) >> shift & mask;
		}
	}
}

HOT void field32(struct tw_maker *maker, const struct tw_made_field *field, unsigned n)
{
	uint32_t image[TW_MAKE_AHEAD] __rte_aligned(64);
	unsigned sums = __builtin_popcount(field->sums);

	values32(field, maker->value[field->index], image, n);
	if (sums == 1 && !field->part.goes_on) {
		apply32(maker, field, image, n, false, 1);
	} else if (sums == 2 && !field->part.goes_on) {
		apply32(maker, field, image, n, false, 2);
	} else if (sums == 2) {
		apply32(maker, field, image, n, true, 2);
	} else {
		put32(maker, field->part, image, n);
		FOR_ALL (i, n)
			image[i] = (image[i] & 0xffff) + (image[i] >> 16);
		add_to_sums(maker, field->sums, field->odd, image, n);
	}
}

HOT uint64_t value64(const struct tw_made_field *field, uint32_t index)
{
	if (field->kind == TW_SOURCE_STEP)
		return field->base + (field->step * index >> field->right);
	if (field->kind == TW_SOURCE_LIST)
		return field->list[index % field->count];
	return field->base +
	       (uint64_t)((unsigned __int128)mix64(index * GOLDEN + field->seed) * field->count >>
	                  64);
}

HOT uint32_t words_of(uint64_t x)
{
	return (uint32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
}

HOT void field64(struct tw_maker *maker, const struct tw_made_field *field, unsigned n)
{
	const uint32_t *index = maker->value[field->index];
	uint64_t image[TW_MAKE_AHEAD] __rte_aligned(64);
	uint32_t words[TW_MAKE_AHEAD] __rte_aligned(64);

	for (unsigned i = 0; i < n; i++) {
		image[i] = __builtin_bswap64(value64(field, index[i])) >> field->shift &
		           field->mask;
		words[i] = words_of(image[i]);
	}
	put64(maker, field->part, image, n);
	add_to_sums(maker, field->sums, field->odd, words, n);
}

/* ---- stamps and checksums ---- */

HOT uint64_t stamp_of(const struct tw_maker *maker)
{
	return TW_STAMP_MAGIC | (uint64_t)maker->stream << 16 | (uint64_t)maker->epoch << 24;
}

/* What stamps add to the sums. */
HOT void stamps(struct tw_maker *maker, unsigned n, uint64_t tsc)
{
	const struct tw_program *program = maker->program;
	uint32_t fixed = words_of(stamp_of(maker)) + words_of(tsc), seq = maker->seq;
	uint32_t words[TW_MAKE_AHEAD] __rte_aligned(64);

	FOR_ALL (i, n)
		words[i] = fixed + ((seq + i) & 0xffff) + ((seq + i) >> 16);
	for (unsigned k = 0; k < program->n_sums; k++) {
		unsigned s = program->sum[k].slot;
		uint32_t *sum = maker->sum[s];

		if (program->alike) {
			uint32_t times = ((const struct tw_frame *)program->frames)->stamp[s];

			FOR_ALL (i, n)
				sum[i] += words[i] * times;
		} else {
			for (unsigned i = 0; i < n; i++)
				sum[i] += words[i] * maker->frame[i]->stamp[s];
		}
	}
}

HOT void checksums(struct tw_maker *maker, unsigned n)
{
	const struct tw_program *program = maker->program;

	for (unsigned k = 0; k < program->n_sums; k++) {
		const struct tw_made_sum *made = &program->sum[k];
		uint32_t *sum = maker->sum[made->slot], zero = made->udp ? 0xffff : 0;
		uint64_t *window = maker->window[made->part.window];
		unsigned shift = made->part.shift;

		FOR_ALL (i, n) {
			uint32_t x = (sum[i] & 0xffff) + (sum[i] >> 16);

			x = ~((x & 0xffff) + (x >> 16)) & 0xffff;
			sum[i] = x == 0 ? zero : x;
			window[i] |= (uint64_t)sum[i] << shift;
		}
		if (made->part.goes_on)
			put_next(maker, made->part, sum, n);
		add_to_sums(maker, made->over, made->odd, sum, n);
	}
}
