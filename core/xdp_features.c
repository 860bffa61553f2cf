/* SPDX-License-Identifier: BSD-3-Clause */
/* xdp_features.c - asks the kernel what a network device can do with XDP (generic netlink). */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>

/* Of linux/netdev.h, which kernels have since 6.3. */
enum { NETDEV_CMD_DEV_GET = 1, NETDEV_A_DEV_IFINDEX = 1, NETDEV_A_DEV_XDP_FEATURES = 3 };

struct message {
	struct nlmsghdr header;
	struct genlmsghdr command;
	char attributes[4096];
};

static void put(struct message *m, int type, const void *data, size_t size)
{
	struct nlattr *a = (void *)((char *)m + NLMSG_ALIGN(m->header.nlmsg_len));

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + size;
	memcpy((char *)a + NLA_HDRLEN, data, size);
	m->header.nlmsg_len = NLMSG_ALIGN(m->header.nlmsg_len) + NLA_ALIGN(a->nla_len);
}

static void start(struct message *m, int family, int command)
{
	memset(m, 0, sizeof(*m));
	m->header.nlmsg_type = family;
	m->header.nlmsg_flags = NLM_F_REQUEST;
	m->command.cmd = command;
	m->command.version = 1;
	m->header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
}

/* Sends a request; its answer takes its place. */
static int ask(int fd, struct message *m)
{
	ssize_t n = send(fd, m, m->header.nlmsg_len, 0);

	if (n < 0)
		return -errno;
	n = recv(fd, m, sizeof(*m), 0);
	if (n < 0)
		return -errno;
	if ((size_t)n < NLMSG_LENGTH(GENL_HDRLEN) || m->header.nlmsg_len > (size_t)n)
		return -EPROTO;
	if (m->header.nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(&m->header))->error;
	return 0;
}

/* Copies an attribute of an answer; -ENODATA when it has none of this type and size. */
static int get(const struct message *m, int type, void *data, size_t size)
{
	const char *at = m->attributes, *end = (const char *)m + m->header.nlmsg_len;

	while (at + NLA_HDRLEN <= end) {
		const struct nlattr *a = (const void *)at;

		if (a->nla_len < NLA_HDRLEN || at + a->nla_len > end)
			break;
		if ((a->nla_type & NLA_TYPE_MASK) == type && a->nla_len == NLA_HDRLEN + size) {
			memcpy(data, at + NLA_HDRLEN, size);
			return 0;
		}
		at += NLA_ALIGN(a->nla_len);
	}
	return -ENODATA;
}

int tw_xdp_features(int ifindex, uint64_t *features)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), err;
	uint32_t index = ifindex;
	uint16_t family = 0;
	struct message m;

	if (fd < 0)
		return tw_fail(errno, "no netlink socket: %s", strerror(errno));
	start(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	put(&m, CTRL_ATTR_FAMILY_NAME, "netdev", sizeof("netdev"));
	err = ask(fd, &m);
	if (!err)
		err = get(&m, CTRL_ATTR_FAMILY_ID, &family, sizeof(family));
	if (err)
		goto out;
	start(&m, family, NETDEV_CMD_DEV_GET);
	put(&m, NETDEV_A_DEV_IFINDEX, &index, sizeof(index));
	err = ask(fd, &m);
	if (!err)
		err = get(&m, NETDEV_A_DEV_XDP_FEATURES, features, sizeof(*features));
out:
	close(fd);
	return err ? tw_fail(-err, "the kernel does not tell the XDP features of interface %d: %s",
	                     ifindex, strerror(-err))
	           : 0;
}
