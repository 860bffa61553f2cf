/* SPDX-License-Identifier: BSD-3-Clause */
/* client.c - the life of an HTTP connection: accepted, idle, at work, lingering, closed. */
#include "gate/client.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FREE_CLIENTS 4096
#define FREE_WORKS 1024
#define HEAD_BYTES 32768 /* when the listener says nothing */

/* ---- memory ---- */

static struct client *client_new(struct clients *all)
{
	struct client *c = all->free;

	if (!c)
		return calloc(1, sizeof(*c));
	all->free = c->next;
	all->n_free--;
	memset(c, 0, sizeof(*c));
	return c;
}

static void client_free(struct clients *all, struct client *c)
{
	if (all->n_free >= FREE_CLIENTS) {
		free(c);
		return;
	}
	c->next = all->free;
	all->free = c;
	all->n_free++;
}

/* The parts of a work that are no buffers are as new. */
static struct work *work_new(struct clients *all)
{
	struct work *w = all->free_work;

	if (!w)
		return calloc(1, sizeof(*w));
	all->free_work = w->next;
	all->n_free_work--;
	memset(w, 0, offsetof(struct work, small));
	return w;
}

static void work_free(struct clients *all, struct work *w)
{
	if (all->n_free_work >= FREE_WORKS) {
		free(w);
		return;
	}
	w->next = all->free_work;
	all->free_work = w;
	all->n_free_work++;
}

int clients_begin(struct gate *gate)
{
	struct clients *all = calloc(1, sizeof(*all));

	listeners_of(gate)->clients = all;
	return all ? 0 : tw_fail(ENOMEM, "gate %u: no memory for connections", gate->id);
}

void clients_end(struct gate *gate)
{
	struct clients *all = listeners_of(gate)->clients;
	struct client *c;
	struct work *w;

	if (!all)
		return;
	while ((c = all->free)) {
		all->free = c->next;
		free(c);
	}
	while ((w = all->free_work)) {
		all->free_work = w->next;
		free(w);
	}
	free(all);
}

/* ---- blocks ---- */

/* A pool that is gone has taken its blocks along. */
static bool pool_stands(const struct client *c)
{
	return gate_of(c)->service[c->work->service->index] == c->work->service;
}

void client_block_free(struct client *c)
{
	struct work *w = c->work;

	if (w->here.block)
		tw_pool_free(w->service->pool, w->here.block, gate_of(c)->id);
	w->here = (struct lump){ 0 };
}

void client_take_rest(struct client *c)
{
	struct work *w = c->work;

	w->here = w->rest;
	w->rest = (struct lump){ 0 };
}

bool client_block(struct client *c, uint32_t size)
{
	struct work *w = c->work;
	struct gate *gate = gate_of(c);
	struct lump *to = &w->here;

	*to = (struct lump){ .block = tw_pool_new(w->service->pool, size, gate->id) };
	if (to->block)
		to->memory = tw_pool_block(w->service->pool, to->block, &to->size);
	if (to->memory)
		return true;
	gate_count(gate, GATE_NO_BLOCK, 1);
	*to = (struct lump){ 0 };
	return false;
}

/* ---- a work ---- */

static uint32_t head_limit(const struct client *c)
{
	uint32_t limit = c->listener->spec.head_bytes;

	return limit ? limit : HEAD_BYTES;
}

bool client_begin(struct client *c)
{
	struct gate *gate = gate_of(c);
	struct service *service = gate->service[c->listener->spec.service];
	struct work *w = work_new(clients_of(c));

	if (!w)
		return false;
	w->client = c;
	w->service = service;
	c->work = w;
	http_in_begin(&w->in, false, false, head_limit(c));
	return service && service->pool;
}

/* Everything of a request but the connection. */
static void work_end(struct client *c)
{
	struct work *w = c->work;

	if (!w)
		return;
	if (w->x)
		exchange_client_gone(w->x);
	w->x = NULL;
	client_write_free(w);
	http_in_end(&w->in);
	if (w->service) {
		client_block_free(c);
		client_take_rest(c);
		client_block_free(c);
	}
	work_free(clients_of(c), w);
	c->work = NULL;
}

void client_rest(struct client *c)
{
	work_end(c);
	c->state = CLIENT_IDLE;
}

/* ---- events, time ---- */

bool client_wants_bytes(const struct client *c)
{
	const struct work *w = c->work;

	if (c->state != CLIENT_EXCHANGE)
		return true;
	if (!w->x || w->waits)
		return false;
	return !w->body_done && (w->raw || !(w->discards || w->flush)) && body_has_room(&w->x->in);
}

bool client_interest(struct client *c, bool strict)
{
	const uint32_t in = EPOLLIN | EPOLLRDHUP;
	uint32_t interest = c->sock.source.interest & in;

	if (client_wants_bytes(c))
		interest = in;
	else if (strict)
		interest = 0;
	if (c->work && c->work->blocked)
		interest |= EPOLLOUT;
	/* EPOLLERR comes in any case, and 0 would mean: not registered. */
	if (!gate_watch(gate_of(c), &c->sock.source, interest ? interest : EPOLLERR))
		return true;
	client_close(c);
	return false;
}

/* Something has come that the exchange does not want. */
static void disturbed(struct client *c, uint32_t events)
{
	if (events & EPOLLRDHUP) {
		c->half = true;
		client_deadline(c, CLIENT_HALF_MS);
	}
	client_interest(c, true);
}

void client_deadline(struct client *c, uint32_t ms)
{
	struct gate *gate = gate_of(c);

	c->deadline = ms ? gate->now + ms * 1000000ull : 0;
	/* One that is set already and fires earlier will find the new deadline: no need to move it
	 * with every request. */
	if (c->deadline && (!c->timer.due || c->timer.due > c->deadline))
		gate_timer_set(gate, &c->timer, c->deadline);
}

static void timed_out(struct client *c)
{
	struct work *w = c->work;

	if (c->half) {
		client_close(c);
		return;
	}
	/* A gate thread that had no CPU for long is late: what came meanwhile is answered. */
	if (c->state == CLIENT_IDLE && (!client_read_head(c) || c->state != CLIENT_IDLE))
		return;
	if (w && w->waits) {
		w->waits = false;
		client_deadline(c, w->blocked ? c->listener->spec.send_ms : 0);
		gate_later(gate_of(c), &c->task);
		return;
	}
	if (c->state != CLIENT_LINGER)
		gate_count(gate_of(c), GATE_TIMEOUTS, 1);
	if (c->state == CLIENT_HEAD && !c->proxy && pool_stands(c))
		client_answer(c, 408, "the head of the request took too long");
	else if (c->state == CLIENT_EXCHANGE && !w->blocked && !w->begun && !w->raw)
		client_answer(c, 408, "the body of the request took too long");
	else
		client_close(c);
}

static void timer_fired(struct gate *gate, struct gate_timer *timer)
{
	struct client *c = (struct client *)((char *)timer - offsetof(struct client, timer));

	if (!c->deadline)
		return;
	if (c->deadline > gate->now)
		gate_timer_set(gate, timer, c->deadline);
	else
		timed_out(c);
}

static void ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct client *c = (struct client *)((char *)source - offsetof(struct client, sock.source));

	if (events & (EPOLLERR | EPOLLHUP) && !(c->state == CLIENT_LINGER && events & EPOLLIN)) {
		client_close(c);
		return;
	}
	if (events & EPOLLOUT && c->work && c->work->blocked) {
		c->work->blocked = false;
		gate_later(gate, &c->task);
	}
	if (!(events & (EPOLLIN | EPOLLRDHUP)))
		return;
	switch (c->state) {
	case CLIENT_IDLE:
	case CLIENT_HEAD:
		client_read_head(c);
		break;
	case CLIENT_EXCHANGE:
		if (!client_wants_bytes(c))
			disturbed(c, events);
		else if (c->work->raw)
			client_read_raw(c);
		else
			client_read_body(c);
		break;
	default:
		client_discard(c);
	}
}

/* What the exchange has said, and what is to be read since there is room. */
static void turn(struct gate *gate, struct gate_task *task)
{
	struct client *c = (struct client *)((char *)task - offsetof(struct client, task));
	struct work *w = c->work;

	(void)gate;
	if (c->state == CLIENT_HEAD || c->state == CLIENT_DISCARD) { /* bytes of it are here */
		if (c->state == CLIENT_HEAD && w->here.block)
			client_process(c);
		else
			client_discard(c);
		return;
	}
	if (c->state != CLIENT_EXCHANGE)
		return;
	if (w->dropped) {
		client_close(c);
		return;
	}
	if (w->continues && !w->respond && !w->failed && !client_continue(c))
		return;
	if ((w->begun || w->respond || w->failed || w->pre_len) && !client_write(c))
		return;
	if (c->state != CLIENT_EXCHANGE || !w->x)
		return;
	if (w->raw && w->here.block) {
		client_read_raw(c);
		return;
	}
	if (!w->raw && !w->body_ended && !client_pump(c))
		return;
	if (!w->raw && !w->blocked && !c->half && !w->waits)
		client_deadline(c, client_wants_bytes(c) ? c->listener->spec.body_ms : 0);
	client_interest(c, false);
}

/* ---- begin and end ---- */

void client_accept(struct listener *listener, int fd, const struct proxy_facts *facts)
{
	struct gate *gate = listener->gate;
	struct client *c = client_new(listeners_of(gate)->clients);

	if (!c) {
		close(fd);
		listener_closed(gate, listener->index);
		return;
	}
	c->sock.source.fd = fd;
	c->sock.source.ready = ready;
	c->sock.ops = &sock_plain;
	c->timer.fire = timer_fired;
	c->task.run = turn;
	c->listener = listener;
	c->facts = *facts;
	c->proxy = listener->spec.proxy;
	c->next = listener->clients;
	if (c->next)
		c->next->back = &c->next;
	c->back = &listener->clients;
	listener->clients = c;
	client_deadline(c, listener->spec.idle_ms);
	client_interest(c, false);
}

void client_close(struct client *c)
{
	struct gate *gate = gate_of(c);
	struct clients *all = clients_of(c);

	work_end(c);
	gate_timer_cancel(gate, &c->timer);
	gate_forget(gate, &c->task);
	gate_close(gate, &c->sock.source);
	*c->back = c->next;
	if (c->next)
		c->next->back = c->back;
	listener_closed(gate, c->listener->index);
	client_free(all, c);
}

/* Closing a socket with bytes that nobody has read makes the kernel send a reset, which overtakes
 * the answer (RFC 9112 9.6). */
bool client_linger(struct client *c)
{
	work_end(c);
	c->sock.ops->shut(gate_of(c), &c->sock);
	c->state = CLIENT_LINGER;
	c->discarded = 0;
	client_deadline(c, CLIENT_LINGER_MS);
	return client_interest(c, false);
}

/* The response has gone. */
bool client_next(struct client *c)
{
	struct work *w = c->work;
	struct exchange *x = w->x;
	bool keep = w->keep;

	w->x = NULL;
	c->half = false; /* it will be said again */
	if (x)
		exchange_end(x);
	client_write_free(w);
	w->holds = w->flush = false;
	if (!keep) {
		if (!w->body_done || w->here.at < w->here.end)
			return client_linger(c);
		client_close(c);
		return false;
	}
	if (!w->body_done) {
		c->state = CLIENT_DISCARD;
		c->discarded = 0;
		client_deadline(c, c->listener->spec.body_ms);
		gate_later(gate_of(c), &c->task);
		return client_interest(c, false);
	}
	if (w->here.at < w->here.end) { /* the next request was sent along */
		struct work before = *w;

		http_in_end(&w->in);
		memset(w, 0, offsetof(struct work, small));
		w->client = c;
		w->service = before.service;
		w->here = before.here;
		http_in_begin(&w->in, false, false, head_limit(c));
		c->state = CLIENT_HEAD;
		client_deadline(c, c->listener->spec.head_ms);
		gate_later(gate_of(c), &c->task);
		return true;
	}
	client_rest(c);
	if (c->listener->leaves) {
		client_close(c);
		return false;
	}
	client_deadline(c, c->listener->spec.idle_ms);
	if (c->sock.ops->pending(&c->sock))
		return client_read_head(c);
	return client_interest(c, false);
}

bool client_answer(struct client *c, int status, const char *why)
{
	struct work *w = c->work;

	if (status >= 400 && status != 408 && status != 503)
		gate_count(gate_of(c), GATE_BAD_REQUESTS, 1);
	if (w->x)
		exchange_client_gone(w->x);
	w->x = NULL;
	if (w->begun) {
		client_close(c);
		return false;
	}
	c->state = CLIENT_EXCHANGE;
	w->keep = w->continues = w->respond = w->failed = false;
	w->holds = w->flush = false;
	client_write_answer(c, status, why);
	return false;
}

/* Requests that are there are answered; who was just accepted may not have sent one yet. */
void clients_leave(struct listener *listener)
{
	struct client *c, *next;

	for (c = listener->clients; c; c = next) {
		next = c->next;
		if (c->state != CLIENT_IDLE || !client_read_head(c) || c->state != CLIENT_IDLE)
			continue;
		if (c->requests)
			client_close(c);
		else
			client_deadline(c, CLIENT_FIRST_MS);
	}
}

void clients_close(struct listener *listener)
{
	while (listener->clients)
		client_close(listener->clients);
}

void clients_service_gone(struct gate *gate, const struct service *service)
{
	for (unsigned i = 0; i < TW_LISTENERS_MAX; i++) {
		struct client *c, *next;

		for (c = listeners_of(gate)->listener[i].clients; c; c = next) {
			next = c->next;
			if (c->work && c->work->service == service)
				client_close(c);
		}
	}
}
