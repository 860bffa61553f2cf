/* SPDX-License-Identifier: BSD-3-Clause */
/* flow.c - the way of an exchange: through the functions of its service, to a server, through the
 * functions that take responses, to the client; what functions decide, each time checked. */
#include "gate/lane.h"

#include <errno.h>
#include <string.h>

static void through(struct flow *f, struct out *out);

/* ---- ends that are not answers ---- */

/* Nobody works on it any more. */
static void give_up(struct flow *f)
{
	struct exchange *x = &f->x;

	if (f->starting) {
		TAILQ_REMOVE(&f->lane->starts, f, starts);
		f->starting = false;
	}
	if (x->upstream)
		upstream_cancel(x);
	fetch_cancel(f);
	out_cancel(f, &f->head);
	data_free(f, WAY_IN);
	data_free(f, WAY_OUT);
	gate_timer_cancel(x->gate, &x->timeout);
	/* Who still sends a body may stop. */
	f->way[WAY_IN].feeds = false;
	feed_discard(f, WAY_IN);
	x->in.ready = NULL;
	if (!x->in.ended)
		x->in.broken = true;
}

void flow_fail(struct flow *f, int status, const char *why)
{
	struct exchange *x = &f->x;

	if (f->failed)
		return;
	f->failed = true;
	give_up(f);
	/* What functions had given for it may be named nowhere. */
	if (status == 502 && f->lane->link) {
		f->lane->stray = true;
		patrol_on(f->lane);
	}
	if (f->own) { /* nobody improved it: as it was */
		status = f->own;
		why = f->own_why;
	}
	if (!x->responded)
		x->status = status;
	x->responded = true;
	x->state = X_RESPOND;
	x->client->fail(x, status, why);
}

void flow_drop(struct flow *f)
{
	struct exchange *x = &f->x;

	if (f->failed)
		return;
	f->failed = true;
	give_up(f);
	x->state = X_RESPOND;
	x->client->close(x);
}

/* ---- requests ---- */

static bool wants_whole(const struct flow *f, int way)
{
	if (way == WAY_IN)
		return f->bodied && f->lane->whole && f->kind == TW_MSG_REQUEST;
	return f->x.body_back && f->lane->whole_back && !f->way[way].whole && !f->way[way].passes;
}

static void enter(struct flow *f)
{
	int first = function_from(f->lane->messages, 0);

	f->x.state = X_FUNCTIONS;
	f->head.handle = f->x.request;
	if (first < 0)
		through(f, &f->head);
	else
		flow_call(f, &f->head, first);
}

void flow_start(struct flow *f)
{
	f->starting = false;
	if (f->fetch) {
		fetch_go(f);
		return;
	}
	if (wants_whole(f, WAY_IN)) {
		f->x.state = X_GATHER;
		gather_begin(f, WAY_IN);
	} else {
		enter(f);
	}
}

void flow_gathered(struct flow *f, int way)
{
	if (way == WAY_IN) {
		f->x.in_len = f->way[way].whole->bytes;
		enter(f);
	} else {
		f->x.out_len = f->way[way].whole->bytes;
		flow_response(f, f->from);
	}
}

void flow_to_upstream(struct flow *f, int32_t group, uint32_t key)
{
	struct exchange *x = &f->x;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(f->lane->service->pool, x->request, &size);

	if (!msg || gather_adopt(f, WAY_IN, msg, size, x->request) < 0) {
		flow_refuse(f, TW_STAGES_MAX, 502, "a function left a body that is not valid");
		return;
	}
	if (group < 0 && f->kind == TW_MSG_OPEN && f->way[WAY_IN].data) {
		/* Its bytes go to functions, and come from them. */
		data_open(f, WAY_IN);
		flow_answered(x);
		return;
	}
	if (group < 0 || group >= TW_GROUPS_MAX) {
		flow_refuse(f, TW_STAGES_MAX, 404, "nothing answers requests here");
		return;
	}
	if (!x->gate->group[group]) {
		flow_refuse(f, TW_STAGES_MAX, 503, "the group of servers is gone");
		return;
	}
	x->group = group;
	x->state = X_UPSTREAM;
	if (f->way[WAY_IN].data && (x->body_expected || f->kind != TW_MSG_REQUEST))
		x->in_len = UINT64_MAX;
	if (f->way[WAY_IN].whole)
		feed_begin(f, WAY_IN);
	data_open(f, WAY_IN);
	if (x->client->forward) /* streams, datagrams: they speak to servers themselves */
		x->client->forward(x, group, key);
	else
		upstream_begin(x, group, key);
}

/* ---- responses ---- */

void flow_respond(struct flow *f)
{
	struct exchange *x = &f->x;
	uint32_t size = 0;
	struct tw_msg *msg = x->response ? tw_pool_block(f->lane->service->pool, x->response, &size)
	                                 : NULL;

	if (msg && gather_adopt(f, WAY_OUT, msg, size, x->response) < 0) {
		flow_fail(f, 502, "a function left a body that is not valid");
		return;
	}
	if (msg && x->status >= 200) {
		uint16_t status = ONCE(msg->status);

		if (status >= 200 && status <= 599)
			x->status = status;
	}
	x->state = x->response ? X_RESPOND : X_STREAM;
	if (x->status == 101)
		x->state = X_STREAM;
	gate_timer_cancel(x->gate, &x->timeout);
	x->responded = true;
	if (f->way[WAY_OUT].data && (x->body_back || x->state == X_STREAM))
		x->out_len = UINT64_MAX;
	if (f->way[WAY_OUT].whole)
		feed_begin(f, WAY_OUT);
	data_open(f, WAY_OUT);
	x->client->respond(x);
}

void flow_response(struct flow *f, uint32_t below)
{
	struct exchange *x = &f->x;
	int function = function_below(f->lane->responses, below);

	x->state = X_RESPONSE;
	f->from = below;
	if (function < 0 || !x->response || x->status < 200 || f->fetch) {
		flow_respond(f);
		return;
	}
	f->head = (struct out){ .flow = f, .what = OUT_RESPONSE, .handle = x->response };
	if (wants_whole(f, WAY_OUT)) {
		gather_begin(f, WAY_OUT);
		return;
	}
	flow_call(f, &f->head, function);
}

void flow_answered(struct exchange *x)
{
	struct flow *f = flow_of(x);
	struct tw_msg *msg = x->resp;
	uint32_t size = 0;

	if (!x->response) {
		x->status = 200;
		flow_response(f, 0);
		return;
	}
	tw_pool_block(f->lane->service->pool, x->response, &size);
	x->status = msg->status;
	x->body_back = msg->flags & TW_MSG_BODY && !x->head;
	x->out_len = msg->flags & TW_MSG_BODY || x->head ? msg->body_len : 0;
	msg->received_ns = x->gate->now;
	msg->stage = 0;
	msg->n_body = 0;
	flow_mend(f, msg, size, x->response, TW_MSG_RESPONSE);
	flow_response(f, TW_STAGES_MAX);
}

void flow_interim(struct exchange *x, const struct tw_msg *head, uint32_t size, unsigned status)
{
	if (!x->responded && x->client->interim)
		x->client->interim(x, head, size, status);
}

/* What of it clients are told: which servers there are is not their business. */
static const char *told(int status)
{
	switch (status) {
	case 400:
		return "the body of the request is not as it was said to be";
	case 500:
		return "the request cannot be sent on";
	case 503:
		return "no server is free";
	case 504:
		return "no server answered in time";
	default:
		return "no server answered";
	}
}

void flow_failed(struct exchange *x, int status, const char *why)
{
	struct flow *f = flow_of(x);

	if (f->fetch) {
		flow_fail(f, status, why);
		return;
	}
	if (status != 400)
		flow_say(f, UINT32_MAX, "%s", why);
	flow_refuse(f, TW_STAGES_MAX, status, told(status));
}

/* ---- through the functions ---- */

void flow_call(struct flow *f, struct out *out, uint32_t function)
{
	f->x.stage = function;
	lane_put(f->lane, out, function);
}

int flow_behind(const struct flow *f, const struct out *out, uint32_t function)
{
	const struct lane *lane = f->lane;

	switch (out->what) {
	case OUT_REQUEST:
		return function_from(lane->messages, function + 1);
	case OUT_RESPONSE:
		return function_below(lane->responses, function);
	default:
		return out->way == WAY_IN ? function_from(lane->data, function + 1)
		                          : function_below(lane->data, function);
	}
}

static void through(struct flow *f, struct out *out)
{
	if (out->what == OUT_REQUEST)
		flow_to_upstream(f, f->lane->spec.group, f->client_key);
	else if (out->what == OUT_RESPONSE)
		flow_respond(f);
	else
		data_through(f, out->way, false);
}

void flow_go_on(struct flow *f, struct out *out, uint32_t function)
{
	int next = flow_behind(f, out, function);

	if (next < 0)
		through(f, out);
	else
		flow_call(f, out, next);
}

/* What flow_mend() has written, and no function has a reason to change. */
static bool is_as_given(const struct flow *f, const struct out *out, const struct tw_msg *msg)
{
	return ONCE(msg->magic) == TW_MSG_MAGIC && ONCE(msg->kind) == flow_kind(f, out) &&
	       ONCE(msg->exchange) == f->x.number && ONCE(msg->id) == f->x.id &&
	       ONCE(msg->self) == out->handle;
}

/* Nothing in it needs to be what it was: there is nothing to go on with, whatever the policy is. */
static void spoilt(struct flow *f, uint32_t function)
{
	gate_count(f->lane->gate, GATE_FAULTS, 1);
	flow_say(f, function,
	         "a message came back with its head written over, by it or one in front");
	flow_fail(f, 502, "a function wrote over the head of its message");
}

void flow_back(struct flow *f, struct out *out, uint32_t exit, uint32_t said, uint32_t sender)
{
	struct lane *lane = f->lane;
	uint32_t size = 0, function;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, out->handle, &size);
	uint8_t verdict = said ? said : ONCE(msg->verdict);
	int of = lane->link ? tw_fabric_function(lane->service->fabric, sender) : -1;

	function = of >= 0 ? (uint32_t)of : ONCE(msg->stage);
	if (function >= lane->spec.n_functions)
		function = lane->spec.n_functions ? lane->spec.n_functions - 1 : 0;
	if (!is_as_given(f, out, msg)) {
		spoilt(f, function);
		return;
	}
	if (verdict != TW_V_NONE)
		flow_verdict(f, out, verdict, function);
	else if (exit == TW_EXIT_GATE)
		flow_go_on(f, out, function);
	else
		through(f, out);
}

/* ---- what comes back ---- */

struct out *flow_out(struct flow *f, tw_handle handle, uint8_t place)
{
	int way;

	if (f->head.handle == handle && f->head.place == place)
		return &f->head;
	for (way = 0; way < WAYS; way++) {
		struct data *d = f->way[way].data;

		if (d && d->out.handle == handle && d->out.place == place)
			return &d->out;
	}
	return NULL;
}

/* Whose message it is; NULL: nobody's. */
static struct out *find(struct lane *lane, tw_handle handle, uint8_t place)
{
	uint32_t block = TW_HANDLE_INDEX(handle);
	struct flow *f = block < lane->blocks && lane->at[block]
	                         ? flow_find(lane->gate, lane->at[block] - 1)
	                         : NULL;

	return f && f->lane == lane ? flow_out(f, handle, place) : NULL;
}

void flow_returned(struct lane *lane, const struct tw_desc *desc, uint32_t sender)
{
	struct tw_pool *pool = lane->service->pool;
	struct tw_msg *msg = tw_pool_block(pool, desc->handle, NULL);
	struct out *out = find(lane, desc->handle, OUT_AWAY);

	if (!msg)
		return;
	if (out) {
		out_home(lane, out);
		flow_back(out->flow, out, desc->exit, desc->exit == TW_EXIT_GATE ? desc->key : 0,
		          sender);
	} else if (ONCE(msg->kind) == TW_MSG_REQUEST && ONCE(msg->verdict) == TW_V_FETCH) {
		fetch_begin(lane, flow_find(lane->gate, ONCE(msg->exchange)), desc->handle);
	} else {
		/* An answer that was read, or something late or made up. */
		lane->strays += ONCE(msg->kind) != TW_MSG_ANSWER;
		lane->stray = true;
		tw_pool_free(pool, desc->handle, lane->gate->id);
	}
}

void flow_inline_done(struct gate *gate, struct service *service, tw_handle message)
{
	struct out *out = find(service->lane[gate->id], message, OUT_INLINE);

	if (!out)
		return;
	out->place = OUT_IDLE;
	flow_back(out->flow, out, TW_EXIT_NEXT, 0, UINT32_MAX);
}
