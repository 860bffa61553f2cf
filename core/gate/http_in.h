/* SPDX-License-Identifier: BSD-3-Clause */
/* http_in.h - what the files of the HTTP reader share: http.c (events), http_head.c (the head by
 * libhttp_parser, and strictly), http_fields.c (what fields mean for the connection), http_chunk.c.
 */
#pragma once
#include "gate/http.h"

#include <string.h>

/* http_in.state */
enum http_state {
	IN_START,    /* nothing came yet */
	IN_START_CR, /* the CR of an empty line in front of a request */
	IN_START_LF, /* that line is over; one is forgiven (RFC 9112 2.2) */
	IN_HEAD,
	IN_LENGTH,     /* a body of so many bytes */
	IN_UNTIL_LOST, /* a body that the end of the connection ends */
	IN_CHUNK_SIZE, /* http_chunk.c: */
	IN_CHUNK_DIGITS,
	IN_CHUNK_EXTENSION,
	IN_CHUNK_LF,
	IN_CHUNK_DATA,
	IN_CHUNK_END_CR,
	IN_CHUNK_END_LF,
	IN_TRAILER,
	IN_TRAILER_NAME,
	IN_TRAILER_VALUE,
	IN_TRAILER_LF,
	IN_LAST_LF,
	IN_END, /* HTTP_GOT_END is to be said */
	IN_DONE,
	IN_BAD,
};

/* http_in.last */
enum http_part { PART_NONE, PART_TARGET, PART_REASON, PART_NAME, PART_VALUE };

/* Where the parts of the head are that is being read: private to the thread, so that functions
 * cannot change what was checked. */
struct http_head {
	struct http_in *in;
	char *block;
	uint32_t end; /* of the head */
	bool whole;
	struct tw_text target, reason, host;
	struct {
		struct tw_text name, value;
		uint32_t hash; /* 0: taken out */
	} field[TW_HEADERS_MAX];
};

/* A byte of a trailer, line feeds too (http_trailer.c). */
void http_trailer_byte(struct http_in *in, uint8_t byte);
/* Which bytes a token may have (RFC 9110 5.6.2); and a whole one, of at least one byte. */
extern const uint8_t http_token_byte[256];
bool http_is_token(const char *text, uint32_t len);
/* No control bytes but tabs (RFC 9110 5.5). */
bool http_is_value(const char *text, uint32_t len);
/* Visible ASCII without '#'. */
bool http_is_target(const char *text, uint32_t len);
/* uri-host [ ":" port ] (RFC 9110 4.2, 7.2), not empty. */
bool http_is_host(const char *text, uint32_t len);

/* What lies behind `copy` was copied from memory that others write to; the compiler may not read it
 * there a second time. */
static inline void http_copied(void *copy)
{
	__asm__ volatile("" : : "r"(copy) : "memory");
}

static inline bool http_inside(struct tw_text text, uint32_t size)
{
	return text.at <= size && text.len <= size - text.at;
}

/* The same but for case? `word` is in lower case: letters, digits and "-"; `text` has no control
 * bytes. */
static inline bool http_same(const char *text, uint32_t len, const char *word)
{
	if (strlen(word) != len)
		return false;
	for (uint32_t i = 0; i < len; i++) {
		if ((text[i] | 0x20) != word[i])
			return false;
	}
	return true;
}

enum http_event http_bad(struct http_in *in, int status, const char *why);
enum http_event http_head_read(struct http_in *in, void *block, uint32_t size, uint32_t *at,
                               uint32_t end);
/* Reads [from .. to) when that begins with a whole head in which nothing is unusual: `end`, the
 * first line and the fields are set then. False: something is, or more has to come. */
bool http_quick(struct http_head *head, uint32_t from, uint32_t to);
/* Framing, persistence and host from the fields; 0, or http_bad() was called. */
int http_fields(struct http_head *head);
enum http_event http_chunk_read(struct http_in *in, const char *block, uint32_t *at, uint32_t end);
