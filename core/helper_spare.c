/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_spare.c - in the helper process: makes worker processes, and keeps one that has read the
 * engine's Lua files already, so that an instance that ends is replaced in a few milliseconds also
 * when all CPUs are busy. It is nobody yet: who it is, it is told when it is taken. */
#include "abi.h"
#include "error.h"
#include "helper.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define AFTER_NS 200000000ull /* workers that were just started need the CPU themselves */
#define KEPT_NS 1000000000ull /* without any worker: the last one may be started anew */

static struct spawned spare; /* pid 0: none */
static char spare_socket[sizeof(((struct tw_spawn_request *)0)->socket)];
static uint64_t due; /* when one is to be made, or this one to go; 0: never */

/* In the child. Its descriptors are /dev/null three times, and the one that says who it is. */
static void __attribute__((noreturn)) become_worker(const char *socket, int go, pid_t parent)
{
	char helper[16], name[sizeof(spare_socket)];
	char *argv[] = { (char *)TW_WORKER_NAME, name, helper, NULL };
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	snprintf(helper, sizeof(helper), "%d", parent);
	snprintf(name, sizeof(name), "%s", socket);
	if (dup2(go, TW_WORKER_GO) < 0 || fcntl(TW_WORKER_GO, F_SETFD, 0) < 0)
		_exit(TW_WORKER_NOT_STARTED);
	close_range(TW_WORKER_GO + 1, ~0u, 0);
	for (int i = 1; i < SIGRTMAX; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve("/proc/self/exe", argv, environ);
	_exit(TW_WORKER_NOT_STARTED);
}

static int make(const char *socket, struct spawned *out)
{
	pid_t self = getpid(), pid;
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become_worker(socket, pipes[0], self);
	close(pipes[0]);
	if (pid < 0) {
		int err = errno;

		close(pipes[1]);
		return -err;
	}
	*out = (struct spawned){ pid, pipes[1] };
	return 0;
}

int spare_take(const char *socket, struct spawned *out)
{
	if (spare.pid && strcmp(socket, spare_socket) != 0)
		spare_drop();
	snprintf(spare_socket, sizeof(spare_socket), "%s", socket);
	due = tw_now() + AFTER_NS;
	if (!spare.pid)
		return make(socket, out);
	*out = spare;
	spare = (struct spawned){ 0 };
	return 0;
}

void spare_drop(void)
{
	due = 0;
	if (!spare.pid)
		return;
	kill(spare.pid, SIGKILL);
	close(spare.go);
	waitpid(spare.pid, NULL, 0);
	spare = (struct spawned){ 0 };
}

void spare_reap(void)
{
	if (!spare.pid || waitpid(spare.pid, NULL, WNOHANG) <= 0)
		return;
	close(spare.go);
	spare = (struct spawned){ 0 };
	due = 0;
}

void spare_idle(void)
{
	due = spare.pid ? tw_now() + KEPT_NS : 0;
}

int spare_patience(void)
{
	uint64_t now = tw_now();

	if (!due)
		return -1;
	return due <= now ? 0 : (int)((due - now) / 1000000) + 1;
}

void spare_due(void)
{
	if (!due || due > tw_now())
		return;
	due = 0;
	if (spare.pid)
		spare_drop();
	else /* without one the next worker is made when it is needed */
		make(spare_socket, &spare);
}
