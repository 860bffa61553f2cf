/* SPDX-License-Identifier: BSD-3-Clause */
/* datagram.c - UDP listeners: each datagram is a message in a block of its own; replies of
 * functions go back from there, without a copy. */
#include "gate/datagram.h"
#include "error.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HEAD = (sizeof(struct tw_msg) + 63) & ~63, /* bytes in front of the payload */
	SMALL = 4096,
	IN_HAND_MAX = 8192, /* datagrams of a port with functions */
};

static const struct exchange_client datagram_client;

static struct datagrams *datagrams_of(struct gate *gate)
{
	return gate->datagrams;
}

/* ---- one datagram ---- */

static struct datagram *datagram_new(struct udp_port *port)
{
	struct datagrams *all = datagrams_of(port->gate);
	struct datagram *d = all->free;
	if (d)
		all->free = d->next_free;
	else
		d = malloc(sizeof *d);
	if (d) {
		d->port = port;
		d->x = NULL;
		d->session = NULL;
		d->replies = false;
		port->in_hand++;
	}
	return d;
}

static void datagram_free(struct datagram *d)
{
	struct datagrams *all = datagrams_of(d->port->gate);
	d->port->in_hand--;
	d->next_free = all->free;
	all->free = d;
}

void datagram_done(struct datagram *d)
{
	struct exchange *x = d->x;
	if (d->replies)
		TAILQ_REMOVE(&d->port->replies, d, link);
	else if (d->session)
		TAILQ_REMOVE(&d->session->asked, d, link);
	datagram_free(d);
	if (x)
		exchange_end(x);
}

int datagram_pieces(struct exchange *x, const struct body *body, struct iovec *iov)
{
	const struct body_piece *piece;
	int n = 0;
	for (; (piece = body_nth(body, (uint32_t)n)); n++) {
		uint32_t size = 0;
		uint8_t *mem = tw_pool_at(x->service->pool, piece->handle, x->gate->id, &size);
		if (!mem || piece->at > size || piece->len > size - piece->at)
			return -1;
		iov[n] = (struct iovec){ mem + piece->at, piece->len };
	}
	return n;
}

/* ---- replies: gathered until the end of the turn ---- */

static void count_sent(struct datagram *d, uint32_t len)
{
	d->x->out.went += len;
	gate_count(d->port->gate, GATE_RESPONSES, 1);
	gate_count(d->port->gate, GATE_BYTES_OUT, len);
}

static uint32_t send_batch(struct udp_port *port, struct datagram **list, uint32_t n)
{
	struct mmsghdr msg[DATAGRAM_BATCH];
	struct iovec iov[DATAGRAM_BATCH][DATAGRAM_PIECES];
	uint8_t control[DATAGRAM_BATCH][DATAGRAM_CONTROL] __attribute__((aligned(8)));
	uint32_t done = 0;
	for (uint32_t i = 0; i < n; i++) {
		int pieces = datagram_pieces(list[i]->x, &list[i]->x->out, iov[i]);
		datagram_header(&list[i]->ends, &msg[i].msg_hdr, control[i]);
		msg[i].msg_hdr.msg_iov = iov[i];
		msg[i].msg_hdr.msg_iovlen = pieces > 0 ? (size_t)pieces : 0;
	}
	while (done < n) {
		int sent = sendmmsg(port->source.fd, msg + done, n - done, MSG_DONTWAIT);
		gate_count(port->gate, GATE_SYSCALLS, 1);
		/* One that cannot be sent is lost, as datagrams are. */
		for (int i = 0; i < sent; i++)
			count_sent(list[done + (uint32_t)i], msg[done + (uint32_t)i].msg_len);
		done += sent > 0 ? (uint32_t)sent : 1;
	}
	return done;
}

static void send_replies(struct gate *gate, struct gate_task *task)
{
	struct udp_port *port = (struct udp_port *)((char *)task - offsetof(struct udp_port, send));
	struct datagram *list[DATAGRAM_BATCH];
	(void)gate;
	while (!TAILQ_EMPTY(&port->replies)) {
		struct datagram *d;
		uint32_t n = 0;
		TAILQ_FOREACH (d, &port->replies, link)
			if (n < DATAGRAM_BATCH)
				list[n++] = d;
		send_batch(port, list, n);
		for (uint32_t i = 0; i < n; i++)
			datagram_done(list[i]);
	}
	datagram_settle(port);
}

static void give_up(struct exchange *x);

/* All of it is there: it is sent at the end of this turn. Nothing, or too much, never. */
static void reply_ready(struct body *body)
{
	struct datagram *d = body->consumer;
	struct udp_port *port = d->port;
	if (body->broken || (!body->ended && body->count == BODY_PIECES)) {
		give_up(d->x);
		return;
	}
	if (!body->ended || d->replies)
		return;
	d->replies = true;
	TAILQ_INSERT_TAIL(&port->replies, d, link);
	gate_later(port->gate, &port->send);
}

static void respond(struct exchange *x)
{
	struct datagram *d = x->client_data;
	if (d->session)
		TAILQ_REMOVE(&d->session->asked, d, link);
	d->session = NULL;
	d->x = x;
	x->out.consumer = d;
	x->out.ready = reply_ready;
	reply_ready(&x->out);
}

/* ---- what functions decide ---- */

static void forward_ready(struct body *body)
{
	struct datagram *d = body->consumer;
	if (body->broken || (!body->ended && body->count == BODY_PIECES))
		give_up(d->x);
	else if (body->ended && !d->session)
		session_forward(d, d->group, d->key);
}

static void forward(struct exchange *x, uint32_t group, uint32_t key)
{
	struct datagram *d = x->client_data;
	d->x = x;
	d->group = group;
	d->key = key;
	x->in.consumer = d;
	x->in.ready = forward_ready;
	forward_ready(&x->in);
}

static void give_up(struct exchange *x)
{
	struct datagram *d = x->client_data;
	struct udp_port *port = d->port;
	d->x = x;
	datagram_done(d);
	datagram_settle(port);
}

static void fail(struct exchange *x, int status, const char *why)
{
	(void)status, (void)why;
	give_up(x);
}

static const struct exchange_client datagram_client = {
	.name = "datagram",
	.respond = respond,
	.fail = fail,
	.close = give_up,
	.upgraded = give_up,
	.forward = forward,
};

/* ---- receiving ---- */

/* What is in a small block and behind it, in a block that has room for all of it. */
static tw_handle enlarge(struct udp_port *port, struct tw_pool *pool, tw_handle small,
                         uint32_t room, uint32_t len, const uint8_t *rest)
{
	uint32_t id = port->gate->id;
	tw_handle large = tw_pool_new(pool, HEAD + len, id);
	uint32_t size;
	uint8_t *from = tw_pool_block(pool, small, &size);
	uint8_t *to = large ? tw_pool_block(pool, large, &size) : NULL;
	if (to && from) {
		memcpy(to + HEAD, from + HEAD, room);
		memcpy(to + HEAD + room, rest, len - room);
		gate_count(port->gate, GATE_COPIED, len);
	}
	tw_pool_free(pool, small, id);
	return large;
}

static void take(struct udp_port *port, struct service *service, tw_handle block, uint32_t len,
                 struct datagram *d)
{
	struct gate *gate = port->gate;
	uint32_t size = 0;
	struct tw_msg *msg = block ? tw_pool_block(service->pool, block, &size) : NULL;
	if (!msg) {
		gate_count(gate, GATE_NO_BLOCK, 1);
		datagram_free(d);
		return;
	}
	gate_count(gate, GATE_REQUESTS, 1);
	gate_count(gate, GATE_BYTES_IN, len);
	l4_message(msg, gate, block, size, TW_MSG_DATAGRAM, port->listener, &d->ends.facts);
	msg->used = HEAD + len;
	msg->flags = TW_MSG_WHOLE | TW_MSG_BODY;
	msg->body_len = len;
	msg->n_body = 1;
	msg->body[0] = (struct tw_body_block){ .at = HEAD, .len = len };
	d->x = exchange_begin(gate, service, &datagram_client, d, block, false);
	if (!d->x)
		datagram_free(d);
}

/* Blocks and records for so many; how many there are. */
static uint32_t prepare(struct udp_port *port, struct tw_pool *pool, uint32_t n, tw_handle *block,
                        struct datagram **d, struct mmsghdr *msg, struct iovec (*iov)[2],
                        uint8_t (*control)[DATAGRAM_CONTROL])
{
	struct datagrams *all = datagrams_of(port->gate);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t size = 0;
		uint8_t *mem = NULL;
		d[i] = port->in_hand < IN_HAND_MAX ? datagram_new(port) : NULL;
		block[i] = d[i] ? tw_pool_new(pool, SMALL, port->gate->id) : 0;
		if (block[i])
			mem = tw_pool_block(pool, block[i], &size);
		if (!mem) {
			if (d[i])
				datagram_free(d[i]);
			return i;
		}
		iov[i][0] = (struct iovec){ mem + HEAD, size - HEAD };
		iov[i][1] = (struct iovec){ all->room + (size_t)i * DATAGRAM_MAX, DATAGRAM_MAX };
		msg[i].msg_hdr = (struct msghdr){ .msg_name = &d[i]->ends.peer,
			                          .msg_namelen = sizeof d[i]->ends.peer,
			                          .msg_iov = iov[i],
			                          .msg_iovlen = 2,
			                          .msg_control = control[i],
			                          .msg_controllen = DATAGRAM_CONTROL };
	}
	return n;
}

/* No room for it: one is read and forgotten, so that the kernel's queue is not what is full. */
static void throw_away(struct udp_port *port)
{
	uint8_t nothing[1];
	gate_count(port->gate, port->in_hand < IN_HAND_MAX ? GATE_NO_BLOCK : GATE_REFUSED, 1);
	recv(port->source.fd, nothing, 1, MSG_DONTWAIT | MSG_TRUNC);
}

static void receive(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct udp_port *port = (struct udp_port *)source;
	struct mmsghdr msg[DATAGRAM_BATCH];
	struct iovec iov[DATAGRAM_BATCH][2];
	uint8_t control[DATAGRAM_BATCH][DATAGRAM_CONTROL] __attribute__((aligned(8)));
	struct datagram *d[DATAGRAM_BATCH];
	tw_handle block[DATAGRAM_BATCH];
	(void)events;
	struct service *service = gate->service[port->service];
	uint32_t n = !service ? 0
	                      : prepare(port, service->pool, port->expect, block, d, msg, iov,
	                                control);
	if (!n) {
		throw_away(port);
		return;
	}
	int got = recvmmsg(source->fd, msg, n, MSG_DONTWAIT, NULL);
	gate_count(gate, GATE_SYSCALLS, 1);
	uint32_t have = got > 0 ? (uint32_t)got : 0;
	port->expect = have == n ? n * 2 : have + 1;
	if (port->expect > DATAGRAM_BATCH)
		port->expect = DATAGRAM_BATCH;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t len = msg[i].msg_len, room = (uint32_t)iov[i][0].iov_len;
		if (i >= have) {
			tw_pool_free(service->pool, block[i], gate->id);
			datagram_free(d[i]);
			continue;
		}
		datagram_ends_of(&msg[i].msg_hdr, port->local_port, &d[i]->ends);
		if (len > room)
			block[i] = enlarge(port, service->pool, block[i], room, len,
			                   iov[i][1].iov_base);
		take(port, service, block[i], len, d[i]);
	}
}

/* ---- listeners ---- */

static int options(int fd)
{
	int one = 1, domain = 0;
	socklen_t len = sizeof domain;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0)
		return -errno;
	if (domain == AF_INET)
		return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one) ? -errno : 0;
	return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one) ? -errno : 0;
}

static struct datagrams *ready(struct gate *gate)
{
	struct datagrams *all = gate->datagrams;
	if (all)
		return all;
	all = calloc(1, sizeof *all);
	if (all && !(all->room = malloc((size_t)DATAGRAM_BATCH * DATAGRAM_MAX))) {
		free(all);
		all = NULL;
	}
	if (all)
		TAILQ_INIT(&all->leaving);
	gate->datagrams = all;
	return all;
}

int datagram_open(struct gate *gate, struct service *service, uint32_t listener,
                  const struct tw_listener_spec *spec, int fd)
{
	struct datagrams *all = ready(gate);
	struct udp_port *port = all ? calloc(1, sizeof *port) : NULL;
	int rc = port ? options(fd) : -ENOMEM;
	if (rc == 0 && all->port[listener])
		rc = -EEXIST;
	if (rc) {
		free(port);
		close(fd);
		return tw_fail(-rc, "listener %s: its socket cannot be used: %s", spec->name,
		               strerror(-rc));
	}
	port->source.fd = fd;
	port->source.ready = receive;
	port->gate = gate;
	port->service = service->index;
	port->listener = listener;
	port->local_port = spec->address.port;
	port->expect = 1;
	port->send.run = send_replies;
	TAILQ_INIT(&port->replies);
	TAILQ_INIT(&port->sessions);
	session_change(port, spec);
	all->port[listener] = port;
	rc = gate_watch(gate, &port->source, EPOLLIN);
	if (rc)
		datagram_close(gate, listener, true);
	return rc;
}

void datagram_change(struct gate *gate, uint32_t listener, const struct tw_listener_spec *spec)
{
	struct datagrams *all = gate->datagrams;
	struct udp_port *port = all ? all->port[listener] : NULL;
	if (!port)
		return;
	port->service = spec->service;
	session_change(port, spec);
}

static void forget_all(struct gate *gate, struct datagrams *all)
{
	for (uint32_t i = 0; i < TW_LISTENERS_MAX; i++)
		if (all->port[i])
			return;
	if (!TAILQ_EMPTY(&all->leaving))
		return;
	gate->datagrams = NULL;
	while (all->free) {
		struct datagram *d = all->free;
		all->free = d->next_free;
		free(d);
	}
	free(all->room);
	free(all);
}

void datagram_settle(struct udp_port *port)
{
	struct gate *gate = port->gate;
	struct datagrams *all = datagrams_of(gate);
	if (!port->leaves || port->in_hand || port->n_sessions)
		return;
	gate_timer_cancel(gate, &port->expiry);
	gate_forget(gate, &port->send);
	close(port->source.fd);
	TAILQ_REMOVE(&all->leaving, port, link);
	free(port->bucket);
	free(port);
	forget_all(gate, all);
}

/* Its place is free for another one at once. */
static void leave(struct gate *gate, struct datagrams *all, struct udp_port *port)
{
	gate_unwatch(gate, &port->source);
	all->port[port->listener] = NULL;
	port->leaves = true;
	TAILQ_INSERT_TAIL(&all->leaving, port, link);
}

void datagram_close(struct gate *gate, uint32_t listener, bool now)
{
	struct datagrams *all = gate->datagrams;
	struct udp_port *port, *next;
	if (!all)
		return;
	if (all->port[listener])
		leave(gate, all, all->port[listener]);
	for (port = TAILQ_FIRST(&all->leaving); port; port = next) {
		next = TAILQ_NEXT(port, link);
		if (port->listener != listener)
			continue;
		if (now)
			sessions_close(port);
		datagram_settle(port); /* the last one takes `all` with it, and has no next */
	}
}
