/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_netlink.c - one request to the kernel's routing socket, and routes that run a program. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/lwtunnel.h>
#include <linux/rtnetlink.h>

#define ANSWER_SIZE 32768

/* Reads answers until the last; 0 or -errno of the kernel. */
static int answers(int fd, char *buffer, bool dump,
                   void (*each)(const struct nlmsghdr *message, void *context), void *context)
{
	for (;;) {
		int left = recv(fd, buffer, ANSWER_SIZE, 0);

		if (left < 0)
			return -errno;
		for (struct nlmsghdr *m = (void *)buffer; NLMSG_OK(m, (unsigned)left);
		     m = NLMSG_NEXT(m, left)) {
			if (m->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(m))->error;
			if (m->nlmsg_type == NLMSG_DONE)
				return 0;
			if (each)
				each(m, context);
		}
		if (!dump && !left)
			return 0;
	}
}

int tw_bpf_netlink(struct nlmsghdr *request,
                   void (*each)(const struct nlmsghdr *message, void *context), void *context)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char *buffer = malloc(ANSWER_SIZE);
	bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
	int rc;

	if (fd < 0 || !buffer) {
		rc = fd < 0 ? -errno : -ENOMEM;
		goto out;
	}
	if (!dump)
		request->nlmsg_flags |= NLM_F_ACK;
	if (send(fd, request, request->nlmsg_len, 0) < 0)
		rc = -errno;
	else
		rc = answers(fd, buffer, dump, each, context);
out:
	free(buffer);
	if (fd >= 0)
		close(fd);
	return rc;
}

struct route_request {
	struct nlmsghdr header;
	struct rtmsg route;
	char attributes[512];
};

static struct rtattr *put(struct route_request *r, int type, const void *data, size_t size)
{
	struct rtattr *a = (void *)((char *)r + NLMSG_ALIGN(r->header.nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(a), data, size);
	r->header.nlmsg_len = NLMSG_ALIGN(r->header.nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

static void end(struct route_request *r, struct rtattr *nest)
{
	nest->rta_len = (char *)r + r->header.nlmsg_len - (char *)nest;
}

static void put_program(struct route_request *r, const struct tw_bpf_route *route, int program)
{
	uint16_t type = LWTUNNEL_ENCAP_BPF;
	uint32_t headroom = route->headroom;
	struct rtattr *encap = put(r, RTA_ENCAP | NLA_F_NESTED, NULL, 0);
	struct rtattr *hook = put(r, route->hook | NLA_F_NESTED, NULL, 0);
	uint32_t fd = program;

	put(r, LWT_BPF_PROG_FD, &fd, sizeof(fd));
	put(r, LWT_BPF_PROG_NAME, route->name, strlen(route->name) + 1);
	end(r, hook);
	if (headroom)
		put(r, LWT_BPF_XMIT_HEADROOM, &headroom, sizeof(headroom));
	end(r, encap);
	put(r, RTA_ENCAP_TYPE, &type, sizeof(type));
}

_Static_assert((int)TW_BPF_ROUTE_IN == (int)LWT_BPF_IN, "in");
_Static_assert((int)TW_BPF_ROUTE_OUT == (int)LWT_BPF_OUT, "out");
_Static_assert((int)TW_BPF_ROUTE_XMIT == (int)LWT_BPF_XMIT, "xmit");

static void describe(struct route_request *r, const struct tw_bpf_route *route)
{
	size_t size = route->family == 6 ? 16 : 4;
	uint32_t ifindex = route->ifindex, table = route->table, metric = route->metric;

	r->route.rtm_family = route->family == 6 ? AF_INET6 : AF_INET;
	r->route.rtm_dst_len = route->length;
	r->route.rtm_table = table < 256 ? table : RT_TABLE_UNSPEC;
	r->route.rtm_protocol = RTPROT_STATIC;
	r->route.rtm_scope = route->has_gateway || route->family == 6 ? RT_SCOPE_UNIVERSE
	                                                              : RT_SCOPE_LINK;
	r->route.rtm_type = RTN_UNICAST;
	put(r, RTA_DST, route->destination, size);
	put(r, RTA_TABLE, &table, sizeof(table));
	if (route->has_gateway)
		put(r, RTA_GATEWAY, route->gateway, size);
	if (ifindex)
		put(r, RTA_OIF, &ifindex, sizeof(ifindex));
	if (metric)
		put(r, RTA_PRIORITY, &metric, sizeof(metric));
}

int tw_bpf_route_attach(const struct tw_bpf_route *route, int program, bool replace)
{
	struct route_request r = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(r.route)),
		            .nlmsg_type = RTM_NEWROUTE,
		            .nlmsg_flags = NLM_F_REQUEST |
		                           (replace ? NLM_F_REPLACE : NLM_F_CREATE | NLM_F_EXCL) },
	};
	int rc;

	describe(&r, route);
	put_program(&r, route, program);
	rc = tw_bpf_netlink(&r.header, NULL, NULL);
	return rc < 0 ? tw_fail(-rc, "the kernel refuses the route: %s", strerror(-rc)) : 0;
}

int tw_bpf_route_detach(const struct tw_bpf_route *route)
{
	struct route_request r = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(r.route)),
		            .nlmsg_type = RTM_DELROUTE,
		            .nlmsg_flags = NLM_F_REQUEST },
	};
	int rc;

	describe(&r, route);
	rc = tw_bpf_netlink(&r.header, NULL, NULL);
	return rc < 0 ? tw_fail(-rc, "the route stays: %s", strerror(-rc)) : 0;
}
