// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* decap.bpf.c - twin of examples/nf/decap.lua: ends IPIP and GUE tunnels. */
#include "twin.h"

#define GUE_PORT 6080

struct ours {
	u64 packets;
};

MAP(decap_ours, HASH, u32, struct ours, 1024);

/* EtherType of the packet at `at`, which has `room` bytes; 0: there is none. */
static __always_inline __be16 type_of(void *at, u32 room, void *end)
{
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	u32 first, length;

	if ((void *)(ip + 1) > end)
		return 0;
	first = *(u8 *)ip;
	if (first >> 4 == 4) {
		length = bpf_ntohs(ip->tot_len);
		if (first < 0x45 || length < (first & 15) * 4 || length > room)
			return 0;
		return bpf_htons(ETH_P_IP);
	}
	if ((void *)(ip6 + 1) > end || first >> 4 != 6 || bpf_ntohs(ip6->payload_len) + 40 > room)
		return 0;
	return bpf_htons(ETH_P_IPV6);
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *at;
	u32 size, total, room, address, macs[3];
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct ours *ours;
	u32 *word;
	__be16 type;

	if (!ip || is_fragment(ip))
		return XDP_PASS;
	at = (void *)ip + size;
	room = total - size;
	if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = at;

		if (room < 8 || (void *)(udp + 1) > end || udp->dest != bpf_htons(GUE_PORT))
			return XDP_PASS;
		at = udp + 1;
		room -= 8;
	} else if (ip->protocol != IPPROTO_IPIP && ip->protocol != IPPROTO_IPV6) {
		return XDP_PASS;
	}
	address = bpf_ntohl(ip->daddr);
	ours = bpf_map_lookup_elem(&decap_ours, &address);
	if (!ours)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_UDP) {
		if (room < 4 || at + 4 > end)
			return XDP_DROP;
		if (*(u8 *)at >> 6 == 0) {
			if (*(u32 *)at & bpf_htonl(0xff00ffff))
				return XDP_DROP;
			at += 4;
			room -= 4;
		}
	}
	type = type_of(at, room, end);
	if (!type)
		return XDP_DROP;
	ours->packets++;
	word = data;
	macs[0] = word[0];
	macs[1] = word[1];
	macs[2] = word[2];
	if (bpf_xdp_adjust_head(ctx, at - data - 14))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 14 > end)
		return XDP_ABORTED;
	word = data;
	word[0] = macs[0];
	word[1] = macs[1];
	word[2] = macs[2];
	((u16 *)data)[6] = type;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
