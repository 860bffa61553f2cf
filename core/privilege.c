/* SPDX-License-Identifier: BSD-3-Clause */
/* privilege.c - what a running engine gives up, in all its threads: capabilities, new ones, and the
 * system calls that it does not make (calls.c). */
#include "privilege.h"
#include "abi.h"
#include "error.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

#define THREADS_MS 20000

/* ---- capabilities: the kernel keeps them by thread ---- */

struct capabilities {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
};

static int capabilities_get(struct capabilities *c)
{
	memset(c, 0, sizeof(*c));
	c->header.version = _LINUX_CAPABILITY_VERSION_3;
	return syscall(SYS_capget, &c->header, c->data) < 0 ? -errno : 0;
}

/* Safe in a signal handler: system calls only. */
static int capabilities_keep(uint64_t keep)
{
	struct capabilities c;
	int rc = capabilities_get(&c);

	if (rc < 0)
		return rc;
	/* Not those either that running a program as root would bring back. Fails without
	 * CAP_SETPCAP, of which only what is not root is without. */
	for (int i = 0; i < 64; i++)
		if (!(keep >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0 && errno == EINVAL)
			break;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		c.data[i].permitted &= keep >> 32 * i;
		c.data[i].effective = c.data[i].permitted;
		c.data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &c.header, c.data) < 0 ? -errno : 0;
}

int tw_capabilities_keep(uint64_t keep)
{
	int rc = capabilities_keep(keep);

	if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	return rc < 0 ? tw_fail(-rc, "capabilities cannot be given up: %s", strerror(-rc)) : 0;
}

uint64_t tw_privileges_capabilities(void)
{
	struct capabilities c;

	if (capabilities_get(&c) < 0)
		return 0;
	return c.data[0].permitted | (uint64_t)c.data[1].permitted << 32;
}

/* ---- every thread ---- */

static _Atomic uint64_t wanted;
static _Atomic int failed; /* -errno of the last thread that could not */

static void on_request(int sig)
{
	uint64_t keep = atomic_load(&wanted);
	int saved = errno, rc = 0;

	(void)sig;
	/* Asked twice: the filter may be there already, which refuses it. */
	if (tw_privileges_capabilities() & ~keep)
		rc = capabilities_keep(keep);
	if (rc < 0)
		atomic_store(&failed, rc);
	errno = saved;
}

/* What a thread still has of the capabilities that are to go; 0 too when it has ended. */
static uint64_t excess(const char *tid, uint64_t keep)
{
	char path[64], line[128];
	uint64_t permitted = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%.16s/status", tid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapPrm: %lx", &permitted) == 1)
			break;
	if (file)
		fclose(file);
	return permitted & ~keep;
}

/* Asks every thread that has too much; how many those are. */
static int ask_threads(uint64_t keep)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int left = 0;

	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !excess(entry->d_name, keep))
			continue;
		syscall(SYS_tgkill, getpid(), atoi(entry->d_name), TW_PRIVILEGE_SIGNAL);
		left++;
	}
	closedir(dir);
	return left;
}

static int threads_keep(uint64_t keep)
{
	struct sigaction sa = { .sa_handler = on_request, .sa_flags = SA_RESTART | SA_ONSTACK };
	uint64_t until = tw_now() + THREADS_MS * 1000000ull;
	int left;

	atomic_store(&wanted, keep);
	atomic_store(&failed, 0);
	sigaction(TW_PRIVILEGE_SIGNAL, &sa, NULL);
	/* A thread that one of them has made meanwhile is found in the next round. */
	while ((left = ask_threads(keep)) > 0 && !atomic_load(&failed) && tw_now() < until)
		usleep(1000);
	if (atomic_load(&failed))
		left = atomic_load(&failed);
	if (left < 0)
		return tw_fail(-left, "threads cannot give up capabilities: %s", strerror(-left));
	return left ? tw_fail(EAGAIN, "%d threads do not give up their capabilities", left) : 0;
}

/* ---- the engine ---- */

static bool dropped;

int tw_privileges_drop(uint64_t capabilities, uint32_t calls)
{
	int rc;

	if (dropped)
		return tw_fail(EALREADY, "rights have been dropped before");
	rc = threads_keep(capabilities);
	if (rc == 0)
		rc = tw_capabilities_keep(capabilities);
	if (rc == 0)
		rc = tw_calls_of_engine(calls);
	dropped = rc == 0;
	return rc;
}

bool tw_privileges_dropped(void)
{
	return dropped;
}
