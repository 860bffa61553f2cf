// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* ddos.bpf.c - twin of examples/nf/ddos.lua: blocked, bogus and too many packets. */
#include "twin.h"

#define LIMIT 100
#define WINDOW 3600000000000ULL
#define CELLS 65536

enum { PASSED, BLOCKED, BOGUS, FLOOD };

struct cell {
	u64 start, packets;
};

LPM_MAP(ddos_blocked, struct lpm4, u32, 65536);
MAP(ddos_cells, ARRAY, u32, struct cell, CELLS);
MAP(ddos_stats, PERCPU_ARRAY, u32, u64, 4);

static __always_inline bool is_bogus(struct iphdr *ip, u32 size, u32 total, void *end)
{
	struct tcphdr *tcp;
	u8 flags;

	if (ip->saddr == ip->daddr)
		return true;
	if (ip->protocol != IPPROTO_TCP)
		return false;
	tcp = tcp_header(ip, size, total, end);
	if (!tcp)
		return has_l4(ip);
	flags = ((u8 *)tcp)[13] & 0x3f;
	return !flags || (flags & 3) == 3 || (flags & 6) == 6;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, index;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct lpm4 source = { .length = 32 };
	struct cell *cell;
	u64 now;

	if (!ip)
		return XDP_PASS;
	source.address = ip->saddr;
	if (bpf_map_lookup_elem(&ddos_blocked, &source)) {
		count(&ddos_stats, BLOCKED, 1);
		return XDP_DROP;
	}
	if (is_bogus(ip, size, total, end)) {
		count(&ddos_stats, BOGUS, 1);
		return XDP_DROP;
	}
	index = jhash(bpf_ntohl(ip->saddr) >> 8, 0, 0) & (CELLS - 1);
	cell = bpf_map_lookup_elem(&ddos_cells, &index);
	if (!cell)
		return XDP_PASS;
	now = bpf_ktime_get_ns();
	if (now - cell->start > WINDOW) {
		cell->start = now;
		cell->packets = 1;
	} else if (++cell->packets > LIMIT) {
		count(&ddos_stats, FLOOD, 1);
		return XDP_DROP;
	}
	count(&ddos_stats, PASSED, 1);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
