/* SPDX-License-Identifier: BSD-3-Clause */
/* xdp_mode.c - asks the kernel which XDP mode an AF_XDP port really got. */
#include "port.h"

#include <dirent.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <bpf/libbpf.h>

#define FDS_MAX 4096

/* The driver keeps its AF_XDP sockets to itself and the kernel does not tell their interface, so
 * they are found among our descriptors: those that were not there at the last call are the port's
 * that has just started. Returns 1 zero-copy, 0 copy, -1 not found. */
static int zero_copy(void)
{
	static bool seen[FDS_MAX];
	DIR *dir = opendir("/proc/self/fd");
	bool now[FDS_MAX] = { false };
	struct dirent *entry;
	int found = -1;

	if (!dir)
		return -1;
	while ((entry = readdir(dir))) {
		struct xdp_options opts;
		socklen_t len = sizeof(opts);
		int fd = atoi(entry->d_name);

		if (fd >= FDS_MAX || getsockopt(fd, SOL_XDP, XDP_OPTIONS, &opts, &len) < 0)
			continue;
		now[fd] = true;
		if (!seen[fd])
			found = !!(opts.flags & XDP_OPTIONS_ZEROCOPY);
	}
	closedir(dir);
	memcpy(seen, now, sizeof(seen));
	return found;
}

void tw_xdp_mode(const char *ifname, char *text, size_t size)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, query);
	unsigned ifindex = if_nametoindex(ifname);
	const char *where = "XDP mode unknown", *copy;
	int zc;

	if (bpf_xdp_query(ifindex, 0, &query) == 0) {
		if (query.attach_mode == XDP_ATTACHED_DRV)
			where = "native XDP";
		else if (query.attach_mode == XDP_ATTACHED_SKB)
			where = "generic XDP";
		else if (query.attach_mode == XDP_ATTACHED_HW)
			where = "offloaded XDP";
	}
	zc = zero_copy();
	copy = zc < 0 ? "copy mode unknown" : zc ? "zero-copy" : "copy";
	snprintf(text, size, "%s, %s", where, copy);
}
