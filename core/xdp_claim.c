/* SPDX-License-Identifier: BSD-3-Clause */
/* xdp_claim.c - may an AF_XDP port take this interface? Never from a program that is in use.
 *
 * DPDK's driver removes whatever XDP program is attached when a port closes, also one whose opening
 * has failed, and so would cut off the instance that holds the interface. Therefore we look first.
 */
#include "bpf.h"
#include "error.h"
#include "helper.h"
#include "port.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

/* What libxdp attaches for AF_XDP sockets; outlives a process that was killed. */
#define SOCKET_PROGRAM "xsk_def_prog"

static void program_name(__u32 id, char *name, size_t size)
{
	struct bpf_prog_info info = { 0 };
	__u32 len = sizeof(info);
	int fd = bpf_prog_get_fd_by_id(id);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		info.name[0] = '\0';
	snprintf(name, size, "%s", info.name);
	if (fd >= 0)
		close(fd);
}

/* Does a descriptor of this process stand for the program? */
static bool holds(const char *pid, __u32 id)
{
	char path[300], line[128];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		unsigned value;
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, entry->d_name);
		file = fopen(path, "re");
		while (file && !found && fgets(line, sizeof(line), file))
			found = sscanf(line, "prog_id: %u", &value) == 1 && value == id;
		if (file)
			fclose(file);
	}
	closedir(dir);
	return found;
}

int tw_bpf_holder(uint32_t id)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int pid = 0;

	if (!dir)
		return 0;
	while (!pid && (entry = readdir(dir)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && holds(entry->d_name, id))
			pid = atoi(entry->d_name);
	closedir(dir);
	return pid;
}

int tw_xdp_claim(const char *ifname)
{
	char name[BPF_OBJ_NAME_LEN];
	__u32 id = 0;
	int pid;

	if (bpf_xdp_query_id(if_nametoindex(ifname), 0, &id) < 0 || !id)
		return 0;
	program_name(id, name, sizeof(name));
	/* Without CAP_SYS_PTRACE other processes' descriptors cannot be seen. */
	pid = tw_privileges_dropped() ? tw_helper_holder(id) : tw_bpf_holder(id);
	if (pid < 0)
		return tw_fail(
			EBUSY,
			"interface %s has XDP program %u (%s), and who holds it is not known: %s; "
			"start the engine again",
			ifname, id, name, tw_error());
	if (pid)
		return tw_fail(
			EBUSY,
			"interface %s is in use: process %d runs XDP program %u (%s) on it; stop that "
			"process first, or take another interface",
			ifname, pid, id, name);
	if (strcmp(name, SOCKET_PROGRAM))
		return tw_fail(
			EBUSY,
			"interface %s has XDP program %u (%s), which is not ours; if it may go: ip link "
			"set dev %s xdp off",
			ifname, id, name, ifname);
	return 0;
}
