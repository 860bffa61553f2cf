// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* vlan.bpf.c - twin of examples/nf/vlan.lua: push, pop or translate the outermost VLAN tag. */
#include "twin.h"

enum { KEEP, POP, PUSH, TRANSLATE };

struct what {
	u16 action, vid;
	u64 packets;
};

MAP(vlans, HASH, u16, struct what, 4096);

static __always_inline void move_macs(u32 *to, const u32 *from)
{
	u32 a = from[0], b = from[1], c = from[2];

	to[0] = a;
	to[1] = b;
	to[2] = c;
}

static __always_inline int push(struct xdp_md *ctx, u16 vid)
{
	void *data, *end;
	u16 *half;

	if (bpf_xdp_adjust_head(ctx, -4))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 18 > end)
		return XDP_ABORTED;
	move_macs(data, data + 4);
	half = data;
	half[6] = bpf_htons(ETH_P_8021Q);
	half[7] = bpf_htons(vid);
	return XDP_PASS;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u16 *half = data, vid = 0;
	bool tagged = false;
	struct what *what;

	if (data + 14 > end)
		return XDP_DROP;
	if (is_tag(half[6]) && data + 18 <= end) {
		tagged = true;
		vid = bpf_ntohs(half[7]) & 0xfff;
	}
	what = bpf_map_lookup_elem(&vlans, &vid);
	if (!what)
		return XDP_DROP;
	what->packets++;
	switch (what->action) {
	case PUSH:
		return push(ctx, what->vid);
	case POP:
		if (!tagged)
			return XDP_DROP;
		move_macs(data + 4, data);
		if (bpf_xdp_adjust_head(ctx, 4))
			return XDP_DROP;
		return XDP_PASS;
	case TRANSLATE:
		if (tagged)
			half[7] = (half[7] & bpf_htons(0xf000)) | bpf_htons(what->vid);
		return XDP_PASS;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
