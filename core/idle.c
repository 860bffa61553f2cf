/* SPDX-License-Identifier: BSD-3-Clause */
/* idle.c - what an lcore does while nothing comes: it looks again, sleeps a little, or waits for
 * interrupts; and what ends its wait. */
#include "lcore.h"
#include "error.h"
#include "port.h"
#include "rcu.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include <rte_interrupts.h>
#include <rte_pause.h>

#define IDLE_SPIN_TURNS 256 /* empty turns before backing off */
#define IDLE_ARM_TURNS 280  /* empty turns, short sleeps among them, before interrupts are armed */
#define IDLE_SLEEP_MIN_NS 2000
#define IDLE_SLEEP_MAX_NS 100000
#define REST_NS 10000000

static _Atomic bool resting;

void tw_lcores_rest(bool on)
{
	atomic_store_explicit(&resting, on, memory_order_relaxed);
}

/* Offline meanwhile: a sleeping lcore must not keep tables from reusing memory. */
static void sleep_ns(struct tw_lcore *lcore, long ns)
{
	struct timespec ts = { .tv_nsec = ns };

	tw_rcu_offline(lcore->slot);
	nanosleep(&ts, NULL);
	tw_rcu_online(lcore->slot);
}

/* ---- interrupts ---- */

static void interrupts_set(const struct tw_lcore *lcore, bool on)
{
	for (unsigned i = 0; i < lcore->n_inputs; i++) {
		const struct tw_input_spec *in = &lcore->input[i];

		if (in->kind != TW_END_PORT)
			continue;
		if (on)
			rte_eth_dev_rx_intr_enable(tw_port_table[in->index].ethdev, in->queue);
		else
			rte_eth_dev_rx_intr_disable(tw_port_table[in->index].ethdev, in->queue);
	}
}

/* The events of the inputs on this thread's epoll; those that were added so far. */
static int interrupts_events(struct tw_lcore *lcore, int op)
{
	for (unsigned i = 0; i < lcore->n_inputs; i++) {
		const struct tw_input_spec *in = &lcore->input[i];

		if (in->kind == TW_END_PORT &&
		    rte_eth_dev_rx_intr_ctl_q(tw_port_table[in->index].ethdev, in->queue,
		                              lcore->epoll, op, NULL) < 0 &&
		    op == RTE_INTR_EVENT_ADD)
			return in->index;
	}
	return -1;
}

static void interrupts_init(struct tw_lcore *lcore)
{
	static struct rte_epoll_event wake[TW_LCORES_MAX];
	int refuses;

	if (lcore->epoll < 0) {
		lcore->epoll = epoll_create1(EPOLL_CLOEXEC);
		wake[lcore->slot] = (struct rte_epoll_event){ .epdata.event = EPOLLIN };
		rte_epoll_ctl(lcore->epoll, EPOLL_CTL_ADD, lcore->wake, &wake[lcore->slot]);
	}
	refuses = interrupts_events(lcore, RTE_INTR_EVENT_ADD);
	lcore->epoll_ready = refuses < 0 ? 1 : -1;
	if (refuses >= 0 && !lcore->no_irq)
		tw_log("port %s gives no rx interrupts; cpu %d sleeps between polls instead",
		       lcore->shared->port[refuses].name, lcore->cpu);
	lcore->no_irq |= refuses >= 0;
}

void tw_lcore_interrupts_forget(struct tw_lcore *lcore)
{
	if (lcore->epoll_ready)
		interrupts_events(lcore, RTE_INTR_EVENT_DEL);
	lcore->epoll_ready = 0;
}

void tw_lcore_wake(struct tw_lcore *lcore)
{
	if (tw_options()->idle == TW_IDLE_INTERRUPT && lcore->threaded)
		eventfd_write(lcore->wake, 1);
}

static void wait_interrupt(struct tw_lcore *lcore)
{
	struct rte_epoll_event events[TW_INPUTS_MAX + 1];
	eventfd_t woken;

	interrupts_set(lcore, true);
	/* A packet that came before the interrupt was armed raises none: look once more. */
	if (!tw_lcore_turn(lcore)) {
		tw_rcu_offline(lcore->slot);
		rte_epoll_wait(lcore->epoll, events, RTE_DIM(events), tw_options()->tick_ms);
		tw_rcu_online(lcore->slot);
		eventfd_read(lcore->wake, &woken);
	}
	interrupts_set(lcore, false);
	/* Some drivers (tap) learn of a packet by a signal a moment after the interrupt: poll a
	 * while before sleeping again. */
	lcore->idle_streak = 0;
}

/* ---- the next empty turn ---- */

void tw_lcore_idle(struct tw_lcore *lcore)
{
	uint32_t streak = ++lcore->idle_streak;
	long ns;

	lcore->stats->idle_loops++;
	if (__builtin_expect(atomic_load_explicit(&resting, memory_order_relaxed), 0)) {
		sleep_ns(lcore, REST_NS);
		return;
	}
	switch (tw_options()->idle) {
	case TW_IDLE_SPIN:
		return;
	case TW_IDLE_PAUSE:
		for (int i = 0; i < 16; i++)
			rte_pause();
		return;
	case TW_IDLE_INTERRUPT:
		if (streak >= IDLE_ARM_TURNS) {
			if (!lcore->epoll_ready)
				interrupts_init(lcore);
			if (lcore->epoll_ready > 0) {
				wait_interrupt(lcore);
				return;
			}
		}
		/* fall through */
	default:
		if (streak < IDLE_SPIN_TURNS) {
			rte_pause();
			return;
		}
		ns = IDLE_SLEEP_MIN_NS * (long)(streak - IDLE_SPIN_TURNS + 1);
		sleep_ns(lcore, ns < IDLE_SLEEP_MAX_NS ? ns : IDLE_SLEEP_MAX_NS);
	}
}
