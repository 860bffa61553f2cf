/* SPDX-License-Identifier: BSD-3-Clause */
/* exchange.c - exchanges of a gate thread: found by their number, begun, given up, ended. */
#include "gate/lane.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXCHANGES_MAX (1u << 20) /* of a thread */

/* ---- the table: slots keep their memory, so that a late look at one finds another id ---- */

static int grow(struct gate *gate)
{
	uint32_t n = gate->n_exchanges, want = n ? n * 2 : 64;
	struct exchange **table;

	if (want > EXCHANGES_MAX)
		return tw_fail(ENOSPC, "%u exchanges are under way in gate thread %u, no more fit",
		               n, gate->id);
	table = realloc(gate->exchanges, want * sizeof(*table));
	if (!table)
		return tw_fail(ENOMEM, "no memory for %u exchanges", want);
	memset(table + n, 0, (want - n) * sizeof(*table));
	gate->exchanges = table;
	return 0;
}

static struct flow *slot_take(struct gate *gate)
{
	struct flow *f;
	uint32_t i = gate->free_exchange;

	if (i < gate->n_exchanges) {
		f = flow_of(gate->exchanges[i]);
		gate->free_exchange = f->next_free;
		return f;
	}
	/* None is free: `free_exchange` is the number of the next slot. */
	if ((i & (i - 1)) == 0 && (i == 0 || i >= 64) && grow(gate) < 0)
		return NULL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	gate->exchanges[i] = &f->x;
	gate->n_exchanges = i + 1;
	gate->free_exchange = i + 1;
	f->x.number = i;
	return f;
}

static void slot_give(struct gate *gate, struct flow *f)
{
	f->x.state = X_FREE;
	f->next_free = gate->free_exchange;
	gate->free_exchange = f->x.number;
}

struct flow *flow_find(struct gate *gate, uint32_t number)
{
	struct exchange *x;

	if (number >= gate->n_exchanges)
		return NULL;
	x = gate->exchanges[number];
	return x->state == X_FREE ? NULL : flow_of(x);
}

/* ---- beginning ---- */

/* A client that is still sending is not what servers and functions wait for: the time runs from
 * when its body was last seen to move, as far as four looks can tell. */
static void look_again(struct flow *f)
{
	uint64_t now = f->x.gate->now, end = f->moved + f->patience;

	now += f->patience / 4;
	gate_timer_set(f->x.gate, &f->x.timeout, now < end ? now : end);
}

static void deadline(struct gate *gate, struct gate_timer *timer)
{
	struct flow *f =
		flow_of((struct exchange *)((char *)timer - offsetof(struct exchange, timeout)));

	if (f->x.in.came + f->x.in.went != f->seen) {
		f->seen = f->x.in.came + f->x.in.went;
		f->moved = gate->now;
	}
	if (gate->now < f->moved + f->patience) {
		look_again(f);
		return;
	}
	gate_count(gate, GATE_TIMEOUTS, 1);
	flow_fail(f, 504, "took too long");
}

void flow_mend(struct flow *f, struct tw_msg *msg, uint32_t size, tw_handle self, uint8_t kind)
{
	msg->magic = TW_MSG_MAGIC;
	msg->kind = kind;
	msg->gate = f->x.gate->id;
	msg->size = size;
	msg->exchange = f->x.number;
	msg->id = f->x.id;
	msg->self = self;
	if (msg->used > size)
		msg->used = size;
	msg->request = self == f->x.request ? 0 : f->x.request;
	msg->verdict = TW_V_NONE;
	msg->answer = 0;
}

static uint32_t address_key(const struct tw_msg *msg)
{
	uint32_t hash = 2166136261u, i;

	for (i = 0; i < (msg->family == 6 ? 16u : 4u); i++)
		hash = (hash ^ msg->peer[i]) * 16777619u;
	return hash ? hash : 1;
}

static void facts(struct flow *f, struct tw_msg *msg)
{
	struct exchange *x = &f->x;

	x->listener = msg->listener;
	x->head = msg->flags & TW_MSG_HEAD;
	x->upgrade = msg->flags & TW_MSG_UPGRADE;
	x->keep = msg->flags & TW_MSG_KEEP;
	x->begun = msg->received_ns ? msg->received_ns : x->gate->now;
	f->client_key = address_key(msg);
	msg->asked = msg->target;
	msg->asked_host = msg->host;
	msg->trailers = (struct tw_text){ 0, 0 };
	msg->retries = 0;
	msg->stage = 0;
	msg->flags &= ~(uint32_t)(TW_MSG_EDITED | TW_MSG_NO_BODY | TW_MSG_BACKWARD);
	if (!(msg->flags & TW_MSG_WHOLE))
		msg->n_body = 0;
	/* body[] of others is looked at once they are WHOLE or NO_BODY: who says so has set all of
	 * it. */
	if (msg->n_body < TW_BODY_BLOCKS_MAX &&
	    (msg->n_body || (f->lane->spec.n_functions && f->kind != TW_MSG_REQUEST)))
		memset(&msg->body[msg->n_body], 0,
		       (TW_BODY_BLOCKS_MAX - msg->n_body) * sizeof(msg->body[0]));
}

struct flow *flow_new(struct lane *lane, const struct exchange_client *client, void *client_data,
                      tw_handle message)
{
	struct gate *gate = lane->gate;
	uint32_t size = 0, number;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, message, &size);
	struct flow *f = msg ? slot_take(gate) : NULL;

	if (!f)
		return NULL;
	number = f->x.number;
	memset(f, 0, sizeof(*f));
	f->lane = lane;
	f->x.gate = gate;
	f->x.service = lane->service;
	f->x.number = number;
	f->x.id = (uint64_t)gate->id << 48 | ++gate->next_exchange;
	f->x.state = X_FUNCTIONS;
	f->x.client = client;
	f->x.client_data = client_data;
	f->x.request = message;
	f->x.req = msg;
	f->x.group = -1;
	f->x.flow = f;
	f->head = (struct out){ .flow = f, .what = OUT_REQUEST };
	f->kind = msg->kind;
	facts(f, msg);
	flow_mend(f, msg, size, message, msg->kind);
	gate->open_exchanges++;
	atomic_fetch_add_explicit(&lane->service->in_flight[gate->id], 1, memory_order_relaxed);
	return f;
}

struct exchange *exchange_begin(struct gate *gate, struct service *service,
                                const struct exchange_client *client, void *data, tw_handle message,
                                bool body)
{
	struct lane *lane = service->lane[gate->id];
	const struct tw_listener_spec *spec;
	struct flow *f = NULL;
	struct exchange *x;

	if (lane && !lane->leaving)
		f = flow_new(lane, client, data, message);
	if (!f) {
		tw_pool_free(service->pool, message, gate->id);
		return NULL;
	}
	x = &f->x;
	f->bodied = body;
	x->body_expected = body || (x->req->flags & TW_MSG_WHOLE);
	x->in_len = body ? x->req->body_len : 0;
	if (!body && x->body_expected)
		x->in.came = x->req->body_len;
	x->out_len = UINT64_MAX;
	f->counted = true;
	tally_begin(lane);
	/* A datagram has no pieces: message() has seen all of it. */
	if (lane->data && f->kind != TW_MSG_DATAGRAM &&
	    (data_begin(f, WAY_IN) < 0 || data_begin(f, WAY_OUT) < 0)) {
		flow_free(f);
		return NULL;
	}
	spec = gate_listener_spec(gate, x->listener);
	x->timeout.fire = deadline;
	f->patience = spec && spec->request_ms ? spec->request_ms * 1000000ull : FLOW_REQUEST_NS;
	f->moved = gate->now;
	look_again(f);
	f->starting = true;
	TAILQ_INSERT_TAIL(&lane->starts, f, starts);
	gate_later(gate, &lane->start);
	return x;
}

/* ---- the end ---- */

void flow_free(struct flow *f)
{
	struct exchange *x = &f->x;
	struct lane *lane = f->lane;
	struct gate *gate = lane->gate;
	struct tw_pool *pool = lane->service->pool;
	int way;

	if (x->state == X_FREE)
		return;
	x->state = X_DONE;
	if (x->upstream)
		upstream_cancel(x);
	if (f->starting)
		TAILQ_REMOVE(&lane->starts, f, starts);
	gate_timer_cancel(gate, &x->timeout);
	fetch_cancel(f);
	if (f->counted)
		tally_end(lane, x, f->failed || f->own);
	out_cancel(f, &f->head);
	for (way = 0; way < WAYS; way++) {
		data_free(f, way);
		body_clear(x, flow_body(f, way));
		pieces_free(lane, f->way[way].whole);
		f->way[way].whole = NULL;
		lane->reserved -= f->way[way].reserved;
		f->way[way].reserved = 0;
	}
	if (lane->spec.n_functions) {
		gather_forget(lane, x->request);
		gather_forget(lane, x->response);
	}
	if (x->request)
		tw_pool_free(pool, x->request, gate->id);
	if (x->response)
		tw_pool_free(pool, x->response, gate->id);
	x->request = x->response = 0;
	gate->open_exchanges--;
	atomic_fetch_sub_explicit(&lane->service->in_flight[gate->id], 1, memory_order_relaxed);
	slot_give(gate, f);
}

void exchange_client_gone(struct exchange *x)
{
	x->client_gone = true;
	flow_free(flow_of(x));
}

void exchange_end(struct exchange *x)
{
	flow_free(flow_of(x));
}

void exchange_stop(struct gate *gate)
{
	uint32_t i;

	for (i = 0; i < gate->n_exchanges; i++)
		flow_free(flow_of(gate->exchanges[i]));
	for (i = 0; i < TW_SERVICES_MAX; i++)
		if (gate->service[i] && gate->service[i]->lane[gate->id])
			fetch_forget(gate->service[i]->lane[gate->id], UINT32_MAX);
	for (i = 0; i < gate->n_exchanges; i++)
		free(flow_of(gate->exchanges[i]));
	free(gate->exchanges);
	gate->exchanges = NULL;
	gate->n_exchanges = gate->free_exchange = 0;
}
