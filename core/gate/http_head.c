/* SPDX-License-Identifier: BSD-3-Clause */
/* http_head.c - reads the head of a message that is not as most are (http_quick.c): libhttp_parser
 * finds its parts, and each byte between and in them is checked then, because the library forgives
 * what others read differently (bare line feeds, folded lines, control bytes, blanks).
 *
 * The parts are remembered in memory of the thread, and only while one call lasts. A head that
 * comes in pieces runs through the library as it comes, so that garbage is refused at once, and a
 * second time when it is whole. */
#include "gate/http_in.h"

#include <string.h>
#include <strings.h>

#define SPARE_HEADERS 16 /* room in the table for what functions add */

static _Thread_local struct http_head head_of_thread;

static int reject(struct http_in *in, int status, const char *why)
{
	http_bad(in, status, why);
	return 1;
}

/* ---- what the library calls ---- */

/* Part of a part: `at` goes on where it stopped, or begins anew. */
static int on_part(http_parser *parser, enum http_part part, struct tw_text *text, const char *at,
                   size_t len)
{
	struct http_head *head = parser->data;
	struct http_in *in = head->in;
	uint32_t offset = (uint32_t)(at - head->block);

	if (in->last != part)
		*text = (struct tw_text){ offset, 0 };
	else if (offset != in->last_end)
		return reject(in, 400, "a header is folded over several lines");
	text->len += (uint32_t)len;
	in->last = part;
	in->last_end = offset + (uint32_t)len;
	return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
	struct http_head *head = parser->data;

	return on_part(parser, PART_TARGET, &head->target, at, len);
}

static int on_status(http_parser *parser, const char *at, size_t len)
{
	struct http_head *head = parser->data;

	return on_part(parser, PART_REASON, &head->reason, at, len);
}

/* Headers above the limit are counted, and refused when the head is whole. */
static unsigned slot_of(const struct http_in *in)
{
	unsigned n = in->n_headers;

	return n > TW_HEADERS_MAX ? TW_HEADERS_MAX - 1 : n ? n - 1 : 0;
}

static int on_name(http_parser *parser, const char *at, size_t len)
{
	struct http_head *head = parser->data;

	if (head->in->last != PART_NAME && head->in->n_headers < UINT16_MAX)
		head->in->n_headers++;
	return on_part(parser, PART_NAME, &head->field[slot_of(head->in)].name, at, len);
}

static int on_value(http_parser *parser, const char *at, size_t len)
{
	struct http_head *head = parser->data;

	return on_part(parser, PART_VALUE, &head->field[slot_of(head->in)].value, at, len);
}

static int on_whole(http_parser *parser)
{
	struct http_head *head = parser->data;

	head->whole = true;
	http_parser_pause(parser, 1);
	return 0;
}

static const http_parser_settings settings = {
	.on_url = on_url,
	.on_status = on_status,
	.on_header_field = on_name,
	.on_header_value = on_value,
	.on_headers_complete = on_whole,
};

/* The gate has limits of its own; the library's is one for the whole process. */
__attribute__((constructor)) static void no_limit(void)
{
	http_parser_set_max_header_size(UINT32_MAX / 2);
}

/* ---- from the library's view to a strict one ---- */

struct cursor {
	const char *block;
	uint32_t at, end;
};

static bool next_is(struct cursor *cursor, const char *text, uint32_t len)
{
	if (cursor->end - cursor->at < len || memcmp(cursor->block + cursor->at, text, len))
		return false;
	cursor->at += len;
	return true;
}

/* " HTTP/1.x": anything else that looks like a version is 505. */
static int version(struct http_in *in)
{
	if (in->parser.http_major != 1 || in->parser.http_minor > 1)
		return reject(in, 505, "the version is neither HTTP/1.0 nor HTTP/1.1");
	in->version = (uint8_t)in->parser.http_minor;
	return 0;
}

static int request_line(struct http_head *head, struct cursor *cursor)
{
	struct http_in *in = head->in;
	const char *method = http_method_str((enum http_method)in->parser.method);
	char tail[] = " HTTP/1.x\r\n";

	if (version(in))
		return 1;
	in->method = (uint16_t)in->parser.method;
	tail[8] = (char)('0' + in->version);
	if (!next_is(cursor, method, (uint32_t)strlen(method)) || !next_is(cursor, " ", 1) ||
	    cursor->at != head->target.at || head->target.len > cursor->end - cursor->at)
		return reject(in, 400, "the request line is malformed");
	if (head->target.len > HTTP_TARGET_MAX)
		return reject(in, 414, "the request target is too long");
	if (!http_is_target(cursor->block + cursor->at, head->target.len))
		return reject(in, 400, "the request target has bytes that are not allowed in it");
	cursor->at += head->target.len;
	if (!next_is(cursor, tail, sizeof(tail) - 1))
		return reject(in, 400, "the request line is malformed");
	return 0;
}

static int status_line(struct http_head *head, struct cursor *cursor)
{
	struct http_in *in = head->in;
	unsigned status = in->parser.status_code;
	char text[] = "HTTP/1.x 000";

	if (version(in))
		return 1;
	if (status < 100 || status > 599)
		return reject(in, 502, "the status of the response is not between 100 and 599");
	in->status = (uint16_t)status;
	text[7] = (char)('0' + in->version);
	text[9] = (char)('0' + status / 100);
	text[10] = (char)('0' + status / 10 % 10);
	text[11] = (char)('0' + status % 10);
	if (!next_is(cursor, text, sizeof(text) - 1))
		return reject(in, 502, "the status line is malformed");
	if (next_is(cursor, " ", 1) && head->reason.len) {
		if (head->reason.at != cursor->at || head->reason.len > cursor->end - cursor->at ||
		    !http_is_value(cursor->block + cursor->at, head->reason.len))
			return reject(in, 502, "the status line is malformed");
		cursor->at += head->reason.len;
	} else {
		head->reason = (struct tw_text){ cursor->at, 0 };
	}
	if (!next_is(cursor, "\r\n", 2))
		return reject(in, 502, "the status line is malformed");
	return 0;
}

static void skip_blanks(struct cursor *cursor, uint32_t end)
{
	while (cursor->at < end &&
	       (cursor->block[cursor->at] == ' ' || cursor->block[cursor->at] == '\t'))
		cursor->at++;
}

/* name ":" blanks value blanks CR LF, where the library has found name and value. */
static int field_line(struct http_head *head, unsigned i, struct cursor *cursor)
{
	struct tw_text *name = &head->field[i].name, *value = &head->field[i].value;
	struct http_in *in = head->in;
	uint32_t end;

	if (name->at != cursor->at || name->len > cursor->end - cursor->at ||
	    !http_is_token(cursor->block + name->at, name->len))
		return reject(in, 400, "the name of a header is not a token");
	cursor->at += name->len;
	if (!next_is(cursor, ":", 1))
		return reject(in, 400, "the name of a header is not a token");
	if (!value->len) {
		skip_blanks(cursor, cursor->end);
		value->at = cursor->at;
	}
	end = value->at + value->len;
	if (end < value->at || end > cursor->end || value->at < cursor->at)
		return reject(in, 400, "a header is folded over several lines");
	skip_blanks(cursor, value->at);
	if (cursor->at != value->at)
		return reject(in, 400, "a header is folded over several lines");
	if (!http_is_value(cursor->block + value->at, value->len))
		return reject(in, 400, "a control byte in a header");
	cursor->at = end;
	if (!next_is(cursor, "\r\n", 2))
		return reject(in, 400, "a header does not end with CR LF");
	while (value->len && (cursor->block[value->at + value->len - 1] == ' ' ||
	                      cursor->block[value->at + value->len - 1] == '\t'))
		value->len--;
	head->field[i].hash = tw_header_hash(cursor->block + name->at, name->len);
	return 0;
}

/* ---- the message ---- */

static int fill(struct http_head *head, uint32_t size, uint32_t end)
{
	struct http_in *in = head->in;
	struct tw_msg *msg = in->msg;
	uint32_t table = (end + 7) & ~7u, n = in->n_headers, room;
	struct tw_header *header;

	room = table < size ? (size - table) / (uint32_t)sizeof(*header) : 0;
	if (n > room)
		return reject(in, 431, "the headers are too many for one block");
	if (room > n + SPARE_HEADERS)
		room = n + SPARE_HEADERS;
	if (room > TW_HEADERS_MAX)
		room = TW_HEADERS_MAX;
	header = (struct tw_header *)(head->block + table);
	for (uint32_t i = 0; i < n; i++)
		header[i] = (struct tw_header){ .name = head->field[i].name,
			                        .value = head->field[i].value,
			                        .hash = head->field[i].hash };
	msg->version = in->version;
	msg->status = in->response ? in->status : 0;
	msg->n_headers = (uint16_t)n;
	msg->max_headers = (uint16_t)room;
	msg->headers = table;
	msg->used = table + room * (uint32_t)sizeof(*header);
	msg->method = (struct tw_text){ in->start, 0 };
	if (!in->response)
		msg->method.len = (uint32_t)strlen(http_method_str((enum http_method)in->method));
	msg->target = head->target;
	msg->reason = head->reason;
	msg->host = head->host;
	msg->body_len = in->body_len;
	msg->flags = (in->body_len ? TW_MSG_BODY : 0) | (in->chunked ? TW_MSG_CHUNKED : 0) |
	             (in->keep ? TW_MSG_KEEP : 0) | (in->upgrade ? TW_MSG_UPGRADE : 0) |
	             (in->request_was_head ? TW_MSG_HEAD : 0);
	return 0;
}

static int check(struct http_head *head)
{
	struct http_in *in = head->in;
	struct cursor cursor = { head->block, in->start, head->end };

	if (in->response ? status_line(head, &cursor) : request_line(head, &cursor))
		return 1;
	for (unsigned i = 0; i < in->n_headers; i++) {
		if (field_line(head, i, &cursor))
			return 1;
	}
	if (!next_is(&cursor, "\r\n", 2) || cursor.at != head->end)
		return reject(in, 400, "the head does not end with an empty line");
	return 0;
}

static enum http_event whole(struct http_head *head, uint32_t size, uint32_t end, bool checked)
{
	struct http_in *in = head->in;

	if (in->n_headers > in->max_headers)
		return http_bad(in, 431, "there are too many headers");
	if (!checked && check(head))
		return HTTP_BAD;
	head->host = (struct tw_text){ in->start, 0 };
	if (!in->response)
		in->request_was_head = in->method == HTTP_HEAD;
	if (http_fields(head) || fill(head, size, end))
		return HTTP_BAD;
	in->head_done = true;
	in->left = in->body_len;
	in->state = in->chunked                  ? IN_CHUNK_SIZE
	            : !in->body_len              ? IN_END
	            : in->body_len == UINT64_MAX ? IN_UNTIL_LOST
	                                         : IN_LENGTH;
	return HTTP_GOT_HEAD;
}

/* What the library does not take. A method that it does not know is one all the same. */
static enum http_event refused(struct http_in *in, const char *block, uint32_t at)
{
	switch (HTTP_PARSER_ERRNO(&in->parser)) {
	case HPE_INVALID_METHOD:
		if (http_token_byte[(uint8_t)block[at]])
			return http_bad(in, 501, "the request method is not known");
		return http_bad(in, 400, "the request line is malformed");
	case HPE_INVALID_VERSION:
		if (in->parser.http_major == 1 && in->parser.http_minor <= 1)
			return http_bad(in, 400, "the first line is malformed");
		return http_bad(in, 505, "the version is neither HTTP/1.0 nor HTTP/1.1");
	case HPE_UNEXPECTED_CONTENT_LENGTH:
		return http_bad(in, 400, "the length of the body is given twice");
	case HPE_INVALID_CONTENT_LENGTH:
		return http_bad(in, 400, "Content-Length is not a number");
	case HPE_INVALID_TRANSFER_ENCODING:
		return http_bad(in, 400, "Transfer-Encoding does not end with chunked");
	case HPE_INVALID_URL:
		return http_bad(in, 400, "the request target is malformed");
	case HPE_INVALID_HEADER_TOKEN:
		return http_bad(in, 400, "a byte in a header that is not allowed there");
	case HPE_LF_EXPECTED:
		return http_bad(in, 400, "a carriage return without a line feed");
	default:
		return http_bad(in, 400, "the message is not HTTP");
	}
}

static void begin(struct http_in *in)
{
	http_parser_init(&in->parser, in->response ? HTTP_RESPONSE : HTTP_REQUEST);
	in->last = PART_NONE;
	in->n_headers = 0;
}

/* Runs [from .. to) through the library. Returns where it stopped, behind the head when it is
 * whole. */
static uint32_t run(struct http_head *head, uint32_t from, uint32_t to)
{
	struct http_in *in = head->in;
	size_t used;

	head->whole = false;
	in->parser.data = head;
	used = http_parser_execute(&in->parser, &settings, head->block + from, to - from);
	/* Paused at the line feed that ends the head, before it is used. */
	return from + (uint32_t)used + (head->whole ? 1 : 0);
}

/* False: something is unusual, and `in` is as it was. When it is wrong too, the library says in
 * which way. */
static bool quick(struct http_head *head, uint32_t size, uint32_t *at, uint32_t to, uint32_t end)
{
	struct http_in *in = head->in;

	if (http_quick(head, *at, to) && whole(head, size, end, true) == HTTP_GOT_HEAD) {
		in->head_bytes = head->end - *at;
		*at = head->end;
		return true;
	}
	http_in_begin(in, in->response, in->response && in->request_was_head, in->head_limit);
	in->state = IN_HEAD;
	in->start = *at;
	in->msg = (struct tw_msg *)head->block;
	return false;
}

enum http_event http_head_read(struct http_in *in, void *block, uint32_t size, uint32_t *at,
                               uint32_t end)
{
	struct http_head *head = &head_of_thread;
	uint32_t to, stopped;

	to = end - *at > in->head_limit - in->head_bytes ? *at + in->head_limit - in->head_bytes
	                                                 : end;
	head->in = in;
	head->block = block;
	in->msg = block;
	if (!in->head_bytes) {
		in->start = *at;
		if (quick(head, size, at, to, end))
			return HTTP_GOT_HEAD;
		head->target = head->reason = (struct tw_text){ 0, 0 };
		begin(in);
	} else {
		in->pieces = true;
	}
	stopped = run(head, *at, to);
	if (in->state == IN_BAD) /* said by what the library called */
		return HTTP_BAD;
	if (!head->whole) {
		if (HTTP_PARSER_ERRNO(&in->parser) != HPE_OK)
			return refused(in, block, stopped < to ? stopped : to - 1);
		in->head_bytes += to - *at;
		*at = to;
		if (in->head_bytes < in->head_limit)
			return HTTP_WANTS_MORE;
		return in->last <= PART_TARGET ? http_bad(in, 414, "the request line is too long")
		                               : http_bad(in, 431, "the head is too large");
	}
	in->head_bytes += stopped - *at;
	*at = stopped;
	head->end = stopped;
	if (in->pieces) {
		head->target = head->reason = (struct tw_text){ 0, 0 };
		begin(in);
		if (run(head, in->start, stopped) != stopped || !head->whole || in->state == IN_BAD)
			return http_bad(in, 400, "the head changed while it was read");
	}
	return whole(head, size, end, false);
}
