/* SPDX-License-Identifier: BSD-3-Clause */
/* http_trailer.c - the fields behind a chunked body (RFC 9110 6.5), kept until they are sent on.
 * They are never fields of the head: what frames, routes or decides is left out. */
#include "gate/http_in.h"

#include <stdlib.h>

#define ROOM_LEAST 512

/* RFC 9110 6.5.1. */
static const char *const not_behind[] = {
	"accept",           "authorization",
	"cache-control",    "connection",
	"content-encoding", "content-length",
	"content-range",    "content-type",
	"cookie",           "expect",
	"forwarded",        "host",
	"keep-alive",       "location",
	"max-forwards",     "range",
	"set-cookie",       "te",
	"trailer",          "transfer-encoding",
	"upgrade",          "www-authenticate",
};

static bool may_stand_behind(const char *line, uint32_t len)
{
	const char *colon = memchr(line, ':', len);
	uint32_t name = colon ? (uint32_t)(colon - line) : 0;

	if ((name > 3 && http_same(line, 3, "if-")) || (name > 6 && http_same(line, 6, "proxy-")))
		return false;
	for (size_t i = 0; i < sizeof(not_behind) / sizeof(not_behind[0]); i++)
		if (strlen(not_behind[i]) == name && http_same(line, name, not_behind[i]))
			return false;
	return name;
}

static bool put(struct http_in *in, const char *text, uint32_t len)
{
	struct http_trailers *t = in->trailers;

	if (!t || t->room - t->len < len) {
		uint32_t room = t ? t->room * 2 : ROOM_LEAST;

		t = realloc(t, sizeof(*t) + room);
		if (!t)
			return false;
		if (!in->trailers)
			t->len = 0;
		t->room = room;
		in->trailers = t;
	}
	memcpy(t->text + t->len, text, len);
	t->len += len;
	return true;
}

void http_trailer_byte(struct http_in *in, uint8_t byte)
{
	if (in->trailers_lost)
		return;
	if (!in->trailers) {
		in->trailers_lost = !put(in, HTTP_TRAILERS_FRONT, HTTP_TRAILERS_AT);
		in->line = HTTP_TRAILERS_AT;
	}
	if (in->trailers_lost || !put(in, (const char *)&byte, 1)) {
		in->trailers_lost = true;
		return;
	}
	if (byte != '\n')
		return;
	if (!may_stand_behind(in->trailers->text + in->line, in->trailers->len - in->line))
		in->trailers->len = in->line;
	in->line = in->trailers->len;
}

struct http_trailers *http_in_trailers(struct http_in *in)
{
	struct http_trailers *t = in->trailers;

	if (!t)
		return NULL;
	if (t->len == HTTP_TRAILERS_AT || in->trailers_lost || !put(in, "\r\n", 2)) {
		http_in_end(in);
		return NULL;
	}
	t = in->trailers;
	in->trailers = NULL;
	return t;
}

void http_in_end(struct http_in *in)
{
	free(in->trailers);
	in->trailers = NULL;
}
