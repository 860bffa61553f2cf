/* SPDX-License-Identifier: BSD-3-Clause */
/* source.h - ports that make packets: what port.c has to do with them. */
#pragma once
#include "abi.h"

struct tw_port;

/* Packet buffers that the source of a port wants for so many queues, in a pool of its own. */
uint32_t tw_source_mbufs(const struct tw_port *port, uint32_t queues);
/* The port's receive queues run: from now on they give the source's packets. */
int tw_source_attach(struct tw_port *port);
/* No lcore polls the port. */
void tw_source_detach(struct tw_port *port);
