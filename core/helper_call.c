/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_call.c - the engine's end of its helper process: starts it, asks it, takes its answers. */
#include "abi.h"
#include "passing.h"
#include "error.h"
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 20000 /* a busy machine may not run it for seconds */
#define STOP_MS 10000   /* it has files to remove, on a machine that may be busy */

struct tw_helper_job {
	struct tw_helper_job *next;
	struct tw_helper_reply reply; /* its id is the request's */
	int object;                   /* the library, -1: none */
	bool answered;
};

static struct tw_helper_job *jobs; /* compilations that are not forgotten */
static pid_t helper;               /* 0: none */
static int sock = -1;
static uint32_t last_id;

/* ---- the process ---- */

extern char **environ;

/* Every signal as a new process has it; our end of the socket stays ours, being CLOEXEC. */
static int spawn(int theirs)
{
	static char *const argv[] = { (char *)TW_HELPER_NAME, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t all;
	int err;

	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&files, 1, 2);
	posix_spawn_file_actions_adddup2(&files, theirs, TW_HELPER_SOCKET);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	err = posix_spawn(&helper, "/proc/self/exe", &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return err;
}

int tw_helper_start(void)
{
	int pair[2], err;

	if (helper)
		return 0;
	if (tw_privileges_dropped())
		return tw_fail(EPERM, "the helper process has ended, and an engine without rights "
		                      "cannot start one; start the engine again");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return tw_fail(errno, "no socket for the helper process: %s", strerror(errno));
	/* dup2() onto itself would keep CLOEXEC: their end must not have that number. */
	err = fcntl(pair[1], F_DUPFD_CLOEXEC, TW_HELPER_SOCKET + 1);
	close(pair[1]);
	if (err >= 0) {
		pair[1] = err;
		err = spawn(pair[1]);
		close(pair[1]);
	} else {
		err = errno;
	}
	if (err) {
		close(pair[0]);
		helper = 0;
		return tw_fail(err, "the helper process cannot be started: %s", strerror(err));
	}
	sock = pair[0];
	return 0;
}

int tw_helper_pid(void)
{
	return helper;
}

/* It is gone: nothing will be answered any more. */
static void gone(void)
{
	if (sock >= 0)
		close(sock);
	sock = -1;
	for (struct tw_helper_job *job = jobs; job; job = job->next) {
		if (job->answered)
			continue;
		job->answered = true;
		job->reply.status = -EPIPE;
		strcpy(job->reply.words, "the helper process has ended");
	}
	if (helper)
		waitpid(helper, NULL, WNOHANG);
	helper = 0;
}

void tw_helper_stop(void)
{
	pid_t pid = helper;

	if (!pid)
		return;
	helper = 0;
	gone();
	/* It ends as soon as it sees the socket closed, with its compiler and its files. */
	for (int i = 0; i < STOP_MS / 2; i++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		usleep(2000);
	}
	/* An engine without rights may signal nobody; the end of this one will then. */
	if (kill(pid, SIGKILL) == 0)
		waitpid(pid, NULL, 0);
}

/* ---- messages ---- */

static int ask(struct tw_helper_request *request, int fd)
{
	int rc = tw_helper_start();

	if (rc < 0)
		return rc;
	if (tw_pass(sock, request, sizeof(*request), &fd, fd >= 0, MSG_DONTWAIT) < 0) {
		int err = errno;

		if (err == EPIPE || err == ECONNRESET)
			gone();
		return tw_fail(err, "the helper process takes no request: %s", strerror(err));
	}
	return 0;
}

/* The next answer, if one is there: to its job, or into `mine` when it is that one's. */
static bool take(struct tw_helper_job *mine)
{
	struct tw_helper_reply reply;
	struct tw_helper_job *job = mine;
	ssize_t n;
	int fd;

	if (sock < 0)
		return false;
	n = tw_passed(sock, &reply, sizeof(reply), &fd, 1, MSG_DONTWAIT);
	if (n != sizeof(reply)) {
		if (n >= 0 || (errno != EAGAIN && errno != EINTR))
			gone();
		return false;
	}
	if (!job || job->reply.id != reply.id)
		for (job = jobs; job && job->reply.id != reply.id; job = job->next)
			;
	if (!job) { /* forgotten meanwhile */
		if (fd >= 0)
			close(fd);
		return true;
	}
	job->reply = reply;
	job->reply.words[sizeof(reply.words) - 1] = '\0';
	job->object = fd;
	job->answered = true;
	return true;
}

/* A short question, with a descriptor or -1: the answer's status, with its descriptor. */
static int question_with(int with, uint32_t op, uint32_t kind, uint32_t argument, int *fd)
{
	struct tw_helper_request request = { op, ++last_id, kind, argument, { { 0 } } };
	struct tw_helper_job job = { .reply.id = request.id, .object = -1 };
	uint64_t until = tw_now() + ANSWER_MS * 1000000ull;
	int rc = ask(&request, with);

	if (rc < 0)
		return rc;
	while (!job.answered && sock >= 0 && tw_now() < until) {
		struct pollfd set = { .fd = sock, .events = POLLIN };

		poll(&set, 1, ANSWER_MS);
		while (!job.answered && take(&job))
			;
	}
	if (!job.answered)
		return tw_fail(ETIMEDOUT, "the helper process does not answer");
	*fd = job.object;
	return job.reply.status;
}

static int question(uint32_t op, uint32_t kind, uint32_t argument, int *fd)
{
	return question_with(-1, op, kind, argument, fd);
}

int tw_helper_bpf_by_id(uint32_t command, uint32_t id)
{
	int fd = -1, rc = question(TW_HELPER_BPF_ID, command, id, &fd);

	return rc < 0 ? rc : fd >= 0 ? fd : -ENOENT;
}

int tw_helper_next_link(uint32_t id)
{
	int fd;

	return question(TW_HELPER_NEXT_LINK, 0, id, &fd);
}

int tw_helper_holder(uint32_t program)
{
	int fd;

	return question(TW_HELPER_HOLDER, 0, program, &fd);
}

int tw_helper_workers(void)
{
	int pair[2], fd = -1, rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return tw_fail(errno, "no socket for workers: %s", strerror(errno));
	rc = question_with(pair[1], TW_HELPER_WORKERS, 0, 0, &fd);
	if (rc == -EPIPE || rc == -ECONNRESET) /* it has ended unseen: another one is started */
		rc = question_with(pair[1], TW_HELPER_WORKERS, 0, 0, &fd);
	close(pair[1]);
	if (fd >= 0)
		close(fd);
	if (rc == 0)
		return pair[0];
	close(pair[0]);
	return rc;
}

/* ---- compilations ---- */

/* Where the compiler may run: on CPUs that this process may use and no lcore has. Empty: anywhere.
 */
static void spare_cpus(cpu_set_t *cpus)
{
	const struct tw_stats *stats = tw_stats();

	CPU_ZERO(cpus);
	if (sched_getaffinity(0, sizeof(*cpus), cpus) < 0 || !stats)
		return;
	for (unsigned i = 0; i < TW_LCORES_MAX; i++)
		if (stats->lcore[i].cpu >= 0)
			CPU_CLR(stats->lcore[i].cpu, cpus);
}

static int text_descriptor(const char *text, size_t len)
{
	int fd = memfd_create("tideway-text", MFD_CLOEXEC);
	size_t at = 0;

	while (fd >= 0 && at < len) {
		ssize_t n = write(fd, text + at, len - at);

		if (n < 0) {
			int err = errno;

			close(fd);
			errno = err;
			return -1;
		}
		at += n;
	}
	return fd;
}

struct tw_helper_job *tw_helper_compile(const char *text, size_t len)
{
	struct tw_helper_request request = { TW_HELPER_COMPILE, ++last_id, 0, 0, { { 0 } } };
	struct tw_helper_job *job = calloc(1, sizeof(*job));
	int fd, rc;

	if (!job) {
		tw_fail(ENOMEM, "no memory to compile a chain");
		return NULL;
	}
	fd = text_descriptor(text, len);
	if (fd < 0) {
		tw_fail(errno, "no memory for %zu bytes of C: %s", len, strerror(errno));
		free(job);
		return NULL;
	}
	spare_cpus(&request.cpus);
	rc = ask(&request, fd);
	close(fd);
	if (rc < 0) {
		free(job);
		return NULL;
	}
	job->reply.id = request.id;
	job->object = -1;
	job->next = jobs;
	jobs = job;
	return job;
}

int tw_helper_compiled(struct tw_helper_job *job, int *library)
{
	while (!job->answered && take(NULL))
		;
	if (!job->answered)
		return 0;
	if (job->reply.status < 0)
		return tw_fail(-job->reply.status, "%s", job->reply.words);
	*library = job->object;
	job->object = -1;
	return *library >= 0 ? 1 : tw_fail(EINVAL, "the C compiler has failed before");
}

void tw_helper_forget(struct tw_helper_job *job)
{
	struct tw_helper_request request = { TW_HELPER_CANCEL, 0, 0, 0, { { 0 } } };
	struct tw_helper_job **at = &jobs;

	if (!job)
		return;
	while (*at && *at != job)
		at = &(*at)->next;
	if (*at)
		*at = job->next;
	request.id = job->reply.id;
	if (!job->answered && helper)
		ask(&request, -1);
	if (job->object >= 0)
		close(job->object);
	free(job);
}
