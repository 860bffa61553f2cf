/* SPDX-License-Identifier: BSD-3-Clause */
/* store_map.c - stores are made, given to other processes, and taken over there. */
#include "msg/store.h"
#include "msg/store_lock.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x3165726f74735754 /* "TWstore1" */
#define LARGEST (1ull << 40)

enum { PIECE = 256, SHARDS = 16, PIECES_MIN = 8 };

_Static_assert(sizeof(struct store_head) <= STORE_HEAD, "room in front of the shards");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tw_store *stores[TW_STORES_MAX]; /* by number - 1 */

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

/* ---- layouts ---- */

static int plan(const struct tw_store_spec *spec, struct store_layout *l)
{
	uint32_t piece = spec->piece ? spec->piece : PIECE;
	uint32_t shards = spec->shards ? spec->shards : SHARDS;
	if (!power_of_two(piece) || piece < 64 || piece > 65536)
		return tw_fail(EINVAL,
		               "store %s: piece is %u; it is a power of two from 64 to 65536",
		               spec->name, piece);
	if (!power_of_two(shards) || shards > TW_STORE_SHARDS_MAX)
		return tw_fail(EINVAL, "store %s: shards is %u; it is a power of two from 1 to %d",
		               spec->name, shards, TW_STORE_SHARDS_MAX);
	uint64_t entries = spec->entries ? spec->entries : spec->bytes / (2 * piece);
	entries = entries / shards + 1;
	/* Keys fall on shards by chance: some have more than their part. */
	if (spec->entries && shards > 1) {
		uint64_t root = 1;
		while (root * root < entries)
			root++;
		entries += 4 * root;
	}
	if (entries > 1 << 26 || spec->bytes > LARGEST)
		return tw_fail(EINVAL, "store %s: %llu bytes and %u entries are too many",
		               spec->name, (unsigned long long)spec->bytes, spec->entries);
	*l = (struct store_layout){ .shards = shards,
		                    .piece = piece,
		                    .entries = (uint32_t)entries };
	for (l->buckets = 8; l->buckets < entries;)
		l->buckets *= 2;
	uint64_t fixed = store_shard_bytes(l);
	uint64_t least = STORE_HEAD +
	                 (uint64_t)shards * ((fixed + PIECES_MIN * piece + 63) & ~63ull);
	if (spec->bytes < least)
		return tw_fail(
			EINVAL,
			"store %s: %llu bytes are too few for %u entries in %u shards; it needs "
			"at least %llu",
			spec->name, (unsigned long long)spec->bytes, spec->entries, shards,
			(unsigned long long)least);
	l->size = spec->bytes;
	l->shard_bytes = (spec->bytes - STORE_HEAD) / shards & ~63ull;
	uint64_t pieces = (l->shard_bytes - fixed) / piece;
	l->pieces = pieces > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)pieces;
	return 0;
}

/* Of a store that somebody else has made: nothing of it lies outside of the memory. */
static bool fits(const struct store_layout *l, uint64_t size)
{
	return l->size == size && power_of_two(l->shards) && l->shards <= TW_STORE_SHARDS_MAX &&
	       power_of_two(l->piece) && l->piece >= 64 && l->piece <= 65536 &&
	       power_of_two(l->buckets) && l->entries && l->entries < 1u << 27 && l->pieces &&
	       l->pieces < 1u << 31 && !(l->shard_bytes & 63) && l->shard_bytes < LARGEST &&
	       store_shard_bytes(l) <= l->shard_bytes &&
	       STORE_HEAD + l->shards * l->shard_bytes <= size;
}

/* ---- memory ---- */

static void discard(struct tw_store *s)
{
	if (!s)
		return;
	if (s->base)
		munmap(s->base, s->layout.size);
	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

/* Takes the descriptor over. */
static struct tw_store *map(int fd, uint64_t size, const char *name)
{
	struct tw_store *s = calloc(1, sizeof *s);
	void *base = s ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
	if (base == MAP_FAILED) {
		tw_fail(errno, "store %s: %llu bytes of shared memory: %s", name,
		        (unsigned long long)size, strerror(errno));
		close(fd);
		free(s);
		return NULL;
	}
	s->base = base;
	s->fd = fd;
	s->layout.size = size;
	return s;
}

/* Not to be made smaller by who has it, which would be the end of everybody else who reads it. */
static int memory(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return tw_fail(errno, "store %s: memfd_create: %s", name, strerror(errno));
	if (ftruncate(fd, (off_t)size) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	int err = errno;
	close(fd);
	return tw_fail(err, "store %s: %llu bytes of shared memory: %s", name,
	               (unsigned long long)size, strerror(err));
}

static int make(const struct tw_store_spec *spec, struct tw_store **made)
{
	struct store_layout layout;
	int rc = plan(spec, &layout);
	if (rc)
		return rc;
	int fd = memory(spec->name, layout.size);
	if (fd < 0)
		return fd;
	struct tw_store *s = map(fd, layout.size, spec->name);
	if (!s)
		return -ENOMEM;
	struct store_head *head = (struct store_head *)s->base;
	if (getrandom(s->seed, sizeof s->seed, 0) != sizeof s->seed) {
		discard(s);
		return tw_fail(EIO, "store %s: the kernel gives no random numbers", spec->name);
	}
	s->layout = layout;
	memcpy(s->name, spec->name, sizeof s->name);
	s->name[sizeof s->name - 1] = 0;
	head->layout = layout;
	memcpy(head->seed, s->seed, sizeof head->seed);
	memcpy(head->name, s->name, sizeof head->name);
	head->magic = MAGIC;
	*made = s;
	return 0;
}

/* ---- which there are ---- */

static int enter(struct tw_store *s, uint32_t number)
{
	int rc = -ENOSPC;
	pthread_mutex_lock(&lock);
	for (uint32_t i = 0; i < TW_STORES_MAX; i++) {
		if (stores[i] || (number && number != i + 1))
			continue;
		stores[i] = s;
		s->number = i + 1;
		s->users = 0;
		rc = (int)s->number;
		break;
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

int tw_store_new(const struct tw_store_spec *spec)
{
	struct tw_store *s = NULL;
	int rc = make(spec, &s);
	if (rc)
		return rc;
	tw_store_lock_ready(true);
	rc = enter(s, 0);
	if (rc > 0) {
		((struct store_head *)s->base)->number = (uint32_t)rc;
		return rc;
	}
	discard(s);
	return tw_fail(ENOSPC, "store %s: there are %d stores, and no more can be", spec->name,
	               TW_STORES_MAX);
}

int tw_store_adopt(uint32_t number, int fd)
{
	struct store_head head;
	struct stat st;
	if (fstat(fd, &st) != 0 || st.st_size < STORE_HEAD) {
		close(fd);
		return tw_fail(EINVAL, "store %u: what came is not a store", number);
	}
	struct tw_store *s = map(fd, (uint64_t)st.st_size, "from another process");
	if (!s)
		return -ENOMEM;
	memcpy(&head, s->base, sizeof head);
	if (head.magic != MAGIC || !fits(&head.layout, s->layout.size)) {
		discard(s);
		return tw_fail(EINVAL, "store %u: what came is not a store of this version",
		               number);
	}
	s->layout = head.layout;
	memcpy(s->seed, head.seed, sizeof s->seed);
	memcpy(s->name, head.name, sizeof s->name);
	s->name[sizeof s->name - 1] = 0;
	tw_store_lock_ready(false);
	if (!number)
		number = head.number;
	int rc = number && number <= TW_STORES_MAX ? enter(s, number) : -EINVAL;
	if (rc > 0)
		return rc;
	discard(s);
	return tw_fail(-rc, "store number %u: it is there already, or not one of 1 to %d", number,
	               TW_STORES_MAX);
}

struct tw_store *tw_store_open(uint32_t number)
{
	struct tw_store *s = NULL;
	pthread_mutex_lock(&lock);
	if (number && number <= TW_STORES_MAX)
		s = stores[number - 1];
	if (s)
		s->users++;
	pthread_mutex_unlock(&lock);
	if (!s)
		tw_fail(ENOENT, "there is no store with number %u in this process", number);
	return s;
}

void tw_store_close(struct tw_store *s)
{
	pthread_mutex_lock(&lock);
	bool last = --s->users == 0;
	if (last)
		stores[s->number - 1] = NULL;
	pthread_mutex_unlock(&lock);
	if (last)
		discard(s);
}

int tw_store_fd(uint32_t number)
{
	int fd = -1;
	pthread_mutex_lock(&lock);
	if (number && number <= TW_STORES_MAX && stores[number - 1])
		fd = stores[number - 1]->fd;
	pthread_mutex_unlock(&lock);
	return fd >= 0 ? fd
	               : tw_fail(EBADF, "there is no store with number %u in this process", number);
}

const char *tw_store_name(const struct tw_store *s)
{
	return s->name;
}
