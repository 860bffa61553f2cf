/* SPDX-License-Identifier: BSD-3-Clause */
/* gather.c - bodies that functions want whole: gathered, or let pass when they are too large. */
#include "gate/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TAIL_LEAST (64u << 10)
#define TAIL_MOST (1u << 20)

/* Half of the pool is for bodies that are gathered, at most: many that each have a part and wait
 * for the rest would keep everybody waiting, and those that pass need blocks too. Until the
 * exchange ends. */
static int reserve(struct flow *f, int way, uint64_t bytes)
{
	struct lane *lane = f->lane;
	uint64_t most = ((uint64_t)lane->spec.memory_mb << 20) / 2 / gates_running();

	if (lane->reserved + bytes > most)
		return -ENOBUFS;
	lane->reserved += bytes;
	f->way[way].reserved += bytes;
	return 0;
}

/* A block for what follows, as large as is thought to be needed, smaller when there is none. */
static int tail_new(struct flow *f, struct pieces *to, uint64_t expected)
{
	struct lane *lane = f->lane;
	int way = to == f->way[WAY_IN].whole ? WAY_IN : WAY_OUT;
	uint64_t want = expected == UINT64_MAX ? (to->n ? TAIL_MOST : TAIL_LEAST)
	                                       : expected - to->bytes;
	uint32_t size = 0;
	tw_handle handle = 0;

	want = want > TAIL_MOST ? TAIL_MOST : want < 4096 ? 4096 : want;
	for (; !handle && want >= 4096; want /= 4)
		handle = tw_pool_new(lane->service->pool, want, lane->gate->id);
	if (handle)
		tw_pool_block(lane->service->pool, handle, &size);
	if (!handle || to->n == TW_BODY_BLOCKS_MAX ||
	    (expected == UINT64_MAX && reserve(f, way, size) < 0)) {
		if (handle)
			tw_pool_free(lane->service->pool, handle, lane->gate->id);
		gate_count(lane->gate, GATE_NO_BLOCK, 1);
		return -ENOBUFS;
	}
	to->piece[to->n++] = (struct body_piece){ .handle = handle, .frees = true };
	to->room = size;
	return 0;
}

/* On failure, `from` is what was not copied. */
static int copy_in(struct flow *f, struct pieces *to, struct body_piece *from, uint64_t expected)
{
	struct tw_pool *pool = f->lane->service->pool;
	const char *bytes = tw_pool_block(pool, from->handle, NULL);
	uint32_t done = 0;

	if (!bytes)
		return -ESTALE;
	while (done < from->len) {
		struct body_piece *tail;
		uint32_t n;

		if (!to->room && tail_new(f, to, expected) < 0) {
			from->at += done;
			from->len -= done;
			return -ENOBUFS;
		}
		tail = &to->piece[to->n - 1];
		n = from->len - done < to->room ? from->len - done : to->room;
		memcpy((char *)tw_pool_block(pool, tail->handle, NULL) + tail->len,
		       bytes + from->at + done, n);
		tail->len += n;
		to->room -= n;
		to->bytes += n;
		done += n;
	}
	gate_count(f->lane->gate, GATE_COPIED, from->len);
	return 0;
}

/* A body that is one piece stays where it is; others are brought together. On failure the piece is
 * still the caller's. */
static int gather_add(struct flow *f, struct pieces *to, struct body_piece *piece,
                      uint64_t expected)
{
	uint64_t limit = f->lane->spec.whole_bytes;
	int err;

	if (limit && to->bytes + piece->len > limit)
		err = -EFBIG;
	else if (piece->len == expected && to->n == 0 && piece->len > 0) {
		pieces_add(to, piece);
		return 0;
	} else
		err = copy_in(f, to, piece, expected);
	if (err == 0)
		piece_free(f->lane, piece);
	return err;
}

static void gather_failed(struct flow *f, int err)
{
	if (err == -EFBIG)
		flow_refuse(f, TW_STAGES_MAX, 413, "the body is larger than functions take");
	else
		flow_refuse(f, TW_STAGES_MAX, 503, "no memory for a whole body");
}

/* A response that cannot be whole goes on without its body, which follows untouched: what was
 * gathered, this piece, what waits, and then what still comes. */
static void let_pass(struct flow *f, const struct body_piece *piece)
{
	struct way *w = &f->way[WAY_OUT];
	struct body *body = &f->x.out;

	pieces_add(w->whole, piece);
	for (; body->count; body_pop(body))
		pieces_add(w->whole, body_head(body));
	w->whole->room = 0;
	w->passes = w->rest = true;
	w->rest_ends = body->ended;
	body->ended = false;
	body->ready = NULL;
	body->filter = &flow_filter;
	body->filtered = f;
	flow_response(f, f->from);
}

/* The body named in the message, lent to functions. */
static void name_body(struct flow *f, int way)
{
	struct tw_msg *msg = way == WAY_IN ? f->x.req : f->x.resp;
	tw_handle self = way == WAY_IN ? f->x.request : f->x.response;
	const struct pieces *whole = f->way[way].whole;
	uint32_t i;

	for (i = 0; i < whole->n; i++) {
		const struct body_piece *piece = &whole->piece[i];

		msg->body[i] = (struct tw_body_block){
			.handle = piece->handle == self ? 0 : piece->handle,
			.at = piece->at,
			.len = piece->len,
		};
	}
	memset(&msg->body[i], 0, (TW_BODY_BLOCKS_MAX - i) * sizeof(msg->body[0]));
	msg->n_body = whole->n;
	msg->body_len = whole->bytes;
	msg->flags |= TW_MSG_WHOLE;
}

/* Room for them in the block is not promised: without it they are lost. */
static void name_trailers(struct flow *f, int way)
{
	struct body *body = flow_body(f, way);
	tw_handle self = way == WAY_IN ? f->x.request : f->x.response;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(f->lane->service->pool, self, &size);

	if (body->trailers && !trailers_put(msg, size, body->trailers)) {
		free(body->trailers);
		body->trailers = NULL;
	}
}

static void gather_ready(struct body *body)
{
	struct flow *f = body->consumer;
	int way = body == &f->x.in ? WAY_IN : WAY_OUT, err;
	uint64_t id = f->x.id, expected = way == WAY_IN ? f->x.in_len : f->x.out_len;
	struct body_piece piece;

	while (body->count) {
		piece = *body_head(body);
		err = gather_add(f, f->way[way].whole, &piece, expected);
		body_pop(body);
		if (err < 0 && way == WAY_OUT) {
			let_pass(f, &piece);
			return;
		}
		if (err < 0) {
			piece_free(f->lane, &piece);
			gather_failed(f, err);
			return;
		}
		body_ask(body);
		if (!flow_lives(f, id) || body->ready != gather_ready)
			return;
	}
	if (body->broken) {
		if (way == WAY_OUT)
			flow_refuse(f, f->from, 502, "the response of the server broke off");
		return;
	}
	if (!body->ended)
		return;
	body->ready = NULL;
	name_body(f, way);
	name_trailers(f, way);
	flow_gathered(f, way);
}

void gather_begin(struct flow *f, int way)
{
	struct body *body = flow_body(f, way);
	uint64_t expected = way == WAY_IN ? f->x.in_len : f->x.out_len;

	int err = 0;

	if (expected != UINT64_MAX && f->lane->spec.whole_bytes &&
	    expected > f->lane->spec.whole_bytes)
		err = -EFBIG;
	else if (expected != UINT64_MAX)
		err = reserve(f, way, expected);
	if (err == 0 && !(f->way[way].whole = pieces_new()))
		err = -ENOMEM;
	if (err < 0 && way == WAY_OUT) {
		f->way[way].passes = true;
		flow_response(f, f->from);
		return;
	}
	if (err < 0) {
		gather_failed(f, err);
		return;
	}
	/* The filter comes back when the body is whole. */
	body->filter = NULL;
	data_return(f, way);
	body->consumer = f;
	body->ready = gather_ready;
	gather_ready(body);
}
