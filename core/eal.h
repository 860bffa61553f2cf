/* SPDX-License-Identifier: BSD-3-Clause */
/* eal.h - start of the DPDK environment (EAL) and its memory: pools per NUMA node. */
#pragma once
#include "abi.h"

struct rte_mempool;

/* The mbuf pool of a NUMA node, made at first use with room for what is reserved by then and for so
 * much that comes later: a ring, or a port with a queue or two. */
#define TW_POOL_LATER 4096
struct rte_mempool *tw_pool(int socket);
/* Buffers that queues and rings will hold at most; -ENOSPC when the pools are there and too small
 * for it. */
int tw_pool_reserve(uint32_t buffers);
void tw_pool_release(uint32_t buffers);
/* A pool for one port alone; the port says when it is closed. */
struct rte_mempool *tw_pool_further(int socket, uint32_t buffers, bool *in_use);
bool tw_pool_has_further(void);
void tw_pools_free(void);

/* DPDK's own messages: forget what was said so far; what it said since, as one line ("" nothing).
 */
void tw_eal_listen(void);
const char *tw_eal_said(void);
