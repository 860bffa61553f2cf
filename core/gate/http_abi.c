/* SPDX-License-Identifier: BSD-3-Clause */
/* http_abi.c - reader and writer by themselves, over a block of plain memory. */
#include "gate/http.h"

#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tw_http {
	struct http_in in;
	uint32_t size, at, end;
	bool head_done;
	char *block;
};

struct tw_http *tw_http_new(uint32_t size)
{
	struct tw_http *http = calloc(1, sizeof(*http));

	if (http)
		http->block = size >= 4096 ? aligned_alloc(64, (size + 63) & ~63u) : NULL;
	if (!http || !http->block) {
		free(http);
		tw_fail(ENOMEM, "a block of %u bytes: no memory, or less than 4096", size);
		return NULL;
	}
	memset(http->block, 0, size);
	http->size = size;
	http->at = http->end = HTTP_BYTES_AT;
	return http;
}

void tw_http_free(struct tw_http *http)
{
	if (http) {
		http_in_end(&http->in);
		free(http->block);
	}
	free(http);
}

void tw_http_begin(struct tw_http *http, bool response, bool head, uint32_t head_limit)
{
	uint32_t left = http->end - http->at;

	memmove(http->block + HTTP_BYTES_AT, http->block + http->at, left);
	memset(http->block, 0, sizeof(struct tw_msg));
	http->at = HTTP_BYTES_AT;
	http->end = HTTP_BYTES_AT + left;
	http->head_done = false;
	http_in_end(&http->in);
	http_in_begin(&http->in, response, head, head_limit);
}

int tw_http_add(struct tw_http *http, const char *bytes, size_t len)
{
	/* A body goes behind the table of headers, so that the message stays readable. */
	uint32_t room = http_in_room(http->size, http->end);

	if (http->head_done) {
		const struct tw_msg *msg = (const struct tw_msg *)http->block;
		uint32_t from = msg->used < http->size ? (msg->used + 63) & ~63u : http->size;

		if (http->at == http->end)
			http->at = http->end = from;
		room = http->size - http->end;
		if (http->end < from)
			room = 0;
	}
	if (len > room)
		return tw_fail(ENOSPC, "%zu bytes do not fit: %u do", len, room);
	memcpy(http->block + http->end, bytes, len);
	http->end += (uint32_t)len;
	return 0;
}

static int tell(struct tw_http *http, enum http_event event, struct tw_http_facts *facts)
{
	const struct http_in *in = &http->in;

	*facts = (struct tw_http_facts){
		.status = in->status,
		.version = in->version,
		.method = in->method,
		.chunked = in->chunked,
		.keep = in->keep,
		.upgrade = in->upgrade,
		.expects = in->expects,
		.body_len = in->body_len,
		.piece_at = in->piece_at,
		.piece_len = in->piece_len,
		.at = http->at,
		.end = http->end,
	};
	if (event == HTTP_BAD)
		snprintf(facts->why, sizeof(facts->why), "%s", in->why);
	http->head_done |= event == HTTP_GOT_HEAD;
	return event;
}

int tw_http_next(struct tw_http *http, struct tw_http_facts *facts)
{
	return tell(http, http_in_read(&http->in, http->block, http->size, &http->at, http->end),
	            facts);
}

int tw_http_closed(struct tw_http *http, struct tw_http_facts *facts)
{
	return tell(http, http_in_closed(&http->in), facts);
}

struct tw_msg *tw_http_message(struct tw_http *http)
{
	return (struct tw_msg *)http->block;
}

int tw_http_write(const struct tw_msg *msg, uint32_t block_size, bool response,
                  const struct tw_http_out *out, char *to, uint32_t size)
{
	const struct http_out as = {
		.framing = (enum http_framing)out->framing,
		.length = out->length,
		.close = out->close,
		.keep10 = out->keep10,
		.upgrade = out->upgrade,
		.keep_length = out->keep_length,
		.version = (uint8_t)out->version,
		.host = out->host,
		.extra = out->extra,
	};

	return http_write_head(msg, block_size, response, &as, to, size);
}
