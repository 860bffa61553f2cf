/* SPDX-License-Identifier: BSD-3-Clause */
/* client_head.c - requests of an HTTP connection: read, made messages of, sent on their way. */
#include "gate/client.h"
#include "gate/lane.h"

#include <errno.h>
#include <string.h>

#define MS 1000000ull
#define HEAD_LONG_MS 1000 /* to send a head, where memory is short */
#define HEAD_LOOKS 512
#define HEADS_CLOSED 8 /* at once: a request needs more than one block */

static void prepare(struct client *c, struct lump *to)
{
	struct tw_msg *msg = (struct tw_msg *)to->memory;

	memset(msg, 0, offsetof(struct tw_msg, body));
	memset(&msg->verdict, 0, sizeof(*msg) - offsetof(struct tw_msg, verdict));
	msg->received_ns = gate_of(c)->now;
	to->at = to->end = HTTP_BYTES_AT;
}

/* ---- a message of it ---- */

static void describe(struct client *c, struct tw_msg *msg)
{
	msg->kind = TW_MSG_REQUEST;
	msg->gate = (uint16_t)gate_of(c)->id;
	msg->size = c->work->here.size;
	msg->self = c->work->here.block;
	msg->wall_ns = gate_wall(gate_of(c));
	msg->listener = (uint16_t)c->listener->index;
	msg->family = c->facts.family;
	msg->peer_port = c->facts.peer_port;
	msg->local_port = c->facts.local_port;
	memcpy(msg->peer, c->facts.peer, sizeof(msg->peer));
	memcpy(msg->local, c->facts.local, sizeof(msg->local));
}

/* What came behind the head in the same block, which is the message's from now on. A body of known
 * length may stay there; anything else has to be copied. */
static bool settle_rest(struct client *c, struct body_piece *piece)
{
	struct work *w = c->work;
	struct lump *here = &w->here;

	*piece = (struct body_piece){ 0 };
	if (w->in.chunked)
		return here->at == here->end || client_carry(c, false);
	if (w->in.body_len) {
		enum http_event event = http_in_read(&w->in, here->memory, here->size, &here->at,
		                                     here->end);

		if (event == HTTP_GOT_BODY)
			*piece = (struct body_piece){ here->block, w->in.piece_at, w->in.piece_len,
				                      false };
		w->body_bytes = piece->len;
		w->body_done = piece->len == w->in.body_len;
	} else {
		w->body_done = true;
	}
	return here->at == here->end || client_carry(c, true);
}

static bool got_head(struct client *c)
{
	struct work *w = c->work;
	const struct tw_listener_spec *spec = &c->listener->spec;
	struct gate *gate = gate_of(c);
	bool body = w->in.body_len != 0, nothing = w->here.at == w->here.end;
	struct body_piece piece;
	tw_handle message = w->here.block;

	c->requests++;
	gate_count(gate, GATE_REQUESTS, 1);
	if (spec->body_bytes && w->in.body_len != UINT64_MAX && w->in.body_len > spec->body_bytes)
		return client_answer(c, 413, "the body of the request is too large");
	describe(c, w->in.msg);
	if (!settle_rest(c, &piece))
		return client_answer(c, 503, "no memory for the request");
	client_take_rest(c); /* the block with the message is given away */
	w->keep = w->in.keep;
	w->x = exchange_begin(gate, w->service, &client_exchange, c, message, body);
	if (!w->x)
		return client_answer(c, 503, "no room for the request");
	c->state = CLIENT_EXCHANGE;
	client_deadline(c, 0);
	w->x->in.producer = c;
	w->x->in.room = client_body_room;
	if (!body)
		return true;
	if (piece.len)
		body_put(&w->x->in, &piece);
	w->continues = w->in.expects && nothing;
	gate_later(gate, &c->task); /* what else of the body is here, or 100 */
	return true;
}

/* ---- bytes ---- */

/* The header of the proxy in front, before the first request. False: nothing to go on with. */
static bool proxy_header(struct client *c, bool *alive)
{
	struct lump *here = &c->work->here;
	struct proxy_facts facts;
	int n = proxy_read((const uint8_t *)here->memory + here->at, here->end - here->at, &facts);

	*alive = true;
	if (n == 0 && here->end - here->at < TW_PROXY_MAX) {
		*alive = client_interest(c, false);
		return false;
	}
	if (n <= 0) {
		gate_count(gate_of(c), GATE_BAD_REQUESTS, 1);
		client_close(c);
		*alive = false;
		return false;
	}
	here->at += (uint32_t)n;
	c->proxy = false;
	if (facts.family)
		c->facts = facts;
	return true;
}

bool client_process(struct client *c)
{
	struct work *w = c->work;
	struct lump *here = &w->here;
	bool alive;

	if (c->proxy && !proxy_header(c, &alive))
		return alive;
	switch (http_in_read(&w->in, here->memory, here->size, &here->at, here->end)) {
	case HTTP_GOT_HEAD:
		return got_head(c);
	case HTTP_WANTS_MORE:
		return client_interest(c, false);
	default:
		return client_answer(c, w->in.status, w->in.why);
	}
}

/* The head does not fit: all of it goes to the next larger block. */
static bool enlarge(struct client *c)
{
	struct work *w = c->work;
	struct lump small = w->here;

	if (!client_block(c, small.size * 4)) {
		w->here = small;
		return false;
	}
	memcpy(w->here.memory, small.memory, small.end);
	gate_count(gate_of(c), GATE_COPIED, small.end - HTTP_BYTES_AT);
	w->here.at = small.at;
	w->here.end = small.end;
	http_in_moved(&w->in, w->here.memory);
	tw_pool_free(w->service->pool, small.block, gate_of(c)->id);
	return true;
}

/* Who only begins requests must not keep everybody out: of the last that came, some that have been
 * at their heads for long give their blocks up. */
static bool make_room(const struct client *c)
{
	uint64_t latest = gate_of(c)->now + c->listener->spec.head_ms * MS - HEAD_LONG_MS * MS;
	struct client *other = c->listener->clients, *next;
	unsigned closed = 0;

	for (unsigned i = 0; i < HEAD_LOOKS && closed < HEADS_CLOSED && other; i++, other = next) {
		next = other->next;
		if (other == c || other->state != CLIENT_HEAD || !other->work->here.block ||
		    other->deadline > latest)
			continue;
		gate_count(gate_of(c), GATE_TIMEOUTS, 1);
		client_close(other);
		closed++;
	}
	return closed;
}

static bool head_block(struct client *c)
{
	const struct gate *gate = gate_of(c);

	if (c->work->service->lane[gate->id]->short_until > gate->now) {
		make_room(c);
		return false;
	}
	return client_block(c, CLIENT_BLOCK) || (make_room(c) && client_block(c, CLIENT_BLOCK));
}

static bool first_bytes(struct client *c)
{
	if (!client_begin(c)) {
		if (!c->work)
			client_close(c);
		else
			client_answer(c, 503, "the service is not there");
		return false;
	}
	if (!head_block(c)) {
		client_answer(c, 503, "no memory for the request");
		return false;
	}
	prepare(c, &c->work->here);
	return true;
}

/* The end of the connection, or an error. */
static bool ended(struct client *c, ssize_t n)
{
	struct work *w = c->work;

	if (n == 0 && !c->proxy && http_in_closed(&w->in) == HTTP_BAD) {
		w->body_done = true; /* nothing more comes: no need to linger */
		return client_answer(c, w->in.status, w->in.why);
	}
	client_close(c);
	return false;
}

bool client_read_head(struct client *c)
{
	bool idle = c->state == CLIENT_IDLE;
	struct lump *here;
	struct work *w;
	uint32_t room;
	ssize_t n;

	if (idle && !first_bytes(c))
		return false;
	w = c->work;
	here = &w->here;
	if (!here->block) /* its own answer is still being written */
		return client_interest(c, true);
	room = http_in_room(here->size, here->end);
	if (!room && !enlarge(c))
		return client_answer(c, 503, "no memory for the request");
	room = http_in_room(here->size, here->end);
	n = c->sock.ops->read(gate_of(c), &c->sock, here->memory + here->end, room);
	if (n == -EAGAIN) {
		if (idle)
			client_rest(c);
		return true;
	}
	if (n <= 0)
		return ended(c, n);
	if (idle) {
		c->state = CLIENT_HEAD;
		client_deadline(c, c->listener->spec.head_ms);
	}
	gate_count(gate_of(c), GATE_BYTES_IN, (uint64_t)n);
	here->end += (uint32_t)n;
	return client_process(c);
}
