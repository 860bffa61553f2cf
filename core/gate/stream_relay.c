/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_relay.c - bytes of a stream, both ways: read into a block of the pool, and written from
 * it. Functions that take data stand in between as filters of the two bodies; without them a piece
 * is written as soon as it is read. Who sends faster than the other takes is not read any more.
 */
#include "gate/stream.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	BLOCK = 16 << 10,
	BLOCK_HUNGRY = 64 << 10,
	READS = 4, /* blocks in a row from one connection, before others have their turn */
	STARVED_NS = 10000000,
	LINGER_NS = 2000000000, /* for a client to take a reply */
};

static struct body *from_of(struct stream *s, struct stream_end *end)
{
	return end == &s->client ? &s->x->in : &s->x->out;
}

static struct body *to_of(struct stream *s, struct stream_end *end)
{
	return end == &s->client ? &s->x->out : &s->x->in;
}

void relay_watch(struct stream *s, struct stream_end *end)
{
	uint32_t interest = 0;
	if (end->source.fd < 0)
		return;
	if (!end->ended && !end->starved && !end->piped &&
	    (s->replies || body_has_room(from_of(s, end))))
		interest |= EPOLLIN;
	if (end->waits)
		interest |= EPOLLOUT;
	/* Hang-ups are told whether one asks or not, again and again. */
	if (!interest && end->watched) {
		gate_unwatch(s->gate, &end->source);
		end->watched = false;
	}
	if (!interest || (end->watched && end->source.interest == interest))
		return;
	end->watched = true;
	if (gate_watch(s->gate, &end->source, interest))
		stream_end(s, true);
}

static void finished(struct stream *s)
{
	if (s->client.ended && s->server.ended && s->client.shut && s->server.shut)
		stream_end(s, false);
}

/* ---- without a server ---- */

/* What functions have left of the client's bytes goes nowhere; their replies end with it. */
static void alone_ready(struct body *body)
{
	struct stream *s = body->consumer;
	struct body_piece piece;
	stream_hold(s);
	while (!s->dead && body_take(body, &piece))
		if (piece.frees)
			tw_pool_free(s->service->pool, piece.handle, s->gate->id);
	if (!s->dead && body->ended) {
		s->server.shut = true;
		body_end(&s->x->out);
	}
	stream_release(s);
}

/* A function has replied: what the client sends now is of no interest, but for its end, by which it
 * says that it has everything. Closing earlier could take away from it what it has not read. */
static void discard(struct stream *s)
{
	uint8_t nothing[4096];
	ssize_t n;
	do
		n = recv(s->client.source.fd, nothing, sizeof nothing, MSG_DONTWAIT);
	while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0 && errno == EAGAIN)
		return;
	s->client.ended = true;
	if (n < 0 || s->client.shut)
		stream_end(s, n < 0);
}

/* ---- to an end ---- */

static int fill(struct stream *s, const struct body *body, struct iovec *iov)
{
	const struct body_piece *piece;
	int n = 0;
	for (; n < BODY_PIECES && (piece = body_nth(body, (uint32_t)n)); n++) {
		uint32_t size;
		uint8_t *mem = tw_pool_at(s->service->pool, piece->handle, s->gate->id, &size);
		if (!mem || piece->at > size || piece->len > size - piece->at)
			return -1;
		iov[n] = (struct iovec){ mem + piece->at, piece->len };
	}
	return n;
}

/* Writes what is there. False: the stream is no more, or may be. */
static bool push(struct stream *s, struct stream_end *end)
{
	struct body *body = to_of(s, end);
	struct stream_end *from = end == &s->client ? &s->server : &s->client;
	if (from->piped && splice_out(s, from)) {
		stream_end(s, true);
		return false;
	}
	enum gate_counter counter = end == &s->client ? GATE_BYTES_OUT : GATE_UP_BYTES_OUT;
	while (body->count && !end->waits) {
		struct iovec iov[BODY_PIECES];
		int n = fill(s, body, iov);
		if (n < 0) {
			stream_end(s, true);
			return false;
		}
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
		ssize_t sent = sendmsg(end->source.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		gate_count(s->gate, GATE_SYSCALLS, 1);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno != EAGAIN) {
			stream_end(s, true);
			return false;
		}
		if (sent < 0) {
			end->waits = true;
			break;
		}
		gate_count(s->gate, counter, (uint64_t)sent);
		s->moved = s->gate->now;
		body_used(s->x, body, (uint32_t)sent); /* may read more */
		if (s->dead)
			return false;
	}
	if (body->broken) {
		stream_end(s, true);
		return false;
	}
	if (!body->count && !from->piped && body->ended && !end->shut && end->source.fd >= 0) {
		end->shut = true;
		shutdown(end->source.fd, SHUT_WR);
		if (s->replies)
			gate_timer_set(s->gate, &s->timer, s->gate->now + LINGER_NS);
		finished(s);
	}
	return !s->dead;
}

/* A body has something: x->in for the server, x->out for the client. */
static void body_ready(struct body *body)
{
	struct stream *s = body->consumer;
	struct stream_end *end = body == &s->x->in ? &s->server : &s->client;
	if (s->state != STREAM_RELAYS || end->waits)
		return;
	stream_hold(s);
	if (push(s, end))
		relay_watch(s, end);
	stream_release(s);
}

/* ---- from an end ---- */

static void starve(struct stream *s, struct stream_end *end)
{
	gate_count(s->gate, GATE_NO_BLOCK, 1);
	end->starved = true;
	gate_timer_set(s->gate, &s->retry, s->gate->now + STARVED_NS);
}

/* One block. -1: nothing more now. */
static int read_one(struct stream *s, struct stream_end *end, struct body *body)
{
	struct tw_pool *pool = s->service->pool;
	enum gate_counter counter = end == &s->client ? GATE_BYTES_IN : GATE_UP_BYTES_IN;
	uint32_t size = 0;
	tw_handle block = tw_pool_new(pool, end->full_reads ? BLOCK_HUNGRY : BLOCK, s->gate->id);
	void *mem = block ? tw_pool_block(pool, block, &size) : NULL;
	if (!mem) {
		starve(s, end);
		return -1;
	}
	ssize_t n;
	do {
		n = recv(end->source.fd, mem, size, MSG_DONTWAIT);
		gate_count(s->gate, GATE_SYSCALLS, 1);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		tw_pool_free(pool, block, s->gate->id);
	if (n < 0) {
		if (errno != EAGAIN)
			stream_end(s, true);
		return -1;
	}
	s->moved = s->gate->now;
	if (n == 0) {
		end->ended = true;
		body_end(body);
		if (!s->dead)
			finished(s);
		return -1;
	}
	gate_count(s->gate, counter, (uint64_t)n);
	bool full = n == (ssize_t)size;
	end->full_reads = !full ? 0 : end->full_reads < 255 ? end->full_reads + 1 : 255;
	struct body_piece piece = { .handle = block, .len = (uint32_t)n, .frees = true };
	body_put(body, &piece);
	return full ? 0 : -1;
}

/* The same through a pipe. */
static int splice_one(struct stream *s, struct stream_end *end, struct body *body)
{
	ssize_t n = splice_in(s, end);
	if (n == -EAGAIN)
		return -1;
	if (n < 0 || (n > 0 && splice_out(s, end))) {
		stream_end(s, true);
		return -1;
	}
	s->moved = s->gate->now;
	if (n > 0)
		return 0;
	end->ended = true;
	body_end(body);
	if (!s->dead)
		finished(s);
	return -1;
}

static void pull(struct stream *s, struct stream_end *end)
{
	struct body *body = from_of(s, end);
	if (s->replies) {
		discard(s);
		return;
	}
	for (int i = 0; i < READS && !s->dead && !end->ended && !end->starved; i++) {
		if (end->piped || !body_has_room(body))
			break;
		if ((splice_pays(s, end) ? splice_one : read_one)(s, end, body) < 0)
			break;
	}
}

/* A body takes more: the end it comes from is read again. */
static void body_room(struct body *body)
{
	struct stream *s = body->producer;
	if (s->state == STREAM_RELAYS)
		relay_watch(s, body == &s->x->in ? &s->client : &s->server);
}

void relay_ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct stream_end *end = (struct stream_end *)source;
	struct stream *s = end->stream;
	(void)gate;
	stream_hold(s);
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
		end->waits = false;
		if (!push(s, end))
			goto out;
	}
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		pull(s, end);
	if (!s->dead)
		relay_watch(s, end);
	if (!s->dead)
		relay_watch(s, end == &s->client ? &s->server : &s->client);
out:
	stream_release(s);
}

static void retry(struct gate *gate, struct gate_timer *timer)
{
	struct stream *s = (struct stream *)((char *)timer - offsetof(struct stream, retry));
	(void)gate;
	stream_hold(s);
	s->client.starved = s->server.starved = false;
	relay_watch(s, &s->client);
	if (!s->dead)
		relay_watch(s, &s->server);
	stream_release(s);
}

/* There is no server: the client's side of relay_begin(). */
static void alone(struct stream *s)
{
	struct exchange *x = s->x;
	s->replies = x->in.broken;
	s->server.ended = true;
	s->server.shut = s->replies;
	x->out.ready = body_ready;
	x->out.consumer = s;
	if (!s->replies) {
		x->in.ready = alone_ready;
		x->in.room = body_room;
		x->in.consumer = x->in.producer = s;
	}
}

static void together(struct stream *s)
{
	struct exchange *x = s->x;
	x->in.ready = x->out.ready = body_ready;
	x->in.room = x->out.room = body_room;
	x->in.consumer = x->in.producer = x->out.consumer = x->out.producer = s;
	s->server.source.ready = relay_ready;
	/* Nobody reads the message any more: ten thousand streams need no block each. */
	if (!x->in.filter && !x->out.filter) {
		tw_pool_free(s->service->pool, x->request, s->gate->id);
		x->request = 0;
		x->req = NULL;
	}
}

void relay_begin(struct stream *s)
{
	s->state = STREAM_RELAYS;
	s->retry.fire = retry;
	s->client.source.ready = relay_ready;
	if (s->server.source.fd >= 0)
		together(s);
	else
		alone(s);
	stream_hold(s);
	/* Clients have often sent something before the server is there. */
	pull(s, &s->client);
	if (!s->dead && push(s, &s->client))
		relay_watch(s, &s->client);
	if (!s->dead)
		relay_watch(s, &s->server);
	stream_release(s);
}
