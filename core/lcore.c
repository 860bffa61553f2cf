/* SPDX-License-Identifier: BSD-3-Clause */
/* lcore.c - the poll loop: rx burst, one entry into Lua, dispatch, heartbeat, plan check. */
#include "lcore.h"
#include "error.h"
#include "plan.h"
#include "port.h"
#include "rcu.h"
#include "stats.h"
#include "table.h"
#include "watch.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_lcore.h>

#define SWEEP_BUDGET 4096 /* table entries looked at per tick */

struct tw_lcore *_Atomic tw_lcore_table[TW_LCORES_MAX];
_Thread_local struct tw_lcore *tw_self;
_Atomic bool tw_lcore_draining; /* ports are not read any more, rings are */

/* ---- clock: monotonic ns from the TSC, set right again at every tick ---- */

static void clock_set(struct tw_lcore *lcore, uint64_t tsc)
{
	lcore->clock_tsc = tsc;
	lcore->clock_ns = tw_now();
	lcore->clock_mult =
		(uint64_t)((1e9 * (double)(1ull << TW_CLOCK_SHIFT)) / (double)tw_tsc_hz());
}

static inline uint64_t clock_ns(const struct tw_lcore *lcore, uint64_t tsc)
{
	unsigned __int128 ticks = tsc - lcore->clock_tsc;

	return lcore->clock_ns + (uint64_t)((ticks * lcore->clock_mult) >> TW_CLOCK_SHIFT);
}

/* ---- one turn ---- */

/* Frames in several segments become one, or are dropped: views need linear frames. */
static unsigned linearize(struct tw_lcore *lcore, unsigned chain, struct rte_mbuf **mbufs,
                          unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		if (mbufs[i]->nb_segs > 1 && rte_pktmbuf_linearize(mbufs[i]) < 0)
			tw_dispatch_drop(lcore, chain, TW_STAGE_ENGINE, TW_R_TOO_LONG, mbufs[i]);
		else
			mbufs[kept++] = mbufs[i];
	}
	return kept;
}

/* A full burst means that more waits: take a second one, and enter Lua once for both. */
static inline unsigned receive(const struct tw_input_spec *in, struct rte_mbuf **mbufs,
                               unsigned burst)
{
	uint16_t dev;
	unsigned n;

	if (in->kind != TW_END_PORT)
		return rte_ring_dequeue_burst(tw_ring_table[in->index].ring, (void **)mbufs, burst,
		                              NULL);
	dev = tw_port_table[in->index].ethdev;
	n = rte_eth_rx_burst(dev, in->queue, mbufs, burst);
	if (n == burst && 2 * burst <= TW_BURST_MAX)
		n += rte_eth_rx_burst(dev, in->queue, mbufs + n, burst);
	return n;
}

/* A chain without NFs. */
static inline void run_direct(struct tw_lcore *lcore, unsigned chain, uint16_t port,
                              struct rte_mbuf **mbufs, unsigned n, uint64_t bytes)
{
	if (tw_watching(lcore))
		tw_watch_direct(lcore, chain, port, mbufs, n);
	tw_dispatch_direct(lcore, chain, mbufs, n, bytes);
	if (tw_watching(lcore))
		tw_watch_end(lcore);
}

static inline void count_received(struct tw_lcore *lcore, const struct tw_input_spec *in,
                                  unsigned n, uint64_t bytes)
{
	struct tw_chain_stats *stats = &lcore->stats->chain[lcore->plan->chain[in->chain].chain];

	stats->rx += n;
	stats->rx_bytes += bytes;
	if (in->kind == TW_END_PORT) {
		lcore->stats->port[in->index].rx_packets += n;
		lcore->stats->port[in->index].rx_bytes += bytes;
	}
}

/* By way of a burst: what Lua works on, and whatever else is not machine code on mbufs. */
static void run_burst(struct tw_lcore *lcore, const struct tw_input_spec *in, uint16_t port,
                      struct rte_mbuf **mbufs, unsigned n)
{
	bool scattered = false;
	uint64_t bytes = tw_dispatch_fill(lcore, port, mbufs, n, &scattered);

	count_received(lcore, in, n, bytes);
	if (__builtin_expect(scattered, 0)) {
		n = linearize(lcore, in->chain, mbufs, n);
		if (!n)
			return;
		bytes = tw_dispatch_fill(lcore, port, mbufs, n, &scattered);
	}
	tw_dispatch_burst(lcore, in->chain, mbufs, bytes);
}

static inline unsigned run_input(struct tw_lcore *lcore, const struct tw_input_spec *in)
{
	const struct tw_chain_spec *spec = &lcore->plan->chain[in->chain];
	struct rte_mbuf *mbufs[TW_BURST_MAX + TW_MBUFS_AHEAD];
	uint16_t port = in->kind == TW_END_PORT ? in->index : TW_PORT_NONE;
	uint64_t bytes = 0;
	unsigned n;

	if (in->kind == TW_END_PORT &&
	    __builtin_expect(atomic_load_explicit(&tw_lcore_draining, memory_order_relaxed), 0))
		return 0;
	n = receive(in, mbufs, lcore->plan->burst);
	if (!n)
		return 0;
	lcore->stats->chain[spec->chain].bursts++;
	if (in->kind == TW_END_PORT && spec->sink_kind == TW_END_RING)
		for (unsigned i = 0; i < n; i++) /* the next chain wants to know it too */
			mbufs[i]->port = in->index;
	if (!spec->code) {
#pragma GCC unroll 8
		for (unsigned i = 0; i < n; i++)
			bytes += mbufs[i]->pkt_len;
		count_received(lcore, in, n, bytes);
		run_direct(lcore, in->chain, port, mbufs, n, bytes);
	} else if (in->kind == TW_END_PORT && tw_dispatch_mbufs(lcore, in->chain, port, mbufs, n)) {
		count_received(lcore, in, n, lcore->burst.bytes);
	} else {
		run_burst(lcore, in, port, mbufs, n);
	}
	return n;
}

/* LuaJIT gave up on a chain: it works, many times slower. Say it once per VM. */
static void warn_interpreted(struct tw_lcore *lcore)
{
	struct tw_jit *jit = lcore->plan->vm->jit;

	if (!jit->interpreted || jit->warned)
		return;
	jit->warned = 1;
	tw_log("cpu %d: LuaJIT has given up compiling %u hot function(s), the first at %s; they run "
	       "interpreted and slow. jit() says why, rewarm(%d) lets it try again",
	       lcore->cpu, jit->interpreted, jit->interpreted_at[0], lcore->cpu);
}

/* For top and metrics, which are other processes' too. */
static void publish_jit(struct tw_lcore *lcore)
{
	const struct tw_vm *vm = lcore->plan->vm;
	struct tw_jit_stats *to = &lcore->stats->jit;

	to->made = vm->jit->traces;
	to->live = vm->jit->live;
	to->aborts = vm->jit->aborts;
	to->flushes = vm->jit->flushes;
	to->settled = vm->jit->settled;
	to->interpreted = vm->jit->interpreted;
	to->mcode = vm->jit->mcode;
	to->heap = vm->used;
	to->heap_limit = vm->limit;
	memcpy(to->last_abort, vm->jit->last_abort, TW_WHERE_LEN);
	memcpy(to->interpreted_at, vm->jit->interpreted_at[0], TW_WHERE_LEN);
}

/* NF timers, hold timeouts, table expiry; some ten times a second. */
static void tick(struct tw_lcore *lcore, uint64_t now)
{
	lcore->next_tick = now + tw_options()->tick_ms * 1000000ull;
	lcore->burst.now = now;
	tw_hold_expire(lcore, now);
	tw_tables_sweep(now, SWEEP_BUDGET);
	if (lcore->plan->vm && tw_fence_enter(lcore, TW_VM_TICK) == 0) {
		warn_interpreted(lcore);
		publish_jit(lcore);
	}
	if (lcore->n_emits)
		tw_dispatch_emits(lcore);
}

/* The TSC costs as much to read as an NF takes, so a busy lcore reads it every eighth turn only:
 * burst.now is a few microseconds old at most. The time since then is busy when packets moved. */
#define TSC_TURNS 8

static inline void take_time(struct tw_lcore *lcore)
{
	uint64_t tsc = rte_rdtsc(), spent = tsc - lcore->turn_tsc;

	lcore->turn_tsc = tsc;
	if (lcore->turn_moved)
		lcore->stats->busy_cycles += spent;
	else
		lcore->stats->idle_cycles += spent;
	lcore->turn_moved = 0;
	lcore->burst.now = clock_ns(lcore, tsc);
	if (__builtin_expect(lcore->burst.now >= lcore->next_tick, 0)) {
		clock_set(lcore, tsc);
		tick(lcore, lcore->burst.now);
		if (lcore->falling)
			tw_swap_fall_back(lcore);
	}
}

unsigned tw_lcore_turn(struct tw_lcore *lcore)
{
	unsigned moved = 0, chain;

	tw_watch_turn(lcore);
	if (!lcore->turn_moved || lcore->turn++ % TSC_TURNS == 0)
		take_time(lcore);
	for (unsigned i = 0; i < lcore->n_inputs && !lcore->falling; i++)
		moved += run_input(lcore, &lcore->input[i]);
	while (!lcore->falling && __builtin_expect(tw_hold_collect(lcore, &chain), 0))
		tw_dispatch_burst(lcore, chain, NULL, 0);
	if (__builtin_expect(lcore->falling != NULL, 0))
		tw_swap_fall_back(lcore);
	if (lcore->n_dead)
		tw_dispatch_bury(lcore);
	lcore->watches = NULL;
	lcore->stats->heartbeat++;
	lcore->turn_moved += moved;
	return moved;
}

/* ---- thread ---- */

/* One load a turn is all that a new plan costs as long as there is none. */
static inline void look_for_orders(struct tw_lcore *lcore)
{
	uint64_t number = atomic_load_explicit(&lcore->ordered, memory_order_acquire);

	if (__builtin_expect(number != lcore->taken, 0))
		tw_swap_take(lcore, number);
}

void tw_lcore_leave(struct tw_lcore *lcore, unsigned reason)
{
	if (!lcore->plan)
		return;
	if (lcore->plan->vm)
		tw_fence_enter(lcore, TW_VM_STOP);
	if (lcore->n_emits)
		tw_dispatch_emits(lcore);
	tw_hold_flush(lcore, reason);
	tw_dispatch_bury(lcore);
}

static void *lcore_main(void *arg)
{
	struct tw_lcore *lcore = arg;
	char name[16];

	snprintf(name, sizeof(name), "tw-lcore-%d", lcore->cpu);
	pthread_setname_np(pthread_self(), name);
	prctl(PR_SET_TIMERSLACK, 1000UL); /* short sleeps that are short */
	rte_thread_register();
	tw_fence_thread_init();
	tw_self = lcore;
	pthread_getcpuclockid(pthread_self(), &lcore->cpu_clock);
	lcore->turn_tsc = rte_rdtsc();
	clock_set(lcore, lcore->turn_tsc);
	lcore->epoll_ready = 0;
	tw_rcu_register(lcore->slot);
	atomic_store(&lcore->up, true);
	while (!atomic_load_explicit(&lcore->stop, memory_order_relaxed)) {
		look_for_orders(lcore);
		if (tw_lcore_turn(lcore))
			lcore->idle_streak = 0;
		else
			tw_lcore_idle(lcore);
		tw_rcu_quiescent(lcore->slot);
	}
	tw_lcore_interrupts_forget(lcore);
	if (!lcore->parked)
		tw_lcore_leave(lcore, TW_R_STOPPED);
	atomic_store(&lcore->up, false);
	tw_rcu_unregister(lcore->slot);
	tw_self = NULL;
	rte_thread_unregister();
	return NULL;
}

int tw_lcore_thread_start(struct tw_lcore *lcore)
{
	pthread_attr_t attr;
	sigset_t all, old;
	cpu_set_t cpus;
	int err;

	CPU_ZERO(&cpus);
	CPU_SET(lcore->cpu, &cpus);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	/* Stop signals go to the control thread; faults and the fence's own come here. */
	sigemptyset(&all);
	sigaddset(&all, SIGINT);
	sigaddset(&all, SIGTERM);
	sigaddset(&all, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(&lcore->thread, &attr, lcore_main, lcore);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		return tw_fail(err, "no thread on CPU %d: %s", lcore->cpu, strerror(err));
	lcore->threaded = true;
	return 0;
}

int tw_lcore_step(int slot)
{
	struct tw_lcore *lcore = slot >= 0 && slot < TW_LCORES_MAX ? tw_lcore_table[slot] : NULL;
	unsigned moved;

	if (!lcore || lcore->threaded || lcore->cpu >= 0 || lcore->cpu == TW_NO_CPU || !lcore->plan)
		return tw_fail(EINVAL, "slot %d is no lcore that is stepped by hand", slot);
	tw_self = lcore;
	clock_set(lcore, rte_rdtsc()); /* sees tw_clock_advance() at once */
	lcore->turn_moved = 0;
	moved = tw_lcore_turn(lcore);
	tw_rcu_quiescent(slot);
	tw_self = NULL;
	tw_fence_reap(lcore);
	return moved;
}

const struct tw_jit *tw_lcore_jit(int slot)
{
	struct tw_lcore *lcore = slot >= 0 && slot < TW_LCORES_MAX ? tw_lcore_table[slot] : NULL;

	return lcore && lcore->plan && lcore->plan->vm ? lcore->plan->vm->jit : NULL;
}

size_t tw_lcore_heap(int slot)
{
	struct tw_lcore *lcore = slot >= 0 && slot < TW_LCORES_MAX ? tw_lcore_table[slot] : NULL;

	return lcore && lcore->plan && lcore->plan->vm ? lcore->plan->vm->used : 0;
}

int tw_lcore_rewarm(int slot)
{
	struct tw_lcore *lcore = slot >= 0 && slot < TW_LCORES_MAX ? tw_lcore_table[slot] : NULL;

	if (!lcore || !lcore->plan || !lcore->plan->vm)
		return tw_fail(ENOENT, "slot %d is no lcore with a Lua VM", slot);
	lcore->plan->vm->jit->rewarm_asked++;
	return 0;
}
