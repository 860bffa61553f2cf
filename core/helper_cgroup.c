/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_cgroup.c - in the helper process: limits of CPU time and memory for workers, by cgroups of
 * version 2 (Linux Documentation/admin-guide/cgroup-v2.rst). */
#include "error.h"
#include "helper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CPU_PERIOD_US 100000

static int file_of(const char *dir, const char *name, int flags)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return open(path, flags | O_CLOEXEC);
}

static int put(const char *dir, const char *name, const char *text)
{
	int fd = file_of(dir, name, O_WRONLY), rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

/* Is this one of the words in the file? */
static bool lists(const char *dir, const char *name, const char *word)
{
	char text[256], *rest = text, *each;
	int fd = file_of(dir, name, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	while ((each = strsep(&rest, " \n")))
		if (strcmp(each, word) == 0)
			return true;
	return false;
}

/* Where version 2 is mounted. */
static bool mount_point(char *dir, size_t size)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	const struct mntent *entry;
	bool found = false;

	while (mounts && !found && (entry = getmntent(mounts)))
		if (strcmp(entry->mnt_type, "cgroup2") == 0)
			found = snprintf(dir, size, "%s", entry->mnt_dir) < (int)size;
	if (mounts)
		endmntent(mounts);
	return found;
}

/* The helper's own group, below the mount: "" for the root. */
static void own_group(char *path, size_t size)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t room = 0;

	*path = '\0';
	while (file && getline(&line, &room, file) > 0)
		if (strncmp(line, "0::/", 4) == 0)
			snprintf(path, size, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
	free(line);
	if (file)
		fclose(file);
	if (strcmp(path, "/") == 0)
		*path = '\0';
}

/* A group that processes are in cannot hand a controller on to groups inside, the root excepted.
 * So the next one above that can: a slice, mostly, when the engine was started from a shell or as a
 * service. */
static bool find_parent(char *dir, size_t size)
{
	char own[PATH_MAX / 2];
	size_t root;

	if (!mount_point(dir, size))
		return false;
	root = strlen(dir);
	own_group(own, sizeof(own));
	if (snprintf(dir + root, size - root, "%s", own) >= (int)(size - root))
		return false;
	for (;;) {
		if (lists(dir, "cgroup.controllers", "cpu") &&
		    (lists(dir, "cgroup.subtree_control", "cpu") ||
		     put(dir, "cgroup.subtree_control", "+cpu") == 0)) {
			put(dir, "cgroup.subtree_control", "+memory");
			return true;
		}
		if (strlen(dir) <= root)
			return false;
		*strrchr(dir, '/') = '\0';
	}
}

/* Groups of helpers that were killed: nothing runs in them. */
static void sweep(const char *parent)
{
	DIR *dir = opendir(parent);
	const struct dirent *entry;
	int pid;

	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "tideway-%d-", &pid) == 1 && kill(pid, 0) < 0 &&
		    errno == ESRCH)
			unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	if (dir)
		closedir(dir);
}

static int fill(const char *group, pid_t pid, uint32_t cpu_percent, uint64_t memory)
{
	char text[64];
	int rc;

	snprintf(text, sizeof(text), "%u %d", cpu_percent * (CPU_PERIOD_US / 100), CPU_PERIOD_US);
	rc = put(group, "cpu.max", text);
	if (rc < 0)
		return tw_fail(-rc, "no limit of CPU time: %s/cpu.max: %s", group, strerror(-rc));
	snprintf(text, sizeof(text), "%llu", (unsigned long long)memory);
	if (memory)
		put(group, "memory.max", text);
	snprintf(text, sizeof(text), "%d", pid);
	rc = put(group, "cgroup.procs", text);
	if (rc < 0)
		return tw_fail(-rc, "no limit of CPU time: process %d cannot be moved into %s: %s",
		               pid, group, strerror(-rc));
	return 0;
}

int tw_cgroup_begin(char *group, size_t size, pid_t pid, uint32_t cpu_percent, uint64_t memory)
{
	char parent[PATH_MAX];
	int rc;

	*group = '\0';
	if (!find_parent(parent, sizeof(parent)))
		return tw_fail(ENOTSUP, "no limit of CPU time: this machine offers no cgroup of "
		                        "version 2 with the controller cpu");
	sweep(parent);
	if (snprintf(group, size, "%s/tideway-%d-worker", parent, pid) >= (int)size) {
		*group = '\0';
		return tw_fail(ENAMETOOLONG, "no limit of CPU time: %s is too long a path", parent);
	}
	if (mkdir(group, 0755) < 0) {
		rc = tw_fail(errno, "no limit of CPU time: %s cannot be made: %s", group,
		             strerror(errno));
		*group = '\0';
		return rc;
	}
	rc = fill(group, pid, cpu_percent, memory);
	if (rc < 0)
		tw_cgroup_end(group);
	return rc;
}

void tw_cgroup_end(char *group)
{
	if (*group)
		rmdir(group);
	*group = '\0';
}
