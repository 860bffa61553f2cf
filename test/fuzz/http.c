/* SPDX-License-Identifier: BSD-3-Clause */
/* http.c - libFuzzer target for the HTTP reader and writer of the gate; scripts/fuzz-http builds
 * and runs it. What must hold: no memory error whatever the bytes are, also when somebody else
 * writes to the block all the time; the same events and body however the bytes are cut; positions
 * inside of the block; and a head that is written anew can be read again. */
#include "abi.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLOCK 16384
#define BODY_MAX 8192

/* The first bytes of an input. */
enum { RESPONSE = 1, HEAD = 2, HOSTILE = 4, BETWEEN = 8, CLOSED = 16, SMALL = 32 };

#define MUST(what)                                                                 \
	do {                                                                       \
		if (!(what)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                   \
		}                                                                  \
	} while (0)

/* ---- who writes to the block meanwhile ---- */

static _Atomic(char *) victim;
static _Atomic unsigned busy;

static void *spoil(void *arg)
{
	uint64_t x = 88172645463325252ull;
	(void)arg;
	for (;;) {
		char *block;

		atomic_fetch_add(&busy, 1);
		block = atomic_load(&victim);
		for (unsigned i = 0; block && i < 64; i++) {
			static const char nasty[] = "\r\n :,;0f\0\377\tHhC";

			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			__atomic_store_n(block + x % BLOCK, nasty[(x >> 40) % sizeof(nasty)],
			                 __ATOMIC_RELAXED);
		}
		atomic_fetch_sub(&busy, 1);
		if (!block)
			sched_yield();
	}
	return NULL;
}

static void attack(char *block)
{
	static bool started;
	pthread_t thread;

	if (!started)
		MUST(!pthread_create(&thread, NULL, spoil, NULL));
	started = true;
	atomic_store(&victim, block);
}

static void peace(void)
{
	atomic_store(&victim, NULL);
	while (atomic_load(&busy))
		sched_yield();
}

/* ---- one reading ---- */

struct run {
	char events[256];
	unsigned n;
	char body[BODY_MAX];
	size_t n_body;
	uint8_t flags;
	uint64_t random;
};

static uint32_t chance(struct run *run, uint32_t n)
{
	run->random = run->random * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(run->random >> 33) % n;
}

static void note(struct run *run, int event, const struct tw_http_facts *facts)
{
	if (run->n + 24 < sizeof(run->events))
		run->n += (unsigned)snprintf(run->events + run->n, 24, "%d/%u/%u ", event,
		                             event == TW_HTTP_BAD || event == TW_HTTP_HEAD
		                                     ? facts->status
		                                     : 0,
		                             facts->chunked);
}

/* What may be read and written, but not read again: a request of HTTP/1.0 without any host, which
 * has an empty one now; a field whose name begins with Transfer-Encoding, which the library takes
 * for that one beside a length. */
static bool harmless(const struct tw_msg *msg, bool response)
{
	const struct tw_header *header =
		(const struct tw_header *)((const char *)msg + msg->headers);

	for (unsigned i = 0; i < msg->n_headers; i++) {
		if (header[i].name.len > 17 &&
		    !strncasecmp((const char *)msg + header[i].name.at, "transfer-encoding", 17))
			return true;
	}
	return !response && !msg->host.len;
}

static void rewrite(struct run *run, struct tw_http *http)
{
	const struct tw_http_out out = { .framing = chance(run, 4),
		                         .version = 1,
		                         .upgrade = chance(run, 2),
		                         .keep_length = chance(run, 2),
		                         .length = 7 };
	bool response = run->flags & RESPONSE;
	static char text[2 * BLOCK];
	struct tw_http_facts facts;
	struct tw_http *again;
	uint32_t size = chance(run, 4) ? sizeof(text) : chance(run, 2000);
	int n = tw_http_write(tw_http_message(http), BLOCK, response, &out, text, size);

	MUST(n <= (int)size);
	if (run->flags & (HOSTILE | BETWEEN))
		return;
	if (n < 0 && n != -EMSGSIZE)
		fprintf(stderr, "%s\n", tw_error());
	MUST(n > 0 || n == -EMSGSIZE);
	if (n < 0)
		return;
	again = tw_http_new(4 * BLOCK);
	tw_http_begin(again, response, run->flags & HEAD, 4 * BLOCK);
	MUST(!tw_http_add(again, text, (size_t)n));
	n = tw_http_next(again, &facts);
	if (n != TW_HTTP_HEAD && !harmless(tw_http_message(http), response)) {
		fprintf(stderr, "%d: %s\n%s\n", n, facts.why, text);
		abort();
	}
	tw_http_free(again);
}

static void head(struct run *run, struct tw_http *http)
{
	const struct tw_msg *msg = tw_http_message(http);
	const struct tw_header *header;

	if (!(run->flags & (HOSTILE | BETWEEN))) {
		MUST(msg->used <= BLOCK && msg->n_headers <= msg->max_headers);
		MUST(msg->headers + msg->max_headers * sizeof(*header) <= msg->used);
		header = (const struct tw_header *)((const char *)msg + msg->headers);
		for (unsigned i = 0; i < msg->n_headers; i++) {
			MUST(header[i].name.at + header[i].name.len <= msg->headers);
			MUST(header[i].value.at + header[i].value.len <= msg->headers);
			MUST(header[i].name.at >= sizeof(*msg));
		}
		MUST(msg->target.at + msg->target.len <= msg->headers);
		MUST(msg->host.at + msg->host.len <= msg->headers);
	}
	rewrite(run, http);
}

static bool piece(struct run *run, struct tw_http *http, const struct tw_http_facts *facts)
{
	uint32_t n = facts->piece_len;

	MUST(facts->piece_at <= BLOCK && n <= BLOCK - facts->piece_at && n > 0);
	MUST(facts->piece_at + n <= facts->at);
	if (n > sizeof(run->body) - run->n_body)
		n = (uint32_t)(sizeof(run->body) - run->n_body);
	memcpy(run->body + run->n_body, (char *)tw_http_message(http) + facts->piece_at, n);
	run->n_body += n;
	return true;
}

/* True: nothing more of it will come. */
static bool events(struct run *run, struct tw_http *http)
{
	struct tw_http_facts facts;
	int event;

	while ((event = tw_http_next(http, &facts)) != TW_HTTP_MORE) {
		MUST(facts.at <= facts.end && facts.end <= BLOCK);
		if (event == TW_HTTP_BODY) {
			piece(run, http, &facts);
			continue;
		}
		note(run, event, &facts);
		if (event == TW_HTTP_BAD) {
			MUST(facts.status >= 400 && facts.status < 600 && facts.why[0]);
			MUST(tw_http_next(http, &facts) == TW_HTTP_BAD);
			return true;
		}
		if (event == TW_HTTP_HEAD)
			head(run, http);
		if (event == TW_HTTP_END)
			tw_http_begin(http, run->flags & RESPONSE, run->flags & HEAD,
			              run->flags & SMALL ? 200 : BLOCK);
		if (run->flags & BETWEEN)
			((char *)tw_http_message(http))[chance(run, BLOCK)] ^= (char)chance(run,
			                                                                    256);
	}
	MUST(facts.at == facts.end);
	return false;
}

static void read_all(struct run *run, const uint8_t *bytes, size_t size, uint32_t step)
{
	struct tw_http *http = tw_http_new(BLOCK);
	struct tw_http_facts facts;
	bool over = false;

	if (run->flags & HOSTILE)
		attack((char *)tw_http_message(http));
	tw_http_begin(http, run->flags & RESPONSE, run->flags & HEAD,
	              run->flags & SMALL ? 200 : BLOCK);
	for (size_t at = 0; at < size && !over;) {
		size_t n = step ? 1 + chance(run, step) : size;

		if (n > size - at)
			n = size - at;
		if (tw_http_add(http, (const char *)bytes + at, n))
			break;
		at += n;
		over = events(run, http);
	}
	if (!over && run->flags & CLOSED)
		note(run, tw_http_closed(http, &facts), &facts);
	peace();
	tw_http_free(http);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run whole, cut;

	/* All of it must fit in the block at once, with the table. */
	if (size < 2 || size > 6000)
		return 0;
	memset(&whole, 0, sizeof(whole));
	memset(&cut, 0, sizeof(cut));
	whole.flags = cut.flags = data[0];
	whole.random = cut.random = data[1] + 1u;
	read_all(&whole, data + 2, size - 2, 0);
	read_all(&cut, data + 2, size - 2, data[1] % 2 ? 1 : 1 + data[1]);
	if (whole.flags & (HOSTILE | BETWEEN))
		return 0;
	if (strcmp(whole.events, cut.events))
		fprintf(stderr, "at once: %s\nin pieces: %s\n", whole.events, cut.events);
	MUST(!strcmp(whole.events, cut.events));
	MUST(whole.n_body == cut.n_body && !memcmp(whole.body, cut.body, whole.n_body));
	return 0;
}
