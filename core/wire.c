/* SPDX-License-Identifier: BSD-3-Clause */
/* wire.c - wire ports: an ethdev over two rings whose far end is the caller. */
#include "eal.h"
#include "error.h"
#include "port.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_eth_ring.h>

#define WIRE_SIZE 4096u

int tw_wire_open(struct tw_port *port, int index)
{
	char in[32], out[32], dev[32];
	int id;

	snprintf(in, sizeof(in), "tw-wire%d-in", index);
	snprintf(out, sizeof(out), "tw-wire%d-out", index);
	snprintf(dev, sizeof(dev), "wire%d", index);
	port->wire_in = rte_ring_create(in, WIRE_SIZE, SOCKET_ID_ANY, 0);
	port->wire_out = rte_ring_create(out, WIRE_SIZE, SOCKET_ID_ANY, 0);
	if (!port->wire_in || !port->wire_out)
		return tw_fail(rte_errno, "no memory for a wire port: %s", rte_strerror(rte_errno));
	id = rte_eth_from_rings(dev, &port->wire_in, 1, &port->wire_out, 1, 0);
	if (id < 0)
		return tw_fail(rte_errno ? rte_errno : EIO, "cannot make a wire port: %s",
		               rte_strerror(rte_errno));
	port->ethdev = id;
	port->owns_device = true;
	return 0;
}

void tw_wire_close(struct tw_port *port)
{
	for (int i = 0; i < 2; i++) {
		struct rte_ring *ring = i ? port->wire_out : port->wire_in;
		void *mbuf;

		while (ring && rte_ring_dequeue(ring, &mbuf) == 0)
			rte_pktmbuf_free(mbuf);
		rte_ring_free(ring);
	}
}

int tw_wire_inject(int index, const void *frame, uint32_t len)
{
	struct tw_port *port = tw_port_get(index);
	struct rte_mempool *pool;
	struct rte_mbuf *mbuf;
	char *data;

	if (!port)
		return -ENODEV;
	if (!port->wire_in)
		return tw_fail(EINVAL, "port %d is no wire port", index);
	pool = tw_pool(port->socket);
	mbuf = pool ? rte_pktmbuf_alloc(pool) : NULL;
	if (!mbuf)
		return tw_fail(ENOMEM, "no packet buffer is free");
	data = len > UINT16_MAX ? NULL : rte_pktmbuf_append(mbuf, len);
	if (data)
		memcpy(data, frame, len);
	/* From the enqueue on the frame may be on its way. */
	if (!data || rte_ring_enqueue(port->wire_in, mbuf) < 0) {
		rte_pktmbuf_free(mbuf);
		return data ? tw_fail(ENOBUFS, "the wire is full (%u frames)", WIRE_SIZE - 1)
		            : tw_fail(EMSGSIZE, "a frame of %u bytes does not fit a buffer", len);
	}
	return 0;
}

int tw_wire_collect(int index, void *frame, uint32_t size)
{
	struct tw_port *port = tw_port_get(index);
	struct rte_mbuf *mbuf;
	uint32_t len;
	void *obj;

	if (!port)
		return -ENODEV;
	if (!port->wire_out || rte_ring_dequeue(port->wire_out, &obj) < 0)
		return 0;
	mbuf = obj;
	len = rte_pktmbuf_pkt_len(mbuf);
	if (len > size)
		len = size;
	memcpy(frame, rte_pktmbuf_read(mbuf, 0, len, frame), len);
	rte_pktmbuf_free(mbuf);
	return len;
}
