/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_pin.c - names under bpffs that keep maps, programs and links after the process. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include <bpf/bpf.h>

int tw_bpf_open_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd >= 0 ? fd : tw_fail(errno, "%s: %s", path, strerror(errno));
}

#define HOLD_MS 2000

static bool mounted(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
}

/* Of two that mount at the same time, one would hide what the other one pins. Whoever else may open
 * the directory cannot hold us up for long. */
static int hold(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (int i = 0; fd >= 0 && i < HOLD_MS; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
			break;
		usleep(1000);
	}
	return fd;
}

int tw_bpf_mount(const char *path)
{
	int fd, rc = 0;

	if (mounted(path))
		return 0;
	fd = hold(path);
	if (!mounted(path)) {
		rc = 1;
		if (mount("bpf", path, "bpf", 0, "mode=0700") < 0)
			rc = tw_fail(errno,
			             "bpffs is not mounted at %s and cannot be: %s; as root: mount "
			             "-t bpf bpf %s",
			             path, strerror(errno), path);
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The directories of a path, those that are missing. */
static int make_directories(const char *path)
{
	char part[PATH_MAX];

	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return tw_fail(errno, "%s cannot be made: %s", part, strerror(errno));
	}
	return 0;
}

/* Others that unpin at the same time remove directories while they are empty: ours, too, before
 * there is something in it. */
#define PIN_TRIES 100

int tw_bpf_pin(int object, const char *path)
{
	int rc = -ENOENT;

	for (int i = 0; rc == -ENOENT && i < PIN_TRIES; i++) {
		rc = make_directories(path);
		if (rc == 0)
			rc = bpf_obj_pin(object, path);
		else if (rc != -ENOENT)
			return rc;
	}
	return rc < 0 ? tw_fail(-rc, "%s cannot be pinned: %s", path, strerror(-rc)) : 0;
}

int tw_bpf_unpin(const char *path)
{
	char part[PATH_MAX], *slash;

	if (unlink(path) < 0 && errno != ENOENT)
		return tw_fail(errno, "%s stays: %s", path, strerror(errno));
	/* Ends at the first one that is not empty, at bpffs itself at the latest. */
	snprintf(part, sizeof(part), "%s", path);
	for (slash = strrchr(part, '/'); slash && slash != part; slash = strrchr(part, '/')) {
		*slash = '\0';
		if (rmdir(part) < 0)
			break;
	}
	return 0;
}

int tw_bpf_open(const char *path)
{
	int fd = bpf_obj_get(path);

	if (fd >= 0 || fd == -ENOENT)
		return fd;
	return tw_fail(-fd, "%s: %s", path, strerror(-fd));
}
