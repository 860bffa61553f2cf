/* SPDX-License-Identifier: BSD-3-Clause */
/* server.c - connections to servers: opened, kept while idle, closed; what epoll and the timers say
 * of them goes to the exchange that has them. */
#include "gate/sock.h"
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000ull
#define KEEP_MS 60000 /* an idle connection; most servers close it earlier */

/* ---- sockets ---- */

/* Asked twice: on this machine the answer is there already. */
int server_socket(const struct tw_endpoint_address *address, int *fd)
{
	return sock_connect(address, SOCK_STREAM, 2, fd);
}

bool server_is_shortage(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS ||
	       err == EADDRNOTAVAIL || err == EPERM || err == EACCES || err == EAFNOSUPPORT;
}

/* ---- events and times ---- */

void connection_watch(struct connection *c, uint32_t interest)
{
	if (!interest)
		gate_unwatch(c->gate, &c->source);
	else if (c->source.interest != interest)
		/* Only memory of the kernel can run out; the deadline ends it then. */
		gate_watch(c->gate, &c->source, interest);
}

/* The timer is moved when it must be earlier; when it fires too early it is set anew. So an
 * exchange costs it nothing. */
void connection_deadline(struct connection *c, uint64_t due)
{
	c->deadline = due;
	if (due && (!c->timer.due || c->timer.due > due))
		gate_timer_set(c->gate, &c->timer, due);
}

static struct connection *of_timer(struct gate_timer *timer)
{
	return (struct connection *)((char *)timer - __builtin_offsetof(struct connection, timer));
}

static void opened(struct connection *c)
{
	c->state = CONN_BUSY;
	connection_watch(c, EPOLLIN);
	connection_deadline(c, 0);
	upstream_connected(c->up);
}

static void refused(struct connection *c, int err, const char *why)
{
	upstream_lost(c->up, server_is_shortage(err) ? UP_SHORTAGE : UP_CONNECT, "%s", why);
}

/* Its queue was full. */
static void knock(struct connection *c)
{
	int err = server_socket(&c->server->shared->address, &c->source.fd);

	if (err == -EAGAIN) {
		gate_timer_set(c->gate, &c->timer, sock_knock(c->gate->now, &c->knocks));
	} else if (err == -EINPROGRESS) {
		gate_timer_set(c->gate, &c->timer, c->deadline);
		connection_watch(c, EPOLLOUT);
	} else if (err) {
		refused(c, -err, tw_error());
	} else {
		opened(c);
	}
}

static void fire(struct gate *gate, struct gate_timer *timer)
{
	struct connection *c = of_timer(timer);

	if (!c->deadline)
		return;
	if (gate->now < c->deadline) {
		if (c->source.fd < 0)
			knock(c);
		else
			gate_timer_set(gate, timer, c->deadline);
		return;
	}
	c->deadline = 0;
	if (c->up)
		upstream_timeout(c->up);
	else
		server_drop(c);
}

static void connected(struct connection *c, uint32_t events)
{
	socklen_t len = sizeof(int);
	int err = 0;

	(void)events;
	if (getsockopt(c->source.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		refused(c, err, strerror(err));
	else
		opened(c);
}

static void ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct connection *c = (struct connection *)source;
	struct upstream *up = c->up;

	(void)gate;
	if (c->state == CONN_CONNECTING) {
		connected(c, events);
		return;
	}
	/* Whatever an idle one has to say: it is of no use any more. */
	if (c->state == CONN_IDLE || !up) {
		server_drop(c);
		return;
	}
	upstream_hold(up);
	if (events & EPOLLOUT)
		send_more(up);
	if (!up->dead && events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
		read_more(up);
	upstream_release(up);
}

/* ---- open, keep, close ---- */

struct connection *server_connect(struct server *server, struct upstream *up, int *cause)
{
	struct gate *gate = server->group->gate;
	struct connection *c = calloc(1, sizeof(*c));
	int err;

	*cause = UP_SHORTAGE;
	if (!c) {
		tw_fail(ENOMEM, "no memory for a connection");
		return NULL;
	}
	err = server_socket(&server->shared->address, &c->source.fd);
	if (err && err != -EINPROGRESS && err != -EAGAIN) {
		*cause = server_is_shortage(-err) ? UP_SHORTAGE : UP_CONNECT;
		free(c);
		return NULL;
	}
	gate_count(gate, GATE_UP_CONNECTIONS, 1);
	c->gate = gate;
	c->server = server;
	c->up = up;
	c->source.ready = ready;
	c->timer.fire = fire;
	c->state = err ? CONN_CONNECTING : CONN_BUSY;
	server_busy(server);
	if (err)
		connection_deadline(c, gate->now + server->group->spec->connect_ms * MS);
	if (err == -EAGAIN)
		gate_timer_set(gate, &c->timer, sock_knock(gate->now, &c->knocks));
	else
		connection_watch(c, err ? EPOLLOUT : EPOLLIN);
	return c;
}

static void unlink_idle(struct connection *c)
{
	struct server *server = c->server;

	if (c->newer)
		c->newer->older = c->older;
	else
		server->newest = c->older;
	if (c->older)
		c->older->newer = c->newer;
	else
		server->oldest = c->newer;
	c->newer = c->older = NULL;
	server_idles(server, -1);
}

struct connection *server_take(struct server *server, bool sure)
{
	struct connection *c;
	char byte;

	while ((c = server->newest)) {
		/* Closed connections leave when epoll says so; this finds those of this moment. */
		if (sure && (recv(c->source.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
		             (errno != EAGAIN && errno != EINTR))) {
			server_drop(c);
			continue;
		}
		unlink_idle(c);
		c->state = CONN_BUSY;
		server_busy(server);
		connection_deadline(c, 0);
		return c;
	}
	return NULL;
}

void server_keep(struct connection *c)
{
	struct server *server = c->server;
	struct group *group = server->group;

	if (server->gone || group->gate->draining || group->spec->proxy ||
	    server->n_idle >= group->spec->keepalive || !group->load[server->number].weight) {
		server_drop(c);
		return;
	}
	c->up = NULL;
	c->state = CONN_IDLE;
	c->used = true;
	c->older = server->newest;
	c->newer = NULL;
	if (c->older)
		c->older->newer = c;
	else
		server->oldest = c;
	server->newest = c;
	server_idles(server, 1);
	connection_watch(c, EPOLLIN);
	connection_deadline(c, group->gate->now + KEEP_MS * MS);
	server_unbusy(server);
}

void server_drop(struct connection *c)
{
	struct server *server = c->server;
	bool busy = c->state != CONN_IDLE;

	gate_timer_cancel(c->gate, &c->timer);
	if (!busy)
		unlink_idle(c);
	gate_close(c->gate, &c->source);
	free(c);
	if (busy)
		server_unbusy(server);
}

void server_drop_idle(struct server *server)
{
	while (server->newest)
		server_drop(server->newest);
}
