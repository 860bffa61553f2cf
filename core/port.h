/* SPDX-License-Identifier: BSD-3-Clause */
/* port.h - ports: DPDK ethernet devices by index, and rings between chains. */
#pragma once
#include "abi.h"

#include <rte_ethdev.h>
#include <rte_ring.h>
#include <rte_spinlock.h>

#define TW_TX_QUEUES_MAX 16

struct tw_port {
	bool used, started;
	bool owns_device; /* probed by us, so removed by us */
	uint16_t ethdev;
	uint16_t rx_queues, tx_queues;
	uint32_t reserved, alone; /* buffers: in the pool of its node; in one of its own */
	bool fast_free;           /* it frees in bulk: all it sends has to be of one pool */
	bool sink;                /* packets end here, and are looked at (probe.c) */
	int source;               /* number of the source that makes its packets, -1: none */
	struct rte_mempool *pool; /* of its receive queues */
	int socket;
	struct rte_ring *wire_in, *wire_out;      /* wire ports: far ends */
	rte_spinlock_t tx_lock[TW_TX_QUEUES_MAX]; /* by tx queue, where lcores have to share one */
};

struct tw_ring {
	bool used;
	struct rte_ring *ring;
};

extern struct tw_port tw_port_table[TW_PORTS_MAX];
extern struct tw_ring tw_ring_table[TW_RINGS_MAX];

/* NULL, and why in tw_error(), when there is none. */
struct tw_port *tw_port_get(int port);

/* wire.c */
int tw_wire_open(struct tw_port *port, int index);
void tw_wire_close(struct tw_port *port);

/* gone.c: a ring that no plan uses any more is closed with so many packets in it. */
void tw_ring_gone(unsigned packets);

/* The mode the kernel gave to an AF_XDP port: "native XDP, zero-copy" and so on. */
void tw_xdp_mode(const char *ifname, char *text, size_t size);

/* 0 when an AF_XDP port may take the interface, -EBUSY when somebody else's XDP program is on it.
 * What a killed process left there is no obstacle. */
int tw_xdp_claim(const char *ifname);
