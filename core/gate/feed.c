/* SPDX-License-Identifier: BSD-3-Clause */
/* feed.c - bodies that lie still go to who takes them: what was gathered, or set by a function.
 * What the producer sends meanwhile is kept behind it, or thrown away. */
#include "gate/lane.h"

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
	} else if (w->whole->n < sizeof(w->whole->piece) / sizeof(w->whole->piece[0])) {
		pieces_add(w->whole, piece);
	} else {
		piece_free(f->lane, piece);
		body_break(flow_body(f, way));
	}
}

static void filter_put(struct body *body, const struct body_piece *piece)
{
	struct flow *f = body->filtered;
	int way = body == &f->x.in ? WAY_IN : WAY_OUT;

	if (f->way[way].discards) {
		if (piece)
			piece_free(f->lane, piece);
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

	f->way[way].feeds = true;
	if (f->way[way].rest) {
		feed_more(f, way);
		return;
	}
	/* What the producer still sends is thrown away. */
	feed_discard(f, way);
	for (; body->count; body_pop(body))
		piece_free(f->lane, body_head(body));
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
