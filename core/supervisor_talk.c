/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor_talk.c - the socket on which workers register, and what they say afterwards. Who
 * connects must be a process that was just started, under the user it was started for. */
#include "error.h"
#include "passing.h"
#include "supervisor_worker.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64
#define LINES_A_SECOND 64 /* more than a worker says that is still itself */

static _Atomic uint64_t strangers;

uint64_t tw_worker_strangers(void)
{
	return strangers;
}

int talk_listen(char *name, size_t size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(address.sun_family); /* the kernel finds a name that nobody has */
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 &&
	    listen(fd, BACKLOG) == 0) {
		len = sizeof(address);
		getsockname(fd, (struct sockaddr *)&address, &len);
		snprintf(name, size, "%.*s",
		         (int)(len - offsetof(struct sockaddr_un, sun_path) - 1),
		         address.sun_path + 1);
		return fd;
	}
	err = errno;
	if (fd >= 0)
		close(fd);
	return tw_fail(err, "no socket for workers to register at: %s", strerror(err));
}

static int tell(int sock, const void *what, size_t size, const int *fds, unsigned n)
{
	return tw_pass(sock, what, size, fds, n, MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* What it needs: its place in the fabric, then its function. */
static int introduce(struct supervised *w)
{
	struct supervised_service *s = supervisor_service(w->service);
	struct tw_task task = { .blob_len = w->blob_len,
		                .n_fds = w->n_fds,
		                .memory_mb = w->memory_mb };
	int fds[TW_JOIN_FDS], with[TW_WORKER_FDS + 1] = { w->blob };
	struct tw_join join = { 0 };
	int rc = tw_fabric_join(s->fabric, w->member, &join, fds);

	if (rc < 0)
		return rc;
	memcpy(task.name, s->spec.function[w->function].name, sizeof(task.name));
	memcpy(with + 1, w->fds, sizeof(w->fds[0]) * w->n_fds);
	rc = tell(w->sock, &join, sizeof(join), fds, join.n_fds);
	if (rc == 0)
		rc = tell(w->sock, &task, sizeof(task), with, w->n_fds + 1);
	return rc < 0 ? tw_fail(-rc, "it cannot be told what to do: %s", strerror(-rc)) : 0;
}

/* An engine that is not root cannot give others' user ids. */
static bool user_fits(const struct supervised *w, uid_t uid)
{
	return uid == w->uid || uid == TW_WORKER_NOBODY || (geteuid() != 0 && uid == geteuid());
}

static struct supervised *expected(const struct ucred *who)
{
	struct supervised *w;

	for (uint32_t i = 0; (w = supervisor_worker(i)); i++)
		if (w->used && w->pid > 0 && w->pid == who->pid && w->sock < 0 && !w->killed &&
		    w->state == TW_WORKER_STARTS)
			return user_fits(w, who->uid) ? w : NULL;
	return NULL;
}

static void came(int fd)
{
	struct ucred who = { 0 };
	socklen_t len = sizeof(who);
	struct supervised *w;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len);
	/* The helper says who it is before it lets it run. */
	call_answers();
	w = expected(&who);
	if (!w) {
		/* First of all counted: who sees that he was sent away may look at once. */
		if (strangers++ < 10)
			tw_log("process %d of user %u wants to be a worker and is none: refused",
			       who.pid, who.uid);
		close(fd);
		return;
	}
	w->sock = fd;
	if (!supervisor_watch(fd, WATCH_SOCKET | w->index))
		life_kill(w, "its socket cannot be watched");
	else if (introduce(w) < 0)
		life_kill(w, tw_error());
}

void talk_accept(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		came(fd);
	}
}

void talk_close(struct supervised *w)
{
	if (w->sock >= 0)
		close(w->sock);
	w->sock = -1;
}

static void line(struct supervised *w, const struct tw_said *said)
{
	struct supervised_service *s = supervisor_service(w->service);
	const char *level = said->kind == TW_SAID_ERROR ? TW_LOG_ERROR : "";
	const char *name = s->spec.function[w->function].name;

	if (said->lost)
		tw_log("%schain \"%s\": %s, instance %u: %s (and %u more lines before)", level,
		       s->spec.name, name, w->instance, said->text, said->lost);
	else
		tw_log("%schain \"%s\": %s, instance %u: %s", level, s->spec.name, name,
		       w->instance, said->text);
}

/* Nothing in it is believed: a text is cut where it should end, and control characters go. */
static void clean(struct tw_said *said)
{
	said->text[sizeof(said->text) - 1] = '\0';
	for (char *c = said->text; *c; c++)
		if ((unsigned char)*c < ' ' && *c != '\n')
			*c = ' ';
}

/* One message; false: there is none. */
static bool hear(struct supervised *w)
{
	struct tw_said said;
	ssize_t n = recv(w->sock, &said, sizeof(said), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		talk_close(w);
		life_hung_up(w);
		return false;
	}
	if (n != sizeof(said))
		return true;
	clean(&said);
	if (said.kind == TW_SAID_READY) {
		life_ready(w);
	} else if (said.kind == TW_SAID_FAILED) {
		snprintf(w->reason, sizeof(w->reason), "%.*s", (int)sizeof(w->reason) - 1,
		         said.text);
		line(w, &said);
	} else if (said.kind == TW_SAID_LINE || said.kind == TW_SAID_ERROR) {
		line(w, &said);
	}
	return true;
}

void talk_heard(struct supervised *w)
{
	uint64_t now = tw_now();

	if (now - w->lines_since > 1000000000ull) {
		w->lines_since = now;
		w->lines = 0;
	}
	while (w->sock >= 0 && hear(w))
		if (++w->lines > LINES_A_SECOND) {
			life_kill(w, "it says too much to the engine");
			return;
		}
}
