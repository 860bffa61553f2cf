// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* knock.bpf.c - twin of examples/nf/knock.lua: a port that opens after knocks at others. */
#include "twin.h"

#define GUARDED 22
#define LAST 3
#define WINDOW 3600000000000ULL

struct state {
	u64 expires;
	u32 step;
};

MAP(knock_steps, HASH, u16, u32, 64);
MAP(knock_states, LRU_HASH, u32, struct state, 65536);

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, source, *step;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct state *state;
	__be16 *ports;
	u16 port;
	u64 now;

	if (!ip)
		return XDP_PASS;
	ports = l4_ports(ip, size, total, end);
	if (!ports)
		return XDP_PASS;
	port = bpf_ntohs(ports[1]);
	now = bpf_ktime_get_ns();
	source = bpf_ntohl(ip->saddr);
	if (port == GUARDED) {
		state = bpf_map_lookup_elem(&knock_states, &source);
		if (!state || state->step != LAST || now > state->expires)
			return XDP_DROP;
		state->expires = now + WINDOW;
		return XDP_PASS;
	}
	step = bpf_map_lookup_elem(&knock_steps, &port);
	if (!step)
		return XDP_PASS;
	state = bpf_map_lookup_elem(&knock_states, &source);
	if (!state) {
		struct state none = {};

		bpf_map_update_elem(&knock_states, &source, &none, BPF_NOEXIST);
		state = bpf_map_lookup_elem(&knock_states, &source);
		if (!state)
			return XDP_DROP;
	}
	if (*step == state->step + 1 && (*step == 1 || now <= state->expires))
		state->step = *step;
	else if (*step != state->step)
		state->step = *step == 1;
	state->expires = now + WINDOW;
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
