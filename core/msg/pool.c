/* SPDX-License-Identifier: BSD-3-Clause */
/* pool.c - the memory of a pool: how it is laid out, made, mapped and given away. What lies where
 * follows from its size alone, so that no process believes what another one has written. */
#include "msg/pool_own.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMORY_MIN 4       /* MB */
#define MEMORY_MAX 65536   /* MB */
#define HUGE_MB 2          /* a pool is a multiple of that */
#define WORDS_PER_PAGE 512 /* owners are mapped in pages */
#define WORDS_PER_LINE 8

const uint32_t tw_pool_class_bytes[TW_POOL_CLASSES] = {
	4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20,
};

_Static_assert(sizeof(struct tw_member_board) <= POOL_BOARD_WORDS * sizeof(uint64_t),
               "a board has its place");

static uint32_t whole_mb(uint32_t memory_mb)
{
	if (memory_mb < MEMORY_MIN)
		memory_mb = MEMORY_MIN;
	if (memory_mb > MEMORY_MAX)
		memory_mb = MEMORY_MAX;
	return (memory_mb + HUGE_MB - 1) / HUGE_MB * HUGE_MB;
}

/* An eighth each for the largest two, a sixteenth for the smallest; of the rest three fifths are
 * 16 K, where heads and small bodies are, and the others 64 K, what a read brings. */
static void share_out(struct pool_layout *l, uint64_t kb)
{
	uint64_t kb_of[TW_POOL_CLASSES];

	kb_of[4] = kb / 8 < 1024 ? 1024 : kb / 8 / 1024 * 1024;
	kb_of[3] = kb / 8 / 256 * 256;
	kb_of[0] = kb / 16 / 4 * 4;
	kb -= kb_of[4] + kb_of[3] + kb_of[0];
	kb_of[1] = kb * 3 / 5 / 16 * 16;
	kb_of[2] = (kb - kb_of[1]) / 64 * 64;
	for (int c = 0; c < TW_POOL_CLASSES; c++)
		l->count[c] = kb_of[c] * 1024 / tw_pool_class_bytes[c];
}

static uint32_t line_up(uint32_t words, uint32_t to)
{
	return (words + to - 1) / to * to;
}

static void lay_out(struct pool_layout *l, uint32_t memory_mb)
{
	uint64_t at = 0;

	memset(l, 0, sizeof(*l));
	l->bytes = (uint64_t)whole_mb(memory_mb) << 20;
	share_out(l, l->bytes >> 10);
	/* The largest first, so that all lie at multiples of their size. */
	for (int c = TW_POOL_CLASSES - 1; c >= 0; c--) {
		l->first[c] = l->blocks;
		l->base[c] = at;
		l->blocks += l->count[c];
		at += (uint64_t)l->count[c] * tw_pool_class_bytes[c];
	}
	l->words = line_up(l->blocks, WORDS_PER_LINE);
	for (int c = 0; c < TW_POOL_CLASSES; c++) {
		l->hints[c] = l->words;
		l->hint_words[c] = (l->count[c] + 63) / 64;
		l->words += line_up(l->hint_words[c], WORDS_PER_LINE);
	}
	l->figures = l->words;
	l->words = line_up(l->words + POOL_FIGURES, WORDS_PER_LINE);
	l->boards = l->words;
	l->words = line_up(l->words + TW_MEMBERS_MAX * POOL_BOARD_WORDS, WORDS_PER_PAGE);
}

uint32_t tw_pool_blocks_for(uint32_t memory_mb)
{
	struct pool_layout l;

	lay_out(&l, memory_mb);
	return l.words;
}

void tw_pool_places(uint32_t memory_mb, uint32_t *blocks, uint32_t *boards, uint32_t *board_words)
{
	struct pool_layout l;

	lay_out(&l, memory_mb);
	*blocks = l.blocks;
	*boards = l.boards;
	*board_words = POOL_BOARD_WORDS;
}

static int memory_file(const char *name, const char *what, uint64_t bytes, unsigned flags)
{
	char label[TW_NAME_LEN + 32];
	int fd;

	snprintf(label, sizeof(label), "tideway-%s-%s", name, what);
	fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
	if (fd < 0)
		return -errno;
	/* 0600: a process of another user that gets a descriptor for reading cannot open the file
	 * behind it for writing. Sealed: nobody can cut it off under the others' feet. */
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

int pool_memory_file(const char *name, const char *what, uint64_t bytes)
{
	int fd = memory_file(name, what, bytes, 0);

	return fd < 0 ? tw_fail(-fd, "%s: no shared memory of %llu bytes for %s: %s", name,
	                        (unsigned long long)bytes, what, strerror(-fd))
	              : fd;
}

int pool_readonly(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int map_owners(struct tw_pool *pool)
{
	void *at = mmap(NULL, (size_t)pool->l.words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
	                MAP_SHARED, pool->fds.owners, 0);

	if (at == MAP_FAILED)
		return tw_fail(errno, "%s: the pool's owners cannot be mapped: %s", pool->name,
		               strerror(errno));
	pool->words = at;
	return 0;
}

static int map_blocks(struct tw_pool *pool, int fd, bool readonly)
{
	void *at = mmap(NULL, pool->l.bytes, PROT_READ | (readonly ? 0 : PROT_WRITE), MAP_SHARED,
	                fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	pool->data = at;
	return 0;
}

/* Hugepages are reserved by mapping: it fails here, and not when they are touched. */
static int make_blocks(struct tw_pool *pool)
{
	int rc;

	pool->fds.blocks = memory_file(pool->name, "pool", pool->l.bytes,
	                               MFD_HUGETLB | MFD_HUGE_2MB);
	if (pool->fds.blocks >= 0) {
		rc = map_blocks(pool, pool->fds.blocks, false);
		if (!rc) {
			pool->huge = pool->l.bytes >> 21;
			return 0;
		}
		close(pool->fds.blocks);
	}
	pool->fds.blocks = pool_memory_file(pool->name, "pool", pool->l.bytes);
	if (pool->fds.blocks < 0)
		return pool->fds.blocks;
	rc = map_blocks(pool, pool->fds.blocks, false);
	return rc < 0 ? tw_fail(-rc, "%s: %llu MB cannot be mapped: %s; less memory_mb?",
	                        pool->name, (unsigned long long)pool->l.bytes >> 20, strerror(-rc))
	              : 0;
}

static struct tw_pool *pool_alloc(const char *name, uint32_t memory_mb)
{
	struct tw_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	snprintf(pool->name, sizeof(pool->name), "%s", name);
	pool->fds = (struct tw_pool_fds){ -1, -1, -1 };
	lay_out(&pool->l, memory_mb);
	/* Members begin at different places, so that they do not meet in a word of hints. */
	for (uint32_t m = 0; m < TW_MEMBERS_MAX; m++)
		for (int c = 0; c < TW_POOL_CLASSES; c++)
			pool->cursor[m][c] = pool->l.hint_words[c] ? m * 5 % pool->l.hint_words[c]
			                                           : 0;
	return pool;
}

int tw_pool_create(struct tw_pool **out, const char *name, uint32_t memory_mb, int owners_fd)
{
	struct tw_pool *pool = pool_alloc(name, memory_mb);
	int rc;

	*out = NULL;
	if (!pool)
		return tw_fail(ENOMEM, "%s: no memory for a pool", name);
	if (owners_fd >= 0) {
		pool->fds.owners = fcntl(owners_fd, F_DUPFD_CLOEXEC, 3);
		rc = pool->fds.owners < 0 ? tw_fail(errno, "%s: descriptor %d: %s", name, owners_fd,
		                                    strerror(errno))
		                          : 0;
	} else {
		pool->fds.owners = pool_memory_file(name, "owners",
		                                    (uint64_t)pool->l.words * sizeof(uint64_t));
		rc = pool->fds.owners < 0 ? pool->fds.owners : 0;
	}
	if (!rc)
		rc = map_owners(pool);
	if (!rc)
		rc = make_blocks(pool);
	if (rc) {
		tw_pool_close(pool);
		return rc;
	}
	/* Without /proc there is none: functions that only read cannot be had then. */
	pool->fds.blocks_readonly = pool_readonly(pool->fds.blocks);
	for (uint32_t i = 0; i < pool->l.blocks; i++)
		atomic_init(&pool->words[i], TW_OWNER_WORD(1, TW_BLOCK_FREE, 0));
	tw_pool_mend(pool);
	*out = pool;
	return 0;
}

int tw_pool_attach(struct tw_pool **out, int owners_fd, int blocks_fd, bool readonly)
{
	struct tw_pool *pool;
	struct stat st;
	int rc;

	*out = NULL;
	if (fstat(blocks_fd, &st) < 0)
		return tw_fail(errno, "the pool's descriptor %d: %s", blocks_fd, strerror(errno));
	if (st.st_size <= 0 || st.st_size >> 20 > MEMORY_MAX ||
	    st.st_size != (off_t)whole_mb(st.st_size >> 20) << 20)
		return tw_fail(EINVAL, "descriptor %d is not a pool: it has %lld bytes", blocks_fd,
		               (long long)st.st_size);
	pool = pool_alloc("pool", st.st_size >> 20);
	if (!pool)
		return tw_fail(ENOMEM, "no memory for a pool");
	pool->readonly = readonly;
	pool->fds.owners = fcntl(owners_fd, F_DUPFD_CLOEXEC, 3);
	rc = pool->fds.owners < 0
	             ? tw_fail(errno, "the owners' descriptor %d: %s", owners_fd, strerror(errno))
	             : map_owners(pool);
	if (!rc) {
		rc = map_blocks(pool, blocks_fd, readonly);
		if (rc)
			tw_fail(-rc, "the pool cannot be mapped: %s", strerror(-rc));
	}
	if (rc) {
		tw_pool_close(pool);
		return rc;
	}
	*out = pool;
	return 0;
}

void tw_pool_close(struct tw_pool *pool)
{
	if (!pool)
		return;
	if (pool->words)
		munmap(pool->words, (size_t)pool->l.words * sizeof(uint64_t));
	if (pool->data)
		munmap(pool->data, pool->l.bytes);
	if (pool->fds.owners >= 0)
		close(pool->fds.owners);
	if (pool->fds.blocks >= 0)
		close(pool->fds.blocks);
	if (pool->fds.blocks_readonly >= 0)
		close(pool->fds.blocks_readonly);
	free(pool);
}

void tw_pool_descriptors(const struct tw_pool *pool, struct tw_pool_fds *fds)
{
	*fds = pool->fds;
}

struct tw_member_board *tw_pool_board(struct tw_pool *pool, uint32_t member)
{
	return member < TW_MEMBERS_MAX ? (struct tw_member_board *)&pool
	                                         ->words[pool->l.boards + member * POOL_BOARD_WORDS]
	                               : NULL;
}
