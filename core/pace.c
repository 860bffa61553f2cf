/* SPDX-License-Identifier: BSD-3-Clause */
/* pace.c - when packets are due: evenly (CBR), in bursts, or at random (Poisson). */
#include "pace.h"

#include <math.h>

/* Sum of 64 random bits and a constant, mixed: as mix64() of source_make.c. */
static uint64_t draw(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Gaps of a Poisson process have an exponential distribution. */
static unsigned __int128 gap(struct tw_pace *pace)
{
	double uniform, factor;

	if (pace->spacing != TW_SPACING_POISSON)
		return pace->gap;
	uniform = (double)((draw(&pace->random) >> 11) + 1) * 0x1p-53; /* (0, 1] */
	factor = -log(uniform);                                        /* at most 36.8 */
	return (pace->gap >> 32) * (uint64_t)(factor * 0x1p32);
}

void tw_pace_begin(struct tw_pace *pace, const struct tw_source_run *run, uint64_t now, uint64_t hz,
                   uint32_t queue, uint32_t queues)
{
	bool bursts = run->spacing == TW_SPACING_BURST && run->burst > 0;
	long double each = (long double)hz / run->rate; /* cycles between packets of all queues */
	uint32_t burst = bursts ? run->burst : 1;

	*pace = (struct tw_pace){
		.gap = (unsigned __int128)(each * queues * burst * 0x1p64L),
		.next = ((unsigned __int128)now << 64) +
		        (unsigned __int128)(each * queue * burst * 0x1p64L),
		.spacing = run->spacing,
		.burst = burst,
		.left = burst,
		.catch_up = (uint64_t)((long double)run->catch_up * hz / 1e9L),
		.random = (uint64_t)queue << 56,
	};
	if (pace->spacing == TW_SPACING_POISSON)
		pace->next = ((unsigned __int128)now << 64) + gap(pace);
}

/* The lcore was away, or is too slow: what is due longer ago than catch_up is left out. */
static void skip(struct tw_pace *pace, uint64_t late)
{
	unsigned __int128 behind = (unsigned __int128)(late - pace->catch_up) << 64;
	uint64_t gaps = (uint64_t)(behind / pace->gap);

	if (gaps == 0)
		return;
	pace->next += pace->gap * gaps;
	pace->skipped += pace->left + (gaps - 1) * pace->burst;
	pace->left = pace->burst;
}

unsigned tw_pace_due(struct tw_pace *pace, uint64_t now, unsigned max, uint64_t *due)
{
	uint64_t next = (uint64_t)(pace->next >> 64);
	unsigned n = 0;

	if (now - next > pace->catch_up && !tw_pace_waits(pace, now))
		skip(pace, now - next);
	while (n < max && !tw_pace_waits(pace, now)) {
		due[n++] = (uint64_t)(pace->next >> 64);
		if (--pace->left > 0)
			continue;
		pace->left = pace->burst;
		pace->next += gap(pace);
	}
	return n;
}
