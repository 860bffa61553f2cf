/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_worker.c - in the helper process: starts worker processes, says how they ended, kills
 * those that it has started, and nobody else. They end with it, however it ends. */
#include "abi.h"
#include "passing.h"
#include "error.h"
#include "helper.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
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

/* In the child: waits until the parent has told of it, then becomes a worker. Its descriptors are
 * /dev/null three times; everything else is closed. */
static void __attribute__((noreturn))
become_worker(const struct tw_spawn_request *request, int go, pid_t parent)
{
	char uid[16], helper[16], socket[sizeof(request->socket)];
	char *argv[] = { (char *)TW_WORKER_NAME, socket, uid, helper, NULL };
	sigset_t none;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || read(go, &byte, 1) != 1)
		_exit(0);
	snprintf(uid, sizeof(uid), "%u", request->uid);
	snprintf(helper, sizeof(helper), "%d", parent);
	memcpy(socket, request->socket, sizeof(socket));
	socket[sizeof(socket) - 1] = '\0';
	close_range(3, ~0u, 0);
	for (int i = 1; i < SIGRTMAX; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve("/proc/self/exe", argv, environ);
	_exit(TW_WORKER_NOT_STARTED);
}

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
	pid_t self = getpid();
	int pipes[2];

	if (!child)
		return -EAGAIN;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	child->pid = fork();
	if (child->pid == 0)
		become_worker(request, pipes[0], self);
	close(pipes[0]);
	if (child->pid < 0) {
		int err = errno;

		child->pid = 0;
		close(pipes[1]);
		return -err;
	}
	child->id = request->id;
	*go = pipes[1];
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
	if (go >= 0 && pidfd >= 0 && write(go, "", 1) < 0) {
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

static void ended(struct child *child, int status)
{
	struct tw_spawn_reply reply = {
		.op = TW_SPAWN_ENDED, .id = child->id, .status = status, .pid = child->pid
	};

	child->pid = 0;
	tw_cgroup_end(child->cgroup);
	say(&reply, -1);
}

void tw_spawn_reap(void)
{
	int status;

	for (unsigned i = 0; i < TW_WORKERS_MAX; i++)
		if (children[i].pid && waitpid(children[i].pid, &status, WNOHANG) > 0)
			ended(&children[i], status);
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
