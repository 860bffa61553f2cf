/* SPDX-License-Identifier: BSD-3-Clause */
/* http_text.c - which bytes may stand where in a head (RFC 9110 5.5, 5.6.2, 7.2; RFC 3986 3.2.2),
 * and headers by name. */
#include "gate/http_in.h"

#include <string.h>
#include <strings.h>

#define LETTERS(base) [(base) + 1 ...(base) + 26] = 1

const uint8_t http_token_byte[256] = {
	['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,     ['\''] = 1,
	['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,     ['_'] = 1,
	['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, LETTERS(0x40), LETTERS(0x60),
};

/* unreserved, sub-delims and "%" of a reg-name. */
static const uint8_t host_byte[256] = {
	['-'] = 1, ['.'] = 1,         ['_'] = 1,     ['~'] = 1,     ['!'] = 1,
	['$'] = 1, ['&'] = 1,         ['\''] = 1,    ['('] = 1,     [')'] = 1,
	['*'] = 1, ['+'] = 1,         [','] = 1,     [';'] = 1,     ['='] = 1,
	['%'] = 1, ['0' ... '9'] = 1, LETTERS(0x40), LETTERS(0x60),
};

bool http_is_token(const char *text, uint32_t len)
{
	uint8_t all = len > 0;

	for (uint32_t i = 0; i < len; i++)
		all &= http_token_byte[(uint8_t)text[i]];
	return all;
}

static bool value_byte(uint8_t byte)
{
	return (byte >= ' ' && byte != 0x7f) || byte == '\t';
}

/* Eight bytes at a time; those that may hold something else are looked at one by one. */
bool http_is_value(const char *text, uint32_t len)
{
	const uint64_t ones = 0x0101010101010101, high = ones * 0x80;
	uint32_t i = 0;

	for (; i + 8 <= len; i += 8) {
		uint64_t word, low, del;

		memcpy(&word, text + i, 8);
		low = (word - ones * ' ') & ~word & high;
		del = word ^ ones * 0x7f;
		del = (del - ones) & ~del & high;
		if (!(low | del))
			continue;
		for (uint32_t k = i; k < i + 8; k++) {
			if (!value_byte((uint8_t)text[k]))
				return false;
		}
	}
	for (; i < len; i++) {
		if (!value_byte((uint8_t)text[i]))
			return false;
	}
	return true;
}

bool http_is_target(const char *text, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		uint8_t byte = (uint8_t)text[i];

		if (byte <= ' ' || byte >= 0x7f || byte == '#')
			return false;
	}
	return len > 0;
}

/* "[" IPv6 or later "]"; its length, 0: it is not one. */
static uint32_t literal(const char *text, uint32_t len)
{
	for (uint32_t i = 1; i < len; i++) {
		uint8_t byte = (uint8_t)text[i];

		if (byte == ']')
			return i > 1 ? i + 1 : 0;
		if (!host_byte[byte] && byte != ':')
			return 0;
	}
	return 0;
}

bool http_is_host(const char *text, uint32_t len)
{
	uint32_t at = 0, port = 0;

	if (len && text[0] == '[') {
		at = literal(text, len);
	} else {
		while (at < len && host_byte[(uint8_t)text[at]])
			at++;
	}
	if (!at)
		return false;
	if (at == len)
		return true;
	if (text[at++] != ':' || len - at > 5)
		return false;
	for (; at < len; at++) {
		if (text[at] < '0' || text[at] > '9')
			return false;
		port = port * 10 + (uint32_t)(text[at] - '0');
	}
	return port <= 65535;
}

uint32_t tw_header_hash(const char *name, uint32_t len)
{
	uint32_t hash = 2166136261u;

	for (uint32_t i = 0; i < len; i++) {
		uint8_t byte = (uint8_t)name[i];

		if (byte >= 'A' && byte <= 'Z')
			byte |= 0x20;
		hash = (hash ^ byte) * 16777619u;
	}
	return hash;
}

/* A copy in private memory, good until eight calls later: what was checked must be what is used. */
const struct tw_header *http_find(const struct tw_msg *msg, uint32_t block_size, const char *name)
{
	static _Thread_local struct tw_header found[8];
	static _Thread_local unsigned turn;
	uint32_t table = msg->headers, n = msg->n_headers, len = (uint32_t)strlen(name);
	const char *block = (const char *)msg;
	struct tw_header *copy = &found[turn++ % 8];

	if (n > TW_HEADERS_MAX || table % 8 || table > block_size ||
	    n > (block_size - table) / sizeof(struct tw_header))
		return NULL;
	for (uint32_t i = 0; i < n; i++) {
		*copy = ((const struct tw_header *)(block + table))[i];
		http_copied(copy);
		if (copy->name.len == len && http_inside(copy->name, block_size) &&
		    http_inside(copy->value, block_size) &&
		    !strncasecmp(block + copy->name.at, name, len))
			return copy;
	}
	return NULL;
}
