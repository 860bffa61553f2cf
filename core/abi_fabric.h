/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_fabric.h - the part of the boundary for the shared memory of a service and for what carries
 * descriptors between its members (core/msg); same conventions as abi.h, which includes it. The
 * engine's own threads and its worker processes use it; Lua does in specs.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum { TW_POOL_CLASSES = 5 };
#define TW_JOIN_FDS 32 /* descriptors that a new instance is given at most */

/* ---- the pool; msg/pool.h says what it is, abi_msg.h has what functions call ---- */

enum tw_owner_state {
	TW_BLOCK_FREE = 0,
	TW_BLOCK_HELD, /* its owner works with it */
	TW_BLOCK_SENT, /* on its way to its owner, which has not taken it */
	TW_BLOCK_BUSY, /* its owner's function has begun with it */
	TW_BLOCK_LOST, /* taken back while a member that lives had it: not free before that one lets
	                  go */
};

struct tw_pool_fds {
	int owners; /* of a map of the kernel or a memfd */
	int blocks, blocks_readonly;
};

/* Makes a pool of about so many MB; hugepages when there are some. The owners are in memory that
 * the caller gives as a descriptor (a BPF_F_MMAPABLE array of 64-bit values), -1: a memfd. */
int tw_pool_create(struct tw_pool **pool, const char *name, uint32_t memory_mb, int owners_fd);
uint32_t tw_pool_blocks_for(
	uint32_t memory_mb); /* values that owners_fd must have, boards included */
/* For a program of the kernel: how many owner words, where among them the boards begin, how many
 * values one has. */
void tw_pool_places(uint32_t memory_mb, uint32_t *blocks, uint32_t *boards, uint32_t *board_words);
/* In another process. */
int tw_pool_attach(struct tw_pool **pool, int owners_fd, int blocks_fd, bool readonly);
void tw_pool_close(struct tw_pool *pool);
void tw_pool_descriptors(const struct tw_pool *pool, struct tw_pool_fds *fds);

/* Back again, when it could not be put into to's queue. */
int tw_pool_ungive(struct tw_pool *pool, tw_handle handle, uint32_t from, uint32_t to);
/* What was sent to `member` is held by it. */
int tw_pool_take(struct tw_pool *pool, tw_handle handle, uint32_t member);
uint64_t tw_pool_word(struct tw_pool *pool, uint32_t index); /* the owner word */
/* Memory of a block that the caller has made or taken, whatever its word says by now: functions can
 * write there at any time, and who is in the middle of something goes on. NULL: no such block. */
void *tw_pool_block(struct tw_pool *pool, tw_handle handle, uint32_t *size);

/* Takes a block away from whoever has it: its generation goes on, its new handle is `member`'s.
 * With `lives` a block that is held or busy becomes LOST instead, and 0 is returned: it is free
 * when its holder frees it or is gone. */
tw_handle tw_pool_seize(struct tw_pool *pool, tw_handle handle, uint32_t member, bool lives);
/* Sets the hints of all free blocks again; blocks whose words are nonsense are free. */
void tw_pool_mend(struct tw_pool *pool);

struct tw_pool_stats {
	uint64_t blocks[TW_POOL_CLASSES], used[TW_POOL_CLASSES];
	uint64_t empty;   /* requests for a block that found none */
	uint64_t refused; /* handles that were stale, somebody else's or nonsense */
	uint64_t bytes;
	uint32_t huge; /* hugepages */
};
void tw_pool_get_stats(struct tw_pool *pool, struct tw_pool_stats *stats);

struct tw_member_board *tw_pool_board(struct tw_pool *pool, uint32_t member);

/* ---- the fabric: how descriptors move between the members of a service ---- */

/* Over sockets, where a program of the kernel finds the receiver (sk_msg), or over rings in shared
 * memory that members poll; inline nothing moves, the gate thread calls the functions itself
 * (gate/inline.c). Members 0 .. TW_GATES_MAX - 1 are gate threads, the others instances of
 * functions. */

struct tw_fabric;
struct tw_link; /* one member's end */

/* ---- the engine's side; control thread or supervisor, never at the same time ---- */

/* Makes pool and fabric of a service. Needs CAP_BPF, CAP_NET_ADMIN for sk_msg. */
int tw_fabric_new(struct tw_fabric **fabric, const struct tw_service_spec *spec, uint32_t gates);
void tw_fabric_free(struct tw_fabric *fabric);
struct tw_pool *tw_fabric_pool(struct tw_fabric *fabric);

/* What a new instance is told: first message on its registration socket, descriptors along with it.
 */
struct tw_join {
	uint32_t abi;
	uint32_t member, function, instance;
	uint32_t transport;
	uint32_t readonly;
	uint32_t n_fds; /* owners, blocks, then what the transport wants */
	uint32_t gates;
	uint8_t is[TW_JOIN_FDS]; /* of those: the transport's own */
};

/* A free member number for an instance of the function; -ENOSPC. It is sent nothing before it is
 * open. */
int tw_fabric_add(struct tw_fabric *fabric, uint32_t function);
/* Descriptors stay the fabric's. */
int tw_fabric_join(struct tw_fabric *fabric, uint32_t member, struct tw_join *join,
                   int fds[TW_JOIN_FDS]);
/* May be chosen from now on / is not chosen any more, and works off what it has. */
int tw_fabric_open(struct tw_fabric *fabric, uint32_t member);
int tw_fabric_shut(struct tw_fabric *fabric, uint32_t member);
/* Its process is gone: what was in its queue is thrown away. The number is free again, but for
 * those who ask later its counters stay. */
int tw_fabric_remove(struct tw_fabric *fabric, uint32_t member);
/* Exits of functions and gates from the specification as it is now: order, routes, kinds. */
int tw_fabric_route(struct tw_fabric *fabric, const struct tw_service_spec *spec);
/* Over rings a member has the memory of those only that it could send to when it joined. True: its
 * routes lead elsewhere by now (-ENOTCONN for it): it is to be started anew. */
bool tw_fabric_outdated(const struct tw_fabric *fabric, uint32_t member);

/* The function that a member is or was an instance of, until its number is taken again; -ENOENT.
 * Any thread. */
int tw_fabric_function(const struct tw_fabric *fabric, uint32_t member);

struct tw_member_stats {
	uint64_t in, out; /* descriptors that were put into its queue; that it has sent */
	uint64_t denied;  /* exits that the matrix does not allow, handles that were not its own */
	uint64_t full;    /* queue full */
	int64_t queued;   /* now */
	uint64_t sends;   /* system calls or ring operations */
};
int tw_fabric_stats(struct tw_fabric *fabric, uint32_t member, struct tw_member_stats *stats);

/* ---- a member's side ---- */

/* A gate thread's end. */
struct tw_link *tw_fabric_gate(struct tw_fabric *fabric, uint32_t gate);
/* In a worker, from what it was told. */
int tw_link_open(struct tw_link **link, const struct tw_join *join, const int *fds,
                 struct tw_pool *pool);
void tw_link_close(struct tw_link *link);

/* Give blocks that the caller holds, at most TW_DESC_BATCH, in order. Returns how many were taken:
 * owners are changed, the descriptors are in queues. -EAGAIN: the first one's queue is full;
 * -ESTALE: the first one is not the caller's any more; -EPERM: its exit is not allowed; -ENOTCONN:
 * nobody stands behind it now. Sent to a gate: `desc.gate`. `entry` is for gates: which function it
 * enters by. */
int tw_link_send(struct tw_link *link, const struct tw_desc *desc, unsigned n);
int tw_link_enter(struct tw_link *link, uint32_t function, const struct tw_desc *desc, unsigned n);
/* For gates: to this very instance, open or shut: an answer to what it has asked for. */
int tw_link_direct(struct tw_link *link, uint32_t member, const struct tw_desc *desc, unsigned n);
/* What has come, taken (state HELD); 0: nothing now. Stale ones are left out. Never blocks. Whoever
 * asks has done with what came before, or holds it: by that a member's load is known. */
int tw_link_receive(struct tw_link *link, struct tw_desc *desc, unsigned max);
/* Who sent the n-th of those that the last receive brought. By sk_msg the kernel says so; by rings
 * it is what the sender says. */
uint32_t tw_link_sender(const struct tw_link *link, unsigned n);
/* To wait on until something comes; -1: this transport polls. */
int tw_link_fd(const struct tw_link *link);
/* Polling transports: is there something? Cheap. */
bool tw_link_ready(struct tw_link *link);
