/* SPDX-License-Identifier: BSD-3-Clause */
/* fetch.c - what functions ask servers for while they hold a message: an exchange of its own,
 * without functions, whose answer goes back to the very instance that waits. */
#include "gate/lane.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MOST (1u << 20) /* an answer is one block */
#define ANSWER_FIRST (16u << 10)

struct fetch {
	struct fetch *next;
	struct flow *parent, *own;
	tw_handle waits; /* the message that is held meanwhile */
	uint32_t member; /* who holds it */
	int32_t group;
	uint32_t key;
	tw_handle answer; /* the block that is filled, or waits for its way back */
	uint32_t size, head, len;
};

static const struct exchange_client fetch_client;

/* ---- answers ---- */

static void unlink_fetch(struct fetch *fetch)
{
	struct fetch **at = &fetch->parent->fetches;

	while (*at != fetch)
		at = &(*at)->next;
	*at = fetch->next;
	fetch->parent->n_fetches--;
}

/* An answer that found its receiver's queue full. */
struct answer {
	struct answer *next;
	tw_handle handle;
	uint32_t member;
};

static void keep(struct lane *lane, uint32_t member, tw_handle handle)
{
	struct answer *answer = malloc(sizeof(*answer));

	if (!answer) {
		tw_pool_free(lane->service->pool, handle, lane->gate->id);
		return;
	}
	*answer = (struct answer){ lane->answers, handle, member };
	lane->answers = answer;
	patrol_on(lane);
}

/* False: its queue is full. */
static bool send_direct(struct lane *lane, uint32_t member, tw_handle handle)
{
	struct tw_desc desc = { .handle = handle, .exit = TW_EXIT_NEXT, .gate = lane->gate->id };
	int n = tw_link_direct(lane->link, member, &desc, 1);

	if (n == -EAGAIN)
		return false;
	if (n != 1)
		tw_pool_free(lane->service->pool, handle, lane->gate->id);
	return true;
}

static void send_answer(struct lane *lane, uint32_t member, tw_handle handle)
{
	if (!lane->link) {
		inline_answered(lane->gate, lane->service, handle);
		tw_pool_free(lane->service->pool, handle, lane->gate->id);
	} else if (!send_direct(lane, member, handle)) {
		keep(lane, member, handle);
	}
}

void fetch_again(struct lane *lane)
{
	struct answer **at = &lane->answers, *answer;

	while ((answer = *at)) {
		if (!send_direct(lane, answer->member, answer->handle)) {
			at = &answer->next;
			continue;
		}
		*at = answer->next;
		free(answer);
	}
}

void fetch_forget(struct lane *lane, uint32_t member)
{
	struct answer **at = &lane->answers, *answer;

	while ((answer = *at)) {
		if (member != UINT32_MAX && answer->member != member) {
			at = &answer->next;
			continue;
		}
		tw_pool_free(lane->service->pool, answer->handle, lane->gate->id);
		*at = answer->next;
		free(answer);
	}
}

/* The fetch is no more; the block of its request is the caller's, when it wants it. */
static tw_handle finish_fetch(struct fetch *fetch, bool wants_block)
{
	struct flow *own = fetch->own;
	tw_handle block = 0;

	unlink_fetch(fetch);
	if (own) {
		if (own->x.upstream)
			upstream_cancel(&own->x);
		if (wants_block) {
			block = own->x.request;
			own->x.request = 0;
		}
		own->fetch = NULL;
		flow_free(own);
	}
	free(fetch);
	return block;
}

/* The answer is made: the exchange ends, then whoever waits goes on. */
static void deliver(struct fetch *fetch)
{
	struct flow *parent = fetch->parent;
	struct lane *lane = parent->lane;
	tw_handle answer = fetch->answer;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, answer, NULL);
	uint32_t member = fetch->member;

	msg->magic = TW_MSG_MAGIC;
	msg->kind = TW_MSG_ANSWER;
	msg->gate = lane->gate->id;
	msg->size = fetch->size;
	msg->self = answer;
	msg->request = fetch->waits;
	msg->exchange = parent->x.number;
	msg->id = parent->x.id;
	msg->verdict = TW_V_NONE;
	msg->answer = 0;
	finish_fetch(fetch, false);
	send_answer(lane, member, answer);
}

/* Nothing answered; `why` says it to the function. The request's block is there for that, however
 * empty the pool is. */
static void deliver_failure(struct fetch *fetch, int status, const char *why)
{
	struct flow *parent = fetch->parent;
	struct lane *lane = parent->lane;
	struct tw_pool *pool = lane->service->pool;
	tw_handle waits = fetch->waits, block;
	uint32_t member = fetch->member, size = 0;
	uint64_t id = parent->x.id, len = strlen(why);
	uint32_t number = parent->x.number;
	struct tw_msg *msg;

	if (fetch->answer)
		tw_pool_free(pool, fetch->answer, lane->gate->id);
	block = finish_fetch(fetch, true);
	msg = block ? tw_pool_block(pool, block, &size) : NULL;
	if (!msg)
		return;
	len = len < 200 ? len : 200;
	*msg = (struct tw_msg){ .magic = TW_MSG_MAGIC,
		                .kind = TW_MSG_ANSWER,
		                .version = 1,
		                .gate = lane->gate->id,
		                .flags = TW_MSG_NO_BODY,
		                .size = size,
		                .exchange = number,
		                .id = id,
		                .self = block,
		                .request = waits,
		                .status = status >= 502 && status <= 504 ? status : 502,
		                .why = { sizeof(*msg), len },
		                .used = sizeof(*msg) + len };
	memcpy(msg + 1, why, len);
	msg->headers = (msg->used + 7) & ~7u;
	send_answer(lane, member, block);
}

/* ---- what comes back ---- */

/* Room for so many bytes of the body in the answer's block. */
static int reserve(struct fetch *fetch, uint64_t bytes)
{
	struct lane *lane = fetch->parent->lane;
	struct tw_pool *pool = lane->service->pool;
	uint64_t want = fetch->head + fetch->len + bytes;
	tw_handle larger;
	uint32_t size = 0;

	if (want <= fetch->size)
		return 0;
	if (want > ANSWER_MOST)
		return -EFBIG;
	if (want < ANSWER_MOST / 4 && fetch->len)
		want *= 4;
	larger = tw_pool_new(pool, want, lane->gate->id);
	if (!larger) {
		gate_count(lane->gate, GATE_NO_BLOCK, 1);
		return -ENOBUFS;
	}
	memcpy(tw_pool_block(pool, larger, &size), tw_pool_block(pool, fetch->answer, NULL),
	       fetch->head + fetch->len);
	tw_pool_free(pool, fetch->answer, lane->gate->id);
	fetch->answer = larger;
	fetch->size = size;
	return 0;
}

static int append(struct fetch *fetch, const struct body_piece *piece)
{
	struct lane *lane = fetch->parent->lane;
	struct tw_pool *pool = lane->service->pool;
	const char *from = tw_pool_block(pool, piece->handle, NULL);
	int err = from ? reserve(fetch, piece->len) : -ESTALE;

	if (!err) {
		memcpy((char *)tw_pool_block(pool, fetch->answer, NULL) + fetch->head + fetch->len,
		       from + piece->at, piece->len);
		fetch->len += piece->len;
		gate_count(lane->gate, GATE_COPIED, piece->len);
	}
	if (piece->frees)
		tw_pool_free(pool, piece->handle, lane->gate->id);
	return err;
}

static void finish(struct fetch *fetch)
{
	struct tw_msg *msg = tw_pool_block(fetch->parent->lane->service->pool, fetch->answer, NULL);

	msg->flags = (msg->flags & TW_MSG_BODY) | TW_MSG_WHOLE;
	msg->body_len = fetch->len;
	msg->n_body = fetch->len ? 1 : 0;
	msg->body[0] = (struct tw_body_block){ 0, fetch->head, fetch->len };
	msg->used = fetch->head + fetch->len;
	deliver(fetch);
}

static void answer_ready(struct body *body)
{
	struct flow *own = body->consumer;
	struct fetch *fetch = own->fetch;
	struct body_piece piece;
	uint64_t id = own->x.id;
	int err;

	while (flow_lives(own, id) && own->fetch == fetch && body->count) {
		piece = *body_head(body);
		body_pop(body);
		err = append(fetch, &piece);
		if (err < 0) {
			deliver_failure(fetch, 502,
			                err == -EFBIG ? "the answer is too large"
			                              : "no memory for the answer");
			return;
		}
		body_ask(body);
	}
	if (!flow_lives(own, id) || own->fetch != fetch)
		return;
	if (body->ended)
		finish(fetch);
	else if (body->broken)
		deliver_failure(fetch, 502, "the answer ended early");
}

static void fetch_respond(struct exchange *x)
{
	struct fetch *fetch = flow_of(x)->fetch;
	struct lane *lane = fetch->parent->lane;
	struct tw_pool *pool = lane->service->pool;
	uint32_t size = 0;
	struct tw_msg *resp = x->response ? tw_pool_block(pool, x->response, &size) : NULL;

	if (!resp || x->status == 101 || resp->used > size) {
		deliver_failure(fetch, 502, "an answer that is none to a request of a function");
		return;
	}
	/* The answer has the head's layout; the body comes behind it. */
	fetch->head = (resp->used + 63) & ~63u;
	if (resp->headers + (uint64_t)resp->max_headers * sizeof(struct tw_header) > fetch->head)
		fetch->head = (resp->headers + resp->max_headers * sizeof(struct tw_header) + 63) &
		              ~63u;
	if (fetch->head > size)
		fetch->head = size;
	fetch->answer = tw_pool_new(pool,
	                            fetch->head + (x->out_len < ANSWER_MOST - fetch->head
	                                                   ? x->out_len
	                                                   : ANSWER_FIRST),
	                            lane->gate->id);
	if (!fetch->answer) {
		gate_count(lane->gate, GATE_NO_BLOCK, 1);
		deliver_failure(fetch, 503, "no memory for the answer");
		return;
	}
	memcpy(tw_pool_block(pool, fetch->answer, &fetch->size), resp, fetch->head);
	x->out.consumer = flow_of(x);
	x->out.ready = answer_ready;
	if (x->body_back)
		answer_ready(&x->out);
	else
		finish(fetch);
}

static void fetch_fail(struct exchange *x, int status, const char *why)
{
	struct fetch *fetch = flow_of(x)->fetch;

	if (fetch)
		deliver_failure(fetch, status, why);
}

static void fetch_close(struct exchange *x)
{
	fetch_fail(x, 502, "closed");
}

static const struct exchange_client fetch_client = {
	.name = "fetch",
	.respond = fetch_respond,
	.fail = fetch_fail,
	.close = fetch_close,
};

/* ---- beginning ---- */

/* Who waits: the owner of the message that the fetch is for. */
static bool waiting(struct flow *parent, tw_handle waits, uint32_t *member)
{
	struct lane *lane = parent->lane;
	struct tw_pool *pool = lane->service->pool;
	bool held = parent->head.handle == waits && parent->head.place >= OUT_AWAY;
	uint64_t word;

	for (int way = 0; way < WAYS && !held; way++) {
		struct data *d = parent->way[way].data;

		held = d && d->out.handle == waits && d->out.place >= OUT_AWAY;
	}
	if (!held || !tw_pool_peek(pool, waits, NULL))
		return false;
	word = tw_pool_word(pool, TW_HANDLE_INDEX(waits));
	*member = TW_OWNER_OF(word);
	return lane->link ? *member >= TW_GATES_MAX : *member == lane->gate->id;
}

void fetch_begin(struct lane *lane, struct flow *parent, tw_handle request)
{
	struct tw_msg *msg = tw_pool_block(lane->service->pool, request, NULL);
	tw_handle waits = ONCE(msg->request);
	struct fetch *fetch = NULL;
	uint32_t member;

	if (parent && parent->lane == lane && !parent->failed && !parent->fetch &&
	    parent->n_fetches < FLOW_FETCHES_MAX && waiting(parent, waits, &member))
		fetch = calloc(1, sizeof(*fetch));
	if (!fetch) {
		lane->strays++;
		lane->stray = true;
		tw_pool_free(lane->service->pool, request, lane->gate->id);
		return;
	}
	fetch->parent = parent;
	fetch->waits = waits;
	fetch->member = member;
	fetch->group = ONCE(msg->group);
	fetch->key = ONCE(msg->key);
	fetch->next = parent->fetches;
	parent->fetches = fetch;
	parent->n_fetches++;
	msg->received_ns = lane->gate->now;
	fetch->own = flow_new(lane, &fetch_client, NULL, request);
	if (!fetch->own) {
		finish_fetch(fetch, false);
		tw_pool_free(lane->service->pool, request, lane->gate->id);
		flow_fail(parent, 503, "too much is under way");
		return;
	}
	fetch->own->fetch = fetch;
	fetch->own->kind = TW_MSG_REQUEST;
	fetch->own->starting = true;
	TAILQ_INSERT_TAIL(&lane->starts, fetch->own, starts);
	gate_later(lane->gate, &lane->start);
}

void fetch_go(struct flow *f)
{
	struct exchange *x = &f->x;
	struct fetch *fetch = f->fetch;
	struct lane *lane = f->lane;
	uint32_t size = 0;
	struct tw_msg *msg = tw_pool_block(lane->service->pool, x->request, &size);

	x->state = X_UPSTREAM;
	x->group = fetch->group;
	x->upgrade = false;
	x->out_len = UINT64_MAX;
	if (gather_adopt(f, WAY_IN, msg, size, x->request) < 0)
		deliver_failure(fetch, 502, "the body of the request is not valid");
	else if (fetch->group < 0 || fetch->group >= TW_GROUPS_MAX || !x->gate->group[fetch->group])
		deliver_failure(fetch, 502, "there is no such group of servers");
	else {
		x->body_expected = f->way[WAY_IN].whole && f->way[WAY_IN].whole->n;
		if (f->way[WAY_IN].whole)
			feed_begin(f, WAY_IN);
		upstream_begin(x, fetch->group, fetch->key);
	}
}

void flow_inline_fetch(struct gate *gate, struct service *service, tw_handle fetch)
{
	struct lane *lane = service->lane[gate->id];
	struct tw_msg *msg = tw_pool_peek(service->pool, fetch, NULL);

	if (msg)
		fetch_begin(lane, flow_find(gate, ONCE(msg->exchange)), fetch);
}

/* ---- the end ---- */

/* Instances that wait must hear of it, or they would wait for ever. */
void fetch_cancel(struct flow *parent)
{
	while (parent->fetches) {
		if (parent->lane->link && !parent->lane->leaving) {
			deliver_failure(parent->fetches, 504, "the request was given up");
			continue;
		}
		if (parent->fetches->answer)
			tw_pool_free(parent->lane->service->pool, parent->fetches->answer,
			             parent->lane->gate->id);
		finish_fetch(parent->fetches, false);
	}
}

void fetch_member_gone(struct flow *parent, uint32_t member)
{
	struct fetch *fetch = parent->fetches, *next;

	for (; fetch; fetch = next) {
		next = fetch->next;
		if (fetch->member != member)
			continue;
		if (fetch->answer)
			tw_pool_free(parent->lane->service->pool, fetch->answer,
			             parent->lane->gate->id);
		finish_fetch(fetch, false);
	}
}
