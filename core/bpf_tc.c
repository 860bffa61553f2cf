/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_tc.c - the TC hook of an interface: the clsact qdisc, our filters in it, everybody's filters.
 */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <bpf/libbpf.h>

int tw_bpf_tc_clsact_add(int ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
	            .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	int rc = bpf_tc_hook_create(&hook);

	if (rc == -EEXIST)
		return 0;
	if (rc < 0)
		return tw_fail(-rc, "no clsact qdisc can be added to interface %d: %s", ifindex,
		               strerror(-rc));
	return 1;
}

int tw_bpf_tc_clsact_del(int ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
	            .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	int rc = bpf_tc_hook_destroy(&hook);

	return rc < 0 ? tw_fail(-rc, "the clsact qdisc of interface %d stays: %s", ifindex,
	                        strerror(-rc))
	              : 0;
}

int tw_bpf_tc_attach(int ifindex, bool egress, int program, uint32_t handle, uint32_t priority,
                     bool replace)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
	            .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = program, .handle = handle, .priority = priority,
	            .flags = replace ? BPF_TC_F_REPLACE : 0);
	int rc = bpf_tc_attach(&hook, &opts);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses filter 0x%x of priority %u: %s", handle,
	                        priority, strerror(-rc))
	              : 0;
}

int tw_bpf_tc_detach(int ifindex, bool egress, uint32_t handle, uint32_t priority)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex,
	            .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = priority);
	int rc = bpf_tc_detach(&hook, &opts);

	return rc < 0 ? tw_fail(-rc, "filter 0x%x of priority %u stays: %s", handle, priority,
	                        strerror(-rc))
	              : 0;
}

struct filters {
	struct tw_bpf_tc_filter *list;
	uint32_t room, count;
};

static void read_options(const struct rtattr *options, struct tw_bpf_tc_filter *filter)
{
	int left = RTA_PAYLOAD(options);

	for (struct rtattr *a = RTA_DATA(options); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == TCA_BPF_ID)
			memcpy(&filter->program, RTA_DATA(a), sizeof(filter->program));
		else if (a->rta_type == TCA_BPF_NAME)
			snprintf(filter->name, sizeof(filter->name), "%s", (char *)RTA_DATA(a));
	}
}

static void read_filter(const struct nlmsghdr *message, void *context)
{
	struct tcmsg *tc = NLMSG_DATA(message);
	int left = TCA_PAYLOAD(message);
	struct tw_bpf_tc_filter filter = { 0 };
	struct filters *filters = context;

	/* Handle 0 stands for the list of a priority, not for a filter in it. */
	if (message->nlmsg_type != RTM_NEWTFILTER || !tc->tcm_handle)
		return;
	filter.handle = tc->tcm_handle;
	filter.priority = tc->tcm_info >> 16;
	for (struct rtattr *a = TCA_RTA(tc); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == TCA_KIND)
			snprintf(filter.kind, sizeof(filter.kind), "%s", (char *)RTA_DATA(a));
		else if (a->rta_type == TCA_OPTIONS && !strcmp(filter.kind, "bpf"))
			read_options(a, &filter);
	}
	if (filters->count < filters->room)
		filters->list[filters->count] = filter;
	filters->count++;
}

int tw_bpf_tc_filters(int ifindex, bool egress, struct tw_bpf_tc_filter *list, uint32_t room)
{
	struct {
		struct nlmsghdr header;
		struct tcmsg tc;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
		            .nlmsg_type = RTM_GETTFILTER,
		            .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.tc = { .tcm_ifindex = ifindex,
		        .tcm_parent = TC_H_MAKE(TC_H_CLSACT,
		                                egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS) },
	};
	struct filters filters = { list, room, 0 };
	int rc = tw_bpf_netlink(&request.header, read_filter, &filters);

	return rc < 0 ? tw_fail(-rc, "interface %d does not tell its TC filters: %s", ifindex,
	                        strerror(-rc))
	              : (int)filters.count;
}

int tw_bpf_claim(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int length = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "%s", name), err;

	/* A first byte of zero: a name of the network namespace, not of the file system. */
	if (fd >= 0 && bind(fd, (struct sockaddr *)&address,
	                    offsetof(struct sockaddr_un, sun_path) + 1 + length) == 0)
		return fd;
	err = errno;
	if (fd >= 0)
		close(fd);
	return tw_fail(err, "the name %s cannot be taken: %s", name, strerror(err));
}
