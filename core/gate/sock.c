/* SPDX-License-Identifier: BSD-3-Clause */
/* sock.c - plain sockets. */
#include "gate/sock.h"
#include "error.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == TW_UNIX_LEN, "unix(7)");

socklen_t sock_address(const struct tw_endpoint_address *address, struct sockaddr_storage *to)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;
	struct sockaddr_in *four = (struct sockaddr_in *)to;
	struct sockaddr_un *local = (struct sockaddr_un *)to;

	memset(to, 0, sizeof(*to));
	if (address->family == TW_ADDRESS_UNIX) {
		local->sun_family = AF_UNIX;
		memcpy(local->sun_path, address->path, TW_UNIX_LEN - 1);
		return sizeof(*local);
	}
	if (address->family == 4) {
		four->sin_family = AF_INET;
		four->sin_port = htons(address->port);
		memcpy(&four->sin_addr, address->bytes, 4);
		return sizeof(*four);
	}
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(address->port);
	six->sin6_scope_id = address->scope;
	memcpy(&six->sin6_addr, address->bytes, 16);
	return sizeof(*six);
}

/* What a file's mode or a label refuses is no shortage of ours, as it is with addresses. */
static int refused(const struct tw_endpoint_address *address, int err)
{
	bool local = address->family == TW_ADDRESS_UNIX;

	if (err == EAGAIN && local)
		return tw_fail(err, "its queue of connections is full");
	return tw_fail(local && (err == EACCES || err == EPERM) ? ECONNREFUSED : err, "%s",
	               strerror(err));
}

int sock_connect(const struct tw_endpoint_address *address, int type, unsigned asks, int *fd)
{
	struct sockaddr_storage to;
	socklen_t len = sock_address(address, &to);
	int one = 1, err;

	*fd = -1;
	if (to.ss_family == AF_UNIX && type != SOCK_STREAM)
		return tw_fail(EPROTOTYPE, "no datagrams go to a socket in the file system");
	*fd = socket(to.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return tw_fail(errno, "no socket: %s", strerror(errno));
	if (type == SOCK_STREAM && to.ss_family != AF_UNIX)
		setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	do {
		if (!connect(*fd, (struct sockaddr *)&to, len))
			return 0;
	} while (--asks && errno == EINPROGRESS);
	if (errno == EINPROGRESS || errno == EALREADY)
		return -EINPROGRESS;
	err = errno;
	close(*fd);
	*fd = -1;
	return refused(address, err);
}

static ssize_t result(ssize_t n)
{
	return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

ssize_t sock_recv(struct gate *gate, int fd, void *to, size_t size)
{
	gate_count(gate, GATE_SYSCALLS, 1);
	return result(syscall(SYS_recvfrom, fd, to, size, MSG_DONTWAIT, NULL, NULL));
}

ssize_t sock_send(struct gate *gate, int fd, const struct iovec *iov, unsigned n)
{
	const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	struct msghdr msg;

	gate_count(gate, GATE_SYSCALLS, 1);
	if (n == 1) /* cheaper for the kernel */
		return result(syscall(SYS_sendto, fd, iov->iov_base, iov->iov_len, flags, NULL, 0));
	msg = (struct msghdr){ .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	return result(syscall(SYS_sendmsg, fd, &msg, flags));
}

static ssize_t plain_read(struct gate *gate, struct sock *sock, void *to, size_t size)
{
	return sock_recv(gate, sock->source.fd, to, size);
}

static ssize_t plain_write(struct gate *gate, struct sock *sock, const struct iovec *iov, int n)
{
	return sock_send(gate, sock->source.fd, iov, (unsigned)n);
}

static void plain_shut(struct gate *gate, struct sock *sock)
{
	gate_count(gate, GATE_SYSCALLS, 1);
	shutdown(sock->source.fd, SHUT_WR);
}

static bool plain_pending(const struct sock *sock)
{
	(void)sock;
	return false;
}

const struct sock_ops sock_plain = {
	.name = "plain",
	.read = plain_read,
	.write = plain_write,
	.shut = plain_shut,
	.pending = plain_pending,
};
