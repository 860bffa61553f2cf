/* SPDX-License-Identifier: BSD-3-Clause */
/* server_read.c - a response on its way from a server: its head, and what of the body came along,
 * in one block of the pool; the rest of the body in blocks of its own, as fast as the client takes
 * it. */
#include "gate/sock.h"
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define MS 1000000ull
#define HEAD_LIMIT 32768 /* of a response; 502 above */
#define INTERIM_MAX 16
#define HEAD_PIECES 2  /* that may come along with a head: there is always room for them */
#define ROUNDS 4       /* reads in one turn: others want theirs too */
#define MERGE_MAX 8192 /* pieces up to this are moved together */

void read_begin(struct upstream *up)
{
	http_in_end(&up->in);
	http_in_begin(&up->in, true, up->head, HEAD_LIMIT);
	up->reading = up->began = up->answered = up->paused = up->ended = up->starved = false;
	up->interim = 0;
	up->starved_at = 0;
	up->body_in = 0;
	up->want = READ_BLOCK;
	up->piece.len = 0;
}

/* ---- pieces ---- */

/* False: there is no up any more. */
static bool put_piece(struct upstream *up, bool frees)
{
	struct body_piece piece = up->piece;

	if (!piece.len)
		return true;
	piece.frees = frees;
	up->piece.len = 0;
	if (frees)
		up->block = 0;
	body_put(&up->x->out, &piece);
	return !up->dead;
}

/* Small pieces are moved together: chunks of a byte each would cost a place in the queue each. */
static bool merge(struct upstream *up, struct body_piece *last, uint32_t at, uint32_t len,
                  bool must)
{
	uint32_t behind = last->at + last->len;

	if (at != behind) {
		if (len > MERGE_MAX && !must)
			return false;
		memmove(up->mem + behind, up->mem + at, len);
		gate_count(up->gate, GATE_COPIED, len);
	}
	last->len += len;
	return true;
}

/* ---- the head ---- */

/* What http.c does not know. */
static void fill_message(struct upstream *up)
{
	struct tw_msg *msg = (struct tw_msg *)up->mem;
	const struct server *server = up->c->server;
	struct exchange *x = up->x;

	msg->magic = TW_MSG_MAGIC;
	msg->kind = TW_MSG_RESPONSE;
	msg->gate = (uint16_t)up->gate->id;
	msg->size = up->size;
	msg->exchange = x->number;
	msg->id = x->id;
	msg->self = up->block;
	msg->request = x->request;
	msg->received_ns = up->gate->now;
	msg->wall_ns = gate_wall(up->gate);
	msg->listener = x->listener;
	msg->family = server->shared->address.family; /* neither 4 nor 6: no address */
	msg->peer_port = server->shared->address.port;
	memcpy(msg->peer, server->shared->address.bytes, sizeof(msg->peer));
	memset(msg->local, 0, sizeof(msg->local));
	msg->local_port = 0;
	msg->retries = (uint8_t)(x->attempts ? x->attempts - 1 : 0);
	msg->server = (uint16_t)server->number;
	msg->n_body = 0;
	msg->n_on = 0;
	msg->verdict = msg->stage = 0;
	msg->group = 0;
	msg->key = 0;
	msg->answer = 0;
	msg->why = msg->trailers = (struct tw_text){ 0, 0 };
	memset(msg->value, 0, sizeof(msg->value));
}

/* The rest of the head's block, before anybody else sees it: pieces in `piece`, HTTP_BAD: the
 * response is none. */
static enum http_event body_of_head(struct upstream *up, struct body_piece *piece, uint32_t *n)
{
	enum http_event event;

	*n = 0;
	if (up->state == UP_RAW) {
		if (up->at < up->end)
			piece[(*n)++] = (struct body_piece){ up->block, up->at, up->end - up->at,
				                             false };
		return HTTP_WANTS_MORE;
	}
	for (;;) {
		event = http_in_read(&up->in, up->mem, up->size, &up->at, up->end);
		if (event != HTTP_GOT_BODY)
			return event;
		up->body_in += up->in.piece_len;
		if (*n &&
		    merge(up, &piece[*n - 1], up->in.piece_at, up->in.piece_len, *n == BODY_PIECES))
			continue;
		piece[(*n)++] = (struct body_piece){ up->block, up->in.piece_at, up->in.piece_len,
			                             false };
	}
}

static bool upgrade(struct upstream *up)
{
	if (!up->x->upgrade) {
		upstream_lost(up, UP_BAD, "changed to another protocol without being asked");
		return false;
	}
	up->state = UP_RAW;
	send_raw(up);
	return true;
}

/* A head that is not interim has come. False: nothing to go on with. */
static bool answer(struct upstream *up)
{
	struct body_piece piece[HEAD_PIECES];
	struct exchange *x = up->x;
	enum http_event event;
	uint32_t n, i;
	bool reusable;

	if (up->in.status == 101 && !upgrade(up))
		return false;
	event = body_of_head(up, piece, &n);
	if (event == HTTP_BAD) {
		upstream_lost(up, UP_BAD, "%s", up->in.why);
		return false;
	}
	send_settle(up);
	if (up->dead)
		return false;
	fill_message(up);
	reusable = up->in.keep && up->at == up->end;
	x->response = up->block;
	x->resp = (struct tw_msg *)up->mem;
	up->block = 0;
	up->answered = true;
	x->out.producer = up;
	for (i = 0; i < n && !up->dead; i++)
		body_put(&x->out, &piece[i]);
	if (up->dead)
		return false;
	if (event == HTTP_GOT_END) {
		x->out.trailers = http_in_trailers(&up->in);
		upstream_done(up, reusable);
		body_end(&x->out);
		flow_answered(x);
		return false;
	}
	x->out.room = read_room;
	if (up->state != UP_RAW)
		connection_deadline(up->c, up->gate->now + up->group->spec->idle_ms * MS);
	else
		connection_deadline(up->c, 0);
	flow_answered(x);
	if (!up->dead && up->state == UP_RAW)
		send_more(up);
	return !up->dead;
}

/* An interim response goes to the client, but 100, which the gate has said itself; the next one
 * stands behind it (RFC 9110 15.2). */
static bool pass_interim(struct upstream *up)
{
	uint32_t left = up->end - up->at;

	if (++up->interim > INTERIM_MAX) {
		upstream_lost(up, UP_BAD, "more than %u interim responses", INTERIM_MAX);
		return false;
	}
	if (up->in.status != 100)
		flow_interim(up->x, (struct tw_msg *)up->mem, up->size, up->in.status);
	memmove(up->mem + HTTP_BYTES_AT, up->mem + up->at, left);
	up->at = HTTP_BYTES_AT;
	up->end = HTTP_BYTES_AT + left;
	http_in_begin(&up->in, true, up->head, HEAD_LIMIT);
	return true;
}

static bool parse_head(struct upstream *up)
{
	bool interim = false;

	for (;;) {
		switch (http_in_read(&up->in, up->mem, up->size, &up->at, up->end)) {
		case HTTP_WANTS_MORE:
			return true;
		case HTTP_GOT_HEAD:
			interim = up->in.status < 200 && up->in.status != 101;
			if (!interim)
				return answer(up);
			break;
		case HTTP_GOT_END:
			if (!interim || !pass_interim(up))
				return false;
			break;
		default:
			upstream_lost(up, UP_BAD, "%s", up->in.why ? up->in.why : "no response");
			return false;
		}
	}
}

/* ---- the body ---- */

static void finish(struct upstream *up, bool reusable)
{
	struct exchange *x = up->x;

	x->out.trailers = http_in_trailers(&up->in);
	upstream_done(up, reusable);
	body_end(&x->out);
}

/* What is in the block is parsed: its last piece frees it, or it is used again. */
static bool block_done(struct upstream *up)
{
	up->at = up->end = HTTP_BYTES_AT;
	return put_piece(up, true);
}

static bool pause_reading(struct upstream *up)
{
	up->paused = true;
	upstream_watch(up);
	connection_deadline(up->c, 0);
	return false;
}

static bool parse_body(struct upstream *up)
{
	struct http_in *in = &up->in;
	bool reusable;

	for (;;) {
		if (!body_has_room(&up->x->out))
			return pause_reading(up);
		switch (http_in_read(in, up->mem, up->size, &up->at, up->end)) {
		case HTTP_WANTS_MORE:
			return block_done(up);
		case HTTP_GOT_BODY:
			up->body_in += in->piece_len;
			if (up->piece.len &&
			    merge(up, &up->piece, in->piece_at, in->piece_len, false))
				break;
			if (!put_piece(up, false))
				return false;
			up->piece = (struct body_piece){ up->block, in->piece_at, in->piece_len,
				                         false };
			break;
		case HTTP_GOT_END:
			reusable = in->keep && up->at == up->end;
			if (put_piece(up, true))
				finish(up, reusable);
			return false;
		default:
			upstream_lost(up, UP_BAD, "%s", in->why);
			return false;
		}
	}
}

static bool pass_raw(struct upstream *up)
{
	up->piece = (struct body_piece){ up->block, up->at, up->end - up->at, true };
	return block_done(up);
}

/* ---- reading ---- */

static void end_raw(struct upstream *up)
{
	struct exchange *x = up->x;

	up->ended = true;
	if (up->sent)
		upstream_done(up, false);
	else
		upstream_watch(up);
	body_end(&x->out);
}

/* The server has closed, or the connection broke: `err`. */
static void closed(struct upstream *up, int err)
{
	if (up->state == UP_RAW && !err) {
		end_raw(up);
	} else if (up->answered && !err && http_in_closed(&up->in) == HTTP_GOT_END) {
		finish(up, false);
	} else if (up->answered) {
		upstream_lost(up, UP_CLOSED, "the response broke off: %s",
		              err ? strerror(err) : "closed before its end");
	} else {
		upstream_lost(up, UP_CLOSED, "%s before it answered%s%s",
		              up->began ? "closed in the middle of the head" : "closed",
		              err ? ": " : "", err ? strerror(err) : "");
	}
}

/* One read. False: no more now. */
static bool read_once(struct upstream *up)
{
	uint32_t room;
	ssize_t n;

	if (up->answered && !body_has_room(&up->x->out))
		return pause_reading(up);
	room = up->answered ? read_room_body(up) : read_room_head(up);
	if (!room)
		return false;
	n = sock_recv(up->gate, up->c->source.fd, up->mem + up->end, room);
	if (n == -EAGAIN) {
		if (up->answered || !up->began)
			read_forget(up);
		return false;
	}
	if (n <= 0) {
		closed(up, (int)-n);
		return false;
	}
	gate_count(up->gate, GATE_UP_BYTES_IN, (uint64_t)n);
	up->began = true;
	up->starved_at = 0;
	up->end += (uint32_t)n;
	if (!up->answered)
		return parse_head(up) && (uint32_t)n == room;
	read_adapt(up, room, (uint32_t)n);
	if (up->state == UP_RAW)
		return pass_raw(up) && (uint32_t)n == room;
	connection_deadline(up->c, up->gate->now + up->group->spec->idle_ms * MS);
	return parse_body(up) && (uint32_t)n == room;
}

void read_more(struct upstream *up)
{
	uint32_t attempt = up->attempt, rounds = 0;

	if (up->reading || up->paused || up->starved || up->ended)
		return;
	upstream_hold(up);
	up->reading = true;
	while (rounds++ < ROUNDS && read_once(up) && up->attempt == attempt)
		;
	if (!up->dead && up->attempt == attempt)
		up->reading = false;
	upstream_release(up);
}

void read_room(struct body *out)
{
	struct upstream *up = out->producer;

	if (!up || !up->paused || up->reading || !body_has_room(out))
		return;
	upstream_hold(up);
	up->paused = false;
	upstream_watch(up);
	if (up->state != UP_RAW)
		connection_deadline(up->c, up->gate->now + up->group->spec->idle_ms * MS);
	up->reading = true;
	if (!up->block || up->state == UP_RAW || parse_body(up)) {
		up->reading = false;
		read_more(up);
	} else if (!up->dead) {
		up->reading = false;
	}
	upstream_release(up);
}
