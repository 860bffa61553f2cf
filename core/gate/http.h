/* SPDX-License-Identifier: BSD-3-Clause */
/* http.h - HTTP/1.1 messages (RFC 9110, 9112): bytes to struct tw_msg and back. Knows no
 * connection.
 *
 * What decides where a message ends is kept here, in memory of the gate alone: functions can write
 * to the message at any time.
 */
#pragma once
#include "gate/gate.h"

#include <http_parser.h>
#include <sys/uio.h>

/* ---- reading ---- */

enum http_event {
	HTTP_WANTS_MORE = 0, /* everything was used, and more is needed */
	HTTP_GOT_HEAD,       /* the head is whole: the fields of the message are set */
	HTTP_GOT_BODY, /* a piece of the body: `piece_at`, `piece_len`, offsets in the block that
	              was fed */
	HTTP_GOT_END,  /* the message is whole. What follows is the next one's */
	HTTP_BAD,      /* `status` and `why` say what; the connection cannot go on */
};

/* Limits of a message that no configuration asks for. */
enum {
	HTTP_TARGET_MAX = 8192,    /* bytes of a request target (RFC 9112 3: at least 8000); 414 */
	HTTP_CHUNK_LINE_MAX = 256, /* a chunk's size with its extensions */
	HTTP_CHUNK_EXTRA_MAX = 16384, /* extensions and trailers of a message */
	HTTP_CONNECTION_TOKENS = 64,
};

/* Fields behind a chunked body, as they are sent on: the end of the last chunk, the last chunk, the
 * fields line by line, an empty line. */
struct http_trailers {
	uint32_t len, room;
	char text[];
};
#define HTTP_TRAILERS_FRONT "\r\n0\r\n"
#define HTTP_TRAILERS_AT 5u    /* the first field */
#define HTTP_TRAILERS_ALONE 2u /* behind no chunk */

struct http_in {
	http_parser parser; /* of the head; bodies are framed by http_chunk.c and by counting */
	bool response, request_was_head;
	/* of the message that is being read */
	bool head_done, chunked, keep, upgrade, expects /* 100-continue */;
	uint8_t version; /* 1.x */
	uint16_t status;
	uint16_t method;                 /* enum http_method */
	uint64_t body_len;               /* UINT64_MAX: not known */
	uint32_t max_headers;            /* at most TW_HEADERS_MAX; 431 or 502 above */
	uint32_t head_bytes, head_limit; /* so far; 431 or 502 above */
	/* what the last event was about */
	uint32_t piece_at, piece_len;
	const char *why;
	struct tw_msg *msg;
	struct http_trailers *trailers; /* so far */
	bool trailers_lost;             /* no memory */
	/* the reader's own */
	uint8_t state; /* enum in http_in.h */
	uint8_t last;  /* which part of a header came last */
	bool pieces;   /* the head came in several: its parts are looked up once it is whole */
	uint16_t n_headers;
	uint32_t start;    /* offset of the head's first byte */
	uint32_t last_end; /* where the part that came last ended */
	uint32_t line;     /* bytes of the line of a chunk so far; where a trailer began */
	uint32_t extra;    /* bytes of extensions and trailers so far */
	uint64_t left;     /* of the body, or of this chunk */
};

/* How much may be received into a block behind `end`: the rest is for the table of headers. */
uint32_t http_in_room(uint32_t size, uint32_t end);
/* Where received bytes begin in a block that a message will lie in. */
#define HTTP_BYTES_AT ((uint32_t)((sizeof(struct tw_msg) + 63) & ~63u))

/* Before each message. `head`: the response is one to HEAD. */
void http_in_begin(struct http_in *in, bool response, bool head, uint32_t head_limit);
/* Reads block[at .. end), from where it stopped; *at moves behind what was used. Until
 * HTTP_GOT_HEAD all bytes of the head must lie in the same block, one behind the other
 * (http_in_moved when it moves to a larger one), and the table of headers is written behind `end`
 * (so at HTTP_GOT_HEAD the rest of what was received begins at *at, and lies before the table).
 * Of the message, the fields from flags and used to host and body_len are set; the others are the
 * caller's. HTTP_BAD: `status` is what to answer. */
enum http_event http_in_read(struct http_in *in, void *block, uint32_t size, uint32_t *at,
                             uint32_t end);
/* The end of the connection: HTTP_GOT_END when that ends the message, HTTP_BAD when it is cut off,
 * HTTP_WANTS_MORE when none has begun. */
enum http_event http_in_closed(struct http_in *in);
void http_in_moved(struct http_in *in, void *block);
/* At HTTP_GOT_END: the fields behind the body that may be sent on, the caller's to free(); NULL:
 * none.
 */
struct http_trailers *http_in_trailers(struct http_in *in);
/* Nothing is kept: before the memory goes, or another message begins. */
void http_in_end(struct http_in *in);
/* The message is whole, and no byte is needed to say so: HTTP_GOT_END is next. */
bool http_in_over(const struct http_in *in);

/* ---- writing ---- */

enum http_framing { HTTP_NO_BODY, HTTP_LENGTH, HTTP_CHUNKED, HTTP_UNTIL_CLOSE };

/* What a head that is written for another connection must say; fields that belong to one
 * connection (Connection, Keep-Alive, Transfer-Encoding, TE, Trailer, Upgrade, Proxy-*; RFC 9110
 * 7.6.1) are left out and written anew; Expect too, which the gate has answered. What a received
 * Connection field names was taken out when it was read, so that a client cannot have fields
 * removed that functions add. Responses without Date get one (RFC 9110 6.6.1). */
struct http_out {
	enum http_framing framing;
	uint64_t length;
	bool close;        /* Connection: close */
	bool keep10;       /* Connection: keep-alive, to a client of HTTP/1.0 */
	bool upgrade;      /* Connection: upgrade and the message's Upgrade field stay */
	uint8_t version;   /* of the other side */
	const char *host;  /* requests: instead of the message's, NULL: as it is */
	const char *extra; /* whole lines, NULL: none: "Via: ...\r\n" */
	bool keep_length;  /* HTTP_NO_BODY: the message's own Content-Length stays (HEAD, 304) */
	bool says_length;  /* HTTP_NO_BODY: `length` is said instead (HEAD; RFC 9110 9.3.2) */
};

/* A request to HTTP/1.1 needs a host: out->host, a Host field, or the message's `host`.
 * Copies the head into `to` and checks every byte of it on the way (names are tokens, no control
 * characters in values, target and reason: RFC 9110 5.5): functions may have written anything.
 * Returns its length; -EPROTO with a sentence when it is not one; -EMSGSIZE when `size` is too
 * small. */
int http_write_head(const struct tw_msg *msg, uint32_t block_size, bool response,
                    const struct http_out *out, char *to, uint32_t size);
/* The head of a chunk of len bytes, or of the last one for 0; its length. 24 bytes are enough. */
int http_write_chunk(uint64_t len, char *to);
/* A whole answer of the gate's own, with a short text. Its length. */
int http_write_answer(int status, const char *why, bool close, bool head, char *to, uint32_t size);
const char *http_reason(int status);
/* "Date: ...\r\n", of now. */
const char *http_date(void);

/* A copy of the first header of that name in lower case, or NULL; all offsets in it are checked. It
 * is good until eight calls later. */
const struct tw_header *http_find(const struct tw_msg *msg, uint32_t block_size, const char *name);
