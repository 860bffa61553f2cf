/* SPDX-License-Identifier: BSD-3-Clause */
/* patrol.c - while messages are with functions: looks whether an instance is stuck, whether
 * something waits for too long, and what becomes of the messages of an instance that has died. */
#include "gate/lane.h"
#include "supervisor.h"

#include <errno.h>
#include <stdlib.h>

/* ---- stuck instances ---- */

static void look_at(struct lane *lane, uint32_t member, uint64_t now)
{
	struct tw_member_board *board = tw_pool_board(lane->service->pool, member);
	struct watched *w = &lane->watched[member];
	uint64_t current = __atomic_load_n(&board->current, __ATOMIC_RELAXED);
	uint64_t started = __atomic_load_n(&board->started, __ATOMIC_RELAXED);
	uint64_t cpu, patience;
	uint32_t index = lane->service->index;

	if (!current) {
		w->current = 0;
		return;
	}
	cpu = tw_supervisor_cpu(index, member);
	if (w->current != current || w->started != started || cpu < w->cpu_ns) {
		*w = (struct watched){ current, started, cpu, now };
		return;
	}
	patience = (uint64_t)tw_supervisor_patience(index, member) * 1000000;
	if (cpu - w->cpu_ns < (patience ? patience : FLOW_STUCK_NS)) {
		if (now - w->since < FLOW_STUCK_NS)
			return;
		/* Others have the CPU: it is not its fault. */
		if (tw_supervisor_runnable(index, member)) {
			w->since = now;
			return;
		}
	}
	tw_supervisor_stuck(index, member,
	                    cpu - w->cpu_ns < patience ? (now - w->since) / 1000000
	                                               : (cpu - w->cpu_ns) / 1000000);
	w->current = 0;
}

static void look(struct lane *lane, uint64_t now)
{
	uint32_t i, bits;

	if (!lane->watched)
		lane->watched = calloc(TW_MEMBERS_MAX, sizeof(*lane->watched));
	if (!lane->watched)
		return;
	for (i = 0; i < TW_MEMBERS_MAX / 32; i++)
		for (bits = lane->members[i]; bits; bits &= bits - 1)
			look_at(lane, i * 32 + __builtin_ctz(bits), now);
}

/* ---- what waits ---- */

static void expire(struct lane *lane, uint64_t now)
{
	uint32_t mask = lane->queued;

	for (; mask; mask &= mask - 1) {
		struct out_queue *queue = &lane->queue[__builtin_ctz(mask)];
		struct out *out;

		while ((out = TAILQ_FIRST(queue)) && now - out->since >= FLOW_WAIT_NS) {
			out_home(lane, out);
			flow_nobody(out->flow, out, -ENOTCONN);
		}
	}
}

static void each_flow(struct lane *lane, void (*fn)(struct flow *f, uint32_t arg), uint32_t arg)
{
	struct gate *gate = lane->gate;
	uint32_t i;

	for (i = 0; i < gate->n_exchanges; i++) {
		struct flow *f = flow_of(gate->exchanges[i]);

		if (f->x.state != X_FREE && f->lane == lane)
			fn(f, arg);
	}
}

/* ---- blocks that functions gave to this thread and never named ----
 *
 * A function may die, or be given up, between giving a block and sending the message that names it.
 * What is on its way to this thread is noted; whatever of it is still so when every exchange that
 * there was then has ended belongs to nothing. */

#define SWEEP_EVERY_NS 1000000000ull
#define SWEEP_MOST 1024

struct sweep {
	uint32_t n;
	uint64_t at; /* when they were noted; 0: not */
	tw_handle handle[SWEEP_MOST];
};

static void note_block(void *ctx, tw_handle handle, uint32_t state)
{
	struct sweep *sweep = ctx;

	if (state == TW_BLOCK_SENT && sweep->n < SWEEP_MOST)
		sweep->handle[sweep->n++] = handle;
}

/* No exchange is older. */
static bool all_since(const struct lane *lane, uint64_t at)
{
	struct gate *gate = lane->gate;
	uint32_t i;

	for (i = 0; i < gate->n_exchanges; i++) {
		const struct flow *f = flow_of(gate->exchanges[i]);

		if (f->x.state != X_FREE && f->lane == lane && f->x.begun <= at)
			return false;
	}
	return true;
}

static void sweep_noted(struct lane *lane)
{
	struct sweep *sweep = lane->sweep;
	struct tw_pool *pool = lane->service->pool;
	uint32_t i;

	for (i = 0; i < sweep->n; i++)
		if (tw_pool_take(pool, sweep->handle[i], lane->gate->id) == 0 &&
		    tw_pool_free(pool, sweep->handle[i], lane->gate->id) == 0)
			lane->strays++;
	/* There were more. */
	if (sweep->n == SWEEP_MOST)
		lane->stray = true;
	sweep->at = 0;
}

static bool sweeps(const struct lane *lane)
{
	return lane->stray || (lane->sweep && lane->sweep->at);
}

static void sweep(struct lane *lane)
{
	uint64_t now = lane->gate->now;

	if (!sweeps(lane) || (lane->away && now < lane->swept + SWEEP_EVERY_NS))
		return;
	if (!lane->sweep)
		lane->sweep = calloc(1, sizeof(*lane->sweep));
	if (!lane->sweep)
		return;
	lane->swept = now;
	if (!lane->sweep->at) {
		lane->stray = false;
		lane->sweep->at = now;
		lane->sweep->n = 0;
		tw_pool_each(lane->service->pool, lane->gate->id, note_block, lane->sweep);
	}
	if (all_since(lane, lane->sweep->at))
		sweep_noted(lane);
}

/* ---- rounds ---- */

/* Now and then, and when the first one has waited for too long. */
static uint64_t next_round(const struct lane *lane)
{
	uint64_t due = lane->gate->now + FLOW_PATROL_NS;
	uint32_t mask = lane->queued;

	for (; mask; mask &= mask - 1) {
		const struct out *out = TAILQ_FIRST(&lane->queue[__builtin_ctz(mask)]);

		if (out->since + FLOW_WAIT_NS < due)
			due = out->since + FLOW_WAIT_NS;
	}
	return due;
}

static void tick(struct gate *gate, struct gate_timer *timer)
{
	struct lane *lane = (struct lane *)((char *)timer - offsetof(struct lane, patrol));

	lane_send(lane);
	fetch_again(lane);
	expire(lane, gate->now);
	if (lane->away) {
		look(lane, gate->now);
	} else if (lane->link) {
		/* Answers that were read come back behind the last message. */
		lane_receive(lane);
	}
	sweep(lane);
	if (lane->away || lane->queued || lane->answers)
		gate_timer_set(gate, &lane->patrol, next_round(lane));
	else if (sweeps(lane))
		gate_timer_set(gate, &lane->patrol, gate->now + SWEEP_EVERY_NS);
}

void patrol_on(struct lane *lane)
{
	uint64_t due = lane->gate->now + FLOW_PATROL_NS;

	if (lane->patrol.due && lane->patrol.due <= due)
		return;
	lane->patrol.fire = tick;
	gate_timer_set(lane->gate, &lane->patrol, due);
}

void patrol_free(struct lane *lane)
{
	gate_timer_cancel(lane->gate, &lane->patrol);
	patrol_forget(lane);
}

void patrol_forget(struct lane *lane)
{
	free(lane->watched);
	free(lane->sweep);
	lane->watched = NULL;
	lane->sweep = NULL;
}

/* ---- instances come and go ---- */

static void rename_pieces(struct body_piece *piece, uint32_t n, tw_handle from, tw_handle to)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (piece[i].handle == from)
			piece[i].handle = to;
}

/* The block of a message has another handle now. */
static void rename_block(struct flow *f, struct out *out, tw_handle to)
{
	tw_handle from = out->handle;
	uint32_t size = 0;
	int way;
	struct tw_msg *msg = tw_pool_block(f->lane->service->pool, to, &size);

	out->handle = to;
	for (way = 0; way < WAYS; way++) {
		struct way *w = &f->way[way];

		rename_pieces(flow_body(f, way)->piece, BODY_PIECES, from, to);
		if (w->whole)
			rename_pieces(w->whole->piece, w->whole->n, from, to);
		if (w->data)
			rename_pieces(w->data->queue, FLOW_QUEUE, from, to);
	}
	if (out->what == OUT_REQUEST)
		f->x.request = to;
	else if (out->what == OUT_RESPONSE)
		f->x.response = to;
	flow_mend(f, msg, size, to, flow_kind(f, out));
}

static void bereave(struct flow *f, struct out *out, uint32_t member)
{
	struct lane *lane = f->lane;
	struct tw_pool *pool = lane->service->pool;
	uint64_t word;
	tw_handle handle;
	int function;

	if (out->place != OUT_AWAY)
		return;
	word = tw_pool_word(pool, TW_HANDLE_INDEX(out->handle));
	if (TW_GENERATION_OF(word) == TW_HANDLE_GENERATION(out->handle) &&
	    TW_OWNER_OF(word) != member)
		return;
	handle = tw_pool_seize(pool, out->handle, lane->gate->id, false);
	if (!handle) {
		/* It was freed: whoever did it, the exchange has no message any more. */
		flow_fail(f, 502, "a function lost a message");
		return;
	}
	out_home(lane, out);
	lane->stray = true;
	rename_block(f, out, handle);
	function = tw_fabric_function(lane->service->fabric, member);
	if (function < 0)
		function = out->function;
	if (TW_STATE_OF(word) == TW_BLOCK_BUSY)
		flow_fault(f, out, function, "a function ended with this request in its hands");
	else
		flow_call(f, out, function);
}

static void member_gone(struct flow *f, uint32_t member)
{
	uint64_t id = f->x.id;
	int way;

	fetch_member_gone(f, member);
	bereave(f, &f->head, member);
	for (way = 0; way < WAYS; way++)
		if (flow_lives(f, id) && f->way[way].data)
			bereave(f, &f->way[way].data->out, member);
}

int flow_member_gone(struct gate *gate, struct service *service, uint32_t member)
{
	struct lane *lane = service->lane[gate->id];

	if (!lane || member >= TW_MEMBERS_MAX)
		return 0;
	lane->members[member / 32] &= ~(1u << member % 32);
	if (lane->watched)
		lane->watched[member] = (struct watched){ 0 };
	fetch_forget(lane, member);
	each_flow(lane, member_gone, member);
	return 0;
}

int flow_member_ready(struct gate *gate, struct service *service, uint32_t member)
{
	struct lane *lane = service->lane[gate->id];

	if (!lane || member >= TW_MEMBERS_MAX)
		return 0;
	lane->members[member / 32] |= 1u << member % 32;
	if (lane->queued)
		lane_send(lane);
	return 0;
}
