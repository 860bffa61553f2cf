/* SPDX-License-Identifier: BSD-3-Clause */
/* own.c - the gate's own answers to requests that functions have seen: responses like those of
 * servers, so that functions write them down, add headers, or have something better. */
#include "gate/http.h"
#include "gate/lane.h"

#include <stdio.h>
#include <string.h>

#define OWN_BYTES 8192 /* of a block: functions write into the rest */
#define OWN_HEADERS 32 /* room in the table */

/* ---- the message ---- */

static struct tw_text put(struct tw_msg *msg, const char *text)
{
	struct tw_text at = { msg->used, (uint32_t)strlen(text) };

	memcpy((char *)msg + at.at, text, at.len);
	msg->used += at.len;
	return at;
}

/* 0: there is no block. The body is `body`. */
static tw_handle make(struct flow *f, int status, const char *why, struct body_piece *body)
{
	static const char type[] = "content-type";
	struct tw_pool *pool = f->lane->service->pool;
	tw_handle handle = tw_pool_new(pool, OWN_BYTES, f->lane->gate->id);
	uint32_t size = 0;
	struct tw_msg *msg = handle ? tw_pool_block(pool, handle, &size) : NULL;
	struct tw_header *header;
	char text[256];

	if (!msg) {
		gate_count(f->lane->gate, GATE_NO_BLOCK, 1);
		return 0;
	}
	memset(msg, 0, sizeof(*msg));
	msg->version = 1;
	msg->status = (uint16_t)status;
	msg->flags = TW_MSG_BODY | TW_MSG_WHOLE;
	msg->listener = f->x.listener;
	msg->received_ns = f->lane->gate->now;
	msg->wall_ns = gate_wall(f->lane->gate);
	msg->retries = (uint8_t)(f->x.attempts ? f->x.attempts - 1 : 0);
	msg->headers = (sizeof(*msg) + 7) & ~7u;
	msg->max_headers = OWN_HEADERS;
	msg->used = msg->headers + OWN_HEADERS * sizeof(struct tw_header);
	header = (struct tw_header *)((char *)msg + msg->headers);
	*header = (struct tw_header){ .hash = tw_header_hash(type, sizeof(type) - 1) };
	header->name = put(msg, "Content-Type");
	header->value = put(msg, "text/plain; charset=utf-8");
	msg->n_headers = 1;
	snprintf(text, sizeof(text), "%d %s: %s\n", status, http_reason(status), why);
	msg->body[0].at = msg->used;
	msg->body[0].len = put(msg, text).len;
	msg->n_body = 1;
	msg->body_len = msg->body[0].len;
	*body = (struct body_piece){ handle, msg->body[0].at, msg->body[0].len, false };
	flow_mend(f, msg, size, handle, TW_MSG_RESPONSE);
	return handle;
}

/* Functions can see it: there are some, and the request they would ask about is in our hands. */
static bool seen(const struct flow *f, uint32_t below)
{
	const struct exchange *x = &f->x;

	return !f->failed && !f->own && !x->responded && !f->fetch && f->kind == TW_MSG_REQUEST &&
	       x->request && f->head.place == OUT_IDLE && !f->lane->leaving &&
	       function_below(f->lane->responses, below) >= 0;
}

void flow_refuse(struct flow *f, uint32_t below, int status, const char *why)
{
	struct exchange *x = &f->x;
	struct pieces *whole = seen(f, below) ? pieces_new() : NULL;
	tw_handle handle = 0;

	if (whole)
		handle = make(f, status, why, &whole->piece[0]);
	if (!handle) {
		pieces_free(f->lane, whole);
		flow_fail(f, status, why);
		return;
	}
	f->own = (uint16_t)status;
	f->own_why = why;
	fetch_cancel(f);
	data_free(f, WAY_IN);
	flow_forget_request(f);
	if (flow_forget_response(f) < 0) {
		pieces_free(f->lane, whole);
		tw_pool_free(f->lane->service->pool, handle, x->gate->id);
		flow_fail(f, status, why);
		return;
	}
	whole->n = 1;
	whole->bytes = x->out_len = whole->piece[0].len;
	f->way[WAY_OUT].whole = whole;
	x->response = handle;
	x->resp = tw_pool_block(f->lane->service->pool, handle, NULL);
	x->status = (uint16_t)status;
	x->body_back = !x->head;
	x->made = true;
	flow_response(f, below);
}
