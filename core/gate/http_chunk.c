/* SPDX-License-Identifier: BSD-3-Clause */
/* http_chunk.c - reads chunked bodies (RFC 9112 7.1), byte exact: what others read as a chunk's end
 * is one here too. libhttp_parser, as distributions build it, takes any byte for the line feeds. */
#include "gate/http_in.h"

static int hex(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The line of a chunk's size; NULL, or what is wrong. */
static const char *size_byte(struct http_in *in, uint8_t byte)
{
	int digit = hex(byte);

	if (++in->line > HTTP_CHUNK_LINE_MAX)
		return "the size and extensions of a chunk are too long";
	switch (in->state) {
	case IN_CHUNK_SIZE:
		if (digit < 0)
			return "the size of a chunk is not a hexadecimal number";
		in->left = (uint64_t)digit;
		in->state = IN_CHUNK_DIGITS;
		return NULL;
	case IN_CHUNK_DIGITS:
		if (digit >= 0) {
			if (in->left >> 58)
				return "the size of a chunk is too large";
			in->left = in->left << 4 | (uint64_t)digit;
			return NULL;
		}
		if (byte != '\r' && byte != ';')
			return "the size of a chunk is not a hexadecimal number";
		in->state = byte == '\r' ? IN_CHUNK_LF : IN_CHUNK_EXTENSION;
		return NULL;
	case IN_CHUNK_EXTENSION:
		if (byte == '\r')
			in->state = IN_CHUNK_LF;
		else if ((byte < ' ' && byte != '\t') || byte == 0x7f)
			return "a control byte in a chunk extension";
		else if (++in->extra > HTTP_CHUNK_EXTRA_MAX)
			return "the chunk extensions are too long";
		return NULL;
	default: /* IN_CHUNK_LF */
		if (byte != '\n')
			return "the size of a chunk does not end with CR LF";
		in->line = 0;
		in->state = in->left ? IN_CHUNK_DATA : IN_TRAILER;
		return NULL;
	}
}

/* Trailers: well-formed and bounded (RFC 9112 7.1.2). */
static const char *trailer_state(struct http_in *in, uint8_t byte)
{
	if (++in->extra > HTTP_CHUNK_EXTRA_MAX)
		return "the trailers are too long";
	switch (in->state) {
	case IN_TRAILER:
		if (byte == '\r') {
			in->state = IN_LAST_LF;
			return NULL;
		}
		in->state = IN_TRAILER_NAME;
		return http_token_byte[byte] ? NULL : "the name of a trailer is not a token";
	case IN_TRAILER_NAME:
		if (byte == ':')
			in->state = IN_TRAILER_VALUE;
		else if (!http_token_byte[byte])
			return "the name of a trailer is not a token";
		return NULL;
	case IN_TRAILER_VALUE:
		if (byte == '\r')
			in->state = IN_TRAILER_LF;
		else if ((byte < ' ' && byte != '\t') || byte == 0x7f)
			return "a control byte in a trailer";
		return NULL;
	default: /* IN_TRAILER_LF, IN_LAST_LF */
		if (byte != '\n')
			return "a trailer does not end with CR LF";
		in->state = in->state == IN_LAST_LF ? IN_DONE : IN_TRAILER;
		return NULL;
	}
}

static const char *trailer_byte(struct http_in *in, uint8_t byte)
{
	const char *why = trailer_state(in, byte);

	if (!why && in->state != IN_LAST_LF && in->state != IN_DONE)
		http_trailer_byte(in, byte);
	return why;
}

static enum http_event data(struct http_in *in, uint32_t *at, uint32_t end)
{
	uint64_t n = end - *at;

	if (n > in->left)
		n = in->left;
	in->left -= n;
	if (!in->left)
		in->state = IN_CHUNK_END_CR;
	in->piece_at = *at;
	in->piece_len = (uint32_t)n;
	*at += (uint32_t)n;
	return HTTP_GOT_BODY;
}

enum http_event http_chunk_read(struct http_in *in, const char *block, uint32_t *at, uint32_t end)
{
	while (*at < end) {
		const char *why = NULL;
		uint8_t byte;

		if (in->state == IN_CHUNK_DATA)
			return data(in, at, end);
		byte = (uint8_t)block[(*at)++];
		if (in->state == IN_CHUNK_END_CR || in->state == IN_CHUNK_END_LF) {
			bool cr = in->state == IN_CHUNK_END_CR;

			if (byte != (cr ? '\r' : '\n'))
				why = "a chunk is longer than its size says";
			in->state = cr ? IN_CHUNK_END_LF : IN_CHUNK_SIZE;
		} else {
			why = in->state < IN_TRAILER ? size_byte(in, byte) : trailer_byte(in, byte);
		}
		if (why)
			return http_bad(in, 400, why);
		if (in->state == IN_DONE)
			return HTTP_GOT_END;
	}
	return HTTP_WANTS_MORE;
}
