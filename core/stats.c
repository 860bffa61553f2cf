/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.c - the shared-memory counters of this instance: a file that `top` maps. */
#include "stats.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>

static const char *const builtin_reasons[TW_R_BUILTIN] = {
	[TW_R_TX_FULL] = "tx_full",           [TW_R_RING_FULL] = "ring_full",
	[TW_R_NO_SINK] = "no_sink",           [TW_R_NO_KERNEL] = "no_kernel_port",
	[TW_R_BAD_PORT] = "bad_port",         [TW_R_BAD_VERDICT] = "bad_verdict",
	[TW_R_NF_FAULT] = "nf_fault",         [TW_R_NF_QUARANTINED] = "nf_quarantined",
	[TW_R_VM_LOST] = "vm_lost",           [TW_R_NO_PUNT] = "no_punt",
	[TW_R_NO_BUFFER] = "no_buffer",       [TW_R_HOLD_FULL] = "hold_full",
	[TW_R_HOLD_TIMEOUT] = "hold_timeout", [TW_R_TOO_LONG] = "frame_too_long",
	[TW_R_STOPPED] = "engine_stopped",    [TW_R_NF_REMOVED] = "nf_removed",
};

static struct tw_stats *stats;
static char stats_path[256];
static pthread_mutex_t reason_lock = PTHREAD_MUTEX_INITIALIZER;

/*
 * Map the counters: a file when path is given, private memory otherwise. The header that the file
 * may have stays while the rest becomes zero: at no time is it a file that says nothing of its
 * owner.
 */
static struct tw_stats *map(const char *path)
{
	int fd = -1, flags = MAP_SHARED | MAP_ANONYMOUS;
	void *mem;

	if (path) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0 ||
		    ftruncate(fd, offsetof(struct tw_stats, pid) + sizeof(stats->pid)) < 0 ||
		    ftruncate(fd, sizeof(*stats)) < 0) {
			int err = errno;

			if (fd >= 0)
				close(fd);
			tw_fail(err, "cannot make the counter file %s: %s", path, strerror(err));
			return NULL;
		}
		flags = MAP_SHARED;
	}
	mem = mmap(NULL, sizeof(*stats), PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
	if (fd >= 0)
		close(fd);
	if (mem == MAP_FAILED) {
		tw_fail(errno, "cannot map %zu bytes of counters: %s", sizeof(*stats),
		        strerror(errno));
		return NULL;
	}
	return mem;
}

static int stats_init(const char *path, const char *instance, const char *script)
{
	struct timespec ts;

	stats = map(path);
	if (!stats)
		return -ENOMEM;
	memcpy(stats->magic, "tideway", 8);
	stats->abi = TW_ABI_VERSION;
	stats->pid = getpid();
	stats->tsc_hz = tw_tsc_hz();
	clock_gettime(CLOCK_REALTIME, &ts);
	stats->start_ns = ts.tv_sec * 1000000000ull + ts.tv_nsec;
	snprintf(stats->instance, sizeof(stats->instance), "%s", instance);
	snprintf(stats->script, sizeof(stats->script), "%s", script);
	for (int i = 0; i < TW_LCORES_MAX; i++)
		stats->lcore[i].cpu = -1;
	for (int i = 0; i < TW_R_BUILTIN; i++)
		strncpy(stats->reason[i], builtin_reasons[i], TW_NAME_LEN - 1);
	stats->reasons = TW_R_BUILTIN;
	return 0;
}

int tw_stats_open(const char *dir, const char *instance, const char *script)
{
	tw_stats_close();
	if (!dir)
		return stats_init(NULL, instance, script);
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return tw_fail(errno, "cannot make the run directory %s: %s", dir, strerror(errno));
	snprintf(stats_path, sizeof(stats_path), "%s/stats", dir);
	return stats_init(stats_path, instance, script);
}

void tw_stats_close(void)
{
	char *slash;

	if (!stats)
		return;
	munmap(stats, sizeof(*stats));
	stats = NULL;
	if (!stats_path[0])
		return;
	unlink(stats_path);
	slash = strrchr(stats_path, '/');
	*slash = '\0';
	rmdir(stats_path);
	stats_path[0] = '\0';
}

struct tw_stats *tw_stats(void)
{
	if (!stats && stats_init(NULL, "", "") < 0)
		return NULL;
	return stats;
}

int tw_reason_id(const char *name)
{
	struct tw_stats *s = tw_stats();
	int id;

	pthread_mutex_lock(&reason_lock);
	for (id = 0; id < (int)s->reasons; id++)
		if (!strncmp(s->reason[id], name, TW_NAME_LEN - 1))
			goto out;
	if (id == TW_REASONS_MAX) {
		id = tw_fail(ENOSPC,
		             "drop reason \"%s\": all %d reasons are in use; use fewer names", name,
		             TW_REASONS_MAX);
		goto out;
	}
	snprintf(s->reason[id], TW_NAME_LEN, "%s", name);
	s->reasons = id + 1;
out:
	pthread_mutex_unlock(&reason_lock);
	return id;
}

static _Atomic uint64_t clock_offset;

uint64_t tw_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec +
	       atomic_load_explicit(&clock_offset, memory_order_relaxed);
}

void tw_clock_advance(uint64_t ns)
{
	atomic_fetch_add(&clock_offset, ns);
}

uint64_t tw_tsc(void)
{
	return rte_rdtsc();
}

/* Before EAL runs, rte_get_tsc_hz() is 0: measure once against the monotonic clock. */
uint64_t tw_tsc_hz(void)
{
	static uint64_t hz;
	uint64_t t0, c0;

	if (hz)
		return hz;
	t0 = tw_now();
	c0 = rte_rdtsc();
	while (tw_now() - t0 < 20000000)
		;
	hz = (rte_rdtsc() - c0) * 1000000000ull / (tw_now() - t0);
	return hz;
}
