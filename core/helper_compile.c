/* SPDX-License-Identifier: BSD-3-Clause */
/* helper_compile.c - in the helper process: the system's C compiler on one text, under a user id
 * that nobody else has, in a directory that is gone when it has ended. */
#include "abi.h"
#include "error.h"
#include "helper.h"
#include "privilege.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NICENESS 10
#define PATIENCE_S 60
#define TEXT_MAX (64u << 20)
#define LIBRARY_MAX (64u << 20)
#define MEMORY_MAX (4ull << 30)
#define NOT_STARTED 127
#define UID_BASE 2000000000u /* plus the engine's pid: an id that no account has */

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

static struct {
	pid_t pid; /* 0: none runs */
	int words; /* what it says */
	char dir[64];
	uint64_t deadline;
} compiler = { .words = -1 };

/* ---- the directory ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	remove(path);
	return 0;
}

static void directory_remove(void)
{
	if (compiler.dir[0])
		nftw(compiler.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	compiler.dir[0] = '\0';
}

static int directory_make(int engine)
{
	static const char *const places[] = { "/tmp", "/var/tmp", "/run" };

	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(compiler.dir, sizeof(compiler.dir), "%s/tideway-%d-XXXXXX", places[i],
		         engine);
		if (mkdtemp(compiler.dir))
			return 0;
	}
	compiler.dir[0] = '\0';
	return tw_fail(errno, "no temporary directory for compiled chains: %s", strerror(errno));
}

/* A file of ours in it; the compiler may not write there. */
static int file_make(const char *name, char *path, size_t size)
{
	snprintf(path, size, "%s/%s", compiler.dir, name);
	return open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
}

static int copy(int from, int to, uint64_t limit)
{
	struct stat st;
	off_t at = 0;

	if (fstat(from, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > limit)
		return -EFBIG;
	while (at < st.st_size) {
		ssize_t n = sendfile(to, from, &at, st.st_size - at);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

static int text_copy(int text)
{
	char path[96];
	int fd = file_make("chain.c", path, sizeof(path)), rc;

	if (fd < 0)
		return tw_fail(errno, "cannot write %s: %s", path, strerror(errno));
	rc = copy(text, fd, TEXT_MAX);
	close(fd);
	return rc < 0 ? tw_fail(-rc, "cannot write %s: %s", path, strerror(-rc)) : 0;
}

/* ---- the compiler ---- */

static void limit(int resource, rlim_t most)
{
	struct rlimit r = { most, most };

	setrlimit(resource, &r);
}

/* An id of its own; where ids are few (a user namespace), that of nobody. */
static void become_nobody(uid_t uid)
{
	const uid_t ids[] = { uid, 65534 };

	if (geteuid() != 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		if (chown(compiler.dir, ids[i], ids[i]) < 0 || setgroups(0, NULL) < 0 ||
		    setresgid(ids[i], ids[i], ids[i]) < 0 || setresuid(ids[i], ids[i], ids[i]) < 0)
			continue;
		return;
	}
	dprintf(2, "no user id to run it under: %s\n", strerror(errno));
	_exit(NOT_STARTED);
}

/* The chain is proved by the compiler in front of this one: what wraps there wraps here. */
static char *const cc_words[] = { "cc",
	                          "-O3",
	                          "-march=native",
	                          "-mtune=generic", /* spills to memory, not to SSE */
	                          "-fwrapv",
	                          "-fno-strict-aliasing",
	                          "-shared",
	                          "-fPIC",
	                          "-fno-plt",
	                          "-w",
	                          "-x",
	                          "c",
	                          "-pipe",
	                          "-o",
	                          "chain.so",
	                          "chain.c",
	                          NULL };

const char *tw_native_command(void)
{
	static char text[256];

	text[0] = '\0';
	for (unsigned i = 0; cc_words[i]; i++) {
		strcat(text, i ? " " : "");
		strcat(text, cc_words[i]);
	}
	return text;
}

static void __attribute__((noreturn)) compiler_main(int words, const cpu_set_t *cpus, int engine)
{
	char tmpdir[96], path[4096];
	const char *found = getenv("PATH");
	char *env[] = { path, tmpdir, "LC_ALL=C", NULL };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	sigset_t none;

	snprintf(path, sizeof(path), "PATH=%s", found ? found : "/usr/bin:/bin");
	/* Its temporary files go into our directory, so that none stays behind. */
	snprintf(tmpdir, sizeof(tmpdir), "TMPDIR=%s", compiler.dir);
	setpgid(0, 0); /* ended with all its passes */
	dup2(null, 0);
	dup2(words, 1);
	dup2(words, 2);
	setpriority(PRIO_PROCESS, 0, NICENESS);
	if (CPU_COUNT(cpus))
		sched_setaffinity(0, sizeof(*cpus), cpus);
	become_nobody(UID_BASE + engine);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	limit(RLIMIT_CPU, PATIENCE_S);
	limit(RLIMIT_FSIZE, LIBRARY_MAX);
	limit(RLIMIT_NOFILE, 256);
	limit(RLIMIT_AS, MEMORY_MAX);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (chdir(compiler.dir) < 0 || tw_calls_of_compiler() < 0)
		dprintf(2, "%s\n", tw_error());
	else if (execvpe(cc_words[0], cc_words, env) < 0)
		dprintf(2, "%s\n", strerror(errno));
	_exit(NOT_STARTED);
}

int tw_compile_begin(int text, const cpu_set_t *cpus, int engine)
{
	char path[96];
	int rc = directory_make(engine);

	if (rc < 0)
		return rc;
	rc = text_copy(text);
	if (rc < 0)
		goto out;
	compiler.words = file_make("words", path, sizeof(path));
	if (compiler.words < 0) {
		rc = tw_fail(errno, "cannot write %s: %s", path, strerror(errno));
		goto out;
	}
	compiler.pid = fork();
	if (compiler.pid == 0)
		compiler_main(compiler.words, cpus, engine);
	if (compiler.pid > 0) {
		setpgid(compiler.pid, compiler.pid);
		compiler.deadline = tw_now() + PATIENCE_S * 1000000000ull;
		return 0;
	}
	rc = tw_fail(errno, "no process for the C compiler: %s", strerror(errno));
out:
	tw_compile_stop();
	return rc;
}

int tw_compile_patience(void)
{
	uint64_t now = tw_now();

	if (!compiler.pid)
		return -1;
	return now < compiler.deadline ? (int)((compiler.deadline - now) / 1000000) + 1 : 0;
}

void tw_compile_stop(void)
{
	if (compiler.pid > 0) {
		kill(-compiler.pid, SIGKILL);
		while (waitpid(compiler.pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	compiler.pid = 0;
	if (compiler.words >= 0)
		close(compiler.words);
	compiler.words = -1;
	directory_remove();
}

/* ---- what it made ---- */

/* The compiler's first line that says "error", else its first. */
static void first_words(char *said, size_t size)
{
	FILE *file = fdopen(dup(compiler.words), "r");
	bool first = true;
	char line[160]; /* as much as is wanted */

	snprintf(said, size, "it says nothing");
	if (file)
		rewind(file);
	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		if (first || strstr(line, "error"))
			snprintf(said, size, "%s", line);
		first = false;
		if (strstr(line, "error"))
			break;
	}
	if (file)
		fclose(file);
}

static int refused(int status)
{
	char said[160];

	first_words(said, sizeof(said));
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_STARTED)
		return tw_fail(ENOENT, "the C compiler (cc) cannot be started: %s", said);
	return tw_fail(EINVAL, "the C compiler ended with status %d: %s",
	               WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), said);
}

/* A copy that nobody can change any more, so that no path is trusted. */
static int library_copy(void)
{
	char path[96];
	int from, to, rc;

	snprintf(path, sizeof(path), "%s/chain.so", compiler.dir);
	from = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0)
		return tw_fail(errno, "the C compiler left no library: %s", strerror(errno));
	to = memfd_create("tideway-chain", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (to < 0 && errno == EINVAL) /* before Linux 6.3 */
		to = memfd_create("tideway-chain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	rc = to < 0 ? -errno : copy(from, to, LIBRARY_MAX);
	close(from);
	if (rc == 0 &&
	    fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		rc = -errno;
	if (rc == 0)
		return to;
	if (to >= 0)
		close(to);
	return tw_fail(-rc, "a compiled chain cannot be kept: %s", strerror(-rc));
}

bool tw_compile_ended(int *library, struct tw_helper_reply *reply)
{
	int status = 0;
	pid_t pid = waitpid(compiler.pid, &status, WNOHANG);

	*library = -1;
	if (pid == 0 && tw_now() < compiler.deadline)
		return false;
	if (pid == 0) {
		*library = tw_fail(ETIMEDOUT, "the C compiler ran for more than %d s and is ended",
		                   PATIENCE_S);
	} else {
		kill(-compiler.pid, SIGKILL); /* passes that outlive it */
		compiler.pid = 0;
		*library = pid < 0 || status ? refused(status) : library_copy();
	}
	reply->status = *library < 0 ? *library : 0;
	if (*library < 0)
		snprintf(reply->words, sizeof(reply->words), "%.200s", tw_error());
	tw_compile_stop();
	return true;
}
