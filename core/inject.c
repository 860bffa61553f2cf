/* SPDX-License-Identifier: BSD-3-Clause */
/* inject.c - sends frames out of interfaces that are the kernel's. */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>

int tw_inject_open(bool direct)
{
	/* Protocol 0: it receives nothing. */
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0)
		return tw_fail(errno, "no packet socket: %s; run as root, or with CAP_NET_RAW",
		               strerror(errno));
	if (direct && setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) < 0) {
		int err = errno;

		close(fd);
		return tw_fail(err, "PACKET_QDISC_BYPASS: %s", strerror(err));
	}
	return fd;
}

int tw_inject(int socket, int ifindex, const void *frame, uint32_t len)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = ifindex };
	uint16_t proto = 0;

	if (len < ETH_HLEN)
		return tw_fail(EINVAL, "a frame of %u bytes is no Ethernet frame", len);
	memcpy(&proto, (const char *)frame + 2 * ETH_ALEN, sizeof(proto));
	to.sll_protocol = proto;
	if (sendto(socket, frame, len, 0, (const struct sockaddr *)&to, sizeof(to)) < 0) {
		int err = errno;
		char name[IF_NAMESIZE] = "?";

		if_indextoname(ifindex, name);
		return tw_fail(err, "%u bytes out of interface %s: %s", len, name, strerror(err));
	}
	return 0;
}
