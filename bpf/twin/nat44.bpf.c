// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* nat44.bpf.c - twin of examples/nf/nat44.lua: static NAT, addresses and ports, both ways. */
#include "twin.h"

struct nat_key {
	u32 address;
	u16 port;
	u8 proto;
	u8 pad;
};

struct mapping {
	u32 address;
	u16 port;
	u64 packets;
};

MAP(nat_out, HASH, struct nat_key, struct mapping, 65536);
MAP(nat_in, HASH, struct nat_key, struct mapping, 65536);

static __always_inline struct mapping *find(void *map, __be32 address, __be16 port, u8 proto)
{
	struct nat_key key = { .address = bpf_ntohl(address),
		               .port = bpf_ntohs(port),
		               .proto = proto };
	struct mapping *found = bpf_map_lookup_elem(map, &key);

	if (found)
		return found;
	key.port = 0;
	key.proto = 0;
	return bpf_map_lookup_elem(map, &key);
}

/* Checksums of the IP header and of what is above it; a UDP checksum of 0 stays one. */
static __always_inline void translate(struct iphdr *ip, u32 size, u32 total, void *end,
                                      __be32 *address, u32 which, struct mapping *to)
{
	__be32 new = bpf_htonl(to->address);
	u32 change = change32(*address, new);
	void *l4 = (void *)ip + size;

	to->packets++;
	*address = new;
	ip->check = apply(ip->check, change);
	if (!has_l4(ip))
		return;
	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = tcp_header(ip, size, total, end);

		if (!tcp)
			return;
		if (to->port) {
			__be16 *port = (__be16 *)l4 + which, port_new = bpf_htons(to->port);

			change += change16(*port, port_new);
			*port = port_new;
		}
		tcp->check = apply(tcp->check, change);
	} else if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = udp_header(ip, size, total, end);

		if (!udp)
			return;
		if (to->port) {
			__be16 *port = (__be16 *)l4 + which, port_new = bpf_htons(to->port);

			change += change16(*port, port_new);
			*port = port_new;
		}
		if (udp->check) {
			u16 check = apply(udp->check, change);

			udp->check = check ? check : 0xffff;
		}
	}
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	__be16 src_port = 0, dst_port = 0, *ports;
	struct mapping *to;

	if (!ip)
		return XDP_PASS;
	ports = l4_ports(ip, size, total, end);
	if (ports) {
		src_port = ports[0];
		dst_port = ports[1];
	}
	to = find(&nat_out, ip->saddr, src_port, ip->protocol);
	if (to) {
		translate(ip, size, total, end, &ip->saddr, 0, to);
		return XDP_PASS;
	}
	to = find(&nat_in, ip->daddr, dst_port, ip->protocol);
	if (to)
		translate(ip, size, total, end, &ip->daddr, 1, to);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
