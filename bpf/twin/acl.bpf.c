// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* acl.bpf.c - twin of examples/nf/acl.lua: by source prefix and destination. */
#include "twin.h"

struct rule_key {
	u32 dst;
	u16 port;
	u8 proto, group;
};

struct rule {
	u32 allow, number;
};

LPM_MAP(acl_sources, struct lpm4, u32, 65536);
MAP(acl_rules, HASH, struct rule_key, struct rule, 65536);
MAP(acl_hits, PERCPU_ARRAY, u32, u64, 16);

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 size, total, *group;
	struct iphdr *ip = ipv4_header(data, end, &size, &total);
	struct lpm4 source = { .length = 32 };
	struct rule_key key = {};
	struct rule *rule;
	__be16 *ports;

	if (!ip)
		return XDP_PASS;
	ports = l4_ports(ip, size, total, end);
	if (ports)
		key.port = bpf_ntohs(ports[1]);
	key.dst = bpf_ntohl(ip->daddr);
	key.proto = ip->protocol;
	source.address = ip->saddr;
	group = bpf_map_lookup_elem(&acl_sources, &source);
	if (group)
		key.group = *group;
	rule = bpf_map_lookup_elem(&acl_rules, &key);
	if (!rule && key.port) {
		key.port = 0;
		rule = bpf_map_lookup_elem(&acl_rules, &key);
	}
	if (!rule) {
		count(&acl_hits, 0, 1);
		return XDP_PASS;
	}
	count(&acl_hits, rule->number, 1);
	return rule->allow ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
