/* SPDX-License-Identifier: BSD-3-Clause */
/* helper.h - what the engine and its helper process say to each other, and the engine's end of it.
 *
 * One socket of packets (SOCK_SEQPACKET): a request or a reply is one of the structs below, with at
 * most one descriptor. The helper never parses text: what to do is a number, and a text to compile
 * goes through it unread.
 */
#pragma once
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define TW_HELPER_NAME "tideway-helper" /* argv[0] that makes this program the helper */
#define TW_HELPER_SOCKET 3              /* the helper's end of the socket */

enum tw_helper_op {
	TW_HELPER_COMPILE = 1, /* descriptor: C text; replies with a library */
	TW_HELPER_CANCEL,      /* gives up the compilation of that id; no reply */
	TW_HELPER_BPF_ID,      /* command: BPF_..._GET_FD_BY_ID, argument: id; replies with it */
	TW_HELPER_NEXT_LINK,   /* argument: id of a BPF link; replies with that of the next */
	TW_HELPER_HOLDER,      /* argument: id of a BPF program; replies with a pid, 0: nobody's */
	TW_HELPER_WORKERS,     /* descriptor: a socket on which the supervisor asks for workers */
};

struct tw_helper_request {
	uint32_t op, id;
	uint32_t command, argument;
	cpu_set_t cpus; /* where the compiler may run */
};

struct tw_helper_reply {
	uint32_t id;
	int32_t status;  /* a number asked for, or -errno */
	char words[224]; /* of an error: a sentence */
};

/* ---- workers: between the helper and the supervisor, on a socket of their own ---- */

enum tw_spawn_op {
	TW_SPAWN_START = 1, /* replies with pid and pidfd; the worker runs only after that */
	TW_SPAWN_KILL,      /* the worker of that id, by SIGKILL; no reply */
	TW_SPAWN_ENDED,     /* helper to supervisor, unasked: status as waitpid() gives it */
	TW_SPAWN_MOVE,      /* the worker of that id, to other CPUs; no reply */
};

struct tw_spawn_request {
	uint32_t op, id;
	uint32_t uid;         /* 0: that of the helper */
	uint32_t cpu_percent; /* 0: no cgroup */
	uint64_t memory;      /* bytes that its cgroup may have */
	char socket[16];      /* abstract name of the registration socket, as text */
	cpu_set_t cpus;       /* none: anywhere */
};

struct tw_spawn_reply {
	uint32_t op, id;
	int32_t status; /* pid or -errno; TW_SPAWN_ENDED: the status */
	uint32_t pid;
	char words[224]; /* of an error, or of limits that cannot be set: a sentence */
};

/* ---- the process ---- */

int tw_helper_main(void);

/* Workers, by helper_worker.c. */
void tw_spawn_channel(int fd); /* takes over the supervisor's socket */
int tw_spawn_fd(void);         /* -1: none */
void tw_spawn_serve(void);     /* requests that have come; ends all when the socket is closed */
void tw_spawn_reap(void);      /* children that have ended */
void tw_spawn_stop(void);      /* none is left when this returns */

/* Their processes, by helper_spare.c: each waits until it is told its user id by `go`. */
struct spawned {
	pid_t pid;
	int go;
};
int spare_take(const char *socket, struct spawned *out); /* 0, -errno */
void spare_due(void);     /* makes one when it is time, or lets it go */
int spare_patience(void); /* milliseconds until then, -1: never */
void spare_idle(void);    /* no worker is left */
void spare_reap(void);
void spare_drop(void);

/* Limits of a worker that has not begun, by helper_cgroup.c: a group of its own, whose path is put
 * into `group` ("": none), `cpu_percent` of one CPU and `memory` bytes (0: as much as it likes).
 * 0; -errno with a sentence: it runs without. */
#define TW_CGROUP_PATH 256
int tw_cgroup_begin(char *group, size_t size, pid_t pid, uint32_t cpu_percent, uint64_t memory);
void tw_cgroup_end(char *group);

/* One compilation at a time, by helper_compile.c. */
int tw_compile_begin(int text, const cpu_set_t *cpus, int engine);
/* Milliseconds until it has taken too long, -1: none runs. */
int tw_compile_patience(void);
/* When it has ended: true, with the library (-1: none) and a sentence why not. */
bool tw_compile_ended(int *library, struct tw_helper_reply *reply);
void tw_compile_stop(void);

/* ---- the engine's end; control thread only ---- */

struct tw_helper_job;
struct tw_helper_job *tw_helper_compile(const char *text, size_t len);
/* 0: still at it; 1: done, the library's descriptor is the caller's; -errno */
int tw_helper_compiled(struct tw_helper_job *job, int *library);
/* Gives up what still runs. */
void tw_helper_forget(struct tw_helper_job *job);

/* What the kernel refuses an engine without CAP_SYS_ADMIN: a descriptor, an id, or -errno. */
int tw_helper_bpf_by_id(uint32_t command, uint32_t id);
int tw_helper_next_link(uint32_t id);
/* A process that holds a BPF program, 0: none; -errno. */
int tw_helper_holder(uint32_t program);
/* Hands the helper one end of a socket for workers; the other one, or -errno. */
int tw_helper_workers(void);
