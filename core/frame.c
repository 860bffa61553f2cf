/* SPDX-License-Identifier: BSD-3-Clause */
/* frame.c - where the headers of a frame end: what may be shown of it to those who must not see
 * payload. */
#include "abi.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

#define TAGS_MAX 2
#define EXTENSIONS_MAX 8
#define IPPROTO_VARIOUS 135 /* mobility; 139, 140: HIP, shim6 (RFC 8200 and after) */

struct cursor {
	const uint8_t *frame;
	uint32_t at, len; /* headers end at `at`; the frame at len */
	bool whole;       /* at has not run past the end */
};

static bool take(struct cursor *c, uint32_t bytes)
{
	c->whole = c->whole && bytes <= c->len - c->at;
	c->at = c->whole ? c->at + bytes : c->len;
	return c->whole;
}

static uint16_t be16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return ntohs(value);
}

static void layer4(struct cursor *c, unsigned protocol)
{
	const uint8_t *header = c->frame + c->at;

	switch (protocol) {
	case IPPROTO_TCP:
		if (take(c, 20) && (header[12] >> 4) > 5)
			take(c, ((header[12] >> 4) - 5) * 4);
		return;
	case IPPROTO_UDP:
	case IPPROTO_ICMP:
		take(c, 8);
		return;
	case IPPROTO_ICMPV6: /* router and neighbour discovery (RFC 4861) have no payload */
		if (take(c, 8) && header[0] >= 133 && header[0] <= 137)
			take(c, c->len - c->at);
		return;
	case IPPROTO_SCTP:
		take(c, 12);
		return;
	case IPPROTO_GRE:
		take(c, 4);
		return;
	default:
		return;
	}
}

static void ipv4(struct cursor *c)
{
	const uint8_t *ip = c->frame + c->at;
	unsigned words;

	if (!take(c, 20))
		return;
	words = ip[0] & 15;
	if (words > 5 && !take(c, (words - 5) * 4))
		return;
	if (!(be16(ip + 6) & 0x1fff)) /* a later fragment starts with payload */
		layer4(c, ip[9]);
}

static bool is_extension(unsigned next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_AH || next == IPPROTO_DSTOPTS || next == IPPROTO_VARIOUS ||
	       next == 139 || next == 140;
}

static void ipv6(struct cursor *c)
{
	const uint8_t *ip = c->frame + c->at;
	unsigned next;

	if (!take(c, 40))
		return;
	next = ip[6];
	for (unsigned i = 0; i < EXTENSIONS_MAX && is_extension(next); i++) {
		const uint8_t *header = c->frame + c->at;
		unsigned kind = next;

		if (!take(c, 8))
			return;
		next = header[0];
		if (kind == IPPROTO_FRAGMENT && be16(header + 2) & 0xfff8)
			return;
		if (kind == IPPROTO_AH && header[1] > 0 && !take(c, header[1] * 4u))
			return;
		if (kind != IPPROTO_FRAGMENT && kind != IPPROTO_AH && header[1] &&
		    !take(c, header[1] * 8u))
			return;
	}
	if (!is_extension(next))
		layer4(c, next);
}

uint32_t tw_header_length(const uint8_t *frame, uint32_t len)
{
	struct cursor c = { .frame = frame, .len = len, .whole = true };
	unsigned type;

	if (!take(&c, 14))
		return c.at;
	type = be16(frame + 12);
	for (unsigned i = 0; i < TAGS_MAX && (type == ETHERTYPE_VLAN || type == 0x88a8); i++) {
		if (!take(&c, 4))
			return c.at;
		type = be16(frame + c.at - 2);
	}
	if (type == ETHERTYPE_IP)
		ipv4(&c);
	else if (type == ETHERTYPE_IPV6)
		ipv6(&c);
	else if (type == ETHERTYPE_ARP)
		take(&c, 28);
	return c.at;
}
