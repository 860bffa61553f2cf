/* SPDX-License-Identifier: BSD-3-Clause */
/* inline_watch.c - a thread that looks once a second whether functions inside of gate threads
 * return. It sleeps while none is called: the next call wakes it. */
#include "gate/inline_watch.h"
#include "error.h"
#include "gate/flow.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define STUCK_SIGNAL (SIGRTMIN + 5)
#define LOOK_NS 1000000000

_Atomic bool inline_watch_asleep; /* nothing has run since the last look */

static struct {
	pthread_mutex_t lock;
	struct inline_watched *all;
	bool runs;
	sem_t wake;
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct inline_watched *own;

static void on_stuck(int sig)
{
	int err = errno;

	(void)sig;
	if (own && (atomic_load(&own->entries) & 1) && atomic_load(&own->entries) == own->seen)
		own->stuck(own);
	errno = err;
}

static void report(const struct inline_watched *w, uint64_t seconds)
{
	const struct tw_inline *now = atomic_load(&w->now);
	const struct service *service = now ? w->gate->service[now->service] : NULL;
	uint32_t function = now ? now->function : TW_INLINE_NOBODY;

	if (service && function < service->spec.n_functions)
		tw_log("<3>gate thread %u: function \"%s\" of chain \"%s\" has not returned for %llu s, and "
		       "all connections of the thread wait",
		       w->gate->id, service->spec.function[function].name, service->spec.name,
		       (unsigned long long)seconds);
}

/* True: something has run. */
static bool look(struct inline_watched *w, uint64_t now)
{
	uint64_t entries = atomic_load(&w->entries), seconds;

	if (entries != w->seen) {
		w->seen = entries;
		w->stuck_since = now;
		return true;
	}
	if (!(entries & 1))
		return false;
	seconds = (now - w->stuck_since + LOOK_NS / 2) / 1000000000;
	if (seconds && (seconds & (seconds - 1)) == 0)
		report(w, seconds);
	if (seconds)
		pthread_kill(w->thread, STUCK_SIGNAL);
	return true;
}

static void *watch_main(void *arg)
{
	struct timespec nap = { LOOK_NS / 1000000000, LOOK_NS % 1000000000 };

	(void)arg;
	pthread_setname_np(pthread_self(), "tw-inline-watch");
	for (;;) {
		bool busy = false;

		nanosleep(&nap, NULL);
		atomic_store(&inline_watch_asleep, true);
		pthread_mutex_lock(&watch.lock);
		for (struct inline_watched *w = watch.all; w; w = w->next)
			busy |= look(w, tw_now());
		pthread_mutex_unlock(&watch.lock);
		if (!busy)
			while (sem_wait(&watch.wake) < 0 && errno == EINTR)
				;
		atomic_store(&inline_watch_asleep, false);
	}
	return NULL;
}

void inline_watch_wake(void)
{
	if (atomic_exchange(&inline_watch_asleep, false))
		sem_post(&watch.wake);
}

static int start(void)
{
	struct sigaction sa = { .sa_handler = on_stuck, .sa_flags = SA_RESTART };
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	sem_init(&watch.wake, 0, 0);
	sigaction(STUCK_SIGNAL, &sa, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, watch_main, NULL);
	pthread_attr_destroy(&attr);
	watch.runs = !err;
	return err;
}

int inline_watch_begin(struct inline_watched *w)
{
	sigset_t set;
	int err;

	sigemptyset(&set);
	sigaddset(&set, STUCK_SIGNAL);
	pthread_mutex_lock(&watch.lock);
	err = watch.runs ? 0 : start();
	if (!err) {
		own = w;
		w->thread = pthread_self();
		w->next = watch.all;
		watch.all = w;
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	}
	pthread_mutex_unlock(&watch.lock);
	return err ? tw_fail(err, "no thread to watch over inline functions: %s", strerror(err))
	           : 0;
}

void inline_watch_end(struct inline_watched *w)
{
	struct inline_watched **at = &watch.all;

	pthread_mutex_lock(&watch.lock);
	while (*at && *at != w)
		at = &(*at)->next;
	if (*at)
		*at = w->next;
	pthread_mutex_unlock(&watch.lock);
	own = NULL;
}
