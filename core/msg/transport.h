/* SPDX-License-Identifier: BSD-3-Clause */
/* transport.h - what the files of the fabric share: what a transport is, and what a fabric and a
 * link have in common to all of them. */
#pragma once
#include "msg/pool.h"
#include "msg/routes.h"

#define FABRIC_DEPTH 1024      /* descriptors that wait for an instance, from gates, at most */
#define FABRIC_DEPTH_MOST 4096 /* from everybody; the size of a ring (ring.h) */

struct transport {
	const char *name;
	/* The engine's side; f->own is the transport's. */
	int (*create)(struct tw_fabric *f); /* makes f->pool as well */
	void (*destroy)(struct tw_fabric *f);
	int (*add)(struct tw_fabric *f, uint32_t member);
	void (*remove)(struct tw_fabric *f, uint32_t member);
	/* f->routes has changed: for this function, for this member; senders see it. */
	int (*publish_function)(struct tw_fabric *f, uint32_t function);
	int (*publish_member)(struct tw_fabric *f, uint32_t member);
	/* Nobody who has begun a send before goes on with it after this. */
	void (*settle)(struct tw_fabric *f);
	int (*join)(struct tw_fabric *f, uint32_t member, struct tw_join *join,
	            int fds[TW_JOIN_FDS]);
	void (*stats)(struct tw_fabric *f, uint32_t member, struct tw_member_stats *stats);
	void (*gate_link)(struct tw_fabric *f, struct tw_link *link); /* NULL: as others */
	/* A member's side; link->own is the transport's. */
	int (*open)(struct tw_link *link, const struct tw_join *join, const int *fds);
	void (*close)(struct tw_link *link);
	/* Descriptors with their lanes, of gates with their target. Changes owners. */
	int (*send)(struct tw_link *link, struct tw_desc *desc, unsigned n);
	/* Not yet taken. */
	int (*receive)(struct tw_link *link, struct tw_desc *desc, unsigned max);
	bool (*ready)(struct tw_link *link);
};

extern const struct transport sk_msg_transport, rings_transport;
const struct transport *fabric_transport(uint32_t transport); /* NULL: inline, or none */

struct tw_fabric {
	struct tw_service_spec spec;
	uint32_t gates;
	const struct transport *transport; /* NULL: inline */
	void *own;
	struct tw_pool *pool;
	struct routes routes;
	uint32_t next_member;
	uint32_t reach[TW_MEMBERS_MAX]; /* routes_function.allow when it was told how to join */
	struct tw_link *gate[TW_GATES_MAX];
};

struct tw_link {
	const struct transport *transport;
	void *own;
	struct tw_pool *pool;
	struct tw_member_board *board;
	uint32_t member, function;     /* ROUTES_GATE: a gate thread's */
	int fd;                        /* -1: polls */
	uint64_t received, finished;   /* descriptors */
	uint8_t sender[TW_DESC_BATCH]; /* of what was received last */
};

/* A word that this member alone writes. */
static inline void fabric_bump(uint64_t *word, uint64_t by)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

/* Pairs of connected TCP sockets that nothing outside can reach. */
struct loopback;
int loopback_new(struct loopback **loopback);
int loopback_pair(struct loopback *loopback, int pair[2]);
void loopback_free(struct loopback *loopback);
