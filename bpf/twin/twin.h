/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* twin.h - what the C twins share: the checks of the packet library, for clang and the verifier. */
#pragma once
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define MAP(name_, type_, key_, value_, entries_)   \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_##type_); \
		__type(key, key_);                  \
		__type(value, value_);              \
		__uint(max_entries, entries_);      \
	} name_ SEC(".maps")

#define LPM_MAP(name_, key_, value_, entries_)        \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);  \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_);                    \
		__type(value, value_);                \
		__uint(max_entries, entries_);        \
	} name_ SEC(".maps")

struct lpm4 {
	u32 length;
	__be32 address;
};

struct lpm6 {
	u32 length;
	u8 address[16];
};

/* The fixed part of an Ethernet header in the widths that matter; struct ethhdr is packed. */
struct mac {
	u32 first;
	u16 last;
} __attribute__((packed, aligned(2)));

struct eth {
	u16 dst[3];
	u16 src[3];
	__be16 type;
} __attribute__((aligned(2)));

static __always_inline bool is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* What follows the Ethernet header and at most two VLAN tags; NULL when they do not fit. */
static __always_inline void *l3_header(void *data, void *end, __be16 *type)
{
	u16 *half = data;

	if (data + 14 > end)
		return NULL;
	*type = half[6];
	if (likely(!is_tag(*type)))
		return data + 14;
	if (data + 18 > end)
		return NULL;
	*type = half[8];
	if (!is_tag(*type))
		return data + 18;
	if (data + 22 > end)
		return NULL;
	*type = half[10];
	return data + 22;
}

/* An IPv4 header whose version, length and total length agree with each other and the frame. */
static __always_inline struct iphdr *ipv4_header(void *data, void *end, u32 *size, u32 *total)
{
	__be16 type;
	struct iphdr *ip = l3_header(data, end, &type);
	u32 first;

	if (!ip || type != bpf_htons(ETH_P_IP) || (void *)(ip + 1) > end)
		return NULL;
	first = *(u8 *)ip;
	*size = 20;
	if (unlikely(first != 0x45)) {
		if (first < 0x46 || first > 0x4f)
			return NULL;
		*size = (first & 15) * 4;
	}
	*total = bpf_ntohs(ip->tot_len);
	if (*total < *size || (void *)ip + *total > end)
		return NULL;
	return ip;
}

/* An IPv6 header of version 6 whose payload fits the frame. */
static __always_inline struct ipv6hdr *ipv6_header(void *data, void *end)
{
	__be16 type;
	struct ipv6hdr *ip = l3_header(data, end, &type);

	if (!ip || type != bpf_htons(ETH_P_IPV6) || (void *)(ip + 1) > end)
		return NULL;
	if ((*(u8 *)ip & 0xf0) != 0x60 || (void *)(ip + 1) + bpf_ntohs(ip->payload_len) > end)
		return NULL;
	return ip;
}

/* Not a fragment, or the first one: it has the transport header. */
static __always_inline bool has_l4(const struct iphdr *ip)
{
	return !(ip->frag_off & bpf_htons(0x1fff));
}

static __always_inline bool is_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(0x3fff);
}

/* The TCP header above an IPv4 header; NULL unless all of it is inside the IP packet. */
static __always_inline struct tcphdr *tcp_header(struct iphdr *ip, u32 size, u32 total, void *end)
{
	struct tcphdr *tcp = (void *)ip + size;
	u32 room = total - size, length;

	if (ip->protocol != IPPROTO_TCP || !has_l4(ip) || room < 20 || (void *)(tcp + 1) > end)
		return NULL;
	length = ((u8 *)tcp)[12] >> 4 << 2;
	if (length < 20 || length > room)
		return NULL;
	return tcp;
}

static __always_inline struct udphdr *udp_header(struct iphdr *ip, u32 size, u32 total, void *end)
{
	struct udphdr *udp = (void *)ip + size;

	if (ip->protocol != IPPROTO_UDP || !has_l4(ip) || total - size < 8 ||
	    (void *)(udp + 1) > end)
		return NULL;
	return udp;
}

/* Source and destination port lie in TCP where they lie in UDP. NULL: neither of them. */
static __always_inline __be16 *l4_ports(struct iphdr *ip, u32 size, u32 total, void *end)
{
	if (ip->protocol == IPPROTO_TCP)
		return (void *)tcp_header(ip, size, total, end);
	if (ip->protocol == IPPROTO_UDP)
		return (void *)udp_header(ip, size, total, end);
	return NULL;
}

/* Tables hold MAC addresses as 48-bit numbers. */
static __always_inline void write_mac(u16 *to, u64 mac)
{
	u64 raw = bpf_cpu_to_be64(mac) >> 16;

	*(u32 *)to = raw;
	to[2] = raw >> 32;
}

static __always_inline u32 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* One's complement sum to add when a word changes (RFC 1624 eqn. 3). */
static __always_inline u32 change32(__be32 from, __be32 to)
{
	from = ~from;
	return (from & 0xffff) + (from >> 16) + (to & 0xffff) + (to >> 16);
}

static __always_inline u32 change16(__be16 from, __be16 to)
{
	return (u16)~from + to;
}

static __always_inline u16 apply(u16 checksum, u32 change)
{
	return ~fold((u16)~checksum + change);
}

static __always_inline u32 rol(u32 x, u32 n)
{
	return x << n | x >> (32 - n);
}

/* The final mix of Jenkins' lookup3 (public domain), as in Linux' jhash_3words. */
static __always_inline u32 jhash(u32 a, u32 b, u32 c)
{
	c = (c ^ b) - rol(b, 14);
	a = (a ^ c) - rol(c, 11);
	b = (b ^ a) - rol(a, 25);
	c = (c ^ b) - rol(b, 16);
	a = (a ^ c) - rol(c, 4);
	b = (b ^ a) - rol(a, 14);
	return (c ^ b) - rol(b, 24);
}

static __always_inline void count(void *map, u32 index, u64 n)
{
	u64 *counter = bpf_map_lookup_elem(map, &index);

	if (counter)
		*counter += n;
}
