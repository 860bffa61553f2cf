/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chain.c - the five NFs of nfs.lua by hand: each as a function of its own over a burst, as C
 * frameworks have them, and all five as one function that looks at each packet once.
 */
#include "abi.h"

#include <arpa/inet.h>
#include <string.h>

#define AHEAD 4 /* packets whose first bytes are fetched while this one is worked on */
#define BUFFER \
	2304 /* bytes from packet to packet: those of a DPDK pool, which are no power of two */
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { TCP = 6, UDP = 17 };

struct ip {
	uint8_t version_ihl, tos;
	uint16_t total, id, frag;
	uint8_t ttl, protocol;
	uint16_t check;
	uint32_t src, dst;
} __attribute__((packed, aligned(2)));

struct mapping {
	uint32_t address;
	uint16_t port;
};

/* One NF of a chain. */
struct fuse_stage {
	struct tw_table *table;
	int32_t reasons[2]; /* verdicts */
	uint8_t dst[6], src[6];
};

/* ---- packets ---- */

static inline bool is_tag(uint16_t type)
{
	return type == htons(0x8100) || type == htons(0x88a8);
}

static inline uint16_t half(const uint8_t *at)
{
	uint16_t x;

	memcpy(&x, at, 2);
	return x;
}

/* An IPv4 header behind at most two VLAN tags; version and lengths fit each other and the frame. */
static inline struct ip *ipv4(const struct tw_pkt *pkt, uint32_t *size, uint32_t *total)
{
	uint8_t *at = pkt->data + 14, *end = pkt->data + pkt->len;
	uint16_t type;
	struct ip *ip;

	if (unlikely(pkt->len < 14))
		return NULL;
	type = half(at - 2);
	for (int tags = 0; unlikely(is_tag(type)) && tags < 2; tags++) {
		at += 4;
		if (at > end)
			return NULL;
		type = half(at - 2);
	}
	ip = (struct ip *)at;
	if (unlikely(type != htons(0x0800) || at + 20 > end))
		return NULL;
	*size = 20;
	if (unlikely(ip->version_ihl != 0x45)) {
		if (ip->version_ihl < 0x46 || ip->version_ihl > 0x4f)
			return NULL;
		*size = (ip->version_ihl & 15) * 4;
	}
	*total = ntohs(ip->total);
	if (unlikely(*total < *size || at + *total > end))
		return NULL;
	return ip;
}

/* TCP or UDP header inside the IP packet; both begin with the ports. */
static inline uint8_t *ports(struct ip *ip, uint32_t size, uint32_t total)
{
	uint8_t *l4 = (uint8_t *)ip + size;
	uint32_t room = total - size, length;

	if (unlikely(ip->frag & htons(0x1fff)))
		return NULL;
	if (ip->protocol == UDP)
		return room >= 8 ? l4 : NULL;
	if (ip->protocol != TCP || room < 20)
		return NULL;
	length = l4[12] >> 4 << 2;
	return length >= 20 && length <= room ? l4 : NULL;
}

static inline uint16_t apply(uint16_t check, uint32_t change)
{
	uint32_t sum = (uint16_t)~check + change;

	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static inline uint32_t change32(uint32_t from, uint32_t to)
{
	from = ~from;
	return (from & 0xffff) + (from >> 16) + (to & 0xffff) + (to >> 16);
}

static inline void finish(struct tw_burst *burst, struct tw_pkt *pkt, uint32_t stage,
                          int32_t verdict)
{
	pkt->verdict = verdict;
	pkt->stage = stage;
	burst->odd = 1;
}

/* ---- what the NFs do ---- */

static inline bool martian(const struct ip *ip)
{
	uint32_t src = ntohl(ip->src), first = src >> 24;

	return first == 0 || first == 127 || first >= 224 || src >> 16 == 0xa9fe;
}

static inline bool local_service(const uint8_t *l4)
{
	uint16_t port = ntohs(half(l4 + 2));

	return port == 23 || port == 445 || (port >= 135 && port <= 139);
}

/* The key { u32 address; u16 port; u8 protocol } as one word: read in one piece right after it was
 * stored, it must be stored in one piece. */
static inline uint64_t key_of(const struct ip *ip, const uint8_t *l4)
{
	return ntohl(ip->src) | (uint64_t)ntohs(half(l4)) << 32 | (uint64_t)ip->protocol << 48;
}

static inline const struct mapping *mapping_of(struct tw_table *mappings, const struct ip *ip,
                                               const uint8_t *l4)
{
	uint64_t key = key_of(ip, l4);

	return tw_hash_get(mappings, &key, 0);
}

/* Packets whose mappings are looked up together. */
struct batch {
	uint64_t keys[TW_BURST_MAX];
	const void *at[TW_BURST_MAX];
	struct ip *ip[TW_BURST_MAX];
	uint8_t *l4[TW_BURST_MAX];
	struct tw_pkt *pkt[TW_BURST_MAX];
	void *found[TW_BURST_MAX];
	uint32_t count;
};

static inline void batch_add(struct batch *b, struct tw_pkt *pkt, struct ip *ip, uint8_t *l4)
{
	uint32_t i = b->count++;

	b->keys[i] = key_of(ip, l4);
	b->at[i] = &b->keys[i];
	b->ip[i] = ip;
	b->l4[i] = l4;
	b->pkt[i] = pkt;
}

static inline void batch_find(struct batch *b, struct tw_table *mappings)
{
	if (b->count)
		tw_hash_get_bulk(mappings, b->at, b->count, 0, b->found);
}

/* Change of the sums of header and transport. */
static inline uint32_t translate(struct ip *ip, uint8_t *l4, const struct mapping *to)
{
	uint32_t address = htonl(to->address), change = change32(ip->src, address), all;
	uint16_t port = htons(to->port), check;

	all = change + (uint16_t)~half(l4) + port;
	ip->src = address;
	memcpy(l4, &port, 2);
	if (ip->protocol == TCP) {
		check = apply(half(l4 + 16), all);
		memcpy(l4 + 16, &check, 2);
	} else if (half(l4 + 6)) {
		check = apply(half(l4 + 6), all);
		check = check ? check : 0xffff;
		memcpy(l4 + 6, &check, 2);
	}
	return change;
}

static inline void addresses(struct tw_pkt *pkt, const struct fuse_stage *stage)
{
	memcpy(pkt->data, stage->dst, 12);
}

/* ---- one function per NF ---- */

static void nf_parse(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                     uint32_t index)
{
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++) {
		uint32_t size, total;
		struct ip *ip = ipv4(pkt, &size, &total);

		if (unlikely(pkt->verdict))
			continue;
		if (unlikely(!ip))
			finish(burst, pkt, index, stage->reasons[0]);
		else if (unlikely(!ports(ip, size, total)))
			finish(burst, pkt, index, stage->reasons[1]);
	}
}

static void nf_firewall(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                        uint32_t index)
{
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++) {
		uint32_t size, total;
		struct ip *ip = pkt->verdict ? NULL : ipv4(pkt, &size, &total);
		uint8_t *l4;

		if (unlikely(!ip))
			continue;
		if (unlikely(martian(ip))) {
			finish(burst, pkt, index, stage->reasons[0]);
			continue;
		}
		l4 = ports(ip, size, total);
		if (l4 && unlikely(local_service(l4)))
			finish(burst, pkt, index, stage->reasons[1]);
	}
}

static void nf_ttl(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                   uint32_t index)
{
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++) {
		uint32_t size, total;
		struct ip *ip = pkt->verdict ? NULL : ipv4(pkt, &size, &total);

		if (unlikely(!ip))
			continue;
		if (unlikely(ip->ttl <= 1)) {
			finish(burst, pkt, index, stage->reasons[0]);
			continue;
		}
		ip->ttl--;
		ip->check = apply(ip->check, 0xfffe); /* the TTL is the low byte of its word */
	}
}

static void nf_nat(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                   uint32_t index)
{
	(void)index;
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++) {
		uint32_t size, total;
		struct ip *ip = pkt->verdict ? NULL : ipv4(pkt, &size, &total);
		uint8_t *l4 = ip ? ports(ip, size, total) : NULL;
		const struct mapping *to = l4 ? mapping_of(stage->table, ip, l4) : NULL;

		if (likely(to))
			ip->check = apply(ip->check, translate(ip, l4, to));
	}
}

static void nf_nat_bulk(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                        uint32_t index)
{
	struct batch b;

	(void)index;
	b.count = 0;
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++) {
		uint32_t size, total;
		struct ip *ip = pkt->verdict ? NULL : ipv4(pkt, &size, &total);
		uint8_t *l4 = ip ? ports(ip, size, total) : NULL;

		if (likely(l4))
			batch_add(&b, pkt, ip, l4);
	}
	batch_find(&b, stage->table);
	for (uint32_t i = 0; i < b.count; i++)
		if (likely(b.found[i]))
			b.ip[i]->check = apply(b.ip[i]->check,
			                       translate(b.ip[i], b.l4[i], b.found[i]));
}

static void nf_mac(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                   uint32_t index)
{
	(void)index;
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++)
		if (likely(!pkt->verdict && pkt->len >= 14))
			addresses(pkt, stage);
}

typedef void (*nf)(struct tw_burst *burst, int32_t count, const struct fuse_stage *stage,
                   uint32_t index);

static const nf nfs[][5] = { { nf_parse, nf_firewall, nf_ttl, nf_nat, nf_mac },
	                     { nf_parse, nf_firewall, nf_ttl, nf_nat_bulk, nf_mac } };

/* The NFs one behind the other, over and over. */
void fuse_separate(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages,
                   uint32_t n, bool bulk)
{
	for (uint32_t i = 0; i < n; i++)
		nfs[bulk][i % 5](burst, count, &stages[i], i);
	for (struct tw_pkt *pkt = burst->pkts, *last = pkt + count; pkt < last; pkt++)
		if (!pkt->verdict)
			pkt->verdict = TW_SINK;
}

/* ---- all five by hand in one ---- */

/* The first three; the header behind the IP header, NULL when the packet has its verdict. */
static inline uint8_t *first_three(struct tw_burst *burst, struct tw_pkt *pkt,
                                   const struct fuse_stage *stages, struct ip **header)
{
	uint32_t size, total;
	struct ip *ip = ipv4(pkt, &size, &total);
	uint8_t *l4 = ip ? ports(ip, size, total) : NULL;

	*header = ip;
	if (unlikely(!ip))
		finish(burst, pkt, 0, stages[0].reasons[0]);
	else if (unlikely(!l4))
		finish(burst, pkt, 0, stages[0].reasons[1]);
	else if (unlikely(martian(ip)))
		finish(burst, pkt, 1, stages[1].reasons[0]);
	else if (unlikely(local_service(l4)))
		finish(burst, pkt, 1, stages[1].reasons[1]);
	else if (unlikely(ip->ttl <= 1))
		finish(burst, pkt, 2, stages[2].reasons[0]);
	else
		return l4;
	return NULL;
}

/* TTL, translation, MAC addresses: one change of the header's checksum. */
static inline void rewrite(struct tw_pkt *pkt, struct ip *ip, uint8_t *l4, const struct mapping *to,
                           const struct fuse_stage *stages)
{
	uint32_t change = 0xfffe; /* the TTL is the low byte of its word */

	ip->ttl--;
	if (likely(to))
		change += translate(ip, l4, to);
	ip->check = apply(ip->check, change);
	addresses(pkt, &stages[4]);
	pkt->verdict = TW_SINK;
}

void fuse_fused(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages)
{
	for (int32_t i = 0; i < count; i++) {
		struct tw_pkt *pkt = &burst->pkts[i];
		struct ip *ip;
		uint8_t *l4;

		if (i + AHEAD < count)
			__builtin_prefetch(burst->pkts[i + AHEAD].data, 1);
		l4 = first_three(burst, pkt, stages, &ip);
		if (likely(l4))
			rewrite(pkt, ip, l4, mapping_of(stages[3].table, ip, l4), stages);
	}
}

void fuse_fused_bulk(struct tw_burst *burst, int32_t count, const struct fuse_stage *stages)
{
	struct batch b;

	b.count = 0;
	for (int32_t i = 0; i < count; i++) {
		struct tw_pkt *pkt = &burst->pkts[i];
		struct ip *ip;
		uint8_t *l4;

		if (i + AHEAD < count)
			__builtin_prefetch(burst->pkts[i + AHEAD].data, 1);
		l4 = first_three(burst, pkt, stages, &ip);
		if (likely(l4))
			batch_add(&b, pkt, ip, l4);
	}
	batch_find(&b, stages[3].table);
	for (uint32_t i = 0; i < b.count; i++)
		rewrite(b.pkt[i], b.ip[i], b.l4[i], b.found[i], stages);
}

/* ---- what gives them packets ---- */

/* Puts `count` frames of 64 bytes into the burst. */
void fuse_fill(struct tw_burst *burst, int32_t count, uint8_t *memory, const uint8_t *frames)
{
	burst->count = count;
	burst->odd = 0;
	for (int32_t i = 0; i < count; i++) {
		struct tw_pkt *pkt = &burst->pkts[i];

		pkt->data = memory + i * BUFFER;
		memcpy(pkt->data, frames + i * 64, 64);
		pkt->verdict = TW_NEXT;
		pkt->out = TW_PORT_NONE;
		pkt->len = 60;
		pkt->stage = TW_STAGE_ENGINE;
		pkt->resume = 0;
	}
}
