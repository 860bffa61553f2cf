/* SPDX-License-Identifier: BSD-3-Clause */
/* upstream.c - the server's side of an exchange: a server is chosen, perhaps waited for, tried, and
 * when it fails before it answers, another one. */
#include "gate/upstream.h"
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ull

static void seek(struct upstream *up);

/* ---- memory ---- */

#define SPARE_MAX 256
static _Thread_local struct upstream *spare;
static _Thread_local uint32_t n_spare;

static struct upstream *up_new(void)
{
	struct upstream *up = spare;

	if (!up)
		return calloc(1, sizeof(*up));
	spare = up->next;
	n_spare--;
	memset(up, 0, offsetof(struct upstream, why));
	return up;
}

static void up_free(struct upstream *up)
{
	http_in_end(&up->in);
	if (n_spare >= SPARE_MAX) {
		free(up);
		return;
	}
	up->next = spare;
	spare = up;
	n_spare++;
}

void upstream_close(struct gate *gate)
{
	struct upstream *up;

	(void)gate;
	while ((up = spare)) {
		spare = up->next;
		free(up);
	}
	n_spare = 0;
	send_close();
}

bool upstream_release(struct upstream *up)
{
	bool alive = !up->dead;

	if (!--up->hold && !alive)
		up_free(up);
	return alive;
}

/* ---- the queue of a group ---- */

static void unqueue(struct upstream *up)
{
	struct group *group = up->group;

	if (up->prev)
		up->prev->next = up->next;
	else
		group->first = up->next;
	if (up->next)
		up->next->prev = up->prev;
	else
		group->last = up->prev;
	up->next = up->prev = NULL;
	gate_timer_cancel(up->gate, &up->timer);
}

static void enqueue(struct upstream *up)
{
	struct group *group = up->group;

	up->state = UP_WAITS;
	up->prev = group->last;
	up->next = NULL;
	if (group->last)
		group->last->next = up;
	else
		group->first = up;
	group->last = up;
	gate_timer_set(up->gate, &up->timer, up->gate->now + group->spec->queue_ms * MS);
}

/* ---- the end of an upstream ---- */

/* Lets go of everything but the exchange. */
static void detach(struct upstream *up)
{
	struct exchange *x = up->x;

	x->upstream = NULL;
	x->in.ready = NULL;
	x->in.consumer = NULL;
	x->out.room = NULL;
	x->out.producer = NULL;
	up->dead = true;
	if (!up->hold)
		up_free(up);
}

/* The attempt is over; the connection too. */
static void drop_attempt(struct upstream *up)
{
	read_forget(up);
	send_forget(up);
	if (up->c) {
		up->c->up = NULL;
		server_drop(up->c);
		up->c = NULL;
	}
}

void upstream_cancel(struct exchange *x)
{
	struct upstream *up = x->upstream;

	if (!up)
		return;
	if (up->state == UP_WAITS)
		unqueue(up);
	drop_attempt(up);
	detach(up);
}

static void fail(struct upstream *up)
{
	struct exchange *x = up->x;
	int status = up->status;
	char why[sizeof(up->why)];

	memcpy(why, up->why, sizeof(why));
	drop_attempt(up);
	detach(up);
	flow_failed(x, status, why);
}

void upstream_done(struct upstream *up, bool reusable)
{
	struct connection *c = up->c;

	health_good(c->server);
	up->c = NULL;
	read_forget(up);
	send_forget(up);
	c->up = NULL;
	if (reusable && up->sent)
		server_keep(c);
	else
		server_drop(c);
	detach(up);
}

/* ---- attempts ---- */

static int status_of(enum upstream_cause cause)
{
	switch (cause) {
	case UP_SLOW:
		return 504;
	case UP_SHORTAGE:
		return 503;
	case UP_REQUEST:
		return 500;
	case UP_CLIENT:
		return 400;
	default:
		return 502;
	}
}

static bool may_repeat(const struct upstream *up)
{
	return !up->began && !up->consumed && (up->idempotent || !up->written) && !up->x->in.broken;
}

static void attempt(struct upstream *up, struct server *server)
{
	struct connection *c = NULL;
	int cause;

	up->state = UP_CONNECTS;
	up->attempt++;
	up->at_server = server;
	up->x->attempts++;
	if (!up->fresh && !up->group->spec->proxy)
		c = server_take(server, !up->idempotent);
	up->fresh = false;
	if (c) {
		gate_count(up->gate, GATE_UP_REUSED, 1);
		c->up = up;
	} else {
		c = server_connect(server, up, &cause);
	}
	if (!c) {
		char why[128];

		snprintf(why, sizeof(why), "%s", tw_error());
		upstream_lost(up, (enum upstream_cause)cause, "%s", why);
		return;
	}
	up->c = c;
	if (c->state == CONN_BUSY)
		upstream_connected(up);
}

void upstream_connected(struct upstream *up)
{
	server_count(&up->c->server->figures->requests);
	up->state = UP_RUNS;
	if (!send_begin(up))
		return;
	read_begin(up);
	send_more(up);
}

void upstream_lost(struct upstream *up, enum upstream_cause cause, const char *fmt, ...)
{
	struct server *server = up->at_server;
	bool stale = up->c && up->c->used && cause == UP_CLOSED;
	bool ours = cause >= UP_SHORTAGE;
	char text[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	up->status = status_of(cause);
	snprintf(up->why, sizeof(up->why), "server %s: %s", server->shared->name, text);
	if (cause == UP_SLOW)
		gate_count(up->gate, GATE_TIMEOUTS, 1);
	stale = stale && may_repeat(up);
	if (!ours && !stale) {
		gate_count(up->gate, GATE_UP_FAILED, 1);
		health_bad(server, text);
	}
	if (up->answered) {
		struct exchange *x = up->x;

		drop_attempt(up);
		detach(up);
		body_break(&x->out);
		return;
	}
	if (stale && !server->gone) {
		/* It closed a connection that nobody used: no failure, and no use to ask others. */
		server_busy(server); /* so that it stays while its connection goes */
		drop_attempt(up);
		up->fresh = true;
		attempt(up, server);
		server_unbusy(server);
		return;
	}
	up->tried |= server_bit(server);
	if (ours || cause == UP_BAD || !may_repeat(up) || up->retries >= up->group->spec->retries ||
	    up->group->removed) {
		fail(up);
		return;
	}
	up->retries++;
	gate_count(up->gate, GATE_RETRIES, 1);
	drop_attempt(up);
	seek(up);
}

void upstream_timeout(struct upstream *up)
{
	const struct tw_group_spec *spec = up->group->spec;

	if (up->starved)
		read_starved(up);
	else if (up->answered)
		upstream_lost(up, UP_SLOW, "nothing of the body came for %u ms", spec->idle_ms);
	else if (up->state == UP_CONNECTS)
		upstream_lost(up, UP_SLOW, "no connection within %u ms", spec->connect_ms);
	else if (up->sent)
		upstream_lost(up, UP_SLOW, "no response within %u ms", spec->response_ms);
	else
		upstream_lost(up, UP_SLOW, "it took nothing of the request for %u ms",
		              spec->response_ms);
}

/* ---- the choice ---- */

static uint64_t key_of(const struct upstream *up)
{
	const struct tw_msg *msg = up->x->req;
	uint64_t half[2] = { 0 };

	if (up->key || up->group->spec->balance != TW_BALANCE_HASH || !msg)
		return up->key;
	/* Without a key: by the client's address. */
	memcpy(half, msg->peer, msg->family == 4 ? 4 : 16);
	return half[0] ^ half[1] * 0x9e3779b97f4a7c15;
}

/* False: no connection is to be had now, but later. */
static bool choose(struct upstream *up)
{
	struct server *server;
	char why[sizeof(up->why)];
	bool full;

	server = group_pick(up->group, key_of(up), up->tried, &full, why, sizeof(why));
	if (server) {
		if (up->state == UP_WAITS)
			unqueue(up);
		attempt(up, server);
		return true;
	}
	if (full && up->group->spec->queue_ms)
		return false;
	if (up->state == UP_WAITS)
		unqueue(up);
	/* After a failure, that one is the reason. */
	if (!up->status) {
		up->status = 503;
		memcpy(up->why, why, sizeof(why));
	}
	up->state = UP_CONNECTS;
	fail(up);
	return true;
}

static void seek(struct upstream *up)
{
	up->state = UP_CONNECTS;
	if ((up->group->first && up->group->spec->queue_ms && !up->tried) || !choose(up))
		enqueue(up);
}

void upstream_queue_run(struct group *group)
{
	struct upstream *up, *next;
	uint32_t n = 0;

	for (up = group->first; up; up = up->next)
		n++;
	/* Whoever is answered at once may queue anew, at the end. */
	for (up = group->first; up && n--; up = next) {
		bool stuck;

		next = up->next;
		upstream_hold(up);
		stuck = !choose(up);
		if (stuck && !up->tried)
			next = NULL;
		else if (!stuck)
			next = group->first; /* others may have left meanwhile */
		upstream_release(up);
	}
}

void upstream_queue_refuse(struct group *group)
{
	while (group->first) {
		struct upstream *up = group->first;

		unqueue(up);
		up->state = UP_CONNECTS;
		up->status = 503;
		snprintf(up->why, sizeof(up->why), "upstream group \"%s\" was removed",
		         group->spec->name);
		fail(up);
	}
}

static void waited(struct gate *gate, struct gate_timer *timer)
{
	struct upstream *up =
		(struct upstream *)((char *)timer - __builtin_offsetof(struct upstream, timer));

	unqueue(up);
	gate_count(gate, GATE_TIMEOUTS, 1);
	up->state = UP_CONNECTS;
	if (!up->status) {
		up->status = 503;
		snprintf(up->why, sizeof(up->why),
		         "upstream group \"%s\": no free connection within %u ms",
		         up->group->spec->name, up->group->spec->queue_ms);
	}
	fail(up);
}

/* ---- what flow.c calls ---- */

static void body_ready(struct body *in)
{
	struct upstream *up = in->consumer;

	if (up->state != UP_RUNS && up->state != UP_RAW)
		return;
	send_more(up);
}

void upstream_begin(struct exchange *x, uint32_t index, uint32_t key)
{
	struct group *group = group_get(x->gate, index);
	struct upstream *up = group ? up_new() : NULL;

	if (!up) {
		flow_failed(x, 503, group ? "no memory for the request to a server" : tw_error());
		return;
	}
	up->x = x;
	up->gate = x->gate;
	up->group = group;
	up->key = key;
	up->timer.fire = waited;
	up->idempotent = send_is_idempotent(x); /* for now: what is written counts */
	x->upstream = up;
	x->in.consumer = up;
	x->in.ready = body_ready;
	seek(up);
}
