/* SPDX-License-Identifier: BSD-3-Clause */
/* loop.c - a worker's loop: waits for descriptors, has Lua work on all that have come at once,
 * sends what comes out together. */
#include "abi.h"
#include "error.h"
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define HOLD_BACK_NS 50000    /* nothing that is done waits longer for the rest of a batch */
#define SPINS 16              /* looks at the ring before another process gets its turn */
#define LOOKS 4096            /* ... and before the rest is looked at */
#define LATE_MAX 1024         /* descriptors that nobody takes now */
#define LATE_EVERY_NS 1000000 /* they are tried again */
#define NOBODY_NS 80000000ull /* nobody stands behind the exit: so long */
#define FULL_NS 1000000000ull /* the queue is full */

struct late {
	struct tw_desc desc;
	uint64_t until;
};

static struct late late[LATE_MAX];
static unsigned n_late;
static uint32_t late_exits; /* bit per exit: somebody waits for it */

static inline void bump(uint64_t *word, uint64_t by)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

/* The bucket whose bound, a power of two, is the least that is not below the time. */
static inline unsigned bucket_of(uint64_t ns)
{
	unsigned bucket = ns <= 1 ? 0 : 64 - __builtin_clzll(ns - 1);

	return bucket < TW_TIME_BUCKETS ? bucket : TW_TIME_BUCKETS - 1;
}

/* ---- sending ---- */

/* What cannot go where it should goes to its gate thread, as a fault. */
static void astray(struct worker *w, struct tw_desc *desc, const char *why)
{
	uint32_t size, len = strlen(why);
	struct tw_msg *msg = tw_pool_at(w->shared.pool, desc->handle, w->shared.member, &size);

	if (msg && !w->shared.readonly) {
		msg->verdict = TW_V_FAULT;
		msg->stage = w->shared.function;
		msg->why.at = msg->why.len = 0;
		if (msg->used <= size && size - msg->used >= len) {
			memcpy((char *)msg + msg->used, why, len);
			msg->why.at = msg->used;
			msg->why.len = len;
			msg->used += len;
		}
	}
	bump(&w->shared.board->faults, 1);
	desc->exit = TW_EXIT_GATE;
	desc->key = 0;
}

static void put_off(struct worker *w, const struct tw_desc *desc, uint64_t patience)
{
	if (n_late < LATE_MAX) {
		late[n_late++] = (struct late){ *desc, tw_now() + patience };
		late_exits |= 1u << (desc->exit & 31);
		return;
	}
	/* Nothing takes anything any more: its exchange ends by its time limit. */
	tw_pool_free(w->shared.pool, desc->handle, w->shared.member);
}

/* Why the first one was not taken; true: it is out of the way. */
static bool refused(struct worker *w, struct tw_desc *desc, int err)
{
	if (err == -EAGAIN) {
		put_off(w, desc, FULL_NS);
	} else if (err == -ENOTCONN) {
		put_off(w, desc, NOBODY_NS);
	} else if (err == -EPERM && desc->exit != TW_EXIT_GATE) {
		astray(w, desc, "there is no such way out of this function");
		return false;
	} else { /* it is not ours any more, or nobody's */
		tw_pool_free(w->shared.pool, desc->handle, w->shared.member);
	}
	return true;
}

/* How many of those that wait can be sent at once: none passes another one by the same exit. */
static uint32_t sendable(const struct tw_desc *desc, uint32_t n)
{
	uint32_t count = 0;

	if (n > TW_DESC_BATCH)
		n = TW_DESC_BATCH;
	while (count < n && !(late_exits >> (desc[count].exit & 31) & 1))
		count++;
	return count;
}

static void flush(struct worker *w)
{
	struct tw_worker *s = &w->shared;
	uint32_t at = 0;

	while (at < s->n_out) {
		uint32_t n = sendable(s->out + at, s->n_out - at);
		int sent = n ? tw_link_send(w->link, s->out + at, n) : -EAGAIN;

		if (sent > 0) {
			bump(&s->board->sent, sent);
			at += sent;
		} else if (refused(w, &s->out[at], sent ? sent : -EAGAIN)) {
			at++;
		}
	}
	s->n_out = 0;
}

/* Sends one that is late; true: it is out of the way. */
static bool retry_one(struct worker *w, struct late *l, uint64_t now)
{
	int rc;

	if (late_exits >> (l->desc.exit & 31) & 1)
		return false;
	rc = tw_link_send(w->link, &l->desc, 1);
	if (rc == 1)
		bump(&w->shared.board->sent, 1);
	if (rc == 1)
		return true;
	if (rc != 0 && rc != -EAGAIN && rc != -ENOTCONN) {
		/* Taken away meanwhile, when its exchange has ended: it only has to be let go. */
		tw_pool_free(w->shared.pool, l->desc.handle, w->shared.member);
		return true;
	}
	if (l->until <= now && l->desc.exit != TW_EXIT_GATE) {
		astray(w, &l->desc, "nobody takes what this function sends");
		l->until = UINT64_MAX;
	}
	return false;
}

static void retry(struct worker *w)
{
	uint64_t now = tw_now();
	unsigned kept = 0;

	late_exits = 0;
	for (unsigned i = 0; i < n_late; i++) {
		if (retry_one(w, &late[i], now))
			continue;
		late_exits |= 1u << (late[i].desc.exit & 31);
		late[kept++] = late[i];
	}
	n_late = kept;
}

void tw_worker_put(struct tw_worker *s, tw_handle message, uint32_t exit, uint32_t gate,
                   uint32_t key)
{
	struct worker *w = (struct worker *)s;

	if (s->n_out == TW_WORKER_OUT)
		flush(w);
	if (s->n_out == 0)
		w->unsent_since = s->now;
	s->out[s->n_out++] = (struct tw_desc){ message, exit, gate, key };
}

/* ---- around messages ---- */

int tw_worker_begin(struct tw_worker *s, tw_handle message, bool again)
{
	struct worker *w = (struct worker *)s;

	if (message && !again) {
		int rc = tw_pool_begin(s->pool, message, s->member);

		if (rc < 0)
			return rc;
	}
	w->begun = s->now;
	w->counted = message != 0;
	if (message)
		bump(&s->board->started, 1);
	__atomic_store_n(&s->board->current, message ? message : UINT64_MAX, __ATOMIC_RELEASE);
	return 0;
}

void tw_worker_done(struct tw_worker *s)
{
	struct worker *w = (struct worker *)s;
	uint64_t now = tw_now(), ns = now - w->begun;

	s->now = now;
	__atomic_store_n(&s->board->current, 0, __ATOMIC_RELEASE);
	bump(&s->board->busy_ns, ns);
	if (w->counted) {
		bump(&s->board->done, 1);
		bump(&s->board->time[bucket_of(ns)], 1);
	}
	if (s->n_out && now - w->unsent_since > HOLD_BACK_NS)
		flush(w);
}

/* ---- the loop ---- */

/* The engine closes the socket to end it; it says nothing more on it. */
static bool asked_to_leave(struct worker *w)
{
	char byte;
	ssize_t n = recv(w->sock, &byte, 1, MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/* Until when nothing needs to be done, ns; UINT64_MAX: ever. */
static uint64_t until(const struct worker *w, uint64_t now)
{
	uint64_t due = w->shared.next_due ? w->shared.next_due : UINT64_MAX;

	return n_late && now + LATE_EVERY_NS < due ? now + LATE_EVERY_NS : due;
}

/* Sleeps until something comes or is due. False: asked to leave. */
static bool wait_asleep(struct worker *w)
{
	struct pollfd set[2] = { { .fd = tw_link_fd(w->link), .events = POLLIN },
		                 { .fd = w->sock, .events = POLLIN } };
	uint64_t now = tw_now(), due = until(w, now);
	uint64_t left = due > now ? due - now : 0;
	struct timespec ts = { left / 1000000000ull, left % 1000000000ull };

	bump(&w->shared.board->wakeups, 1);
	if (ppoll(set, 2, due == UINT64_MAX ? NULL : &ts, NULL) < 0 && errno != EINTR)
		return false;
	return !set[1].revents || !asked_to_leave(w);
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Looks until something comes or is due. */
static bool wait_awake(struct worker *w)
{
	for (unsigned i = 1; !tw_link_ready(w->link); i++) {
		uint64_t now;

		if (i % SPINS != 0) {
			relax();
			continue;
		}
		/* On a busy CPU this may take milliseconds. */
		sched_yield();
		now = tw_now();
		if (until(w, now) <= now || n_late)
			break;
		if (i % LOOKS == 0 && asked_to_leave(w))
			return false;
	}
	return true;
}

/* What has come, worked on and sent on; how many that were, or -1: it cannot go on. */
static int turn(struct worker *w)
{
	struct tw_worker *s = &w->shared;
	int n = tw_link_receive(w->link, s->in, TW_DESC_BATCH);
	int rc = 0;

	if (n < 0)
		n = 0;
	s->now = tw_now();
	if (n) {
		bump(&s->board->received, n);
		bump(&s->board->batches, 1);
	}
	if (n || (s->next_due && s->next_due <= s->now))
		rc = worker_vm_run(w, n);
	flush(w);
	if (n_late)
		retry(w);
	__atomic_store_n(&s->board->heap_bytes, w->heap, __ATOMIC_RELAXED);
	if (rc == 0 && w->heap > w->heap_limit / 8 * 7)
		rc = worker_vm_full(w);
	return rc < 0 ? -1 : n;
}

int worker_loop(struct worker *w)
{
	bool polls = tw_link_fd(w->link) < 0;
	int n = 0;

	for (;;) {
		/* After several the next ones are there already, mostly. */
		if (n < 2 && !(polls ? wait_awake(w) : wait_asleep(w)))
			break;
		n = turn(w);
		if (n < 0) {
			worker_said(w, TW_SAID_FAILED, tw_error());
			return w->heap > w->heap_limit / 8 * 7 ? TW_WORKER_FULL : TW_WORKER_REFUSED;
		}
	}
	worker_vm_stop(w);
	flush(w);
	return 0;
}
