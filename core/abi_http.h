/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_http.h - the part of the boundary for the HTTP reader and writer by themselves, for specs and
 * for the fuzzer; same conventions as abi.h, which includes it.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_http_event { TW_HTTP_MORE, TW_HTTP_HEAD, TW_HTTP_BODY, TW_HTTP_END, TW_HTTP_BAD };

/* What the gate keeps of the message that is being read; see gate/http.h. */
struct tw_http_facts {
	uint32_t status; /* of a response; of HTTP_BAD: what to answer */
	uint32_t version, method;
	uint32_t chunked, keep, upgrade, expects;
	uint64_t body_len; /* UINT64_MAX: not known */
	uint32_t piece_at, piece_len;
	uint32_t at, end; /* what was not used yet, in the block */
	char why[96];
};

struct tw_http;
/* A reader with a block of so many bytes (4096 at least). NULL: no memory. */
struct tw_http *tw_http_new(uint32_t size);
void tw_http_free(struct tw_http *http);
/* A new message begins with what was not used. `head`: the response is one to HEAD. */
void tw_http_begin(struct tw_http *http, bool response, bool head, uint32_t head_limit);
/* Adds bytes behind what is there; -ENOSPC: they do not fit (the table of headers needs room). */
int tw_http_add(struct tw_http *http, const char *bytes, size_t len);
/* The next event. */
int tw_http_next(struct tw_http *http, struct tw_http_facts *facts);
/* The end of the connection. */
int tw_http_closed(struct tw_http *http, struct tw_http_facts *facts);
/* The block, a message once its head was read. */
struct tw_msg *tw_http_message(struct tw_http *http);

enum tw_http_framing {
	TW_HTTP_NO_BODY,
	TW_HTTP_LENGTH,
	TW_HTTP_CHUNKED,
	TW_HTTP_UNTIL_CLOSE,
};
struct tw_http_out {
	uint32_t framing; /* enum tw_http_framing */
	uint32_t close, keep10, upgrade, keep_length, version;
	uint64_t length;
	const char *host, *extra;
};
/* Writes the head of a message anew, as for another connection: its length, -EPROTO with a
 * sentence, -EMSGSIZE. */
int tw_http_write(const struct tw_msg *msg, uint32_t block_size, bool response,
                  const struct tw_http_out *out, char *to, uint32_t size);
