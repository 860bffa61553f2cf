/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_proxy.h - the part of the boundary for the PROXY protocol: what a proxy in front says about a
 * connection; same conventions as abi.h, which includes it.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum {
	TW_PROXY_MAX = 4096,      /* bytes of a header that is read */
	TW_PROXY_WRITE_MAX = 107, /* bytes of one that is written */
};

/* Addresses in network order, IPv4 in the first four bytes; ports in host order. */
struct proxy_facts {
	uint8_t family;   /* 4, 6; 0: it says nothing (LOCAL, UNKNOWN): the connection's own hold */
	uint8_t datagram; /* 1: about a datagram (version 2 only) */
	uint16_t peer_port, local_port;
	uint8_t peer[16], local[16];
};

/* Reads a header of version 1 or 2 at the start of a connection: the bytes it takes, 0: not all of
 * it is there, -EPROTO with a sentence: it is not one. */
int tw_proxy_read(const uint8_t *bytes, size_t len, struct proxy_facts *out);
/* Writes one, its length; -EINVAL for another version, or a datagram in version 1, -EMSGSIZE. */
int tw_proxy_write(uint32_t version, const struct proxy_facts *facts, char *to, size_t size);
