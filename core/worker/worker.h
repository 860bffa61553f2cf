/* SPDX-License-Identifier: BSD-3-Clause */
/* worker.h - a process that runs one instance of a function of a service: how it is started, what
 * it and the supervisor say to each other, and what its files share.
 *
 * Its arguments are the abstract name of the registration socket (SOCK_SEQPACKET) and the pid of
 * its parent, which writes its user id into a pipe when it is needed. It connects under that id,
 * and is told: struct tw_join with descriptors (abi_fabric.h), then struct tw_task with the blob
 * and those that the blob speaks of. From then on it talks.
 */
#pragma once
#include "abi.h"

#define TW_WORKER_NAME "tideway-worker" /* argv[0] that makes this program a worker */
#define TW_WORKER_SPARE "tideway-spare" /* ... what it is called until it is told who it is */
#define TW_WORKER_GO 3                  /* ... by this descriptor: its user id, 32 bits */
#define TW_WORKER_UID 2010000000u       /* ids from here on: no account has them */
#define TW_WORKER_NOBODY 65534
#define TW_WORKER_NOT_STARTED 127 /* exit status: /proc/self/exe could not be run */
#define TW_WORKER_REFUSED 126     /* ... what it was told could not be done; it has said so */
#define TW_WORKER_FULL 125        /* ... its heap is full */

struct tw_task {
	uint64_t blob_len; /* of the memfd that comes first */
	uint32_t n_fds;    /* and these behind it */
	uint32_t memory_mb;
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
	/* talk.c: lines for the log, in this second */
	uint32_t lines, lines_lost;
	uint64_t lines_since;
	/* loop.c: when the message in hand was begun with, the first one that waits put there */
	uint64_t begun, unsent_since;
	bool counted;
};

/* talk.c: 0 or -errno. */
int worker_connect(struct worker *worker, const char *name);
int worker_told(struct worker *worker);
/* kind: enum tw_said_kind. Never waits: what does not go out is counted. */
void worker_said(struct worker *worker, uint32_t kind, const char *text);

/* rights.c: becomes that user, without capabilities. -ESRCH: the parent has ended. */
int worker_become(uint32_t uid, int parent);
/* Memory, processes, descriptors, files: no more than it needs. */
int worker_limits(const struct worker *worker);

/* vm.c: Lua. -errno: it raised, with tw_error(). */
int worker_vm_open(struct worker *worker);
int worker_vm_build(struct worker *worker);
/* Calls the function for the descriptors that are there, and for timers that are due. */
int worker_vm_run(struct worker *worker, uint32_t count);
/* Collects garbage; -ENOMEM when that leaves the heap as good as full: every message would fail. */
int worker_vm_full(struct worker *worker);
void worker_vm_stop(struct worker *worker);

/* loop.c: until the supervisor closes the socket. The process's exit status. */
int worker_loop(struct worker *worker);
