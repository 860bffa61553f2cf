/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_map.c - maps of the kernel: create, access, batches, memory of arrays. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define SAME(ours, kernels) _Static_assert((int)(ours) == (int)(kernels), #kernels)

SAME(TW_BPF_HASH, BPF_MAP_TYPE_HASH);
SAME(TW_BPF_ARRAY, BPF_MAP_TYPE_ARRAY);
SAME(TW_BPF_PROG_ARRAY, BPF_MAP_TYPE_PROG_ARRAY);
SAME(TW_BPF_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_HASH);
SAME(TW_BPF_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY);
SAME(TW_BPF_LRU_HASH, BPF_MAP_TYPE_LRU_HASH);
SAME(TW_BPF_LRU_PERCPU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH);
SAME(TW_BPF_LPM_TRIE, BPF_MAP_TYPE_LPM_TRIE);
SAME(TW_BPF_DEVMAP, BPF_MAP_TYPE_DEVMAP);
SAME(TW_BPF_SOCKMAP, BPF_MAP_TYPE_SOCKMAP);
SAME(TW_BPF_CPUMAP, BPF_MAP_TYPE_CPUMAP);
SAME(TW_BPF_XSKMAP, BPF_MAP_TYPE_XSKMAP);
SAME(TW_BPF_SOCKHASH, BPF_MAP_TYPE_SOCKHASH);
SAME(TW_BPF_REUSEPORT_SOCKARRAY, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
SAME(TW_BPF_QUEUE, BPF_MAP_TYPE_QUEUE);
SAME(TW_BPF_STACK, BPF_MAP_TYPE_STACK);
SAME(TW_BPF_DEVMAP_HASH, BPF_MAP_TYPE_DEVMAP_HASH);
SAME(TW_BPF_RINGBUF, BPF_MAP_TYPE_RINGBUF);
SAME(TW_BPF_BLOOM_FILTER, BPF_MAP_TYPE_BLOOM_FILTER);
SAME(TW_BPF_NO_PREALLOC, BPF_F_NO_PREALLOC);
SAME(TW_BPF_RDONLY_PROG, BPF_F_RDONLY_PROG);
SAME(TW_BPF_MMAPABLE, BPF_F_MMAPABLE);
SAME(TW_BPF_NOEXIST, BPF_NOEXIST);
SAME(TW_BPF_EXIST, BPF_EXIST);
SAME(TW_BPF_LOCK, BPF_F_LOCK);
SAME(TW_BPF_NAME_LEN, BPF_OBJ_NAME_LEN);

/* What libbpf would print is in the sentences and the verifier's log already. */
static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

static void prepare_once(void)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &all);
	libbpf_set_print(quiet);
}

void tw_bpf_prepare(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare_once);
}

void tw_bpf_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

int tw_bpf_cpus(void)
{
	return libbpf_num_possible_cpus();
}

int tw_bpf_ifindex(const char *name)
{
	unsigned index = if_nametoindex(name);

	return index ? (int)index
	             : tw_fail(ENODEV, "there is no interface %s in this network namespace", name);
}

int tw_bpf_ifname(int ifindex, char *name, size_t size)
{
	char text[IF_NAMESIZE];

	if (!if_indextoname(ifindex, text))
		return tw_fail(errno,
		               "there is no interface with index %d in this network namespace",
		               ifindex);
	snprintf(name, size, "%s", text);
	return 0;
}

int tw_bpf_map_create(const struct tw_bpf_map_spec *spec)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .btf_fd = spec->btf,
	            .btf_key_type_id = spec->key_type, .btf_value_type_id = spec->value_type,
	            .inner_map_fd = spec->inner, .map_flags = spec->flags, .map_extra = spec->extra,
	            .map_ifindex = spec->ifindex);
	int fd;

	tw_bpf_prepare();
	fd = bpf_map_create(spec->kind, spec->name, spec->key_size, spec->value_size, spec->entries,
	                    &opts);
	if (fd >= 0)
		return fd;
	if (fd == -EPERM)
		return tw_fail(EPERM,
		               "the kernel does not let this process make maps: run as root, or "
		               "with CAP_BPF and CAP_NET_ADMIN");
	if (fd == -ENOMEM || fd == -E2BIG)
		return tw_fail(-fd, "no memory for %u entries of %u + %u bytes (%s)", spec->entries,
		               spec->key_size, spec->value_size, strerror(-fd));
	return tw_fail(-fd,
	               "the kernel refuses it: %s (key %u bytes, value %u bytes, %u entries, "
	               "flags 0x%x); is the kind of map in this kernel? tideway doctor tells",
	               strerror(-fd), spec->key_size, spec->value_size, spec->entries, spec->flags);
}

int tw_bpf_map_by_id(uint32_t id)
{
	int fd = bpf_map_get_fd_by_id(id);

	return fd >= 0 ? fd : tw_fail(-fd, "map %u: %s", id, strerror(-fd));
}

int tw_bpf_map_get_info(int map, struct tw_bpf_map_info *info)
{
	struct bpf_map_info got = { 0 };
	__u32 size = sizeof(got);
	FILE *file;
	char line[128];
	int rc = bpf_obj_get_info_by_fd(map, &got, &size);

	memset(info, 0, sizeof(*info));
	if (rc < 0)
		return tw_fail(-rc, "descriptor %d is not a map's: %s", map, strerror(-rc));
	snprintf(info->name, sizeof(info->name), "%s", got.name);
	info->kind = got.type;
	info->id = got.id;
	info->key_size = got.key_size;
	info->value_size = got.value_size;
	info->entries = got.max_entries;
	info->flags = got.map_flags;
	info->btf_id = got.btf_id;
	info->key_type = got.btf_key_type_id;
	info->value_type = got.btf_value_type_id;
	snprintf(line, sizeof(line), "/proc/self/fdinfo/%d", map);
	file = fopen(line, "re"); /* the only place that tells */
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "frozen: %u", &info->frozen) != 1)
			sscanf(line, "memlock: %" SCNu64, &info->bytes);
	}
	if (file)
		fclose(file);
	return 0;
}

/* -ENOENT is an answer, not a failure, and must not cost a text. */
static int done(int rc, int map, const char *what)
{
	if (rc >= 0 || rc == -ENOENT)
		return rc;
	return tw_fail(-rc, "%s of the map at descriptor %d: %s", what, map, strerror(-rc));
}

int tw_bpf_map_lookup(int map, const void *key, void *value, uint64_t flags)
{
	return done(bpf_map_lookup_elem_flags(map, key, value, flags), map, "look-up");
}

int tw_bpf_map_take(int map, const void *key, void *value)
{
	return done(bpf_map_lookup_and_delete_elem(map, key, value), map, "look-up and delete");
}

int tw_bpf_map_update(int map, const void *key, const void *value, uint64_t flags)
{
	return done(bpf_map_update_elem(map, key, value, flags), map, "update");
}

int tw_bpf_map_delete(int map, const void *key)
{
	return done(bpf_map_delete_elem(map, key), map, "delete");
}

int tw_bpf_map_next_key(int map, const void *key, void *next)
{
	return done(bpf_map_get_next_key(map, key, next), map, "walk");
}

int tw_bpf_map_freeze(int map)
{
	return done(bpf_map_freeze(map), map, "freeze");
}

int tw_bpf_map_read_batch(int map, void *cursor, bool first, uint64_t flags, void *keys,
                          void *values, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts, .elem_flags = flags);
	int rc = bpf_map_lookup_batch(map, first ? NULL : cursor, cursor, keys, values, count,
	                              &opts);

	return done(rc, map, "batched look-up");
}

int tw_bpf_map_write_batch(int map, const void *keys, const void *values, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	return done(bpf_map_update_batch(map, keys, values, count, &opts), map, "batched update");
}

int tw_bpf_map_delete_batch(int map, const void *keys, uint32_t *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	return done(bpf_map_delete_batch(map, keys, count, &opts), map, "batched delete");
}

void *tw_bpf_map_mmap(int map, size_t size, bool writable)
{
	void *memory = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, map,
	                    0);

	if (memory != MAP_FAILED)
		return memory;
	tw_fail(errno, "the map at descriptor %d cannot be mapped into memory: %s", map,
	        strerror(errno));
	return NULL;
}

void tw_bpf_map_munmap(void *memory, size_t size)
{
	munmap(memory, size);
}

void tw_bpf_atomic_add(void *value, uint32_t size, int64_t n)
{
	if (size == 1)
		__atomic_fetch_add((uint8_t *)value, n, __ATOMIC_RELAXED);
	else if (size == 2)
		__atomic_fetch_add((uint16_t *)value, n, __ATOMIC_RELAXED);
	else if (size == 4)
		__atomic_fetch_add((uint32_t *)value, n, __ATOMIC_RELAXED);
	else if (size == 8)
		__atomic_fetch_add((uint64_t *)value, n, __ATOMIC_RELAXED);
}
