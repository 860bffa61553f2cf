/* SPDX-License-Identifier: BSD-3-Clause */
/* rings.h - the two halves of the ring transport: the engine's, which makes the memory, and the
 * members', which map what they were given. */
#pragma once
#include "msg/ring.h"
#include "msg/transport.h"

_Static_assert(RING_SIZE == FABRIC_DEPTH_MOST, "a ring has room for all that may wait");

/* By function, ROUTES_GATE for the gate threads: TW_INSTANCES_MAX rings, NULL: not to be reached
 * from here. */
struct ring_table {
	struct ring *of[ROUTES_FUNCTIONS];
};
#define RING_FILE_BYTES (sizeof(struct ring) * TW_INSTANCES_MAX)

struct ring_end {
	const struct routes *routes;
	struct ring_table *table; /* a gate thread's is the engine's, which grows */
	struct ring_table own;
	struct ring *mine;
	uint64_t head;
};

struct ring *rings_map(int fd);
void rings_unmap(struct ring *rings);

int rings_open(struct tw_link *link, const struct tw_join *join, const int *fds);
void rings_close(struct tw_link *link);
int rings_send(struct tw_link *link, struct tw_desc *desc, unsigned n);
int rings_receive(struct tw_link *link, struct tw_desc *desc, unsigned max);
bool rings_ready(struct tw_link *link);
