/* SPDX-License-Identifier: BSD-3-Clause */
/* text.c - texts of messages: what may stand in them, and headers by name. */
#include "abi.h"

#include <stdatomic.h>
#include <string.h>

static bool is_tchar(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_host(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr("-._~!$&'()*+,;=%:[]", c));
}

static bool belongs(unsigned char c, uint32_t kind)
{
	switch (kind) {
	case TW_TEXT_TOKEN:
		return is_tchar(c);
	case TW_TEXT_VALUE:
		return c == '\t' || (c >= 0x20 && c != 0x7f);
	case TW_TEXT_TARGET:
		return c > 0x20 && c < 0x7f && c != '#';
	case TW_TEXT_HOST:
		return is_host(c);
	}
	return false;
}

int32_t tw_text_wrong(const char *text, uint32_t len, uint32_t kind)
{
	for (uint32_t i = 0; i < len; i++)
		if (!belongs(text[i], kind))
			return i;
	return -1;
}

uint32_t tw_text_key(const char *text, uint32_t len)
{
	uint32_t hash = 2166136261u;

	for (uint32_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)text[i]) * 16777619u;
	return hash ? hash : 1;
}

/* Somebody else may write meanwhile: what was checked is what is used. */
#define ONCE(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

static bool same(const char *text, const char *lower, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		char c = text[i];

		if (c >= 'A' && c <= 'Z')
			c |= 0x20;
		if (c != lower[i])
			return false;
	}
	return true;
}

int32_t tw_msg_find(const struct tw_msg *msg, uint32_t size, const char *lower, uint32_t len,
                    uint32_t hash, uint32_t from)
{
	const char *block = (const char *)msg;
	uint32_t at = ONCE(msg->headers), n = ONCE(msg->n_headers);
	const struct tw_header *header;

	if (n == 0)
		return -1;
	if (n > TW_HEADERS_MAX || at > size || at % 4 || n * sizeof(*header) > size - at)
		return -2;
	header = (const struct tw_header *)(block + at);
	for (uint32_t i = from; i < n; i++) {
		uint32_t where;

		if (ONCE(header[i].hash) != hash || ONCE(header[i].name.len) != len || !len)
			continue;
		where = ONCE(header[i].name.at);
		if (where > size || len > size - where)
			return -2;
		if (same(block + where, lower, len))
			return i;
	}
	return -1;
}
