/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * watchdog.c - a thread that looks every two milliseconds or more often whether an lcore is stuck
 * in Lua, and sends it a signal; what that does is the fence's business (fence.c).
 *
 * An entry into Lua may take stall_ms of CPU time. On probation it is late already when it has
 * come nowhere for probation_ms: cold code is slow, but goes from packet to packet.
 */
#include "watchdog.h"
#include "error.h"
#include "lcore.h"
#include "privilege.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static pthread_t thread;
static _Atomic bool stop;
static bool runs;

/* When to look again: soon on probation, and sooner at a thread that has to leave where it is. */
#define NAP_NS 2000000
#define NAP_PROBATION_NS 500000
#define NAP_LATE_NS 200000

/* What interpreted code has from the asking on before it raises, with its line, in CPU time. Twice
 * that behind the asking the jump comes, which says less. */
#define GRACE_NS 2000000
#define GRACE_PROBATION_NS 800000

/* One entry into Lua, in CPU time. */
struct watch {
	uint64_t seq, began;
	uint64_t at, moved; /* how far it was, and since when */
	uint64_t late;      /* since when, 0: it is not */
	uint64_t asked;     /* when it got the last signal */
};

uint64_t tw_cpu_time(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts) < 0)
		return 0;
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Any change of this number is progress. The lcore writes meanwhile, which does no harm. */
static uint64_t how_far(const struct tw_lcore *lcore)
{
	const volatile struct tw_burst *burst = &lcore->burst;
	uint64_t sum = burst->stage;

	for (unsigned i = 0; i < TW_BURST_MAX; i++) {
		const volatile struct tw_pkt *pkt = &burst->pkts[i];

		sum += (uint64_t)((pkt->verdict & 0xff) + pkt->resume + pkt->port) << 20;
	}
	return sum;
}

static bool is_late(struct tw_lcore *lcore, struct watch *watch, uint64_t now, bool probation)
{
	const struct tw_options *options = tw_options();
	uint64_t at;

	if (now - watch->began >= options->stall_ms * 1000000ull) {
		lcore->late_ms = options->stall_ms;
		return true;
	}
	if (!probation)
		return false;
	at = how_far(lcore);
	if (at != watch->at) {
		watch->at = at;
		watch->moved = now;
	}
	lcore->late_ms = options->probation_ms;
	return now - watch->moved >= options->probation_ms * 1000000ull;
}

/* Returns when to look again. */
static long look(struct tw_lcore *lcore, struct watch *watch)
{
	uint64_t seq = atomic_load_explicit(&lcore->seq, memory_order_relaxed), now;
	bool probation = atomic_load_explicit(&lcore->before, memory_order_relaxed) != NULL;
	long nap = probation ? NAP_PROBATION_NS : NAP_NS;

	if (!(seq & 1))
		return nap;
	now = tw_cpu_time(lcore->cpu_clock);
	if (seq != watch->seq) {
		*watch = (struct watch){
			.seq = seq, .began = now, .at = how_far(lcore), .moved = now
		};
		return nap;
	}
	if (!watch->late && !is_late(lcore, watch, now, probation))
		return nap;
	if (!watch->late) {
		watch->late = now;
		lcore->grace_ns = probation ? GRACE_PROBATION_NS : GRACE_NS;
	}
	if (now == watch->asked) /* it has not run since: signals would queue up */
		return NAP_LATE_NS;
	watch->asked = now;
	atomic_store_explicit(&lcore->stall_seq, seq, memory_order_relaxed);
	atomic_store_explicit(&lcore->phase,
	                      now - watch->late < 2 * lcore->grace_ns ? TW_FENCE_HOOK
	                                                              : TW_FENCE_JUMP,
	                      memory_order_relaxed);
	pthread_kill(lcore->thread, TW_STALL_SIGNAL);
	return NAP_LATE_NS;
}

static void *watchdog_main(void *arg)
{
	static struct watch watch[TW_LCORES_MAX];

	(void)arg;
	pthread_setname_np(pthread_self(), "tw-watchdog");
	/* It takes no time to speak of, but has to be there when every CPU is busy. It may be
	 * refused. */
	setpriority(PRIO_PROCESS, gettid(), -15);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		struct timespec nap = { .tv_nsec = NAP_NS };

		for (int i = 0; i < TW_LCORES_MAX; i++) {
			struct tw_lcore *lcore = atomic_load_explicit(&tw_lcore_table[i],
			                                              memory_order_acquire);
			long ns;

			if (!lcore || !atomic_load(&lcore->up))
				continue;
			ns = look(lcore, &watch[i]);
			nap.tv_nsec = ns < nap.tv_nsec ? ns : nap.tv_nsec;
		}
		nanosleep(&nap, NULL);
	}
	return NULL;
}

int tw_watchdog_start(void)
{
	sigset_t all, old;

	atomic_store(&stop, false);
	sigfillset(&all);
	sigdelset(&all, TW_PRIVILEGE_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	runs = pthread_create(&thread, NULL, watchdog_main, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return runs ? 0 : tw_fail(EAGAIN, "no thread for the watchdog");
}

void tw_watchdog_stop(void)
{
	if (!runs)
		return;
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	runs = false;
}

bool tw_watchdog_runs(void)
{
	return runs;
}
