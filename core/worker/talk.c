/* SPDX-License-Identifier: BSD-3-Clause */
/* talk.c - a worker's socket to the supervisor: what it is told, what it says. */
#include "abi.h"
#include "passing.h"
#include "error.h"
#include "worker/worker.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINES_A_SECOND 10

int worker_connect(struct worker *worker, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t len = strlen(name);

	if (len + 1 > sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path + 1, name, len);
	worker->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (worker->sock < 0 || connect(worker->sock, (struct sockaddr *)&address,
	                                offsetof(struct sockaddr_un, sun_path) + 1 + len) < 0)
		return -errno;
	return 0;
}

/* One message of exactly that size; -1: no more descriptors. */
static int hear(int sock, void *what, size_t size, int *fds, unsigned most)
{
	if (tw_passed(sock, what, size, fds, most, 0) != (ssize_t)size)
		return tw_fail(EPROTO, "the engine has ended, or speaks another language");
	return 0;
}

int worker_told(struct worker *w)
{
	int fds[TW_WORKER_FDS + 1];
	int rc = hear(w->sock, &w->join, sizeof(w->join), w->join_fds, TW_JOIN_FDS);

	if (rc >= 0)
		rc = hear(w->sock, &w->task, sizeof(w->task), fds, TW_WORKER_FDS + 1);
	if (rc < 0)
		return rc;
	w->blob = fds[0];
	w->shared.n_fds = w->task.n_fds <= TW_WORKER_FDS ? w->task.n_fds : 0;
	memcpy(w->shared.fds, fds + 1, sizeof(w->shared.fds));
	w->heap_limit = (size_t)w->task.memory_mb << 20;
	return 0;
}

void worker_said(struct worker *worker, uint32_t kind, const char *text)
{
	struct tw_said said = { .kind = kind, .lost = worker->lines_lost };

	snprintf(said.text, sizeof(said.text), "%s", text);
	if (send(worker->sock, &said, sizeof(said), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		worker->lines_lost = 0;
	else
		worker->lines_lost++;
}

void tw_worker_say(struct tw_worker *shared, bool error, const char *text)
{
	struct worker *w = (struct worker *)shared;
	uint64_t now = tw_now();

	if (now - w->lines_since > 1000000000ull) {
		w->lines_since = now;
		w->lines = 0;
	}
	if (w->lines++ < LINES_A_SECOND)
		worker_said(w, error ? TW_SAID_ERROR : TW_SAID_LINE, text);
	else
		w->lines_lost++;
}
