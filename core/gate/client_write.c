/* SPDX-License-Identifier: BSD-3-Clause */
/* client_write.c - responses of an HTTP connection: the head is written into a buffer, the body
 * goes straight from the blocks it lies in, all that is there in one call.
 *
 * How long the body is said to be is what the gate knows, and exactly that much is sent, or the
 * connection ends: functions can write to the message at any time. */
#include "gate/client.h"

#include "error.h"
#include "gate/lane.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_BYTES (1u << 20) /* of a connection in a turn */
#define FRONT_MAX 65536       /* in front of a response, to a client that takes nothing */

/* ---- what the exchange says: noted ---- */

static void out_ready(struct body *body)
{
	struct client *c = body->consumer;

	gate_later(gate_of(c), &c->task);
}

static void respond(struct exchange *x)
{
	struct client *c = x->client_data;

	c->work->respond = true;
	x->out.consumer = c;
	x->out.ready = out_ready;
	gate_later(gate_of(c), &c->task);
}

static void fail(struct exchange *x, int status, const char *why)
{
	struct client *c = x->client_data;
	struct work *w = c->work;

	w->failed = true;
	w->status = (uint16_t)status;
	snprintf(w->why, sizeof(w->why), "%s", why ? why : "");
	gate_later(gate_of(c), &c->task);
}

static void drop(struct exchange *x)
{
	struct client *c = x->client_data;

	c->work->dropped = true;
	gate_later(gate_of(c), &c->task);
}

/* A response with status 101 says it all. */
static void upgraded(struct exchange *x)
{
	(void)x;
}

/* Goes out in front of the response. False: no memory, or too much waits there already. */
static bool put_front(struct work *w, const char *text, uint32_t len)
{
	char *all = len > FRONT_MAX - w->pre_len ? NULL : malloc(w->pre_len + len);

	if (!all)
		return false;
	if (w->pre_len)
		memcpy(all, w->pre, w->pre_len);
	memcpy(all + w->pre_len, text, len);
	free(w->kept);
	w->pre = w->kept = all;
	w->pre_len += len;
	return true;
}

static bool same_status(const char *head, int len, unsigned status)
{
	return len > 12 && (unsigned)(head[9] - '0') * 100 + (unsigned)(head[10] - '0') * 10 +
	                                   (unsigned)(head[11] - '0') ==
	                           status;
}

/* HTTP/1.0 knows none (RFC 9110 15.2). One that cannot be sent is left out: the response will say
 * all that matters. */
static void interim(struct exchange *x, const struct tw_msg *head, uint32_t size, unsigned status)
{
	struct client *c = x->client_data;
	struct work *w = c->work;
	struct http_out out = { .framing = HTTP_NO_BODY, .version = w->in.version };
	char *to = clients_of(c)->scratch;
	int len;

	if (w->begun || w->respond || w->failed || w->dropped || !w->in.version)
		return;
	len = http_write_head(head, size, true, &out, to, sizeof(clients_of(c)->scratch));
	if (len > 0 && same_status(to, len, status) && put_front(w, to, (uint32_t)len))
		gate_later(gate_of(c), &c->task);
}

const struct exchange_client client_exchange = {
	.name = "http",
	.respond = respond,
	.fail = fail,
	.close = drop,
	.upgraded = upgraded,
	.interim = interim,
};

/* ---- segments ---- */

static bool under_way(const struct work *w)
{
	return w->pre_len || w->payload || w->post_len;
}

/* The next one; `pre` may hold the head already. False: the body is not what was promised. */
static bool segment(struct work *w)
{
	struct body *out = &w->x->out;
	uint64_t there = body_there(out);

	if (out->broken && !there)
		return false;
	switch (w->framing) {
	case HTTP_LENGTH:
		if (there > w->left)
			there = w->left;
		w->left -= there;
		w->payload = (uint32_t)there;
		w->finished = !w->left;
		return w->finished || !out->ended;
	case HTTP_CHUNKED:
		w->finished = out->ended;
		w->payload = (uint32_t)there;
		w->post = w->finished ? (there ? "\r\n0\r\n\r\n" : "0\r\n\r\n")
		                      : (there ? "\r\n" : "");
		w->post_len = (uint32_t)strlen(w->post);
		if (w->finished && out->trailers) {
			uint32_t from = there ? 0 : HTTP_TRAILERS_ALONE;

			w->post = out->trailers->text + from;
			w->post_len = out->trailers->len - from;
		}
		return true;
	case HTTP_UNTIL_CLOSE:
		w->payload = (uint32_t)there;
		w->finished = out->ended;
		return true;
	default:
		w->finished = true;
		return true;
	}
}

/* A chunk's head stands behind what `pre` has already, or alone. */
static void chunk_head(struct work *w, char *head_end)
{
	if (w->framing != HTTP_CHUNKED || !w->payload)
		return;
	if (!head_end) {
		w->pre = w->small;
		head_end = w->small;
	}
	w->pre_len += (uint32_t)http_write_chunk(w->payload, head_end);
}

/* ---- heads ---- */

static void choose_framing(struct client *c, struct http_out *out, unsigned status)
{
	struct work *w = c->work;
	struct exchange *x = w->x;
	bool nothing = x->head || status < 200 || status == 204 || status == 304;

	if (nothing) {
		out->framing = HTTP_NO_BODY;
		out->says_length = x->head && x->made && status >= 200 && status != 204 &&
		                   status != 304;
		out->keep_length = !out->says_length && (x->head || status == 304);
		out->length = out->says_length ? x->out_len : 0;
	} else if (!x->body_back) {
		out->framing = HTTP_LENGTH;
	} else if (x->out.trailers && w->in.version) {
		out->framing = HTTP_CHUNKED;
	} else if (x->out_len != UINT64_MAX || (x->out.ended && !x->out.broken)) {
		out->framing = HTTP_LENGTH;
		out->length = x->out_len != UINT64_MAX ? x->out_len : body_there(&x->out);
	} else {
		out->framing = w->in.version ? HTTP_CHUNKED : HTTP_UNTIL_CLOSE;
	}
	if (status == 101)
		out->framing = HTTP_UNTIL_CLOSE;
	w->framing = (uint8_t)out->framing;
	w->left = out->length;
}

/* Goes on behind this response? A body that is not read yet may be thrown away, when it is short
 * and will come at all (RFC 9112 9.3). */
static void choose_keep(struct client *c)
{
	struct work *w = c->work;
	uint32_t most = c->listener->spec.requests;

	if (c->listener->leaves || gate_of(c)->draining || (most && c->requests >= most) ||
	    w->framing == HTTP_UNTIL_CLOSE || w->continues)
		w->keep = false;
	if (!w->body_done &&
	    (w->in.body_len == UINT64_MAX || w->in.body_len - w->body_bytes > CLIENT_KEEP_MAX))
		w->keep = false;
}

/* An answer of the gate's own, all of it in `pre`, behind what is still there. */
static void own_answer(struct client *c, int status, const char *why)
{
	struct work *w = c->work;
	char *to = clients_of(c)->scratch;
	uint32_t front = w->pre_len;
	int len;

	choose_keep(c);
	if (!w->in.version) /* it would have to be told */
		w->keep = false;
	if (front)
		memcpy(to, w->pre, front);
	len = http_write_answer(status, why, !w->keep, w->in.method == HTTP_HEAD && w->in.head_done,
	                        to + front, sizeof(clients_of(c)->scratch) - front);
	w->pre = to;
	w->pre_len = front + (len > 0 ? (uint32_t)len : 0);
	w->payload = w->post_len = 0;
	w->begun = w->finished = true;
}

static void begin(struct client *c)
{
	struct work *w = c->work;
	struct exchange *x = w->x;
	struct http_out out = { .version = w->in.version };
	char *to = clients_of(c)->scratch;
	unsigned status = x->status;
	uint32_t size = 0;
	const struct tw_msg *msg = tw_pool_block(w->service->pool, x->response, &size);
	int len;

	choose_framing(c, &out, status);
	choose_keep(c);
	out.upgrade = status == 101;
	out.close = !w->keep && status != 101;
	out.keep10 = w->keep && !w->in.version;
	/* Some room for the head of a chunk behind it. */
	len = msg ? http_write_head(msg, size, true, &out, to, sizeof(clients_of(c)->scratch) - 32)
	          : -ESTALE;
	if (len < 0 || !same_status(to, len, status)) {
		flow_say(flow_of(x), UINT32_MAX, "a response could not be sent: %s",
		         len == -EMSGSIZE ? "its head is too large"
		         : len == -EPROTO ? tw_error()
		                          : "it was lost, or is another one now");
		own_answer(c, 502, "the response is not valid");
		return;
	}
	w->begun = true;
	w->pre = to;
	w->pre_len = (uint32_t)len;
	if (status == 101) {
		w->raw = true;
		w->body_done = false;
		x->in.ended = false;
		client_deadline(c, c->listener->spec.idle_ms);
	}
	segment(w); /* what broke off already is found again behind the head */
	chunk_head(w, to + len);
}

/* ---- writing ---- */

static int gather(struct work *w, struct iovec *iov)
{
	uint32_t left = w->payload, size;
	int n = 0;

	if (w->pre_len)
		iov[n++] = (struct iovec){ (char *)w->pre, w->pre_len };
	for (uint32_t i = 0; left; i++) {
		const struct body_piece *piece = body_nth(&w->x->out, i);
		char *memory = piece ? tw_pool_peek(w->service->pool, piece->handle, &size) : NULL;
		uint32_t len = piece && piece->len < left ? piece->len : left;

		if (!memory || piece->at > size || len > size - piece->at)
			return -1;
		iov[n++] = (struct iovec){ memory + piece->at, len };
		left -= len;
	}
	if (w->post_len)
		iov[n++] = (struct iovec){ (char *)w->post, w->post_len };
	return n;
}

/* What of `pre` is still to be sent must outlive this call. */
static bool keep_rest(struct client *c)
{
	struct work *w = c->work;
	const char *scratch = clients_of(c)->scratch;
	char *copy;

	if (!w->pre_len || w->pre < scratch || w->pre >= scratch + sizeof(clients_of(c)->scratch))
		return true;
	copy = malloc(w->pre_len);
	if (!copy)
		return false;
	memcpy(copy, w->pre, w->pre_len);
	free(w->kept);
	w->kept = copy;
	w->pre = copy;
	return true;
}

static void sent(struct work *w, size_t n)
{
	uint32_t part = n < w->pre_len ? (uint32_t)n : w->pre_len;

	w->pre += part;
	w->pre_len -= part;
	n -= part;
	part = n < w->payload ? (uint32_t)n : w->payload;
	w->payload -= part;
	n -= part;
	w->post += n;
	w->post_len -= (uint32_t)n;
	if (part)
		body_used(w->x, &w->x->out, part);
}

/* False: stop. */
static bool flush(struct client *c)
{
	struct work *w = c->work;
	struct iovec iov[BODY_PIECES + 2];

	while (under_way(w)) {
		int n = gather(w, iov);
		ssize_t done = n < 0 ? -ESTALE : c->sock.ops->write(gate_of(c), &c->sock, iov, n);

		if (done == -EAGAIN && keep_rest(c)) {
			w->blocked = true;
			client_deadline(c, c->listener->spec.send_ms);
			return client_interest(c, false) && false;
		}
		if (done < 0) {
			client_close(c);
			return false;
		}
		gate_count(gate_of(c), GATE_BYTES_OUT, (uint64_t)done);
		w->written += (uint64_t)done;
		sent(w, (size_t)done);
		if (w->raw)
			client_deadline(c, c->listener->spec.idle_ms);
		else if (c->half)
			client_deadline(c, CLIENT_HALF_MS);
	}
	return true;
}

/* All that can be: false: stop. */
static bool write_more(struct client *c)
{
	struct work *w = c->work;

	for (uint64_t from = w->written;;) {
		if (!flush(c))
			return false;
		if (w->finished)
			break;
		if (w->written - from > TURN_BYTES) { /* others have a turn too */
			w->blocked = true;
			client_deadline(c, c->listener->spec.send_ms);
			return client_interest(c, false) && false;
		}
		if (!segment(w)) {
			client_close(c); /* cut off, for all to see */
			return false;
		}
		chunk_head(w, NULL);
		if (!under_way(w) && !w->finished)
			return true; /* until more comes */
	}
	gate_count(gate_of(c), GATE_RESPONSES, 1);
	return client_next(c) && false;
}

/* Sends what is under way, then as much as there is. False: stop. */
bool client_write(struct client *c)
{
	struct work *w = c->work;

	if (w->blocked)
		return true;
	if (!w->begun) {
		if (!flush(c)) /* interim responses */
			return false;
		if (w->failed)
			own_answer(c, w->status, w->why);
		else if (w->respond)
			begin(c);
		else
			return true;
	} else if (w->failed && !w->finished) {
		client_close(c); /* in the middle: there is no other way to say so */
		return false;
	}
	return write_more(c);
}

bool client_write_answer(struct client *c, int status, const char *why)
{
	struct work *w = c->work;

	if (w->blocked) { /* interim responses are under way, to a client that takes nothing */
		client_close(c);
		return false;
	}
	own_answer(c, status, why);
	return write_more(c);
}

bool client_continue(struct client *c)
{
	struct work *w = c->work;
	static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";

	w->continues = false;
	if (w->x->in.broken || !w->in.version)
		return true;
	return !put_front(w, text, sizeof(text) - 1) || flush(c);
}

void client_write_free(struct work *w)
{
	free(w->kept);
	w->kept = NULL;
	w->pre_len = w->payload = w->post_len = 0;
}
