/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_program.c - BTF and programs: load, information, test runs. */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define SAME(ours, kernels) _Static_assert((int)(ours) == (int)(kernels), #kernels)

SAME(TW_BPF_SOCKET_FILTER, BPF_PROG_TYPE_SOCKET_FILTER);
SAME(TW_BPF_SCHED_CLS, BPF_PROG_TYPE_SCHED_CLS);
SAME(TW_BPF_XDP, BPF_PROG_TYPE_XDP);
SAME(TW_BPF_CGROUP_SKB, BPF_PROG_TYPE_CGROUP_SKB);
SAME(TW_BPF_LWT_IN, BPF_PROG_TYPE_LWT_IN);
SAME(TW_BPF_LWT_OUT, BPF_PROG_TYPE_LWT_OUT);
SAME(TW_BPF_LWT_XMIT, BPF_PROG_TYPE_LWT_XMIT);
SAME(TW_BPF_SOCK_OPS, BPF_PROG_TYPE_SOCK_OPS);
SAME(TW_BPF_SK_SKB, BPF_PROG_TYPE_SK_SKB);
SAME(TW_BPF_SK_MSG, BPF_PROG_TYPE_SK_MSG);
SAME(TW_BPF_SK_REUSEPORT, BPF_PROG_TYPE_SK_REUSEPORT);
SAME(TW_BPF_FLOW_DISSECTOR, BPF_PROG_TYPE_FLOW_DISSECTOR);
SAME(TW_BPF_SK_LOOKUP, BPF_PROG_TYPE_SK_LOOKUP);
SAME(TW_BPF_AT_CGROUP_INGRESS, BPF_CGROUP_INET_INGRESS);
SAME(TW_BPF_AT_CGROUP_EGRESS, BPF_CGROUP_INET_EGRESS);
SAME(TW_BPF_AT_STREAM_PARSER, BPF_SK_SKB_STREAM_PARSER);
SAME(TW_BPF_AT_STREAM_VERDICT, BPF_SK_SKB_STREAM_VERDICT);
SAME(TW_BPF_AT_SK_MSG_VERDICT, BPF_SK_MSG_VERDICT);
SAME(TW_BPF_AT_XDP_DEVMAP, BPF_XDP_DEVMAP);
SAME(TW_BPF_AT_XDP_CPUMAP, BPF_XDP_CPUMAP);
SAME(TW_BPF_AT_SK_LOOKUP, BPF_SK_LOOKUP);
SAME(TW_BPF_AT_XDP, BPF_XDP);
SAME(TW_BPF_AT_SK_SKB_VERDICT, BPF_SK_SKB_VERDICT);
SAME(TW_BPF_AT_REUSEPORT_SELECT, BPF_SK_REUSEPORT_SELECT);
SAME(TW_BPF_AT_REUSEPORT_MIGRATE, BPF_SK_REUSEPORT_SELECT_OR_MIGRATE);

#define MAPS_MAX 64 /* tw_bpf_program_info.map_ids */

#define NAME(name) #name
static const char *const helper_names[] = { __BPF_FUNC_MAPPER(NAME) };

const char *tw_bpf_helper_name(uint32_t id)
{
	return id < sizeof(helper_names) / sizeof(helper_names[0]) ? helper_names[id] : NULL;
}

int tw_bpf_btf_load(const void *data, uint32_t size, char *log, uint32_t log_size)
{
	LIBBPF_OPTS(bpf_btf_load_opts, opts);
	int fd;

	tw_bpf_prepare();
	fd = bpf_btf_load(data, size, &opts);
	if (fd >= 0)
		return fd;
	if (log && log_size) {
		opts.log_buf = log;
		opts.log_size = log_size;
		opts.log_level = 1;
		log[0] = '\0';
		fd = bpf_btf_load(data, size, &opts);
		if (fd >= 0)
			return fd;
	}
	if (fd == -EPERM)
		return tw_fail(EPERM,
		               "the kernel does not let this process load BTF: run as root, or "
		               "with CAP_BPF and CAP_NET_ADMIN");
	return tw_fail(-fd, "the kernel refuses the BTF type information: %s", strerror(-fd));
}

int tw_bpf_btf_read(uint32_t id, void *data, uint32_t room)
{
	struct bpf_btf_info info = { .btf = (uintptr_t)data, .btf_size = room };
	__u32 size = sizeof(info);
	int fd = bpf_btf_get_fd_by_id(id), rc;

	if (fd < 0)
		return tw_fail(-fd, "BTF %u: %s", id, strerror(-fd));
	rc = bpf_obj_get_info_by_fd(fd, &info, &size);
	tw_bpf_close(fd);
	return rc < 0 ? tw_fail(-rc, "BTF %u: %s", id, strerror(-rc)) : (int)info.btf_size;
}

int tw_bpf_program_load(const struct tw_bpf_program_spec *spec)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = spec->attach_type,
	            .prog_btf_fd = spec->btf > 0 ? spec->btf : 0, .prog_flags = spec->flags,
	            .prog_ifindex = spec->ifindex, .func_info = spec->functions,
	            .func_info_cnt = spec->functions_count,
	            .func_info_rec_size = sizeof(struct bpf_func_info), .line_info = spec->lines,
	            .line_info_cnt = spec->lines_count,
	            .line_info_rec_size = sizeof(struct bpf_line_info),
	            .log_level = spec->log_level);
	int fd;

	tw_bpf_prepare();
	if (spec->log_level) {
		opts.log_buf = spec->log;
		opts.log_size = spec->log_size;
		spec->log[0] = '\0';
	}
	fd = bpf_prog_load(spec->type, spec->name, spec->license, spec->insns, spec->count, &opts);
	if (fd >= 0)
		return fd;
	if (fd == -EPERM)
		return tw_fail(EPERM,
		               "the kernel does not let this process load programs: run as root, "
		               "or with CAP_BPF and CAP_NET_ADMIN");
	return tw_fail(-fd, "the kernel refuses program %s of %u instructions: %s", spec->name,
	               spec->count, strerror(-fd));
}

int tw_bpf_program_by_id(uint32_t id)
{
	int fd = bpf_prog_get_fd_by_id(id);

	return fd >= 0 ? fd : tw_fail(-fd, "program %u: %s", id, strerror(-fd));
}

int tw_bpf_program_get_info(int program, struct tw_bpf_program_info *info)
{
	struct bpf_prog_info got = { 0 };
	__u32 size = sizeof(got);
	int rc;

	memset(info, 0, sizeof(*info));
	_Static_assert(sizeof(info->map_ids) / sizeof(info->map_ids[0]) == MAPS_MAX, "map_ids");
	got.nr_map_ids = MAPS_MAX;
	got.map_ids = (uintptr_t)info->map_ids;
	rc = bpf_obj_get_info_by_fd(program, &got, &size);
	if (rc < 0)
		return tw_fail(-rc, "descriptor %d is not a program's: %s", program, strerror(-rc));
	snprintf(info->name, sizeof(info->name), "%s", got.name);
	memcpy(info->tag, got.tag, sizeof(info->tag));
	info->type = got.type;
	info->id = got.id;
	info->btf_id = got.btf_id;
	info->xlated_size = got.xlated_prog_len;
	info->jited_size = got.jited_prog_len;
	info->verified_insns = got.verified_insns;
	info->maps = got.nr_map_ids < MAPS_MAX ? got.nr_map_ids : MAPS_MAX;
	info->run_ns = got.run_time_ns;
	info->run_count = got.run_cnt;
	return 0;
}

int tw_bpf_program_run(int program, struct tw_bpf_run *run)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = run->data_in, .data_out = run->data_out,
	            .data_size_in = run->data_in_size, .data_size_out = run->data_out_size,
	            .ctx_in = run->ctx_in, .ctx_out = run->ctx_out, .ctx_size_in = run->ctx_in_size,
	            .ctx_size_out = run->ctx_out_size, .repeat = run->repeat_count,
	            .flags = run->flags);
	int rc = bpf_prog_test_run_opts(program, &opts);

	if (rc < 0)
		return tw_fail(-rc, "test run of the program at descriptor %d on %u bytes: %s",
		               program, run->data_in_size, strerror(-rc));
	run->data_out_size = opts.data_size_out;
	run->ctx_out_size = opts.ctx_size_out;
	run->retval = opts.retval;
	run->duration = opts.duration;
	return 0;
}
