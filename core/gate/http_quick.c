/* SPDX-License-Identifier: BSD-3-Clause */
/* http_quick.c - reads a head as nearly all of them are, in one pass: all of it is there, and every
 * byte is where it should be. Whatever is not so is left to http_head.c, which knows what is wrong
 * with it: what this accepts, that accepts too, and in the same way. */
#include "gate/http_in.h"

#include <string.h>

/* Bytes of a token (RFC 9110 5.6.2), in lower case; 0: it may not be one. */
#define AS_IS(byte) [byte] = (byte)
#define UPPER(byte) [(byte)-0x20] = (byte), [byte] = (byte)
static const uint8_t lower[256] = {
	AS_IS('!'), AS_IS('#'), AS_IS('$'), AS_IS('%'), AS_IS('&'), AS_IS('\''), AS_IS('*'),
	AS_IS('+'), AS_IS('-'), AS_IS('.'), AS_IS('^'), AS_IS('_'), AS_IS('`'),  AS_IS('|'),
	AS_IS('~'), AS_IS('0'), AS_IS('1'), AS_IS('2'), AS_IS('3'), AS_IS('4'),  AS_IS('5'),
	AS_IS('6'), AS_IS('7'), AS_IS('8'), AS_IS('9'), UPPER('a'), UPPER('b'),  UPPER('c'),
	UPPER('d'), UPPER('e'), UPPER('f'), UPPER('g'), UPPER('h'), UPPER('i'),  UPPER('j'),
	UPPER('k'), UPPER('l'), UPPER('m'), UPPER('n'), UPPER('o'), UPPER('p'),  UPPER('q'),
	UPPER('r'), UPPER('s'), UPPER('t'), UPPER('u'), UPPER('v'), UPPER('w'),  UPPER('x'),
	UPPER('y'), UPPER('z'),
};

static bool skip(const char **at, const char *end, const char *word, size_t len)
{
	if ((size_t)(end - *at) < len || memcmp(*at, word, len))
		return false;
	*at += len;
	return true;
}
#define SKIP(word) skip(at, end, word, sizeof(word) - 1)

static bool method(struct http_in *in, const char **at, const char *end)
{
	if (SKIP("GET "))
		in->method = HTTP_GET;
	else if (SKIP("POST "))
		in->method = HTTP_POST;
	else if (SKIP("HEAD "))
		in->method = HTTP_HEAD;
	else if (SKIP("PUT "))
		in->method = HTTP_PUT;
	else if (SKIP("DELETE "))
		in->method = HTTP_DELETE;
	else if (SKIP("PATCH "))
		in->method = HTTP_PATCH;
	else
		return false;
	return true;
}

static bool request_line(struct http_head *head, const char **at, const char *end)
{
	const char *from;

	if (!method(head->in, at, end) || *at == end || **at != '/')
		return false;
	for (from = *at; *at < end; ++*at) {
		uint8_t byte = (uint8_t) * *at;

		if (byte <= ' ' || byte >= 0x7f || byte == '#')
			break;
	}
	head->target = (struct tw_text){ (uint32_t)(from - head->block), (uint32_t)(*at - from) };
	if (head->target.len > HTTP_TARGET_MAX || !SKIP(" HTTP/1."))
		return false;
	head->in->version = *at < end && **at == '1';
	return SKIP("1\r\n") || SKIP("0\r\n");
}

/* The first byte from here on that no value may have, but for tabs (RFC 9110 5.5). */
static const char *value_end(const char *at, const char *end)
{
	const uint64_t ones = 0x0101010101010101, high = ones * 0x80;

	for (; end - at >= 8; at += 8) {
		uint64_t word, low, del;

		memcpy(&word, at, 8);
		low = (word - ones * ' ') & ~word & high;
		del = word ^ ones * 0x7f;
		del = (del - ones) & ~del & high;
		if (low | del)
			break;
	}
	for (; at < end; at++) {
		uint8_t byte = (uint8_t)*at;

		if ((byte < ' ' && byte != '\t') || byte == 0x7f)
			break;
	}
	return at;
}

static bool status_line(struct http_head *head, const char **at, const char *end)
{
	struct http_in *in = head->in;
	const char *from;
	unsigned i;

	if (!SKIP("HTTP/1.") || end - *at < 6 || (**at != '0' && **at != '1'))
		return false;
	in->version = (uint8_t)(*(*at)++ - '0');
	if (*(*at)++ != ' ')
		return false;
	for (i = 0, in->status = 0; i < 3; i++, ++*at) {
		if (**at < '0' || **at > '9')
			return false;
		in->status = (uint16_t)(in->status * 10 + (**at - '0'));
	}
	if (in->status < 100 || in->status > 599 || !SKIP(" "))
		return false;
	from = *at;
	*at = value_end(from, end);
	head->reason = (struct tw_text){ (uint32_t)(from - head->block), (uint32_t)(*at - from) };
	/* One that begins with a blank is not the same to all. */
	return head->reason.len && *from != ' ' && *from != '\t' && SKIP("\r\n");
}

static bool is_blank(char byte)
{
	return byte == ' ' || byte == '\t';
}

static bool field_line(struct http_head *head, const char **at, const char *end)
{
	unsigned n = head->in->n_headers;
	const char *from = *at, *to;
	uint32_t hash = 2166136261u; /* as tw_header_hash() */

	if (n == TW_HEADERS_MAX)
		return false;
	for (; *at < end && lower[(uint8_t) * *at]; ++*at)
		hash = (hash ^ lower[(uint8_t) * *at]) * 16777619u;
	head->field[n].name = (struct tw_text){ (uint32_t)(from - head->block),
		                                (uint32_t)(*at - from) };
	head->field[n].hash = hash;
	if (*at == from || !SKIP(":"))
		return false;
	/* libhttp_parser takes what only begins with it for the field itself. */
	if (head->field[n].name.len > 17 && http_same(from, 17, "transfer-encoding"))
		return false;
	while (*at < end && is_blank(**at))
		++*at;
	from = *at;
	*at = to = value_end(from, end);
	while (to > from && is_blank(to[-1]))
		to--;
	head->field[n].value = (struct tw_text){ (uint32_t)(from - head->block),
		                                 (uint32_t)(to - from) };
	head->in->n_headers = (uint16_t)(n + 1);
	return SKIP("\r\n");
}

bool http_quick(struct http_head *head, uint32_t from, uint32_t to)
{
	struct http_in *in = head->in;
	const char *start = head->block + from, *end = head->block + to, **at = &start;

	head->target = head->reason = (struct tw_text){ 0, 0 };
	in->n_headers = 0;
	if (in->response ? !status_line(head, at, end) : !request_line(head, at, end))
		return false;
	while (!SKIP("\r\n")) {
		if (!field_line(head, at, end))
			return false;
	}
	head->end = (uint32_t)(start - head->block);
	return true;
}
