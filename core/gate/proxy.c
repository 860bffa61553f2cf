/* SPDX-License-Identifier: BSD-3-Clause */
/* proxy.c - PROXY protocol headers, versions 1 and 2: strict reading, writing. */
#include "gate/proxy.h"
#include "error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	V1_MAX = 107, /* with CR LF */
	V2_HEAD = 16,
	V2_LOCAL = 0,
	V2_PROXY = 1,
	V2_UNSPEC = 0,
	V2_INET = 1,
	V2_INET6 = 2,
	V2_UNIX = 3,
	V2_STREAM = 1,
	V2_DGRAM = 2,
	V2_UNIX_BYTES = 216,
};

static const uint8_t v1_start[] = { 'P', 'R', 'O', 'X', 'Y', ' ' };
static const uint8_t v2_start[] = { 13, 10, 13, 10, 0, 13, 10, 'Q', 'U', 'I', 'T', 10 };

/* ---- version 1: one line ---- */

/* The word up to the next space, behind which *line is put; NULL: none, or too long. */
static const char *word(const char **line, const char *end, char *to, size_t size)
{
	const char *space = memchr(*line, ' ', (size_t)(end - *line));
	size_t n = (size_t)((space ? space : end) - *line);
	if (n == 0 || n >= size)
		return NULL;
	memcpy(to, *line, n);
	to[n] = 0;
	*line = space ? space + 1 : NULL;
	return to;
}

/* Decimal, 0 to 65535, no leading zeros. */
static int port(const char *text, uint16_t *to)
{
	uint32_t value = 0;
	if (text[0] == '0' && text[1])
		return -1;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9' || p - text >= 5)
			return -1;
		value = value * 10 + (uint32_t)(*p - '0');
	}
	if (value > 65535)
		return -1;
	*to = (uint16_t)value;
	return 0;
}

static int v1_addresses(const char *line, const char *end, int family, struct proxy_facts *out)
{
	char text[4][INET6_ADDRSTRLEN];
	for (int i = 0; i < 4; i++) {
		if (!line || !word(&line, end, text[i], sizeof text[i]))
			return -1;
	}
	if (line)
		return -1;
	if (inet_pton(family, text[0], out->peer) != 1 ||
	    inet_pton(family, text[1], out->local) != 1)
		return -1;
	if (port(text[2], &out->peer_port) || port(text[3], &out->local_port))
		return -1;
	out->family = family == AF_INET ? 4 : 6;
	return 0;
}

static int v1_read(const uint8_t *bytes, size_t len, struct proxy_facts *out)
{
	size_t max = len < V1_MAX ? len : V1_MAX;
	const uint8_t *cr = memchr(bytes, '\r', max);
	const uint8_t *lf = memchr(bytes, '\n', max);
	if (memchr(bytes, 0, cr ? (size_t)(cr - bytes) : max) || (lf && (!cr || lf < cr)) ||
	    (!cr && len >= V1_MAX - 1))
		return tw_fail(EPROTO, "PROXY header of version 1: not a line of at most %d bytes",
		               V1_MAX);
	if (!cr || cr + 1 == bytes + max)
		return cr && max == V1_MAX ? tw_fail(EPROTO, "PROXY header: CR without LF") : 0;
	if (cr[1] != '\n')
		return tw_fail(EPROTO, "PROXY header of version 1: CR without LF");

	const char *line = (const char *)bytes + sizeof v1_start, *end = (const char *)cr;
	size_t rest = (size_t)(end - line);
	int used = (int)(cr + 2 - bytes);
	if (rest >= 7 && memcmp(line, "UNKNOWN", 7) == 0 && (rest == 7 || line[7] == ' '))
		return used;
	int family = rest < 5                        ? 0
	             : memcmp(line, "TCP4 ", 5) == 0 ? AF_INET
	             : memcmp(line, "TCP6 ", 5) == 0 ? AF_INET6
	                                             : 0;
	if (!family || v1_addresses(line + 5, end, family, out)) {
		memset(out, 0, sizeof *out);
		return tw_fail(EPROTO,
		               "PROXY header of version 1: \"%.*s\" is not TCP4 or TCP6, two "
		               "addresses and two ports, nor UNKNOWN",
		               (int)rest, line);
	}
	return used;
}

/* ---- version 2: binary ---- */

/* Type, length, value until the end; what they say is not used. */
static int v2_extras(const uint8_t *at, const uint8_t *end)
{
	while (at < end) {
		if (end - at < 3)
			return -1;
		size_t n = 3 + (size_t)(at[1] << 8 | at[2]);
		if ((size_t)(end - at) < n)
			return -1;
		at += n;
	}
	return 0;
}

static int v2_addresses(const uint8_t *bytes, size_t total, struct proxy_facts *out)
{
	uint32_t family = bytes[13] >> 4, protocol = bytes[13] & 15;
	const uint8_t *at = bytes + V2_HEAD;
	if (family > V2_UNIX || protocol > V2_DGRAM)
		return tw_fail(EPROTO, "PROXY header of version 2: family and protocol 0x%02x",
		               bytes[13]);
	/* Not said, or about something that has no addresses of ours: the connection's own hold. */
	if (family == V2_UNSPEC || protocol == 0)
		return (int)total;
	size_t one = family == V2_INET ? 4 : 16;
	size_t room = family == V2_UNIX ? V2_UNIX_BYTES : 2 * one + 4;
	if (total - V2_HEAD < room || v2_extras(at + room, bytes + total))
		return tw_fail(
			EPROTO,
			"PROXY header of version 2: its length %zu does not fit what is in it",
			total - V2_HEAD);
	if (family == V2_UNIX)
		return (int)total;
	memcpy(out->peer, at, one);
	memcpy(out->local, at + one, one);
	at += 2 * one;
	out->peer_port = (uint16_t)(at[0] << 8 | at[1]);
	out->local_port = (uint16_t)(at[2] << 8 | at[3]);
	out->family = family == V2_INET ? 4 : 6;
	out->datagram = protocol == V2_DGRAM;
	return (int)total;
}

static int v2_read(const uint8_t *bytes, size_t len, struct proxy_facts *out)
{
	if (len > 12 && (bytes[12] >> 4 != 2 || (bytes[12] & 15) > V2_PROXY))
		return tw_fail(EPROTO, "PROXY header: version and command 0x%02x", bytes[12]);
	if (len < V2_HEAD)
		return 0;
	size_t total = V2_HEAD + (size_t)(bytes[14] << 8 | bytes[15]);
	if (total > TW_PROXY_MAX)
		return tw_fail(EPROTO, "PROXY header of %zu bytes; at most %d are read", total,
		               TW_PROXY_MAX);
	if (len < total)
		return 0;
	if ((bytes[12] & 15) == V2_LOCAL)
		return (int)total;
	return v2_addresses(bytes, total, out);
}

int tw_proxy_read(const uint8_t *bytes, size_t len, struct proxy_facts *out)
{
	memset(out, 0, sizeof *out);
	if (len == 0)
		return 0;
	if (memcmp(bytes, v1_start, len < sizeof v1_start ? len : sizeof v1_start) == 0)
		return len <= sizeof v1_start ? 0 : v1_read(bytes, len, out);
	if (memcmp(bytes, v2_start, len < sizeof v2_start ? len : sizeof v2_start) == 0)
		return len <= sizeof v2_start ? 0 : v2_read(bytes, len, out);
	return tw_fail(EPROTO,
	               "connection does not begin with a PROXY header (first byte 0x%02x); "
	               "send one, or take proxy from the listener",
	               bytes[0]);
}

/* ---- writing ---- */

static int v1_write(const struct proxy_facts *facts, char *to, size_t size)
{
	char line[V1_MAX + 1], peer[INET6_ADDRSTRLEN], local[INET6_ADDRSTRLEN];
	int n;
	if (facts->datagram)
		return tw_fail(EINVAL,
		               "PROXY headers of version 1 know no datagrams; use version 2");
	if (facts->family == 4 || facts->family == 6) {
		int family = facts->family == 4 ? AF_INET : AF_INET6;
		inet_ntop(family, facts->peer, peer, sizeof peer);
		inet_ntop(family, facts->local, local, sizeof local);
		n = snprintf(line, sizeof line, "PROXY TCP%u %s %s %u %u\r\n", facts->family, peer,
		             local, facts->peer_port, facts->local_port);
	} else {
		n = snprintf(line, sizeof line, "PROXY UNKNOWN\r\n");
	}
	if ((size_t)n > size)
		return tw_fail(EMSGSIZE, "PROXY header of %d bytes, room for %zu", n, size);
	memcpy(to, line, (size_t)n);
	return n;
}

static int v2_write(const struct proxy_facts *facts, char *to, size_t size)
{
	uint8_t head[V2_HEAD + 36];
	size_t one = facts->family == 4 ? 4 : facts->family == 6 ? 16 : 0;
	size_t body = one ? 2 * one + 4 : 0;
	if (V2_HEAD + body > size)
		return tw_fail(EMSGSIZE, "PROXY header of %zu bytes, room for %zu", V2_HEAD + body,
		               size);
	memcpy(head, v2_start, sizeof v2_start);
	head[12] = 2 << 4 | (one ? V2_PROXY : V2_LOCAL);
	head[13] = 0;
	if (one)
		head[13] = (uint8_t)((one == 4 ? V2_INET : V2_INET6) << 4 |
		                     (facts->datagram ? V2_DGRAM : V2_STREAM));
	head[14] = 0;
	head[15] = (uint8_t)body;
	if (one) {
		uint8_t *at = head + V2_HEAD;
		memcpy(at, facts->peer, one);
		memcpy(at + one, facts->local, one);
		at += 2 * one;
		at[0] = (uint8_t)(facts->peer_port >> 8);
		at[1] = (uint8_t)facts->peer_port;
		at[2] = (uint8_t)(facts->local_port >> 8);
		at[3] = (uint8_t)facts->local_port;
	}
	memcpy(to, head, V2_HEAD + body);
	return (int)(V2_HEAD + body);
}

int tw_proxy_write(uint32_t version, const struct proxy_facts *facts, char *to, size_t size)
{
	if (version == 1)
		return v1_write(facts, to, size);
	if (version == 2)
		return v2_write(facts, to, size);
	return tw_fail(EINVAL, "there is no PROXY protocol of version %u; there are 1 and 2",
	               version);
}
