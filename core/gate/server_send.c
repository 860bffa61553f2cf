/* SPDX-License-Identifier: BSD-3-Clause */
/* server_send.c - a request on its way to a server: its head and its body, as far as the kernel
 * takes them.
 *
 * What is sent next is one batch: `pre` (the head, the head of a chunk), so many bytes of x->in,
 * `post` (the end of a chunk). A body stays in its queue until a response comes, so that another
 * server can have it; one that does not fit there is let go as it is sent. */
#include "gate/upstream.h"
#include "gate/proxy.h"
#include "gate/sock.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MS 1000000ull
#define HEAD_MAX 65536 /* as written; more than any block of a head holds */
#define SCRATCH (TW_PROXY_WRITE_MAX + 1 + HEAD_MAX + 32)

/* Heads are written here, since functions can change the message until that is done. */
static _Thread_local char *scratch;

void send_close(void)
{
	free(scratch);
	scratch = NULL;
}

void send_forget(struct upstream *up)
{
	free(up->spill);
	up->spill = NULL;
	up->pre_len = up->pre_at = up->post_len = up->post_at = 0;
	up->kept = up->data_left = 0;
	up->write_dead = up->blocked = false;
}

/* ---- the head ---- */

static bool is_idempotent(const char *method, size_t len)
{
	static const char *const known[] = { "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE" };
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strlen(known[i]) == len && !memcmp(known[i], method, len))
			return true;
	return false;
}

static const struct tw_msg *request_of(const struct exchange *x, uint32_t *size)
{
	return tw_pool_at(x->service->pool, x->request, x->gate->id, size);
}

bool send_is_idempotent(const struct exchange *x)
{
	uint32_t size;
	const struct tw_msg *msg = request_of(x, &size);
	struct tw_text method;

	if (!msg)
		return false;
	method = msg->method;
	__asm__ volatile("" : "+m"(method)); /* a copy: others write there */
	if (method.at > size || method.len > size - method.at)
		return false;
	return is_idempotent((const char *)msg + method.at, method.len);
}

/* How the end of the body will be known. */
static void choose_framing(struct upstream *up, struct http_out *out)
{
	struct exchange *x = up->x;

	up->keeps = true;
	up->body_left = 0;
	if (x->upgrade || (!x->body_expected && !x->in.count))
		out->framing = HTTP_NO_BODY;
	else if (x->in.trailers)
		out->framing = HTTP_CHUNKED;
	else if (x->in.ended)
		out->framing = HTTP_LENGTH, up->body_left = body_there(&x->in);
	else if (x->in_len && x->in_len != UINT64_MAX)
		out->framing = HTTP_LENGTH, up->body_left = x->in_len;
	else
		out->framing = HTTP_CHUNKED;
	out->length = up->body_left;
	up->framing = (uint8_t)out->framing;
}

static int write_proxy(struct upstream *up, const struct tw_msg *msg, char *to)
{
	struct proxy_facts facts = {
		.family = msg->family,
		.peer_port = msg->peer_port,
		.local_port = msg->local_port,
	};
	uint32_t version = up->group->spec->proxy;

	if (!version)
		return 0;
	memcpy(facts.peer, msg->peer, sizeof(facts.peer));
	memcpy(facts.local, msg->local, sizeof(facts.local));
	return proxy_write(version, &facts, to, TW_PROXY_WRITE_MAX + 1);
}

/* Methods that are expected to have a body say so when it is empty (RFC 9110 8.6). */
static bool wants_length(const struct tw_msg *msg, uint32_t size)
{
	struct tw_text method = msg->method;
	const char *text = (const char *)msg + method.at;

	__asm__ volatile("" : "+m"(method));
	if (method.at > size || method.len > size - method.at)
		return false;
	text = (const char *)msg + method.at;
	return (method.len == 4 && !memcmp(text, "POST", 4)) ||
	       (method.len == 3 && !memcmp(text, "PUT", 3)) ||
	       (method.len == 5 && !memcmp(text, "PATCH", 5));
}

bool send_begin(struct upstream *up)
{
	const struct tw_group_spec *spec = up->group->spec;
	struct exchange *x = up->x;
	struct http_out out = { .version = 1, .upgrade = x->upgrade };
	const struct tw_msg *msg;
	uint32_t size;
	int front, len;
	char *space;

	up->sending = up->sent = up->written = up->finish = false;
	if (!scratch)
		scratch = malloc(SCRATCH);
	msg = request_of(x, &size);
	if (!msg || !scratch) {
		upstream_lost(up, msg ? UP_SHORTAGE : UP_REQUEST, "%s", tw_error());
		return false;
	}
	choose_framing(up, &out);
	if (out.framing == HTTP_NO_BODY && !x->upgrade && wants_length(msg, size))
		out.framing = HTTP_LENGTH;
	out.close = !x->upgrade && (!spec->keepalive || spec->proxy);
	if (!__atomic_load_n(&msg->host.len, __ATOMIC_RELAXED))
		out.host = up->c->server->shared->host;
	front = write_proxy(up, msg, scratch);
	len = front < 0 ? front
	                : http_write_head(msg, size, false, &out, scratch + front, HEAD_MAX);
	if (len < 0) {
		upstream_lost(up, UP_REQUEST, "%s", tw_error());
		return false;
	}
	/* What was written is what counts, whatever becomes of the message now. */
	space = memchr(scratch + front, ' ', (size_t)len);
	len += front;
	up->idempotent = space && is_idempotent(scratch + front, (size_t)(space - scratch - front));
	up->head = space == scratch + front + 4 && !memcmp(scratch + front, "HEAD", 4);
	up->pre = scratch;
	up->pre_len = (uint32_t)len;
	up->pre_at = 0;
	return true;
}

/* ---- batches ---- */

static bool batch_under_way(const struct upstream *up)
{
	return up->data_left || up->post_at < up->post_len;
}

static void add_chunk_head(struct upstream *up, uint64_t len)
{
	char *to = up->small;

	if (up->pre_at < up->pre_len) {
		to = up->pre + up->pre_len;
	} else {
		up->pre = up->small;
		up->pre_at = up->pre_len = 0;
	}
	up->pre_len += (uint32_t)http_write_chunk(len, to);
}

static void set_post(struct upstream *up, const char *text, uint32_t len)
{
	up->post = text;
	up->post_at = 0;
	up->post_len = len;
}

static void fill_chunk(struct upstream *up, uint64_t there)
{
	const struct http_trailers *trailers = up->x->in.trailers;

	/* Behind a head that is still on its way there is room only in the scratch. */
	if (up->pre_at < up->pre_len && up->pre != scratch)
		return;
	up->finish = up->x->in.ended;
	if (there) {
		add_chunk_head(up, there);
		up->data_left = there;
		if (up->finish && !trailers)
			set_post(up, "\r\n0\r\n\r\n", 7);
		else if (!up->finish)
			set_post(up, "\r\n", 2);
		else
			set_post(up, trailers->text, trailers->len);
	} else if (up->finish && trailers) {
		set_post(up, trailers->text + HTTP_TRAILERS_ALONE,
		         trailers->len - HTTP_TRAILERS_ALONE);
	} else if (up->finish) {
		add_chunk_head(up, 0);
	}
}

/* The next batch, if there is something to send; false: upstream_lost() was called. */
static bool fill(struct upstream *up)
{
	struct body *in = &up->x->in;
	uint64_t there;

	if (up->finish || batch_under_way(up))
		return true;
	there = body_there(in) - up->kept;
	if (in->broken && !there) {
		upstream_lost(up, UP_CLIENT, "the body of the request broke off");
		return false;
	}
	switch (up->framing) {
	case HTTP_NO_BODY:
		up->finish = true;
		break;
	case HTTP_LENGTH:
		if (there > up->body_left || (in->ended && there < up->body_left)) {
			upstream_lost(up, UP_CLIENT,
			              "the body of the request is not as long as its head says");
			return false;
		}
		up->data_left = there;
		up->body_left -= there;
		up->finish = !up->body_left;
		break;
	case HTTP_CHUNKED:
		fill_chunk(up, there);
		break;
	default:
		up->data_left = there;
		up->finish = in->ended;
	}
	return true;
}

/* 0 or more, the bytes in `iov`; -1: a piece is not the gate's. */
static ssize_t gather(struct upstream *up, struct iovec *iov, unsigned *n)
{
	struct tw_pool *pool = up->x->service->pool;
	uint64_t skip = up->kept, left = up->data_left;
	const struct body_piece *piece;
	ssize_t sum = 0;
	uint32_t i, size;

	*n = 0;
	if (up->pre_at < up->pre_len)
		iov[(*n)++] = (struct iovec){ up->pre + up->pre_at, up->pre_len - up->pre_at };
	for (i = 0; left && (piece = body_nth(&up->x->in, i)); i++) {
		uint64_t len = piece->len;
		char *mem;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		mem = tw_pool_at(pool, piece->handle, up->gate->id, &size);
		if (!mem || piece->at > size || piece->len > size - piece->at)
			return -1;
		len = len - skip > left ? left : len - skip;
		iov[(*n)++] = (struct iovec){ mem + piece->at + skip, len };
		left -= len;
		skip = 0;
	}
	if (up->post_at < up->post_len)
		iov[(*n)++] = (struct iovec){ (char *)up->post + up->post_at,
			                      up->post_len - up->post_at };
	for (i = 0; i < *n; i++)
		sum += (ssize_t)iov[i].iov_len;
	return sum;
}

/* So much was taken by the kernel; may end `up`. */
static void advance(struct upstream *up, uint64_t n)
{
	uint64_t part = up->pre_len - up->pre_at;

	part = part > n ? n : part;
	up->pre_at += (uint32_t)part;
	n -= part;
	part = up->data_left > n ? n : up->data_left;
	up->data_left -= part;
	n -= part;
	up->post_at += (uint32_t)n;
	if (up->keeps) {
		up->kept += part;
		/* More than the queue holds: from now on it cannot be repeated. */
		if (part && !up->x->in.ended && !body_passes(&up->x->in))
			send_settle(up);
	} else if (part) {
		up->consumed += part;
		body_used(up->x, &up->x->in, (uint32_t)part);
	}
}

/* The scratch is the next request's. */
static bool keep_head(struct upstream *up)
{
	uint32_t left = up->pre_len - up->pre_at;

	if (!left || up->pre != scratch)
		return true;
	up->spill = malloc(left);
	if (!up->spill)
		return false;
	memcpy(up->spill, up->pre + up->pre_at, left);
	up->pre = up->spill;
	up->pre_at = 0;
	up->pre_len = left;
	return true;
}

/* ---- sending ---- */

/* It may have answered before it closed: that is read first. */
static void broke(struct upstream *up, int err)
{
	up->write_dead = true;
	up->blocked = false;
	read_more(up);
	if (!up->dead && up->write_dead && !up->began)
		upstream_lost(up, UP_CLOSED, "closed while the request was sent: %s",
		              strerror(err));
}

/* One send. False: no more now. */
static bool send_batch(struct upstream *up)
{
	struct iovec iov[BODY_PIECES + 2];
	ssize_t sum, n;
	unsigned count;

	if (!fill(up))
		return false;
	sum = gather(up, iov, &count);
	if (sum < 0) {
		upstream_lost(up, UP_REQUEST, "a piece of the request's body is lost");
		return false;
	}
	up->blocked = false;
	if (!sum)
		return false;
	n = sock_send(up->gate, up->c->source.fd, iov, count);
	if (n < 0 && n != -EAGAIN) {
		broke(up, (int)-n);
		return false;
	}
	up->blocked = n < sum;
	if (n > 0) {
		up->written = true;
		gate_count(up->gate, GATE_UP_BYTES_OUT, (uint64_t)n);
		advance(up, (uint64_t)n);
	}
	return !up->dead && !up->blocked;
}

static void arm(struct upstream *up)
{
	bool waits = up->sent || up->blocked || up->write_dead;

	upstream_watch(up);
	/* While the client is slow, its own limits hold. */
	if (!up->answered)
		connection_deadline(up->c,
		                    waits ? up->gate->now + up->group->spec->response_ms * MS : 0);
}

static void sent_all(struct upstream *up)
{
	up->sent = true;
	if (up->framing != SEND_RAW)
		return;
	shutdown(up->c->source.fd, SHUT_WR);
	if (up->ended)
		upstream_done(up, false);
}

/* The kernel takes no more, or there is no more. */
static void settle_batch(struct upstream *up)
{
	if (!up->write_dead) {
		if (!keep_head(up)) {
			upstream_lost(up, UP_SHORTAGE, "no memory for the rest of the head");
			return;
		}
		if (up->finish && !batch_under_way(up) && up->pre_at == up->pre_len)
			sent_all(up);
	}
	if (!up->dead)
		arm(up);
}

void send_more(struct upstream *up)
{
	uint32_t attempt = up->attempt;

	if (up->sending || up->sent || up->write_dead)
		return;
	upstream_hold(up);
	up->sending = true;
	while (send_batch(up))
		;
	/* Another attempt may have begun meanwhile. */
	if (!up->dead && up->attempt == attempt) {
		up->sending = false;
		settle_batch(up);
	}
	upstream_release(up);
}

void send_settle(struct upstream *up)
{
	uint64_t kept = up->kept;

	up->keeps = false;
	up->kept = 0;
	if (kept) {
		up->consumed += kept;
		body_used(up->x, &up->x->in, (uint32_t)kept);
	}
}

void send_raw(struct upstream *up)
{
	up->framing = SEND_RAW;
	up->keeps = up->finish = up->sent = false;
	up->x->in.ended = false; /* of the request; what comes now is no body */
}
