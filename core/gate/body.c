/* SPDX-License-Identifier: BSD-3-Clause */
/* body.c - bytes on their way between two connections or functions: a short queue of pieces, so
 * that who sends faster than the other takes must wait. */
#include "gate/flow.h"

#include <stdlib.h>

/* Callbacks call each other: room() puts, ready() takes. None is entered twice: what happens
 * meanwhile is noted, and it is called once more. Any of them may end the exchange, and with it the
 * body; so the notes are kept on the stack, and body_clear() writes there. */
struct frame {
	struct frame *outer;
	const struct body *body;
	bool ready, again, gone;
};
static _Thread_local struct frame *frames;

/* False: the exchange may be no more. */
static bool tell(struct body *body, bool ready)
{
	struct frame here = { .outer = frames, .body = body, .ready = ready, .again = true };
	void (*fn)(struct body *);
	struct frame *f;

	for (f = frames; f; f = f->outer) {
		if (f->body == body && f->ready == ready && !f->gone) {
			f->again = true;
			return true;
		}
	}
	frames = &here;
	while (!here.gone && here.again) {
		here.again = false;
		fn = ready ? body->ready : body->room;
		if (!fn)
			break;
		fn(body);
	}
	frames = here.outer;
	return !here.gone;
}

static bool tell_consumer(struct body *body)
{
	return !body->ready || tell(body, true);
}

static bool tell_producer(struct body *body)
{
	return !body->room || tell(body, false);
}

void body_ask(struct body *body)
{
	tell_producer(body);
}

/* Pieces were taken out. */
static void moved(struct body *body)
{
	if (body->filter)
		body->filter->used(body);
	else
		tell_producer(body);
}

bool body_passes(const struct body *body)
{
	return body->count < BODY_PIECES && !body->ended && !body->broken;
}

bool body_has_room(const struct body *body)
{
	return body->filter ? body->filter->room(body) : body_passes(body);
}

void body_pass(struct body *body, const struct body_piece *piece)
{
	body->piece[(body->first + body->count++) % BODY_PIECES] = *piece;
	tell_consumer(body);
}

void body_put(struct body *body, const struct body_piece *piece)
{
	body->came += piece->len;
	if (body->filter)
		body->filter->put(body, piece);
	else
		body_pass(body, piece);
}

void body_end(struct body *body)
{
	if (body->filter)
		body->filter->put(body, NULL);
	else
		body_pass_end(body);
}

void body_pass_end(struct body *body)
{
	if (body->ended || body->broken)
		return;
	body->ended = true;
	tell_consumer(body);
}

void body_break(struct body *body)
{
	if (body->broken)
		return;
	body->broken = true;
	if (tell_consumer(body))
		tell_producer(body);
}

const struct body_piece *body_head(const struct body *body)
{
	return body->count ? &body->piece[body->first % BODY_PIECES] : NULL;
}

const struct body_piece *body_nth(const struct body *body, uint32_t n)
{
	return n < body->count ? &body->piece[(body->first + n) % BODY_PIECES] : NULL;
}

uint64_t body_there(const struct body *body)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < body->count; i++)
		sum += body_nth(body, i)->len;
	return sum;
}

void body_pop(struct body *body)
{
	body->first = (body->first + 1) % BODY_PIECES;
	body->count--;
}

static void release(struct exchange *x, const struct body_piece *piece)
{
	if (piece->frees)
		tw_pool_free(x->service->pool, piece->handle, x->gate->id);
}

void body_used(struct exchange *x, struct body *body, uint32_t bytes)
{
	bool popped = false;

	while (body->count) {
		struct body_piece *head = &body->piece[body->first % BODY_PIECES];

		if (bytes < head->len) {
			head->at += bytes;
			head->len -= bytes;
			body->went += bytes;
			break;
		}
		bytes -= head->len;
		body->went += head->len;
		release(x, head);
		body_pop(body);
		popped = true;
	}
	if (popped)
		moved(body);
}

bool body_take(struct body *body, struct body_piece *piece)
{
	if (!body->count)
		return false;
	*piece = *body_head(body);
	body->went += piece->len;
	body_pop(body);
	moved(body);
	return true;
}

void body_clear(struct exchange *x, struct body *body)
{
	struct frame *f;

	for (; body->count; body_pop(body))
		release(x, body_head(body));
	for (f = frames; f; f = f->outer)
		if (f->body == body)
			f->gone = true;
	free(body->trailers);
	*body = (struct body){ 0 };
}
