// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* syn_cookie.bpf.c - twin of examples/nf/syn_cookie.lua: SYN cookies in place of the server. */
#include "twin.h"

#define OUR_MSS 1460
#define LONGEST (14 + 20 + 60)
#define ANSWER (14 + 20 + 24)

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

struct service {
	u32 address;
	u16 port;
	u16 pad;
};

struct connection {
	u32 src, dst;
	u16 sport, dport;
};

MAP(syn_services, HASH, struct service, u32, 1024);
MAP(syn_known, LRU_HASH, struct connection, u32, 65536);

/* Maximum segment size among the options; 536 when there is none, 0 when they are malformed. */
static __always_inline u32 mss_of(void *data, void *end, u32 stop)
{
	u32 at = 54;

	for (int i = 0; i < 40; i++) {
		u8 *option = data + at;
		u32 size;

		if (at >= stop || option + 1 > (u8 *)end || option[0] == 0)
			break;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (option + 2 > (u8 *)end)
			return 0;
		size = option[1];
		if (size < 2 || at + size > stop)
			return 0;
		if (option[0] == 2 && size == 4)
			return option + 4 > (u8 *)end ? 0 : bpf_ntohs(*(__be16 *)(option + 2));
		at += size;
	}
	return 536;
}

static __always_inline u32 halves(u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

/* Sums are of words in network order: the checksum comes out in it, too. */
static __always_inline void write_answer(void *data, __be32 cookie, __be16 mss)
{
	u32 *word = data, a = word[0], b = word[1], c = word[2];
	struct iphdr *ip = data + 14;
	struct tcphdr *tcp = data + 34;
	__be32 src = ip->daddr, dst = ip->saddr, ack = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	__be16 source = tcp->dest, dest = tcp->source;
	u16 *half = (void *)tcp;

	word[0] = b >> 16 | c << 16;
	word[1] = c >> 16 | a << 16;
	word[2] = a >> 16 | b << 16;
	ip->tos = 0;
	ip->tot_len = bpf_htons(44);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->saddr = src;
	ip->daddr = dst;
	ip->check = ~fold(bpf_htons(0x4500) + bpf_htons(44) + bpf_htons(0x4000) +
	                  bpf_htons(0x4006) + halves(src) + halves(dst));
	tcp->source = source;
	tcp->dest = dest;
	tcp->seq = cookie;
	tcp->ack_seq = ack;
	half[6] = bpf_htons(0x6012);
	tcp->window = 65535;
	tcp->urg_ptr = 0;
	half[10] = bpf_htons(0x0204);
	half[11] = mss;
	tcp->check = ~fold(halves(src) + halves(dst) + bpf_htons(6 + 24) + source + dest +
	                   halves(cookie) + halves(ack) + bpf_htons(0x6012) + 65535 +
	                   bpf_htons(0x0204) + mss);
}

static __always_inline int answer(struct xdp_md *ctx, void *data, void *end, u32 length)
{
	u32 mss = mss_of(data, end, 34 + length);
	long long cookie;

	if (!mss)
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, LONGEST - (int)(end - data)))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + LONGEST > end)
		return XDP_DROP;
	cookie = bpf_tcp_raw_gen_syncookie_ipv4(data + 14, data + 34, length);
	if (cookie < 0)
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, ANSWER - LONGEST))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ANSWER > end)
		return XDP_DROP;
	write_answer(data, bpf_htonl(cookie), bpf_htons(mss > OUR_MSS ? OUR_MSS : mss));
	return XDP_TX;
}

SEC("xdp")
int nf(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + 14;
	struct tcphdr *tcp;
	struct service service = {};
	struct connection key;
	u32 total, flags, yes = 1;

	if ((void *)(ip + 1) > end || ((u16 *)data)[6] != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	total = bpf_ntohs(ip->tot_len);
	if (*(u8 *)ip != 0x45 || total < 20 || (void *)ip + total > end || is_fragment(ip))
		return XDP_PASS;
	tcp = tcp_header(ip, 20, total, end);
	if (!tcp)
		return XDP_PASS;
	service.address = bpf_ntohl(ip->daddr);
	service.port = bpf_ntohs(tcp->dest);
	if (!bpf_map_lookup_elem(&syn_services, &service))
		return XDP_PASS;
	flags = ((u8 *)tcp)[13] & (FIN | SYN | RST | ACK);
	if (flags == SYN)
		return answer(ctx, data, end, ((u8 *)tcp)[12] >> 4 << 2);
	key.src = bpf_ntohl(ip->saddr);
	key.dst = service.address;
	key.sport = bpf_ntohs(tcp->source);
	key.dport = service.port;
	if (bpf_map_lookup_elem(&syn_known, &key))
		return XDP_PASS;
	if (flags != ACK || bpf_tcp_raw_check_syncookie_ipv4(ip, tcp))
		return XDP_DROP;
	bpf_map_update_elem(&syn_known, &key, &yes, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
