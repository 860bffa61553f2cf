/* SPDX-License-Identifier: BSD-3-Clause */
/* bpf_socket.c - hooks without links: programs of a socket, of a reuseport group, of a socket map.
 */
#include "bpf.h"
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <bpf/bpf.h>

int tw_bpf_socket_attach(int socket, int program, bool reuseport)
{
	int option = reuseport ? SO_ATTACH_REUSEPORT_EBPF : SO_ATTACH_BPF;

	if (setsockopt(socket, SOL_SOCKET, option, &program, sizeof(program)) < 0)
		return tw_fail(errno, "socket %d does not take the program: %s", socket,
		               strerror(errno));
	return 0;
}

int tw_bpf_socket_detach(int socket, bool reuseport)
{
	int option = reuseport ? SO_DETACH_REUSEPORT_BPF : SO_DETACH_BPF, zero = 0;

	if (setsockopt(socket, SOL_SOCKET, option, &zero, sizeof(zero)) < 0)
		return tw_fail(errno, "socket %d keeps its program: %s", socket, strerror(errno));
	return 0;
}

int tw_bpf_socket_taken(int socket)
{
	socklen_t none = 0;

	/* The option gives classic filters only; for the others it is refused, which tells as well.
	 */
	if (getsockopt(socket, SOL_SOCKET, SO_GET_FILTER, NULL, &none) == 0)
		return none > 0;
	return errno == EACCES ? 1
	                       : tw_fail(errno, "descriptor %d is not a socket's: %s", socket,
	                                 strerror(errno));
}

int tw_bpf_target_attach(int program, int target, uint32_t attach_type)
{
	int rc = bpf_prog_attach(program, target, attach_type, 0);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses the attachment: %s", strerror(-rc)) : 0;
}

int tw_bpf_target_detach(int program, int target, uint32_t attach_type)
{
	int rc = bpf_prog_detach2(program, target, attach_type);

	return rc < 0 ? tw_fail(-rc, "the kernel refuses to detach: %s", strerror(-rc)) : 0;
}

int tw_bpf_target_query(int target, uint32_t attach_type, uint32_t *program)
{
	__u32 count = 1, flags = 0;
	int rc = bpf_prog_query(target, attach_type, 0, &flags, program, &count);

	if (rc < 0)
		return tw_fail(-rc, "the kernel does not tell what is attached: %s", strerror(-rc));
	return count;
}
