/* SPDX-License-Identifier: BSD-3-Clause */
/* verdict.c - what functions decide about messages: answers of their own, replies, drops, faults
 * and their policies. Nothing that a message says is believed. */
#include "gate/lane.h"

#include <errno.h>

uint8_t flow_kind(const struct flow *f, const struct out *out)
{
	return out->what == OUT_REQUEST    ? f->kind
	       : out->what == OUT_RESPONSE ? TW_MSG_RESPONSE
	                                   : TW_MSG_DATA;
}

/* ---- answers that functions made ---- */

static bool answer_valid(const struct tw_msg *answer, uint32_t size, uint16_t status)
{
	return size >= sizeof(*answer) && answer->magic == TW_MSG_MAGIC &&
	       answer->kind == TW_MSG_RESPONSE && status >= 200 && status <= 599;
}

int flow_forget_response(struct flow *f)
{
	struct exchange *x = &f->x;
	bool takes = f->way[WAY_OUT].data;

	if (x->upstream)
		upstream_cancel(x);
	data_free(f, WAY_OUT);
	body_clear(x, &x->out);
	pieces_free(f->lane, f->way[WAY_OUT].whole);
	f->way[WAY_OUT] = (struct way){ 0 };
	if (x->response) {
		gather_forget(f->lane, x->response);
		tw_pool_free(f->lane->service->pool, x->response, x->gate->id);
	}
	x->response = 0;
	return takes ? data_begin(f, WAY_OUT) : 0;
}

void flow_forget_request(struct flow *f)
{
	struct exchange *x = &f->x;

	f->way[WAY_IN].feeds = false;
	feed_discard(f, WAY_IN);
	x->in.ready = NULL;
	if (!x->in.ended)
		x->in.broken = true;
}

/* It left something that cannot be used; `what` goes to the log too. */
static void blame(struct flow *f, uint32_t function, const char *what)
{
	flow_say(f, function, "%s", what);
	flow_refuse(f, function, 502, what);
}

static void respond_with(struct flow *f, struct out *out, uint32_t function)
{
	struct exchange *x = &f->x;
	struct lane *lane = f->lane;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, out->handle, NULL), *answer;
	tw_handle handle = ONCE(msg->answer);
	uint32_t size = 0;
	uint16_t status;
	int err;

	if (x->responded) {
		flow_fail(f, 502, "a function responded too late");
		return;
	}
	if (handle == x->request || handle == x->response || !lane_own(lane, handle)) {
		blame(f, function, "a function left an answer that is not its own");
		return;
	}
	answer = tw_pool_block(lane->service->pool, handle, &size);
	status = answer ? ONCE(answer->status) : 0;
	if (!answer_valid(answer, size, status)) {
		tw_pool_free(lane->service->pool, handle, x->gate->id);
		blame(f, function, "a function left an answer that is not valid");
		return;
	}
	/* A message whose function took it from the head of the queue is done with. */
	data_free(f, WAY_IN);
	err = flow_forget_response(f);
	x->response = handle;
	x->resp = answer;
	x->status = answer->status = status;
	flow_mend(f, answer, size, handle, TW_MSG_RESPONSE);
	f->way[WAY_OUT].whole = pieces_new();
	if (err < 0 || !f->way[WAY_OUT].whole ||
	    pieces_from(lane, answer, size, handle, false, NULL, 0, f->way[WAY_OUT].whole) < 0) {
		blame(f, function, "a function left an answer whose body is not valid");
		return;
	}
	x->out_len = answer->body_len = f->way[WAY_OUT].whole->bytes;
	x->body_back = x->out_len > 0 && !x->head;
	x->made = true;
	answer->flags |= TW_MSG_WHOLE;
	flow_forget_request(f);
	flow_response(f, function);
}

/* ---- replies ---- */

static void reply(struct flow *f, struct out *out, uint32_t function)
{
	struct exchange *x = &f->x;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(f->lane->service->pool, out->handle, &size);

	if (f->kind == TW_MSG_REQUEST || x->responded || out->what != OUT_REQUEST) {
		if (out->what == OUT_DATA && f->kind == TW_MSG_OPEN)
			data_reply(f, out->way, function);
		else
			flow_fail(f, 502, "a function replied where it has to respond");
		return;
	}
	f->way[WAY_OUT].whole = pieces_new();
	if (!f->way[WAY_OUT].whole || pieces_from(f->lane, msg, size, x->request, false, NULL, 0,
	                                          f->way[WAY_OUT].whole) < 0) {
		flow_fail(f, 502, "a function left a reply that is not valid");
		return;
	}
	x->status = 200;
	x->in.broken = !x->in.ended;
	feed_discard(f, WAY_IN);
	flow_respond(f);
}

/* ---- faults ---- */

void flow_fault(struct flow *f, struct out *out, uint32_t function, const char *why)
{
	const struct tw_service_spec *spec = &f->lane->spec;
	uint32_t policy = function < spec->n_functions ? spec->function[function].on_fault
	                                               : TW_FAULT_FAIL;

	gate_count(f->lane->gate, GATE_FAULTS, 1);
	if (policy == TW_FAULT_RETRY && !out->retried) {
		out->retried = true;
		((struct tw_msg *)tw_pool_block(f->lane->service->pool, out->handle, NULL))
			->retries = 1;
		gate_count(f->lane->gate, GATE_RETRIES, 1);
		flow_call(f, out, function);
	} else if (policy == TW_FAULT_BYPASS) {
		if (out->what == OUT_DATA && flow_behind(f, out, function) < 0)
			data_through(f, out->way, true);
		else
			flow_go_on(f, out, function);
	} else {
		flow_refuse(f, function, 502, why);
	}
}

void flow_nobody(struct flow *f, struct out *out, int error)
{
	uint32_t function = out->function;

	if (error == -ESTALE) {
		flow_fail(f, 502, "a message was lost");
	} else if ((error == -ENOTCONN || error == -EAGAIN) &&
	           f->lane->spec.function[function].on_fault == TW_FAULT_BYPASS) {
		gate_count(f->lane->gate, GATE_FAULTS, 1);
		flow_go_on(f, out, function);
	} else {
		flow_say(f, function, "not running, or too busy");
		flow_refuse(f, function, 503,
		            "a function of this service is not running, or too busy");
	}
}

/* ---- which ---- */

void flow_verdict(struct flow *f, struct out *out, uint8_t verdict, uint32_t function)
{
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(f->lane->service->pool, out->handle, &size);
	uint16_t group = ONCE(msg->group);
	uint32_t key = ONCE(msg->key);

	if (verdict == TW_V_RESPOND) {
		respond_with(f, out, function);
		return;
	}
	flow_mend(f, msg, size, out->handle, flow_kind(f, out));
	if (verdict == TW_V_FAULT)
		flow_fault(f, out, function, "a function failed");
	else if (verdict == TW_V_DROP)
		flow_drop(f);
	else if (verdict == TW_V_REPLY)
		reply(f, out, function);
	else if (verdict == TW_V_UPSTREAM && out->what == OUT_REQUEST)
		flow_to_upstream(f, group, key ? key : f->client_key);
	else
		blame(f, function, "a function decided what cannot be done here");
}
