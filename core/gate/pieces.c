/* SPDX-License-Identifier: BSD-3-Clause */
/* pieces.c - what functions say of bodies: the pieces that a message names, each checked, whose
 * their blocks are, and who frees them. */
#include "gate/http.h"
#include "gate/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pieces *pieces_new(void)
{
	struct pieces *pieces = malloc(sizeof(*pieces));

	if (pieces)
		pieces->n = pieces->next = pieces->room = 0, pieces->bytes = 0;
	return pieces;
}

void piece_free(struct lane *lane, const struct body_piece *piece)
{
	if (piece->frees)
		tw_pool_free(lane->service->pool, piece->handle, lane->gate->id);
}

void pieces_free(struct lane *lane, struct pieces *pieces)
{
	for (; pieces && pieces->next < pieces->n; pieces->next++)
		piece_free(lane, &pieces->piece[pieces->next]);
	free(pieces);
}

void pieces_add(struct pieces *to, const struct body_piece *piece)
{
	to->piece[to->n++] = *piece;
	to->bytes += piece->len;
}

/* ---- what a message names ---- */

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

int pieces_split(struct lane *lane, struct tw_msg *msg, tw_handle self, struct pieces *to)
{
	uint32_t n = ONCE(msg->n_body), on = ONCE(msg->n_on), i, room;

	to->n = to->next = to->room = 0, to->bytes = 0;
	if (n > TW_BODY_BLOCKS_MAX || on > n)
		return -EPROTO;
	for (i = 0; i < n - on; i++) {
		struct body_piece piece = { ONCE(msg->body[i].handle), ONCE(msg->body[i].at),
			                    ONCE(msg->body[i].len), true };

		if (!piece.handle || piece.handle == self || !lane_own(lane, piece.handle))
			return -EPERM;
		if (!tw_pool_peek(lane->service->pool, piece.handle, &room))
			room = 0;
		if (piece.at <= room && piece.len && piece.len <= room - piece.at) {
			pieces_add(to, &piece);
			continue;
		}
		piece_free(lane, &piece);
		if (piece.len)
			return -EPROTO;
	}
	memmove(&msg->body[0], &msg->body[i], (TW_BODY_BLOCKS_MAX - i) * sizeof(msg->body[0]));
	memset(&msg->body[TW_BODY_BLOCKS_MAX - i], 0, i * sizeof(msg->body[0]));
	msg->n_body = on;
	msg->n_on = 0;
	return 0;
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

bool trailers_put(struct tw_msg *msg, uint32_t size, const struct http_trailers *trailers)
{
	uint32_t at = ONCE(msg->used), len = trailers->len - HTTP_TRAILERS_AT - 2;

	if (at > size || size - at < len)
		return false;
	memcpy((char *)msg + at, trailers->text + HTTP_TRAILERS_AT, len);
	msg->trailers = (struct tw_text){ at, len };
	msg->used = at + len;
	return true;
}

/* A function that sets the body sets it without them: they may be sums of what was there. */
static void adopt_trailers(struct body *body, const struct tw_msg *msg)
{
	if (ONCE(msg->trailers.len))
		return;
	free(body->trailers);
	body->trailers = NULL;
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
	adopt_trailers(flow_body(f, way), msg);
	*len = new->bytes;
	if (way == WAY_IN)
		f->x.body_expected = !(flags & TW_MSG_NO_BODY);
	else
		f->x.body_back = !(flags & TW_MSG_NO_BODY) && !f->x.head, f->x.made = true;
	return err;
}
