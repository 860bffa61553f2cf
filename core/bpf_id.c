/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_id.c - BPF objects by their ids, which the kernel gives to CAP_SYS_ADMIN only: an engine that
 * has dropped it asks its helper process.
 *
 * The functions have the names of libbpf's, and being the program's own they stand before those:
 * libxdp, which the AF_XDP driver brings, finds its program and map by id too.
 */
#include "bpf.h"
#include "abi.h"
#include "helper.h"

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>

/* What an unprivileged caller may ask for by number. */
static bool is_known(uint32_t command)
{
	return command == BPF_PROG_GET_FD_BY_ID || command == BPF_MAP_GET_FD_BY_ID ||
	       command == BPF_BTF_GET_FD_BY_ID || command == BPF_LINK_GET_FD_BY_ID;
}

int tw_bpf_id_open(uint32_t command, uint32_t id)
{
	union bpf_attr attr = { .prog_id = id };
	long fd;

	if (!is_known(command))
		return -ENOSYS;
	fd = syscall(SYS_bpf, command, &attr, offsetof(union bpf_attr, open_flags) + 4);
	return fd < 0 ? -errno : (int)fd;
}

int tw_bpf_id_next_link(uint32_t id)
{
	union bpf_attr attr = { .start_id = id };

	if (syscall(SYS_bpf, BPF_LINK_GET_NEXT_ID, &attr, offsetof(union bpf_attr, open_flags)) < 0)
		return -errno;
	return (int)attr.next_id;
}

static int by_id(uint32_t command, uint32_t id)
{
	int fd = tw_bpf_id_open(command, id);

	if (fd == -EPERM && tw_privileges_dropped())
		fd = tw_helper_bpf_by_id(command, id);
	if (fd < 0)
		errno = -fd;
	return fd;
}

int bpf_prog_get_fd_by_id(__u32 id)
{
	return by_id(BPF_PROG_GET_FD_BY_ID, id);
}

int bpf_map_get_fd_by_id(__u32 id)
{
	return by_id(BPF_MAP_GET_FD_BY_ID, id);
}

int bpf_btf_get_fd_by_id(__u32 id)
{
	return by_id(BPF_BTF_GET_FD_BY_ID, id);
}

int bpf_link_get_fd_by_id(__u32 id)
{
	return by_id(BPF_LINK_GET_FD_BY_ID, id);
}

int bpf_link_get_next_id(__u32 start, __u32 *next)
{
	int id = tw_bpf_id_next_link(start);

	if (id == -EPERM && tw_privileges_dropped())
		id = tw_helper_next_link(start);
	if (id < 0) {
		errno = -id;
		return id;
	}
	*next = id;
	return 0;
}
