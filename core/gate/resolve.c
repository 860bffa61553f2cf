/* SPDX-License-Identifier: BSD-3-Clause */
/* resolve.c - addresses of host names, as the C library finds them. A thread of its own asks, for
 * nothing says how long the resolver takes, and the control thread has to show that it lives. */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Freed by the last of the two: the thread that asks, and who wants to know. */
struct tw_question {
	pthread_mutex_t lock;
	pthread_cond_t settled;
	bool answered, abandoned;
	int rc, err; /* of getaddrinfo(); errno for EAI_SYSTEM */
	char host[TW_HOST_LEN];
	char text[TW_RESOLVE_LEN];
};

static void question_free(struct tw_question *q)
{
	pthread_cond_destroy(&q->settled);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static struct tw_question *question_new(const char *host)
{
	struct tw_question *q = calloc(1, sizeof(*q));
	pthread_condattr_t monotonic;

	if (!q)
		return NULL;
	snprintf(q->host, sizeof(q->host), "%s", host);
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&q->settled, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return q;
}

/* ---- who asks ---- */

/* Each address and a line feed; EAI_OVERFLOW: there are too many. */
static int write_down(const struct addrinfo *list, char *to, size_t room)
{
	size_t at = 0, len;
	int rc;

	for (; list; list = list->ai_next) {
		rc = getnameinfo(list->ai_addr, list->ai_addrlen, to + at, (socklen_t)(room - at),
		                 NULL, 0, NI_NUMERICHOST);
		if (rc)
			return rc;
		len = strlen(to + at);
		if (at + len + 2 > room)
			return EAI_OVERFLOW;
		to[at + len] = '\n';
		at += len + 1;
	}
	to[at] = 0;
	return 0;
}

static void *ask(void *arg)
{
	/* Each address once, and none of a version that this host has no address of. */
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *list = NULL;
	struct tw_question *q = arg;
	bool abandoned;
	int rc, err;

	errno = 0;
	rc = getaddrinfo(q->host, NULL, &hints, &list);
	err = errno;
	if (!rc)
		rc = write_down(list, q->text, sizeof(q->text));
	if (list)
		freeaddrinfo(list);
	pthread_mutex_lock(&q->lock);
	q->rc = rc;
	q->err = err;
	q->answered = true;
	abandoned = q->abandoned;
	pthread_cond_signal(&q->settled);
	pthread_mutex_unlock(&q->lock);
	if (abandoned)
		question_free(q);
	return NULL;
}

/* ---- who wants to know ---- */

static int begin(struct tw_question *q)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, ask, q);
	pthread_attr_destroy(&attr);
	return err;
}

static bool wait_for(struct tw_question *q, uint32_t ms)
{
	struct timespec until;
	bool answered;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000l) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000l;
	}
	pthread_mutex_lock(&q->lock);
	while (!q->answered && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&q->settled, &q->lock, &until);
	answered = q->answered;
	pthread_mutex_unlock(&q->lock);
	return answered;
}

static int refusal(const struct tw_question *q)
{
	if (q->rc == EAI_OVERFLOW)
		return tw_fail(E2BIG, "the name \"%s\" has too many addresses", q->host);
	return tw_fail(q->rc == EAI_AGAIN ? EAGAIN : ENOENT, "the name \"%s\" has no address: %s",
	               q->host, q->rc == EAI_SYSTEM ? strerror(q->err) : gai_strerror(q->rc));
}

struct tw_question *tw_gate_ask(const char *host)
{
	struct tw_question *q;
	int err;

	if (strlen(host) >= TW_HOST_LEN) {
		tw_fail(ENAMETOOLONG, "the name \"%s\" has %zu bytes; at most %d", host,
		        strlen(host), TW_HOST_LEN - 1);
		return NULL;
	}
	q = question_new(host);
	err = q ? begin(q) : ENOMEM;
	if (!err)
		return q;
	if (q)
		question_free(q);
	tw_fail(err, "the name \"%s\" cannot be looked for: %s", host, strerror(err));
	return NULL;
}

int tw_gate_answer(struct tw_question *q, uint32_t ms, char *text, uint32_t size)
{
	if (!wait_for(q, ms))
		return tw_fail(EINPROGRESS,
		               "the name \"%s\" has no address: no answer within %u ms "
		               "(/etc/resolv.conf says who is asked)",
		               q->host, ms);
	if (q->rc)
		return refusal(q);
	if ((size_t)snprintf(text, size, "%s", q->text) >= size)
		return tw_fail(E2BIG, "the name \"%s\" has too many addresses", q->host);
	return 0;
}

void tw_gate_forget(struct tw_question *q)
{
	bool answered;

	pthread_mutex_lock(&q->lock);
	answered = q->answered;
	q->abandoned = true;
	pthread_mutex_unlock(&q->lock);
	if (answered)
		question_free(q);
}
