/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor_worker.h - what the supervisor's files share. Everything is done with the supervisor's
 * lock held. */
#pragma once
#include "abi.h"
#include "helper.h"
#include "supervisor.h"
#include "worker/worker.h"

struct supervised {
	bool used;
	uint32_t index;
	uint32_t service, function, instance, memory_mb, cpu_percent, stuck_ms, uid;
	int32_t cpu;
	int blob, fds[TW_WORKER_FDS]; /* -1: none */
	uint32_t n_fds;
	uint64_t blob_len;

	uint32_t state; /* enum tw_worker_state */
	bool removed;   /* not started anew; its place is free when its process has ended */
	int member;     /* -1: none */
	uint32_t spawn_id, ended_id; /* of its process; of the one before */
	bool spawning;               /* no answer of the helper yet */
	int pid, pidfd, sock;
	uint64_t due; /* UINT64_MAX: nothing to do by itself */
	uint64_t leave_until;
	bool killed, hung_up; /* its end is under way */
	bool told;            /* to end */
	uint64_t since, restarts;
	uint32_t step; /* of the back-off */
	char reason[160], last[160];
	struct tw_member_board past; /* of processes before this one */
	struct tw_member_stats past_stats;
	uint32_t lines; /* for the log, in this second */
	uint64_t lines_since;
};

struct supervised_service {
	struct tw_service_spec spec;
	struct tw_fabric *fabric; /* NULL: there is none */
	struct service *service;
};

/* supervisor.c */
struct supervised_service *supervisor_service(uint32_t index);
struct supervised *supervisor_worker(uint32_t index); /* NULL behind the last */
bool supervisor_watch(int fd, uint64_t what);         /* what: enum supervisor_what | index */
const char *supervisor_registration(void);            /* abstract name */
enum supervisor_what {
	WATCH_WAKE,
	WATCH_HELPER,
	WATCH_REGISTRATION,
	WATCH_PROCESS = 1 << 8,
	WATCH_SOCKET = 2 << 8
};

/* supervisor_process.c: its process is that one, 0: none */
void supervisor_pid_is(const struct supervised *w, int pid);

/* supervisor_life.c: from one state to the next */
void life_start(struct supervised *w);
void life_spawned(struct supervised *w, int pid, int pidfd, const char *words);
void life_ready(struct supervised *w);
void life_hung_up(struct supervised *w);
void life_ended(struct supervised *w); /* its process is no more */
void life_status(struct supervised *w, int status, bool before);
void life_kill(struct supervised *w, const char *reason);
void life_leave(struct supervised *w, uint32_t drain_ms);
void life_due(struct supervised *w, uint64_t now);
void life_free(struct supervised *w);
/* What it has done since it was added, that of processes before too. */
void life_sum(const struct supervised *w, struct tw_member_board *board,
              struct tw_member_stats *stats);

/* supervisor_talk.c: sockets */
int talk_listen(char *name, size_t size); /* the registration socket */
void talk_accept(int listener);
void talk_heard(struct supervised *w);
void talk_close(struct supervised *w);

/* supervisor_call.c: the helper */
int call_open(void); /* the socket, -errno */
void call_close(void);
int call_spawn(struct supervised *w);
void call_kill(const struct supervised *w);
void call_move(const struct supervised *w); /* to w->cpu */
bool call_answers(void);                    /* takes what has come; false: the helper has gone */
