/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor_life.c - the life of an instance: started, ready, at work, leaving or dying, and
 * started anew with back-off. */
#include "error.h"
#include "gate/flow.h"
#include "msg/pool.h"
#include "supervisor_worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS 1000000ull
#define NEVER UINT64_MAX
#define START_MS 20000 /* until it is ready */
#define STEP_MS 100    /* the second start after a failure; the first one is at once */
#define STEP_MAX_MS 10000
#define GOOD_LIFE_MS 10000 /* after which failures before do not count any more */
#define LEAVE_EVERY_MS 2
#define ENDED "ended"  /* until the helper says how */
#define HUNG_UP_MS 100 /* from the end of its socket to that of its process */
#define CLOSE_MS 1000  /* for stop() of its function, and its end */

/* ---- what gate threads are told ---- */

struct news {
	struct service *service;
	uint32_t member;
};

static int gone_in_gate(struct gate *gate, void *ctx)
{
	const struct news *news = ctx;

	return flow_member_gone(gate, news->service, news->member);
}

static int ready_in_gate(struct gate *gate, void *ctx)
{
	const struct news *news = ctx;

	return flow_member_ready(gate, news->service, news->member);
}

static void tell_gates(const struct supervised *w, int (*fn)(struct gate *, void *))
{
	struct news news = { supervisor_service(w->service)->service, w->member };

	if (news.service)
		gates_each(fn, &news);
}

/* ---- the place in the fabric ---- */

struct reclaim {
	struct tw_pool *pool;
	uint32_t member, count;
};

static void count_one(void *ctx, tw_handle handle, uint32_t state)
{
	struct reclaim *r = ctx;

	(void)handle;
	(void)state;
	r->count++;
}

static uint32_t blocks_of(struct tw_pool *pool, uint32_t member)
{
	struct reclaim r = { pool, member, 0 };

	tw_pool_each(pool, member, count_one, &r);
	return r.count;
}

static void reclaim_one(void *ctx, tw_handle handle, uint32_t state)
{
	const struct reclaim *r = ctx;
	tw_handle taken = tw_pool_seize(r->pool, handle, r->member, false);

	(void)state;
	if (taken)
		tw_pool_free(r->pool, taken, r->member);
}

/* Gate threads answer for what it had; what no exchange knows of is free again. */
static void reclaim(const struct supervised *w, struct tw_pool *pool)
{
	struct reclaim r = { pool, w->member, 0 };

	tell_gates(w, gone_in_gate);
	tw_pool_each(pool, w->member, reclaim_one, &r);
}

void life_sum(const struct supervised *w, struct tw_member_board *board,
              struct tw_member_stats *stats)
{
	struct tw_fabric *fabric = supervisor_service(w->service)->fabric;
	const struct tw_member_board *now;
	struct tw_member_stats own;

	*board = w->past;
	*stats = w->past_stats;
	if (w->member < 0)
		return;
	now = tw_pool_board(tw_fabric_pool(fabric), w->member);
	for (unsigned i = 0; i < sizeof(*now) / sizeof(uint64_t); i++)
		((uint64_t *)board)[i] += ((const uint64_t *)now)[i];
	/* These are not counted, but are. */
	board->current = now->current;
	board->held = now->held;
	board->heap_bytes = now->heap_bytes;
	board->refused = now->refused;
	if (tw_fabric_stats(fabric, w->member, &own) < 0)
		return;
	stats->queued = own.queued;
	stats->in += own.in;
	stats->out += own.out;
	stats->denied += own.denied;
	stats->full += own.full;
	stats->sends += own.sends;
}

static void remember(struct supervised *w)
{
	struct tw_member_board board;
	struct tw_member_stats stats;

	life_sum(w, &board, &stats);
	board.current = board.held = board.heap_bytes = 0;
	stats.queued = 0;
	w->past = board;
	w->past_stats = stats;
}

/* Its process is no more. */
static void leave_fabric(struct supervised *w)
{
	struct supervised_service *s = supervisor_service(w->service);
	struct tw_pool *pool = tw_fabric_pool(s->fabric);

	if (w->member < 0)
		return;
	supervisor_pid_is(w, 0);
	tw_fabric_shut(s->fabric, w->member);
	reclaim(w, pool);
	remember(w);
	tw_fabric_remove(s->fabric, w->member);
	/* From somebody who had chosen it before, and was slow. */
	if (blocks_of(pool, w->member))
		reclaim(w, pool);
	w->member = -1;
}

/* ---- starting ---- */

static void put_off(struct supervised *w, const char *why)
{
	uint64_t ms = w->step ? STEP_MS << (w->step - 1 < 7 ? w->step - 1 : 7) : 0;

	snprintf(w->last, sizeof(w->last), "%s", why);
	w->step++;
	w->state = TW_WORKER_WAITS;
	w->due = tw_now() + (ms < STEP_MAX_MS ? ms : STEP_MAX_MS) * MS;
}

void life_start(struct supervised *w)
{
	struct supervised_service *s = supervisor_service(w->service);
	int fds[TW_JOIN_FDS], rc;
	struct tw_join join;

	w->reason[0] = '\0';
	w->killed = w->hung_up = w->told = false;
	w->due = NEVER;
	w->member = tw_fabric_add(s->fabric, w->function);
	if (w->member < 0) {
		w->member = -1;
		put_off(w, tw_error());
		return;
	}
	rc = tw_fabric_join(s->fabric, w->member, &join, fds);
	if (rc == 0) {
		w->instance = join.instance;
		rc = call_spawn(w);
	}
	if (rc < 0) {
		leave_fabric(w);
		put_off(w, tw_error());
		return;
	}
	w->spawning = true;
	w->state = TW_WORKER_STARTS;
	w->since = tw_now();
	w->due = w->since + START_MS * MS;
}

static void no_process(struct supervised *w, const char *why)
{
	leave_fabric(w);
	w->due = NEVER;
	if (w->removed)
		life_free(w);
	else
		put_off(w, why);
}

void life_spawned(struct supervised *w, int pid, int pidfd, const char *words)
{
	w->spawning = false;
	if (pid < 0 || pidfd < 0) {
		no_process(w, words[0] ? words : "no process");
		return;
	}
	if (words[0])
		tw_log("%s: %s", supervisor_service(w->service)->spec.function[w->function].name,
		       words);
	w->pid = pid;
	w->pidfd = pidfd;
	supervisor_pid_is(w, pid);
	if (!supervisor_watch(pidfd, WATCH_PROCESS | w->index))
		life_kill(w, "its process cannot be watched");
	else if (w->removed)
		life_kill(w, "removed");
}

void life_ready(struct supervised *w)
{
	struct supervised_service *s = supervisor_service(w->service);

	if (w->state != TW_WORKER_STARTS || w->killed)
		return;
	if (tw_fabric_open(s->fabric, w->member) < 0) {
		life_kill(w, tw_error());
		return;
	}
	w->state = TW_WORKER_RUNS;
	w->due = NEVER;
	tell_gates(w, ready_in_gate);
}

/* ---- ending ---- */

void life_kill(struct supervised *w, const char *reason)
{
	if (w->killed || w->pid <= 0)
		return;
	w->killed = true;
	if (!w->reason[0])
		snprintf(w->reason, sizeof(w->reason), "%s", reason);
	call_kill(w);
}

/* Its process has ended, mostly, and says so in a moment by its pidfd. */
void life_hung_up(struct supervised *w)
{
	if (w->state == TW_WORKER_LEAVES || w->killed)
		return;
	w->hung_up = true;
	w->due = tw_now() + HUNG_UP_MS * MS;
}

void life_ended(struct supervised *w)
{
	bool good = w->state == TW_WORKER_RUNS && tw_now() - w->since > GOOD_LIFE_MS * MS;

	close(w->pidfd);
	w->pidfd = -1;
	/* What it has said at its end. */
	w->killed = true;
	if (w->sock >= 0)
		talk_heard(w);
	talk_close(w);
	w->pid = 0;
	leave_fabric(w);
	w->due = NEVER;
	if (w->removed) {
		life_free(w);
		return;
	}
	if (good)
		w->step = 0;
	w->restarts++;
	put_off(w, w->reason[0] ? w->reason : ENDED);
	/* The helper may have said how already, or does in a moment. */
	w->ended_id = w->spawn_id;
	w->spawn_id = 0;
	call_answers();
	if (w->state == TW_WORKER_WAITS && w->due <= tw_now())
		life_start(w);
}

/* How a process ended; the supervisor's own reason is the better one. */
void life_status(struct supervised *w, int status, bool before)
{
	char words[160];

	if (WIFSIGNALED(status))
		snprintf(words, sizeof(words), "signal %d (%s)", WTERMSIG(status),
		         strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == TW_WORKER_FULL)
		snprintf(words, sizeof(words), "its heap of %u MB was full", w->memory_mb);
	else
		snprintf(words, sizeof(words), "it ended with status %d", WEXITSTATUS(status));
	if (before && !strcmp(w->last, ENDED))
		snprintf(w->last, sizeof(w->last), "%s", words);
	else if (!before && !w->reason[0])
		snprintf(w->reason, sizeof(w->reason), "%s", words);
}

void life_leave(struct supervised *w, uint32_t drain_ms)
{
	uint64_t now = tw_now();

	w->removed = true;
	if (w->spawning)
		return; /* killed as soon as it is there */
	if (w->pid <= 0) {
		leave_fabric(w);
		life_free(w);
		return;
	}
	if (w->state == TW_WORKER_RUNS)
		tw_fabric_shut(supervisor_service(w->service)->fabric, w->member);
	else
		drain_ms = 0;
	w->state = TW_WORKER_LEAVES;
	w->leave_until = now + drain_ms * MS;
	w->due = now;
}

/* Nothing is on its way to it or in its hands. */
static bool empty_handed(const struct supervised *w)
{
	struct tw_fabric *fabric = supervisor_service(w->service)->fabric;
	struct tw_pool *pool = tw_fabric_pool(fabric);
	const struct tw_member_board *board = tw_pool_board(pool, w->member);
	struct tw_member_stats stats;

	if (tw_fabric_stats(fabric, w->member, &stats) == 0 && stats.queued > 0)
		return false;
	if (board->current || board->held)
		return false;
	return blocks_of(pool, w->member) == 0;
}

static void go_on_leaving(struct supervised *w, uint64_t now)
{
	if (w->sock >= 0 && !w->told && now < w->leave_until && !empty_handed(w)) {
		w->due = now + LEAVE_EVERY_MS * MS;
	} else if (w->sock >= 0 && !w->told) {
		/* The end of what it hears; it may still say something. */
		shutdown(w->sock, SHUT_WR);
		w->told = true;
		w->due = now + CLOSE_MS * MS;
	} else {
		life_kill(w, "removed");
		w->due = NEVER;
	}
}

void life_due(struct supervised *w, uint64_t now)
{
	w->due = NEVER;
	if (w->state == TW_WORKER_WAITS) {
		life_start(w);
	} else if (w->hung_up) {
		life_kill(w, "it closed its socket");
	} else if (w->state == TW_WORKER_STARTS && w->spawning) {
		w->spawning = false;
		no_process(w, "the helper process does not answer");
	} else if (w->state == TW_WORKER_STARTS) {
		life_kill(w, "it was not ready within 20 s");
	} else if (w->state == TW_WORKER_LEAVES) {
		go_on_leaving(w, now);
	}
}

void life_free(struct supervised *w)
{
	uint32_t index = w->index;

	close(w->blob);
	for (uint32_t i = 0; i < w->n_fds; i++)
		close(w->fds[i]);
	talk_close(w);
	memset(w, 0, sizeof(*w));
	w->index = index;
}
