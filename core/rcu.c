/* SPDX-License-Identifier: BSD-3-Clause */
/* rcu.c - the one quiescent-state variable of the process: when may a table reuse memory. */
#include "rcu.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define GUESTS 32u /* slots for threads that are no lcores, after those of the lcores */
#define SLOTS (TW_LCORES_MAX + GUESTS)
#define SHARED (SLOTS - 1) /* guest slot for whoever found the others taken, under a lock */

_Thread_local int tw_rcu_self = TW_RCU_NO_SLOT;
static _Thread_local int guest = TW_RCU_NO_SLOT;

static struct rte_rcu_qsbr *variable;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t guest_key;
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t guests_used; /* bit per guest slot; relaxed, it guards no data */

/* Gives the guest slot of a thread that ends back; the argument is slot + 1. */
static void guest_exit(void *arg)
{
	unsigned slot = (unsigned)(uintptr_t)arg - 1;

	rte_rcu_qsbr_thread_unregister(variable, slot);
	guests_used &= ~(1u << (slot - TW_LCORES_MAX));
}

static void make(void)
{
	size_t size = rte_rcu_qsbr_get_memsize(SLOTS);

	/* Plain memory, because tables outlive no process and EAL may not have been started. */
	variable = aligned_alloc(RTE_CACHE_LINE_SIZE, RTE_ALIGN_CEIL(size, RTE_CACHE_LINE_SIZE));
	if (!variable || rte_rcu_qsbr_init(variable, SLOTS) ||
	    pthread_key_create(&guest_key, guest_exit))
		abort(); /* at first use, a few KiB: there is nothing to go on with */
	rte_rcu_qsbr_thread_register(variable, SHARED);
	guests_used = 1u << (GUESTS - 1);
}

struct rte_rcu_qsbr *tw_qsbr(void)
{
	if (__builtin_expect(!variable, 0))
		pthread_once(&once, make);
	return variable;
}

int tw_rcu_register(unsigned slot)
{
	if (slot >= TW_LCORES_MAX)
		return tw_fail(EINVAL, "lcore slot %u is not below %d", slot, TW_LCORES_MAX);
	if (rte_rcu_qsbr_thread_register(tw_qsbr(), slot))
		return tw_fail(EINVAL, "lcore slot %u cannot be registered", slot);
	rte_rcu_qsbr_thread_online(variable, slot);
	tw_rcu_self = (int)slot;
	return 0;
}

void tw_rcu_unregister(unsigned slot)
{
	rte_rcu_qsbr_thread_offline(tw_qsbr(), slot);
	rte_rcu_qsbr_thread_unregister(variable, slot);
	/* A thread that steps several lcores by hand goes on as a guest, which is always safe. */
	if (tw_rcu_self == (int)slot)
		tw_rcu_self = TW_RCU_NO_SLOT;
}

static void guest_assign(void)
{
	uint32_t used = guests_used;

	tw_qsbr();
	while (used != UINT32_MAX) {
		int bit = __builtin_ctz(~used);

		if (__atomic_compare_exchange_n((uint32_t *)&guests_used, &used, used | 1u << bit,
		                                false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			guest = TW_LCORES_MAX + bit;
			rte_rcu_qsbr_thread_register(variable, guest);
			pthread_setspecific(guest_key, (void *)(uintptr_t)(guest + 1));
			return;
		}
	}
}

void tw_rcu_guest_enter(void)
{
	if (__builtin_expect(guest == TW_RCU_NO_SLOT, 0))
		guest_assign();
	if (__builtin_expect(guest == TW_RCU_NO_SLOT, 0)) {
		pthread_mutex_lock(&shared_lock);
		rte_rcu_qsbr_thread_online(variable, SHARED);
		return;
	}
	rte_rcu_qsbr_thread_online(variable, guest);
}

void tw_rcu_guest_leave(void)
{
	if (__builtin_expect(guest == TW_RCU_NO_SLOT, 0)) {
		rte_rcu_qsbr_thread_offline(variable, SHARED);
		pthread_mutex_unlock(&shared_lock);
		return;
	}
	rte_rcu_qsbr_thread_offline(variable, guest);
}
