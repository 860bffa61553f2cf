/* SPDX-License-Identifier: BSD-3-Clause */
/* inline_watch.h - who notices that a function inside of a gate thread does not return. */
#pragma once
#include "gate/gate.h"

#include <pthread.h>

struct inline_watched {
	struct gate *gate;
	pthread_t thread;
	_Atomic uint64_t entries;              /* odd: in Lua */
	_Atomic(const struct tw_inline *) now; /* whose functions */
	/* In that thread, in a signal handler: it is to come back. */
	void (*stuck)(struct inline_watched *watched);
	/* the watch's */
	uint64_t seen, stuck_since;
	struct inline_watched *next;
};

/* By the thread that is watched. A look a second while functions are called, none else. */
int inline_watch_begin(struct inline_watched *watched);
void inline_watch_end(struct inline_watched *watched);

extern _Atomic bool inline_watch_asleep;
void inline_watch_wake(void);

static inline void inline_watch_enter(struct inline_watched *watched, const struct tw_inline *now)
{
	uint64_t entries = atomic_load_explicit(&watched->entries, memory_order_relaxed);

	atomic_store_explicit(&watched->now, now, memory_order_relaxed);
	atomic_store_explicit(&watched->entries, entries + 1, memory_order_release);
	if (atomic_load_explicit(&inline_watch_asleep, memory_order_relaxed))
		inline_watch_wake();
}

static inline void inline_watch_leave(struct inline_watched *watched)
{
	uint64_t entries = atomic_load_explicit(&watched->entries, memory_order_relaxed);

	atomic_store_explicit(&watched->entries, entries + 1, memory_order_release);
}
