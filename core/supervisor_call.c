/* SPDX-License-Identifier: BSD-3-Clause */
/* supervisor_call.c - the supervisor asks the helper process for workers, and hears of their end.
 */
#include "error.h"
#include "passing.h"
#include "supervisor_worker.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OTHER_MEMORY (128ull << 20)

static int sock = -1;
static uint32_t last_id;

int call_open(void)
{
	if (sock < 0)
		sock = tw_helper_workers();
	return sock;
}

void call_close(void)
{
	if (sock >= 0)
		close(sock);
	sock = -1;
}

static int ask(const struct tw_spawn_request *request)
{
	if (sock < 0)
		return tw_fail(EPIPE, "the helper process has ended, and nobody else can start "
		                      "workers; start the engine again");
	if (send(sock, request, sizeof(*request), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return tw_fail(errno, "the helper process starts no worker: %s", strerror(errno));
	return 0;
}

int call_spawn(struct supervised *w)
{
	struct tw_pool *pool = tw_fabric_pool(supervisor_service(w->service)->fabric);
	struct tw_spawn_request request = { .op = TW_SPAWN_START, .uid = w->uid };
	struct tw_pool_stats stats;

	/* Blocks of the pool count for whoever touches them first. */
	tw_pool_get_stats(pool, &stats);
	request.memory = ((uint64_t)w->memory_mb * 2 << 20) + OTHER_MEMORY + stats.bytes;
	w->spawn_id = request.id = ++last_id;
	request.cpu_percent = w->cpu_percent;
	if (w->cpu >= 0 && w->cpu < CPU_SETSIZE)
		CPU_SET(w->cpu, &request.cpus);
	strncpy(request.socket, supervisor_registration(), sizeof(request.socket) - 1);
	return ask(&request);
}

void call_kill(const struct supervised *w)
{
	struct tw_spawn_request request = { .op = TW_SPAWN_KILL, .id = w->spawn_id };

	ask(&request);
}

void call_move(const struct supervised *w)
{
	struct tw_spawn_request request = { .op = TW_SPAWN_MOVE, .id = w->spawn_id };

	CPU_SET(w->cpu, &request.cpus);
	ask(&request);
}

/* The one with that process, or whose process before this one it was. */
static struct supervised *of_id(uint32_t id)
{
	struct supervised *w;

	for (uint32_t i = 0; (w = supervisor_worker(i)); i++)
		if (w->used && (w->spawn_id == id || w->ended_id == id))
			return w;
	return NULL;
}

static void answered(const struct tw_spawn_reply *reply, int fd)
{
	struct supervised *w = of_id(reply->id);

	if (w && reply->op == TW_SPAWN_START && w->spawning && w->spawn_id == reply->id) {
		life_spawned(w, reply->status, fd, reply->words);
		return;
	}
	if (w && reply->op == TW_SPAWN_ENDED)
		life_status(w, reply->status, w->ended_id == reply->id);
	if (fd >= 0)
		close(fd);
}

bool call_answers(void)
{
	for (;;) {
		struct tw_spawn_reply reply;
		int fd = -1;
		ssize_t n = sock < 0 ? 0
		                     : tw_passed(sock, &reply, sizeof(reply), &fd, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n != sizeof(reply))
			return false;
		reply.words[sizeof(reply.words) - 1] = '\0';
		answered(&reply, fd);
	}
}
