/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor_process.c - what gate threads read of the processes of instances, without the
 * supervisor's lock. */
#include "supervisor_worker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int pids[TW_SERVICES_MAX][TW_MEMBERS_MAX];
static _Atomic uint32_t patience[TW_SERVICES_MAX][TW_MEMBERS_MAX];

void supervisor_pid_is(const struct supervised *w, int pid)
{
	if (w->member < 0)
		return;
	patience[w->service][w->member] = w->stuck_ms;
	pids[w->service][w->member] = pid;
}

/* 0: there is none. */
static int pid_of(uint32_t service, uint32_t member)
{
	return service < TW_SERVICES_MAX && member < TW_MEMBERS_MAX ? pids[service][member] : 0;
}

uint64_t tw_supervisor_cpu(uint32_t service, uint32_t member)
{
	int pid = pid_of(service, member);
	struct timespec ts;
	clockid_t clock;

	if (!pid || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
		return 0;
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

bool tw_supervisor_runnable(uint32_t service, uint32_t member)
{
	int pid = pid_of(service, member);
	char path[32], text[256], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	end = strrchr(text, ')'); /* proc(5): pid (name) state ... */
	return end && end[1] == ' ' && end[2] == 'R';
}

uint32_t tw_supervisor_patience(uint32_t service, uint32_t member)
{
	return service < TW_SERVICES_MAX && member < TW_MEMBERS_MAX ? patience[service][member] : 0;
}
