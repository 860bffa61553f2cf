/* SPDX-License-Identifier: BSD-3-Clause */
/* histogram.c - log-linear histograms of times: merging, quantiles. */
#include "histogram.h"

#include <math.h>
#include <string.h>

void tw_histogram_add(struct tw_histogram *h, uint64_t value, uint64_t times)
{
	if (times)
		tw_histogram_record_many(h, value, times);
}

void tw_histogram_merge(struct tw_histogram *to, const struct tw_histogram *from)
{
	uint64_t min = __atomic_load_n(&from->min, __ATOMIC_RELAXED);
	uint64_t max = __atomic_load_n(&from->max, __ATOMIC_RELAXED);
	uint64_t count = 0, n;

	for (uint32_t i = 0; i < TW_HISTOGRAM_BUCKETS; i++) {
		n = __atomic_load_n(&from->bucket[i], __ATOMIC_RELAXED);
		to->bucket[i] += n;
		count += n;
	}
	if (count == 0)
		return;
	if (to->count == 0 || min < to->min)
		to->min = min;
	if (max > to->max)
		to->max = max;
	to->count += count;
	to->sum += __atomic_load_n(&from->sum, __ATOMIC_RELAXED);
	to->clipped += __atomic_load_n(&from->clipped, __ATOMIC_RELAXED);
}

void tw_histogram_clear(struct tw_histogram *h)
{
	memset(h, 0, sizeof(*h));
}

static uint32_t shift_of(uint32_t bucket)
{
	return bucket < 2 * TW_HISTOGRAM_SUB ? 0 : bucket / TW_HISTOGRAM_SUB - 1;
}

uint64_t tw_histogram_lowest(uint32_t bucket)
{
	uint32_t shift = shift_of(bucket);

	return (uint64_t)(bucket - shift * TW_HISTOGRAM_SUB) << shift;
}

uint64_t tw_histogram_highest(uint32_t bucket)
{
	return tw_histogram_lowest(bucket) + (1ull << shift_of(bucket)) - 1;
}

uint64_t tw_histogram_quantile(const struct tw_histogram *h, double fraction)
{
	uint64_t wanted, seen = 0, value;

	if (h->count == 0)
		return 0;
	if (!(fraction > 0)) /* NaN too */
		return h->min;
	/* 0.999 * 1000 is a little more than 999, and means 999. */
	wanted = fraction >= 1 ? h->count
	                       : (uint64_t)ceil(fraction * (double)h->count * (1 - 1e-15));
	for (uint32_t i = 0; i < TW_HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen < wanted || seen == 0)
			continue;
		value = tw_histogram_highest(i);
		return value > h->max || i == TW_HISTOGRAM_BUCKETS - 1 ? h->max : value;
	}
	return h->max;
}

int32_t tw_histogram_next(const struct tw_histogram *h, int32_t bucket)
{
	for (uint32_t i = (uint32_t)(bucket + 1); i < TW_HISTOGRAM_BUCKETS; i++)
		if (h->bucket[i])
			return (int32_t)i;
	return -1;
}
