/* SPDX-License-Identifier: BSD-3-Clause */
/* timer.c - timers of a gate thread: a binary heap of what its users embed. */
#include "gate/loop.h"

#include "error.h"

#include <stdlib.h>

static void place(struct loop *loop, uint32_t at, struct gate_timer *timer)
{
	loop->heap[at] = timer;
	timer->place = at;
}

static void sift_up(struct loop *loop, uint32_t at, struct gate_timer *timer)
{
	while (at) {
		uint32_t above = (at - 1) / 2;

		if (loop->heap[above]->due <= timer->due)
			break;
		place(loop, at, loop->heap[above]);
		at = above;
	}
	place(loop, at, timer);
}

static void sift_down(struct loop *loop, uint32_t at, struct gate_timer *timer)
{
	for (;;) {
		uint32_t below = 2 * at + 1;

		if (below >= loop->n_timers)
			break;
		if (below + 1 < loop->n_timers &&
		    loop->heap[below + 1]->due < loop->heap[below]->due)
			below++;
		if (timer->due <= loop->heap[below]->due)
			break;
		place(loop, at, loop->heap[below]);
		at = below;
	}
	place(loop, at, timer);
}

static bool grow(struct loop *loop)
{
	uint32_t max = loop->max_timers ? 2 * loop->max_timers : 256;
	struct gate_timer **heap = realloc(loop->heap, max * sizeof(*heap));

	if (!heap)
		return false;
	loop->heap = heap;
	loop->max_timers = max;
	return true;
}

void gate_timer_set(struct gate *gate, struct gate_timer *timer, uint64_t due)
{
	struct loop *loop = loop_of(gate);
	uint64_t before = timer->due;

	if (!due) {
		gate_timer_cancel(gate, timer);
		return;
	}
	if (!before) {
		if (loop->n_timers == loop->max_timers && !grow(loop)) {
			tw_log(TW_LOG_ERROR "gate %u: no memory for a timer: something waits "
			                    "without a limit now",
			       gate->id);
			return;
		}
		timer->due = due;
		sift_up(loop, loop->n_timers++, timer);
		return;
	}
	timer->due = due;
	if (due < before)
		sift_up(loop, timer->place, timer);
	else
		sift_down(loop, timer->place, timer);
}

void gate_timer_cancel(struct gate *gate, struct gate_timer *timer)
{
	struct loop *loop = loop_of(gate);
	struct gate_timer *last;
	uint32_t at = timer->place;

	if (!timer->due)
		return;
	timer->due = 0;
	last = loop->heap[--loop->n_timers];
	if (last == timer)
		return;
	if (at && loop->heap[(at - 1) / 2]->due > last->due)
		sift_up(loop, at, last);
	else
		sift_down(loop, at, last);
}

uint64_t timers_next(const struct gate *gate)
{
	const struct loop *loop = gate->loop;

	return loop->n_timers ? loop->heap[0]->due : UINT64_MAX;
}

void timers_fire(struct gate *gate)
{
	struct loop *loop = loop_of(gate);

	while (loop->n_timers && loop->heap[0]->due <= gate->now) {
		struct gate_timer *timer = loop->heap[0];

		gate_timer_cancel(gate, timer);
		timer->fire(gate, timer);
	}
}
