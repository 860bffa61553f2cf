/* SPDX-License-Identifier: BSD-3-Clause */
/* lane.c - messages of a gate thread on their way to the functions of a service and back: what a
 * turn brings together goes in one batch, what finds no room or nobody waits for a while. */
#include "gate/lane.h"

#include <errno.h>

void lane_take(struct lane *lane)
{
	const struct tw_service_spec *spec = &lane->spec;
	uint32_t i;

	lane->by_address = false;
	lane->messages = lane->responses = lane->data = lane->whole = lane->whole_back = 0;
	for (i = 0; i < spec->n_functions && i < TW_STAGES_MAX; i++) {
		const struct tw_function_spec *function = &spec->function[i];

		if (function->sticky == 2)
			lane->by_address = true;
		/* A route may lead to a function aside, which then finds the body whole too. */
		if (function->takes & TW_TAKES_WHOLE)
			lane->whole |= 1u << i;
		if (function->takes & TW_TAKES_WHOLE_BACK && function->takes & TW_TAKES_RESPONSE)
			lane->whole_back |= 1u << i;
		if (function->aside)
			continue;
		if (function->takes & TW_TAKES_MESSAGE)
			lane->messages |= 1u << i;
		if (function->takes & TW_TAKES_RESPONSE)
			lane->responses |= 1u << i;
		if (function->takes & TW_TAKES_DATA)
			lane->data |= 1u << i;
	}
}

/* ---- away and home ---- */

static void away(struct lane *lane, struct out *out)
{
	out->place = OUT_AWAY;
	lane->away++;
	if (lane->polls && !lane->polling) {
		lane->polling = true;
		lane->gate->polling++;
	}
}

static void dequeue(struct lane *lane, struct out *out)
{
	TAILQ_REMOVE(&lane->queue[out->function], out, link);
	if (TAILQ_EMPTY(&lane->queue[out->function]))
		lane->queued &= ~(1u << out->function);
}

void out_home(struct lane *lane, struct out *out)
{
	if (out->place == OUT_QUEUED)
		dequeue(lane, out);
	if (out->place == OUT_AWAY && --lane->away == 0 && lane->polling) {
		lane->polling = false;
		lane->gate->polling--;
	}
	out->place = OUT_IDLE;
}

/* The block is no more the exchange's, unless it was here. */
static void out_lost(struct flow *f, struct out *out)
{
	if (out->what == OUT_REQUEST) {
		f->x.request = 0;
		f->x.req = NULL;
	} else if (out->what == OUT_RESPONSE) {
		f->x.response = 0;
		f->x.resp = NULL;
	}
	out->handle = 0;
}

void out_cancel(struct flow *f, struct out *out)
{
	struct lane *lane = f->lane;
	uint8_t place = out->place;
	tw_handle handle;

	if (place == OUT_IDLE)
		return;
	out_home(lane, out);
	if (place == OUT_INLINE)
		inline_forget(lane->gate, lane->service, out->handle);
	if (place != OUT_AWAY)
		return;
	handle = tw_pool_seize(lane->service->pool, out->handle, lane->gate->id, true);
	if (handle)
		tw_pool_free(lane->service->pool, handle, lane->gate->id);
	lane->stray = true;
	out_lost(f, out);
}

/* ---- there ---- */

/* It stays with the message on its whole way; functions that are not sticky do not look at it. */
static uint32_t sticky_key(const struct lane *lane, const struct out *out)
{
	uint64_t id = out->flow->x.id * 0x9e3779b97f4a7c15ull;

	return lane->by_address ? out->flow->client_key : (uint32_t)(id >> 32) | 1;
}

static struct tw_desc describe(const struct lane *lane, const struct out *out)
{
	return (struct tw_desc){ .handle = out->handle,
		                 .exit = TW_EXIT_NEXT,
		                 .gate = lane->gate->id,
		                 .key = sticky_key(lane, out) };
}

/* False: the rest has to wait. */
static bool send_batch(struct lane *lane, uint32_t function)
{
	struct tw_desc desc[TW_DESC_BATCH];
	struct out *out, *next;
	unsigned n = 0;
	int sent;

	TAILQ_FOREACH (out, &lane->queue[function], link) {
		/* cppcheck-suppress uninitvar */
		desc[n++] = describe(lane, out);
		if (n == TW_DESC_BATCH)
			break;
	}
	sent = tw_link_enter(lane->link, function, desc, n);
	gate_count(lane->gate, GATE_SYSCALLS, !lane->polls);
	out = TAILQ_FIRST(&lane->queue[function]);
	for (int i = 0; i < sent; i++, out = next) {
		next = TAILQ_NEXT(out, link);
		dequeue(lane, out);
		away(lane, out);
	}
	if (sent > 0)
		return true;
	if (sent == 0 || sent == -EAGAIN || sent == -ENOTCONN)
		return false;
	out_home(lane, out);
	flow_nobody(out->flow, out, sent);
	return true;
}

/* ---- functions that run in this thread ---- */

struct called {
	struct flow *flow;
	uint64_t id; /* of its exchange: what comes back may end others */
};

static unsigned take_batch(struct lane *lane, uint32_t function, struct called *called,
                           tw_handle *message)
{
	struct out *out;
	unsigned n = 0;

	while (n < TW_DESC_BATCH && (out = TAILQ_FIRST(&lane->queue[function]))) {
		struct tw_msg *msg = tw_pool_block(lane->service->pool, out->handle, NULL);

		msg->stage = function;
		dequeue(lane, out);
		out->place = OUT_INLINE;
		called[n] = (struct called){ out->flow, out->flow->x.id };
		message[n++] = out->handle;
	}
	return n;
}

static void call_batch(struct lane *lane, uint32_t function)
{
	struct called called[TW_DESC_BATCH];
	tw_handle message[TW_DESC_BATCH];
	int8_t result[TW_DESC_BATCH];
	unsigned n = take_batch(lane, function, called, message);

	inline_run(lane->gate, lane->service, function, message, n, result);
	for (unsigned i = 0; i < n; i++) {
		struct flow *f = called[i].flow;
		struct out *out;

		if (result[i] == TW_INLINE_HELD || !flow_lives(f, called[i].id))
			continue;
		out = flow_out(f, message[i], OUT_INLINE);
		if (!out)
			continue;
		out->place = OUT_IDLE;
		if (result[i] == TW_INLINE_DONE)
			flow_back(f, out, TW_EXIT_NEXT, 0, UINT32_MAX);
		else
			flow_fault(f, out, function, "the function could not be called");
	}
}

/* ---- what a turn has brought ---- */

void lane_send(struct lane *lane)
{
	uint32_t mask = lane->queued;

	for (; mask; mask &= mask - 1) {
		uint32_t function = __builtin_ctz(mask);

		if (!lane->link)
			call_batch(lane, function);
		else
			while (!TAILQ_EMPTY(&lane->queue[function]) && send_batch(lane, function))
				;
	}
	if (!lane->link && lane->queued)
		gate_later(lane->gate, &lane->send);
	else if (lane->queued || lane->away)
		patrol_on(lane);
}

void lane_put(struct lane *lane, struct out *out, uint32_t function)
{
	uint32_t block = TW_HANDLE_INDEX(out->handle);

	if (block < lane->blocks)
		lane->at[block] = out->flow->x.number + 1;
	out->function = function;
	out->place = OUT_QUEUED;
	out->since = lane->gate->now;
	TAILQ_INSERT_TAIL(&lane->queue[function], out, link);
	lane->queued |= 1u << function;
	gate_later(lane->gate, &lane->send);
}

/* ---- and back ---- */

void lane_receive(struct lane *lane)
{
	struct tw_desc desc[TW_DESC_BATCH];
	int n, i, rounds = 4;

	do {
		n = tw_link_receive(lane->link, desc, TW_DESC_BATCH);
		gate_count(lane->gate, GATE_SYSCALLS, !lane->polls);
		for (i = 0; i < n; i++)
			flow_returned(lane, &desc[i], tw_link_sender(lane->link, i));
	} while (n == TW_DESC_BATCH && --rounds);
	if (lane->queued)
		gate_later(lane->gate, &lane->send);
}

void lane_ready(struct gate *gate, struct gate_source *source, uint32_t events)
{
	struct service *service =
		(struct service *)((char *)(source - gate->id) - offsetof(struct service, source));

	(void)events;
	lane_receive(service->lane[gate->id]);
}

void flow_poll(struct gate *gate)
{
	uint32_t i;

	for (i = 0; i < TW_SERVICES_MAX; i++) {
		struct service *service = gate->service[i];
		struct lane *lane = service ? service->lane[gate->id] : NULL;

		if (lane && lane->polling && tw_link_ready(lane->link))
			lane_receive(lane);
	}
}
