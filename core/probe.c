/* SPDX-License-Identifier: BSD-3-Clause */
/* probe.c - probes: callbacks on the queues of a port that read the stamps at the end of frames. */
#define ALLOW_EXPERIMENTAL_API /* rte_eth_read_clock, in DPDK since 19.08 */
#include "probe.h"
#include "error.h"
#include "port.h"
#include "probe_stream.h"
#include "rcu.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_mbuf_dyn.h>

#define OLDEST_S 3600u /* stamps that are older are none */
#define AHEAD_MS 1u    /* stamps that are further in the future are none */
#define CLOCK_MS 10u   /* the device's clock is compared with the TSC over at least this time */

struct queue {
	struct probe *probe;
	const struct rte_eth_rxtx_callback *callback;
	struct tw_looked looked; /* writer: whoever has the queue */
} __rte_cache_aligned;

struct probe {
	int port, side;
	uint16_t ethdev, n_queues;
	bool attached;
	bool shared;  /* streams may come by more than one queue */
	bool offload; /* the device was configured to note receive times */
	struct tw_timing timing;
	struct tw_looked looked0; /* of all queues, at the last reset */
	void *states;
	uint64_t token; /* retired: freed when lcores have passed it */
	struct probe *next_retired;
	struct tw_stream stream[TW_STREAMS_MAX];
	struct queue queue[TW_LCORES_MAX];
};

static struct probe *probes[TW_PORTS_MAX][2];
static struct probe *retired;

/* ---- bursts ---- */

static inline void look(struct queue *q, struct rte_mbuf **mbufs, unsigned n)
{
	if (n)
		tw_streams_look(q->probe->stream, &q->probe->timing, &q->looked, q->probe->shared,
		                mbufs, n);
}

static uint16_t on_rx(uint16_t dev, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n,
                      uint16_t max, void *arg)
{
	(void)dev, (void)queue, (void)max;
	look(arg, mbufs, n);
	return n;
}

static uint16_t on_tx(uint16_t dev, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n, void *arg)
{
	(void)dev, (void)queue;
	look(arg, mbufs, n);
	return n;
}

/* ---- the device's clock ---- */

uint64_t tw_probe_offloads(int port, const struct rte_eth_dev_info *info)
{
	struct probe *p = probes[port][TW_PROBE_RX];

	if (!p || p->attached || !(info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_TIMESTAMP))
		return 0;
	p->offload = true;
	return RTE_ETH_RX_OFFLOAD_TIMESTAMP;
}

static bool clock_read(const struct probe *p, uint64_t *tsc, uint64_t *ticks)
{
	uint64_t before = rte_rdtsc();
	int err = rte_eth_read_clock(p->ethdev, ticks);

	*tsc = before + (rte_rdtsc() - before) / 2;
	return err == 0;
}

/* Compares the clocks over the time since it was done last. */
static void clock_compare(struct probe *p)
{
	unsigned used = atomic_load(&p->timing.clock_used);
	struct tw_device_clock *was = &p->timing.clock[used], *c = &p->timing.clock[!used];

	if (!clock_read(p, &c->tsc0, &c->ticks0) || c->ticks0 == was->ticks0 ||
	    c->tsc0 - was->tsc0 < tw_tsc_hz() / 1000 * CLOCK_MS)
		return;
	c->ratio = (double)(c->tsc0 - was->tsc0) / (double)(c->ticks0 - was->ticks0);
	atomic_store_explicit(&p->timing.clock_used, !used, memory_order_release);
}

static void timing_init(struct probe *p)
{
	struct tw_timing *t = &p->timing;
	struct timespec wait = { .tv_nsec = (CLOCK_MS + 1) * 1000000l };

	t->ns_mult = (uint64_t)(1e9 * (double)(1ull << TW_NS_SHIFT) / (double)tw_tsc_hz());
	t->oldest = tw_tsc_hz() * OLDEST_S;
	t->ahead = tw_tsc_hz() / 1000 * AHEAD_MS;
	if (!p->offload || !clock_read(p, &t->clock[0].tsc0, &t->clock[0].ticks0) ||
	    rte_mbuf_dyn_rx_timestamp_register(&t->field, &t->flag) < 0)
		return;
	nanosleep(&wait, NULL);
	clock_compare(p);
	t->device = atomic_load(&t->clock_used) == 1;
}

/* ---- making, attaching, forgetting ---- */

static void probe_free(struct probe *p)
{
	for (unsigned i = 0; i < p->n_queues; i++)
		rte_free((void *)(uintptr_t)p->queue[i].callback);
	if (p->states)
		tw_streams_free(p->states, TW_STREAMS_MAX);
	free(p);
}

/* Those that no lcore can use any more, and all of this port. */
static void reclaim(int port)
{
	for (struct probe **at = &retired; *at;) {
		struct probe *p = *at;

		if (p->port == port || rte_rcu_qsbr_check(tw_qsbr(), p->token, false) == 1) {
			*at = p->next_retired;
			probe_free(p);
		} else {
			at = &p->next_retired;
		}
	}
}

static struct probe *probe_new(int port, int side)
{
	struct probe *p = aligned_alloc(RTE_CACHE_LINE_SIZE, sizeof(*p));

	if (p) {
		memset(p, 0, sizeof(*p));
		p->port = port;
		p->side = side;
		p->states = tw_streams_new(p->stream, TW_STREAMS_MAX);
	}
	if (p && p->states)
		return p;
	free(p);
	tw_fail(ENOMEM, "no memory for a probe on port %d", port);
	return NULL;
}

static void unlink_callbacks(struct probe *p)
{
	for (unsigned i = 0; i < p->n_queues; i++) {
		if (p->side == TW_PROBE_RX)
			rte_eth_remove_rx_callback(p->ethdev, i, p->queue[i].callback);
		else
			rte_eth_remove_tx_callback(p->ethdev, i, p->queue[i].callback);
	}
	p->attached = false;
}

static int attach(struct probe *p)
{
	const struct tw_port *port = &tw_port_table[p->port];
	unsigned n = p->side == TW_PROBE_RX ? port->rx_queues : port->tx_queues;

	p->ethdev = port->ethdev;
	timing_init(p);
	p->shared = n > 1;
	p->attached = true;
	for (unsigned i = 0; i < RTE_MIN(n, RTE_DIM(p->queue)); i++) {
		struct queue *q = &p->queue[i];

		q->probe = p;
		q->callback = p->side == TW_PROBE_RX
		                      ? rte_eth_add_rx_callback(p->ethdev, i, on_rx, q)
		                      : rte_eth_add_tx_callback(p->ethdev, i, on_tx, q);
		if (!q->callback)
			return tw_fail(rte_errno, "queue %u of port %d cannot be watched: %s", i,
			               p->port, rte_strerror(rte_errno));
		p->n_queues++;
	}
	return 0;
}

int tw_probe_open(int port, int side)
{
	int err;

	reclaim(-1);
	if (port < 0 || port >= TW_PORTS_MAX || !tw_port_table[port].used)
		return tw_fail(ENODEV, "there is no port %d to watch", port);
	if (side != TW_PROBE_RX && side != TW_PROBE_TX)
		return tw_fail(EINVAL, "side %d of a port is neither rx (0) nor tx (1)", side);
	if (!probes[port][side])
		probes[port][side] = probe_new(port, side);
	if (!probes[port][side])
		return -ENOMEM;
	if (probes[port][side]->attached || !tw_port_table[port].started)
		return 0;
	err = attach(probes[port][side]);
	if (err < 0)
		tw_probe_close(port, side);
	return err;
}

static struct probe *probe_get(int port, int side)
{
	struct probe *p = NULL;

	if (port >= 0 && port < TW_PORTS_MAX && (side == TW_PROBE_RX || side == TW_PROBE_TX))
		p = probes[port][side];
	if (!p)
		tw_fail(ENOENT, "nothing watches what port %d %s: it is closed, or its probe is",
		        port, side == TW_PROBE_RX ? "receives" : "sends");
	return p;
}

void tw_probe_close(int port, int side)
{
	struct probe *p = probe_get(port, side);

	if (!p)
		return;
	probes[port][side] = NULL;
	if (p->attached)
		unlink_callbacks(p);
	p->token = rte_rcu_qsbr_start(tw_qsbr());
	p->next_retired = retired;
	retired = p;
	reclaim(-1);
}

int tw_probe_attach(int port)
{
	int err = tw_port_table[port].sink ? tw_probe_open(port, TW_PROBE_TX) : 0;

	for (int side = 0; side < 2 && err == 0; side++)
		if (probes[port][side])
			err = tw_probe_open(port, side);
	return err;
}

void tw_probe_detach(int port)
{
	for (int side = 0; side < 2; side++)
		if (probes[port][side])
			tw_probe_close(port, side);
	reclaim(port);
}

/* ---- reading ---- */

static struct tw_looked sum_looked(const struct probe *p)
{
	struct tw_looked sum = { 0, 0 };

	for (unsigned i = 0; i < p->n_queues; i++) {
		const struct tw_looked *l = &p->queue[i].looked;

		sum.foreign += __atomic_load_n(&l->foreign, __ATOMIC_RELAXED);
		sum.by_device += __atomic_load_n(&l->by_device, __ATOMIC_RELAXED);
	}
	return sum;
}

int tw_probe_reset(int port, int side)
{
	struct probe *p = probe_get(port, side);

	if (!p)
		return -ENOENT;
	for (unsigned i = 0; i < TW_STREAMS_MAX; i++)
		tw_stream_reset(&p->stream[i]);
	if (p->timing.device)
		clock_compare(p);
	p->looked0 = sum_looked(p);
	return 0;
}

int tw_probe_stream(int port, int side, uint32_t stream, struct tw_probe_stream *counters)
{
	struct probe *p = probe_get(port, side);

	if (!p)
		return -ENOENT;
	if (stream >= TW_STREAMS_MAX)
		return tw_fail(EINVAL, "stream %u: streams are 0 to %d", stream,
		               TW_STREAMS_MAX - 1);
	tw_stream_counters(&p->stream[stream], counters);
	return 0;
}

int tw_probe_info(int port, int side, struct tw_probe_info *info)
{
	struct probe *p = probe_get(port, side);
	struct tw_probe_stream c;
	struct tw_looked looked;

	if (!p)
		return -ENOENT;
	looked = sum_looked(p);
	*info = (struct tw_probe_info){
		.attached = p->attached,
		.device_clock = p->timing.device,
		.foreign = looked.foreign - p->looked0.foreign,
		.device_clocked = looked.by_device - p->looked0.by_device,
	};
	for (unsigned i = 0; i < TW_STREAMS_MAX; i++) {
		tw_stream_counters(&p->stream[i], &c);
		if (c.received || c.stale)
			info->streams |= 1ull << i;
	}
	return 0;
}

int tw_probe_latency(int port, int side, int stream, struct tw_histogram *to)
{
	struct probe *p = probe_get(port, side);

	if (!p)
		return -ENOENT;
	if (stream < -1 || stream >= TW_STREAMS_MAX)
		return tw_fail(EINVAL, "stream %d: streams are 0 to %d, -1: all", stream,
		               TW_STREAMS_MAX - 1);
	for (int i = 0; i < TW_STREAMS_MAX; i++)
		if (stream < 0 || stream == i)
			tw_stream_latency(&p->stream[i], to);
	return 0;
}
