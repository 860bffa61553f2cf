/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.c - figures of services: counted by each gate thread, and read so that they add up. */
#include "gate/lane.h"
#include "error.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* A thread's figures have one writer. It makes `seq` odd, changes them, and makes it even again:
 * who reads the same even value before and after has read what was true at one moment, so that
 * requests = answered + closed + in flight, always. */
static void change_begin(struct tally *tally)
{
	atomic_store_explicit(&tally->seq,
	                      atomic_load_explicit(&tally->seq, memory_order_relaxed) + 1,
	                      memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
}

static void change_end(struct tally *tally)
{
	atomic_store_explicit(&tally->seq,
	                      atomic_load_explicit(&tally->seq, memory_order_relaxed) + 1,
	                      memory_order_release);
}

static void add(uint64_t *word, uint64_t by)
{
	__atomic_store_n(word, *word + by, __ATOMIC_RELAXED);
}

void tally_begin(struct lane *lane)
{
	struct tally *tally = &lane->tally;

	change_begin(tally);
	add(&tally->requests, 1);
	add(&tally->in_flight, 1);
	change_end(tally);
}

static unsigned bucket(uint64_t ns)
{
	unsigned bits = ns ? 63 - __builtin_clzll(ns) : 0;

	return bits < TW_TIME_BUCKETS ? bits : TW_TIME_BUCKETS - 1;
}

void tally_end(struct lane *lane, const struct exchange *x, bool failed)
{
	struct tally *tally = &lane->tally;
	unsigned class = x->responded && x->status >= 100 && x->status < 600 ? x->status / 100 : 0;
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	change_begin(tally);
	add(&tally->in_flight, -1ull);
	add(&tally->status[class], 1);
	if (class) {
		add(&tally->responses, 1);
		add(&tally->time[bucket(ns > x->begun ? ns - x->begun : 0)], 1);
	}
	if (failed && class == 5)
		add(&tally->failed, 1);
	add(&tally->bytes_in, x->in.came);
	add(&tally->bytes_out, x->out.went);
	change_end(tally);
}

void tally_sent(struct lane *lane, uint64_t bytes)
{
	change_begin(&lane->tally);
	add(&lane->tally.bytes_out, bytes);
	change_end(&lane->tally);
}

static void tally_read(struct tally *tally, struct tally *to)
{
	const uint64_t *from = &tally->requests;
	uint64_t *words = &to->requests;
	size_t i, n = (sizeof(*to) - offsetof(struct tally, requests)) / sizeof(*words);
	uint32_t seq;

	do {
		seq = atomic_load_explicit(&tally->seq, memory_order_acquire);
		for (i = 0; i < n; i++)
			words[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
		atomic_thread_fence(memory_order_acquire);
	} while (seq & 1 || seq != atomic_load_explicit(&tally->seq, memory_order_relaxed));
}

static void sum(struct tw_service_stats *stats, struct tally *tally)
{
	struct tally t;
	unsigned i;

	tally_read(tally, &t);
	stats->requests += t.requests;
	stats->responses += t.responses;
	stats->failed += t.failed;
	stats->in_flight += t.in_flight;
	stats->bytes_in += t.bytes_in;
	stats->bytes_out += t.bytes_out;
	for (i = 0; i < 6; i++)
		stats->status[i] += t.status[i];
	for (i = 0; i < TW_TIME_BUCKETS; i++)
		stats->time[i] += t.time[i];
}

int tw_service_stats(uint32_t index, struct tw_service_stats *stats)
{
	struct service *service = service_at(index);
	struct tw_pool_stats pool;
	unsigned i;

	memset(stats, 0, sizeof(*stats));
	if (!service)
		return tw_fail(ENOENT, "there is no service %u", index);
	for (i = 0; i < TW_GATES_MAX; i++) {
		if (!service->lane[i])
			continue;
		sum(stats, &service->lane[i]->tally);
		if (!service->fabric)
			inline_boards(service->lane[i]->gate, index, stats->inline_board);
	}
	tw_pool_get_stats(service->pool, &pool);
	for (i = 0; i < TW_POOL_CLASSES; i++) {
		stats->pool_blocks += pool.blocks[i];
		stats->pool_used += pool.used[i];
	}
	stats->pool_empty = pool.empty;
	stats->pool_refused = pool.refused;
	stats->pool_bytes = pool.bytes;
	stats->pool_huge = pool.huge;
	stats->functions = service->spec.n_functions;
	return 0;
}
