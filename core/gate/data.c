/* SPDX-License-Identifier: BSD-3-Clause */
/* data.c - bodies and streams that go through functions piece by piece: each piece is a message of
 * its own, one at a time per direction, so that their order is kept and memory bounded. */
#include "gate/http.h"
#include "gate/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void go(struct flow *f, int way);

static void kicked(struct gate *gate, struct gate_task *task)
{
	struct data *d = (struct data *)((char *)task - offsetof(struct data, kick));

	(void)gate;
	go(d->out.flow, d->out.way);
}

/* The filter is set when the head is looked at: before, pieces wait in the queue. */
int data_begin(struct flow *f, int way)
{
	struct body *body = flow_body(f, way);
	struct data *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->out = (struct out){ .flow = f, .what = OUT_DATA, .way = way };
	d->kick.run = kicked;
	f->way[way].data = d;
	body->filter = &flow_filter;
	body->filtered = f;
	return 0;
}

void data_open(struct flow *f, int way)
{
	struct data *d = f->way[way].data;

	if (!d || d->open)
		return;
	d->open = true;
	gate_later(f->lane->gate, &d->kick);
}

void data_return(struct flow *f, int way)
{
	struct data *d = f->way[way].data;
	struct body *body = flow_body(f, way);

	if (!d || d->open)
		return;
	for (; d->count && body->count < BODY_PIECES; d->count--) {
		const struct body_piece *piece = &d->queue[d->first];

		body->piece[(body->first + body->count++) % BODY_PIECES] = *piece;
		d->first = (d->first + 1) % FLOW_QUEUE;
	}
	body->ended = d->end;
	d->end = false;
}

bool data_room(const struct data *d)
{
	return d->count < FLOW_QUEUE && !d->end;
}

void data_put(struct flow *f, int way, const struct body_piece *piece)
{
	struct data *d = f->way[way].data;

	if (!piece)
		d->end = true;
	else
		d->queue[(d->first + d->count++) % FLOW_QUEUE] = *piece;
	if (d->open && d->out.place == OUT_IDLE)
		gate_later(f->lane->gate, &d->kick);
}

static void drop_piece(struct lane *lane, struct body_piece *piece)
{
	piece_free(lane, piece);
	*piece = (struct body_piece){ 0 };
}

/* ---- to the functions ---- */

/* A small piece lies in the message; a large one stays where it is, and is lent. */
static int make(struct flow *f, int way, struct body_piece *piece, bool last)
{
	struct lane *lane = f->lane;
	struct data *d = f->way[way].data;
	struct tw_pool *pool = lane->service->pool;
	bool copy = piece->len && piece->len <= FLOW_COPY_MAX;
	const struct http_trailers *trailers = last ? flow_body(f, way)->trailers : NULL;
	tw_handle handle = tw_pool_new(pool,
	                               sizeof(struct tw_msg) + (copy ? piece->len : 0) +
	                                       (trailers ? trailers->len : 0),
	                               lane->gate->id);
	const char *from = piece->len ? tw_pool_block(pool, piece->handle, NULL) : NULL;
	struct tw_msg *msg;
	uint32_t size = 0;

	if (!handle) {
		gate_count(lane->gate, GATE_NO_BLOCK, 1);
		return -ENOBUFS;
	}
	msg = tw_pool_block(pool, handle, &size);
	memset(msg, 0, sizeof(*msg));
	msg->used = sizeof(*msg);
	msg->received_ns = lane->gate->now;
	msg->listener = f->x.listener;
	msg->body_len = piece->len;
	msg->flags = TW_MSG_WHOLE | (last ? TW_MSG_LAST : 0) |
	             (way == WAY_OUT ? TW_MSG_BACKWARD : 0);
	if (copy && from) {
		memcpy((char *)msg + msg->used, from + piece->at, piece->len);
		gate_count(lane->gate, GATE_COPIED, piece->len);
		msg->body[0] = (struct tw_body_block){ 0, msg->used, piece->len };
		msg->used += piece->len;
		drop_piece(lane, piece);
		*piece = (struct body_piece){ 0, msg->body[0].at, msg->body[0].len, false };
	} else if (from) {
		msg->body[0] = (struct tw_body_block){ piece->handle, piece->at, piece->len };
	}
	msg->n_body = from ? 1 : 0;
	if (trailers)
		trailers_put(msg, size, trailers);
	flow_mend(f, msg, size, handle, TW_MSG_DATA);
	d->out.handle = handle;
	d->out.retried = false;
	d->sent = *piece;
	d->end_sent = last;
	return 0;
}

static int first_function(const struct flow *f, int way)
{
	return way == WAY_IN ? function_from(f->lane->data, 0)
	                     : function_below(f->lane->data, TW_STAGES_MAX);
}

static void pass(struct flow *f, int way);

static void go(struct flow *f, int way)
{
	struct data *d = f->way[way].data;
	struct body *body = flow_body(f, way);
	struct body_piece piece = { 0 };
	uint64_t id = f->x.id;
	int function;

	if (!d->open || d->out.place != OUT_IDLE || d->staged.next < d->staged.n || d->reply ||
	    d->end_sent)
		return;
	if (body->broken) {
		for (; d->count; d->count--, d->first++)
			drop_piece(f->lane, &d->queue[d->first % FLOW_QUEUE]);
		return;
	}
	if (d->count) {
		piece = d->queue[d->first % FLOW_QUEUE];
		d->first = (d->first + 1) % FLOW_QUEUE;
		d->count--;
	} else if (!d->end) {
		return;
	}
	if (make(f, way, &piece, d->end && !d->count) < 0) {
		drop_piece(f->lane, &piece);
		flow_fail(f, 503, "no memory for a piece of a body");
		return;
	}
	function = first_function(f, way);
	if (function < 0)
		data_through(f, way, true);
	else
		flow_call(f, &d->out, function);
	/* There is room in the queue again. */
	if (!flow_lives(f, id) || f->way[way].data != d || d->end || !data_room(d))
		return;
	if (f->way[way].feeds)
		feed_more(f, way);
	else
		body_ask(body);
}

/* ---- and on ---- */

/* The message is through. `as_was`: no function is believed. */
void data_through(struct flow *f, int way, bool as_was)
{
	struct lane *lane = f->lane;
	struct data *d = f->way[way].data;
	tw_handle handle = d->out.handle;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, handle, &size);
	int err;

	if (as_was) {
		for (uint32_t i = 0; i < TW_BODY_BLOCKS_MAX; i++)
			if (msg->body[i].handle == d->sent.handle)
				msg->body[i].handle = 0;
		gather_forget(lane, handle); /* what they put there instead */
		memset(msg->body, 0, sizeof(msg->body));
		msg->n_body = d->sent.len ? 1 : 0;
		msg->body[0] = (struct tw_body_block){ d->sent.handle, d->sent.at, d->sent.len };
	}
	d->out.handle = 0;
	err = pieces_from(lane, msg, size, handle, true, &d->sent, 1, &d->staged);
	d->sent = (struct body_piece){ 0 };
	d->end_back = d->end_sent;
	if (err < 0) {
		flow_fail(f, 502, "a function left a piece of a body that is not valid");
		return;
	}
	pass(f, way);
}

static void pass(struct flow *f, int way)
{
	struct data *d = f->way[way].data;
	struct body *body = flow_body(f, way);
	uint64_t id = f->x.id;

	if (d->passing)
		return;
	d->passing = true;
	while (d->staged.next < d->staged.n && body_passes(body)) {
		body_pass(body, &d->staged.piece[d->staged.next++]);
		if (!flow_lives(f, id) || f->way[way].data != d)
			return;
	}
	d->passing = false;
	if (d->staged.next < d->staged.n && !body->broken)
		return;
	if (body->broken) {
		for (; d->staged.next < d->staged.n; d->staged.next++)
			drop_piece(f->lane, &d->staged.piece[d->staged.next]);
	}
	if (d->end_back) {
		d->end_back = false;
		body_pass_end(body);
	} else if (d->out.place == OUT_IDLE && !d->out.handle && (d->count || d->end)) {
		gate_later(f->lane->gate, &d->kick);
	}
}

/* ---- and back ---- */

/* Room behind what a function has left there, which stays in one piece. */
static bool takes_reply(const struct flow *f, int way)
{
	const struct body *body = way == WAY_IN ? &f->x.in : &f->x.out;
	const struct data *d = f->way[way].data;

	return body_passes(body) && !(d && d->staged.next < d->staged.n);
}

/* As much of the reply as there is room for; behind it the message goes on, or the next one comes.
 */
static void send_back(struct flow *f, int way)
{
	struct data *d = f->way[way].data;
	int other = way == WAY_IN ? WAY_OUT : WAY_IN;
	struct body *back = flow_body(f, other);
	uint64_t id = f->x.id;

	if (d->replying)
		return;
	d->replying = true;
	while (d->reply->next < d->reply->n && takes_reply(f, other)) {
		body_pass(back, &d->reply->piece[d->reply->next++]);
		if (!flow_lives(f, id) || f->way[way].data != d)
			return;
	}
	d->replying = false;
	/* Where that direction has come to its end there is nobody to tell. */
	if (d->reply->next < d->reply->n && !back->ended && !back->broken)
		return;
	pieces_free(f->lane, d->reply);
	d->reply = NULL;
	if (d->out.handle)
		flow_go_on(f, &d->out, d->replier);
	else
		pass(f, way);
}

/* What the message brings goes back to where the stream came from; nothing of it goes on, or what
 * the function has told apart. */
void data_reply(struct flow *f, int way, uint32_t function)
{
	struct lane *lane = f->lane;
	struct data *d = f->way[way].data;
	tw_handle handle = d->out.handle;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, handle, &size);
	int err;

	d->replier = function;
	d->reply = pieces_new();
	if (!d->reply) {
		flow_fail(f, 503, "no memory for a reply");
		return;
	}
	if (ONCE(msg->n_on)) {
		err = pieces_split(lane, msg, handle, d->reply);
	} else {
		d->out.handle = 0;
		err = pieces_from(lane, msg, size, handle, true, &d->sent, 1, d->reply);
		d->sent = (struct body_piece){ 0 };
		d->end_back = d->end_sent;
	}
	if (err < 0)
		flow_fail(f, 502, "a function left a reply that is not valid");
	else
		send_back(f, way);
}

void data_moved(struct flow *f, int way)
{
	int other = way == WAY_IN ? WAY_OUT : WAY_IN;
	uint64_t id = f->x.id;

	pass(f, way);
	if (flow_lives(f, id) && f->way[other].data && f->way[other].data->reply)
		send_back(f, other);
}

void data_free(struct flow *f, int way)
{
	struct data *d = f->way[way].data;
	struct lane *lane = f->lane;
	tw_handle handle;

	if (!d)
		return;
	f->way[way].data = NULL;
	gate_forget(lane->gate, &d->kick);
	handle = d->out.handle;
	out_cancel(f, &d->out);
	if (handle && d->out.handle) {
		/* Of functions of this thread, or what was to go on behind a reply. */
		gather_forget(lane, handle);
		tw_pool_free(lane->service->pool, handle, lane->gate->id);
	}
	pieces_free(lane, d->reply);
	if (d->sent.handle)
		drop_piece(lane, &d->sent);
	for (; d->count; d->count--, d->first++)
		drop_piece(lane, &d->queue[d->first % FLOW_QUEUE]);
	for (; d->staged.next < d->staged.n; d->staged.next++)
		drop_piece(lane, &d->staged.piece[d->staged.next]);
	free(d);
}
