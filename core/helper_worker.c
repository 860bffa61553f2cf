/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_worker.c - in the helper process: starts worker processes, says how they ended, kills
 * those that it has started, and nobody else. They end with it, however it ends. */
#include "abi.h"
#include "passing.h"
#include "error.h"
#include "helper.h"
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
	uint32_t id;
	pid_t pid; /* 0: this place is free */
	char cgroup[TW_CGROUP_PATH];
};

static struct child children[TW_WORKERS_MAX];
static int channel = -1;

/* ---- the socket ---- */

void tw_spawn_channel(int fd)
{
	tw_spawn_stop();
	channel = fd;
}

int tw_spawn_fd(void)
{
	return channel;
}

/* A reply that finds the socket full is lost to a supervisor that does not read; what it must know
 * of, the end of a worker, it sees by its pidfd too. */
static void say(const struct tw_spawn_reply *reply, int fd)
{
	if (channel >= 0)
		tw_pass(channel, reply, sizeof(*reply), &fd, fd >= 0, MSG_DONTWAIT);
}

/* ---- starting ---- */

static struct child *child_free(void)
{
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (!children[i].pid)
			return &children[i];
	return NULL;
}

static int start(const struct tw_spawn_request *request, struct tw_spawn_reply *reply, int *pidfd,
                 int *go)
{
	struct child *child = child_free();
	char socket[sizeof(request->socket)];
	struct spawned made;
	int rc;

	if (!child)
		return -EAGAIN;
	snprintf(socket, sizeof(socket), "%.*s", (int)sizeof(socket) - 1, request->socket);
	rc = spare_take(socket, &made);
	if (rc < 0)
		return rc;
	child->pid = made.pid;
	child->id = request->id;
	*go = made.go;
	if (CPU_COUNT(&request->cpus) &&
	    sched_setaffinity(child->pid, sizeof(request->cpus), &request->cpus) < 0)
		snprintf(reply->words, sizeof(reply->words), "it cannot be pinned to its CPU: %s",
		         strerror(errno));
	if (request->cpu_percent &&
	    tw_cgroup_begin(child->cgroup, sizeof(child->cgroup), child->pid, request->cpu_percent,
	                    request->memory) < 0)
		snprintf(reply->words, sizeof(reply->words), "%s", tw_error());
	*pidfd = syscall(SYS_pidfd_open, child->pid, 0);
	return child->pid;
}

static void started(const struct tw_spawn_request *request)
{
	struct tw_spawn_reply reply = { .op = TW_SPAWN_START, .id = request->id };
	int pidfd = -1, go = -1;

	/* An engine that was taken over is not to become anybody. */
	if (geteuid() == 0 && request->uid < TW_WORKER_UID && request->uid != TW_WORKER_NOBODY)
		reply.status = -EPERM;
	else
		reply.status = start(request, &reply, &pidfd, &go);
	if (reply.status == -EPERM)
		snprintf(reply.words, sizeof(reply.words),
		         "no process: user id %u; workers run under ids that no account has, from "
		         "%u on",
		         request->uid, TW_WORKER_UID);
	else if (reply.status < 0)
		snprintf(reply.words, sizeof(reply.words), "no process: %s",
		         strerror(-reply.status));
	else
		reply.pid = reply.status;
	/* Without a pidfd the supervisor gives it up; it ends with the pipe. */
	say(&reply, pidfd);
	if (go >= 0 && pidfd >= 0 && write(go, &request->uid, sizeof(request->uid)) < 0) {
		/* it has ended already: that is told */
	}
	if (go >= 0)
		close(go);
	if (pidfd >= 0)
		close(pidfd);
}

/* ---- ending ---- */

static void kill_child(uint32_t id)
{
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid && children[i].id == id)
			kill(children[i].pid, SIGKILL);
}

static void move_child(const struct tw_spawn_request *request)
{
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid && children[i].id == request->id && CPU_COUNT(&request->cpus))
			sched_setaffinity(children[i].pid, sizeof(request->cpus), &request->cpus);
}

static bool none_left(void)
{
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid)
			return false;
	return true;
}

static void ended(struct child *child, int status)
{
	struct tw_spawn_reply reply = {
		.op = TW_SPAWN_ENDED, .id = child->id, .status = status, .pid = child->pid
	};

	child->pid = 0;
	tw_cgroup_end(child->cgroup);
	if (none_left())
		spare_idle();
	say(&reply, -1);
}

void tw_spawn_reap(void)
{
	int status;

	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid && waitpid(children[i].pid, &status, WNOHANG) > 0)
			ended(&children[i], status);
	spare_reap();
}

void tw_spawn_stop(void)
{
	int status;

	if (channel >= 0)
		close(channel);
	channel = -1;
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid)
			kill(children[i].pid, SIGKILL);
	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid && waitpid(children[i].pid, &status, 0) > 0)
			ended(&children[i], status);
	spare_drop();
}

void tw_spawn_serve(void)
{
	struct tw_spawn_request request;

	for (;;) {
		ssize_t n = recv(channel, &request, sizeof(request), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			tw_spawn_stop();
			return;
		}
		if (n != sizeof(request))
			continue;
		if (request.op == TW_SPAWN_START)
			started(&request);
		else if (request.op == TW_SPAWN_KILL)
			kill_child(request.id);
		else if (request.op == TW_SPAWN_MOVE)
			move_child(&request);
	}
}
