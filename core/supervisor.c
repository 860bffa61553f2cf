/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor.c - the supervisor's thread, which sleeps while nothing happens, and what others tell
 * it. One lock over everything; no gate thread ever takes it. */
#include "error.h"
#include "privilege.h"
#include "supervisor_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define UID_ENGINES (1u << 22) /* user ids: some per engine */
#define MEMORY_MB 64
#define STUCK_MS 40
#define EVENTS 64
#define STUCK_MAX 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t thread;
static bool running, stopping, helper_lost;
static int epoll = -1, wake = -1, registration = -1;
static char name[32];
static struct supervised_service services[TW_SERVICES_MAX];
static struct supervised workers[TW_WORKERS_MAX];

/* What gate threads have found stuck; a lock of its own, held for a moment. */
static pthread_mutex_t stuck_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	uint32_t service, member, ms;
} stuck[STUCK_MAX];
static uint32_t n_stuck;

/* ---- for the other files ---- */

struct supervised_service *supervisor_service(uint32_t index)
{
	return &services[index];
}

struct supervised *supervisor_worker(uint32_t index)
{
	return index < TW_WORKERS_MAX ? &workers[index] : NULL;
}

const char *supervisor_registration(void)
{
	return name;
}

bool supervisor_watch(int fd, uint64_t what)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = what };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* ---- from any thread ---- */

static void kick(void)
{
	uint64_t one = 1;

	if (wake >= 0 && write(wake, &one, sizeof(one)) < 0) {
		/* it is awake */
	}
}

void tw_supervisor_stuck(uint32_t service, uint32_t member, uint32_t ms)
{
	pthread_mutex_lock(&stuck_lock);
	if (n_stuck < STUCK_MAX) {
		stuck[n_stuck].service = service;
		stuck[n_stuck].member = member;
		stuck[n_stuck++].ms = ms;
	}
	pthread_mutex_unlock(&stuck_lock);
	kick();
}

/* ---- the thread ---- */

static void kill_stuck(void)
{
	pthread_mutex_lock(&stuck_lock);
	for (uint32_t i = 0; i < n_stuck; i++) {
		for (uint32_t j = 0; j < TW_WORKERS_MAX; j++) {
			struct supervised *w = &workers[j];
			char reason[160];

			if (!w->used || w->service != stuck[i].service ||
			    w->member != (int)stuck[i].member)
				continue;
			snprintf(reason, sizeof(reason), "stuck for %u ms in %s", stuck[i].ms,
			         services[w->service].spec.function[w->function].name);
			life_kill(w, reason);
		}
	}
	n_stuck = 0;
	pthread_mutex_unlock(&stuck_lock);
}

/* The helper has gone, and its workers with it. */
static void lose_helper(void)
{
	if (!helper_lost)
		tw_log(TW_LOG_ERROR "the helper process has ended, and all workers with it; start "
		                    "the engine again");
	helper_lost = true;
	call_close();
	for (uint32_t i = 0; i < TW_WORKERS_MAX; i++)
		if (workers[i].used && workers[i].spawning)
			workers[i].due = 0;
}

/* An event may be about the process before this one. */
static bool has_ended(int pidfd)
{
	struct pollfd set = { .fd = pidfd, .events = POLLIN };

	return pidfd >= 0 && poll(&set, 1, 0) == 1;
}

static void happened(uint64_t what)
{
	struct supervised *w = &workers[what % TW_WORKERS_MAX];
	uint64_t count;

	if (what == WATCH_WAKE) {
		if (read(wake, &count, sizeof(count)) < 0) {
			/* nobody */
		}
	} else if (what == WATCH_HELPER) {
		if (!call_answers())
			lose_helper();
	} else if (what == WATCH_REGISTRATION) {
		talk_accept(registration);
	} else if (what & WATCH_PROCESS) {
		if (w->used && has_ended(w->pidfd))
			life_ended(w);
	} else if (w->used && w->sock >= 0) {
		talk_heard(w);
	}
}

/* Does what is due; ms until the next time, -1: nothing. */
static int do_due(void)
{
	uint64_t next = UINT64_MAX, now = tw_now();

	kill_stuck();
	for (uint32_t i = 0; i < TW_WORKERS_MAX; i++) {
		struct supervised *w = &workers[i];

		if (w->used && w->due <= now)
			life_due(w, now);
		if (w->used && w->due < next)
			next = w->due;
	}
	if (next == UINT64_MAX)
		return -1;
	return next <= now ? 0 : (next - now) / 1000000 + 1;
}

static void *run(void *arg)
{
	struct epoll_event event[EVENTS];
	int ms = -1;

	(void)arg;
	pthread_setname_np(pthread_self(), "tw-supervisor");
	for (;;) {
		int n = epoll_wait(epoll, event, EVENTS, ms);

		pthread_mutex_lock(&lock);
		if (stopping)
			break;
		for (int i = 0; i < n; i++)
			happened(event[i].data.u64);
		ms = do_due();
		pthread_mutex_unlock(&lock);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* ---- the control thread ---- */

static int open_helper(void)
{
	int sock = call_open();

	if (sock < 0)
		return sock;
	fcntl(sock, F_SETFL, O_NONBLOCK);
	supervisor_watch(sock, WATCH_HELPER);
	helper_lost = false;
	return 0;
}

static int open_all(void)
{
	int rc;

	epoll = epoll_create1(EPOLL_CLOEXEC);
	wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (epoll < 0 || wake < 0)
		return tw_fail(errno, "no descriptors for workers: %s", strerror(errno));
	rc = registration = talk_listen(name, sizeof(name));
	if (rc >= 0)
		rc = open_helper();
	if (rc < 0)
		return rc;
	supervisor_watch(wake, WATCH_WAKE);
	supervisor_watch(registration, WATCH_REGISTRATION);
	return 0;
}

static void close_all(void)
{
	int *fds[] = { &registration, &wake, &epoll };

	call_close();
	for (unsigned i = 0; i < 3; i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

static int start_thread(void)
{
	sigset_t all, before;
	int rc;

	/* Signals are the control thread's, but for the one that takes rights away. */
	sigfillset(&all);
	sigdelset(&all, TW_PRIVILEGE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	stopping = false;
	rc = pthread_create(&thread, NULL, run, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc ? tw_fail(rc, "no thread for workers: %s", strerror(rc)) : 0;
}

static int start(void)
{
	int rc;

	if (running && !helper_lost && !call_answers())
		lose_helper();
	if (running)
		return helper_lost ? open_helper() : 0;
	rc = open_all();
	if (rc == 0)
		rc = start_thread();
	if (rc < 0)
		close_all();
	running = rc == 0;
	return rc;
}

void tw_supervisor_hold(void)
{
	pthread_mutex_lock(&lock);
}

void tw_supervisor_release(void)
{
	pthread_mutex_unlock(&lock);
}

/* A copy of the blob that nobody can change. */
static int seal(const char *blob, size_t len)
{
	int fd = memfd_create("tideway-function", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t at = 0;

	while (fd >= 0 && at < len) {
		ssize_t n = write(fd, blob + at, len - at);

		if (n <= 0) {
			close(fd);
			return -1;
		}
		at += n;
	}
	if (fd >= 0)
		fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	return fd;
}

static int fill(struct supervised *w, const struct tw_worker_spec *spec)
{
	uint32_t index = w->index;

	*w = (struct supervised){ .index = index,
		                  .service = spec->service,
		                  .function = spec->function,
		                  .memory_mb = spec->memory_mb ? spec->memory_mb : MEMORY_MB,
		                  .cpu_percent = spec->cpu_percent,
		                  .stuck_ms = spec->stuck_ms ? spec->stuck_ms : STUCK_MS,
		                  .cpu = spec->cpu,
		                  .blob_len = spec->blob_len,
		                  .member = -1,
		                  .pidfd = -1,
		                  .sock = -1,
		                  .due = UINT64_MAX };
	w->uid = spec->uid ? spec->uid
	                   : TW_WORKER_UID + (getpid() % UID_ENGINES) * TW_WORKERS_MAX + index;
	w->blob = seal(spec->blob, spec->blob_len);
	if (w->blob < 0)
		return tw_fail(errno, "no memory for a function of %zu bytes: %s", spec->blob_len,
		               strerror(errno));
	for (uint32_t i = 0; i < spec->n_fds; i++) {
		int fd = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, 3);

		if (fd < 0) {
			int rc = tw_fail(errno, "descriptor %d of a function: %s", spec->fds[i],
			                 strerror(errno));

			life_free(w);
			return rc;
		}
		w->fds[w->n_fds++] = fd;
	}
	w->used = true;
	return 0;
}

static int add(const struct tw_worker_spec *spec)
{
	uint32_t i = 0;
	int rc;

	if (spec->service >= TW_SERVICES_MAX || !services[spec->service].fabric)
		return tw_fail(ENOENT, "there is no service %u with workers", spec->service);
	if (spec->function >= services[spec->service].spec.n_functions)
		return tw_fail(ENOENT, "service %s has no function %u",
		               services[spec->service].spec.name, spec->function);
	if (spec->n_fds > TW_WORKER_FDS)
		return tw_fail(E2BIG, "a function has %u descriptors, more than %d", spec->n_fds,
		               TW_WORKER_FDS);
	rc = start();
	if (rc < 0)
		return rc;
	while (i < TW_WORKERS_MAX && workers[i].used)
		i++;
	if (i == TW_WORKERS_MAX)
		return tw_fail(ENOSPC, "there are %d workers already", TW_WORKERS_MAX);
	workers[i].index = i;
	rc = fill(&workers[i], spec);
	if (rc < 0)
		return rc;
	life_start(&workers[i]);
	return i;
}

int tw_worker_add(const struct tw_worker_spec *spec)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = add(spec);
	pthread_mutex_unlock(&lock);
	kick();
	return rc;
}

int tw_worker_remove(uint32_t worker, uint32_t drain_ms)
{
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (worker >= TW_WORKERS_MAX || !workers[worker].used || workers[worker].removed)
		rc = tw_fail(ENOENT, "there is no worker %u", worker);
	else
		life_leave(&workers[worker], drain_ms);
	pthread_mutex_unlock(&lock);
	kick();
	return rc;
}

int tw_worker_move(uint32_t worker, int32_t cpu)
{
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (worker >= TW_WORKERS_MAX || !workers[worker].used || workers[worker].removed) {
		rc = tw_fail(ENOENT, "there is no worker %u", worker);
	} else if (cpu < 0 || cpu >= CPU_SETSIZE) {
		rc = tw_fail(EINVAL, "worker %u cannot run on CPU %d", worker, cpu);
	} else {
		workers[worker].cpu = cpu;
		if (workers[worker].spawn_id)
			call_move(&workers[worker]);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

static void info_of(const struct supervised *w, struct tw_worker_info *info)
{
	struct tw_member_stats stats;

	*info = (struct tw_worker_info){ .service = w->service,
		                         .function = w->function,
		                         .instance = w->instance,
		                         .member = w->member < 0 ? 0 : w->member,
		                         .state = w->state,
		                         .pid = w->pid,
		                         .uid = w->uid,
		                         .cpu = w->cpu,
		                         .restarts = w->restarts,
		                         .since_ns = w->since };
	memcpy(info->last, w->last, sizeof(info->last));
	life_sum(w, &info->board, &stats);
	info->cpu_ns = w->member < 0 ? 0 : tw_supervisor_cpu(w->service, w->member);
	info->queued = stats.queued > 0 ? stats.queued : 0;
	info->in = stats.in;
	info->out = stats.out;
	info->denied = stats.denied;
	info->full = stats.full;
}

int tw_worker_info(uint32_t worker, struct tw_worker_info *info)
{
	int rc = -ENOENT;

	pthread_mutex_lock(&lock);
	if (worker < TW_WORKERS_MAX && workers[worker].used) {
		info_of(&workers[worker], info);
		rc = 0;
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

/* Waits until no worker of a service is left; -1: of none. */
static void end_workers(int64_t service)
{
	bool any = true;

	while (any) {
		any = false;
		pthread_mutex_lock(&lock);
		for (uint32_t i = 0; i < TW_WORKERS_MAX; i++) {
			struct supervised *w = &workers[i];

			if (!w->used || (service >= 0 && w->service != service))
				continue;
			if (!w->removed)
				life_leave(w, 0);
			any |= w->used;
		}
		pthread_mutex_unlock(&lock);
		kick();
		if (any)
			usleep(1000);
	}
}

int tw_supervisor_service(uint32_t index, const struct tw_service_spec *spec,
                          struct tw_fabric *fabric, struct service *service)
{
	if (index >= TW_SERVICES_MAX)
		return tw_fail(EINVAL, "service %u is above %d", index, TW_SERVICES_MAX - 1);
	if (!fabric && running)
		end_workers(index);
	pthread_mutex_lock(&lock);
	if (spec)
		services[index].spec = *spec;
	services[index].fabric = fabric;
	services[index].service = service;
	pthread_mutex_unlock(&lock);
	return 0;
}

void tw_supervisor_stop(void)
{
	if (!running)
		return;
	end_workers(-1);
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_mutex_unlock(&lock);
	kick();
	pthread_join(thread, NULL);
	close_all();
	running = false;
}
