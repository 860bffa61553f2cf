/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_link.c - links: a program at a hook, for as long as a descriptor or a pin holds the link. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <linux/if_link.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

_Static_assert(TW_BPF_XDP_GENERIC == XDP_FLAGS_SKB_MODE, "generic");
_Static_assert(TW_BPF_XDP_NATIVE == XDP_FLAGS_DRV_MODE, "native");
_Static_assert(TW_BPF_XDP_OFFLOAD == XDP_FLAGS_HW_MODE, "offload");

int tw_bpf_xdp_query(int ifindex, struct tw_bpf_xdp_state *state)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, opts);
	int rc = bpf_xdp_query(ifindex, 0, &opts);

	memset(state, 0, sizeof(*state));
	if (rc < 0)
		return tw_fail(-rc, "interface %d does not tell its XDP program: %s", ifindex,
		               strerror(-rc));
	state->generic = opts.skb_prog_id;
	state->native = opts.drv_prog_id;
	state->offload = opts.hw_prog_id;
	return 0;
}

int tw_bpf_link_create(int program, int target, uint32_t attach_type, uint32_t flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
	int fd = bpf_link_create(program, target, attach_type, &opts);

	return fd >= 0 ? fd : tw_fail(-fd, "the kernel refuses the attachment: %s", strerror(-fd));
}

int tw_bpf_link_update(int link, int program)
{
	int rc = bpf_link_update(link, program, NULL);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses the replacement: %s", strerror(-rc)) : 0;
}

int tw_bpf_link_get_info(int link, struct tw_bpf_link_info *info)
{
	struct bpf_link_info got = { 0 };
	__u32 size = sizeof(got);
	int rc = bpf_obj_get_info_by_fd(link, &got, &size);

	memset(info, 0, sizeof(*info));
	if (rc < 0)
		return tw_fail(-rc, "descriptor %d is not a link's: %s", link, strerror(-rc));
	info->type = got.type;
	info->id = got.id;
	info->program = got.prog_id;
	if (got.type == BPF_LINK_TYPE_XDP) {
		info->ifindex = got.xdp.ifindex;
	} else if (got.type == BPF_LINK_TYPE_CGROUP) {
		info->cgroup = got.cgroup.cgroup_id;
		info->attach_type = got.cgroup.attach_type;
	} else if (got.type == BPF_LINK_TYPE_NETNS) {
		info->attach_type = got.netns.attach_type;
	}
	return 0;
}

int tw_bpf_link_detach(int link)
{
	int rc = bpf_link_detach(link);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses to detach: %s", strerror(-rc)) : 0;
}

int tw_bpf_link_by_id(uint32_t id)
{
	int fd = bpf_link_get_fd_by_id(id);

	return fd >= 0 ? fd : tw_fail(-fd, "link %u: %s", id, strerror(-fd));
}

int tw_bpf_link_next_id(uint32_t id)
{
	__u32 next;

	return bpf_link_get_next_id(id, &next) < 0 ? 0 : (int)next;
}
