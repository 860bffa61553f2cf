/* SPDX-License-Identifier: BSD-3-Clause */
/* rights.c - what a worker gives up: its user, capabilities, resources, system calls. */
#include "abi.h"
#include "error.h"
#include "privilege.h"
#include "worker/worker.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define OTHER_MEMORY (128ull << 20) /* machine code, the C library, stacks */
#define DESCRIPTORS 128

/* An id of its own; where ids are few (a user namespace), that of nobody. */
static int become(uint32_t uid)
{
	const uid_t ids[] = { uid, TW_WORKER_NOBODY };

	if (!uid || geteuid() != 0)
		return 0;
	for (unsigned i = 0; i < 2; i++)
		if (setgroups(0, NULL) == 0 && setresgid(ids[i], ids[i], ids[i]) == 0 &&
		    setresuid(ids[i], ids[i], ids[i]) == 0)
			return 0;
	return tw_fail(errno, "a worker cannot become user %u: %s", uid, strerror(errno));
}

int worker_become(uint32_t uid, int parent)
{
	int rc = become(uid);

	if (rc == 0)
		rc = tw_capabilities_keep(0);
	/* Another user id has undone this one. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 0);
	if (getppid() != parent)
		return -ESRCH;
	return rc;
}

static void limit(int resource, rlim_t most)
{
	struct rlimit r = { most, most };

	setrlimit(resource, &r);
}

/* What the blob's descriptors are the size of: they will be mapped. */
static uint64_t size_of(const int *fds, uint32_t count)
{
	uint64_t size = 0;
	struct stat st;

	for (uint32_t i = 0; i < count; i++)
		if (fstat(fds[i], &st) == 0)
			size += st.st_size;
	return size;
}

/* Memory: what is mapped now, the heap, what came along, and some. */
int worker_limits(const struct worker *worker)
{
	const struct tw_worker *shared = &worker->shared;
	uint64_t more = worker->heap_limit + size_of(shared->fds, shared->n_fds) + OTHER_MEMORY;
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long long pages = 0;
	int found = file ? fscanf(file, "%llu", &pages) : 0;

	if (file)
		fclose(file);
	if (found != 1)
		return tw_fail(EIO, "a worker's memory cannot be limited: /proc/self/statm cannot "
		                    "be read");
	limit(RLIMIT_AS, pages * sysconf(_SC_PAGESIZE) + more);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NPROC, 0);
	limit(RLIMIT_NOFILE, DESCRIPTORS);
	limit(RLIMIT_FSIZE, 0);
	limit(RLIMIT_MEMLOCK, 0);
	return 0;
}
