/* SPDX-License-Identifier: BSD-3-Clause */
/* source_poll.c - a source on the lcore that polls it: takes up starts and stops, fills bursts. */
#include "histogram.h"
#include "source_queue.h"

#include <rte_cycles.h>

static void begin(struct tw_source_queue *queue, const union tw_source_orders *orders)
{
	struct tw_source *source = queue->source;
	struct tw_maker *maker = &queue->maker;
	uint64_t now = rte_rdtsc(), count = orders->run.count;

	maker->epoch = (uint8_t)orders->epoch;
	tw_maker_begin(maker, source->program, maker->queue, source->queues);
	queue->paced = orders->run.rate > 0;
	queue->limited = count > 0;
	queue->left = count / source->queues + (maker->queue < count % source->queues);
	if (queue->paced)
		tw_pace_begin(&queue->pace, &orders->run, now, rte_get_tsc_hz(), maker->queue,
		              source->queues);
	tw_word_set(&queue->packets, 0);
	tw_word_set(&queue->bytes, 0);
	tw_word_set(&queue->skipped, 0);
	tw_word_set(&queue->no_buffer, 0);
	tw_word_set(&queue->begin, now);
	tw_word_set(&queue->end, now);
}

static void finish(struct tw_source_queue *queue, uint64_t end)
{
	tw_word_set(&queue->end, end);
	atomic_store_explicit(&queue->active, false, memory_order_release);
}

/* A start or a stop. */
static __attribute__((noinline)) void take(struct tw_source_queue *queue)
{
	struct tw_source *source = queue->source;
	bool was_active = atomic_load_explicit(&queue->active, memory_order_relaxed);
	uint64_t order = atomic_load(&source->order);
	union tw_source_orders orders;

	if (order & 1)
		return; /* soon */
	for (unsigned i = 0; i < RTE_DIM(orders.word); i++)
		orders.word[i] = tw_word_get(&source->to[i]);
	/* From here on the program may not be exchanged; unless it was meanwhile. */
	if (orders.on)
		atomic_store(&queue->active, true);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&source->order) != order) {
		atomic_store(&queue->active, was_active);
		return;
	}
	if (orders.on)
		begin(queue, &orders);
	else if (was_active)
		finish(queue, queue->paced ? tw_word_get(&queue->end) : rte_rdtsc());
	atomic_store_explicit(&queue->taken, order, memory_order_release);
}

/* As many as there are, at most n. */
static inline unsigned take_mbufs(struct tw_source_queue *queue, struct rte_mbuf **mbufs,
                                  unsigned n)
{
	unsigned want = n;

	while (n > 0 && rte_mempool_get_bulk(queue->pool, (void **)mbufs, n) < 0)
		n /= 2;
	if (__builtin_expect(n < want, 0))
		tw_word_set(&queue->no_buffer, tw_word_get(&queue->no_buffer) + want - n);
	return n;
}

static inline void made(struct tw_source_queue *queue, unsigned n, uint64_t bytes)
{
	tw_word_set(&queue->packets, tw_word_get(&queue->packets) + n);
	tw_word_set(&queue->bytes, tw_word_get(&queue->bytes) + bytes);
}

static unsigned fill_paced(struct tw_source_queue *queue, struct rte_mbuf **mbufs, unsigned n)
{
	uint64_t due[TW_MAKE_BURST], tsc = rte_rdtsc(), bytes;
	struct tw_pace pace = queue->pace;
	unsigned got;

	tw_word_set(&queue->end, tsc);
	if (tw_pace_waits(&pace, tsc))
		return 0;
	n = tw_pace_due(&pace, tsc, n, due);
	got = take_mbufs(queue, mbufs, n);
	if (got < n) { /* the others stay due */
		pace = queue->pace;
		tw_pace_due(&pace, tsc, got, due);
	}
	queue->pace = pace;
	tw_word_set(&queue->skipped, pace.skipped);
	if (got == 0)
		return 0;
	bytes = queue->maker.fill(&queue->maker, mbufs, got, true, &tsc);
	for (unsigned i = 0; i < got; i++)
		tw_histogram_record(queue->late,
		                    (tsc - due[i]) * queue->ns_mult >> TW_SOURCE_NS_SHIFT);
	made(queue, got, bytes);
	return got;
}

static inline unsigned fill_most(struct tw_source_queue *queue, struct rte_mbuf **mbufs, unsigned n)
{
	uint64_t tsc;

	n = take_mbufs(queue, mbufs, n);
	if (n > 0)
		made(queue, n, queue->maker.fill(&queue->maker, mbufs, n, false, &tsc));
	return n;
}

uint16_t tw_source_poll(uint16_t port, uint16_t index, struct rte_mbuf **mbufs, uint16_t n,
                        uint16_t max, void *arg)
{
	struct tw_source_queue *queue = arg;
	unsigned count = RTE_MIN(max, TW_MAKE_BURST);

	(void)port;
	(void)index;
	(void)n; /* the device gives nothing */
	if (atomic_load_explicit(&queue->source->order, memory_order_acquire) !=
	    tw_word_get(&queue->taken))
		take(queue);
	if (!atomic_load_explicit(&queue->active, memory_order_relaxed))
		return 0;
	if (queue->limited && queue->left < count)
		count = (unsigned)queue->left;
	count = queue->paced ? fill_paced(queue, mbufs, count) : fill_most(queue, mbufs, count);
	if (!queue->limited)
		return (uint16_t)count;
	queue->left -= count;
	if (queue->left == 0) /* the gap behind the last packet is part of a rate */
		finish(queue, queue->paced ? RTE_MAX((uint64_t)(queue->pace.next >> 64),
		                                     tw_word_get(&queue->end))
		                           : rte_rdtsc());
	return (uint16_t)count;
}
