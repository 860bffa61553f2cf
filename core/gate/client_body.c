/* SPDX-License-Identifier: BSD-3-Clause */
/* client_body.c - bodies of requests: read into blocks that are handed on as they are, as fast as
 * they are taken; and what is read only to be thrown away. */
#include "gate/client.h"
#include "gate/lane.h"

#include <errno.h>
#include <string.h>

#define READS 4 /* of a connection in a turn */
#define SMALL 2048
#define SMALL_BLOCK 4096
#define STARVED_MS 10
#define STARVED_MAX 200

void client_body_room(struct body *body)
{
	struct client *c = body->producer;

	gate_later(gate_of(c), &c->task);
}

bool client_carry(struct client *c, bool head)
{
	struct work *w = c->work;
	struct lump from = w->here;
	uint32_t n = from.end - from.at, front = head ? HTTP_BYTES_AT : 0;
	uint32_t table = head ? TW_HEADERS_MAX * (uint32_t)sizeof(struct tw_header) + 16 : 0;
	uint32_t need = front + n + table;

	if (!client_block(c, need < CLIENT_BLOCK ? CLIENT_BLOCK : need)) {
		w->here = from;
		return false;
	}
	if (head) {
		memset(w->here.memory, 0, front);
		((struct tw_msg *)w->here.memory)->received_ns = gate_of(c)->now;
	}
	memcpy(w->here.memory + front, from.memory + from.at, n);
	gate_count(gate_of(c), GATE_COPIED, n);
	w->here.at = front;
	w->here.end = front + n;
	w->rest = w->here;
	w->here = from;
	w->here.end = from.at;
	return true;
}

/* ---- handing on ---- */

/* `last`: of its block, which goes with it. */
static void hand_on(struct client *c, bool last)
{
	struct work *w = c->work;
	struct body_piece piece = w->held;

	piece.frees = last;
	w->holds = false;
	if (last) {
		w->flush = false;
		client_take_rest(c);
	}
	body_put(&w->x->in, &piece);
}

/* The body is over; what follows it is the next request's. */
static bool body_over(struct client *c)
{
	struct work *w = c->work;

	w->body_done = true;
	w->x->in.trailers = http_in_trailers(&w->in);
	if (w->here.at < w->here.end && !client_carry(c, true))
		return client_answer(c, 503, "no memory for the request");
	if (w->holds) {
		w->flush = true;
		return true;
	}
	client_block_free(c);
	client_take_rest(c);
	return true;
}

/* A piece came, and the one before it is known not to be the last of its block. */
static bool got_piece(struct client *c)
{
	struct work *w = c->work;
	uint64_t limit = c->listener->spec.body_bytes;

	if (w->holds)
		hand_on(c, false);
	w->held = (struct body_piece){ w->here.block, w->in.piece_at, w->in.piece_len, false };
	w->holds = true;
	w->body_bytes += w->in.piece_len;
	if (limit && w->body_bytes > limit)
		return client_answer(c, 413, "the body of the request is too large");
	return true;
}

static bool next_event(struct client *c)
{
	struct work *w = c->work;
	struct lump *here = &w->here;

	switch (http_in_read(&w->in, here->memory, here->size, &here->at, here->end)) {
	case HTTP_GOT_BODY:
		return got_piece(c);
	case HTTP_GOT_END:
		return body_over(c);
	case HTTP_BAD:
		return client_answer(c, w->in.status, w->in.why);
	default:
		return true;
	}
}

bool client_pump(struct client *c)
{
	struct work *w = c->work;
	struct body *in = &w->x->in;

	while (!w->body_ended) {
		bool used = w->here.at == w->here.end, over = http_in_over(&w->in);

		if (in->broken) { /* nobody takes it */
			w->discards = true;
			w->holds = w->flush = false;
			return true;
		}
		if (w->flush || w->holds) {
			if (!body_has_room(in))
				return true;
		}
		if (w->flush) {
			hand_on(c, true);
		} else if (w->body_done) {
			w->body_ended = true;
			if (w->in.body_len)
				body_end(in);
		} else if (!used || over) {
			if (!next_event(c))
				return false;
		} else if (w->holds) {
			w->flush = true;
		} else {
			w->here.at = w->here.end = 0;
			return true;
		}
	}
	return true;
}

/* ---- reading ---- */

/* False: the connection has ended, or the exchange. */
static bool body_cut(struct client *c, ssize_t n)
{
	struct work *w = c->work;

	if (n == 0 && http_in_closed(&w->in) == HTTP_BAD)
		return client_answer(c, w->in.status, w->in.why);
	client_close(c);
	return false;
}

static uint32_t block_for(const struct work *w)
{
	uint64_t left = w->in.body_len == UINT64_MAX ? UINT64_MAX : w->in.body_len - w->body_bytes;

	return left <= SMALL_BLOCK    ? SMALL_BLOCK
	       : left <= CLIENT_BLOCK ? CLIENT_BLOCK
	                              : CLIENT_BODY_BLOCK;
}

/* A few bytes do not keep a large block: many clients that send byte by byte would have the pool.
 */
static void shrink(struct client *c)
{
	struct work *w = c->work;
	struct lump large = w->here;

	if (large.end > SMALL || large.size <= SMALL_BLOCK)
		return;
	if (!client_block(c, SMALL_BLOCK)) {
		w->here = large;
		return;
	}
	memcpy(w->here.memory, large.memory, large.end);
	gate_count(gate_of(c), GATE_COPIED, large.end);
	w->here.end = large.end;
	tw_pool_free(w->service->pool, large.block, gate_of(c)->id);
}

/* A block for what comes next. False: there is none, and a moment later it is asked for again; when
 * that has been in vain for long, the answer is 503. */
static bool next_block(struct client *c, uint32_t size)
{
	struct work *w = c->work;

	if (w->here.block || client_block(c, size)) {
		w->starved = 0;
		return true;
	}
	if (++w->starved > STARVED_MAX)
		return client_answer(c, 503, "no memory for the body of the request");
	w->waits = true;
	lane_short(w->service, gate_of(c));
	client_interest(c, true);
	client_deadline(c, STARVED_MS);
	return false;
}

bool client_read_body(struct client *c)
{
	struct work *w = c->work;

	for (unsigned i = 0; i < READS && client_wants_bytes(c); i++) {
		struct lump *here = &w->here;
		uint32_t room;
		ssize_t n;

		if (!next_block(c, block_for(w)))
			return false;
		room = here->size - here->end;
		n = c->sock.ops->read(gate_of(c), &c->sock, here->memory + here->end, room);
		if (n == -EAGAIN)
			break;
		if (n <= 0)
			return body_cut(c, n);
		gate_count(gate_of(c), GATE_BYTES_IN, (uint64_t)n);
		if (here->end == 0) {
			here->end = (uint32_t)n;
			shrink(c);
		} else {
			here->end += (uint32_t)n;
		}
		if (!client_pump(c))
			return false;
		client_deadline(c, c->listener->spec.body_ms);
		if ((uint32_t)n < room)
			break;
	}
	if (!client_wants_bytes(c) && !w->blocked)
		client_deadline(c, 0);
	return client_interest(c, false);
}

/* ---- upgraded connections ---- */

static void put_raw(struct client *c)
{
	struct work *w = c->work;
	struct body_piece piece = { w->here.block, w->here.at, w->here.end - w->here.at, true };

	w->here = (struct lump){ 0 };
	body_put(&w->x->in, &piece);
}

bool client_read_raw(struct client *c)
{
	struct work *w = c->work;

	if (w->here.at < w->here.end && client_wants_bytes(c))
		put_raw(c); /* it came right behind the request */
	for (unsigned i = 0; i < READS && client_wants_bytes(c); i++) {
		ssize_t n;

		if (!next_block(c, CLIENT_BLOCK))
			return false;
		n = c->sock.ops->read(gate_of(c), &c->sock, w->here.memory, w->here.size);
		if (n == -EAGAIN)
			break;
		if (n < 0) {
			client_close(c);
			return false;
		}
		client_deadline(c, c->listener->spec.idle_ms);
		if (n == 0) {
			w->body_done = true;
			body_end(&w->x->in);
			break;
		}
		gate_count(gate_of(c), GATE_BYTES_IN, (uint64_t)n);
		w->here.end = (uint32_t)n;
		shrink(c);
		put_raw(c);
		if ((uint32_t)n < CLIENT_BLOCK)
			break;
	}
	if (w->here.at == w->here.end)
		client_block_free(c);
	return client_interest(c, false);
}

/* ---- bytes that nobody takes ---- */

static bool too_much(struct client *c)
{
	client_close(c);
	return false;
}

/* Of a body, up to the next request. False: stop. */
static bool discard_events(struct client *c, struct lump *from)
{
	struct work *w = c->work;

	for (;;) {
		switch (http_in_read(&w->in, from->memory, from->size, &from->at, from->end)) {
		case HTTP_GOT_BODY:
			break;
		case HTTP_WANTS_MORE:
			return true;
		case HTTP_GOT_END:
			w->body_done = true;
			if (from != &w->here) {
				client_block_free(c);
				w->here = *from;
			}
			if (from->at < from->end && !client_carry(c, true)) {
				client_close(c);
				return false;
			}
			if (from->block)
				client_block_free(c);
			client_take_rest(c);
			return client_next(c) && false;
		default:
			w->keep = false;
			return client_linger(c) && false;
		}
	}
}

bool client_discard(struct client *c)
{
	struct work *w = c->work;
	struct lump scratch = { .memory = clients_of(c)->scratch,
		                .size = sizeof(clients_of(c)->scratch) };
	ssize_t n;

	if (w && !discard_events(c, &w->here))
		return false;
	n = c->sock.ops->read(gate_of(c), &c->sock, scratch.memory, scratch.size);
	if (n == -EAGAIN)
		return true;
	if (n <= 0)
		return too_much(c);
	gate_count(gate_of(c), GATE_BYTES_IN, (uint64_t)n);
	c->discarded += (uint32_t)n;
	if (c->discarded > CLIENT_DISCARD_MAX)
		return too_much(c);
	scratch.end = (uint32_t)n;
	return !w || discard_events(c, &scratch);
}
