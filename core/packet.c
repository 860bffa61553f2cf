/* SPDX-License-Identifier: BSD-3-Clause */
/* packet.c - what Lua calls on packets: resizing, and new frames from the slow path. */
#include "eal.h"
#include "error.h"
#include "lcore.h"
#include "port.h"

#include <errno.h>
#include <string.h>

#include <rte_ip.h>
#include <rte_random.h>

/* A packet without an mbuf lies in a buffer of its own. */
static int bare_head(struct tw_pkt *pkt, int delta)
{
	if (delta < pkt->room - pkt->data)
		return tw_fail(ENOSPC, "adjust_head(%d): the buffer has %u bytes of headroom",
		               delta, (unsigned)(pkt->data - pkt->room));
	pkt->data += delta;
	pkt->len -= delta;
	return 0;
}

static int bare_tail(struct tw_pkt *pkt, int delta)
{
	ptrdiff_t tailroom = pkt->room_end - pkt->data - pkt->len;

	if (delta <= -pkt->len)
		return tw_fail(EINVAL, "adjust_tail(%d): the frame has %d bytes", delta, pkt->len);
	if (delta > tailroom)
		return tw_fail(ENOSPC, "adjust_tail(%d): the buffer has %u bytes of tailroom",
		               delta, (unsigned)tailroom);
	if (delta > 0)
		memset(pkt->data + pkt->len, 0, delta);
	pkt->len += delta;
	return 0;
}

int tw_pkt_adjust_head(struct tw_pkt *pkt, int delta)
{
	struct rte_mbuf *mbuf = pkt->mbuf;
	char *data;

	if (delta > 0 && delta >= pkt->len)
		return tw_fail(EINVAL, "adjust_head(%d): the frame has %d bytes", delta, pkt->len);
	if (!mbuf)
		return bare_head(pkt, delta);
	/* Lengths of mbufs have 16 bits: a larger delta would be cut to what fits. */
	if (delta > 0)
		data = rte_pktmbuf_adj(mbuf, delta);
	else
		data = delta < -UINT16_MAX ? NULL : rte_pktmbuf_prepend(mbuf, -delta);
	if (!data)
		return tw_fail(ENOSPC, "adjust_head(%d): the buffer has %u bytes of headroom",
		               delta, rte_pktmbuf_headroom(mbuf));
	pkt->data = (uint8_t *)data;
	pkt->len = mbuf->data_len;
	if (tw_self)
		tw_self->resized = true;
	return 0;
}

int tw_pkt_adjust_tail(struct tw_pkt *pkt, int delta)
{
	struct rte_mbuf *mbuf = pkt->mbuf;
	char *data;

	if (!mbuf)
		return bare_tail(pkt, delta);
	if (delta < 0) {
		if (delta <= -pkt->len || rte_pktmbuf_trim(mbuf, -delta) < 0)
			return tw_fail(EINVAL, "adjust_tail(%d): the frame has %d bytes", delta,
			               pkt->len);
	} else if (delta > 0) {
		data = delta > UINT16_MAX ? NULL : rte_pktmbuf_append(mbuf, delta);
		if (!data)
			return tw_fail(ENOSPC,
			               "adjust_tail(%d): the buffer has %u bytes of tailroom",
			               delta, rte_pktmbuf_tailroom(mbuf));
		memset(data, 0, delta);
	}
	pkt->len = mbuf->data_len;
	if (tw_self)
		tw_self->resized = true;
	return 0;
}

struct tw_pkt *tw_emit(uint16_t port, uint32_t len)
{
	struct tw_lcore *lcore = tw_self;
	struct rte_mempool *pool;
	struct rte_mbuf *mbuf;
	struct tw_pkt *pkt;
	char *data;

	if (!lcore || lcore->n_emits == TW_EMIT_MAX || port >= TW_PORTS_MAX ||
	    !tw_port_table[port].started)
		return NULL;
	pool = tw_pool(tw_port_table[port].socket);
	mbuf = pool ? rte_pktmbuf_alloc(pool) : NULL;
	data = mbuf && len <= UINT16_MAX ? rte_pktmbuf_append(mbuf, len) : NULL;
	if (!data) {
		rte_pktmbuf_free(mbuf);
		return NULL;
	}
	memset(data, 0, len);
	lcore->emit_chain[lcore->n_emits] = lcore->burst.chain;
	pkt = &lcore->emit[lcore->n_emits++];
	*pkt = (struct tw_pkt){
		.data = (uint8_t *)data,
		.len = len,
		.verdict = TW_PORT | (uint32_t)port << 8,
		.port = TW_PORT_NONE,
		.out = port,
		.stage = TW_STAGE_ENGINE,
		.mbuf = mbuf,
	};
	return pkt;
}

uint16_t tw_raw_sum(const void *data, uint32_t len)
{
	return rte_raw_cksum(data, len);
}

uint32_t tw_random(void)
{
	return rte_rand();
}
