/* SPDX-License-Identifier: BSD-3-Clause */
/* native.c - runs the system's C compiler on the text of a chain in the background, loads what it
 * made, and publishes it to the lcores with one pointer per segment. */
#include "native.h"
#include "error.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NICENESS 10

struct tw_native {
	struct tw_native *next; /* of the published ones */
	char dir[64];           /* private: the text, the library, what the compiler said */
	pid_t pid;              /* the compiler, 0 when it has ended */
	void *library;
	bool withdrawn;
};

struct tw_native_word tw_native_table[TW_CHAINS_MAX][TW_STAGES_MAX];
static struct tw_native *published;

struct tw_native_word *tw_native_words(uint32_t chain)
{
	return chain < TW_CHAINS_MAX ? tw_native_table[chain] : NULL;
}

/* ---- the directory ---- */

static int path_of(const struct tw_native *native, const char *name, char *path, size_t size)
{
	int n = snprintf(path, size, "%s/%s", native->dir, name);

	return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static int directory_make(struct tw_native *native)
{
	static const char *const places[] = { "/tmp", "/var/tmp", "/run" };

	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(native->dir, sizeof(native->dir), "%s/tideway-%d-XXXXXX", places[i],
		         (int)getpid());
		if (mkdtemp(native->dir))
			return 0;
	}
	native->dir[0] = '\0';
	return tw_fail(errno, "no temporary directory for compiled chains: %s", strerror(errno));
}

/* The compiler's own temporary files too. */
static void directory_remove(struct tw_native *native)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir = native->dir[0] ? opendir(native->dir) : NULL;

	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
		    path_of(native, entry->d_name, path, sizeof(path)) == 0)
			unlink(path);
	if (dir)
		closedir(dir);
	if (native->dir[0])
		rmdir(native->dir);
	native->dir[0] = '\0';
}

static int text_write(const struct tw_native *native, const char *text, size_t len)
{
	char path[96];
	FILE *file;
	bool ok;

	path_of(native, "chain.c", path, sizeof(path));
	file = fopen(path, "wxe");
	if (!file)
		return tw_fail(errno, "cannot write %s: %s", path, strerror(errno));
	ok = fwrite(text, 1, len, file) == len;
	if (fclose(file) != 0 || !ok)
		return tw_fail(EIO, "cannot write %zu bytes to %s", len, path);
	return 0;
}

/* ---- the compiler ---- */

extern char **environ;

/* Its temporary files go into our directory, so that none stays behind when it is killed. */
static char **environment(char *tmpdir)
{
	size_t n = 0, kept = 0;
	char **list;

	while (environ[n])
		n++;
	list = calloc(n + 2, sizeof(*list));
	if (!list)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "TMPDIR=", 7))
			list[kept++] = environ[i];
	list[kept] = tmpdir;
	return list;
}

static int compiler_start(struct tw_native *native)
{
	char source[96], library[96], words[96], tmpdir[96];
	/* The chain is proved by the compiler in front of this one: what wraps there wraps here. */
	char *argv[] = { "cc",
		         "-O3",
		         "-march=native",
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
		         library,
		         source,
		         NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	char **env;
	int err;

	path_of(native, "chain.c", source, sizeof(source));
	path_of(native, "chain.so", library, sizeof(library));
	path_of(native, "words", words, sizeof(words));
	snprintf(tmpdir, sizeof(tmpdir), "TMPDIR=%s", native->dir);
	env = environment(tmpdir);
	if (!env)
		return tw_fail(ENOMEM, "no memory to start the C compiler");
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, words, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&files, 1, 2);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	/* A group of its own: it is ended with all its passes, and not by a Ctrl-C. */
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
	                                        POSIX_SPAWN_SETSIGDEF);
	err = posix_spawnp(&native->pid, argv[0], &files, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	free(env);
	if (err) {
		native->pid = 0;
		return tw_fail(err, "the C compiler (cc) cannot be started: %s", strerror(err));
	}
	setpriority(PRIO_PGRP, native->pid, NICENESS);
	return 0;
}

struct tw_native *tw_native_compile(const char *text, size_t len)
{
	struct tw_native *native = calloc(1, sizeof(*native));

	if (!native) {
		tw_fail(ENOMEM, "no memory to compile a chain");
		return NULL;
	}
	if (directory_make(native) < 0 || text_write(native, text, len) < 0 ||
	    compiler_start(native) < 0) {
		tw_native_free(native);
		return NULL;
	}
	return native;
}

/* The compiler's first line that says "error", else its first. */
static int refused(struct tw_native *native, int status)
{
	char path[96], line[200], said[200] = "it says nothing";
	bool first = true;
	FILE *file;

	path_of(native, "words", path, sizeof(path));
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		if (first || strstr(line, "error"))
			snprintf(said, sizeof(said), "%s", line);
		first = false;
		if (strstr(line, "error"))
			break;
	}
	if (file)
		fclose(file);
	return tw_fail(EINVAL, "the C compiler ended with status %d: %s",
	               WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), said);
}

static int load(struct tw_native *native)
{
	char path[96];

	path_of(native, "chain.so", path, sizeof(path));
	/* Bound at once: a fault inside of the loader would not be the NF's. */
	native->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	return native->library ? 1
	                       : tw_fail(ENOEXEC, "a compiled chain does not load: %s", dlerror());
}

int tw_native_poll(struct tw_native *native)
{
	int status = 0, rc;

	if (!native->pid)
		return native->library ? 1 : tw_fail(EINVAL, "the C compiler has failed before");
	rc = waitpid(native->pid, &status, WNOHANG);
	if (rc == 0 || (rc < 0 && errno == EINTR))
		return 0;
	native->pid = 0;
	rc = rc < 0 || status ? refused(native, status) : load(native);
	directory_remove(native);
	return rc;
}

void tw_native_free(struct tw_native *native)
{
	if (!native)
		return;
	if (native->pid) {
		kill(-native->pid, SIGKILL);
		while (waitpid(native->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	directory_remove(native);
	if (native->library)
		dlclose(native->library);
	free(native);
}

/* ---- lcores ---- */

int tw_native_publish(struct tw_native *native, const char *name, struct tw_native_word *word)
{
	tw_native_fn fn = (tw_native_fn)dlsym(native->library, name);
	struct tw_native *other = published;

	if (!fn)
		return tw_fail(ENOENT, "a compiled chain has no function %s", name);
	while (other && other != native)
		other = other->next;
	if (!other) {
		native->next = published;
		published = native;
	}
	__atomic_store_n(&word->fn, fn, __ATOMIC_RELEASE);
	return 0;
}

void tw_native_withdraw(void)
{
	for (unsigned c = 0; c < TW_CHAINS_MAX; c++)
		for (unsigned s = 0; s < TW_STAGES_MAX; s++)
			__atomic_store_n(&tw_native_table[c][s].fn, NULL, __ATOMIC_RELEASE);
	for (struct tw_native *native = published; native; native = native->next)
		native->withdrawn = true;
}

void tw_native_unload(void)
{
	struct tw_native **at = &published;

	while (*at) {
		struct tw_native *native = *at;

		if (!native->withdrawn) {
			at = &native->next;
			continue;
		}
		*at = native->next;
		tw_native_free(native);
	}
}

/* ---- atomics ---- */

#define ATOMIC(type)                                                                            \
	static type atomic_##type(int kind, type *at, type value, type other)                   \
	{                                                                                       \
		switch (kind) {                                                                 \
		case TW_ATOMIC_ADD:                                                             \
			return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_OR:                                                              \
			return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST);                  \
		case TW_ATOMIC_AND:                                                             \
			return __atomic_fetch_and(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_XOR:                                                             \
			return __atomic_fetch_xor(at, value, __ATOMIC_SEQ_CST);                 \
		case TW_ATOMIC_XCHG:                                                            \
			return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                \
		default:                                                                        \
			__atomic_compare_exchange_n(at, &value, other, false, __ATOMIC_SEQ_CST, \
			                            __ATOMIC_SEQ_CST);                          \
			return value;                                                           \
		}                                                                               \
	}
ATOMIC(uint32_t)
ATOMIC(uint64_t)

uint64_t tw_atomic(int kind, int bits, void *at, uint64_t value, uint64_t other)
{
	return bits == 32 ? atomic_uint32_t(kind, at, value, other)
	                  : atomic_uint64_t(kind, at, value, other);
}
