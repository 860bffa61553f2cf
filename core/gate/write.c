/* SPDX-License-Identifier: BSD-3-Clause */
/* write.c - writes the heads of HTTP messages for another connection. The message may be written to
 * by functions while that happens: all is copied first, and the copy is checked. */
#include "gate/http_in.h"

#include "error.h"

#include <errno.h>
#include <string.h>
#include <time.h>

struct writer {
	const char *block;
	uint32_t block_size;
	char *to;
	uint32_t at, size;
	int err; /* the first failure */
};

static void fail(struct writer *w, int err, const char *why)
{
	if (!w->err)
		w->err = err == EMSGSIZE
		                 ? -EMSGSIZE
		                 : tw_fail(err, "a function left a head that is not HTTP: %s", why);
}

static void put(struct writer *w, const char *text, uint32_t len)
{
	if (len > w->size - w->at) {
		fail(w, EMSGSIZE, NULL);
		return;
	}
	memcpy(w->to + w->at, text, len);
	w->at += len;
}

static void puts_of(struct writer *w, const char *text)
{
	put(w, text, (uint32_t)strlen(text));
}

static void put_number(struct writer *w, uint64_t n)
{
	char digits[20], *end = digits + sizeof(digits), *from = end;

	do
		*--from = (char)('0' + n % 10);
	while (n /= 10);
	put(w, from, (uint32_t)(end - from));
}

/* A part of the message that passes the check; false: it does not, and nothing was written. */
static bool put_part(struct writer *w, struct tw_text part,
                     bool (*check)(const char *text, uint32_t len))
{
	uint32_t from = w->at;

	if (!http_inside(part, w->block_size))
		return false;
	put(w, w->block + part.at, part.len);
	if (w->err || check(w->to + from, part.len))
		return true;
	w->at = from;
	return false;
}

/* ---- first lines ---- */

/* A path, or "*" for OPTIONS. */
static bool is_path(const char *text, uint32_t len)
{
	return len && (text[0] == '/' || (len == 1 && text[0] == '*')) && http_is_target(text, len);
}

static void request_line(struct writer *w, const struct tw_msg *msg, const struct http_out *out)
{
	struct tw_text method = msg->method, target = msg->target;

	http_copied(&method);
	http_copied(&target);
	if (!put_part(w, method, http_is_token))
		fail(w, EPROTO, "the method is not a token");
	put(w, " ", 1);
	if (!put_part(w, target, is_path))
		fail(w, EPROTO, "the target is not a path of visible characters");
	put(w, out->version ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n", 11);
}

static void status_line(struct writer *w, const struct tw_msg *msg)
{
	struct tw_text reason = msg->reason;
	unsigned status = msg->status;

	http_copied(&reason);
	http_copied(&status);
	if (status < 100 || status > 599)
		fail(w, EPROTO, "the status is not between 100 and 599");
	puts_of(w, "HTTP/1.1 ");
	put_number(w, status);
	put(w, " ", 1);
	if (!reason.len)
		puts_of(w, http_reason((int)status));
	else if (!put_part(w, reason, http_is_value))
		fail(w, EPROTO, "control bytes in the reason");
	put(w, "\r\n", 2);
}

/* ---- fields ---- */

enum kind { KEPT, LEFT_OUT, HOST, LENGTH, UPGRADE, DATE, TRAILER };

/* By the name as it was copied: a token. */
static enum kind kind_of(const char *name, uint32_t len, bool response)
{
	switch (len) {
	case 2:
		return http_same(name, 2, "te") ? LEFT_OUT : KEPT;
	case 4:
		if (response)
			return http_same(name, 4, "date") ? DATE : KEPT;
		return http_same(name, 4, "host") ? HOST : KEPT;
	case 6:
		return !response && http_same(name, 6, "expect") ? LEFT_OUT : KEPT;
	case 7:
		if (http_same(name, 7, "upgrade"))
			return UPGRADE;
		return http_same(name, 7, "trailer") ? TRAILER : KEPT;
	case 14:
		return http_same(name, 14, "content-length") ? LENGTH : KEPT;
	case 10:
		if (http_same(name, 10, "connection") || http_same(name, 10, "keep-alive"))
			return LEFT_OUT;
		break;
	case 17:
		if (http_same(name, 17, "transfer-encoding"))
			return LEFT_OUT;
	}
	return len > 6 && http_same(name, 6, "proxy-") ? LEFT_OUT : KEPT;
}

struct seen {
	bool host, length, date;
};

static bool is_length(const char *text, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
	}
	return len > 0 && len <= 18;
}

/* The field was written if it stays; else `w` is put back by the caller. */
static bool stays(struct writer *w, enum kind kind, const struct http_out *out, struct seen *seen)
{
	switch (kind) {
	case LEFT_OUT:
		return false;
	case TRAILER:
		return out->framing == HTTP_CHUNKED;
	case UPGRADE:
		return out->upgrade;
	case HOST:
		if (seen->host)
			fail(w, EPROTO, "two Host fields");
		seen->host = true;
		return !out->host;
	case LENGTH:
		if (out->framing != HTTP_NO_BODY || !out->keep_length)
			return false;
		if (seen->length)
			fail(w, EPROTO, "two Content-Length fields");
		seen->length = true;
		return true;
	case DATE:
		seen->date = true;
		return true;
	default:
		return true;
	}
}

static void field(struct writer *w, const struct tw_header *shared, bool response,
                  const struct http_out *out, struct seen *seen)
{
	struct tw_header header = *shared;
	uint32_t from = w->at;
	enum kind kind;

	http_copied(&header);
	if (!header.name.len)
		return;
	if (!put_part(w, header.name, http_is_token)) {
		fail(w, EPROTO, "the name of a header is not a token");
		return;
	}
	if (w->err)
		return;
	kind = kind_of(w->to + from, header.name.len, response);
	if (!stays(w, kind, out, seen)) {
		w->at = from;
		return;
	}
	put(w, ": ", 2);
	if (!put_part(w, header.value,
	              kind == LENGTH ? is_length
	              : kind == HOST ? http_is_host
	                             : http_is_value))
		fail(w, EPROTO, "the value of a header has control bytes, or is malformed");
	put(w, "\r\n", 2);
}

static void fields(struct writer *w, const struct tw_msg *msg, bool response,
                   const struct http_out *out, struct seen *seen)
{
	uint32_t table = msg->headers, n = msg->n_headers;

	http_copied(&table);
	http_copied(&n);
	if (n > TW_HEADERS_MAX || table % 8 || table > w->block_size ||
	    n > (w->block_size - table) / sizeof(struct tw_header)) {
		fail(w, EPROTO, "the table of headers lies outside of the message");
		return;
	}
	for (uint32_t i = 0; i < n && !w->err; i++)
		field(w, (const struct tw_header *)(w->block + table) + i, response, out, seen);
}

/* The host as the gate was asked to name it, or from the target. */
static void host(struct writer *w, const struct tw_msg *msg, const struct http_out *out,
                 const struct seen *seen)
{
	struct tw_text name = msg->host;

	http_copied(&name);
	if (out->host) {
		puts_of(w, "Host: ");
		puts_of(w, out->host);
		puts_of(w, "\r\n");
	} else if (!seen->host) {
		puts_of(w, "Host: ");
		if (name.len && !put_part(w, name, http_is_host))
			fail(w, EPROTO, "the host is malformed");
		puts_of(w, "\r\n");
	}
}

static void framing(struct writer *w, const struct http_out *out)
{
	if (out->framing == HTTP_LENGTH || (out->framing == HTTP_NO_BODY && out->says_length)) {
		puts_of(w, "Content-Length: ");
		put_number(w, out->length);
		put(w, "\r\n", 2);
	} else if (out->framing == HTTP_CHUNKED) {
		puts_of(w, "Transfer-Encoding: chunked\r\n");
	}
	if (out->upgrade)
		puts_of(w, "Connection: upgrade\r\n");
	else if (out->close)
		puts_of(w, "Connection: close\r\n");
	else if (out->keep10)
		puts_of(w, "Connection: keep-alive\r\n");
	if (out->extra)
		puts_of(w, out->extra);
}

int http_write_head(const struct tw_msg *msg, uint32_t block_size, bool response,
                    const struct http_out *out, char *to, uint32_t size)
{
	struct writer w = {
		.block = (const char *)msg, .block_size = block_size, .to = to, .size = size
	};
	struct seen seen = { 0 };

	if (response)
		status_line(&w, msg);
	else
		request_line(&w, msg, out);
	fields(&w, msg, response, out, &seen);
	if (!response)
		host(&w, msg, out, &seen);
	else if (!seen.date)
		puts_of(&w, http_date());
	framing(&w, out);
	put(&w, "\r\n", 2);
	return w.err ? w.err : (int)w.at;
}

int http_write_chunk(uint64_t len, char *to)
{
	static const char digits[] = "0123456789abcdef";
	char hex[16];
	int n = 0, at = 0;

	if (!len) {
		memcpy(to, "0\r\n\r\n", 5);
		return 5;
	}
	for (; len; len >>= 4)
		hex[n++] = digits[len & 15];
	while (n)
		to[at++] = hex[--n];
	to[at++] = '\r';
	to[at++] = '\n';
	return at;
}
