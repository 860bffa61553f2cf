/* SPDX-License-Identifier: BSD-3-Clause */
/* stream.c - connections of TCP listeners: their opening is a message for the functions; then a
 * connection to a server of the group. */
#include "gate/sock.h"
#include "gate/stream.h"
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECT_MS = 5000 };

TAILQ_HEAD(streams, stream);

static const struct exchange_client stream_client;

static uint64_t after(const struct stream *s, uint64_t ms)
{
	return s->gate->now + ms * 1000000;
}

/* ---- the end ---- */

static void close_end(struct stream *s, struct stream_end *end, bool reset)
{
	struct linger now = { .l_onoff = 1 };
	splice_close(end);
	if (end->source.fd < 0)
		return;
	if (end->watched)
		gate_unwatch(s->gate, &end->source);
	end->watched = false;
	if (reset)
		setsockopt(end->source.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	close(end->source.fd);
	end->source.fd = -1;
}

static void release_server(struct stream *s, const char *why)
{
	if (s->chosen)
		group_release(s->gate, s->group, s->choice.server, why);
	s->chosen = false;
}

bool stream_release(struct stream *s)
{
	bool lives = !s->dead;
	if (--s->hold == 0 && s->dead)
		free(s);
	return lives;
}

/* Everything but the exchange. */
static void give_back(struct stream *s, bool reset)
{
	s->dead = true;
	close_end(s, &s->client, reset);
	close_end(s, &s->server, reset);
	gate_timer_cancel(s->gate, &s->timer);
	gate_timer_cancel(s->gate, &s->retry);
	release_server(s, s->state == STREAM_RELAYS ? NULL : "");
	TAILQ_REMOVE((struct streams *)s->gate->streams, s, link);
	free(s->bytes);
	s->bytes = NULL;
	listener_closed(s->gate, s->listener);
}

void stream_end(struct stream *s, bool reset)
{
	struct exchange *x = s->x;
	if (s->dead)
		return;
	stream_hold(s);
	s->x = NULL;
	/* While functions have it, or it is on its way to them, it is given up; else it is done. */
	bool asks = s->state == STREAM_ASKS;
	give_back(s, reset);
	if (x && asks)
		exchange_client_gone(x);
	else if (x)
		exchange_end(x);
	stream_release(s);
}

void stream_close_all(struct gate *gate, uint32_t listener)
{
	struct streams *all = gate->streams;
	struct stream *s, *next;
	if (!all)
		return;
	for (s = TAILQ_FIRST(all); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (listener == UINT32_MAX || s->listener == listener)
			stream_end(s, true);
	}
	if (TAILQ_EMPTY(all)) {
		free(all);
		gate->streams = NULL;
	}
}

static void timed_out(struct gate *gate, struct gate_timer *timer)
{
	struct stream *s = (struct stream *)((char *)timer - offsetof(struct stream, timer));
	if (s->state == STREAM_RELAYS) {
		uint64_t due = s->moved + s->idle_ms * 1000000ull;
		if (due > gate->now) {
			gate_timer_set(gate, timer, due);
			return;
		}
	}
	gate_count(gate, GATE_TIMEOUTS, 1);
	if (s->state == STREAM_CONNECTS)
		stream_lost(s, "it does not answer");
	else
		stream_end(s, s->state == STREAM_RELAYS);
}

/* ---- to a server ---- */

/* The header is the first thing in an empty buffer: it fits, or the connection is broken. */
static int send_proxy(struct stream *s)
{
	char header[TW_PROXY_WRITE_MAX];
	if (!s->choice.proxy)
		return 0;
	int n = proxy_write(s->choice.proxy, &s->facts, header, sizeof header);
	if (n < 0)
		return n;
	ssize_t sent = send(s->server.source.fd, header, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent == n ? 0 : -EIO;
}

static void connected(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct stream *s = ((struct stream_end *)source)->stream;
	int err = 0;
	socklen_t len = sizeof err;
	(void)events;
	if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
		err = errno;
	if (err || send_proxy(s)) {
		stream_lost(s, err ? strerror(err) : "it does not take the PROXY header");
		return;
	}
	gate_count(gate, GATE_UP_CONNECTIONS, 1);
	gate_timer_cancel(gate, &s->timer);
	flow_answered(s->x); /* calls respond() */
}

/* 0: on its way, or asked again soon; -errno and a sentence. */
static int begin(struct stream *s)
{
	int err = sock_connect(s->choice.address, SOCK_STREAM, 1, &s->server.source.fd);
	if (err == -EAGAIN) {
		gate_timer_set(s->gate, &s->retry, sock_knock(s->gate->now, &s->knocks));
		return 0;
	}
	if (err && err != -EINPROGRESS)
		return err;
	s->server.source.ready = connected;
	err = gate_watch(s->gate, &s->server.source, EPOLLOUT);
	s->server.watched = !err;
	return err ? tw_fail(ENOMEM, "no memory to wait for it") : 0;
}

/* Its queue was full. */
static void knock(struct gate *gate, struct gate_timer *timer)
{
	struct stream *s = (struct stream *)((char *)timer - offsetof(struct stream, retry));
	int err = begin(s);
	(void)gate;
	if (err && server_is_shortage(-err))
		stream_end(s, true);
	else if (err)
		stream_lost(s, tw_error());
}

/* A server is chosen and connected to, until one can be. */
static void go_on(struct stream *s)
{
	for (;;) {
		int rc = group_choose(s->gate, s->group, s->key, s->tried, &s->choice);
		if (rc) {
			stream_end(s, true);
			return;
		}
		s->chosen = true;
		s->attempts++;
		s->knocks = 0;
		s->retry.fire = knock;
		int err = begin(s);
		if (!err)
			break;
		bool shortage = server_is_shortage(-err);
		s->tried |= 1ull << (s->choice.server % 64);
		release_server(s, shortage ? "" : tw_error());
		if (shortage || s->attempts > s->choice.retries) {
			stream_end(s, true);
			return;
		}
	}
	gate_timer_set(s->gate, &s->timer,
	               after(s, s->choice.connect_ms ? s->choice.connect_ms : CONNECT_MS));
}

void stream_lost(struct stream *s, const char *why)
{
	s->tried |= 1ull << (s->choice.server % 64);
	close_end(s, &s->server, false);
	gate_timer_cancel(s->gate, &s->timer);
	gate_timer_cancel(s->gate, &s->retry);
	release_server(s, why);
	if (s->attempts <= s->choice.retries) {
		gate_count(s->gate, GATE_RETRIES, 1);
		go_on(s);
	} else {
		stream_end(s, true);
	}
}

/* ---- what functions decide ---- */

static void forward(struct exchange *x, uint32_t group, uint32_t key)
{
	struct stream *s = x->client_data;
	s->x = x;
	s->state = STREAM_CONNECTS;
	s->group = group;
	s->key = key;
	go_on(s);
}

/* The exchange is ours to end. */
static void close_both(struct exchange *x, bool reset)
{
	struct stream *s = x->client_data;
	if (s->state != STREAM_RELAYS)
		release_server(s, "");
	s->x = x;
	s->state = STREAM_RELAYS;
	stream_end(s, reset);
}

static void fail(struct exchange *x, int status, const char *why)
{
	(void)status, (void)why;
	close_both(x, true);
}

static void shut_out(struct exchange *x)
{
	close_both(x, false);
}

/* Bytes may go both ways; without a server they go to functions only, and come from them. */
static void respond(struct exchange *x)
{
	struct stream *s = x->client_data;
	s->x = x;
	s->moved = s->gate->now;
	if (s->idle_ms)
		gate_timer_set(s->gate, &s->timer, after(s, s->idle_ms));
	relay_begin(s);
}

static const struct exchange_client stream_client = {
	.name = "stream",
	.respond = respond,
	.fail = fail,
	.close = shut_out,
	.upgraded = shut_out,
	.forward = forward,
};

/* ---- a connection has come ---- */

void l4_message(struct tw_msg *msg, struct gate *gate, tw_handle self, uint32_t size, uint8_t kind,
                uint32_t listener, const struct proxy_facts *facts)
{
	struct timespec wall;
	clock_gettime(CLOCK_REALTIME, &wall);
	memset(msg, 0, offsetof(struct tw_msg, body));
	memset(&msg->verdict, 0, sizeof *msg - offsetof(struct tw_msg, verdict));
	msg->magic = TW_MSG_MAGIC;
	msg->kind = kind;
	msg->gate = (uint16_t)gate->id;
	msg->size = size;
	msg->used = sizeof *msg;
	msg->self = self;
	msg->received_ns = gate->now;
	msg->wall_ns = (uint64_t)wall.tv_sec * 1000000000 + (uint64_t)wall.tv_nsec;
	msg->listener = (uint16_t)listener;
	msg->family = facts->family;
	msg->peer_port = facts->peer_port;
	msg->local_port = facts->local_port;
	memcpy(msg->peer, facts->peer, sizeof msg->peer);
	memcpy(msg->local, facts->local, sizeof msg->local);
}

/* Until functions have decided, only whether the client has gone is of interest. */
static void asking(struct gate *gate, struct gate_source *source, uint32_t events)
{
	(void)gate;
	if (events & (EPOLLERR | EPOLLHUP))
		stream_end(((struct stream_end *)source)->stream, true);
}

static void ask(struct stream *s)
{
	struct gate *gate = s->gate;
	uint32_t size = 0;
	s->service = gate->service[s->chain];
	if (!s->service) {
		stream_end(s, true);
		return;
	}
	struct tw_pool *pool = s->service->pool;
	tw_handle block = tw_pool_new(pool, sizeof(struct tw_msg), gate->id);
	struct tw_msg *msg = block ? tw_pool_block(pool, block, &size) : NULL;
	if (!msg) {
		gate_count(gate, GATE_NO_BLOCK, 1);
		stream_end(s, true);
		return;
	}
	l4_message(msg, gate, block, size, TW_MSG_OPEN, s->listener, &s->facts);
	msg->flags = TW_MSG_BODY;
	msg->body_len = UINT64_MAX;
	s->state = STREAM_ASKS;
	s->client.source.ready = asking;
	gate_count(gate, GATE_REQUESTS, 1);
	stream_hold(s);
	struct exchange *x = exchange_begin(gate, s->service, &stream_client, s, block, true);
	if (!s->dead && !x) {
		stream_end(s, true);
	} else if (!s->dead && s->state == STREAM_ASKS) {
		s->x = x;
		if (!s->client.watched && gate_watch(gate, &s->client.source, EPOLLERR) == 0)
			s->client.watched = true;
	}
	stream_release(s);
}

/* ---- the PROXY header ---- */

static void proxy_more(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct stream *s = ((struct stream_end *)source)->stream;
	struct proxy_facts facts;
	(void)events;
	ssize_t n = recv(source->fd, s->bytes + s->n_bytes, TW_PROXY_MAX - s->n_bytes,
	                 MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	int used = n > 0 ? proxy_read(s->bytes, s->n_bytes + (size_t)n, &facts) : -EPROTO;
	if (used < 0) {
		gate_count(gate, GATE_BAD_REQUESTS, 1);
		stream_end(s, true);
		return;
	}
	/* What belongs to the header is taken out; what follows stays for the server. */
	size_t take = used ? (size_t)used - s->n_bytes : (size_t)n;
	if (recv(source->fd, s->bytes + s->n_bytes, take, MSG_DONTWAIT) != (ssize_t)take) {
		stream_end(s, true);
		return;
	}
	s->n_bytes += (uint32_t)take;
	if (!used)
		return;
	if (facts.family && !facts.datagram)
		s->facts = facts;
	free(s->bytes);
	s->bytes = NULL;
	s->n_bytes = 0;
	gate_timer_cancel(gate, &s->timer);
	gate_unwatch(gate, source);
	s->client.watched = false;
	ask(s);
}

static int wait_for_proxy(struct stream *s, const struct tw_listener_spec *spec)
{
	s->state = STREAM_PROXY;
	s->bytes = malloc(TW_PROXY_MAX);
	if (!s->bytes)
		return -ENOMEM;
	s->client.source.ready = proxy_more;
	if (spec->head_ms)
		gate_timer_set(s->gate, &s->timer, after(s, spec->head_ms));
	int rc = gate_watch(s->gate, &s->client.source, EPOLLIN);
	s->client.watched = rc == 0;
	return rc;
}

static struct stream *stream_new(struct gate *gate)
{
	if (!gate->streams) {
		struct streams *all = malloc(sizeof *all);
		if (!all)
			return NULL;
		TAILQ_INIT(all);
		gate->streams = all;
	}
	struct stream *s = calloc(1, sizeof *s);
	if (s)
		TAILQ_INSERT_TAIL((struct streams *)gate->streams, s, link);
	return s;
}

int stream_accept(struct gate *gate, struct service *service, uint32_t listener,
                  const struct tw_listener_spec *spec, int fd, const struct proxy_facts *facts)
{
	struct stream *s = stream_new(gate);
	int one = 1;
	if (!s) {
		close(fd);
		listener_closed(gate, listener);
		return tw_fail(ENOMEM, "no memory for a connection of listener %s", spec->name);
	}
	s->gate = gate;
	s->chain = service->index;
	s->listener = listener;
	s->idle_ms = spec->idle_ms;
	s->facts = *facts;
	s->client.stream = s->server.stream = s;
	s->client.source.fd = fd;
	s->server.source.fd = -1;
	for (int i = 0; i < 2; i++)
		s->client.pipe[i] = s->server.pipe[i] = -1;
	s->timer.fire = timed_out;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	stream_hold(s);
	if (!spec->proxy)
		ask(s);
	else if (wait_for_proxy(s, spec))
		stream_end(s, true);
	stream_release(s);
	return 0;
}
