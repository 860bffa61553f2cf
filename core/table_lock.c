/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * table_lock.c - spin locks in the entries of tables. A thread holds one at a time, as programs of
 * the kernel do, and the fence takes it back from an NF that it ends.
 */
#include "error.h"
#include "table.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include <rte_pause.h>

#define SPINS_PER_LOOK 4096   /* then the CPU is given up: the holder may wait for it */
#define PATIENCE_NS 200000000 /* a holder that the kernel took off its CPU is back by then */

static _Thread_local uint32_t *held;

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void tw_lock_drop(void)
{
	if (!held)
		return;
	__atomic_store_n(held, 0, __ATOMIC_RELEASE);
	held = NULL;
}

static int wait_for(uint32_t *word)
{
	uint64_t since = clock_ns();

	do {
		for (unsigned i = 0; i < SPINS_PER_LOOK; i++) {
			if (!__atomic_load_n(word, __ATOMIC_RELAXED) &&
			    !__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
				return 0;
			rte_pause();
		}
		sched_yield();
	} while (clock_ns() - since < PATIENCE_NS);
	return tw_fail(ETIMEDOUT,
	               "lock(): another thread has held the lock of this entry for %d ms; every "
	               "lock() needs an unlock() on every path",
	               PATIENCE_NS / 1000000);
}

int tw_lock(void *word)
{
	int rc = 0;

	if (held) {
		tw_lock_drop();
		return tw_fail(EDEADLK,
		               "lock(): an entry is locked already, and only one may be; every "
		               "lock() needs an unlock() on every path");
	}
	if (__atomic_exchange_n((uint32_t *)word, 1, __ATOMIC_ACQUIRE))
		rc = wait_for(word);
	if (!rc)
		held = word;
	return rc;
}

int tw_unlock(void *word)
{
	if (held != word)
		return tw_fail(EPERM, "unlock(): this entry is not locked here");
	tw_lock_drop();
	return 0;
}
