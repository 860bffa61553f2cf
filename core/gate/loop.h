/* SPDX-License-Identifier: BSD-3-Clause */
/* loop.h - what loop.c, timer.c and control.c share: a gate thread's turns. */
#pragma once
#include "gate/flow.h"

#include <pthread.h>

#define LOOP_EVENTS 64

/* Something that another thread wants done in this one. */
struct loop_command {
	struct loop_command *next;
	int (*each)(struct gate *gate, void *ctx);  /* gates_each: who waits owns the command */
	void (*post)(struct gate *gate, void *ctx); /* gate_post: freed here, ctx too */
	void *ctx;
	bool done;
	int result;
	char error[256]; /* the sentence of this thread, for the one that waits */
};

struct loop {
	struct gate_timer **heap;
	uint32_t n_timers, max_timers;
	struct gate_task *first_task, *last_task;
	struct epoll_event event[LOOP_EVENTS];
	int n_events;
	bool stop;
	pthread_t thread;
	int cpu;
	/* from other threads */
	struct gate_source wake; /* an eventfd */
	pthread_mutex_t lock;
	pthread_cond_t done;
	struct loop_command *first_command, **last_command;
};

static inline struct loop *loop_of(struct gate *gate)
{
	return gate->loop;
}

/* timer.c: when the next one is due, UINT64_MAX: none; fires those that are due at gate->now. */
uint64_t timers_next(const struct gate *gate);
void timers_fire(struct gate *gate);

/* loop.c */
void *loop_main(void *gate);
void loop_woken(struct gate *gate, struct gate_source *source, uint32_t events);
/* control.c: does what other threads have asked for. */
void loop_commands(struct gate *gate);
