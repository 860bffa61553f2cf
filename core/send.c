/* SPDX-License-Identifier: BSD-3-Clause */
/* send.c - packets leave the engine: to ports and rings, or dropped, every one of them counted. */
#include "lcore.h"
#include "port.h"
#include "stats.h"
#include "watch.h"

static inline struct tw_chain_stats *chain_stats(struct tw_lcore *lcore, unsigned chain)
{
	return &lcore->stats->chain[lcore->plan->chain[chain].chain];
}

void tw_dispatch_drop_seen(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                           struct rte_mbuf *mbuf)
{
	unsigned id = lcore->plan->chain[chain].chain;

	if (stage >= TW_STAGES_MAX)
		stage = TW_STAGE_ENGINE;
	if (reason >= TW_REASONS_MAX)
		reason = TW_R_BAD_VERDICT;
	lcore->stats->drops[id][stage][reason]++;
	lcore->stats->chain[id].dropped++;
	if (lcore->n_dead == RTE_DIM(lcore->dead))
		tw_dispatch_bury(lcore);
	if (mbuf)
		lcore->dead[lcore->n_dead++] = mbuf;
}

void tw_dispatch_drop(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned reason,
                      struct rte_mbuf *mbuf)
{
	if (tw_watching(lcore))
		tw_watch_drop(lcore, chain, stage, reason, mbuf);
	tw_dispatch_drop_seen(lcore, chain, stage, reason, mbuf);
}

/* Dropped packets are freed together, once per burst. */
void tw_dispatch_bury(struct tw_lcore *lcore)
{
	if (lcore->n_dead)
		rte_pktmbuf_free_bulk(lcore->dead, lcore->n_dead);
	lcore->n_dead = 0;
}

/* Offer mbufs to a port; what it does not take is dropped as tx_full. */
void tw_send_port(struct tw_lcore *lcore, unsigned chain, unsigned index, struct rte_mbuf **mbufs,
                  unsigned n, uint64_t bytes)
{
	struct tw_chain_stats *stats = chain_stats(lcore, chain);
	struct tw_port_stats *pstats = &lcore->stats->port[index];
	struct tw_port *port = &tw_port_table[index];
	uint16_t queue = lcore->plan->tx_queue[index];
	bool shared = lcore->plan->tx_shared[index];
	unsigned sent, retries = lcore->plan->tx_retries;
	uint64_t lost = 0;

	if (tw_watching(lcore))
		tw_watch_leaving(lcore, chain, index, 0, mbufs, n);
	if (shared)
		rte_spinlock_lock(&port->tx_lock[queue]);
	sent = rte_eth_tx_burst(port->ethdev, queue, mbufs, n);
	while (sent < n && retries--)
		sent += rte_eth_tx_burst(port->ethdev, queue, mbufs + sent, n - sent);
	if (shared)
		rte_spinlock_unlock(&port->tx_lock[queue]);
	if (tw_watching(lcore))
		tw_watch_left(lcore, chain, index, 0, mbufs, sent);
	for (unsigned i = sent; i < n; i++) {
		lost += mbufs[i]->pkt_len;
		tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_TX_FULL, mbufs[i]);
	}
	pstats->tx_packets += sent;
	pstats->tx_bytes += bytes - lost;
	pstats->tx_full += n - sent;
	stats->sent += sent;
	stats->sent_bytes += bytes - lost;
	lcore->stats->sent_to[lcore->plan->chain[chain].chain][index] += sent;
}

void tw_send_ring(struct tw_lcore *lcore, unsigned chain, unsigned index, struct rte_mbuf **mbufs,
                  unsigned n)
{
	struct tw_chain_stats *stats = chain_stats(lcore, chain);
	uint32_t len[TW_BURST_MAX * 2];
	unsigned sent;

	/* After the enqueue the other side owns them: take the lengths first. */
	for (unsigned i = 0; i < n; i++)
		len[i] = mbufs[i]->pkt_len;
	if (tw_watching(lcore))
		tw_watch_leaving(lcore, chain, index, TW_WATCH_RING, mbufs, n);
	sent = rte_ring_enqueue_burst(tw_ring_table[index].ring, (void **)mbufs, n, NULL);
	if (tw_watching(lcore))
		tw_watch_left(lcore, chain, index, TW_WATCH_RING, mbufs, sent);
	for (unsigned i = 0; i < sent; i++)
		stats->sent_bytes += len[i]; /* cppcheck-suppress uninitvar */
	stats->sent += sent;
	for (unsigned i = sent; i < n; i++)
		tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_RING_FULL, mbufs[i]);
}

static uint64_t bytes_of(struct rte_mbuf **mbufs, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += mbufs[i]->pkt_len;
	return bytes;
}

void tw_send_flush(struct tw_lcore *lcore, unsigned chain)
{
	while (lcore->tx_dirty) {
		unsigned port = __builtin_ctzll(lcore->tx_dirty);
		struct tw_tx *tx = &lcore->tx[port];

		lcore->tx_dirty &= lcore->tx_dirty - 1;
		tw_send_port(lcore, chain, port, tx->mbuf, tx->count,
		             bytes_of(tx->mbuf, tx->count));
		tx->count = 0;
	}
}

void tw_send_queue(struct tw_lcore *lcore, unsigned chain, unsigned stage, unsigned port,
                   struct rte_mbuf *mbuf)
{
	struct tw_tx *tx;

	if (port >= TW_PORTS_MAX || !(lcore->plan->ports >> port & 1)) {
		tw_dispatch_drop(lcore, chain, stage, TW_R_BAD_PORT, mbuf);
		return;
	}
	tx = &lcore->tx[port];
	if (tx->count == RTE_DIM(tx->mbuf)) {
		tw_send_port(lcore, chain, port, tx->mbuf, tx->count,
		             bytes_of(tx->mbuf, tx->count));
		tx->count = 0;
	}
	tx->mbuf[tx->count++] = mbuf;
	lcore->tx_dirty |= 1ull << port;
}
