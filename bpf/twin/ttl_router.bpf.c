// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* ttl_router.bpf.c - twin of examples/nf/ttl_router.lua, one-armed: routes by longest prefix. */
#include "twin.h"

struct hop {
	u64 dst, src;
	u32 port;
};

LPM_MAP(routes4, struct lpm4, u32, 65536);
LPM_MAP(routes6, struct lpm6, u32, 65536);
MAP(hops, ARRAY, u32, struct hop, 256);

static __always_inline int leave(struct eth *eth, const struct hop *hop)
{
	write_mac(eth->dst, hop->dst);
	write_mac(eth->src, hop->src);
	return XDP_TX;
}

static __always_inline int route6(void *data, void *end)
{
	struct ipv6hdr *ip = ipv6_header(data, end);
	struct lpm6 key = { .length = 128 };
	struct hop *hop;
	u32 *number;

	if (!ip)
		return XDP_PASS;
	if (ip->hop_limit <= 1)
		return XDP_DROP;
	__builtin_memcpy(key.address, &ip->daddr, 16);
	number = bpf_map_lookup_elem(&routes6, &key);
	if (!number)
		return XDP_DROP;
	hop = bpf_map_lookup_elem(&hops, number);
	if (!hop)
		return XDP_DROP;
	ip->hop_limit--;
	return leave(data, hop);
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, check;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct lpm4 key = { .length = 32 };
	struct hop *hop;
	u32 *number;

	if (!ip)
		return route6(data, end);
	if (ip->ttl <= 1)
		return XDP_DROP;
	key.address = ip->daddr;
	number = bpf_map_lookup_elem(&routes4, &key);
	if (!number)
		return XDP_DROP;
	hop = bpf_map_lookup_elem(&hops, number);
	if (!hop)
		return XDP_DROP;
	ip->ttl--;
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	return leave(data, hop);
}

char _license[] SEC("license") = "Dual BSD/GPL";
