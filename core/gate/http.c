/* SPDX-License-Identifier: BSD-3-Clause */
/* http.c - reads HTTP/1.1 messages event by event: empty lines, heads, bodies by length. */
#include "gate/http_in.h"

#include <string.h>

enum http_event http_bad(struct http_in *in, int status, const char *why)
{
	/* Whatever is wrong with a response, the client hears that the server is at fault. */
	in->status = in->response ? 502 : (uint16_t)status;
	in->why = why;
	in->keep = false;
	in->state = IN_BAD;
	return HTTP_BAD;
}

void http_in_begin(struct http_in *in, bool response, bool head, uint32_t head_limit)
{
	memset(in, 0, sizeof(*in));
	in->response = response;
	in->request_was_head = head;
	in->head_limit = head_limit ? head_limit : 1;
	in->max_headers = TW_HEADERS_MAX;
}

void http_in_moved(struct http_in *in, void *block)
{
	in->msg = block;
}

bool http_in_over(const struct http_in *in)
{
	return in->state == IN_END;
}

uint32_t http_in_room(uint32_t size, uint32_t end)
{
	uint32_t table = TW_HEADERS_MAX * sizeof(struct tw_header) + 8;

	return size > table && size - table > end ? size - table - end : 0;
}

/* Of a length that is known, or up to the end of the connection. */
static enum http_event read_counted(struct http_in *in, uint32_t *at, uint32_t end)
{
	uint64_t n = end - *at;

	if (in->state == IN_LENGTH) {
		if (n > in->left)
			n = in->left;
		in->left -= n;
		if (!in->left)
			in->state = IN_END;
	}
	in->piece_at = *at;
	in->piece_len = (uint32_t)n;
	*at += (uint32_t)n;
	return HTTP_GOT_BODY;
}

/* One empty line in front of a request is forgiven; NULL: the head begins at *at, or nothing is
 * left. */
static const char *skip_line(struct http_in *in, const char *block, uint32_t *at, uint32_t end)
{
	for (; *at < end; (*at)++) {
		char byte = block[*at];

		if (in->state == IN_START_CR) {
			if (byte != '\n')
				return "a carriage return without a line feed before the request";
			in->state = IN_START_LF;
		} else if (byte == '\r' && in->state == IN_START && !in->response) {
			in->state = IN_START_CR;
		} else if (byte == '\r' || byte == '\n') {
			return "empty lines before the start of the message";
		} else {
			in->state = IN_HEAD;
			return NULL;
		}
	}
	return NULL;
}

enum http_event http_in_read(struct http_in *in, void *block, uint32_t size, uint32_t *at,
                             uint32_t end)
{
	if (in->state == IN_END) {
		in->state = IN_DONE;
		return HTTP_GOT_END;
	}
	if (in->state == IN_BAD)
		return HTTP_BAD;
	if (*at >= end || end > size)
		return HTTP_WANTS_MORE;
	if (in->state < IN_HEAD) {
		const char *why = skip_line(in, block, at, end);

		if (why)
			return http_bad(in, 400, why);
		if (*at >= end)
			return HTTP_WANTS_MORE;
	}
	switch (in->state) {
	case IN_HEAD:
		return http_head_read(in, block, size, at, end);
	case IN_LENGTH:
	case IN_UNTIL_LOST:
		return read_counted(in, at, end);
	case IN_DONE: /* the caller has forgotten http_in_begin() */
		return HTTP_WANTS_MORE;
	default:
		return http_chunk_read(in, block, at, end);
	}
}

enum http_event http_in_closed(struct http_in *in)
{
	switch (in->state) {
	case IN_START:
	case IN_START_CR:
	case IN_START_LF:
	case IN_DONE:
		return HTTP_WANTS_MORE;
	case IN_UNTIL_LOST:
	case IN_END:
		in->state = IN_DONE;
		return HTTP_GOT_END;
	case IN_BAD:
		return HTTP_BAD;
	default:
		return http_bad(in, 400, "the connection ended in the middle of the message");
	}
}
