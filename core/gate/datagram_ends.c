/* SPDX-License-Identifier: BSD-3-Clause */
/* datagram_ends.c - who has sent a datagram, and to which address of ours; back the same way. */
#include "gate/datagram.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

void datagram_ends_of(struct msghdr *msg, uint32_t local_port, struct datagram_ends *ends)
{
	struct proxy_facts *facts = &ends->facts;
	const struct sockaddr_in *in = (const struct sockaddr_in *)&ends->peer;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ends->peer;
	*facts = (struct proxy_facts){ .datagram = 1, .local_port = (uint16_t)local_port };
	ends->peer_len = msg->msg_namelen;
	ends->interface = 0;
	facts->family = 4;
	if (ends->peer.ss_family == AF_INET) {
		memcpy(facts->peer, &in->sin_addr, 4);
		facts->peer_port = ntohs(in->sin_port);
	} else if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		memcpy(facts->peer, in6->sin6_addr.s6_addr + 12, 4);
		facts->peer_port = ntohs(in6->sin6_port);
	} else {
		facts->family = 6;
		memcpy(facts->peer, &in6->sin6_addr, 16);
		facts->peer_port = ntohs(in6->sin6_port);
	}
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		struct in_pktinfo info;
		struct in6_pktinfo info6;
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			memcpy(&info, CMSG_DATA(c), sizeof info);
			memcpy(facts->local, &info.ipi_addr, 4);
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			memcpy(&info6, CMSG_DATA(c), sizeof info6);
			if (facts->family == 4)
				memcpy(facts->local, info6.ipi6_addr.s6_addr + 12, 4);
			else
				memcpy(facts->local, &info6.ipi6_addr, 16);
			/* Addresses of a link need to be told which one. */
			if (IN6_IS_ADDR_LINKLOCAL(&info6.ipi6_addr))
				ends->interface = info6.ipi6_ifindex;
		}
	}
}

void datagram_header(const struct datagram_ends *ends, struct msghdr *msg, void *control)
{
	struct cmsghdr *c = control;
	*msg = (struct msghdr){ .msg_name = (void *)&ends->peer, .msg_namelen = ends->peer_len };
	msg->msg_control = control;
	if (ends->peer.ss_family == AF_INET) {
		struct in_pktinfo info = { 0 };
		memcpy(&info.ipi_spec_dst, ends->facts.local, 4);
		msg->msg_controllen = CMSG_SPACE(sizeof info);
		c->cmsg_level = IPPROTO_IP;
		c->cmsg_type = IP_PKTINFO;
		c->cmsg_len = CMSG_LEN(sizeof info);
		memcpy(CMSG_DATA(c), &info, sizeof info);
		return;
	}
	struct in6_pktinfo info6 = { .ipi6_ifindex = ends->interface };
	if (ends->facts.family == 4) { /* of an IPv4 client, at a socket of both */
		info6.ipi6_addr.s6_addr[10] = info6.ipi6_addr.s6_addr[11] = 0xff;
		memcpy(info6.ipi6_addr.s6_addr + 12, ends->facts.local, 4);
		info6.ipi6_ifindex = 0;
	} else {
		memcpy(&info6.ipi6_addr, ends->facts.local, 16);
	}
	msg->msg_controllen = CMSG_SPACE(sizeof info6);
	c->cmsg_level = IPPROTO_IPV6;
	c->cmsg_type = IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof info6);
	memcpy(CMSG_DATA(c), &info6, sizeof info6);
}
