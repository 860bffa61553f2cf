/* SPDX-License-Identifier: BSD-3-Clause */
/* worker.h - a process that runs one instance of a function of a service: how it is started, what
 * it and the supervisor say to each other, and what its files share.
 *
 * Its argument is the abstract name of the registration socket (SOCK_SEQPACKET). It connects under
 * the user id it runs with, and is told: struct tw_join with descriptors (msg/fabric.h), then
 * struct tw_task with the blob and those that the blob speaks of. From then on it talks.
 */
#pragma once
#include "msg/fabric.h"

#define TW_WORKER_NAME "tideway-worker" /* argv[0] that makes this program a worker */
#define TW_WORKER_UID 2010000000u       /* ids from here on: no account has them */
#define TW_WORKER_NOBODY 65534
#define TW_WORKER_NOT_STARTED 127 /* exit status: /proc/self/exe could not be run */
#define TW_WORKER_REFUSED 126     /* ... what it was told could not be done; it has said so */
#define TW_WORKER_FULL 125        /* ... its heap is full */

/* Descriptors with one message, at most. */

struct tw_task {
	uint32_t abi;
	uint32_t memory_mb;
	uint64_t blob_len; /* of the memfd that comes first */
	uint32_t n_fds;    /* and these behind it */
	uint32_t spare;
	char name[TW_NAME_LEN]; /* of the function */
};

enum tw_said_kind {
	TW_SAID_READY = 1,
	TW_SAID_LINE,  /* for the log */
	TW_SAID_ERROR, /* the same, as an error */
	TW_SAID_FAILED /* it gives up; why */
};

struct tw_said {
	uint32_t kind;
	uint32_t lost; /* lines before it that were too many */
	char text[1000];
};

int tw_worker_main(int argc, char **argv);

/* ---- in the worker ---- */

struct lua_State;

struct worker {
	struct tw_worker shared; /* what Lua sees */
	struct tw_join join;
	int join_fds[TW_JOIN_FDS];
	struct tw_task task;
	int blob;
	int sock; /* to the supervisor */
	struct tw_link *link;
	/* vm.c */
	struct lua_State *L;
	size_t heap, heap_limit, reserve;
	/* loop.c: lines for the log */
	uint32_t lines, lines_lost;
	uint64_t lines_since;
	/* loop.c: when the message in hand was begun with, the first one that waits put there */
	uint64_t begun, unsent_since;
	bool counted;
};

/* Descriptors that came: setup.c. */
int worker_connect(struct worker *worker, const char *name);
int worker_told(struct worker *worker);
void worker_said(struct worker *worker, uint32_t kind, const char *text);

/* rights.c: becomes that user, without capabilities; then fewer system calls: first those that
 * building needs, then those that running needs. */
int worker_become(uint32_t uid, int parent);
int worker_limits(const struct worker *worker);
int worker_calls(bool building);

/* vm.c: Lua. -1: it raised, with tw_error(). */
int worker_vm_open(struct worker *worker);
int worker_vm_build(struct worker *worker);
/* Calls the function for the descriptors that are there, and for timers that are due. */
int worker_vm_run(struct worker *worker, uint32_t count);
/* Collects garbage; -ENOMEM when that leaves the heap as good as full: every message would fail. */
int worker_vm_full(struct worker *worker);
void worker_vm_stop(struct worker *worker);

/* loop.c: until the supervisor closes the socket. The process's exit status. */
int worker_loop(struct worker *worker);
