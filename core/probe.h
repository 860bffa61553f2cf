/* SPDX-License-Identifier: BSD-3-Clause */
/* probe.h - probes on ports: what port.c has to do with them. */
#pragma once
#include "abi.h"

struct rte_eth_dev_info;

/* Offloads that the probes of a port want when it is configured. */
uint64_t tw_probe_offloads(int port, const struct rte_eth_dev_info *info);
/* The port has started: its queues are watched, those of a sink as they send. */
int tw_probe_attach(int port);
/* No lcore uses the port: forgets its probes. */
void tw_probe_detach(int port);
