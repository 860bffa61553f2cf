// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* ttl.bpf.c - twin of examples/nf/ttl.lua: lowers the TTL of IPv4 packets. */
#include "twin.h"

#define LEAST 1

/* Computed anew, as update_checksum() in Lua: right afterwards, whatever stood there. The half word
 * of TTL and protocol is passed: read right after a store of the TTL, it would wait for that. */
static __always_inline u16 header_checksum(struct iphdr *ip, u16 ttl, u32 size, void *end)
{
	u32 *word = (void *)ip;
	u64 sum = (u64)word[0] + word[1] + ttl + word[3] + word[4];

	for (u32 at = 20; unlikely(at < size) && at < 60; at += 4) {
		u32 *option = (void *)ip + at;

		if ((void *)(option + 1) > end)
			break;
		sum += *option;
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~fold(sum);
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	u16 ttl;

	if (!ip)
		return XDP_PASS;
	ttl = *(u16 *)&ip->ttl; /* the TTL is the low byte */
	if ((u8)ttl <= LEAST)
		return XDP_DROP;
	ttl--;
	*(u16 *)&ip->ttl = ttl;
	ip->check = header_checksum(ip, ttl, size, end);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
