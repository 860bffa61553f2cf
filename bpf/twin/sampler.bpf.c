// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* sampler.bpf.c - twin of examples/nf/sampler.lua: records of packets to a ring buffer. */
#include "twin.h"

#define ONE_IN 4
#define THRESHOLD (0x100000000ULL / ONE_IN)

struct sample {
	u64 time;
	u32 src, dst;
	u16 sport, dport, length;
	u8 proto, tos;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} samples SEC(".maps");

MAP(sampler_stats, PERCPU_ARRAY, u32, u64, 2);

enum { SAMPLED, LOST };

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total;
	struct iphdr *ip;
	struct sample sample = {};
	__be16 *ports;

	if (bpf_get_prandom_u32() >= THRESHOLD)
		return XDP_PASS;
	ip = ipv4_header(data, end, &size, &total);
	if (!ip)
		return XDP_PASS;
	ports = l4_ports(ip, size, total, end);
	if (ports) {
		sample.sport = bpf_ntohs(ports[0]);
		sample.dport = bpf_ntohs(ports[1]);
	}
	sample.time = bpf_ktime_get_ns();
	sample.src = bpf_ntohl(ip->saddr);
	sample.dst = bpf_ntohl(ip->daddr);
	sample.length = total;
	sample.proto = ip->protocol;
	sample.tos = ip->tos;
	if (bpf_ringbuf_output(&samples, &sample, sizeof(sample), 0))
		count(&sampler_stats, LOST, 1);
	else
		count(&sampler_stats, SAMPLED, 1);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
