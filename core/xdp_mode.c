/* SPDX-License-Identifier: BSD-3-Clause */
/* xdp_mode.c - asks the kernel which XDP mode an AF_XDP port really got. */
#include "port.h"

#include <dirent.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <bpf/libbpf.h>

/* The driver keeps its AF_XDP socket to itself, so look for it among our own descriptors.
 * Returns 1 zero-copy, 0 copy, -1 not found. */
static int zero_copy(unsigned ifindex)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int found = -1;

	if (!dir)
		return -1;
	while (found < 0 && (entry = readdir(dir))) {
		struct sockaddr_xdp addr;
		struct xdp_options opts;
		socklen_t len = sizeof(addr);
		int fd = atoi(entry->d_name);

		if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 ||
		    addr.sxdp_family != AF_XDP || addr.sxdp_ifindex != ifindex)
			continue;
		len = sizeof(opts);
		if (getsockopt(fd, SOL_XDP, XDP_OPTIONS, &opts, &len) == 0)
			found = !!(opts.flags & XDP_OPTIONS_ZEROCOPY);
	}
	closedir(dir);
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
	zc = zero_copy(ifindex);
	copy = zc < 0 ? "copy mode unknown" : zc ? "zero-copy" : "copy";
	snprintf(text, size, "%s, %s", where, copy);
}
