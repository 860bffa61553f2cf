// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* vxlan.bpf.c - twin of examples/nf/vxlan.lua: VLANs into VXLAN tunnels and out of them. */
#include "twin.h"

#define ADDRESS 0xac100001
#define MAC 0x020000000001ULL
#define GATEWAY 0x0200000000feULL
#define MTU 1550
#define VXLAN_PORT 4789

struct station {
	u64 mac;
	u32 vni;
	u32 pad;
};

struct vxlan {
	u8 flags, reserved[3];
	__be32 vni;
};

MAP(vxlan_vnis, HASH, u32, u16, 4096);
MAP(vxlan_vids, HASH, u16, u32, 4096);
MAP(vxlan_stations, HASH, struct station, u32, 65536);

static __always_inline int enter(struct xdp_md *ctx, void *data, void *end, u16 vid)
{
	u32 *vni = bpf_map_lookup_elem(&vxlan_vids, &vid), *to, length, sum, dst, vni_be, hash;
	struct station key = {};
	u32 macs[3];
	struct eth *eth = data;
	struct iphdr *ip;
	struct udphdr *udp;
	struct vxlan *vxlan;
	u32 *inner;

	if (!vni)
		return XDP_PASS;
	macs[0] = ((u32 *)data)[0];
	macs[1] = ((u32 *)data)[1];
	macs[2] = ((u32 *)data)[2];
	key.mac = bpf_be64_to_cpu(*(u64 *)data) >> 16;
	key.vni = *vni;
	to = bpf_map_lookup_elem(&vxlan_stations, &key);
	if (!to)
		return XDP_DROP;
	length = end - data + 32;
	if (length > MTU)
		return XDP_DROP;
	dst = *to;
	hash = jhash(bpf_ntohl(*(u32 *)&eth->dst[1]), bpf_ntohl(*(u32 *)&eth->src[1]), key.vni);
	if (bpf_xdp_adjust_head(ctx, -46))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 64 > end)
		return XDP_ABORTED;
	eth = data;
	write_mac(eth->dst, GATEWAY);
	write_mac(eth->src, MAC);
	eth->type = bpf_htons(ETH_P_IP);
	ip = data + 14;
	*(u8 *)ip = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons(length);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	sum = 0x4500 + 0x4000 + 0x4011 + (ADDRESS >> 16) + (ADDRESS & 0xffff);
	sum += length + (dst >> 16) + (dst & 0xffff);
	ip->check = bpf_htons(~fold(sum));
	ip->saddr = bpf_htonl(ADDRESS);
	ip->daddr = bpf_htonl(dst);
	udp = data + 34;
	udp->source = bpf_htons(0xc000 | (hash & 0x3fff));
	udp->dest = bpf_htons(VXLAN_PORT);
	udp->len = bpf_htons(length - 20);
	udp->check = 0;
	vni_be = bpf_htonl(key.vni << 8);
	vxlan = data + 42;
	*(u32 *)vxlan = bpf_htonl(0x08000000);
	vxlan->vni = vni_be;
	inner = data + 50;
	inner[0] = macs[0];
	inner[1] = macs[1];
	inner[2] = macs[2];
	return XDP_TX;
}

static __always_inline int leave(struct xdp_md *ctx, void *data, void *inner, void *end, u16 vid)
{
	u32 macs[3], *word = inner;
	u16 *half;

	if (inner + 14 > end)
		return XDP_DROP;
	macs[0] = word[0];
	macs[1] = word[1];
	macs[2] = word[2];
	if (bpf_xdp_adjust_head(ctx, inner - data - 4))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 16 > end)
		return XDP_ABORTED;
	word = data;
	word[0] = macs[0];
	word[1] = macs[1];
	word[2] = macs[2];
	half = data;
	half[6] = bpf_htons(ETH_P_8021Q);
	half[7] = bpf_htons(vid);
	return XDP_TX;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, vni;
	struct iphdr *ip;
	struct udphdr *udp;
	struct vxlan *vxlan;
	u16 *half = data, *vid;

	if (data + 14 > end)
		return XDP_PASS;
	if (is_tag(half[6])) {
		if (data + 18 > end)
			return XDP_PASS;
		return enter(ctx, data, end, bpf_ntohs(half[7]) & 0xfff);
	}
	ip = ipv4_header(data, end, &size, &total);
	if (!ip || ip->daddr != bpf_htonl(ADDRESS) || is_fragment(ip))
		return XDP_PASS;
	udp = (void *)ip + size;
	vxlan = (void *)(udp + 1);
	if (ip->protocol != IPPROTO_UDP || total - size < 16 || (void *)(vxlan + 1) > end)
		return XDP_PASS;
	if (udp->dest != bpf_htons(VXLAN_PORT) || !(vxlan->flags & 8))
		return XDP_PASS;
	vni = bpf_ntohl(vxlan->vni) >> 8;
	vid = bpf_map_lookup_elem(&vxlan_vnis, &vni);
	if (!vid)
		return XDP_DROP;
	return leave(ctx, data, vxlan + 1, end, *vid);
}

char _license[] SEC("license") = "Dual BSD/GPL";
