/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_object.c - ELF objects of other compilers: opened, changed and loaded by libbpf. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

struct tw_bpf_object {
	struct bpf_object *object;
	char *log; /* filled by the kernel when it refuses a program */
};

struct tw_bpf_object *tw_bpf_object_open(const char *path)
{
	struct tw_bpf_object *o = calloc(1, sizeof(*o));
	int err;

	tw_bpf_prepare();
	/* Pages that the kernel does not write cost nothing. */
	if (o)
		o->log = calloc(1, TW_BPF_LOG_MAX);
	if (!o || !o->log) {
		tw_fail(ENOMEM, "no memory to open %s", path);
		goto fail;
	}
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_buf = o->log,
	            .kernel_log_size = TW_BPF_LOG_MAX);
	o->object = bpf_object__open_file(path, &opts);
	err = libbpf_get_error(o->object);
	if (!err)
		return o;
	o->object = NULL;
	tw_fail(-err, "%s cannot be opened: %s%s", path, strerror(-err),
	        err == -LIBBPF_ERRNO__FORMAT || err == -EINVAL
	                ? "; is it an eBPF object? clang -g -O2 -target bpf -c makes one"
	                : "");
fail:
	tw_bpf_object_close(o);
	return NULL;
}

void tw_bpf_object_close(struct tw_bpf_object *o)
{
	if (!o)
		return;
	bpf_object__close(o->object);
	free(o->log);
	free(o);
}

const void *tw_bpf_object_btf(const struct tw_bpf_object *o, uint32_t *size)
{
	struct btf *btf = bpf_object__btf(o->object);

	*size = 0;
	return btf ? btf__raw_data(btf, size) : NULL;
}

static struct bpf_map *map_at(const struct tw_bpf_object *o, uint32_t index)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, o->object)
	{
		if (!index--)
			return map;
	}
	return NULL;
}

static struct bpf_program *program_at(const struct tw_bpf_object *o, uint32_t index)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, o->object)
	{
		if (!index--)
			return program;
	}
	return NULL;
}

int tw_bpf_object_map(const struct tw_bpf_object *o, uint32_t index, struct tw_bpf_object_map *info)
{
	struct bpf_map *map = map_at(o, index);
	size_t size = 0;

	memset(info, 0, sizeof(*info));
	if (!map)
		return 0;
	snprintf(info->name, sizeof(info->name), "%s", bpf_map__name(map));
	info->kind = bpf_map__type(map);
	info->key_size = bpf_map__key_size(map);
	info->value_size = bpf_map__value_size(map);
	info->entries = bpf_map__max_entries(map);
	info->key_type = bpf_map__btf_key_type_id(map);
	info->value_type = bpf_map__btf_value_type_id(map);
	info->fd = bpf_map__fd(map);
	info->internal = bpf_map__is_internal(map);
	if (info->internal) {
		info->data = (void *)bpf_map__initial_value(map, &size);
		info->data_size = size;
		/* The section's name, which the map's, cut to 15 bytes, may not hold. */
		snprintf(info->section, sizeof(info->section), "%s",
		         strchr(bpf_map__name(map), '.') ?: "");
	}
	return 1;
}

int tw_bpf_object_program(const struct tw_bpf_object *o, uint32_t index,
                          struct tw_bpf_object_program *info)
{
	struct bpf_program *program = program_at(o, index);

	memset(info, 0, sizeof(*info));
	if (!program)
		return 0;
	snprintf(info->name, sizeof(info->name), "%s", bpf_program__name(program));
	snprintf(info->section, sizeof(info->section), "%s", bpf_program__section_name(program));
	info->type = bpf_program__type(program);
	info->attach_type = bpf_program__expected_attach_type(program);
	info->count = bpf_program__insn_cnt(program);
	info->fd = bpf_program__fd(program);
	return 1;
}

int tw_bpf_object_set_type(struct tw_bpf_object *o, uint32_t program, uint32_t type,
                           uint32_t attach_type)
{
	struct bpf_program *p = program_at(o, program);
	int rc = p ? bpf_program__set_type(p, type) : -ENOENT;

	if (!rc)
		rc = bpf_program__set_expected_attach_type(p, attach_type);
	return rc < 0 ? tw_fail(-rc, "the type of program %u cannot be set: %s", program,
	                        strerror(-rc))
	              : 0;
}

int tw_bpf_object_skip(struct tw_bpf_object *o, uint32_t program)
{
	struct bpf_program *p = program_at(o, program);
	int rc = p ? bpf_program__set_autoload(p, false) : -ENOENT;

	return rc < 0 ? tw_fail(-rc, "program %u cannot be left out: %s", program, strerror(-rc))
	              : 0;
}

int tw_bpf_object_reuse(struct tw_bpf_object *o, uint32_t map, int fd)
{
	struct bpf_map *m = map_at(o, map);
	int rc = m ? bpf_map__reuse_fd(m, fd) : -ENOENT;

	return rc < 0 ? tw_fail(-rc, "map %u cannot be given: %s", map, strerror(-rc)) : 0;
}

int tw_bpf_object_resize(struct tw_bpf_object *o, uint32_t map, uint32_t entries)
{
	struct bpf_map *m = map_at(o, map);
	int rc = m ? bpf_map__set_max_entries(m, entries) : -ENOENT;

	return rc < 0 ? tw_fail(-rc, "map %u cannot have %u entries: %s", map, entries,
	                        strerror(-rc))
	              : 0;
}

int tw_bpf_object_load(struct tw_bpf_object *o)
{
	int rc = bpf_object__load(o->object);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses it: %s", strerror(-rc)) : 0;
}

const char *tw_bpf_object_log(const struct tw_bpf_object *o)
{
	return o->log;
}

int tw_bpf_dup(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return copy >= 0 ? copy : tw_fail(errno, "descriptor %d: %s", fd, strerror(errno));
}
