/* SPDX-License-Identifier: BSD-3-Clause */
/* source.c - ports that make packets: a net_null that gives nothing, and on each of its receive
 * queues a callback that fills the burst. Started and stopped by the control thread with one word.
 */
#include "source.h"
#include "error.h"
#include "histogram.h"
#include "port.h"
#include "source_queue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_malloc.h>

#define GAP_MAX_S 1e5 /* between packets or bursts: what fits the numbers of pace.c */

static struct tw_source sources[TW_SOURCES_MAX];

static struct tw_source *source_get(uint32_t number)
{
	if (number < TW_SOURCES_MAX && sources[number].used)
		return &sources[number];
	tw_fail(ENODEV, "there is no source %u", number);
	return NULL;
}

/* ---- port.c ---- */

uint32_t tw_source_mbufs(const struct tw_port *port, uint32_t queues)
{
	unsigned number = (unsigned)port->source;

	return queues *
	       (number < TW_SOURCES_MAX && sources[number].used ? sources[number].mbufs : 1);
}

/* The first of so many streams that no source has, or TW_STREAMS_MAX. */
static uint32_t free_streams(uint32_t n)
{
	uint64_t used = 0;

	for (unsigned i = 0; i < TW_SOURCES_MAX; i++)
		for (uint32_t q = 0; sources[i].streams && q < sources[i].queues_max; q++)
			used |= 1ull << (sources[i].stream + q);
	for (uint32_t from = 0; from + n <= TW_STREAMS_MAX; from++)
		if (!(used >> from & (~0ull >> (64 - n))))
			return from;
	return TW_STREAMS_MAX;
}

static int no_streams(uint32_t n)
{
	return tw_fail(
		ENOSPC,
		"the queues of all sources are streams, %d at most, and there are not %u left",
		TW_STREAMS_MAX, n);
}

static struct tw_source_queue *queue_new(struct tw_source *source, uint16_t index)
{
	struct tw_port *port = source->port;
	struct tw_source_queue *queue = rte_zmalloc_socket("tw-source", sizeof(*queue), 64,
	                                                   port->socket);

	if (!queue)
		return NULL;
	queue->source = source;
	queue->pool = port->pool;
	queue->ns_mult =
		(uint64_t)(1e9 * (double)(1ull << TW_SOURCE_NS_SHIFT) / (double)rte_get_tsc_hz());
	queue->maker.queue = index;
	queue->maker.stream = (uint8_t)(source->stream + index);
	queue->maker.port = port->ethdev;
	queue->late = calloc(1, sizeof(*queue->late));
	if (queue->late)
		queue->callback = rte_eth_add_rx_callback(port->ethdev, index, tw_source_poll,
		                                          queue);
	if (queue->callback)
		return queue;
	free(queue->late);
	rte_free(queue);
	return NULL;
}

int tw_source_attach(struct tw_port *port)
{
	unsigned number = (unsigned)port->source;
	struct tw_source *source = number < TW_SOURCES_MAX ? &sources[number] : NULL;

	if (!source || !source->used || !source->program || source->port)
		return tw_fail(EINVAL,
		               "source%u has no packets to make; a source is declared by "
		               "bench.source(traffic)",
		               number);
	if (port->rx_queues > source->queues_max)
		return tw_fail(
			EINVAL,
			"source%u has %u queue(s), and %u lcores want one each; declare it with "
			"{ queues = %u }",
			number, source->queues_max, port->rx_queues, port->rx_queues);
	if (!source->streams) { /* its port was closed, and is opened again */
		source->stream = free_streams(source->queues_max);
		source->streams = source->stream < TW_STREAMS_MAX;
		if (!source->streams)
			return no_streams(source->queues_max);
	}
	source->port = port;
	for (uint16_t q = 0; q < port->rx_queues; q++) {
		source->queue[q] = queue_new(source, q);
		if (!source->queue[q])
			return tw_fail(ENOMEM, "no memory for queue %u of source%u", q, number);
		source->queues = q + 1;
	}
	return 0;
}

void tw_source_detach(struct tw_port *port)
{
	unsigned number = (unsigned)port->source;
	struct tw_source *source = number < TW_SOURCES_MAX ? &sources[number] : NULL;

	if (!source || source->port != port)
		return;
	for (uint32_t q = 0; q < source->queues; q++) {
		struct tw_source_queue *queue = source->queue[q];

		rte_eth_remove_rx_callback(port->ethdev, (uint16_t)q, queue->callback);
		rte_free((void *)(uintptr_t)queue->callback);
		free(queue->late);
		rte_free(queue);
		source->queue[q] = NULL;
	}
	source->port = NULL;
	source->queues = 0;
	source->streams = false;
	tw_source_stop(number); /* it does not go on by itself when the port is opened again */
	if (source->orphan)
		tw_source_free(number);
}

/* ---- control thread ---- */

int tw_source_new(uint32_t queues, uint32_t mbufs)
{
	uint32_t stream, number = 0;

	if (queues < 1 || queues > TW_TX_QUEUES_MAX)
		return tw_fail(EINVAL, "%u queues; a source has 1 to %d", queues, TW_TX_QUEUES_MAX);
	stream = free_streams(queues);
	while (number < TW_SOURCES_MAX && sources[number].used)
		number++;
	if (stream == TW_STREAMS_MAX || number == TW_SOURCES_MAX)
		return tw_fail(
			ENOSPC,
			"the queues of all sources are streams, %d at most, and there are not "
			"%u left",
			TW_STREAMS_MAX, queues);
	sources[number] = (struct tw_source){
		.used = true,
		.streams = true,
		.queues_max = queues,
		.mbufs = mbufs,
		.stream = stream,
	};
	return (int)number;
}

int tw_source_stream(uint32_t number)
{
	struct tw_source *source = source_get(number);

	return source ? (int)source->stream : -ENODEV;
}

int tw_source_free(uint32_t number)
{
	struct tw_source *source = source_get(number);

	if (!source)
		return -ENODEV;
	if (source->port) {
		source->orphan = true;
		return 0;
	}
	tw_program_free(source->program);
	memset(source, 0, sizeof(*source));
	return 0;
}

/* It makes packets, or will at the next poll. */
static bool is_running(struct tw_source *source)
{
	for (uint32_t q = 0; q < source->queues; q++) {
		struct tw_source_queue *queue = source->queue[q];

		if (atomic_load(&queue->active) ||
		    (source->ordered.on &&
		     atomic_load(&queue->taken) != atomic_load(&source->order)))
			return true;
	}
	return source->queues == 0 && source->ordered.on;
}

static int refuse_running(struct tw_source *source)
{
	if (!is_running(source))
		return 0;
	return tw_fail(EBUSY, "source%u runs%s; stop it first", (unsigned)(source - sources),
	               source->ordered.on ? "" : " until it is polled again");
}

int tw_source_traffic(uint32_t number, const struct tw_source_traffic *traffic, uint64_t bytes_max)
{
	struct tw_source *source = source_get(number);
	struct tw_program *program;
	int err = source ? refuse_running(source) : -ENODEV;

	if (err < 0)
		return err;
	program = tw_program_new(traffic, bytes_max, tw_options()->mbuf_size);
	if (!program)
		return -EINVAL;
	tw_program_free(source->program);
	source->program = program;
	return 0;
}

double tw_source_frame_bytes(uint32_t number)
{
	struct tw_source *source = source_get(number);

	return source && source->program ? source->program->mean : 0;
}

static void give_order(struct tw_source *source)
{
	uint64_t order = atomic_load_explicit(&source->order, memory_order_relaxed);

	atomic_store(&source->order, order + 1);
	for (unsigned i = 0; i < RTE_DIM(source->to); i++)
		atomic_store(&source->to[i], source->ordered.word[i]);
	atomic_store(&source->order, order + 2);
}

int tw_source_start(uint32_t number, const struct tw_source_run *run)
{
	struct tw_source *source = source_get(number);
	int err = source ? refuse_running(source) : -ENODEV;

	if (err < 0)
		return err;
	if (!source->program)
		return tw_fail(EINVAL, "source%u has no packets to make", number);
	if (!(run->rate >= 0 && run->rate <= 1e10))
		return tw_fail(EINVAL, "a rate of %g packets per second; it can be up to 1e10",
		               run->rate);
	if (run->spacing > TW_SPACING_BURST || (run->spacing == TW_SPACING_BURST && !run->burst))
		return tw_fail(EINVAL, "spacing %u with bursts of %u packets", run->spacing,
		               run->burst);
	if (run->rate > 0 && RTE_MAX(run->burst, 1u) / run->rate > GAP_MAX_S)
		return tw_fail(EINVAL,
		               "%g packets per second are %u in %.0f hours; 28 are the limit",
		               run->rate, RTE_MAX(run->burst, 1u),
		               RTE_MAX(run->burst, 1u) / run->rate / 3600);
	for (uint32_t q = 0; q < source->queues; q++)
		tw_histogram_clear(source->queue[q]->late);
	source->ordered.run = *run;
	source->ordered.on = true;
	source->ordered.epoch = (source->ordered.epoch + 1) & 0xff;
	give_order(source);
	return 0;
}

int tw_source_stop(uint32_t number)
{
	struct tw_source *source = source_get(number);

	if (!source)
		return -ENODEV;
	source->ordered.on = false;
	give_order(source);
	return 0;
}

static void add_queue(struct tw_source_counters *sum, struct tw_source *source,
                      struct tw_source_queue *queue)
{
	bool unpaced = atomic_load(&queue->active) && source->ordered.run.rate == 0;
	uint64_t begin = tw_word_get(&queue->begin),
		 end = unpaced ? rte_rdtsc() : tw_word_get(&queue->end);

	/* What it counted before the last start, which it has not seen yet, does not count. */
	if (source->ordered.on && atomic_load(&queue->taken) != atomic_load(&source->order))
		return;
	sum->packets += tw_word_get(&queue->packets);
	sum->bytes += tw_word_get(&queue->bytes);
	sum->skipped += tw_word_get(&queue->skipped);
	sum->no_buffer += tw_word_get(&queue->no_buffer);
	if (begin == 0)
		return;
	sum->begin = sum->begin == 0 || begin < sum->begin ? begin : sum->begin;
	sum->end = end > sum->end ? end : sum->end;
}

int tw_source_counters(uint32_t number, int index, struct tw_source_counters *counters)
{
	struct tw_source *source = source_get(number);

	if (!source)
		return -ENODEV;
	*counters = (struct tw_source_counters){
		.queues = source->queues,
		.epoch = (uint8_t)source->ordered.epoch,
		.running = is_running(source),
	};
	for (uint32_t q = 0; q < source->queues; q++)
		if (index < 0 || q == (uint32_t)index)
			add_queue(counters, source, source->queue[q]);
	return 0;
}

int tw_source_precision(uint32_t number, struct tw_histogram *to)
{
	struct tw_source *source = source_get(number);

	if (!source)
		return -ENODEV;
	for (uint32_t q = 0; q < source->queues; q++)
		tw_histogram_merge(to, source->queue[q]->late);
	return 0;
}
