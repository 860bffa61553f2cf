/* SPDX-License-Identifier: BSD-3-Clause */
/* eal.h - start of the DPDK environment (EAL) and its memory: pools per NUMA node. */
#pragma once
#include "abi.h"

struct rte_mempool;

/* The mbuf pool of a NUMA node, made at first use with at least `need` buffers. */
struct rte_mempool *tw_pool(int socket);
/* Buffers that queues and rings will hold at most; sizes the pools (see tw_options.mbufs). */
void tw_pool_reserve(uint32_t buffers);
void tw_pools_free(void);

/* DPDK's own messages: forget what was said so far; what it said since, as one line ("" nothing).
 */
void tw_eal_listen(void);
const char *tw_eal_said(void);
