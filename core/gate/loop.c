/* SPDX-License-Identifier: BSD-3-Clause */
/* loop.c - the turns of a gate thread: events, links that are polled, timers, tasks. A thread that
 * has nothing to do and nothing to time sleeps until something comes. */
#include "gate/loop.h"

#include "error.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_SPINS 32 /* looks at polled links between two looks at sockets */
#define POLLS 16      /* looks at rings for each look at sockets */
#define TASKS 4096    /* those that tasks add are done in the same turn, but not without end */

/* ---- descriptors ---- */

int gate_watch(struct gate *gate, struct gate_source *source, uint32_t interest)
{
	struct epoll_event event = { .events = interest, .data.ptr = source };
	int op = source->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (source->interest == interest)
		return 0;
	gate_count(gate, GATE_SYSCALLS, 1);
	if (epoll_ctl(gate->epoll, op, source->fd, &event))
		return tw_fail(errno, "epoll_ctl for descriptor %d: %s", source->fd,
		               strerror(errno));
	source->interest = interest;
	return 0;
}

static void forget_events(struct gate *gate, const struct gate_source *source)
{
	struct loop *loop = loop_of(gate);

	for (int i = 0; i < loop->n_events; i++) {
		if (loop->event[i].data.ptr == source)
			loop->event[i].data.ptr = NULL;
	}
}

void gate_unwatch(struct gate *gate, struct gate_source *source)
{
	if (!source->interest)
		return;
	gate_count(gate, GATE_SYSCALLS, 1);
	epoll_ctl(gate->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	source->interest = 0;
	forget_events(gate, source);
}

void gate_close(struct gate *gate, struct gate_source *source)
{
	if (source->fd < 0)
		return;
	forget_events(gate, source);
	gate_count(gate, GATE_SYSCALLS, 1);
	/* Closing alone leaves it in the epoll set as long as a child that is being started has it
	 * open too, and its events would go to memory that is freed. */
	if (source->interest)
		epoll_ctl(gate->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	close(source->fd);
	source->fd = -1;
	source->interest = 0;
}

static void dispatch(struct gate *gate)
{
	struct loop *loop = loop_of(gate);

	for (int i = 0; i < loop->n_events; i++) {
		struct gate_source *source = loop->event[i].data.ptr;

		if (source)
			source->ready(gate, source, loop->event[i].events);
	}
	loop->n_events = 0;
}

/* ---- tasks ---- */

void gate_later(struct gate *gate, struct gate_task *task)
{
	struct loop *loop = loop_of(gate);

	if (task->queued)
		return;
	task->queued = true;
	task->next = NULL;
	if (loop->last_task)
		loop->last_task->next = task;
	else
		loop->first_task = task;
	loop->last_task = task;
}

void gate_forget(struct gate *gate, struct gate_task *task)
{
	struct loop *loop = loop_of(gate);
	struct gate_task **at = &loop->first_task, *before = NULL;

	if (!task->queued)
		return;
	for (; *at != task; at = &before->next)
		before = *at;
	*at = task->next;
	if (loop->last_task == task)
		loop->last_task = before;
	task->queued = false;
}

static void run_tasks(struct gate *gate)
{
	struct loop *loop = loop_of(gate);

	for (unsigned n = 0; loop->first_task && n < TASKS; n++) {
		struct gate_task *task = loop->first_task;

		loop->first_task = task->next;
		if (!loop->first_task)
			loop->last_task = NULL;
		task->queued = false;
		task->run(gate, task);
	}
}

/* ---- turns ---- */

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Messages are with functions that no event tells of: several looks at their rings for each look
 * at the sockets, which costs a system call. */
static void poll_links(struct gate *gate)
{
	const struct loop *loop = gate->loop;

	for (unsigned i = 0; i < POLLS && gate->polling && !loop->first_task; i++) {
		flow_poll(gate);
		relax();
	}
	/* Nothing yet: those who have the messages may be waiting for this CPU. */
	if (gate->polling && !loop->first_task) {
		sched_yield();
		gate_count(gate, GATE_SYSCALLS, 1);
	}
}

static uint64_t read_clock(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t gate_wall(struct gate *gate)
{
	if (gate->wall_of != gate->now) {
		gate->wall = read_clock(CLOCK_REALTIME);
		gate->wall_of = gate->now;
	}
	return gate->wall;
}

/* Milliseconds to sleep at most, rounded up: a timer that is due in less is not waited for by
 * turning around. */
static int sleep_ms(struct gate *gate)
{
	const struct loop *loop = gate->loop;
	uint64_t due, ms;

	if (loop->first_task || gate->polling)
		return 0;
	due = timers_next(gate);
	if (due == UINT64_MAX)
		return -1;
	if (due <= gate->now)
		return 0;
	ms = (due - gate->now + 999999) / 1000000;
	return ms > 3600000 ? 3600000 : (int)ms;
}

void *loop_main(void *arg)
{
	struct gate *gate = arg;
	struct loop *loop = loop_of(gate);

	gate->now = read_clock(CLOCK_MONOTONIC);
	if (groups_open(gate) < 0)
		tw_log(TW_LOG_ERROR "gate %u: %s", gate->id, tw_error());
	while (!loop->stop) {
		int n = epoll_wait(gate->epoll, loop->event, LOOP_EVENTS, sleep_ms(gate));

		gate->now = read_clock(CLOCK_MONOTONIC);
		gate_count(gate, GATE_TURNS, 1);
		gate_count(gate, GATE_SYSCALLS, 1);
		loop->n_events = n > 0 ? n : 0;
		dispatch(gate);
		if (gate->polling)
			poll_links(gate);
		timers_fire(gate);
		run_tasks(gate);
	}
	exchange_stop(gate);
	groups_close(gate);
	return NULL;
}

/* The eventfd: other threads want something. */
void loop_woken(struct gate *gate, struct gate_source *source, uint32_t events)
{
	uint64_t n;

	(void)events;
	if (read(source->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		tw_log(TW_LOG_ERROR "gate %u: its eventfd: %s", gate->id, strerror(errno));
	loop_commands(gate);
}
