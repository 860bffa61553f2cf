/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * abi_msg.h - the part of the boundary for messages (L4/L7 chains); same conventions as abi.h,
 * which includes it.
 *
 * A message lies in one block of a chain's shared memory (msg/pool.h): this head, then the bytes it
 * was received as, then a table of headers, then room for what functions write. All positions are
 * offsets from the start of the block, so that every process can map it where it likes. Nothing in
 * here may be believed by the gate: functions can write to all of it.
 */
#pragma once

#ifndef TW_CDEF
#include "abi.h"
#endif

enum tw_msg_limits {
	TW_MEMBERS_MAX = 256,    /* gate threads and function instances of a chain */
	TW_GATES_MAX = 16,       /* gate threads; members 0 .. TW_GATES_MAX - 1 */
	TW_INSTANCES_MAX = 32,   /* instances of a function */
	TW_EXITS_MAX = 16,       /* ways out of a function */
	TW_MSG_VALUES = 8,       /* numbers that functions leave for each other */
	TW_HEADERS_MAX = 256,    /* headers of a message */
	TW_BODY_BLOCKS_MAX = 64, /* blocks of a body that is whole */
	TW_DESC_BATCH = 64,      /* descriptors in one send */
};

/* ---- descriptors: what moves between processes ---- */

/* Generation and index of a block of the chain's pool: index | generation << 32; 0: none. The owner
 * is in the pool, and compared with every take. */
typedef uint64_t tw_handle;

/* Ways out of a function. What stands behind them is the chain's, never the message's. */
enum tw_exit {
	TW_EXIT_NEXT = 0,  /* the next function of the chain that takes this kind; behind the last:
	                      the gate */
	TW_EXIT_GATE = 1,  /* the gate thread that the message came from: its verdict says why */
	TW_EXIT_ROUTE = 2, /* and more: functions that the script named for it (chain:route) */
};

struct tw_desc {
	tw_handle handle;
	uint16_t exit; /* enum tw_exit */
	uint16_t gate; /* the gate thread that the exchange belongs to */
	uint32_t key;  /* not 0: messages with the same key go to the same instance */
};

/* ---- messages ---- */

enum tw_msg_kind {
	TW_MSG_REQUEST = 1, /* head of an HTTP request */
	TW_MSG_RESPONSE,    /* head of an HTTP response, on its way back */
	TW_MSG_DATA,        /* a piece of a body or of a stream */
	TW_MSG_OPEN,        /* a TCP connection has come, no byte of it looked at */
	TW_MSG_DATAGRAM,    /* a UDP datagram */
	TW_MSG_ANSWER,      /* what a function has asked an upstream for (msg:fetch) */
};

enum tw_msg_flags {
	TW_MSG_BODY =
		1, /* there is a body: whole, or it follows as TW_MSG_DATA or past the functions */
	TW_MSG_WHOLE = 2, /* all of it is in body[] */
	TW_MSG_CHUNKED =
		4, /* received with Transfer-Encoding: chunked: body_len unknown before the end */
	TW_MSG_KEEP = 8,      /* the connection stays open behind it */
	TW_MSG_UPGRADE = 16,  /* asks for, or agrees to, another protocol */
	TW_MSG_LAST = 32,     /* TW_MSG_DATA: the end of the body or stream */
	TW_MSG_BACKWARD = 64, /* TW_MSG_DATA: from the upstream to the client */
	TW_MSG_EDITED = 128,  /* a function changed head or body: the gate writes it anew */
	TW_MSG_NO_BODY = 256, /* a function has taken the body away */
	TW_MSG_TLS = 512,     /* the connection is encrypted */
	TW_MSG_HEAD = 1024,   /* request method is HEAD: its response has no body */
};

/* What a function decided; read by the gate when the message is back. */
enum tw_msg_verdict {
	TW_V_NONE = 0, /* none: the end of the chain decides */
	TW_V_RESPOND,  /* status, headers and body of .answer go to the client */
	TW_V_UPSTREAM, /* to a server of the group .group */
	TW_V_DROP,     /* the connection is closed without a word; .reason */
	TW_V_FETCH, /* the request in .answer goes to the group .group; what comes back returns to
	               the sender */
	TW_V_REPLY, /* datagrams, streams: the body goes back to where it came from; of data,
	               the last .n_on pieces of it go on, and those before them lie in blocks of
	               their own */
	TW_V_FAULT, /* the function raised: .reason says where */
};

struct tw_text {
	uint32_t at, len; /* in this block */
};

/* One header, in order of arrival. Removed: name.len = 0. */
struct tw_header {
	struct tw_text name, value;
	uint32_t hash; /* of the name in lower case: tw_header_hash() */
	uint32_t spare;
};

struct tw_body_block {
	tw_handle handle; /* 0: in this block itself */
	uint32_t at, len;
};

struct tw_msg {
	uint32_t magic;    /* TW_MSG_MAGIC */
	uint8_t kind;      /* enum tw_msg_kind */
	uint8_t version;   /* HTTP/1.x: x */
	uint16_t gate;     /* the gate thread it belongs to */
	uint32_t flags;    /* enum tw_msg_flags */
	uint32_t size;     /* bytes of this block */
	uint32_t used;     /* bytes taken from its start; what functions write is put here */
	uint32_t exchange; /* the gate's number for this exchange */
	uint64_t id;       /* of the exchange, unique while the engine runs; for logs and keys */
	tw_handle self;
	tw_handle request; /* responses, answers and data: the request or opening they belong to */
	uint64_t received_ns; /* CLOCK_MONOTONIC, first byte */
	uint64_t wall_ns;     /* CLOCK_REALTIME, the same moment */

	/* the head */
	uint16_t status; /* of a response */
	uint16_t n_headers;
	uint16_t max_headers; /* room in the table */
	uint16_t listener;
	uint32_t headers;                      /* offset of struct tw_header[max_headers] */
	struct tw_text method, target, reason; /* target as received or set: path and query */
	struct tw_text host;                   /* authority: absolute target or the Host header */
	struct tw_text asked, asked_host; /* target and host as they came, whatever they are now */

	/* connection facts; addresses in network byte order, IPv4 in the first four bytes */
	uint8_t family; /* 4 or 6; else there is no address (server at a path) */
	uint8_t retries;
	uint16_t peer_port, local_port;
	uint16_t server; /* responses: number of the group's server that answered */
	uint8_t peer[16], local[16];

	/* the body */
	uint64_t body_len; /* bytes; UINT64_MAX: not known yet */
	struct tw_text
		trailers; /* lines of fields behind it, once it is whole; data: with the last */
	uint32_t n_body;
	uint32_t n_on; /* TW_V_REPLY to data: so many of the last ones go on */
	struct tw_body_block body[TW_BODY_BLOCKS_MAX];

	/* what functions decided and left */
	uint8_t verdict;    /* enum tw_msg_verdict */
	uint8_t stage;      /* of the function that wrote it, or has it now */
	uint16_t group;     /* upstream group */
	uint32_t key;       /* consistent hash, stickiness */
	tw_handle answer;   /* TW_V_RESPOND: a message of kind RESPONSE; TW_V_FETCH: a REQUEST */
	struct tw_text why; /* TW_V_DROP, TW_V_FAULT */
	uint64_t value[TW_MSG_VALUES];
};

enum { TW_MSG_MAGIC = 0x4d575431 };

/* FNV-1a over lower-case bytes, 32 bits. */
uint32_t tw_header_hash(const char *name, uint32_t len);

/* ---- texts of messages as functions see them; msg/text.c ---- */

/* What a text may be made of (RFC 9110 5.5, 5.6.2; RFC 3986 3). */
enum tw_text_kind {
	TW_TEXT_TOKEN = 0, /* method, name of a header */
	TW_TEXT_VALUE,     /* of a header; no CR, LF, NUL, other control characters but TAB */
	TW_TEXT_TARGET,    /* visible ASCII without '#' */
	TW_TEXT_HOST,      /* authority without user information */
};
/* Position of the first byte that does not belong there, -1: none. */
int32_t tw_text_wrong(const char *text, uint32_t len, uint32_t kind);
/* FNV-1a over the bytes as they are; never 0. For tw_msg.key. */
uint32_t tw_text_key(const char *text, uint32_t len);
/* Number of the first header from `from` on of that name, which is in lower case; -1: none. -2: the
 * table is not inside the block. The message may change under it. */
int32_t tw_msg_find(const struct tw_msg *msg, uint32_t size, const char *lower, uint32_t len,
                    uint32_t hash, uint32_t from);

/* ---- the pool as functions see it; see msg/pool.h ---- */

struct tw_pool;
/* A block of at least that size that is the caller's; 0 with a sentence when the pool has none. */
tw_handle tw_pool_new(struct tw_pool *pool, uint32_t size, uint32_t member);
/* Its memory; NULL when the handle is not valid or not this member's. */
void *tw_pool_at(struct tw_pool *pool, tw_handle handle, uint32_t member, uint32_t *size);
/* 0, or -ESTALE, -EPERM. */
int tw_pool_free(struct tw_pool *pool, tw_handle handle, uint32_t member);
/* Memory of a block that its owner has lent: the blocks of a body, the request of a response. NULL:
 * the handle is stale. */
void *tw_pool_peek(struct tw_pool *pool, tw_handle handle, uint32_t *size);
/* From `from` that holds it to `to`, who has to take it. 0, -ESTALE.
 *
 * Who owns what besides the message itself, which its sender gives away by sending it:
 *   blocks of body[]  the gate thread tw_msg.gate, always; functions read them by tw_pool_peek().
 *                     What a function puts there it has given to that thread before it sends the
 *                     message. Blocks that a function took out of the body stand behind n_body, and
 *                     are freed with the rest: all of body[] counts, not only n_body, of a
 *                     message that is TW_MSG_WHOLE or TW_MSG_NO_BODY (of a request or response
 *                     that is neither, none: it is not even cleared).
 *   .answer           the same: given to that thread before the message is sent.
 *   a fetch           is a message of its own, of kind REQUEST, verdict TW_V_FETCH, with .group,
 *                     .key and .request = the message it is for, which the function keeps. Sent by
 *                     TW_EXIT_GATE. Its ANSWER has the same .request, comes to the member that owns
 *                     that message, and goes back by TW_EXIT_GATE when it is read: then the gate
 *                     frees it and the fetch. A status of 502 to 504 with TW_MSG_NO_BODY and .why:
 *                     nothing answered.
 * Inline all of them are the gate thread's from the start, and only named. */
int tw_pool_give(struct tw_pool *pool, tw_handle handle, uint32_t from, uint32_t to);
/* The function begins with a message that its member holds: from here on its fault is the
 * function's. */
int tw_pool_begin(struct tw_pool *pool, tw_handle handle, uint32_t member);

/* ---- what every instance says of itself, in shared memory; the engine reads it ---- */

struct tw_member_board {
	uint64_t started; /* messages whose function was called */
	uint64_t done;    /* and has returned, raised or yielded */
	uint64_t received, sent, batches,
		wakeups;                /* descriptors in, out; receives that brought some; waits */
	uint64_t faults;                /* raised */
	uint64_t held;                  /* messages held now: timers, fetches */
	uint64_t busy_ns;               /* CPU time in messages */
	uint64_t current;               /* handle in hand, 0: none */
	uint64_t heap_bytes;            /* heap */
	uint64_t time[TW_TIME_BUCKETS]; /* ns in the function, as tw_lcore_stats */
	/* written by the member's link (msg/link.c), or by the kernel for it */
	uint64_t finished; /* descriptors received that it does not work on any more */
	uint64_t accepted; /* descriptors that were taken from it */
	uint64_t refused;  /* why the last one was not */
	uint64_t sends;    /* system calls or ring operations */
	uint64_t denied, full;
	uint64_t sending; /* handle of the last one that it has begun to send by itself */
	uint64_t spare[1];
};
