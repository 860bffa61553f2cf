/* SPDX-License-Identifier: BSD-3-Clause */
/* rcu.h - the one quiescent-state variable of the process: when may a table reuse memory. */
#pragma once
#include <rte_rcu_qsbr.h>

#define TW_RCU_NO_SLOT (-1)

/* Slot this thread is registered with, or TW_RCU_NO_SLOT. Written by its own thread only. */
extern _Thread_local int tw_rcu_self __attribute__((tls_model("initial-exec")));

struct rte_rcu_qsbr *tw_qsbr(void);

/* An lcore thread registers its slot before its first table access and reports a quiescent
 * state once per loop, when it holds no reference into a table. Registering makes this thread's
 * table look-ups free of any further protection. Call unregister in the same thread. */
int tw_rcu_register(unsigned slot);
void tw_rcu_unregister(unsigned slot);

/* No memory is reused while a registered thread sleeps, so a thread that may sleep long goes
 * offline before and online after; it must hold no reference into a table while it is offline. */
static inline void tw_rcu_offline(unsigned slot)
{
	rte_rcu_qsbr_thread_offline(tw_qsbr(), slot);
}

static inline void tw_rcu_online(unsigned slot)
{
	rte_rcu_qsbr_thread_online(tw_qsbr(), slot);
}

static inline void tw_rcu_quiescent(unsigned slot)
{
	rte_rcu_qsbr_quiescent(tw_qsbr(), slot);
}

/* A thread that is not registered (control, watchdog) brackets each single access; does not
 * nest and never waits for an lcore. */
void tw_rcu_guest_enter(void);
void tw_rcu_guest_leave(void);
