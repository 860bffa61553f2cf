/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* lb.h - twin of examples/nf/lb.lua: load balancer; GUE says which tunnel. */
#pragma once
#include "twin.h"

#define GATEWAY 0x0200000000feULL
#define MTU 1500
#define RING 65537
#define VIPS 2
#define SLOTS (RING * VIPS)
#define GUE_PORT 6080
#define EXTRA (GUE ? 28 : 20)
#define PROTOCOL (GUE ? IPPROTO_UDP : IPPROTO_IPIP)

struct vip_key {
	u32 address;
	u16 port;
	u8 proto;
	u8 pad;
};

struct real {
	u32 address, flags;
};

MAP(lb_vips, HASH, struct vip_key, u32, 512);
MAP(lb_ring, ARRAY, u32, u32, SLOTS);
MAP(lb_reals, ARRAY, u32, struct real, 4096);
MAP(lb_packets, PERCPU_ARRAY, u32, u64, VIPS);

static __always_inline int encapsulate(struct xdp_md *ctx, u16 *mac, u8 tos, u32 length, u32 hash,
                                       u32 dst)
{
	u32 mac_first = *(u32 *)mac, src = 0xac100000 + (hash & 0xffff), sum;
	u16 mac_last = mac[2];
	void *data, *end;
	struct eth *eth;
	struct iphdr *ip;

	if (bpf_xdp_adjust_head(ctx, -EXTRA))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 14 + EXTRA > end)
		return XDP_ABORTED;
	eth = data;
	write_mac(eth->dst, GATEWAY);
	*(u32 *)eth->src = mac_first;
	eth->src[2] = mac_last;
	eth->type = bpf_htons(ETH_P_IP);
	ip = data + 14;
	*(u8 *)ip = 0x45;
	ip->tos = tos;
	ip->tot_len = bpf_htons(length);
	ip->id = 0;
	ip->frag_off = 0;
	ip->ttl = 64;
	ip->protocol = PROTOCOL;
	sum = 0x4500 + 0x4000 + PROTOCOL + tos + length;
	sum += (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff);
	ip->check = bpf_htons(~fold(sum));
	ip->saddr = bpf_htonl(src);
	ip->daddr = bpf_htonl(dst);
	if (GUE) {
		struct udphdr *udp = (void *)(ip + 1);

		udp->source = bpf_htons(0xc000 | (hash & 0x3fff));
		udp->dest = bpf_htons(GUE_PORT);
		udp->len = bpf_htons(length - 20);
		udp->check = 0;
	}
	return XDP_TX;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + 14;
	struct vip_key key = {};
	u32 length, *vip, *number, hash, slot;
	struct real *real;
	__be16 *ports;

	if ((void *)(ip + 1) > end || ((u16 *)data)[6] != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	length = bpf_ntohs(ip->tot_len);
	if (*(u8 *)ip != 0x45 || length < 20 || (void *)ip + length > end || is_fragment(ip))
		return XDP_PASS;
	ports = l4_ports(ip, 20, length, end);
	if (!ports)
		return XDP_PASS;
	key.address = bpf_ntohl(ip->daddr);
	key.port = bpf_ntohs(ports[1]);
	key.proto = ip->protocol;
	vip = bpf_map_lookup_elem(&lb_vips, &key);
	if (!vip)
		return XDP_PASS;
	length += EXTRA;
	if (length > MTU)
		return XDP_DROP;
	count(&lb_packets, *vip, 1);
	hash = jhash(bpf_ntohl(ip->saddr), key.address, (u32)bpf_ntohs(ports[0]) << 16 | key.port);
	slot = *vip * RING + (hash >> 1) % RING;
	number = bpf_map_lookup_elem(&lb_ring, &slot);
	if (!number)
		return XDP_DROP;
	real = bpf_map_lookup_elem(&lb_reals, number);
	if (!real)
		return XDP_DROP;
	return encapsulate(ctx, data, ip->tos, length, hash, real->address);
}

char _license[] SEC("license") = "Dual BSD/GPL";
