/* SPDX-License-Identifier: BSD-3-Clause */
/* histogram.h - log-linear histograms of times: recording, which is for hot paths. */
#pragma once
#include "abi.h"

static inline uint32_t tw_histogram_bucket(uint64_t value)
{
	/* Bits above the 11 that a bucket tells apart; none of small values. */
	uint32_t shift = 53 - __builtin_clzll(value | 2047);

	return shift * TW_HISTOGRAM_SUB + (uint32_t)(value >> shift);
}

/* Words have one writer, and readers who take them one by one: relaxed loads and stores. */
static inline void tw_histogram_bump(uint64_t *word, uint64_t by)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

/* A value so many times: a few ns, no lock. */
static inline void tw_histogram_record_many(struct tw_histogram *h, uint64_t value, uint64_t times)
{
	uint64_t last = (1ull << TW_HISTOGRAM_BITS) - 1;
	uint64_t clamped = value;

	if (__builtin_expect(value > last, 0)) {
		clamped = last;
		tw_histogram_bump(&h->clipped, times);
	}
	if (__builtin_expect(value > h->max, 0))
		__atomic_store_n(&h->max, value, __ATOMIC_RELAXED);
	if (__builtin_expect(value < h->min || h->count == 0, 0))
		__atomic_store_n(&h->min, value, __ATOMIC_RELAXED);
	tw_histogram_bump(&h->bucket[tw_histogram_bucket(clamped)], times);
	tw_histogram_bump(&h->sum, value * times);
	tw_histogram_bump(&h->count, times);
}

static inline void tw_histogram_record(struct tw_histogram *h, uint64_t value)
{
	tw_histogram_record_many(h, value, 1);
}
