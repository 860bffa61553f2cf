// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* rate_limit.bpf.c - twin of examples/nf/rate_limit.lua: a token bucket per source address. */
#include "twin.h"

#define RATE 3ULL
#define FULL 15000000000000ULL
#define REFILL (FULL / RATE)

struct bucket {
	u64 tokens, last;
};

MAP(buckets, LRU_HASH, u32, struct bucket, 65536);

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, source;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	u64 cost, now, tokens, last;
	struct bucket *bucket;

	if (!ip)
		return XDP_PASS;
	cost = (u64)(end - data) * 1000000000;
	now = bpf_ktime_get_ns();
	source = bpf_ntohl(ip->saddr);
	bucket = bpf_map_lookup_elem(&buckets, &source);
	if (!bucket) {
		struct bucket first = { .tokens = FULL - cost, .last = now };

		if (cost > FULL)
			return XDP_DROP;
		bpf_map_update_elem(&buckets, &source, &first, BPF_ANY);
		return XDP_PASS;
	}
	tokens = bucket->tokens;
	last = bucket->last;
	if (now > last) {
		u64 passed = now - last;

		if (passed >= REFILL) {
			tokens = FULL;
		} else {
			tokens += passed * RATE;
			if (tokens > FULL)
				tokens = FULL;
		}
		bucket->last = now;
	}
	if (tokens < cost) {
		bucket->tokens = tokens;
		return XDP_DROP;
	}
	bucket->tokens = tokens - cost;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
