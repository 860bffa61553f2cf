/* SPDX-License-Identifier: BSD-3-Clause */
/* client.h - an HTTP connection: what client.c (its life), client_head.c (requests),
 * client_body.c (their bodies) and client_write.c (responses) share.
 *
 * A connection that is idle is a struct client and nothing else; what a request needs is a struct
 * work, and blocks of the service's pool. What the exchange says (respond, fail, close) is noted,
 * and done by the connection's task at the end of the turn: nothing here is entered twice, and what
 * a turn brings is written at once. */
#pragma once
#include "gate/http.h"
#include "gate/listener.h"
#include "gate/sock.h"

enum client_state {
	CLIENT_IDLE,     /* between two requests; no work */
	CLIENT_HEAD,     /* a request has begun */
	CLIENT_EXCHANGE, /* its head is on its way */
	CLIENT_DISCARD,  /* answered, and the rest of its body is thrown away */
	CLIENT_LINGER,   /* the last answer is sent; reads until the client has seen it */
};

struct client {
	struct sock sock;
	struct gate_timer timer; /* may fire early: `deadline` counts */
	struct gate_task task;
	uint64_t deadline; /* 0: none */
	struct listener *listener;
	struct client *next, **back; /* of listener->clients */
	struct work *work;
	struct proxy_facts facts;
	uint32_t requests, discarded;
	uint8_t state;
	bool proxy; /* a PROXY header is to come */
	bool half;  /* the client has ended its direction while an exchange was under way */
};

/* A block that was received into, and what of it is not used yet; 0: none. */
struct lump {
	tw_handle block;
	char *memory;
	uint32_t size, at, end;
};

/* A request. */
struct work {
	struct work *next; /* of those that are free */
	struct client *client;
	struct service *service;
	struct http_in in;
	struct lump here;
	struct lump rest; /* behind the end of the body: the next request begins there */
	struct exchange *x;
	/* request body: the piece of `here` that came last, until it is known whether that block
	 * has more */
	struct body_piece held;
	bool holds, flush /* it has not */;
	bool body_done;   /* its last byte was read */
	bool body_ended;  /* and body_end() called */
	bool discards;    /* nobody takes the rest */
	bool continues;   /* 100 is to be sent, or the client may never send the body */
	bool raw;         /* upgraded: bytes both ways */
	bool waits;       /* for a block: reads again at the deadline */
	uint16_t starved; /* times that there was none, one after the other */
	uint64_t body_bytes;
	/* what the exchange has said */
	bool respond, failed, dropped;
	uint16_t status;
	/* the response is written in segments: `pre`, `payload` bytes from x->out, `post` */
	bool begun, finished, blocked, keep;
	uint8_t framing; /* enum http_framing */
	uint64_t left;   /* of a body of known length */
	uint64_t written;
	const char *pre;
	char *kept; /* what `pre` points into, when it is the work's own */
	uint32_t pre_len, payload;
	const char *post;
	uint32_t post_len;
	/* not cleared with the rest */
	char small[64];
	char why[128]; /* `failed` */
};

struct clients {
	struct client *free; /* by next */
	struct work *free_work;
	uint32_t n_free, n_free_work;
	char scratch[72 * 1024]; /* heads that are written, bytes that are thrown away */
};

#define CLIENT_DISCARD_MAX (256u << 10) /* bytes of a body that are read only to be thrown away */
#define CLIENT_KEEP_MAX (64u << 10)     /* of these a connection is kept for */
#define CLIENT_LINGER_MS 2000
#define CLIENT_FIRST_MS 1000 /* for the first byte, when the listener has gone */
/* A client that ends its direction has gone, or waits for the response nevertheless: nobody can
 * tell. It gets so long, and again with each piece that it takes. */
#define CLIENT_HALF_MS 1000
#define CLIENT_BLOCK 16384 /* of a head; larger when it does not fit */
#define CLIENT_BODY_BLOCK 65536

static inline struct gate *gate_of(const struct client *c)
{
	return c->listener->gate;
}

static inline struct clients *clients_of(const struct client *c)
{
	return listeners_of(gate_of(c))->clients;
}

/* ---- client.c; of functions that return bool, false says: stop, the connection may be no more,
 * or is at something else ---- */

void client_close(struct client *c);
void client_deadline(struct client *c, uint32_t ms); /* 0: none */
/* Events that are wanted now. `strict`: also takes away what is not wanted; else that waits until
 * it disturbs. */
bool client_interest(struct client *c, bool strict);
bool client_wants_bytes(const struct client *c);
void client_block_free(struct client *c);
/* `here` becomes what `rest` was. */
void client_take_rest(struct client *c);
/* A block of at least so many bytes; false: there is none. */
bool client_block(struct client *c, uint32_t size);
/* The connection's own answer, when none was begun, and its end. Always false. */
bool client_answer(struct client *c, int status, const char *why);
bool client_linger(struct client *c);
void client_rest(struct client *c); /* nothing came: idle again */
/* The response is sent, or what is left of it will not be. */
bool client_next(struct client *c);

/* ---- client_head.c ---- */

bool client_read_head(struct client *c);
bool client_process(struct client *c); /* what is in the block */
bool client_begin(struct client *c);   /* a work */

/* ---- client_body.c ---- */

bool client_read_body(struct client *c);
void client_body_room(struct body *body);
/* Hands on what is in the block, as far as there is room. */
bool client_pump(struct client *c);
bool client_discard(struct client *c);
bool client_read_raw(struct client *c);
/* What is left in `here` goes into a block of its own, `rest`: `head`: with room for a message in
 * front and a table behind. */
bool client_carry(struct client *c, bool head);

/* ---- client_write.c ---- */

extern const struct exchange_client client_exchange;
/* Writes what can be written. */
bool client_write(struct client *c);
void client_write_free(struct work *w);
bool client_continue(struct client *c);
bool client_write_answer(struct client *c, int status, const char *why);
