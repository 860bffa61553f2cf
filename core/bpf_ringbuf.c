/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_ringbuf.c - reads ring buffer maps record by record, without callbacks. */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bpf.h>

/* The kernel lays the ring out as one page with the reader's position, one with the writer's, then
 * the records, twice, so that none is ever cut at the end. */
struct tw_bpf_ringbuf {
	int map;
	unsigned long *consumer, *producer;
	const char *data;
	size_t page, size;
	unsigned long next; /* position after the record that the caller looks at */
};

struct tw_bpf_ringbuf *tw_bpf_ringbuf_new(int map)
{
	struct tw_bpf_map_info info;
	struct tw_bpf_ringbuf *ring;
	void *memory;

	if (tw_bpf_map_get_info(map, &info) < 0)
		return NULL;
	if (info.kind != BPF_MAP_TYPE_RINGBUF) {
		tw_fail(EINVAL, "map %s is of kind %u, not a ring buffer", info.name, info.kind);
		return NULL;
	}
	ring = calloc(1, sizeof(*ring));
	if (!ring) {
		tw_fail(ENOMEM, "no memory for the reader of ring buffer %s", info.name);
		return NULL;
	}
	ring->map = map;
	ring->page = sysconf(_SC_PAGESIZE);
	ring->size = info.entries;
	memory = mmap(NULL, ring->page, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
	if (memory == MAP_FAILED)
		goto fail;
	ring->consumer = memory;
	memory = mmap(NULL, ring->page + 2 * ring->size, PROT_READ, MAP_SHARED, map, ring->page);
	if (memory == MAP_FAILED)
		goto fail;
	ring->producer = memory;
	ring->data = (const char *)memory + ring->page;
	ring->next = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
	return ring;
fail:
	tw_fail(errno, "ring buffer %s cannot be mapped into memory: %s", info.name,
	        strerror(errno));
	tw_bpf_ringbuf_free(ring);
	return NULL;
}

const void *tw_bpf_ringbuf_next(struct tw_bpf_ringbuf *ring, uint32_t *length)
{
	for (;;) {
		const uint32_t *header;
		uint32_t len;

		__atomic_store_n(ring->consumer, ring->next, __ATOMIC_RELEASE);
		if (ring->next == __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE))
			return NULL;
		header = (const void *)(ring->data + (ring->next & (ring->size - 1)));
		len = __atomic_load_n(header, __ATOMIC_ACQUIRE);
		if (len & BPF_RINGBUF_BUSY_BIT) /* reserved, not yet submitted */
			return NULL;
		*length = len & ~BPF_RINGBUF_DISCARD_BIT;
		ring->next += (*length + BPF_RINGBUF_HDR_SZ + 7) & ~7ul;
		if (!(len & BPF_RINGBUF_DISCARD_BIT))
			return (const char *)header + BPF_RINGBUF_HDR_SZ;
	}
}

int tw_bpf_ringbuf_poll(struct tw_bpf_ringbuf *ring, int ms)
{
	struct pollfd pollfd = { .fd = ring->map, .events = POLLIN };
	int rc;

	/* The record that the caller has seen must not keep poll() from waiting. */
	__atomic_store_n(ring->consumer, ring->next, __ATOMIC_RELEASE);
	rc = poll(&pollfd, 1, ms);
	if (rc < 0 && errno != EINTR)
		return tw_fail(errno, "waiting for a ring buffer: %s", strerror(errno));
	return rc > 0;
}

void tw_bpf_ringbuf_free(struct tw_bpf_ringbuf *ring)
{
	if (!ring)
		return;
	if (ring->consumer)
		munmap(ring->consumer, ring->page);
	if (ring->producer)
		munmap(ring->producer, ring->page + 2 * ring->size);
	free(ring);
}
