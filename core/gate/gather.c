/* SPDX-License-Identifier: BSD-3-Clause */
/* gather.c - bodies that are whole: gathered for functions that want them so, checked when
 * functions set them, and fed to who takes them afterwards. */
#include "gate/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TAIL_LEAST (64u << 10)
#define TAIL_MOST (1u << 20)

struct pieces *pieces_new(void)
{
	struct pieces *pieces = malloc(sizeof(*pieces));

	if (pieces)
		pieces->n = pieces->next = pieces->room = 0, pieces->bytes = 0;
	return pieces;
}

static void pieces_drop(struct lane *lane, struct pieces *pieces)
{
	for (; pieces->next < pieces->n; pieces->next++)
		if (pieces->piece[pieces->next].frees)
			tw_pool_free(lane->service->pool, pieces->piece[pieces->next].handle,
			             lane->gate->id);
}

void pieces_free(struct lane *lane, struct pieces *pieces)
{
	if (pieces)
		pieces_drop(lane, pieces);
	free(pieces);
}

/* ---- gathering ---- */

/* A block for what follows, as large as is thought to be needed, smaller when there is none. */
static int tail_new(struct flow *f, struct pieces *to, uint64_t expected)
{
	struct lane *lane = f->lane;
	uint64_t want = expected == UINT64_MAX ? (to->n ? TAIL_MOST : TAIL_LEAST)
	                                       : expected - to->bytes;
	uint32_t size = 0;
	tw_handle handle = 0;

	want = want > TAIL_MOST ? TAIL_MOST : want < 4096 ? 4096 : want;
	for (; !handle && want >= 4096; want /= 4)
		handle = tw_pool_new(lane->service->pool, want, lane->gate->id);
	if (!handle || to->n == TW_BODY_BLOCKS_MAX) {
		if (handle)
			tw_pool_free(lane->service->pool, handle, lane->gate->id);
		gate_count(lane->gate, GATE_NO_BLOCK, 1);
		return -ENOBUFS;
	}
	tw_pool_peek(lane->service->pool, handle, &size);
	to->piece[to->n++] = (struct body_piece){ .handle = handle, .frees = true };
	to->room = size;
	return 0;
}

/* On failure, `from` is what was not copied. */
static int copy_in(struct flow *f, struct pieces *to, struct body_piece *from, uint64_t expected)
{
	struct tw_pool *pool = f->lane->service->pool;
	const char *bytes = tw_pool_peek(pool, from->handle, NULL);
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
		memcpy((char *)tw_pool_peek(pool, tail->handle, NULL) + tail->len,
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
		to->piece[to->n++] = *piece;
		to->bytes += piece->len;
		return 0;
	} else
		err = copy_in(f, to, piece, expected);
	if (err == 0 && piece->frees)
		tw_pool_free(f->lane->service->pool, piece->handle, f->lane->gate->id);
	return err;
}

static void gather_failed(struct flow *f, int err)
{
	if (err == -EFBIG)
		flow_refuse(f, TW_STAGES_MAX, 413, "the body is larger than functions take");
	else
		flow_refuse(f, TW_STAGES_MAX, 503, "no memory for a whole body");
}

static void append(struct pieces *to, const struct body_piece *piece)
{
	to->piece[to->n++] = *piece;
	to->bytes += piece->len;
}

static bool is_full(const struct pieces *pieces)
{
	return pieces->n == sizeof(pieces->piece) / sizeof(pieces->piece[0]);
}

/* A response that cannot be whole goes on without its body, which follows untouched: what was
 * gathered, this piece, what waits, and then what still comes. */
static void let_pass(struct flow *f, const struct body_piece *piece)
{
	struct way *w = &f->way[WAY_OUT];
	struct body *body = &f->x.out;

	append(w->whole, piece);
	for (; body->count; body->count--) {
		append(w->whole, body_head(body));
		body->first = (body->first + 1) % BODY_PIECES;
	}
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

static void gather_ready(struct body *body)
{
	struct flow *f = body->consumer;
	int way = body == &f->x.in ? WAY_IN : WAY_OUT, err;
	uint64_t id = f->x.id, expected = way == WAY_IN ? f->x.in_len : f->x.out_len;
	struct body_piece piece;

	while (body->count) {
		piece = *body_head(body);
		err = gather_add(f, f->way[way].whole, &piece, expected);
		body->first = (body->first + 1) % BODY_PIECES;
		body->count--;
		if (err < 0 && way == WAY_OUT) {
			let_pass(f, &piece);
			return;
		}
		if (err < 0) {
			if (piece.frees)
				tw_pool_free(f->lane->service->pool, piece.handle,
				             f->lane->gate->id);
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
	else if (!(f->way[way].whole = pieces_new()))
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

/* ---- what functions say of bodies ---- */

/* Is it a block the gate can count as its own from here on? */
bool lane_own(struct lane *lane, tw_handle handle)
{
	struct tw_pool *pool = lane->service->pool;
	uint64_t word;

	if (lane->link)
		return tw_pool_take(pool, handle, lane->gate->id) == 0;
	/* Functions of this thread name what is the thread's. */
	if (!tw_pool_peek(pool, handle, NULL))
		return false;
	word = tw_pool_word(pool, TW_HANDLE_INDEX(handle));
	return TW_OWNER_OF(word) == lane->gate->id && TW_STATE_OF(word) == TW_BLOCK_HELD;
}

/* Blocks of a body, each once. */
struct blocks {
	uint32_t n;
	/* those that were lent, those of the message, its own */
	tw_handle handle[TW_BODY_BLOCKS_MAX * 2 + BODY_PIECES + 2];
};

static bool known(const struct blocks *blocks, tw_handle handle)
{
	uint32_t i;

	for (i = 0; i < blocks->n; i++)
		if (blocks->handle[i] == handle)
			return true;
	return false;
}

static bool was_lent(const struct body_piece *lent, uint32_t n, tw_handle handle)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (lent[i].handle == handle)
			return true;
	return false;
}

/* Who uses a block last frees it; those that nobody uses are freed now. */
static void settle(struct lane *lane, const struct blocks *blocks, struct pieces *to)
{
	uint32_t i, j;

	for (i = 0; i < blocks->n; i++) {
		for (j = to->n; j > 0; j--)
			if (to->piece[j - 1].handle == blocks->handle[i])
				break;
		if (j > 0)
			to->piece[j - 1].frees = true;
		else
			tw_pool_free(lane->service->pool, blocks->handle[i], lane->gate->id);
	}
}

int pieces_from(struct lane *lane, struct tw_msg *msg, uint32_t size, tw_handle self,
                bool self_frees, const struct body_piece *lent, uint32_t n_lent, struct pieces *to)
{
	struct tw_pool *pool = lane->service->pool;
	struct blocks blocks = { 0 };
	uint32_t n = ONCE(msg->n_body), i, room;
	int err = n > TW_BODY_BLOCKS_MAX ? -EPROTO : 0;

	for (i = 0; i < n_lent; i++)
		if (lent[i].frees && !known(&blocks, lent[i].handle))
			blocks.handle[blocks.n++] = lent[i].handle;
	to->n = to->next = to->room = 0, to->bytes = 0;
	for (i = 0; i < TW_BODY_BLOCKS_MAX; i++) {
		struct tw_body_block entry = { ONCE(msg->body[i].handle), ONCE(msg->body[i].at),
			                       ONCE(msg->body[i].len) };

		if (i >= n && !entry.handle)
			continue;
		if (entry.handle && entry.handle != self && !known(&blocks, entry.handle) &&
		    !was_lent(lent, n_lent, entry.handle)) {
			if (!lane_own(lane, entry.handle)) {
				err = i < n ? -EPERM : err;
				continue;
			}
			blocks.handle[blocks.n++] = entry.handle;
		}
		if (i >= n || err < 0 || entry.len == 0)
			continue;
		if (!entry.handle || entry.handle == self)
			entry.handle = self, room = size;
		else if (!tw_pool_peek(pool, entry.handle, &room))
			room = 0;
		if (entry.at > room || entry.len > room - entry.at) {
			err = -EPROTO;
			continue;
		}
		to->piece[to->n++] = (struct body_piece){ entry.handle, entry.at, entry.len,
			                                  false };
		to->bytes += entry.len;
	}
	if (err < 0)
		to->n = 0, to->bytes = 0;
	if (self_frees)
		blocks.handle[blocks.n++] = self;
	settle(lane, &blocks, to);
	return err;
}

void gather_forget(struct lane *lane, tw_handle handle)
{
	const struct tw_msg *msg = tw_pool_peek(lane->service->pool, handle, NULL);
	uint32_t flags = msg ? ONCE(msg->flags) : 0, i;
	uint8_t kind = msg ? ONCE(msg->kind) : 0;

	if (!(flags & TW_MSG_EDITED))
		return;
	/* Only their heads were. */
	if ((kind == TW_MSG_REQUEST || kind == TW_MSG_RESPONSE) &&
	    !(flags & (TW_MSG_WHOLE | TW_MSG_NO_BODY)))
		return;
	for (i = 0; i < TW_BODY_BLOCKS_MAX; i++) {
		tw_handle block = ONCE(msg->body[i].handle);

		if (block && block != handle && lane_own(lane, block))
			tw_pool_free(lane->service->pool, block, lane->gate->id);
	}
}

int gather_adopt(struct flow *f, int way, struct tw_msg *msg, uint32_t size, tw_handle self)
{
	struct lane *lane = f->lane;
	struct way *w = &f->way[way];
	struct pieces *old = w->whole, *new;
	uint32_t flags = ONCE(msg->flags);
	uint64_t *len = way == WAY_IN ? &f->x.in_len : &f->x.out_len;
	int err;

	if (!(flags & (TW_MSG_WHOLE | TW_MSG_NO_BODY)))
		return 0;
	new = pieces_new();
	if (!new)
		return -ENOMEM;
	if (flags & TW_MSG_NO_BODY)
		msg->n_body = 0;
	err = pieces_from(lane, msg, size, self, false, old ? old->piece : NULL, old ? old->n : 0,
	                  new);
	if (old && old->n && err == 0 && new->n == 0 && !(flags & TW_MSG_NO_BODY))
		new->bytes = 0;
	free(old); /* its blocks are in the new one, or freed */
	w->whole = new;
	w->rest = false;
	*len = new->bytes;
	if (way == WAY_IN)
		f->x.body_expected = !(flags & TW_MSG_NO_BODY);
	else
		f->x.body_back = !(flags & TW_MSG_NO_BODY) && !f->x.head, f->x.made = true;
	return err;
}

/* ---- feeding ---- */

static bool filter_room(const struct body *body)
{
	const struct flow *f = body->filtered;
	const struct way *w = &f->way[body == &f->x.in ? WAY_IN : WAY_OUT];

	if (w->discards)
		return !body->broken;
	if (w->rest)
		return false;
	return w->data ? data_room(w->data) && !body->broken : body_passes(body);
}

/* Producers do not ask before they end, and the first pieces behind a head just come. */
static void put_rest(struct flow *f, int way, const struct body_piece *piece)
{
	struct way *w = &f->way[way];

	if (!piece) {
		w->rest_ends = true;
	} else if (!is_full(w->whole)) {
		append(w->whole, piece);
	} else {
		if (piece->frees)
			tw_pool_free(f->lane->service->pool, piece->handle, f->lane->gate->id);
		body_break(flow_body(f, way));
	}
}

static void filter_put(struct body *body, const struct body_piece *piece)
{
	struct flow *f = body->filtered;
	int way = body == &f->x.in ? WAY_IN : WAY_OUT;

	if (f->way[way].discards) {
		if (piece && piece->frees)
			tw_pool_free(f->lane->service->pool, piece->handle, f->lane->gate->id);
	} else if (f->way[way].rest) {
		put_rest(f, way, piece);
	} else if (f->way[way].data) {
		data_put(f, way, piece);
	} else if (piece) {
		body_pass(body, piece);
	} else {
		body_pass_end(body);
	}
}

static void filter_used(struct body *body)
{
	struct flow *f = body->filtered;
	int way = body == &f->x.in ? WAY_IN : WAY_OUT;

	if (f->way[way].data)
		data_moved(f, way);
	else if (f->way[way].feeds)
		feed_more(f, way);
	else
		body_ask(body);
}

const struct body_filter flow_filter = { filter_room, filter_put, filter_used };

void feed_discard(struct flow *f, int way)
{
	struct body *body = flow_body(f, way);

	f->way[way].discards = true;
	body->filter = &flow_filter;
	body->filtered = f;
}

void feed_begin(struct flow *f, int way)
{
	struct body *body = flow_body(f, way);
	struct body_piece piece;

	f->way[way].feeds = true;
	if (f->way[way].rest) {
		feed_more(f, way);
		return;
	}
	/* What the producer still sends is thrown away. */
	feed_discard(f, way);
	if (body->ready == gather_ready)
		body->ready = NULL;
	while (body->count && (piece = *body_head(body), true)) {
		if (piece.frees)
			tw_pool_free(f->lane->service->pool, piece.handle, f->lane->gate->id);
		body->first = (body->first + 1) % BODY_PIECES;
		body->count--;
	}
	body->ended = false;
	feed_more(f, way);
}

void feed_more(struct flow *f, int way)
{
	struct way *w = &f->way[way];
	struct body *body = flow_body(f, way);
	uint64_t id = f->x.id;

	if (!w->feeds || w->feeding)
		return;
	w->feeding = true;
	while (w->whole->next < w->whole->n && !body->broken &&
	       (w->data ? data_room(w->data) : body_passes(body))) {
		const struct body_piece *piece = &w->whole->piece[w->whole->next++];

		if (w->data)
			data_put(f, way, piece);
		else
			body_pass(body, piece);
		if (!flow_lives(f, id) || !w->feeds)
			return;
	}
	w->feeding = false;
	if (w->whole->next < w->whole->n || body->broken)
		return;
	w->feeds = false;
	if (w->rest && !w->rest_ends) {
		w->rest = false;
		body_ask(body);
		return;
	}
	w->rest = false;
	if (w->data)
		data_put(f, way, NULL);
	else
		body_pass_end(body);
}
