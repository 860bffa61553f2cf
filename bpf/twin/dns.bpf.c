// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* dns.bpf.c - twin of examples/nf/dns.lua: queries for blocked names are answered REFUSED. */
#include "twin.h"

#define BASIS 0xcbf29ce484222325ULL
#define PRIME 0x100000001b3ULL

struct dns {
	__be16 id, flags, questions, answers, authorities, additional;
};

struct blocked {
	u64 queries;
};

MAP(dns_blocked, HASH, u64, struct blocked, 65536);

static __always_inline int refuse(void *data, struct iphdr *ip, struct udphdr *udp, struct dns *dns)
{
	__be16 flags = (dns->flags & bpf_htons(0x0100)) | bpf_htons(0x8005), port = udp->source;
	u32 *word = data, a = word[0], b = word[1], c = word[2];
	__be32 src = ip->saddr;

	if (udp->check) {
		u16 check = apply(udp->check, change16(dns->flags, flags));

		udp->check = check ? check : 0xffff;
	}
	dns->flags = flags;
	word[0] = b >> 16 | c << 16;
	word[1] = c >> 16 | a << 16;
	word[2] = a >> 16 | b << 16;
	ip->saddr = ip->daddr;
	ip->daddr = src;
	udp->source = udp->dest;
	udp->dest = port;
	return XDP_TX;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, left = 0;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct udphdr *udp;
	struct dns *dns;
	struct blocked *entry;
	bool ended = false;
	u64 hash = BASIS;
	u8 *name;

	if (!ip)
		return XDP_PASS;
	udp = udp_header(ip, size, total, end);
	if (!udp || udp->dest != bpf_htons(53))
		return XDP_PASS;
	dns = (void *)(udp + 1);
	if ((void *)(dns + 1) > end || dns->flags & bpf_htons(0xf800) ||
	    dns->questions != bpf_htons(1))
		return XDP_PASS;
	name = (void *)(dns + 1);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 255; i++, name++) {
		u8 c;

		if (name + 1 > (u8 *)end)
			return XDP_DROP;
		c = *name;
		if (!left) {
			if (!c) {
				ended = true;
				break;
			}
			if (c > 63)
				return XDP_DROP;
			left = c;
		} else {
			left--;
			if (c >= 'A' && c <= 'Z')
				c += 'a' - 'A';
		}
		hash = (hash ^ c) * PRIME;
	}
	if (!ended)
		return XDP_DROP;
	entry = bpf_map_lookup_elem(&dns_blocked, &hash);
	if (!entry)
		return XDP_PASS;
	entry->queries++;
	return refuse(data, ip, udp, dns);
}

char _license[] SEC("license") = "Dual BSD/GPL";
