/* SPDX-License-Identifier: BSD-3-Clause */
/* http_fields.c - what header fields and the target mean for the connection: length of the body,
 * persistence, upgrade, host. Whatever two readers could understand differently is refused
 * (RFC 9112 6.3, 11.2). */
#include "gate/http_in.h"

#include <string.h>
#include <strings.h>

struct meaning {
	unsigned hosts, lengths, codings, tokens;
	uint32_t host; /* which field */
	uint64_t length;
	bool chunked, close, keep, upgrade_token, upgrade, hides;
	int status;
	const char *why;
};

static void refuse(struct meaning *m, int status, const char *why)
{
	if (!m->status) {
		m->status = status;
		m->why = why;
	}
}

/* ---- single fields ---- */

static void content_length(struct meaning *m, const char *text, uint32_t len)
{
	uint64_t n = 0;

	if (m->lengths++)
		refuse(m, 400, "the length of the body is given twice");
	if (!len || len > 18)
		refuse(m, 400, "Content-Length is not a number, or too large");
	for (uint32_t i = 0; i < len && i < 18; i++) {
		if (text[i] < '0' || text[i] > '9')
			refuse(m, 400, "Content-Length is not a number");
		n = n * 10 + (uint64_t)(text[i] - '0');
	}
	m->length = n;
}

static void transfer_encoding(struct meaning *m, const char *text, uint32_t len)
{
	uint32_t last = len;

	if (m->codings++)
		refuse(m, 400, "Transfer-Encoding is given twice");
	if (http_same(text, len, "chunked")) {
		m->chunked = true;
		return;
	}
	while (last && text[last - 1] != ',' && text[last - 1] != ' ' && text[last - 1] != '\t')
		last--;
	if (!http_same(text + last, len - last, "chunked"))
		refuse(m, 400, "Transfer-Encoding does not end with chunked");
	refuse(m, 501, "a Transfer-Encoding other than chunked");
}

/* Calls fn for each element of a comma-separated list (RFC 9110 5.6.1); false: fn did. */
static bool each_token(struct http_head *head, const struct tw_text *list,
                       bool (*fn)(struct http_head *head, struct meaning *m, const char *token,
                                  uint32_t len),
                       struct meaning *m)
{
	const char *text = head->block + list->at, *end = text + list->len;

	while (text < end) {
		const char *from = text, *to;

		while (text < end && *text != ',')
			text++;
		to = text++;
		while (from < to && (*from == ' ' || *from == '\t'))
			from++;
		while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
			to--;
		if (to > from && !fn(head, m, from, (uint32_t)(to - from)))
			return false;
	}
	return true;
}

static bool connection_token(struct http_head *head, struct meaning *m, const char *token,
                             uint32_t len)
{
	(void)head;
	if (++m->tokens > HTTP_CONNECTION_TOKENS) {
		refuse(m, 400, "Connection names too many fields");
		return false;
	}
	if (http_same(token, len, "close"))
		m->close = true;
	else if (http_same(token, len, "keep-alive"))
		m->keep = true;
	else if (http_same(token, len, "upgrade"))
		m->upgrade_token = true;
	return true;
}

/* A field that Connection names is for this connection only, but for those that say how the
 * message is to be read. */
static bool take_out(struct http_head *head, struct meaning *m, const char *token, uint32_t len)
{
	static const char *const kept[] = {
		"close", "keep-alive",    "upgrade",        "connection",
		"host",  "expect",        "content-length", "transfer-encoding",
		"te",    "authorization", "cookie"
	};
	uint32_t hash = tw_header_hash(token, len);

	(void)m;
	for (unsigned i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
		if (http_same(token, len, kept[i]))
			return true;
	}
	for (unsigned i = 0; i < head->in->n_headers; i++) {
		if (head->field[i].hash == hash && head->field[i].name.len == len)
			head->field[i].name.len = 0;
	}
	return true;
}

/* Protocols in which more requests would come that no function sees. */
static bool protocol(struct http_head *head, struct meaning *m, const char *name, uint32_t len)
{
	(void)head;
	m->hides |= http_same(name, len, "h2c") || http_same(name, len, "h2") ||
	            (len > 5 && !strncasecmp(name, "http/", 5)) ||
	            (len > 4 && !strncasecmp(name, "tls/", 4));
	return true;
}

static void field(struct http_head *head, unsigned i, struct meaning *m)
{
	const char *name = head->block + head->field[i].name.at;
	const char *value = head->block + head->field[i].value.at;
	uint32_t len = head->field[i].value.len;

	switch (head->field[i].name.len) {
	case 4:
		if (http_same(name, 4, "host")) {
			m->hosts++;
			m->host = i;
		}
		break;
	case 6:
		if (!http_same(name, 6, "expect") || head->in->response)
			break;
		if (!http_same(value, len, "100-continue"))
			refuse(m, 417, "the only expectation that can be met is 100-continue");
		head->in->expects = true;
		break;
	case 7:
		if (!http_same(name, 7, "upgrade"))
			break;
		m->upgrade = true;
		each_token(head, &head->field[i].value, protocol, m);
		break;
	case 10:
		if (http_same(name, 10, "connection"))
			each_token(head, &head->field[i].value, connection_token, m);
		break;
	case 14:
		if (http_same(name, 14, "content-length"))
			content_length(m, value, len);
		break;
	case 17:
		if (http_same(name, 17, "transfer-encoding"))
			transfer_encoding(m, value, len);
		break;
	}
}

/* ---- the target and the host (RFC 9112 3.2, 3.3) ---- */

/* "http://host:port/path?query": the host comes from here, and "/path?query" stays. */
static const char *absolute_target(struct http_head *head, struct meaning *m)
{
	char *text = head->block + head->target.at;
	uint32_t len = head->target.len, scheme, host = 0;

	if (len > 7 && !strncasecmp(text, "http://", 7))
		scheme = 7;
	else if (len > 8 && !strncasecmp(text, "https://", 8))
		scheme = 8;
	else
		return "the request target is neither a path nor a URL of http";
	while (scheme + host < len && text[scheme + host] != '/' && text[scheme + host] != '?')
		host++;
	if (!http_is_host(text + scheme, host))
		return "the host in the request target is malformed";
	head->host = (struct tw_text){ head->target.at + scheme, host };
	if (scheme + host == len) { /* no path: one of the slashes in front is as good */
		head->target = (struct tw_text){ head->target.at + scheme - 1, 1 };
	} else if (text[scheme + host] == '/') {
		head->target.at += scheme + host;
		head->target.len = len - scheme - host;
	} else { /* "http://host?query": room for a slash from those in front */
		memmove(text + scheme - 1, text + scheme, host);
		text[scheme + host - 1] = '/';
		head->host.at--;
		head->target.at += scheme + host - 1;
		head->target.len = len - scheme - host + 1;
	}
	/* The Host field is not to be believed beside it (RFC 9112 3.2.2). */
	if (m->hosts == 1)
		head->field[m->host].value = head->host;
	return NULL;
}

static void target_and_host(struct http_head *head, struct meaning *m)
{
	struct http_in *in = head->in;
	const char *text = head->block + head->target.at, *why;

	if (in->method == HTTP_CONNECT) {
		refuse(m, 501, "CONNECT is not offered");
		return;
	}
	if (m->hosts > 1 || (!m->hosts && in->version == 1))
		refuse(m, 400, m->hosts ? "Host is given twice" : "Host is missing");
	if (m->hosts) {
		head->host = head->field[m->host].value;
		if (!http_is_host(head->block + head->host.at, head->host.len))
			refuse(m, 400, "Host is malformed");
	}
	if (m->status)
		return;
	if (head->target.len && text[0] == '/')
		return;
	if (head->target.len == 1 && text[0] == '*' && in->method == HTTP_OPTIONS)
		return;
	why = absolute_target(head, m);
	if (why)
		refuse(m, 400, why);
}

/* ---- all together ---- */

static void request_framing(struct http_in *in, struct meaning *m)
{
	if (m->codings && m->lengths)
		refuse(m, 400, "both Content-Length and Transfer-Encoding");
	if (m->codings && in->version == 0)
		refuse(m, 400, "Transfer-Encoding in a message of HTTP/1.0");
	in->chunked = m->chunked;
	in->body_len = m->chunked ? UINT64_MAX : m->length;
}

static void response_framing(struct http_in *in, struct meaning *m)
{
	request_framing(in, m);
	if (in->status < 200 || in->status == 204 || in->status == 304 || in->request_was_head) {
		in->chunked = false;
		in->body_len = 0;
	} else if (!m->chunked && !m->lengths) {
		in->body_len = UINT64_MAX; /* up to the end of the connection */
		in->keep = false;
	}
}

int http_fields(struct http_head *head)
{
	struct http_in *in = head->in;
	struct meaning m = { 0 };

	in->expects = false;
	for (unsigned i = 0; i < in->n_headers; i++)
		field(head, i, &m);
	in->keep = !m.close && (in->version == 1 || m.keep);
	in->upgrade = m.upgrade && !m.hides && m.upgrade_token && in->version == 1;
	if (in->response) {
		response_framing(in, &m);
		in->upgrade = in->upgrade && in->status == 101;
	} else {
		target_and_host(head, &m);
		request_framing(in, &m);
		in->upgrade = in->upgrade && !in->body_len;
	}
	if (m.status) {
		http_bad(in, m.status, m.why);
		return 1;
	}
	in->expects = in->expects && in->version == 1 && in->body_len;
	if (m.tokens) {
		for (unsigned i = 0; i < in->n_headers; i++) {
			if (http_same(head->block + head->field[i].name.at, head->field[i].name.len,
			              "connection"))
				each_token(head, &head->field[i].value, take_out, &m);
		}
	}
	return 0;
}
