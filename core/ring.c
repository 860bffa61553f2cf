/* SPDX-License-Identifier: BSD-3-Clause */
/* ring.c - rings that carry packets from one chain to another, across lcores. */
#include "eal.h"
#include "error.h"
#include "plan.h"
#include "port.h"
#include "stats.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_mbuf.h>

struct tw_ring tw_ring_table[TW_RINGS_MAX];

int tw_ring_open(const char *name, uint32_t size)
{
	struct tw_stats *stats = tw_stats();
	char unique[RTE_RING_NAMESIZE];
	int index, err;

	err = tw_eal_ensure();
	if (err < 0)
		return err;
	if (size < 2 || size > RTE_RING_SZ_MASK || (size & (size - 1)))
		return tw_fail(EINVAL, "ring \"%s\": size %u is not a power of two from 2 to 2^28",
		               name, size);
	for (index = 0; index < TW_RINGS_MAX && tw_ring_table[index].used; index++)
		;
	if (index == TW_RINGS_MAX)
		return tw_fail(ENOSPC, "%d rings are open, that is the limit", TW_RINGS_MAX);
	err = tw_pool_reserve(size);
	if (err < 0)
		return err;
	snprintf(unique, sizeof(unique), "tw-ring%d", index);
	tw_ring_table[index].ring = rte_ring_create(unique, size, SOCKET_ID_ANY, 0);
	if (!tw_ring_table[index].ring)
		tw_pool_release(size);
	if (!tw_ring_table[index].ring)
		return tw_fail(rte_errno, "no memory for ring \"%s\" of %u entries: %s", name, size,
		               rte_strerror(rte_errno));
	tw_ring_table[index].used = true;
	snprintf(stats->ring[index].name, TW_NAME_LEN, "%s", name);
	stats->ring[index].size = size;
	if (stats->rings < (uint32_t)index + 1)
		stats->rings = index + 1;
	return index;
}

int tw_ring_close(int index)
{
	unsigned left = 0;
	void *mbuf;

	if (index < 0 || index >= TW_RINGS_MAX || !tw_ring_table[index].used)
		return 0;
	if (tw_plan_has_ring(index))
		return tw_fail(EBUSY,
		               "ring \"%s\" is part of the plan that runs, or of the one before",
		               tw_stats()->ring[index].name);
	while (rte_ring_dequeue(tw_ring_table[index].ring, &mbuf) == 0) {
		rte_pktmbuf_free(mbuf);
		left++;
	}
	tw_ring_gone(left);
	tw_pool_release(rte_ring_get_size(tw_ring_table[index].ring));
	rte_ring_free(tw_ring_table[index].ring);
	memset(&tw_ring_table[index], 0, sizeof(tw_ring_table[index]));
	memset(&tw_stats()->ring[index], 0, sizeof(tw_stats()->ring[index]));
	return 0;
}
